"""Choose the seconds of a visual summary under a budget.

Axes: T seconds, D feature width.
"""

import math

import numpy as np

# Change points are looked for in stretches of so many seconds: time and memory grow with their square.
STRETCH = 1200


def capacity(budget, T):
    """Seconds that a budget allows, rounded down, at least 1."""
    return max(1, math.floor(budget * T + 1e-9))


def choose_topk(saliency, budget):
    """The paper's way: the seconds with the highest saliency, the earlier first where equal; (T,) bool."""
    chosen = np.zeros(len(saliency), bool)
    chosen[np.argsort(-saliency, kind="stable")[: capacity(budget, len(saliency))]] = True
    return chosen


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


def choose_shots(saliency, features, budget):
    """As on TVSum and SumMe: whole shots, their mean saliency against their length; (T,) bool.

    Where not even one shot fits, the best stretch of seconds that does is taken from the best shot.
    """
    spans, limit = shots(features), capacity(budget, len(saliency))
    values = [float(saliency[first:stop].mean()) for first, stop in spans]
    chosen = np.zeros(len(saliency), bool)
    for i in knapsack(values, [stop - first for first, stop in spans], limit):
        chosen[slice(*spans[i])] = True
    if not chosen.any():
        first, stop = spans[int(np.argmax(values))]
        window = np.convolve(saliency[first:stop], np.ones(min(limit, stop - first)), "valid")
        first += int(np.argmax(window))
        chosen[first : min(stop, first + limit)] = True
    return chosen


METHODS = ("topk", "shots")


def check_choice(budget, method):
    """Raise a ValueError that names what is wrong with a budget or a method."""
    if not 0 < budget <= 1:
        raise ValueError(f"budget: found {budget}, expected a part of the video: above 0, at most 1")
    if method not in METHODS:
        raise ValueError(f"method: found {method!r}, expected one of {', '.join(METHODS)}")


def choose(saliency, features, budget, method="topk"):
    """Choose the seconds of a summary.

    Args:
        saliency: (T,) probabilities.
        features: (T, D) frame features; only `shots` looks at them.
        budget: part of the video to keep, above 0 and at most 1.
        method: `topk` or `shots`.
    Returns:
        (T,) bool, at least one True.
    Raises:
        ValueError: see `check_choice`.
    """
    check_choice(budget, method)
    saliency = np.asarray(saliency, np.float64)
    return choose_topk(saliency, budget) if method == "topk" else choose_shots(saliency, features, budget)


def segments_of(chosen, duration):
    """Join neighbouring seconds: (T,) bool -> list of (start, end) in seconds, the last cut at the video's end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    spans = ((float(start), min(float(end), duration)) for start, end in edges.reshape(-1, 2))
    return [(start, end) for start, end in spans if start < end]
