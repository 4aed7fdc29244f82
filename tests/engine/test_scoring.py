import json

import numpy as np
import pytest

from data.annotations import load_annotations
from data.captions import reference_caption
from engine.predictions import Prediction, read_predictions
from engine.scoring import format_table, score_predictions
from metrics.__main__ import main
from tests.helpers.documents import read_document


def score_entries(entries, records):
    return score_predictions([Prediction(**entry) for entry in entries], records)


@pytest.fixture
def records(mini_root):
    return load_annotations(mini_root / "anno/test_videoxum.json")


@pytest.fixture
def predictions(records):
    """Perfect predictions: the mean of the annotators and the reference caption."""
    return [
        dict(
            video_id=record.video_id,
            caption=reference_caption(record.tsum),
            saliency=record.vsum_onehot.mean(0).tolist(),
            vt_clip_score=0.1 * (record.index + 1),
        )
        for record in records
    ]


def test_perfect_predictions(predictions, records):
    results, scores = score_entries(predictions[::-1], records)  # in any order
    metrics = results["metrics"]
    assert metrics["Kendall"] == pytest.approx(1) and metrics["BLEU_4"] == pytest.approx(1)
    assert metrics["CIDEr"] == pytest.approx(10) and metrics["VT_CLIPScore"] == pytest.approx(0.4)
    assert results["num_videos"] == dict(expected=7, scored=7)
    assert [row["video_id"] for row in scores] == [record.video_id for record in records]
    for name in ("F1", "F1_published_max", "METEOR", "VT_CLIPScore"):
        assert np.mean([row[name] for row in scores]) == pytest.approx(metrics[name])
    keyframe_metrics = {"F1", "F1_max", "F1_published", "F1_published_max", "Kendall", "Spearman"}
    assert set(results["baselines"]["random"]) == set(results["baselines"]["human"]) == keyframe_metrics
    assert set(metrics) - keyframe_metrics == {
        *(f"BLEU_{n}" for n in range(1, 5)),
        "METEOR",
        "ROUGE_L",
        "CIDEr",
        "VT_CLIPScore",
    }
    table = format_table(results, "test")
    assert all(name in table for name in [*metrics, "random", "human", "7 of 7"])


def test_metrics_without_inputs_are_left_out(predictions, records):
    for entry in predictions:
        entry |= dict(caption=None, vt_clip_score=None)
    results, scores = score_entries(predictions[:3], records)
    assert set(results["metrics"]) == set(results["baselines"]["human"]) and "METEOR" not in scores[0]
    assert results["num_videos"] == dict(expected=7, scored=3)
    for entry in predictions:
        entry |= dict(caption="a red circle", saliency=None)
    results, _ = score_entries(predictions, records)
    assert "F1" not in results["metrics"] and "METEOR" in results["metrics"] and results["baselines"] == {}


def test_cut_saliency_requires_cut_from(predictions, records):
    T = records[0].num_frames
    predictions[0]["saliency"] = predictions[0]["saliency"][: T - 2]
    with pytest.raises(ValueError, match=f"{records[0].video_id}: saliency: found {T - 2} frames, expected {T}"):
        score_entries(predictions, records)
    predictions[0]["cut_from"] = T
    assert score_entries(predictions, records)[0]["num_videos"]["scored"] == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "line 1: found a list of 0, expected an object"),
        ("{}", "line 1: video_id: missing"),
        ('{"video_id": 3}', "line 1: video_id: found 3, expected text"),
        (
            '{"video_id": "v", "saliency": [1, NaN]}',
            "line 1: video v: saliency: 1: found nan, expected a finite",
        ),
        ('{"video_id": "v", "saliency": []}', "line 1: video v: saliency"),
        ('{"video_id": "v", "saliency": ["1"]}', "line 1: video v: saliency"),
        ('{"video_id": "v\\nw"}', "line 1: video_id: found 'v\\nw', expected a name"),
        ('{"video_id": "v", "saliency": [1' + "0" * 400 + "]}", "line 1: video v: saliency"),
        ('{"video_id": "v", "caption": "\\ud800"}', "line 1: not valid JSON"),
        ('{"video_id": "v", "caption": 3}', "line 1: video v: caption: found 3"),
        ('{"video_id": "v", "vt_clip_score": Infinity}', "line 1: video v: vt_clip_score: found inf"),
    ],
)
def test_invalid_predictions_raise(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError) as caught:
        read_predictions(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_mismatched_predictions_raise(predictions, records):
    with pytest.raises(ValueError, match="video x: not in the annotations"):
        score_entries([dict(predictions[0], video_id="x")], records)
    with pytest.raises(ValueError, match="found twice"):
        score_entries(predictions[:1] * 2, records)
    partial = [dict(entry, caption=None) if i == 2 else entry for i, entry in enumerate(predictions)]
    with pytest.raises(ValueError, match="caption: found null, expected it for every video or none"):
        score_entries(partial, records)
    with pytest.raises(ValueError, match="predictions: found none"):
        score_entries([], records)


def test_metrics_command(predictions, mini_root, tmp_path, capsys):
    path = tmp_path / "predictions_test.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in predictions))
    main([str(path), str(mini_root / "anno/test_videoxum.json"), "--output_dir", str(tmp_path / "out")])
    assert "test: 7 of 7 videos" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results_test.json").read_text())
    line = json.loads((tmp_path / "out/evaluate_test.txt").read_text())
    assert line["F1_MEAN"] == results["metrics"]["F1_published"] != results["metrics"]["F1"]
    assert line["F1_MAX"] == results["metrics"]["F1_published_max"]
    names = [*(f"val_Bleu_{n}" for n in range(1, 5)), "val_METEOR", "val_ROUGE_L", "val_CIDEr"]
    assert list(line) == ["F1_MEAN", "F1_MAX", "Kendall", "Spearman", *names, "VT_CLIPScore"]
    assert len((tmp_path / "out/scores_test.jsonl").read_text().splitlines()) == 7
    assert "python -m metrics" in read_document("evaluation")
