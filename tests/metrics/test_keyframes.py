import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from metrics import (
    AnnotatorLabels,
    f1_per_annotator,
    f1_published_per_annotator,
    human_baseline,
    kendall_tau,
    keyframe_scores,
    random_baseline,
    spearman_rho,
)
from metrics.keyframes import correlate_rows, kendall, spearman


def test_scores_equal_golden_values(golden):
    for case in golden("metrics.json"):
        for i, length in enumerate(case["lengths"]):
            saliency = np.array(case["saliency"][i][:length])
            keyframes = np.array(case["vsum_labels"][i])[:, :length]
            f1, published = f1_per_annotator(saliency, keyframes), f1_published_per_annotator(saliency, keyframes)
            actual = dict(f1_min=f1.min(), f1_max=f1.max(), f1_mean=f1.mean())
            actual |= dict(f1_published_min=published.min(), f1_published_max=published.max())
            actual |= dict(f1_published_mean=published.mean())
            actual |= dict(kendall=kendall_tau(saliency, keyframes.mean(0)))
            actual |= dict(spearman=spearman_rho(saliency, keyframes.mean(0)))
            for name, value in actual.items():
                assert value == pytest.approx(case[name][i], abs=1e-6), (case["kind"], length, name)


@pytest.fixture(params=[1, 2, 6, 7, 13, 100, 101])
def video(request):
    rng = np.random.default_rng(request.param)
    T = request.param
    return np.round(rng.random(T), 1), (rng.random((10, T)) < 0.2).astype(np.uint8)


def test_f1_equals_scikit_learn_with_an_inclusive_threshold(video):
    """QUIRK-4: ties with the (n+1)-th highest are selected too."""
    saliency, keyframes = video
    limit = int(0.15 * len(saliency))
    threshold = sorted(saliency, reverse=True)[limit]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [f1_score(row, saliency >= threshold, zero_division=0) for row in keyframes]
    np.testing.assert_allclose(f1_per_annotator(saliency, keyframes), expected, atol=1e-12)
    assert (saliency >= threshold).sum() >= limit + 1


def test_published_f1_uses_the_score_of_one_fixed_frame(video):
    """QUIRK-7."""
    saliency, keyframes = video
    T = len(saliency)
    threshold = np.sort(saliency[:, None], axis=1)[::1][T - 1 - int(0.15 * T), 0]  # sorted along the wrong axis
    expected = [f1_score(row, saliency >= threshold, zero_division=0) for row in keyframes]
    np.testing.assert_allclose(f1_published_per_annotator(saliency, keyframes), expected, atol=1e-12)


def test_correlations_equal_scipy(video):
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
def test_row_correlations_equal_scipy(levels, T):
    rng = np.random.default_rng(T)
    x, y = (rng.integers(0, level, (6, T)) / 7 for level in levels)
    actual = correlate_rows(kendall, x, y), correlate_rows(spearman, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            [function(*pair).statistic for pair in zip(x, y)] for function in (stats.kendalltau, stats.spearmanr)
        ]
    np.testing.assert_allclose(actual, np.nan_to_num(expected), rtol=0, atol=1e-12)
    broadcast = correlate_rows(kendall, x, y[:1])
    np.testing.assert_allclose(broadcast, correlate_rows(kendall, x, y[[0] * 6]), rtol=0, atol=0)


def test_undefined_scores_are_zero():
    scores = keyframe_scores(np.arange(5.0), AnnotatorLabels.from_keyframes(np.zeros((10, 5))))  # no key-frames
    assert scores == dict.fromkeys(scores, 0.0)
    assert kendall_tau(np.ones(5), np.arange(5)) == spearman_rho(np.ones(5), np.arange(5)) == 0.0


def test_invalid_inputs_raise():
    with pytest.raises(ValueError, match=r"keyframes: found shape \(10, 4\), expected 5 frames"):
        f1_per_annotator(np.arange(5.0), np.ones((10, 4)))
    with pytest.raises(ValueError, match=r"saliency: found shape \(0,\)"):
        f1_per_annotator(np.zeros(0), np.ones((10, 0)))
    with pytest.raises(ValueError, match="keyframes: found other values than 0 and 1"):
        f1_per_annotator(np.arange(2.0), np.full((10, 2), 0.5))
    with pytest.raises(ValueError, match="keyframes: found other values than 0 and 1"):
        AnnotatorLabels.from_keyframes(np.full((10, 2), 0.5))
    with pytest.raises(ValueError, match=r"keyframes: found shape \(2,\), expected \(R, T\)"):
        AnnotatorLabels.from_keyframes(np.ones(2))
    with pytest.raises(ValueError, match="importance: found .* NaN"):
        AnnotatorLabels.from_importance(np.array([[0.5, np.nan]]))
    with pytest.raises(ValueError, match="importance: found NaN"):
        spearman_rho(np.arange(2.0), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match=r"importance: found shape \(10, 2\)"):
        kendall_tau(np.arange(2.0), np.ones((10, 2)))
    with pytest.raises(ValueError, match="saliency: found NaN"):
        kendall_tau(np.array([1.0, np.nan]), np.ones(2))


def test_human_baseline_equals_explicit_loops():
    rng = np.random.default_rng(0)
    videos = [(rng.random((10, T)) < 0.3).astype(int) for T in (9, 30)]
    f1, best, tau = [], [], []
    for rows in videos:
        table = np.array([[f1_score(other, row, zero_division=0) for other in rows] for row in rows])
        others = ~np.eye(10, dtype=bool)
        f1.append(table[others].mean())
        best.append(np.where(others, table, -1).max(1).mean())
        taus = [stats.kendalltau(rows[r], rows[others[r]].mean(0)).statistic for r in range(10)]
        tau.append(np.nan_to_num(taus).mean())  # NaN for annotators who selected no frame
    actual = human_baseline(list(map(AnnotatorLabels.from_keyframes, videos)))
    assert actual["F1"] == pytest.approx(np.mean(f1))
    assert actual["F1_max"] == pytest.approx(np.mean(best))
    assert actual["Kendall"] == pytest.approx(np.mean(tau))


def test_random_baseline_equals_chance():
    rng = np.random.default_rng(0)
    videos = [AnnotatorLabels.from_keyframes(rng.random((10, 120)) < 0.15) for _ in range(60)]
    baseline = random_baseline(videos)
    assert baseline["F1"] == pytest.approx(0.155, abs=0.015) and abs(baseline["Kendall"]) < 0.02
    assert baseline["F1_published"] > baseline["F1"] + 0.02  # the published script scores chance higher
    assert random_baseline(videos) == baseline
