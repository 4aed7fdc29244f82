"""`eccv16_dataset_{tvsum,summe}_google_pool5.h5`, TVSum and SumMe as most papers read them -> `BenchmarkVideo`s.

Axes: R annotators, n frames of the video file, P picks, D width.
"""

import numpy as np

from data import arrays
from data.tvsum_summe import BenchmarkVideo, selections, unlike

SLACK = 30  # frames that shots may miss, or have too many, at a video's end
NEEDED = ("n_frames", "picks", "user_summary")
OPTIONAL = ("change_points", "n_frame_per_seg", "n_steps", "gtscore", "features")


def read_eccv16(path):
    """Read an `eccv16_dataset_{tvsum,summe}_google_pool5.h5`.

    Args:
        path: the file; of each video `n_frames`, `picks` and `user_summary` are needed, and `change_points`,
            `n_frame_per_seg`, `n_steps`, `gtscore`, `features` and `video_name` used where they are there.
    Returns:
        list of `BenchmarkVideo`, video_1 first; named by `video_name`, with the key as alias, or by the key.
    Raises:
        FileNotFoundError, ValueError: as `read_tvsum_mat`.
    Source: Zhang et al., Video Summarization with Long Short-Term Memory, ECCV 2016; the layout as in the README of
        Zhou et al., Deep Reinforcement Learning for Unsupervised Video Summarization (DR-DSN), AAAI 2018.
    """
    with arrays.open_hdf5(path, "an eccv16 .h5 file") as reader:
        keys = sorted(reader.file, key=lambda key: (len(key), key))
        arrays.require(keys, f"{path}: annotations", "no video", "at least one")
        return unlike([_read_group(reader, key, f"{path}: video {ascii(key)[1:-1]}") for key in keys], path)


def _read_group(reader, key, place):
    import h5py

    group = reader.file.get(key)
    arrays.require(isinstance(group, h5py.Group), place, "no group", "a group of arrays")
    fields = [*NEEDED, *(field for field in OPTIONAL if field in group)]
    found = {field: reader.array(group.get(field), f"{place}: {field}") for field in fields}
    n = arrays.count(found["n_frames"], f"{place}: n_frames")
    picks = arrays.numbers(found["picks"], f"{place}: picks", (None,))
    right = picks[0] >= 0 and picks[-1] < n and (np.diff(picks.astype(np.int64)) > 0).all() and (picks % 1 == 0).all()
    arrays.require(right, f"{place}: picks", f"{picks[0]} to {picks[-1]}", f"ascending frames of {n}")
    P = len(picks)
    if "n_steps" in found:
        steps = arrays.count(found["n_steps"], f"{place}: n_steps")
        arrays.require(steps == P, f"{place}: n_steps", steps, f"{P} as in picks")
    values = dict(picks=picks.astype(np.int64))
    values["user_summary"] = selections(found["user_summary"], f"{place}: user_summary", n)
    for field, shape in dict(gtscore=(P,), features=(P, None)).items():
        if field in found:
            values[field] = arrays.floats(found[field], f"{place}: {field}", shape)
    if "change_points" in found:
        values["change_points"] = _shots(found["change_points"], found.get("n_frame_per_seg"), n, place)
    names = (arrays.name(key, place),)
    if "video_name" in group:
        field = f"{place}: video_name"
        names = (arrays.name(reader.text(group.get("video_name"), field), field), *names)
    return BenchmarkVideo(names[0], n, names[1:], **values)


def _shots(rows, lengths, n, place):
    """Rows of first and last frame -> (first, last + 1), cut at the video's end as DR-DSN's evaluation does."""
    first, stop = arrays.numbers(rows, f"{place}: change_points", (None, 2)).T.astype(np.int64) + [[0], [1]]
    if lengths is not None:
        lengths = arrays.numbers(lengths, f"{place}: n_frame_per_seg", first.shape)
        same = (np.abs(lengths - (stop - first)) <= 1).all()  # not used; far off, the rows mean another thing
        arrays.require(same, f"{place}: n_frame_per_seg", "other lengths", "those of change_points")
    joined = first[0] == 0 and (first[1:] == stop[:-1]).all() and (first < np.minimum(stop, n)).all()
    right, found = joined and abs(stop[-1] - n) <= SLACK, f"shots from {first[0]} to {stop[-1]}"
    arrays.require(right, f"{place}: change_points", found, f"all of {n} frames in a row")
    return tuple((int(a), min(int(b), n)) for a, b in zip(first, stop))
