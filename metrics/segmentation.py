"""Shot segmentation, and the 0/1 knapsack.

Axes: T seconds, D feature width.
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_PART_SECONDS = 1200  # seconds per segmented part: time and memory grow with its square


def segment_shots(features: np.ndarray) -> list[tuple[int, int]]:
    """Split a video into shots by kernel temporal segmentation.

    Args:
        features: (T, D) float.
    Returns:
        (first, last + 1) of each shot, in seconds.
    Source: Potapov et al., Category-specific video summarization, ECCV 2014: the change points that minimize the
        scatter within shots under a linear kernel on normalized features (ruptures' `KernelCPD`); their number m, at
        most T / 2, minimizes scatter / T + m / 2T (log(T / m) + 1). Videos longer than 20 minutes are segmented in
        parts of that length.
    """
    ends: list[int] = []
    for start in range(0, len(features), MAX_PART_SECONDS):
        ends += [start + end for end in _change_points(features[start : start + MAX_PART_SECONDS])]
    return list(zip([0, *ends[:-1]], ends))


def _change_points(features: np.ndarray) -> list[int]:
    """Return the ends of the shots of one part, the last one included."""
    import ruptures

    T = len(features)
    if T < 4:
        return [T]
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    unit = unit.astype(np.float64)  # (T, D)
    detection = ruptures.KernelCPD(kernel="linear", min_size=1).fit(unit)
    max_count = T // 2
    detection.predict(n_bkps=max_count)  # also computes the segmentations with fewer change points
    sums = np.concatenate([np.zeros((1, unit.shape[1])), unit.cumsum(0)])  # (T + 1, D)
    energy = float((unit**2).sum())
    best, best_cost = [T], math.inf
    for m in range(max_count + 1):
        ends = np.array(detection.predict(n_bkps=m) if m else [T])
        starts = np.concatenate([[0], ends[:-1]])
        scatter = energy - (((sums[ends] - sums[starts]) ** 2).sum(1) / (ends - starts)).sum()
        cost = scatter / T + (m / (2 * T) * (math.log(T / m) + 1) if m else 0)
        if cost < best_cost:
            best, best_cost = ends.tolist(), cost
    return best


def knapsack(values: Sequence[float], weights: Sequence[int], limit: int) -> list[int]:
    """Solve the 0/1 knapsack: indices of the items with the largest total value within a total weight.

    Args:
        values: value of each item, at least 0.
        weights: weight of each item, above 0.
        limit: largest total weight.
    """
    best = np.zeros(limit + 1)
    is_taken = np.zeros((len(values), limit + 1), bool)
    for i, (value, weight) in enumerate(zip(values, weights)):
        if weight <= limit:
            with_item = best[: limit + 1 - weight] + value
            is_taken[i, weight:] = with_item > best[weight:]
            best[weight:] = np.maximum(best[weight:], with_item)
    selected, remaining = [], limit
    for i in reversed(range(len(values))):
        if is_taken[i, remaining]:
            selected.append(i)
            remaining -= weights[i]
    return selected[::-1]
