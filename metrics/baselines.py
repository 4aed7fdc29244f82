"""Baselines of the key-frame scores: random saliency, and the agreement of the annotators.

Axes: N videos, R annotators, T frames at 1 fps.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from metrics.keyframes import average
from metrics.registry import METRICS, score_rows


def random_baseline(keyframes: Sequence[np.ndarray], seeds: Iterable[int] = range(5)) -> dict[str, float]:
    """Score uniform random saliency, averaged over videos and seeds.

    Args:
        keyframes: N arrays (R, T) in {0, 1}.
        seeds: random seeds; each scores all videos once.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    scores = []
    for rows in keyframes:
        saliency = np.stack([rng.random(rows.shape[1]) for rng in generators])
        scores.append(_means(score_rows(saliency, np.asarray(rows, np.float64))))
    return average(scores)


def human_baseline(keyframes: Sequence[np.ndarray]) -> dict[str, float]:
    """Score each annotator against the others, averaged over annotators and videos.

    Args:
        keyframes: N arrays (R, T) in {0, 1}, R ≥ 2.
    """
    functions = list(dict.fromkeys(metric.human for metric in METRICS.values() if metric.human is not None))
    scores = []
    for rows in keyframes:
        rows = np.asarray(rows, np.float64)
        values_by_name = {name: values for human in functions for name, values in human(rows).items()}
        scores.append(_means({name: values_by_name[name] for name in METRICS if name in values_by_name}))
    return average(scores)


def _means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in scores.items()}
