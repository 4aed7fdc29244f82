"""Selection of the seconds of a visual summary under a budget.

Axes: T seconds, D feature width.
"""

import math
from collections.abc import Callable

import numpy as np

from metrics.segmentation import knapsack, segment_shots


def budget_seconds(budget: float, T: int) -> int:
    """Convert a budget to seconds, rounded down, at least 1."""
    return max(1, math.floor(budget * T + 1e-9))


def select_topk(saliency: np.ndarray, features: np.ndarray | None, budget: float) -> np.ndarray:
    """Select the seconds with the highest saliency, as the paper does, the earlier of equal ones: (T,) bool."""
    selected = np.zeros(len(saliency), bool)
    selected[np.argsort(-saliency, kind="stable")[: budget_seconds(budget, len(saliency))]] = True
    return selected


def select_shots(saliency: np.ndarray, features: np.ndarray | None, budget: float) -> np.ndarray:
    """Select whole shots, as on TVSum and SumMe, by a knapsack over mean saliency and length: (T,) bool.

    If every shot is too long, the most salient segment of the best shot is selected.
    """
    assert features is not None, "shots are segmented by the features"
    spans, limit = segment_shots(features), budget_seconds(budget, len(saliency))
    values = [float(saliency[first:stop].mean()) for first, stop in spans]
    selected = np.zeros(len(saliency), bool)
    for i in knapsack(values, [stop - first for first, stop in spans], limit):
        selected[slice(*spans[i])] = True
    if not selected.any():
        first, stop = spans[int(np.argmax(values))]
        window = np.convolve(saliency[first:stop], np.ones(min(limit, stop - first)), "valid")
        first += int(np.argmax(window))
        selected[first : min(stop, first + limit)] = True
    return selected


METHODS: dict[str, Callable[[np.ndarray, np.ndarray | None, float], np.ndarray]] = {
    "topk": select_topk,
    "shots": select_shots,
}


def check_selection(budget: float, method: str) -> None:
    """Raise a ValueError for a budget or a method that is not allowed."""
    if not 0 < budget <= 1:
        raise ValueError(f"budget: found {budget}, expected a fraction of the video: above 0, at most 1")
    if method not in METHODS:
        raise ValueError(f"method: found {method!r}, expected one of {', '.join(METHODS)}")


def select_frames(saliency: np.ndarray, features: np.ndarray | None, budget: float, method: str = "topk") -> np.ndarray:
    """Select the seconds of a summary.

    Args:
        saliency: (T,) probabilities.
        features: (T, D) frame features, required for `shots`.
        budget: fraction of the video to keep, above 0 and at most 1.
        method: one of `METHODS`.
    Returns:
        (T,) bool, at least one True.
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
