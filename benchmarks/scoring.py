"""Key-frame scores of a split, beside scikit-learn's and SciPy's one video and annotator at a time."""

import time
import warnings

import numpy as np
from scipy import stats
from sklearn.metrics import f1_score

from benchmarks.workload import ANNOTATORS, draw_lengths
from metrics import human_baseline, keyframe_scores, random_baseline

COMPARED = 100  # videos that the peer scores: all of them would take it minutes


def draw(count):
    """Saliency and key-frames of as many videos."""
    rng = np.random.default_rng(0)
    frames = draw_lengths(count, seed=3)[0]
    keyframes = [(rng.random((ANNOTATORS, T)) < 0.15).astype(np.uint8) for T in frames]
    return [rng.random(T) for T in frames], keyframes


def peer_scores(saliency, keyframes):
    """F1, τ and ρ of one video by the libraries."""
    chosen = saliency >= np.sort(saliency)[::-1][int(0.15 * len(saliency))]
    importance = keyframes.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f1 = np.mean([f1_score(row, chosen, zero_division=0) for row in keyframes])
        return f1, stats.kendalltau(saliency, importance).statistic, stats.spearmanr(saliency, importance).statistic


def timed(work):
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def run(count=4000):
    """Score a split, and chance and the annotators on it."""
    saliency, keyframes = draw(count)
    found, mine = timed(lambda: [keyframe_scores(*video) for video in zip(saliency, keyframes)])
    some = min(COMPARED, count)
    expected, other = timed(lambda: [peer_scores(*video) for video in zip(saliency[:some], keyframes[:some])])
    ours = [[video[name] for name in ("F1", "Kendall", "Spearman")] for video in found[:some]]
    error = np.abs(np.nan_to_num(expected) - ours).max()
    assert error < 1e-12, f"scores differ by {error}"
    _, baselines = timed(lambda: (random_baseline(keyframes), human_baseline(keyframes)))
    row = dict(what=f"F1, τ, ρ of {count} videos", project=mine, peer=other * count / some, unit="s")
    row |= dict(peer_is=f"scikit-learn, SciPy (timed on {some})", ratio=other * count / some / mine)
    row |= dict(check=f"within {error:.0e}")
    return [row, dict(what=f"random and human rows of {count} videos", project=baselines, unit="s")]
