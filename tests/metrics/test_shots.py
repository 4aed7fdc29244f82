"""The protocol of TVSum and SumMe against SciPy, exhaustive search and cases computed by hand."""

import itertools
import os
import types

import numpy as np
import pytest
import scipy.stats

from data.tvsum_summe import BenchmarkVideo, read_tvsum_mat
from metrics.keyframes import average
from metrics.shots import (
    knapsack_summary,
    make_reference,
    score_annotators,
    score_frames,
    score_random,
    shots_in_frames,
)

SHOTS = ((0, 30), (30, 40), (40, 75), (75, 90), (90, 120), (120, 200))


@pytest.fixture
def ratings():
    """Importance from 1 to 5, constant for 10 frames, with one constant annotator: (4, 200)."""
    rows = np.repeat(np.random.default_rng(0).integers(1, 6, (4, 20)), 10, axis=1).astype(float)
    rows[3] = 2
    return rows


def compute_f1(a, b):
    hits = sum(x and y for x, y in zip(a, b))
    return 2 * hits / (sum(a) + sum(b)) if sum(a) + sum(b) else 0.0


def correlate(function, a, b):
    return 0.0 if len(set(a)) == 1 or len(set(b)) == 1 else float(function(a, b)[0])


def find_best_total(scores, shots):
    """Find the largest sum of mean scores of shots within int(0.15 n) frames by exhaustive search."""
    limit, best = int(0.15 * len(scores)), 0.0
    for count in range(len(shots) + 1):
        for subset in itertools.combinations(shots, count):
            if sum(stop - start for start, stop in subset) <= limit:
                best = max(best, sum(np.mean(scores[start:stop]) for start, stop in subset))
    return best


def test_summary_equals_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(100):
        num_frames = int(rng.integers(8, 60))
        cuts = sorted(rng.choice(np.arange(1, num_frames), int(rng.integers(0, 8)), replace=False).tolist())
        shots, scores = list(zip([0, *cuts], [*cuts, num_frames])), rng.random(num_frames)
        summary = knapsack_summary(scores, shots)
        assert set(summary.tolist()) <= {0, 1} and summary.sum() <= int(0.15 * num_frames)
        assert all(len(set(summary[start:stop])) == 1 for start, stop in shots)  # whole shots
        total = sum(scores[start:stop].mean() for start, stop in shots if summary[start])
        assert total == pytest.approx(find_best_total(scores, shots))


def test_f1_is_the_mean_on_tvsum_and_the_maximum_on_summe():
    users = np.zeros((3, 200), np.uint8)
    users[0, 30:40] = users[1, 30:50] = users[2, 100:110] = 1
    scores = np.zeros(200)
    scores[30:40] = scores[75:80] = 1  # 30 frames: both shots fit, together 25
    video = BenchmarkVideo("v", 200, picks=np.arange(0, 200, 10), user_summary=users, change_points=SHOTS)
    each = [2 * 10 / 35, 2 * 10 / 45, 0]
    assert score_frames(scores, make_reference(video, "tvsum")) == dict(F1=pytest.approx(np.mean(each)))
    assert score_frames(scores, make_reference(video, "summe"))["F1"] == pytest.approx(max(each))
    human = [compute_f1(users[0], users[1]), compute_f1(users[0], users[2]), compute_f1(users[1], users[2])]
    assert score_annotators(make_reference(video, "tvsum"))["F1"] == pytest.approx(np.mean(human))
    maxima = [max(human[0], human[1]), max(human[0], human[2]), max(human[1], human[2])]
    assert score_annotators(make_reference(video, "summe"))["F1"] == pytest.approx(np.mean(maxima))


def test_tvsum_user_summaries_are_computed_from_ratings(ratings):
    video = BenchmarkVideo("v", 200, duration=20.0, user_scores=ratings)
    reference = make_reference(video, "tvsum", SHOTS)
    for row, summary in zip(ratings, reference.user_summary):
        total = sum(row[start:stop].mean() for start, stop in SHOTS if summary[start])
        assert total == pytest.approx(find_best_total(row, SHOTS))
    given = np.eye(4, 200)
    assert (
        make_reference(BenchmarkVideo("v", 200, picks=np.arange(2), user_summary=given), "tvsum").user_summary is given
    )
    assert "F1" not in score_frames(np.ones(200), make_reference(video, "tvsum"))  # no shots


def test_correlations_equal_scipy(ratings):
    """At the middle frame of each second, with each annotator and with their mean."""
    video = BenchmarkVideo("v", 200, duration=20.0, user_scores=ratings)
    reference, scores = make_reference(video, "tvsum"), np.random.default_rng(1).random(200)
    frames = [10 * second + 5 for second in range(20)]
    assert reference.scored_frames.tolist() == frames
    predicted, users = scores[frames], ratings[:, frames]
    scores_of_frames, human = score_frames(scores, reference), score_annotators(reference)
    for name, function in dict(Kendall=scipy.stats.kendalltau, Spearman=scipy.stats.spearmanr).items():
        assert scores_of_frames[name] == pytest.approx(
            np.mean([correlate(function, predicted, user) for user in users])
        )
        assert scores_of_frames[f"{name}_mean"] == pytest.approx(correlate(function, predicted, users.mean(0)))
        pairs = [correlate(function, a, b) for a, b in itertools.combinations(users, 2)]
        assert human[name] == pytest.approx(np.mean(pairs))
        others = [correlate(function, a, np.delete(users, i, 0).mean(0)) for i, a in enumerate(users)]
        assert human[f"{name}_mean"] == pytest.approx(np.mean(others))


def test_references_of_tvsum_and_summe():
    users, gtscore = np.eye(3, 40, dtype=np.uint8), np.arange(4.0)
    video = BenchmarkVideo("v", 40, picks=np.arange(0, 40, 10), user_summary=users, gtscore=gtscore)
    tvsum, summe = make_reference(video, "tvsum"), make_reference(video, "summe")
    assert tvsum.user_values is None and tvsum.mean_values is gtscore  # selections are not TVSum's importance
    assert np.array_equal(summe.user_values, users[:, ::10])
    assert np.array_equal(summe.mean_values, users[:, ::10].mean(0))
    assert set(score_frames(np.arange(40), tvsum)) == {"Kendall_mean", "Spearman_mean"}
    assert score_frames(np.arange(40), tvsum)["Kendall_mean"] == pytest.approx(1)


def test_random_scores_do_not_correlate_with_annotators(ratings):
    video = BenchmarkVideo("v", 200, duration=20.0, user_scores=ratings, change_points=SHOTS)
    reference = make_reference(video, "tvsum")
    random_scores = score_random(reference, range(200))
    assert random_scores == score_random(reference, range(200)) and 0 < random_scores["F1"] < 1
    assert all(abs(random_scores[name]) < 0.04 for name in ("Kendall", "Spearman", "Kendall_mean", "Spearman_mean"))


def test_shots_are_converted_from_seconds_to_frames():
    video = types.SimpleNamespace(num_frames=10, duration=2.5)
    second = BenchmarkVideo.second_of_frame(video, 4)
    assert shots_in_frames([(0, 1), (1, 3), (3, 4)], second) == [(0, 4), (4, 10)]  # no frame lies in the fourth second


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.ones(199), "expected .200,."), (np.full(200, np.nan), "found NaN"), (-np.ones(200), "less than 0")],
)
def test_invalid_scores_raise(ratings, scores, message):
    reference = make_reference(BenchmarkVideo("v", 200, duration=20.0, user_scores=ratings), "tvsum")
    with pytest.raises(ValueError, match=message):
        score_frames(scores, reference)


@pytest.mark.skipif("VTSUM_TVSUM" not in os.environ, reason="VTSUM_TVSUM does not name ydata-tvsum50.mat")
def test_agreement_of_tvsum_annotators_equals_publication():
    """Otani et al., CVPR 2019: human τ 0.177, ρ 0.204; random scores 0."""
    videos = read_tvsum_mat(os.environ["VTSUM_TVSUM"])
    references = [make_reference(video, "tvsum") for video in videos]
    assert len(videos) == 50 and all(len(video.user_scores) == 20 for video in videos)
    human, chance = (
        average([score(reference) for reference in references]) for score in (score_annotators, score_random)
    )
    assert human["Kendall"] == pytest.approx(0.177, abs=1e-3) and human["Spearman"] == pytest.approx(0.204, abs=1e-3)
    assert all(abs(value) < 0.01 for value in chance.values())
