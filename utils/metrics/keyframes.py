"""Key-frame scores: F1 (two definitions), Kendall's τ-b, Spearman's ρ; for the model, chance and the annotators.

One video at a time, NumPy, unpadded. Axes: R annotators, T frames at 1 fps.
"""

import warnings

import numpy as np
from scipy import stats

BUDGET = 0.15
NAMES = ("F1", "F1_max", "F1_published", "F1_published_max", "Kendall", "Spearman")


def _checked(saliency, other, name):
    """Return float64 saliency (T,) and `other` with T columns, or raise a ValueError."""
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


def budget(T):
    """Frames that make up 15 % of T, rounded down."""
    return int(BUDGET * T)


def binary_f1(chosen, keyframes):
    """F1 of chosen frames (…, T) against key-frames (…, T), both in {0, 1}; 0 where neither has any: (…,)."""
    hits = (chosen * keyframes).sum(-1)
    total = chosen.sum(-1) + keyframes.sum(-1)
    return np.divide(2.0 * hits, total, out=np.zeros(np.broadcast(hits, total).shape), where=total > 0)


def f1_per_annotator(saliency, keyframes):
    """Score the top 15 % of frames against each annotator's key-frames.

    Args:
        saliency: (T,) float, any monotone scale; one value per frame at 1 fps.
        keyframes: (R, T) in {0, 1}; one row per annotator.
    Returns:
        (R,) float64 in [0, 1]; 0 where neither side has a frame.
    Raises:
        ValueError: the lengths differ, T is 0, or a score is not finite.
    Source: VideoXum (Lin et al., 2023), section on evaluation. Chosen are the frames that score at least the
        (n+1)-th highest, n = int(0.15 T): the threshold is inclusive (QUIRK-4).
    """
    saliency, keyframes = _checked(saliency, keyframes, "keyframes")
    threshold = np.sort(saliency)[::-1][min(budget(saliency.size), saliency.size - 1)]
    return binary_f1((saliency >= threshold).astype(np.float64), keyframes)


def f1_published_per_annotator(saliency, keyframes):
    """Score frames as the released evaluation script does.

    Its scores have the shape (T, 1) and its sort runs along the second axis, which changes nothing: the threshold
    is the score of frame T-1-int(0.15 T), whatever that is (QUIRK-7).

    Args, Returns, Raises: as in `f1_per_annotator`.
    """
    saliency, keyframes = _checked(saliency, keyframes, "keyframes")
    threshold = saliency[saliency.size - 1 - budget(saliency.size)]
    return binary_f1((saliency >= threshold).astype(np.float64), keyframes)


def _correlation(function, saliency, importance):
    saliency, importance = _checked(saliency, importance, "importance")
    if np.ptp(saliency) == 0 or np.ptp(importance) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(function(saliency, importance).statistic)
    return value if np.isfinite(value) else 0.0


def kendall_tau(saliency, importance):
    """Kendall's τ-b between scores (T,) and importance (T,), the annotators' mean; 0 where undefined."""
    return _correlation(stats.kendalltau, saliency, importance)


def spearman_rho(saliency, importance):
    """Spearman's ρ between scores (T,) and importance (T,), the annotators' mean; 0 where undefined."""
    return _correlation(stats.spearmanr, saliency, importance)


def keyframe_scores(saliency, keyframes):
    """All key-frame scores of one video: dictionary from `NAMES` to float.

    Args:
        saliency: (T,) float.
        keyframes: (R, T) in {0, 1}.
    """
    keyframes = np.asarray(keyframes, np.float64)
    f1, published = f1_per_annotator(saliency, keyframes), f1_published_per_annotator(saliency, keyframes)
    importance = keyframes.mean(0)  # (T,)
    return dict(
        F1=float(f1.mean()),
        F1_max=float(f1.max()),
        F1_published=float(published.mean()),
        F1_published_max=float(published.max()),
        Kendall=kendall_tau(saliency, importance),
        Spearman=spearman_rho(saliency, importance),
    )


def average(scores):
    """Average a list of dictionaries with the same keys."""
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def random_baseline(keyframes, seeds=range(5)):
    """Scores of uniform random saliency, averaged over videos and seeds.

    Args:
        keyframes: list of (R, T) arrays, one per video.
        seeds: one run over all videos for each.
    """
    runs = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        runs.append(average([keyframe_scores(rng.random(rows.shape[1]), rows) for rows in keyframes]))
    return average(runs)


def human_scores(keyframes):
    """Score each annotator of one video against the nine others, averaged over the annotators.

    F1 compares their key-frames with each other one's; τ and ρ with the others' mean. `F1_published` puts a row
    of key-frames through the released script's threshold, as if it were scores.

    Args:
        keyframes: (R, T) in {0, 1}, R ≥ 2.
    """
    keyframes = np.asarray(keyframes, np.float64)
    R = len(keyframes)
    scores = []
    for r in range(R):
        row, others = keyframes[r], np.delete(keyframes, r, axis=0)  # (T,), (R-1, T)
        f1, published = binary_f1(row, others), f1_published_per_annotator(row, others)
        scores.append(
            dict(
                F1=float(f1.mean()),
                F1_max=float(f1.max()),
                F1_published=float(published.mean()),
                F1_published_max=float(published.max()),
                Kendall=kendall_tau(row, others.mean(0)),
                Spearman=spearman_rho(row, others.mean(0)),
            )
        )
    return average(scores)


def human_baseline(keyframes):
    """`human_scores` averaged over videos; keyframes is a list of (R, T) arrays."""
    return average([human_scores(rows) for rows in keyframes])
