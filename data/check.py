"""Check that a dataset is complete and readable: `python -m data.check ROOT [--dataset NAME] [--list FILE]`.

    ROOT/anno/{train,val,test}_videoxum.json    or the files of another dataset
    ROOT/feat/{blip,vt_clipscore}           {video_id}.npz, or packed by data.pack
    ROOT/feat/{blip,vt_clipscore}_packed    used if the folder above does not exist

Every feature file is read as in training. The exit status is 0 if nothing is missing or broken, else 1.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from data.annotations import LABEL_KINDS, LABELS_OF_TASK, VideoRecord
from data.features import NpzFeatures, PackedFeatures, is_packed, require_finite
from data.registry import add_dataset_option, annotation_path, load_annotations
from data.videoxum import NUM_ANNOTATORS, NUM_VIDEOS
from utils.command_line import OneLineParser, StoreMapping
from utils.files import atomic_write
from utils.log import progress_bar, run_main
from utils.text import printable

FEATURES = dict(blip_feat=("blip", "features"), vt_clip_feat=("vt_clipscore", "vision"))  # folder in feat/, array
PARTS = ("anno", *FEATURES)
ERRORS = {
    "annotations": "annotation files that are missing or invalid",
    "number": "splits whose number of videos is not the published one",
    "missing": "videos without features",
    "broken": "feature files that cannot be used",
}
# Runs do not fail because of these.
WARNINGS = {
    "labels": "splits with videos that lack the labels of some tasks",
    "cut": "VT-CLIP features whose length is not that of the labels: these videos are cut to the shorter",
    "extra": "feature files of videos that are not annotated",
    "twice": "videos in two splits",
}
MAX_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Issue:
    """An error or a warning: a key of `ERRORS` or `WARNINGS`, and one line that names the file."""

    kind: str
    text: str


class CheckReport:
    """Result of a check.

    Attributes:
        lines: one for each file or folder that was read.
        issues: errors and warnings.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.issues: list[Issue] = []

    def add(self, kind: str, text: str) -> None:
        self.issues.append(Issue(kind, printable(text)))

    @property
    def is_complete(self) -> bool:
        """Whether no issue is an error."""
        return not any(issue.kind in ERRORS for issue in self.issues)

    def show(self, file: str | os.PathLike | None = None) -> None:
        """Print the report with the first issues of each kind; write all to a file of JSON lines if one is given."""
        print("\n".join(self.lines))
        for kind, meaning in (ERRORS | WARNINGS).items():
            texts = [issue.text for issue in self.issues if issue.kind == kind]
            if texts:
                print(f"{kind}: {len(texts)} {meaning}", *texts[:MAX_SHOWN], sep="\n  ")
            if len(texts) > MAX_SHOWN:
                print(f"  and {len(texts) - MAX_SHOWN} more" + ("" if file else "; --list FILE writes all"))
        if file:
            with atomic_write(file) as writer:
                writer.writelines(json.dumps(dataclasses.asdict(issue)) + "\n" for issue in self.issues)
        print("complete" if self.is_complete else "NOT complete")


def check(
    root: str | os.PathLike,
    parts: Iterable[str] = PARTS,
    own_data: bool = False,
    dataset: str = "videoxum",
    ann_files: Mapping[str, str] | None = None,
    features: Iterable[str] = (),
) -> CheckReport:
    """Check a dataset on the disk.

    Args:
        root: its folder.
        parts: which of `PARTS` to check; the annotations are always read.
        own_data: the dataset is not VideoXum, but in its format.
        dataset: a key of `DATASETS`; others than VideoXum may have any splits, of any number of videos.
        ann_files: split -> annotation file, relative to `root/anno` or absolute: check these splits; None checks the
            splits with the dataset's file names.
        features: further folders in `root/feat`, of frame features of other encoders.
    Raises:
        FileNotFoundError: no such folder, or no annotations in it.
        ValueError: the dataset has no file names of its own, and `ann_files` is None.
    """
    root = pathlib.Path(root)
    report = CheckReport()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: dataset: no such folder")
    records = read_annotations(root, report, own_data, dataset, ann_files)
    folders = [*(FEATURES[part] for part in parts if part in FEATURES), *((name, "features") for name in features)]
    for name, field in folders:
        check_features(root, name, field, records, report)
    return report


def read_annotations(
    root: pathlib.Path,
    report: CheckReport,
    own_data: bool = False,
    dataset: str = "videoxum",
    ann_files: Mapping[str, str] | None = None,
) -> dict[str, VideoRecord]:
    """Read the annotations of all splits: video id -> record; adds lines and issues to the report."""
    records: dict[str, VideoRecord] = {}
    splits: dict[str, str] = {}
    is_videoxum = dataset == "videoxum" and not own_data
    for split in ann_files or NUM_VIDEOS:
        path = annotation_path(root / "anno", split, dataset, ann_files)
        if not (is_videoxum or ann_files or path.exists()):
            report.lines.append(f"{path}: no such file: there is no split {split}")
            continue
        try:
            loaded = load_annotations(path, dataset=dataset, needs=LABEL_KINDS if is_videoxum else ())
        except (FileNotFoundError, ValueError) as error:
            report.add("annotations", str(error))
            continue
        report.lines.append(f"{path}: {len(loaded)} videos{_describe_labels(loaded)}")
        for text in _describe_missing_labels(loaded):
            report.add("labels", f"{path}: {text}")
        if is_videoxum and len(loaded) != NUM_VIDEOS[split]:
            report.add("number", f"{path}: found {len(loaded)} videos, expected {NUM_VIDEOS[split]}")
        for record in loaded:
            if record.video_id in records:
                report.add("twice", f"{path}: video {record.video_id}: found in {splits[record.video_id]} too")
            records[record.video_id], splits[record.video_id] = record, split
    if not records and report.is_complete:
        path = annotation_path(root / "anno", "test", dataset)
        raise FileNotFoundError(f"{path}: annotations: no such file, and no other split")
    return records


def _describe_labels(records: list[VideoRecord]) -> str:
    """Numbers of annotators and references per video, if they are not VideoXum's."""
    text = ""
    annotators = {len(record.labels) for record in records if record.labels is not None}
    references = {len(record.reference_texts) for record in records}
    if annotators - {NUM_ANNOTATORS}:
        text += f", annotators per video: {_format_range(annotators)}"
    if max(references) > 1:
        text += f", references per video: {_format_range(references)}"
    return text


def _format_range(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _describe_missing_labels(records: list[VideoRecord]) -> list[str]:
    """Describe which videos lack captions or key-frames, and the tasks that need them."""
    lines = []
    for kind in LABEL_KINDS:
        missing = [record.video_id for record in records if not record.has_labels(kind)]
        tasks = " and ".join(task for task, kinds in LABELS_OF_TASK.items() if kind in kinds)
        if missing:
            name = kind.replace("keyframes", "key-frames")
            lines.append(
                f"{len(missing)} of {len(records)} videos have no {name}, such as {missing[0]}; "
                f"the tasks {tasks} need them"
            )
    return lines


def find_feature_folder(root: pathlib.Path, name: str) -> pathlib.Path:
    """Path of the features `name`: the folder of `.npz` files, or the packed one if only that exists."""
    folder, packed = root / "feat" / name, root / "feat" / f"{name}_packed"
    return packed if packed.is_dir() and not folder.is_dir() else folder


def check_features(
    root: pathlib.Path, name: str, field: str, records: dict[str, VideoRecord], report: CheckReport
) -> None:
    """Check the array `field` of the features in the folder `name`; adds lines and issues to the report."""
    folder = find_feature_folder(root, name)
    try:
        features, present = open_all(folder, field)
    except ValueError as error:  # of a packed file
        report.add("broken", str(error))
        return
    for video_id in sorted(records.keys() - present):
        report.add("missing", f"{folder}: video {video_id}: no features")
    if not any(issue.kind == "annotations" for issue in report.issues):
        for video_id in sorted(present - records.keys()):
            report.add("extra", f"{features.path(video_id)}: no video of that name is annotated")
    annotated = [record for video_id, record in records.items() if video_id in present]
    shapes = read_all(features, annotated, f"check {folder.name}", report)
    _compare(features, field, annotated, shapes, report)
    frames = sum(frames for frames, _ in shapes.values())
    report.lines.append(f"{folder}: {len(shapes)} of {len(records)} videos, {frames} frames")


def open_all(folder: pathlib.Path, field: str) -> tuple[NpzFeatures | PackedFeatures, set[str]]:
    """Open a folder of features, packed or not; returns it and the ids of its videos."""
    if is_packed(folder):
        packed = PackedFeatures(folder, field)
        return packed, set(packed.videos)
    names = (path.name for path in folder.glob("*.npz"))  # none if there is no such folder
    return NpzFeatures(folder, field), {name.removesuffix(".npz") for name in names if not name.startswith(".")}


def read_all(
    features: NpzFeatures | PackedFeatures, records: list[VideoRecord], title: str, report: CheckReport
) -> dict[str, tuple[int, int]]:
    """Read the features of all records once; returns video id -> shape, without broken files."""

    def read_shape(record: VideoRecord) -> tuple[int, int] | Exception:
        try:
            array = features.load(record.video_id)
            require_finite(array, f"{features.path(record.video_id)}: video {record.video_id}: {features.field}")
            return array.shape[0], array.shape[1]
        except (ValueError, OSError) as error:
            return error

    shapes: dict[str, tuple[int, int]] = {}
    pool = concurrent.futures.ThreadPoolExecutor()
    try:
        results = zip(records, pool.map(read_shape, records))
        with progress_bar(results, True, total=len(records), desc=title, unit="video") as bar:
            for record, result in bar:
                if isinstance(result, Exception):
                    report.add("broken", str(result))
                else:
                    shapes[record.video_id] = result
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest
    return shapes


def _compare(
    features: NpzFeatures | PackedFeatures,
    field: str,
    records: list[VideoRecord],
    shapes: dict[str, tuple[int, int]],
    report: CheckReport,
) -> None:
    """Check that features have the lengths of the labels, and equal widths."""
    widths = collections.Counter(width for _, width in shapes.values())
    most_common_width = widths.most_common(1)[0][0] if widths else 0
    for record in records:
        expected = record.num_frames
        frames, width = shapes.get(record.video_id, (expected, most_common_width))
        start = f"{features.path(record.video_id)}: video {record.video_id}: {field}:"
        if width != most_common_width:
            report.add("broken", f"{start} found width {width}, expected {most_common_width} as in most files")
        if expected is not None and frames != expected:
            kind = "cut" if field == "vision" else "broken"
            report.add(kind, f"{start} found {frames} frames, expected {expected} as in the labels")


def add_options(parser: argparse.ArgumentParser, parts: Sequence[str] = PARTS) -> None:
    """Add the options that checking and downloading have in common.

    Args:
        parser: gets the options.
        parts: values of `--what`.
    """
    parser.add_argument("--what", nargs="+", choices=parts, default=parts, help="parts to process (default: all)")
    parser.add_argument("--list", metavar="FILE", help="write all issues to a file, one JSON object a line")


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m data.check", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", help="folder of the dataset, such as dataset/ActivityNet")
    parser.add_argument(
        "--own_data",
        action="store_true",
        help="check another dataset in VideoXum's format: any splits, of any number of videos",
    )
    add_dataset_option(parser)
    parser.add_argument(
        "--ann_files",
        nargs="+",
        action=StoreMapping,
        metavar="SPLIT=FILE",
        help="annotation files, relative to ROOT/anno or absolute (default: the dataset's file names)",
    )
    add_options(parser)
    parser.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="other folders of frame features in ROOT/feat; then only these and --what",
    )
    args = parser.parse_args(argv)
    for split in args.ann_files or ():
        if split not in NUM_VIDEOS:
            raise ValueError(f"--ann_files: found {split!r}, expected one of {', '.join(NUM_VIDEOS)}")
    parts = ("anno",) if args.features and args.what is PARTS else args.what
    report = check(args.root, parts, args.own_data, args.dataset, args.ann_files, args.features)
    report.show(args.list)
    if not report.is_complete:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
