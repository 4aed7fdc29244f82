"""Export to the eccv16 layout: `python -m engine.export_h5 --features DIR --annotations FILE… --out FILE.h5`.

The exported "video" of each record is its frames at 1 fps: frame i is second i, and every frame is a pick.

Axes: R annotators, T frames at 1 fps, S shots, D feature width.
"""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from data.annotations import LABELS_OF_TASK, VideoRecord
from data.features import open_features, read_width, require_length
from data.registry import add_dataset_option, load_annotations
from data.tvsum_summe import normalize_name
from engine.scoring import build_labels
from metrics.segmentation import segment_shots
from utils.command_line import OneLineParser
from utils.files import atomic_write, make_folder, remove_leftovers
from utils.log import progress_bar, run_main


def export_eccv16(
    features: str | os.PathLike,
    annotations: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    splits: str | os.PathLike | None = None,
    dataset: str = "videoxum",
) -> None:
    """Write features, annotations and shots to one file that `data.eccv16.read_eccv16` reads; one video in memory.

    Args:
        features: folder of `{video_id}.npz`, or packed by `data.pack`.
        annotations: annotation files; their videos become `video_1`, `video_2`, …, file by file, in the order of
            `load_annotations`.
        out: the .h5 file.
        splits: JSON file for one split: the videos of annotation files whose name begins with `train` are its
            `train_keys`, all others its `test_keys`. None writes none.
        dataset: format of the annotations, a key of `data.registry.DATASETS`.
    Raises:
        FileNotFoundError, ValueError: invalid annotations or features, a video without key-frames, with another number
            of features than labels, or in two files; `splits` without training or without test videos.
    """
    import h5py

    records_of_file = [load_annotations(path, dataset=dataset, needs=LABELS_OF_TASK["v2v"]) for path in annotations]
    records = [record for file_records in records_of_file for record in file_records]
    _require_unique_ids(annotations, records_of_file)
    split = None if splits is None else _make_split(annotations, records_of_file)
    width = read_width(features)
    source = open_features(features, [record.video_id for record in records], "features", width, "frame features")
    if splits is not None and pathlib.Path(splits).resolve() == pathlib.Path(out).resolve():
        raise ValueError(f"{out}: splits: found the file of --out, expected another")
    if pathlib.Path(out).is_dir():
        raise ValueError(f"{out}: out: found a folder, expected a file")
    remove_leftovers(make_folder(pathlib.Path(out).parent, "out"))
    if splits is not None:
        make_folder(pathlib.Path(splits).parent, "splits")
    with (
        atomic_write(out, "wb", durable=False) as temporary,
        h5py.File(temporary.name, "w") as file,
        progress_bar(records, True, desc="export", unit="video") as bar,
    ):
        for number, record in enumerate(bar, 1):
            frames = source.load(record.video_id)  # (T, D)
            require_length(len(frames), record, source.path(record.video_id))
            group = file.create_group(f"video_{number}")
            for field, value in build_eccv16_fields(record, frames).items():
                group[field] = value
    if splits is not None:
        with atomic_write(splits) as text:
            json.dump([split], text, indent=2)
    print(f"{out}: {len(records)} videos, features of width {width}")


def build_eccv16_fields(record: VideoRecord, frames: np.ndarray) -> dict[str, np.ndarray | int | str]:
    """Build the arrays of one video.

    Args:
        record: annotations, with labels of T frames.
        frames: (T, D) float32 features.
    Returns:
        features: (T, D) float32.
        gtscore: (T,) float32, the mean over the annotators of key-frames or importance.
        user_summary: (R, T) float32 in {0, 1}, key-frames; those of importance are selected as for F1.
        change_points: (S, 2) int64, first and last frame of each shot, by kernel temporal segmentation.
        n_frame_per_seg: (S,) int64.
        n_frames, n_steps: T.
        picks: (T,) int64, 0 to T - 1.
        video_name: the video's id.
    Source: as of `data.eccv16.read_eccv16`.
    """
    labels, T = build_labels(record), len(frames)
    shots = np.array(segment_shots(frames))  # (S, 2), first and last + 1
    return dict(
        features=frames,
        gtscore=labels.importance.mean(0).astype(np.float32),
        user_summary=labels.keyframes.astype(np.float32),
        change_points=shots - [0, 1],
        n_frame_per_seg=shots[:, 1] - shots[:, 0],
        n_frames=T,
        n_steps=T,
        picks=np.arange(T),
        video_name=record.video_id,
    )


def _require_unique_ids(
    annotations: Sequence[str | os.PathLike], records_of_file: Sequence[Sequence[VideoRecord]]
) -> None:
    """Raise a ValueError if two videos have the same name for `data.eccv16.read_eccv16`."""
    path_of: dict[str, str | os.PathLike] = {}
    for path, records in zip(annotations, records_of_file):
        for record in records:
            name = normalize_name(record.video_id)
            if name in path_of:
                raise ValueError(f"{path}: video {record.video_id}: found in {path_of[name]} too, expected it once")
            path_of[name] = path


def _make_split(
    annotations: Sequence[str | os.PathLike], records_of_file: Sequence[Sequence[VideoRecord]]
) -> dict[str, list[str]]:
    """Assign the key of each video to training or test."""
    names = [pathlib.Path(path).name for path in annotations]
    name_of_video = [name for name, records in zip(names, records_of_file) for _ in records]
    keys: dict[str, list[str]] = dict(train_keys=[], test_keys=[])
    for number, name in enumerate(name_of_video, 1):
        keys["train_keys" if name.startswith("train") else "test_keys"].append(f"video_{number}")
    if not all(keys.values()):
        raise ValueError(f"annotations: found {', '.join(names)}, expected train… and another file for --splits")
    return keys


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m engine.export_h5", description=__doc__.splitlines()[0])
    parser.add_argument("--features", required=True, help="folder of {video_id}.npz, or of packed features")
    parser.add_argument("--annotations", required=True, nargs="+", help="annotation files; each video needs key-frames")
    parser.add_argument("--out", required=True, help=".h5 file to write")
    parser.add_argument(
        "--splits", help="JSON file to write: videos of annotation files named train… are train_keys, others test_keys"
    )
    add_dataset_option(parser)
    args = parser.parse_args(argv)
    export_eccv16(args.features, args.annotations, args.out, args.splits, args.dataset)


if __name__ == "__main__":
    run_main(main)
