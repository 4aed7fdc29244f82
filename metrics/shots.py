"""Metrics of TVSum and SumMe: F1 of shot-based summaries, Kendall's τ-b and Spearman's ρ, for frame scores, random
scores and the annotators.

All functions work on one video, in NumPy. Axes: R annotators, n frames of the video file, P frames at which scores are
correlated.

F1 (Zhang et al., Video Summarization with Long Short-Term Memory, ECCV 2016, after Gygli et al., ECCV 2014, and Song
et al., CVPR 2015): frame scores -> mean score of each shot -> the shots with the largest total within 15% of the
frames -> F1 of their frames against each annotator's summary, of which TVSum takes the mean and SumMe the maximum.

τ and ρ (Otani et al., Rethinking the Evaluation of Video Summaries, CVPR 2019): on TVSum against each annotator's
importance, averaged. SumMe has no importance: the reference is each annotator's selection of frames, in {0, 1}. Later
papers correlate with the annotators' mean instead: `Kendall_mean`, `Spearman_mean`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from metrics.keyframes import average, binary_f1, correlate_rows, frame_budget, kendall, spearman, without_diagonal
from metrics.segmentation import knapsack

Reduction = Callable[[np.ndarray], np.floating]
REDUCTIONS: dict[str, Reduction] = dict(tvsum=np.mean, summe=np.max)  # of the F1 against R annotators
METRIC_NAMES = ("F1", "Kendall", "Spearman", "Kendall_mean", "Spearman_mean")
RANDOM_SEEDS = range(10)

Shots = Sequence[tuple[int, int]]  # (first, last + 1)


class AnnotatedVideo(Protocol):
    """The annotations that scoring reads; `data.tvsum_summe.BenchmarkVideo` has them."""

    @property
    def num_frames(self) -> int: ...

    @property
    def user_scores(self) -> np.ndarray | None: ...

    @property
    def user_summary(self) -> np.ndarray | None: ...

    @property
    def change_points(self) -> tuple[tuple[int, int], ...] | None: ...

    @property
    def gtscore(self) -> np.ndarray | None: ...

    def scored_frames(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Reference:
    """Reference of one video's scores; metrics whose part is None are omitted.

    Attributes:
        reduce: reduces the F1 against R annotators to one.
        num_frames: n.
        scored_frames: (P,) int, frames at which scores are correlated.
        shots: in frames.
        user_summary: (R, n) in {0, 1}.
        user_values: (R, P), each annotator's values, for τ and ρ.
        mean_values: (P,), their mean.
    """

    reduce: Reduction
    num_frames: int
    scored_frames: np.ndarray
    shots: Shots | None
    user_summary: np.ndarray | None
    user_values: np.ndarray | None
    mean_values: np.ndarray | None


def make_reference(video: AnnotatedVideo, benchmark: str, shots: Shots | None = None) -> Reference:
    """Build the reference of a video's scores.

    Args:
        video: its annotations.
        benchmark: `tvsum` or `summe`.
        shots: in frames, if the video has no `change_points`; None if unknown.
    """
    scored_frames = video.scored_frames()
    shots = video.change_points or shots
    summary, values, mean = video.user_summary, video.user_scores, video.gtscore
    if benchmark == "summe":
        values = summary
    elif summary is None and shots is not None:
        assert values is not None
        summary = np.stack([knapsack_summary(row, shots) for row in values])
    if values is not None:
        values = values[:, scored_frames].astype(np.float64)
        mean = values.mean(0)
    return Reference(REDUCTIONS[benchmark], video.num_frames, scored_frames, shots, summary, values, mean)


def knapsack_summary(scores: np.ndarray, shots: Shots) -> np.ndarray:
    """Select the shots with the largest total of mean scores within 15% of the frames.

    Args:
        scores: (n,) float, at least 0.
        shots: in frames, ascending.
    Returns:
        (n,) float64 in {0, 1}; all 0 if every shot is too long.
    """
    first, stop = np.array(shots).T
    sums = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    lengths = stop - first
    selected = np.zeros(len(scores))
    for i in knapsack((sums[stop] - sums[first]) / lengths, lengths.tolist(), frame_budget(len(scores))):
        selected[first[i] : stop[i]] = 1
    return selected


def score_frames(scores: np.ndarray, reference: Reference) -> dict[str, float]:
    """Score one video by the metrics for which the reference has data.

    Args:
        scores: (n,) float, one per frame, at least 0; F1 depends on their scale, τ and ρ only on their order.
        reference: reference of the video.
    Raises:
        ValueError: another length, NaN or infinity, or below 0.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (reference.num_frames,):
        raise ValueError(f"scores: found shape {scores.shape}, expected ({reference.num_frames},)")
    if not (np.isfinite(scores).all() and scores.min() >= 0):
        raise ValueError("scores: found NaN, infinity or less than 0, expected finite numbers of at least 0")
    result: dict[str, float] = {}
    if reference.shots is not None and reference.user_summary is not None:
        f1 = binary_f1(knapsack_summary(scores, reference.shots)[None], reference.user_summary)
        result["F1"] = float(reference.reduce(f1))
    sampled = scores[None, reference.scored_frames]  # (1, P)
    if reference.user_values is not None:
        result |= _mean_correlations(sampled, reference.user_values)
    if reference.mean_values is not None:
        result |= _mean_correlations(sampled, reference.mean_values[None], "_mean")
    return result


def _mean_correlations(x: np.ndarray, y: np.ndarray, suffix: str = "") -> dict[str, float]:
    """Compute τ and ρ of the rows of x and y, averaged; 0 for constant rows."""
    return {
        f"Kendall{suffix}": float(correlate_rows(kendall, x, y).mean()),
        f"Spearman{suffix}": float(correlate_rows(spearman, x, y).mean()),
    }


def score_annotators(reference: Reference) -> dict[str, float]:
    """Score the annotators of one video against each other by the metrics of `score_frames`.

    τ and ρ are averaged over all pairs of annotators; for `_mean`, each annotator is correlated with the mean of the
    others; F1 compares each annotator's summary with those of the others. {} for a single annotator.
    """
    result: dict[str, float] = {}
    summaries = reference.user_summary
    if summaries is not None and len(summaries) > 1:
        table = without_diagonal(binary_f1(summaries.astype(np.float64), summaries))  # (R, R - 1)
        result["F1"] = float(np.mean([reference.reduce(row) for row in table]))
    if reference.user_values is not None and len(reference.user_values) > 1:
        values = reference.user_values
        first, second = np.triu_indices(len(values), 1)
        result |= _mean_correlations(values[first], values[second])
        result |= _mean_correlations(values, values.sum(0) - values, "_mean")
    return result


def score_random(reference: Reference, seeds: Iterable[int] = RANDOM_SEEDS) -> dict[str, float]:
    """Evaluate uniform random scores of the scored frames, which their nearest frames share; averaged over seeds."""
    middles = (reference.scored_frames[1:] + reference.scored_frames[:-1]) / 2
    nearest = np.searchsorted(middles, np.arange(reference.num_frames))  # (n,) index of the nearest scored frame
    drawn = (np.random.default_rng(seed).random(len(reference.scored_frames)) for seed in seeds)
    return average([score_frames(values[nearest], reference) for values in drawn])


def shots_in_frames(shots: Shots, step_of_frame: np.ndarray) -> list[tuple[int, int]]:
    """Convert shots from steps (seconds or picks) to frames, cut at the last frame.

    Args:
        shots: see `metrics.segmentation.segment_shots`.
        step_of_frame: (n,) int, ascending.
    """
    edges = [(int(a), int(b)) for a, b in np.searchsorted(step_of_frame, shots)]
    return [(a, b) for a, b in edges if a < b]
