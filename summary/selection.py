"""Selection of the seconds of a visual summary under a budget.

Axes: T seconds, D feature width.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from metrics.segmentation import knapsack, segment_shots
from utils.text import format_time

Budget = float | str  # a fraction of the video, or seconds such as "30s"

SECONDS_TEXT = re.compile(r"(\d+(?:\.\d+)?) ?s")
MIN_SKIM_SECONDS = 3  # shorter skims are hard to follow
MIN_USED_BUDGET = 0.8  # fraction of the budget that whole shots use without a note


@dataclasses.dataclass(frozen=True)
class Selection:
    """The seconds of a summary.

    Attributes:
        selected: (T,) bool, at least one True.
        notes: a sentence for each deviation from the method or the budget.
    """

    selected: np.ndarray
    notes: tuple[str, ...] = ()


def parse_budget(budget: Budget) -> Budget:
    """Check a budget; text of a fraction, such as "0.15", becomes a float.

    Raises:
        ValueError: neither a fraction above 0 and at most 1, nor seconds, at least 1.
    """
    expected = "a fraction of the video, above 0 and at most 1, or seconds, at least 1s"
    if isinstance(budget, str):
        match = SECONDS_TEXT.fullmatch(budget)
        if match and float(match[1]) >= 1:
            return budget
        try:
            budget = float(budget)
        except ValueError:
            raise ValueError(f"budget: found {budget!r}, expected {expected}") from None
    if not 0 < budget <= 1:
        raise ValueError(f"budget: found {budget}, expected {expected}")
    return budget


def budget_seconds(budget: Budget, T: int) -> int:
    """Convert a budget to seconds, rounded down, at least 1 and at most T."""
    budget = parse_budget(budget)
    if isinstance(budget, str):
        match = SECONDS_TEXT.fullmatch(budget)
        assert match is not None, "parsed above"
        return min(T, math.floor(float(match[1])))
    return max(1, math.floor(budget * T + 1e-9))


def describe_short_budget(budget: Budget, T: int) -> str:
    """Describe a budget that keeps less than three seconds of a video of T seconds; "" if the video is no longer."""
    seconds = budget_seconds(budget, T)
    if seconds >= MIN_SKIM_SECONDS or T < MIN_SKIM_SECONDS:
        return ""
    return f"budget {budget} keeps only {seconds} s of the video; use a larger one, such as {MIN_SKIM_SECONDS}s"


def select_topk(saliency: np.ndarray, features: np.ndarray | None, budget: Budget) -> Selection:
    """Select the seconds with the highest saliency, as the paper does, the earlier of equal ones."""
    selected = np.zeros(len(saliency), bool)
    selected[np.argsort(-saliency, kind="stable")[: budget_seconds(budget, len(saliency))]] = True
    return Selection(selected)


def select_shots(saliency: np.ndarray, features: np.ndarray | None, budget: Budget) -> Selection:
    """Select whole shots, as on TVSum and SumMe, by a knapsack over mean saliency and length.

    If every shot is too long, the most salient segment of the best shot is selected. A note describes this, and a
    budget of which much is not used.
    """
    assert features is not None, "shots are segmented by the features"
    spans, limit = segment_shots(features), budget_seconds(budget, len(saliency))
    values = [float(saliency[first:stop].mean()) for first, stop in spans]
    selected = np.zeros(len(saliency), bool)
    for i in knapsack(values, [stop - first for first, stop in spans], limit):
        selected[slice(*spans[i])] = True
    used = int(selected.sum())
    if not used:
        first, stop = spans[int(np.argmax(values))]
        length = min(limit, stop - first)
        start = first + int(np.argmax(np.convolve(saliency[first:stop], np.ones(length), "valid")))
        selected[start : start + length] = True
        note = (
            f"No whole shot fits in the budget of {limit} s: the shot from {format_time(first)} to {format_time(stop)} "
            f"is cut to its most salient {length} s."
        )
        return Selection(selected, (note,) if length < stop - first else ())
    if used < MIN_USED_BUDGET * limit:
        return Selection(selected, (f"Whole shots use {used} s of the budget of {limit} s: no other shot fits.",))
    return Selection(selected)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray | None, Budget], Selection]] = {
    "topk": select_topk,
    "shots": select_shots,
}


def check_selection(budget: Budget, method: str) -> None:
    """Raise a ValueError for a budget or a method that is not allowed."""
    parse_budget(budget)
    if method not in METHODS:
        raise ValueError(f"method: found {method!r}, expected one of {', '.join(METHODS)}")


def select_frames(saliency: np.ndarray, features: np.ndarray | None, budget: Budget, method: str = "topk") -> Selection:
    """Select the seconds of a summary.

    Args:
        saliency: (T,) probabilities.
        features: (T, D) frame features, required for `shots`.
        budget: fraction of the video to keep, above 0 and at most 1, or seconds such as "30s".
        method: one of `METHODS`.
    Raises:
        ValueError: see `check_selection`.
    """
    check_selection(budget, method)
    return METHODS[method](np.asarray(saliency, np.float64), features, budget)


def selected_segments(selected: np.ndarray, duration: float) -> list[tuple[float, float]]:
    """Merge neighboring seconds (T,) bool to segments (start, end) in seconds, cut at the end of the video."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], selected, [False]]).astype(int)))
    spans = ((float(start), min(float(end), duration)) for start, end in edges.reshape(-1, 2))
    return [(start, end) for start, end in spans if start < end]


def seconds_before(segments: Sequence[tuple[float, float]], second: float) -> float:
    """Return how many seconds of the segments precede a second of the video: its time in the skim."""
    return sum(max(0.0, min(end, second) - start) for start, end in segments)
