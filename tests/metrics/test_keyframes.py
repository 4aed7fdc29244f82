import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from metrics import (
    f1_per_annotator,
    f1_published_per_annotator,
    human_baseline,
    kendall_tau,
    keyframe_scores,
    random_baseline,
    spearman_rho,
)
from metrics.keyframes import correlate_rows, kendall, spearman


def test_golden_scores(golden):
    for case in golden("metrics.json"):
        for i, length in enumerate(case["lengths"]):
            saliency = np.array(case["saliency"][i][:length])
            keyframes = np.array(case["vsum_labels"][i])[:, :length]
            f1, published = f1_per_annotator(saliency, keyframes), f1_published_per_annotator(saliency, keyframes)
            found = dict(f1_min=f1.min(), f1_max=f1.max(), f1_mean=f1.mean())
            found |= dict(f1_published_min=published.min(), f1_published_max=published.max())
            found |= dict(f1_published_mean=published.mean())
            found |= dict(kendall=kendall_tau(saliency, keyframes.mean(0)))
            found |= dict(spearman=spearman_rho(saliency, keyframes.mean(0)))
            for name, value in found.items():
                assert value == pytest.approx(case[name][i], abs=1e-6), (case["kind"], length, name)


@pytest.fixture(params=[1, 2, 6, 7, 13, 100, 101])
def video(request):
    rng = np.random.default_rng(request.param)
    T = request.param
    return np.round(rng.random(T), 1), (rng.random((10, T)) < 0.2).astype(np.uint8)


def test_f1_is_scikit_learns_on_the_inclusive_top(video):
    """QUIRK-4: ties with the (n+1)-th highest are chosen too."""
    saliency, keyframes = video
    n = int(0.15 * len(saliency))
    threshold = sorted(saliency, reverse=True)[n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [f1_score(row, saliency >= threshold, zero_division=0) for row in keyframes]
    np.testing.assert_allclose(f1_per_annotator(saliency, keyframes), expected, atol=1e-12)
    assert (saliency >= threshold).sum() >= n + 1


def test_published_f1_takes_the_score_of_one_fixed_frame(video):
    """QUIRK-7."""
    saliency, keyframes = video
    T = len(saliency)
    threshold = np.sort(saliency[:, None], axis=1)[::1][T - 1 - int(0.15 * T), 0]  # sorts along the wrong axis
    expected = [f1_score(row, saliency >= threshold, zero_division=0) for row in keyframes]
    np.testing.assert_allclose(f1_published_per_annotator(saliency, keyframes), expected, atol=1e-12)


def test_correlations_are_scipys(video):
    saliency, keyframes = video
    importance = keyframes.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tau = stats.kendalltau(saliency, importance).statistic if len(saliency) > 1 else np.nan
        rho = stats.spearmanr(saliency, importance).statistic if len(saliency) > 1 else np.nan
    assert kendall_tau(saliency, importance) == pytest.approx(np.nan_to_num(tau), abs=1e-12)
    assert spearman_rho(saliency, importance) == pytest.approx(np.nan_to_num(rho), abs=1e-12)


@pytest.mark.parametrize("levels", [(2, 2), (2, 11), (11, 10), (11, 1000), (1000, 1000), (1, 5)])
@pytest.mark.parametrize("T", [2, 3, 17, 400])
def test_rows_of_correlations_are_scipys(levels, T):
    rng = np.random.default_rng(T)
    x, y = (rng.integers(0, n, (6, T)) / 7 for n in levels)
    found = correlate_rows(kendall, x, y), correlate_rows(spearman, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [[f(*pair).statistic for pair in zip(x, y)] for f in (stats.kendalltau, stats.spearmanr)]
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=0, atol=1e-12)
    one = correlate_rows(kendall, x, y[:1])
    np.testing.assert_allclose(one, correlate_rows(kendall, x, y[[0] * 6]), rtol=0, atol=0)


def test_undefined_is_zero():
    nothing = np.zeros((10, 5))
    assert keyframe_scores(np.arange(5.0), nothing) == dict.fromkeys(keyframe_scores(np.arange(5.0), nothing), 0.0)
    assert kendall_tau(np.ones(5), np.arange(5)) == spearman_rho(np.ones(5), np.arange(5)) == 0.0


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"keyframes: found shape \(10, 4\), expected 5 frames"):
        f1_per_annotator(np.arange(5.0), np.ones((10, 4)))
    with pytest.raises(ValueError, match=r"saliency: found shape \(0,\)"):
        f1_per_annotator(np.zeros(0), np.ones((10, 0)))
    with pytest.raises(ValueError, match="keyframes: found other values than 0 and 1"):
        f1_per_annotator(np.arange(2.0), np.full((10, 2), 0.5))
    with pytest.raises(ValueError, match="importance: found NaN"):
        spearman_rho(np.arange(2.0), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match=r"importance: found shape \(10, 2\)"):
        kendall_tau(np.arange(2.0), np.ones((10, 2)))
    with pytest.raises(ValueError, match="saliency: found NaN"):
        kendall_tau(np.array([1.0, np.nan]), np.ones(2))


def test_human_baseline_by_hand():
    rng = np.random.default_rng(0)
    videos = [(rng.random((10, T)) < 0.3).astype(int) for T in (9, 30)]
    f1, best, tau = [], [], []
    for rows in videos:
        table = np.array([[f1_score(b, a, zero_division=0) for b in rows] for a in rows])
        others = ~np.eye(10, dtype=bool)
        f1.append(table[others].mean())
        best.append(np.where(others, table, -1).max(1).mean())
        taus = [stats.kendalltau(rows[r], rows[others[r]].mean(0)).statistic for r in range(10)]
        tau.append(np.nan_to_num(taus).mean())  # an annotator who chose nothing
    found = human_baseline(videos)
    assert found["F1"] == pytest.approx(np.mean(f1))
    assert found["F1_max"] == pytest.approx(np.mean(best))
    assert found["Kendall"] == pytest.approx(np.mean(tau))


def test_random_baseline_is_what_chance_gives():
    rng = np.random.default_rng(0)
    videos = [(rng.random((10, 120)) < 0.15).astype(int) for _ in range(60)]
    found = random_baseline(videos)
    assert found["F1"] == pytest.approx(0.155, abs=0.015) and abs(found["Kendall"]) < 0.02
    assert found["F1_published"] > found["F1"] + 0.02  # the published script flatters chance
    assert random_baseline(videos) == found
