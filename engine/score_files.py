"""Files of other projects for TVSum and SumMe: frame scores, and train/test splits.

Axes: n frames of the video file, P picks, T seconds.
"""

import math
import os
import zipfile
from typing import Annotated

import numpy as np
import pydantic

from data.tvsum_summe import BenchmarkVideo, index_by_name, normalize_name
from engine.predictions import read_predictions
from utils.files import parse_json, read_json, read_text
from utils.text import printable
from utils.validation import abbreviate, describe_first_error

DURATION_TOLERANCE = 2.0  # seconds by which features and annotations may differ
NUM_SPLITS = 5
TRAIN_FRACTION = 0.8

Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
ScoreFile = pydantic.TypeAdapter(dict[str, Annotated[list[Number], pydantic.Field(min_length=1)]])


class Split(pydantic.BaseModel):
    """One entry of a split file."""

    train_keys: list[str]
    test_keys: Annotated[list[str], pydantic.Field(min_length=1)]


SplitFile = pydantic.TypeAdapter(Annotated[list[Split], pydantic.Field(min_length=1)])


def read_scores(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read scores of frames.

    Args:
        path: JSON {video: [scores]}, our predictions_{split}.jsonl (its saliency, logits, is converted to
            probabilities), or an .npz file with one array per video; detected by content.
    Returns:
        video -> (T,), (P,) or (n,) float64.
    Raises:
        FileNotFoundError, ValueError: a damaged file, or a score that is not finite or below 0; the message names file
            and video.
    """
    if zipfile.is_zipfile(path):
        scores = _read_npz(path)
    else:
        scores = _read_predictions(path) if _is_jsonl(read_text(path, "scores")) else _read_json(path)
    if not scores:
        raise ValueError(f"{path}: scores: found none, expected at least one video")
    for video, values in scores.items():
        if not (np.isfinite(values).all() and values.min() >= 0):
            problem = "found NaN, infinity or less than 0, expected numbers of at least 0, such as probabilities"
            raise ValueError(f"{path}: video {printable(video)[:60]}: scores: {problem}")
    return scores


def _is_jsonl(text: str) -> bool:
    try:
        first = parse_json(text.lstrip().split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(first, dict) and isinstance(first.get("video_id"), str)


def _read_predictions(path: str | os.PathLike) -> dict[str, np.ndarray]:
    scores = {}
    for entry in read_predictions(path):
        context = f"{path}: video {entry.video_id}"
        if entry.saliency is None:
            raise ValueError(f"{context}: saliency: found null, expected one number per second")
        if entry.video_id in scores:
            raise ValueError(f"{context}: found twice, expected once")
        scores[entry.video_id] = np.exp(-np.logaddexp(0, -np.array(entry.saliency, np.float64)))
    return scores


def _read_json(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        scores = ScoreFile.validate_python(read_json(path, "scores"))
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: scores: {printable(describe_first_error(error))}") from None
    return {video: np.array(values, np.float64) for video, values in scores.items()}


def _read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    scores = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name, array in arrays.items():
                if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "fiu":
                    raise ValueError(f"{name}: found {array.dtype} {array.shape}, expected numbers (T,)")
                scores[name] = array.astype(np.float64)
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        reason = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise ValueError(f"{path}: scores: damaged or not an .npz file of scores ({reason})") from None
    return scores


def scores_of_videos(
    scores: dict[str, np.ndarray], videos: list[BenchmarkVideo], path: str | os.PathLike, step: str | None = None
) -> list[np.ndarray]:
    """Repeat scores per step for the frames of all videos.

    Args:
        scores: result of `read_scores`, by any name of a video.
        videos: all videos of the benchmark.
        path: file of the scores, for messages.
        step: `second`, `pick` or `frame`; None infers it from the number of scores.
    Returns:
        (n,) float64 of each video, in the order of the videos.
    Raises:
        ValueError: a video is unknown, missing or given twice, or the number of its scores fits no step, or several.
    """
    known = index_by_name(videos)
    frame_scores: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        video, context = known.get(normalize_name(name)), f"{path}: video {printable(name)[:60]}"
        if video is None:
            raise ValueError(f"{context}: not in the annotations, whose first is {videos[0].video_id}")
        if video.video_id in frame_scores:
            raise ValueError(f"{context}: scores: found twice ({video.video_id}), expected once")
        frame_scores[video.video_id] = _repeat_for_frames(values, video, context, step)
    missing = [video.video_id for video in videos if video.video_id not in frame_scores]
    if missing:
        counts = f"{len(missing)} of {len(videos)} videos"
        raise ValueError(f"{path}: video {missing[0]}: scores: missing for {counts}, expected all")
    return [frame_scores[video.video_id] for video in videos]


def _repeat_for_frames(values: np.ndarray, video: BenchmarkVideo, context: str, step: str | None) -> np.ndarray:
    count, expected = len(values), {"frame": f"{video.num_frames} (per frame)"}
    candidates = {"frame": values} if count == video.num_frames else {}
    if video.picks is not None:
        expected["pick"] = f"{len(video.picks)} (per pick)"
        if count == len(video.picks):
            candidates["pick"] = values[video.pick_of_frame()]
    if video.duration is not None:
        expected["second"] = f"about {math.ceil(video.duration)} (per second)"
        if has_plausible_length(count, video):
            candidates["second"] = values[video.second_of_frame(count)]
    if step is not None:
        candidates = {step: candidates[step]} if step in candidates else {}
        expected = {step: expected[step]} if step in expected else {}
    if not candidates:
        counts = " or ".join(expected.values()) or f"annotations with {step}s"
        raise ValueError(f"{context}: scores: found {count}, expected {counts}")
    first, *others = candidates.values()
    if not all(np.array_equal(first, other) for other in others):
        names = " and per ".join(candidates)
        raise ValueError(f"{context}: scores: found {count}, which may be per {names}; choose with --scores_at")
    return first


def has_plausible_length(T: int, video: BenchmarkVideo) -> bool:
    """Whether T is a plausible number of frames at 1 fps of a video; always true if the duration is unknown."""
    return video.duration is None or abs(T - video.duration) <= DURATION_TOLERANCE


def read_splits(path: str | os.PathLike, videos: list[BenchmarkVideo]) -> list[list[int]]:
    """Read splits in the usual format.

    Args:
        path: JSON [{"train_keys": […], "test_keys": […]}, …]; a key is a name or alias of a video, or a path that
            ends in one. Training keys may also be videos of other datasets.
        videos: all videos of the benchmark.
    Returns:
        the test sets, as indices into `videos`.
    Raises:
        FileNotFoundError, ValueError: one line that names file, split and key.
    """
    try:
        splits = SplitFile.validate_python(read_json(path, "splits"))
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: splits: {describe_first_error(error)}") from None
    known, index = index_by_name(videos), {video.video_id: i for i, video in enumerate(videos)}
    test_sets = []
    for i, split in enumerate(splits):
        context, keys = f"{path}: splits: {i}: test_keys", split.test_keys
        shared = set(split.train_keys) & set(keys)
        if shared or len(set(keys)) < len(keys):
            problem = f"{abbreviate(min(shared))} in both" if shared else "a key twice"
            raise ValueError(f"{context}: found {problem}, expected unique keys that are not in train_keys")
        names = [normalize_name(key.rsplit("/", 1)[-1]) for key in keys]
        for name in names:
            if name not in known:
                raise ValueError(f"{context}: {abbreviate(name)}: not in the annotations")
        test_sets.append([index[known[name].video_id] for name in names])
    return test_sets


def make_splits(count: int, seed: int) -> list[list[int]]:
    """Draw `NUM_SPLITS` test sets of a fifth of the videos each, independently, as DR-DSN's `create_split.py` does."""
    rng, size = np.random.default_rng(seed), max(1, count - math.ceil(TRAIN_FRACTION * count))
    return [rng.permutation(count)[:size].tolist() for _ in range(NUM_SPLITS)]
