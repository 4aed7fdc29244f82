"""TVSum's and SumMe's scores: F1 of a summary of whole shots, Kendall's τ-b and Spearman's ρ; chance and annotators.

One video at a time, NumPy. Axes: R annotators, n frames of the video file, P places at which scores are correlated.

F1 (Zhang et al., Video Summarization with Long Short-Term Memory, ECCV 2016, after Gygli et al., ECCV 2014, and Song
et al., CVPR 2015): frame scores -> mean score of each shot -> the shots with the largest total within 15 % of the
frames -> F1 of their frames against each annotator's summary, of which TVSum takes the mean and SumMe the maximum.

τ and ρ (Otani et al., Rethinking the Evaluation of Video Summaries, CVPR 2019): on TVSum against each annotator's
importance, averaged. SumMe's annotators gave no importance: there the reference is each one's selection of frames, in
{0, 1}. Later papers correlate with the annotators' mean instead: `Kendall_mean`, `Spearman_mean`.
"""

import dataclasses

import numpy as np

from metrics.keyframes import average, binary_f1, budget, correlate_rows, kendall, spearman
from metrics.segmentation import knapsack

OVER_ANNOTATORS = dict(tvsum=np.mean, summe=np.max)  # the benchmarks, and what makes one F1 of R
NAMES = ("F1", "Kendall", "Spearman", "Kendall_mean", "Spearman_mean")
SEEDS = range(10)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the scores of one video are compared with; a score whose part is None is left out.

    Attributes:
        over: makes one F1 of those against R annotators.
        places: (P,) int, frames at which scores are correlated.
        shots: list of (first, last + 1) in frames, or None.
        user_summary: (R, n) in {0, 1}, or None.
        user_values: (R, P), what each annotator's τ and ρ refer to, or None.
        mean_values: (P,), their mean, or None.
    """

    over: object
    num_frames: int
    places: np.ndarray
    shots: list | None
    user_summary: np.ndarray | None
    user_values: np.ndarray | None
    mean_values: np.ndarray | None


def make_reference(video, benchmark, shots=None):
    """Put together what a video's scores are compared with.

    Args:
        video: `data.tvsum_summe.BenchmarkVideo`.
        benchmark: `tvsum` or `summe`.
        shots: (first, last + 1) in frames, where the video has no `change_points`; None where nobody knows them.
    """
    places, shots = video.scored_frames(), video.change_points or shots
    summary, values, mean = video.user_summary, video.user_scores, video.gtscore
    if benchmark == "summe":
        values = summary
    elif summary is None and shots is not None:
        summary = np.stack([summarize(row, shots) for row in values])
    if values is not None:
        values = values[:, places].astype(np.float64)
        mean = values.mean(0)
    return Reference(OVER_ANNOTATORS[benchmark], video.num_frames, places, shots, summary, values, mean)


def summarize(scores, shots):
    """Choose the shots with the largest total of mean scores within 15 % of the frames.

    Args:
        scores: (n,) float, at least 0.
        shots: list of (first, last + 1) in frames, ascending.
    Returns:
        (n,) float64 in {0, 1}; all 0 where no shot fits.
    """
    first, stop = np.array(shots).T
    sums = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    lengths, chosen = stop - first, np.zeros(len(scores))
    for i in knapsack((sums[stop] - sums[first]) / lengths, lengths.tolist(), budget(len(scores))):
        chosen[first[i] : stop[i]] = 1
    return chosen


def score(scores, reference):
    """Score one video: dictionary from those of `NAMES` that the reference allows to float.

    Args:
        scores: (n,) float, one per frame, at least 0; its scale counts for F1, its order alone for τ and ρ.
        reference: `Reference`.
    Raises:
        ValueError: another length, NaN or infinity, or below 0.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (reference.num_frames,):
        raise ValueError(f"scores: found shape {scores.shape}, expected ({reference.num_frames},)")
    if not (np.isfinite(scores).all() and scores.min() >= 0):
        raise ValueError("scores: found NaN, infinity or less than 0, expected numbers from 0 on")
    found = {}
    if reference.shots is not None and reference.user_summary is not None:
        f1 = binary_f1(summarize(scores, reference.shots)[None], reference.user_summary)
        found["F1"] = float(reference.over(f1))
    at_places = scores[None, reference.places]
    if reference.user_values is not None:
        found |= _correlations(at_places, reference.user_values)
    if reference.mean_values is not None:
        found |= _correlations(at_places, reference.mean_values[None], "_mean")
    return found


def _correlations(x, y, suffix=""):
    """τ and ρ of the rows of x and y, averaged; 0 where a row is constant."""
    return {
        f"Kendall{suffix}": float(correlate_rows(kendall, x, y).mean()),
        f"Spearman{suffix}": float(correlate_rows(spearman, x, y).mean()),
    }


def human_scores(reference):
    """Score the annotators of one video against each other, as `score` does a model.

    Every pair of annotators counts once for τ and ρ (the same as each one against every other, averaged), each one
    against the mean of the others for `_mean`; F1 compares each one's summary with those of the others.
    """
    found, user = {}, reference.user_summary
    if user is not None:
        others = ~np.eye(len(user), dtype=bool)
        table = binary_f1(user.astype(np.float64), user)[others].reshape(len(user), -1)  # (R, R - 1)
        found["F1"] = float(np.mean([reference.over(row) for row in table]))
    if reference.user_values is not None:
        values = reference.user_values
        first, second = np.triu_indices(len(values), 1)
        found |= _correlations(values[first], values[second])
        found |= _correlations(values, values.sum(0) - values, "_mean")
    return found


def random_scores(reference, seeds=SEEDS):
    """Score uniform random scores, one per place and held for the frames nearest to it, averaged over the seeds."""
    middles = (reference.places[1:] + reference.places[:-1]) / 2
    place_of_frame = np.searchsorted(middles, np.arange(reference.num_frames))
    drawn = (np.random.default_rng(seed).random(len(reference.places)) for seed in seeds)
    return average([score(values[place_of_frame], reference) for values in drawn])


def spans_of_frames(spans, step_of_frame):
    """Shots in steps (seconds or picks), (first, last + 1) -> in frames, where the frames reach that far.

    Args:
        spans: list as `metrics.segmentation.shots` gives it.
        step_of_frame: (n,) int, ascending.
    """
    edges = [(int(a), int(b)) for a, b in np.searchsorted(step_of_frame, spans)]
    return [(a, b) for a, b in edges if a < b]
