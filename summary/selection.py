"""Choose the seconds of a visual summary under a budget.

Axes: T seconds, D feature width.
"""

import math

import numpy as np

from metrics.segmentation import knapsack, segment_shots


def capacity(budget, T):
    """Seconds that a budget allows, rounded down, at least 1."""
    return max(1, math.floor(budget * T + 1e-9))


def choose_topk(saliency, budget):
    """The paper's way: the seconds with the highest saliency, the earlier first where equal; (T,) bool."""
    chosen = np.zeros(len(saliency), bool)
    chosen[np.argsort(-saliency, kind="stable")[: capacity(budget, len(saliency))]] = True
    return chosen


def choose_shots(saliency, features, budget):
    """As on TVSum and SumMe: whole shots, their mean saliency against their length; (T,) bool.

    Where not even one shot fits, the best stretch of seconds that does is taken from the best shot.
    """
    spans, limit = segment_shots(features), capacity(budget, len(saliency))
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
