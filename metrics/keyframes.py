"""Key-frame scores: F1 (two definitions), Kendall's τ-b and Spearman's ρ, of saliency and of the annotators.

All functions work on one unpadded video, in NumPy. Axes: R annotators, T frames at 1 fps, N rows of saliency, or N sets
of selected frames, for the same video.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

SUMMARY_FRACTION = 0.15


def check_scores(saliency: np.ndarray, other: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Check saliency (T,) and an array with T columns, and return both as float64; `name` is that of the array."""
    saliency, other = np.asarray(saliency, np.float64), np.asarray(other, np.float64)
    if saliency.ndim != 1 or saliency.size == 0:
        raise ValueError(f"saliency: found shape {saliency.shape}, expected (T,) with T at least 1")
    if other.shape[-1:] != saliency.shape:
        raise ValueError(f"{name}: found shape {other.shape}, expected {saliency.size} frames as in saliency")
    if not np.isfinite(saliency).all() or not np.isfinite(other).all():
        name = name if np.isfinite(saliency).all() else "saliency"
        raise ValueError(f"{name}: found NaN or infinity, expected finite numbers")
    if name == "keyframes" and not np.isin(other, (0.0, 1.0)).all():
        raise ValueError("keyframes: found other values than 0 and 1")
    if name == "importance" and other.ndim != 1:
        raise ValueError(f"importance: found shape {other.shape}, expected (T,), the annotators' mean")
    return saliency, other


def frame_budget(T: int) -> int:
    """Return 15% of T frames, rounded down."""
    return int(SUMMARY_FRACTION * T)


@dataclasses.dataclass(frozen=True)
class AnnotatorLabels:
    """The annotators' labels of one video.

    Attributes:
        keyframes: (R, T) float64 in {0, 1}.
        importance: (R, T) float64 in [0, 1]; the key-frames, unless the annotators graded the frames.
    """

    keyframes: np.ndarray
    importance: np.ndarray

    @classmethod
    def from_keyframes(cls, keyframes: np.ndarray) -> Self:
        """Use key-frames (R, T) in {0, 1} as importance, too; raises a ValueError for other values or shapes."""
        rows = np.asarray(keyframes, np.float64)
        if rows.ndim != 2 or not rows.size:
            raise ValueError(f"keyframes: found shape {rows.shape}, expected (R, T)")
        if not np.isin(rows, (0.0, 1.0)).all():
            raise ValueError("keyframes: found other values than 0 and 1")
        return cls(rows, rows)

    @classmethod
    def from_importance(cls, importance: np.ndarray) -> Self:
        """Derive key-frames from importance (R, T) by `select_top_rows`; raises a ValueError if it is not such."""
        rows = np.asarray(importance, np.float64)
        if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
            raise ValueError(f"importance: found shape {rows.shape} or NaN, expected finite (R, T)")
        return cls(select_top_rows(rows), rows)

    @property
    def num_annotators(self) -> int:
        """R."""
        return len(self.keyframes)


def binary_f1(selected: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    """Compute the F1 of selected frames (N, T) against key-frames (R, T), in {0, 1}: (N, R); 0 if both are empty."""
    hits = selected @ keyframes.T
    total = selected.sum(-1)[:, None] + keyframes.sum(-1)
    return np.divide(2.0 * hits, total, out=np.zeros(total.shape), where=total > 0)


def select_top_rows(saliency: np.ndarray) -> np.ndarray:
    """Select frames (N, T) in {0, 1} that score at least the (n+1)-th highest of their row, n = int(0.15 T)."""
    T = saliency.shape[1]
    index = T - 1 - min(frame_budget(T), T - 1)
    threshold = np.partition(saliency, index, axis=1)[:, index, None]
    return (saliency >= threshold).astype(np.float64)


def _select_published(saliency: np.ndarray) -> np.ndarray:
    """Select frames (N, T) in {0, 1} as the released script does."""
    T = saliency.shape[1]
    return (saliency >= saliency[:, T - 1 - frame_budget(T), None]).astype(np.float64)  # QUIRK-7


def select_top_frames(saliency: np.ndarray) -> np.ndarray:
    """Select the frames that F1 compares with the annotators', the top 15% of saliency (T,): (T,) bool."""
    return select_top_rows(np.asarray(saliency, np.float64)[None])[0].astype(bool)


def f1_per_annotator(saliency: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    """Score the top 15% of frames against each annotator's key-frames.

    Args:
        saliency: (T,) float on any monotone scale, one value per frame at 1 fps.
        keyframes: (R, T) in {0, 1}, one row per annotator.
    Returns:
        (R,) float64 in [0, 1]; 0 if neither side has a frame.
    Raises:
        ValueError: the lengths differ, T is 0, or a score is not finite.
    Source: VideoXum (Lin et al., 2023), section on evaluation. It selects the frames that score at least the (n+1)-th
        highest, n = int(0.15 T): the threshold is inclusive (QUIRK-4).
    """
    saliency, keyframes = check_scores(saliency, keyframes, "keyframes")
    return binary_f1(select_top_rows(saliency[None]), keyframes)[0]


def f1_published_per_annotator(saliency: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    """Score frames as the released evaluation script does.

    It sorts scores of shape (T, 1) along the second axis, which has no effect: its threshold is the score of frame
    T-1-int(0.15 T), not of a rank (QUIRK-7).

    Args, Returns, Raises: as in `f1_per_annotator`.
    """
    saliency, keyframes = check_scores(saliency, keyframes, "keyframes")
    return binary_f1(_select_published(saliency[None]), keyframes)[0]


RowStatistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def correlate_rows(statistic: RowStatistic, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlate row i of x with row i of y, (N, T) or (1, T) each: (N,) float64, 0 where undefined.

    Args:
        statistic: `kendall` or `spearman`.
    """
    x, y = np.broadcast_arrays(x, y)
    return np.nan_to_num(statistic(x, y)) if x.shape[-1] > 1 else np.zeros(len(x))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute Kendall's τ-b between rows (N, T): (N,), NaN for constant rows."""
    from scipy import stats

    return stats.kendalltau(x, y, axis=-1).statistic


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute Spearman's ρ between rows (N, T): (N,), NaN for constant rows.

    It is Pearson's correlation of the ranks: `scipy.stats.spearmanr` correlates columns with each other, not rows
    pairwise.
    """
    from scipy import stats

    x, y = (stats.rankdata(rows, axis=-1) - (rows.shape[-1] + 1) / 2 for rows in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def kendall_tau(saliency: np.ndarray, importance: np.ndarray) -> float:
    """Compute Kendall's τ-b between saliency (T,) and importance (T,), the annotators' mean; 0 if undefined."""
    saliency, importance = check_scores(saliency, importance, "importance")
    return float(correlate_rows(kendall, saliency[None], importance[None])[0])


def spearman_rho(saliency: np.ndarray, importance: np.ndarray) -> float:
    """Compute Spearman's ρ between saliency (T,) and importance (T,), the annotators' mean; 0 if undefined."""
    saliency, importance = check_scores(saliency, importance, "importance")
    return float(correlate_rows(spearman, saliency[None], importance[None])[0])


# Functions for `registry.METRICS`. The first of each kind scores saliency (N, T) against the labels of R annotators,
# metric -> (N,); `human_…` scores each annotator against the others, metric -> (R,); `selection_…` scores sets of
# selected frames (N, T) in {0, 1}, metric -> (N,).


def selection_f1_scores(selected: np.ndarray, labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute the F1 of selected frames: mean and maximum over the annotators."""
    f1 = binary_f1(selected, labels.keyframes)  # (N, R)
    return dict(F1=f1.mean(1), F1_max=f1.max(1))


def f1_scores(saliency: np.ndarray, labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute the F1 of the top 15%: mean and maximum over the annotators."""
    return selection_f1_scores(select_top_rows(saliency), labels)


def human_f1_scores(labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute the F1 of each annotator's key-frames against each other annotator's."""
    f1 = without_diagonal(binary_f1(labels.keyframes, labels.keyframes))  # (R, R - 1)
    return dict(F1=f1.mean(1), F1_max=f1.max(1))


def f1_published_scores(saliency: np.ndarray, labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute the F1 of the frames that the released script selects: mean and maximum over the annotators."""
    f1 = binary_f1(_select_published(saliency), labels.keyframes)  # (N, R)
    return dict(F1_published=f1.mean(1), F1_published_max=f1.max(1))


def human_f1_published_scores(labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute `f1_published_scores` of each annotator, whose key-frames are thresholded as if they were saliency."""
    keyframes = labels.keyframes
    f1 = without_diagonal(binary_f1(_select_published(keyframes), keyframes))  # (R, R - 1)
    return dict(F1_published=f1.mean(1), F1_published_max=f1.max(1))


def rank_correlations(saliency: np.ndarray, labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute τ-b and ρ with the annotators' mean."""
    importance = labels.importance.mean(0, keepdims=True)  # (1, T)
    return _kendall_and_spearman(saliency, importance)


def human_rank_correlations(labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute τ-b and ρ of each annotator with the mean of the others."""
    importance = labels.importance
    return _kendall_and_spearman(importance, importance.sum(0) - importance)


def _kendall_and_spearman(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    return dict(Kendall=correlate_rows(kendall, x, y), Spearman=correlate_rows(spearman, x, y))


def without_diagonal(table: np.ndarray) -> np.ndarray:
    """Remove each annotator's score against itself: (R, R) -> (R, R - 1)."""
    return table[~np.eye(len(table), dtype=bool)].reshape(len(table), -1)


def average(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average a list of dictionaries with the same keys."""
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
