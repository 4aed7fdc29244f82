"""Selection of seconds, against exhaustive search in small cases."""

import itertools
import math

import numpy as np
import pytest

from metrics.segmentation import knapsack, segment_shots
from summary.selection import (
    budget_seconds,
    describe_short_budget,
    parse_budget,
    seconds_before,
    select_frames,
    selected_segments,
)


def test_select_topk():
    saliency = np.array([0.1, 0.9, 0.5, 0.9, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0])
    assert np.flatnonzero(select_frames(saliency, None, 0.3).selected).tolist() == [1, 2, 3]
    assert np.flatnonzero(select_frames(saliency, None, 0.15).selected).tolist() == [
        1
    ]  # the earlier one of equal scores
    assert select_frames(saliency, None, 1.0).selected.all()
    assert select_frames(saliency[:1], None, 0.15).selected.tolist() == [True]
    for T, budget, expected in ((20, 0.15, 3), (10, 0.3, 3), (100, 0.29, 29), (7, 0.15, 1), (2000, 0.15, 300)):
        assert budget_seconds(budget, T) == expected


def test_knapsack_equals_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, limit = int(rng.integers(1, 8)), int(rng.integers(1, 15))
        values, weights = rng.random(count), rng.integers(1, 9, count).tolist()
        selected = knapsack(values, weights, limit)
        best = 0.0
        for size in range(count + 1):
            for subset in itertools.combinations(range(count), size):
                if sum(weights[i] for i in subset) <= limit:
                    best = max(best, sum(values[i] for i in subset))
        assert sum(weights[i] for i in selected) <= limit
        assert sum(values[i] for i in selected) == pytest.approx(best)


def test_segmentation_equals_exhaustive_search():
    """Minimize the criterion of kernel temporal segmentation by brute force."""
    rng = np.random.default_rng(1)
    for T in (1, 2, 4, 7, 9):
        features = np.repeat(rng.standard_normal((3, 6)), [T // 3, T // 3, T - 2 * (T // 3)], axis=0)
        features = features + 0.3 * rng.standard_normal((T, 6))
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        best, least = None, math.inf
        for num_cuts in range(T // 2 + 1 if T >= 4 else 1):
            for cuts in itertools.combinations(range(1, T), num_cuts):
                spans = list(zip([0, *cuts], [*cuts, T]))
                scatter = sum(((unit[start:stop] - unit[start:stop].mean(0)) ** 2).sum() for start, stop in spans)
                cost = scatter / T + (num_cuts / (2 * T) * (math.log(T / num_cuts) + 1) if num_cuts else 0)
                if cost < least - 1e-12:
                    best, least = spans, cost
        assert segment_shots(features) == best


def test_long_videos_are_segmented_in_parts():
    rng = np.random.default_rng(0)
    features = np.repeat(rng.standard_normal((26, 16)), 100, axis=0) + 0.1 * rng.standard_normal((2600, 16))
    assert segment_shots(features) == [(i, i + 100) for i in range(0, 2600, 100)]


def test_whole_shots_are_selected():
    rng = np.random.default_rng(0)
    features = np.repeat(np.eye(5, 16), [10, 4, 30, 6, 50], axis=0) + 0.01 * rng.standard_normal((100, 16))
    saliency = np.repeat([0.2, 0.9, 0.3, 0.8, 0.1], [10, 4, 30, 6, 50])
    for budget, segments, notes in (
        (0.15, [(10, 14), (44, 50)], ("Whole shots use 10 s of the budget of 15 s: no other shot fits.",)),
        ("12s", [(10, 14), (44, 50)], ()),
        (0.05, [(10, 14)], ()),
        ("9s", [(10, 14)], ("Whole shots use 4 s of the budget of 9 s: no other shot fits.",)),
    ):
        selection = select_frames(saliency, features, budget, "shots")
        assert (selected_segments(selection.selected, 100.0), selection.notes) == (segments, notes)
    # No shot fits into one second, so the best second of the best shot is selected.
    saliency[12] = 0.95
    selection = select_frames(saliency, features, 0.01, "shots")
    assert selected_segments(selection.selected, 100.0) == [(12.0, 13.0)]
    note = "No whole shot fits in the budget of 1 s: the shot from 0:10 to 0:14 is cut to its most salient 1 s."
    assert selection.notes == (note,)


def test_short_budgets_are_described():
    assert describe_short_budget(0.15, 10) == "budget 0.15 keeps only 1 s of the video; use a larger one, such as 3s"
    assert describe_short_budget("2.5s", 600) == "budget 2.5s keeps only 2 s of the video; use a larger one, such as 3s"
    for budget, T in ((0.15, 20), ("3s", 600), (0.5, 2), (1.0, 1)):
        assert describe_short_budget(budget, T) == ""


def test_segments_of_selected_seconds():
    selected = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool)
    assert selected_segments(selected, 7.25) == [(0.0, 2.0), (3.0, 4.0), (6.0, 7.25)]
    assert selected_segments(np.array([True]), 0.04) == [(0.0, 0.04)]


def test_budget_in_seconds():
    for T, budget, expected in ((20, "3s", 3), (20, "3.9 s", 3), (20, "99s", 20), (100, "0.29", 29), (7, "1", 7)):
        assert budget_seconds(budget, T) == expected
    assert [parse_budget(budget) for budget in ("0.15", "30s", 0.5)] == [0.15, "30s", 0.5]
    saliency = np.random.default_rng(0).random(100)
    in_seconds, in_fraction = (select_frames(saliency, None, budget).selected for budget in ("15s", 0.15))
    assert np.array_equal(in_seconds, in_fraction)


def test_time_in_the_skim():
    segments = [(1.0, 3.0), (5.0, 6.0), (9.0, 9.5)]
    expected = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5.5, 2.5), (8, 3), (20, 3.5)]
    assert [(second, seconds_before(segments, second)) for second, _ in expected] == expected


def test_invalid_budgets_and_methods_raise():
    for budget in (0, -1, 1.01, float("nan"), "0s", "0.5s", "1.5", "s", "-3s", "2m", "half", "nan", ""):
        with pytest.raises(ValueError, match="budget: found"):
            select_frames(np.ones(5), None, budget)
    with pytest.raises(ValueError, match="method: found 'best', expected one of topk, shots"):
        select_frames(np.ones(5), None, 0.15, "best")
