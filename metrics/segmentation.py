"""Split a video into shots, and choose items under a budget.

Axes: T seconds, D feature width.
"""

import math

import numpy as np

# Change points are looked for in stretches of so many seconds: time and memory grow with their square.
STRETCH = 1200


def shots(features):
    """Split a video into shots by kernel temporal segmentation.

    Args:
        features: (T, D) float.
    Returns:
        list of (first, last + 1) in seconds.
    Source: Potapov et al., Category-specific video summarization, ECCV 2014: the change points that minimise the
        scatter within shots under a linear kernel on features of length 1 (ruptures' `KernelCPD`), their number m the
        one that minimises scatter / T + m / 2T (log(T / m) + 1); one in two seconds at most. Videos above 20 minutes
        are segmented in stretches of that length.
    """
    ends = []
    for start in range(0, len(features), STRETCH):
        ends += [start + end for end in _change_points(features[start : start + STRETCH])]
    return list(zip([0, *ends[:-1]], ends))


def _change_points(features):
    """Ends of the shots of one stretch, the last one's included."""
    import ruptures

    T = len(features)
    if T < 4:
        return [T]
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    unit = unit.astype(np.float64)
    detection = ruptures.KernelCPD(kernel="linear", min_size=1).fit(unit)
    most = T // 2
    detection.predict(n_bkps=most)  # the segmentations with fewer change points come with it
    sums = np.concatenate([np.zeros((1, unit.shape[1])), unit.cumsum(0)])  # (T + 1, D)
    energy, best, least = float((unit**2).sum()), [T], math.inf
    for m in range(most + 1):
        ends = np.array(detection.predict(n_bkps=m) if m else [T])
        starts = np.concatenate([[0], ends[:-1]])
        scatter = energy - (((sums[ends] - sums[starts]) ** 2).sum(1) / (ends - starts)).sum()
        cost = scatter / T + (m / (2 * T) * (math.log(T / m) + 1) if m else 0)
        if cost < least:
            best, least = ends.tolist(), cost
    return best


def knapsack(values, weights, limit):
    """Solve the 0/1 knapsack: indices of the items with the largest total value within a total weight.

    Args:
        values: n floats, at least 0.
        weights, limit: whole numbers, above 0.
    """
    best = np.zeros(limit + 1)
    taken = np.zeros((len(values), limit + 1), bool)
    for i, (value, weight) in enumerate(zip(values, weights)):
        if weight <= limit:
            with_it = best[: limit + 1 - weight] + value
            taken[i, weight:] = with_it > best[weight:]
            best[weight:] = np.maximum(best[weight:], with_it)
    chosen, room = [], limit
    for i in reversed(range(len(values))):
        if taken[i, room]:
            chosen.append(i)
            room -= weights[i]
    return chosen[::-1]
