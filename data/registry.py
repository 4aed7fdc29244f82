"""Datasets by name, and their annotation files -> validated `VideoRecord`s, ordered by duration.

To add a dataset, write its reader in a module of this package and add its line to `DATASETS`.
"""

import argparse
import contextlib
import gc
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from data.annotations import LABEL_KINDS, DatasetReader, LabelKind, MissingLabels, Subset, VideoRecord, reindex
from data.instruct_v2xum import INSTRUCT_V2XUM
from data.own_data import OWN_DATA
from data.videoxum import VIDEOXUM


def annotation_path(
    ann_root: str | os.PathLike, split: str, dataset: str = "videoxum", ann_files: Mapping[Any, str] | None = None
) -> pathlib.Path:
    """Path of a split's annotation file.

    Args:
        ann_root: folder of annotations.
        split: name of the split.
        dataset: a key of `DATASETS`.
        ann_files: split -> file, relative to `ann_root` or absolute; a split that it does not name has the dataset's
            own file name.
    Raises:
        ValueError: the dataset has no file names of its own.
    """
    if ann_files and split in ann_files:
        return pathlib.Path(ann_root, ann_files[split])
    paths = [pathlib.Path(ann_root, name.format(split=split)) for name in DATASETS[dataset].file_names]
    if not paths:
        raise ValueError(
            f"ann_files: found no file of the split {split}, expected one, because {dataset} has no fixed file names: "
            f"--ann_files {split}=FILE, relative to ann_root"
        )
    return next((path for path in paths if path.is_file()), paths[0])


@contextlib.contextmanager
def _paused_gc() -> Iterator[None]:
    """Disable garbage collection within the block: scanning the growing list of records doubles the loading time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_paused_gc()
def load_annotations(
    path: str | os.PathLike,
    *,
    dataset: str = "videoxum",
    needs: Collection[LabelKind] = LABEL_KINDS,
    subset: Subset | None = None,
) -> list[VideoRecord]:
    """Read an annotation file.

    Args:
        path: file in the format of the dataset.
        dataset: a key of `DATASETS`.
        needs: labels that every record must have.
        subset: keep these videos only; None keeps all.
    Returns:
        records by duration, ascending; records of equal duration keep the file's order.
    Raises:
        FileNotFoundError: no such file.
        MissingLabels: a video lacks labels that are needed.
        ValueError: the file is not in the format, a field is bad or missing, or no video is left; the message names
            file, video and field.
    """
    reader = DATASETS[dataset]
    records: list[VideoRecord] = []
    for record in reader.read(path):
        for kind in needs:
            if not record.has_labels(kind):
                raise MissingLabels(
                    f"{path}: video {record.video_id}: {reader.missing_labels.get(kind, f'{kind}: missing')}"
                )
        records.append(record)
    ordered = reindex(sorted(records, key=lambda record: record.duration))
    return ordered if subset is None else subset.select(ordered, path)


def add_dataset_option(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset`, the format of annotation files."""
    parser.add_argument(
        "--dataset",
        choices=tuple(DATASETS),
        default="videoxum",
        metavar="NAME",
        help=f"format of the annotations: {', '.join(DATASETS)} (default: videoxum)",
    )


DATASETS: dict[str, DatasetReader] = {
    "videoxum": VIDEOXUM,
    "instruct_v2xum": INSTRUCT_V2XUM,
    "own": OWN_DATA,
}
