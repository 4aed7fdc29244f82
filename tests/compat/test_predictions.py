"""Predictions of an earlier version have the same scores, and its results can be read."""

import json
import pathlib
import shutil

import pytest

from engine.config import Config
from metrics.__main__ import main
from report.runs import read_run

PREDICTIONS = pathlib.Path(__file__).parent / "predictions"


def read_scores(folder):
    """Read the results that do not need a model, and the scores by video."""
    results = json.loads((folder / "results_val.json").read_text())
    scores = [json.loads(line) for line in (folder / "scores_val.jsonl").read_text().splitlines()]
    return {name: results[name] for name in ("metrics", "baselines", "num_videos")}, scores


def test_predictions_have_the_same_scores(tmp_path):
    argv = [PREDICTIONS / "predictions_val.jsonl", PREDICTIONS / "val_videoxum.json", "--output_dir", tmp_path]
    main([*map(str, argv)])
    (results, scores), (expected_results, expected_scores) = read_scores(tmp_path), read_scores(PREDICTIONS)
    for name, expected in expected_results["baselines"].items():
        assert results["baselines"][name] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert results["metrics"] == pytest.approx(expected_results["metrics"], rel=1e-12)
    assert results["num_videos"] == expected_results["num_videos"]
    for row, expected in zip(scores, expected_scores, strict=True):
        assert row.pop("video_id") == expected.pop("video_id")
        assert row == pytest.approx(expected, rel=1e-12)
    line, expected = (json.loads((folder / "evaluate_val.txt").read_text()) for folder in (tmp_path, PREDICTIONS))
    assert line == pytest.approx(expected, rel=1e-12)


def test_results_can_be_read(tmp_path):
    run = read_run(shutil.copytree(PREDICTIONS, tmp_path / "run"), "val")
    results, scores = read_scores(PREDICTIONS)
    assert run.metrics == results["metrics"] and run.baselines == results["baselines"]
    assert run.video_ids == tuple(row["video_id"] for row in scores)
    for name in run.metrics:
        assert run.scores[name].tolist() == [row[name] for row in scores]
    assert run.seed == 42 and run.settings["kernel_size"] == 5 and run.settings["videos per step"] == 8
    assert run.results.versions["scipy"] == "1.17.1"
    assert run.settings.keys() > set(Config().resume_critical_fields()) - {"seed"}
