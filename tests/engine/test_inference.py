"""Predictions without labels and without annotations, with an untrained model on mini VideoXum."""

import json

import pytest
import torch

import eval_v2vt_sum
from data.pack import main as pack
from engine.predictions import read_predictions
from tests.conftest import ROOT


@pytest.fixture
def predict(mini_flags, mini_model, tmp_path, monkeypatch, without_java):
    """Return a function that predicts with an untrained model: the folder of the run. It needs no Java."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model=mini_model().state_dict()), "model.pth")

    def run(name, *flags):
        argv = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--pretrained_model", "model.pth"]
        eval_v2vt_sum.main([*argv, "--max_text_length", "20", "--predict_only", "--output_dir", name, *flags])
        return tmp_path / name

    return run


def assert_same_predictions(actual, expected):
    expected = {prediction.video_id: prediction for prediction in expected}
    for prediction in actual:
        other = expected[prediction.video_id]
        assert prediction.caption == other.caption and prediction.caption
        assert prediction.saliency == pytest.approx(other.saliency, abs=1e-5)


def test_every_video_with_features(predict, mini_root, tmp_path):
    ids = ["mini_val_002", "mini_val_001", "mini_train_030"]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    folder = predict("subset", "--ann_root", "", "--subset", "ids.txt")
    of_subset = read_predictions(folder / "predictions_all.jsonl")
    assert [prediction.video_id for prediction in of_subset] == sorted(ids)
    assert {path.name for path in folder.iterdir()} == {"eval.log", "config_eval.yaml", "predictions_all.jsonl"}
    assert "predictions_all.jsonl: 3 videos" in (folder / "eval.log").read_text()

    files = [str(mini_root / "anno/val_videoxum.json")]
    pack(["--features", str(mini_root / "feat/blip"), "--annotations", *files, "--out", "packed"])
    folder = predict("all", "--ann_root", "", "--video_embeddings_root", "packed")
    predictions = read_predictions(folder / "predictions_all.jsonl")
    assert len(predictions) == 3
    assert_same_predictions([p for p in of_subset if "train" not in p.video_id], predictions)
    folder = predict("visual", "--ann_root", "", "--subset", "ids.txt", "--task", "v2v")
    visual = read_predictions(folder / "predictions_all.jsonl")
    assert all(prediction.caption is None and prediction.saliency for prediction in visual)


def test_annotations_without_labels(predict, mini_root, tmp_path):
    """The records have an id and a duration only."""
    entries = json.loads((mini_root / "anno/test_videoxum.json").read_text())
    (tmp_path / "anno").mkdir()
    (tmp_path / "anno/test_videoxum.json").write_text(
        json.dumps([dict(video_id=entry["video_id"], duration=entry["duration"]) for entry in entries])
    )
    unlabeled = read_predictions(
        predict("unlabeled", "--ann_root", "anno", "--splits", "test") / "predictions_test.jsonl"
    )
    labeled = read_predictions(predict("labeled", "--splits", "test") / "predictions_test.jsonl")
    assert [p.video_id for p in unlabeled] == [p.video_id for p in labeled] and len(labeled) == 7
    assert_same_predictions(unlabeled, labeled)
    with pytest.raises(
        FileNotFoundError, match="val_videoxum.json: annotations: no such file; .*, or ann_root to '' to"
    ):
        predict("other", "--ann_root", "anno")
