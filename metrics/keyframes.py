"""Key-frame scores: F1 (two definitions), Kendall's τ-b, Spearman's ρ; for the model, chance and the annotators.

One video at a time, NumPy, unpadded. Axes: R annotators, T frames at 1 fps, N rows of scores for one video.
"""

import numpy as np

from metrics import ranks
from metrics.ranks import Ranks

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
    """F1 of each row of chosen frames (N, T) against each of key-frames (R, T), in {0, 1}; 0 without any: (N, R)."""
    hits = chosen @ keyframes.T
    total = chosen.sum(-1)[:, None] + keyframes.sum(-1)
    return np.divide(2.0 * hits, total, out=np.zeros(total.shape), where=total > 0)


def _top(saliency):
    """Frames (N, T) in {0, 1} that score at least the (n+1)-th highest of their row, n = int(0.15 T)."""
    T = saliency.shape[1]
    place = T - 1 - min(budget(T), T - 1)
    threshold = np.partition(saliency, place, axis=1)[:, place, None]
    return (saliency >= threshold).astype(np.float64)


def _published_top(saliency):
    """Frames (N, T) in {0, 1} that the released script chooses."""
    T = saliency.shape[1]
    return (saliency >= saliency[:, T - 1 - budget(T), None]).astype(np.float64)  # QUIRK-7


def top_frames(saliency):
    """Frames (T,) bool that F1 compares with the annotators': the top 15 % of the scores (T,), see `_top`."""
    return _top(np.asarray(saliency, np.float64)[None])[0].astype(bool)


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
    return binary_f1(_top(saliency[None]), keyframes)[0]


def f1_published_per_annotator(saliency, keyframes):
    """Score frames as the released evaluation script does.

    Its scores have the shape (T, 1) and its sort runs along the second axis, which changes nothing: the threshold
    is the score of frame T-1-int(0.15 T), whatever that is (QUIRK-7).

    Args, Returns, Raises: as in `f1_per_annotator`.
    """
    saliency, keyframes = _checked(saliency, keyframes, "keyframes")
    return binary_f1(_published_top(saliency[None]), keyframes)[0]


def _correlation(function, saliency, importance):
    saliency, importance = _checked(saliency, importance, "importance")
    return float(function(Ranks(saliency[None]), Ranks(importance[None]))[0])


def kendall_tau(saliency, importance):
    """Kendall's τ-b between scores (T,) and importance (T,), the annotators' mean; 0 where undefined."""
    return _correlation(ranks.kendall, saliency, importance)


def spearman_rho(saliency, importance):
    """Spearman's ρ between scores (T,) and importance (T,), the annotators' mean; 0 where undefined."""
    return _correlation(ranks.spearman, saliency, importance)


def _named(f1, published, saliency, importance):
    """Scores of N rows: dictionary from `NAMES` to (N,); f1 and published are (N, R), the others (N, T) or (1, T)."""
    x, y = Ranks(saliency), Ranks(importance)
    correlations = ranks.kendall(x, y), ranks.spearman(x, y)
    return dict(zip(NAMES, (f1.mean(1), f1.max(1), published.mean(1), published.max(1), *correlations)))


def keyframe_scores(saliency, keyframes):
    """All key-frame scores of one video: dictionary from `NAMES` to float.

    Args:
        saliency: (T,) float.
        keyframes: (R, T) in {0, 1}.
    """
    saliency, keyframes = _checked(saliency, keyframes, "keyframes")
    return {name: float(value[0]) for name, value in _scores_of_rows(saliency[None], keyframes).items()}


def _scores_of_rows(saliency, keyframes):
    """As `keyframe_scores`, of N scorings (N, T) of one video: dictionary from `NAMES` to (N,)."""
    tops = binary_f1(_top(saliency), keyframes), binary_f1(_published_top(saliency), keyframes)
    return _named(*tops, saliency, keyframes.mean(0, keepdims=True))


def average(scores):
    """Average a list of dictionaries with the same keys."""
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def random_baseline(keyframes, seeds=range(5)):
    """Scores of uniform random saliency, averaged over videos and seeds.

    Args:
        keyframes: list of (R, T) arrays, one per video.
        seeds: one run over all videos for each.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    scores = []
    for rows in keyframes:
        saliency = np.stack([rng.random(rows.shape[1]) for rng in generators])
        scores.append(_scores_of_rows(saliency, np.asarray(rows, np.float64)))
    return average(scores)


def human_scores(keyframes):
    """Score each annotator of one video against the nine others, averaged over the annotators.

    F1 compares their key-frames with each other one's; τ and ρ with the others' mean. `F1_published` puts a row
    of key-frames through the released script's threshold, as if it were scores.

    Args:
        keyframes: (R, T) in {0, 1}, R ≥ 2.
    """
    keyframes = np.asarray(keyframes, np.float64)
    R = len(keyframes)
    others = ~np.eye(R, dtype=bool)
    tables = (binary_f1(chosen, keyframes) for chosen in (keyframes, _published_top(keyframes)))
    f1, published = (table[others].reshape(R, R - 1) for table in tables)
    scores = _named(f1, published, keyframes, keyframes.sum(0) - keyframes)
    return {name: float(value.mean()) for name, value in scores.items()}


def human_baseline(keyframes):
    """`human_scores` averaged over videos; keyframes is a list of (R, T) arrays."""
    return average([human_scores(rows) for rows in keyframes])
