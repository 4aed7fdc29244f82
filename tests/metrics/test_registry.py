"""The registry of metrics: complete and consistent with the results of its functions."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from metrics.keyframes import AnnotatorLabels
from metrics.registry import (
    METRICS,
    PAPER_METRICS,
    compute_functions_for,
    format_score,
    keyframe_scores,
    score_selections,
)
from report.runs import PUBLISHED


def test_functions_return_the_metrics_of_their_rows():
    rng = np.random.default_rng(0)
    saliency, keyframes = rng.random((2, 40)), (rng.random((10, 40)) < 0.2).astype(float)
    labels = AnnotatorLabels.from_keyframes(keyframes)
    for compute in compute_functions_for("saliency"):
        rows = {name for name, metric in METRICS.items() if metric.compute is compute}
        scores = compute(saliency, labels)
        assert set(scores) == rows and all(values.shape == (2,) for values in scores.values())
        (human,) = {METRICS[name].human for name in rows}
        assert {name: values.shape for name, values in human(labels).items()} == dict.fromkeys(rows, (10,))
    assert list(keyframe_scores(saliency[0], labels)) == [
        metric.name for metric in METRICS.values() if metric.needs == "saliency"
    ]


def test_selections_are_scored_by_their_rows():
    rng = np.random.default_rng(0)
    selected, labels = rng.random((3, 40)) < 0.2, AnnotatorLabels.from_keyframes(rng.random((4, 40)) < 0.2)
    scores = score_selections(selected.astype(float), labels)
    assert list(scores) == [metric.name for metric in METRICS.values() if metric.compute_selection]
    for row, f1 in zip(selected, scores["F1"]):
        assert f1 == pytest.approx(np.mean([f1_score(human, row) for human in labels.keyframes]))


def test_every_metric_that_is_not_predicted_has_a_function():
    assert all((metric.compute is not None) == (metric.needs in ("saliency", "caption")) for metric in METRICS.values())
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("name", "value", "text"), [("F1", 0.2351, "23.5"), ("Kendall", 0.1964, "0.196"), ("CIDEr", 0.2306, "23.1")]
)
def test_scores_are_printed_as_in_the_paper(name, value, text):
    assert format_score(name, value) == text and format_score(name, value, "+") == f"+{text}"


def test_published_rows_have_the_metrics_of_the_paper():
    assert all(tuple(row) == PAPER_METRICS for row in PUBLISHED.values())
