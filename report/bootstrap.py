"""The paired bootstrap: how far the mean difference of two models would move with other videos.

Axes: N videos, M differences (one per metric and pair of models), S resamples.
"""

import numpy as np

CHUNK = 2**22  # video places drawn at a time


def paired_bootstrap(differences, resamples=10_000, seed=0, level=0.95):
    """Interval of the mean of paired differences over resampled videos.

    Args:
        differences: (N, M) float, one model's score minus the other's on the same video.
        resamples: S.
        seed: of the drawing; all M columns see the same videos.
        level: part of the resampled means that the interval holds.
    Returns:
        (M,) lower and (M,) upper end.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, percentile interval.
    """
    differences = np.asarray(differences, np.float64)
    N, rng, means = len(differences), np.random.default_rng(seed), []
    for start in range(0, resamples, max(1, CHUNK // N)):
        S = min(max(1, CHUNK // N), resamples - start)
        drawn = rng.integers(N, size=(S, N), dtype=np.int32) + N * np.arange(S, dtype=np.int64)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=S * N).reshape(S, N)  # how often each video was drawn
        means.append(counts @ differences / N)  # (S, M)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail), axis=0)
    return low, high
