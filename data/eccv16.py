"""`eccv16_dataset_{tvsum,summe}_google_pool5.h5`, TVSum and SumMe as most papers read them -> `BenchmarkVideo`s.

Axes: R annotators, n frames of the video file, P picks, D width.
"""

import os
from typing import TYPE_CHECKING

import numpy as np

from data import arrays
from data.tvsum_summe import BenchmarkVideo, check_selections, require_unique_names

if TYPE_CHECKING:
    import h5py

TOLERANCE = 30  # frames by which the end of the last shot may differ from that of the video
REQUIRED_FIELDS = ("n_frames", "picks", "user_summary")
OPTIONAL_FIELDS = ("change_points", "n_frame_per_seg", "n_steps", "gtscore", "features")


def read_eccv16(path: str | os.PathLike) -> list[BenchmarkVideo]:
    """Read an `eccv16_dataset_{tvsum,summe}_google_pool5.h5`.

    Args:
        path: the file; each video needs `n_frames`, `picks` and `user_summary`; `change_points`, `n_frame_per_seg`,
            `n_steps`, `gtscore`, `features` and `video_name` are optional.
    Returns:
        Videos, video_1 first; named by `video_name`, with the key as alias, or by the key.
    Raises:
        FileNotFoundError, ValueError: as `read_tvsum_mat`.
    Source: Zhang et al., Video Summarization with Long Short-Term Memory, ECCV 2016; the layout as in the README of
        Zhou et al., Deep Reinforcement Learning for Unsupervised Video Summarization (DR-DSN), AAAI 2018.
    """
    import h5py

    with arrays.one_line_read_errors(path, "an eccv16 .h5 file"), h5py.File(path, "r") as file:
        keys = sorted(file, key=lambda key: (len(key), key))
        arrays.require(bool(keys), f"{path}: annotations", "no video", "at least one")
        return require_unique_names([_read_group(file.get(key), key, path) for key in keys], path)


def _read_group(group: "h5py.Group", key: str, path: str | os.PathLike) -> BenchmarkVideo:
    import h5py

    context = f"{path}: video {ascii(key)[1:-1]}"
    arrays.require(isinstance(group, h5py.Group), context, "no group", "a group of arrays")
    present = [*REQUIRED_FIELDS, *(field for field in OPTIONAL_FIELDS if field in group)]
    fields = {field: arrays.read_dataset(group, field, context) for field in present}
    n = arrays.check_count(fields["n_frames"], f"{context}: n_frames")
    picks = arrays.check_numbers(fields["picks"], f"{context}: picks", (None,))  # (P,)
    in_range = picks[0] >= 0 and picks[-1] < n
    ascending = (np.diff(picks.astype(np.int64)) > 0).all() and (picks % 1 == 0).all()
    arrays.require(
        in_range and ascending, f"{context}: picks", f"{picks[0]} to {picks[-1]}", f"ascending frames of {n}"
    )
    if "n_steps" in fields:
        steps = arrays.check_count(fields["n_steps"], f"{context}: n_steps")
        arrays.require(steps == len(picks), f"{context}: n_steps", steps, f"{len(picks)} as in picks")
    gtscore = features = change_points = None
    if "gtscore" in fields:
        gtscore = arrays.check_floats(fields["gtscore"], f"{context}: gtscore", (len(picks),))
    if "features" in fields:
        features = arrays.check_floats(fields["features"], f"{context}: features", (len(picks), None))
    if "change_points" in fields:
        change_points = _read_shots(fields["change_points"], fields.get("n_frame_per_seg"), n, context)
    names = [arrays.require_name(key, context)]
    if "video_name" in group:
        names.insert(0, _read_text(group, "video_name", context))
    return BenchmarkVideo(
        names[0],
        n,
        aliases=tuple(names[1:]),
        user_summary=check_selections(fields["user_summary"], f"{context}: user_summary", n),
        change_points=change_points,
        picks=picks.astype(np.int64),
        gtscore=gtscore,
        features=features,
    )


def _read_text(group: "h5py.Group", field: str, context: str) -> str:
    """Read a dataset of one name."""
    value = arrays.read_dataset(group, field, context)
    is_text = value.size == 1 and isinstance(value.item(), bytes)
    arrays.require(is_text, f"{context}: {field}", f"{value.dtype} {value.shape}", "one text")
    return arrays.require_name(value.item().decode(), f"{context}: {field}")


def _read_shots(rows: np.ndarray, lengths: np.ndarray | None, n: int, context: str) -> tuple[tuple[int, int], ...]:
    """Convert rows (first, last frame) to (first, last + 1), cut at the video's end as DR-DSN's evaluation does."""
    first, stop = arrays.check_numbers(rows, f"{context}: change_points", (None, 2)).T.astype(np.int64) + [[0], [1]]
    if lengths is not None:
        lengths = arrays.check_numbers(lengths, f"{context}: n_frame_per_seg", first.shape)
        same = (np.abs(lengths - (stop - first)) <= 1).all()  # unused, but checks the meaning of the rows
        arrays.require(same, f"{context}: n_frame_per_seg", "other lengths", "those of change_points")
    joined = first[0] == 0 and (first[1:] == stop[:-1]).all() and (first < np.minimum(stop, n)).all()
    arrays.require(
        joined and abs(stop[-1] - n) <= TOLERANCE,
        f"{context}: change_points",
        f"shots from {first[0]} to {stop[-1]}",
        f"all of {n} frames in a row",
    )
    return tuple((int(a), min(int(b), n)) for a, b in zip(first, stop))
