"""`eccv16_dataset_{tvsum,summe}_google_pool5.h5`, TVSum and SumMe as most papers read them -> `BenchmarkVideo`s.

Axes: R annotators, n frames of the video file, P picks, D width.
"""

import os
from typing import TYPE_CHECKING

import numpy as np

from data import arrays
from data.tvsum_summe import BenchmarkVideo, require_unique_names, selections

if TYPE_CHECKING:
    import h5py

TOLERANCE = 30  # frames that shots may miss, or have too many, at a video's end
NEEDED = ("n_frames", "picks", "user_summary")
OPTIONAL = ("change_points", "n_frame_per_seg", "n_steps", "gtscore", "features")


def read_eccv16(path: str | os.PathLike) -> list[BenchmarkVideo]:
    """Read an `eccv16_dataset_{tvsum,summe}_google_pool5.h5`.

    Args:
        path: the file; of each video `n_frames`, `picks` and `user_summary` are needed, and `change_points`,
            `n_frame_per_seg`, `n_steps`, `gtscore`, `features` and `video_name` used where they exist.
    Returns:
        videos, video_1 first; named by `video_name`, with the key as alias, or by the key.
    Raises:
        FileNotFoundError, ValueError: as `read_tvsum_mat`.
    Source: Zhang et al., Video Summarization with Long Short-Term Memory, ECCV 2016; the layout as in the README of
        Zhou et al., Deep Reinforcement Learning for Unsupervised Video Summarization (DR-DSN), AAAI 2018.
    """
    import h5py

    with arrays.one_line_errors(path, "an eccv16 .h5 file"), h5py.File(path, "r") as file:
        keys = sorted(file, key=lambda key: (len(key), key))
        arrays.require(keys, f"{path}: annotations", "no video", "at least one")
        return require_unique_names([_read_group(file.get(key), key, path) for key in keys], path)


def _read_group(group: "h5py.Group", key: str, path: str | os.PathLike) -> BenchmarkVideo:
    import h5py

    context = f"{path}: video {ascii(key)[1:-1]}"
    arrays.require(isinstance(group, h5py.Group), context, "no group", "a group of arrays")
    names = [*NEEDED, *(field for field in OPTIONAL if field in group)]
    fields = {field: arrays.read_dataset(group, field, context) for field in names}
    n = arrays.count(fields["n_frames"], f"{context}: n_frames")
    picks = arrays.numbers(fields["picks"], f"{context}: picks", (None,))  # (P,)
    in_range = picks[0] >= 0 and picks[-1] < n
    ascending = (np.diff(picks.astype(np.int64)) > 0).all() and (picks % 1 == 0).all()
    arrays.require(
        in_range and ascending, f"{context}: picks", f"{picks[0]} to {picks[-1]}", f"ascending frames of {n}"
    )
    if "n_steps" in fields:
        steps = arrays.count(fields["n_steps"], f"{context}: n_steps")
        arrays.require(steps == len(picks), f"{context}: n_steps", steps, f"{len(picks)} as in picks")
    values = dict(picks=picks.astype(np.int64))
    values["user_summary"] = selections(fields["user_summary"], f"{context}: user_summary", n)
    for field, shape in dict(gtscore=(len(picks),), features=(len(picks), None)).items():
        if field in fields:
            values[field] = arrays.floats(fields[field], f"{context}: {field}", shape)
    if "change_points" in fields:
        values["change_points"] = _shots(fields["change_points"], fields.get("n_frame_per_seg"), n, context)
    names = (arrays.require_name(key, context),)
    if "video_name" in group:
        names = (_text(group, "video_name", context), *names)
    return BenchmarkVideo(names[0], n, names[1:], **values)


def _text(group: "h5py.Group", field: str, context: str) -> str:
    """Read a dataset of one name."""
    value = arrays.read_dataset(group, field, context)
    is_text = value.size == 1 and isinstance(value.item(), bytes)
    arrays.require(is_text, f"{context}: {field}", f"{value.dtype} {value.shape}", "one text")
    return arrays.require_name(value.item().decode(), f"{context}: {field}")


def _shots(rows: np.ndarray, lengths: np.ndarray | None, n: int, context: str) -> tuple[tuple[int, int], ...]:
    """Rows of first and last frame -> (first, last + 1), cut at the video's end as DR-DSN's evaluation does."""
    first, stop = arrays.numbers(rows, f"{context}: change_points", (None, 2)).T.astype(np.int64) + [[0], [1]]
    if lengths is not None:
        lengths = arrays.numbers(lengths, f"{context}: n_frame_per_seg", first.shape)
        same = (np.abs(lengths - (stop - first)) <= 1).all()  # not used; far off, the rows mean something else
        arrays.require(same, f"{context}: n_frame_per_seg", "other lengths", "those of change_points")
    joined = first[0] == 0 and (first[1:] == stop[:-1]).all() and (first < np.minimum(stop, n)).all()
    arrays.require(
        joined and abs(stop[-1] - n) <= TOLERANCE,
        f"{context}: change_points",
        f"shots from {first[0]} to {stop[-1]}",
        f"all of {n} frames in a row",
    )
    return tuple((int(a), min(int(b), n)) for a, b in zip(first, stop))
