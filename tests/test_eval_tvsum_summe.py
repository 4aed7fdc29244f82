"""`eval_tvsum_summe.py` as a user runs it, on small files in the released layouts."""

import json

import numpy as np
import pytest
import scipy.stats
import torch

import eval_tvsum_summe as script
from data.eccv16 import read_eccv16
from data.tvsum_summe import BenchmarkVideo, read_tvsum_mat
from engine.score_files import make_splits, read_scores, read_splits, scores_of_videos
from engine.tvsum_summe import segment_annotated_features
from metrics.segmentation import segment_shots
from metrics.shots import knapsack_summary
from models.vtsum_blip import v2vt_sum
from tests.conftest import ROOT
from tests.helpers import tvsum_summe_files as files
from tests.helpers.device_options import expect_device_options
from tests.helpers.tvsum_summe_files import FPS, FRAMES, PICKS, SECONDS, write_eccv16, write_summe, write_tvsum_mat
from utils.log import run_main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folder with the annotations, eccv16 files and splits of both benchmarks."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_tvsum_mat(folder / "y.mat")
    write_summe(folder / "GT")
    write_eccv16(folder / "tvsum.h5", names=False)
    write_eccv16(folder / "summe.h5")
    splits = [dict(train_keys=["x/video_1"], test_keys=["some.h5/video_2", "video_3"])]
    (folder / "splits.json").write_text(json.dumps([*splits, dict(train_keys=[], test_keys=["video_1"])]))
    return folder


@pytest.fixture
def evaluate(root, tmp_path):
    """Return a function that runs the script in this process and returns its results and its scores by video."""

    def run_script(benchmark, annotations, *flags):
        argv = ["--benchmark", benchmark, "--annotations", root / annotations, *flags, "--output_dir", tmp_path / "o"]
        script.main([str(argument) for argument in argv])
        results = json.loads((tmp_path / f"o/results_{benchmark}.json").read_text())
        lines = (tmp_path / f"o/scores_{benchmark}.jsonl").read_text().splitlines()
        return results, {line["video_id"]: line for line in map(json.loads, lines)}

    return run_script


def write_scores(path, count, length=SECONDS, name="name-{}"):
    """Write a file of random scores; returns the scores."""
    scores = {name.format(i): np.random.default_rng(i).random(length) for i in range(count)}
    path.write_text(json.dumps({video: values.tolist() for video, values in scores.items()}))
    return scores


def test_agreement_of_annotators(evaluate, capsys):
    results, scores = evaluate("tvsum", "y.mat", "--agreement")
    assert set(results["all_videos"]) == {"random", "human"} and results["num_videos"] == 5
    assert results["all_videos"]["human"]["Kendall"] == pytest.approx(
        np.mean([line["human"]["Kendall"] for line in scores.values()])
    )
    assert "F1" not in results["all_videos"]["human"]
    output = capsys.readouterr().out
    assert f"{results['all_videos']['human']['Kendall']:.3f}" in output and "model" not in output
    results, _ = evaluate("summe", "GT", "--agreement")
    assert "F1" in results["all_videos"]["human"] and "F1" not in results["all_videos"]["random"]


@pytest.mark.parametrize(
    ("annotations", "columns", "reasons"),
    [
        (
            "y.mat",
            ["Kendall", "Spearman", "Kendall_mean", "Spearman_mean"],
            ["F1 left out: frame scores require shots"],
        ),
        (
            "tvsum.h5",
            ["F1", "Kendall_mean", "Spearman_mean"],
            ["Kendall, Spearman left out: an .h5 file alone has no importance per annotator"],
        ),
        (
            "bare.h5",
            ["F1"],
            [
                "F1 left out: frame scores require shots",
                "Kendall, Spearman left out: an .h5 file alone",
                "Kendall_mean, Spearman_mean left out: the annotations have no gtscore",
            ],
        ),
    ],
)
def test_metrics_without_values_have_no_column(evaluate, root, capsys, annotations, columns, reasons):
    """One line for each reason; the row `random` of an h5 file without shots and gtscore has no value at all."""
    if annotations == "bare.h5":
        write_eccv16(root / "bare.h5", count=1, change_points=None, n_frame_per_seg=None, features=None, gtscore=None)
    evaluate("tvsum", annotations, "--agreement")
    lines = capsys.readouterr().out.splitlines()
    tables = [
        line.split() for line in lines if not line.startswith(("tvsum", "all", "mean")) and "left out" not in line
    ]
    assert [cells for cells in tables if cells[0] not in ("random", "human")] == [columns] * 2
    assert all(len(cells) == 1 + len(columns) for cells in tables if cells[0] in ("random", "human"))
    printed = [line for line in lines if "left out" in line]
    assert lines[-len(reasons) :] == printed and len(printed) == len(reasons)
    assert all(line.startswith(reason) for line, reason in zip(printed, reasons))


def test_tvsum_scores_equal_explicit_loops(evaluate, root, tmp_path):
    scores_of_videos = write_scores(tmp_path / "s.json", 5)
    flags = ["--scores", tmp_path / "s.json", "--shots", root / "tvsum.h5", "--split_file", root / "splits.json"]
    results, scores = evaluate("tvsum", "y.mat", *flags)
    for i, (video, values) in enumerate(scores_of_videos.items()):
        model, middles = scores[video]["model"], [FPS * second + FPS // 2 for second in range(SECONDS)]
        taus = [scipy.stats.kendalltau(values, user)[0] for user in files.make_ratings(i)[:, middles]]
        assert model["Kendall"] == pytest.approx(np.mean(taus))
        summary = knapsack_summary(np.repeat(values, FPS), files.CHANGE_POINTS + [0, 1])
        f1 = [2 * (summary * user).sum() / (summary.sum() + user.sum()) for user in files.make_selections(i)]
        assert model["F1"] == pytest.approx(np.mean(f1))
    f1 = [line["model"]["F1"] for line in scores.values()]
    assert results["all_videos"]["model"]["F1"] == pytest.approx(np.mean(f1))
    assert results["splits"]["mean"]["model"]["F1"] == pytest.approx(np.mean([(f1[1] + f1[2]) / 2, f1[0]]))
    assert results["splits"]["test_sets"] == [["name-1", "name-2"], ["name-0"]]


def test_summe_scores_equal_explicit_loops(evaluate, root, tmp_path):
    scores_of_videos = write_scores(tmp_path / "s.json", 5, FRAMES, "Name_{}")
    results, scores = evaluate("summe", "GT", "--scores", tmp_path / "s.json", "--shots", root / "summe.h5")
    for i, values in enumerate(scores_of_videos.values()):
        summary, users = knapsack_summary(values, files.CHANGE_POINTS + [0, 1]), files.make_selections(i)
        f1 = [2 * (summary * user).sum() / (summary.sum() + user.sum()) for user in users]
        assert scores[f"Name {i}"]["model"]["F1"] == pytest.approx(max(f1))
    assert results["splits"]["source"] == "random splits of seed 0"
    from_eccv16, _ = evaluate("summe", "summe.h5", "--scores", tmp_path / "s.json")
    assert from_eccv16["all_videos"]["model"]["F1"] == pytest.approx(results["all_videos"]["model"]["F1"])


def test_formats_of_scores_are_equivalent(evaluate, root, tmp_path):
    """The same scores per frame, pick and second, as JSON, .npz and predictions, have the same results."""
    rng, shots = np.random.default_rng(0), ("--shots", root / "tvsum.h5")
    logits = {f"name-{i}": rng.normal(size=SECONDS) for i in range(5)}
    seconds = {video: 1 / (1 + np.exp(-values)) for video, values in logits.items()}
    lines = (dict(video_id=video, caption=None, saliency=values.tolist()) for video, values in logits.items())
    (tmp_path / "predictions_test.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    np.savez(tmp_path / "picks.npz", **{f"video_{i + 1}": np.repeat(seconds[f"name-{i}"], 2) for i in range(5)})
    frames = {video.upper(): np.repeat(values, FPS).tolist() for video, values in seconds.items()}
    (tmp_path / "frames.json").write_text(json.dumps(frames))
    first, *others = (
        evaluate("tvsum", "y.mat", "--scores", tmp_path / name, *shots)[0]["all_videos"]["model"]
        for name in ("predictions_test.jsonl", "picks.npz", "frames.json")
    )
    assert len(PICKS) == 2 * SECONDS and all(other == pytest.approx(first) for other in others)


def test_ambiguous_number_of_scores_raises(tmp_path):
    """At 15 fps a pick is almost a second: the step has to be given."""
    video = BenchmarkVideo("v", 300, duration=19.4, picks=np.arange(0, 300, 15))
    values = np.random.default_rng(0).random(20)
    with pytest.raises(ValueError, match="x: video v: scores: found 20, which may be per pick and per second; choose"):
        scores_of_videos(dict(v=values), [video], "x")
    (picks,), (seconds,) = (scores_of_videos(dict(v=values), [video], "x", step) for step in ("pick", "second"))
    assert np.array_equal(picks, np.repeat(values, 15)) and not np.array_equal(picks, seconds)
    with pytest.raises(ValueError, match=r"found 19, expected 20 \(per pick\)"):
        scores_of_videos(dict(v=values[:19]), [video], "x", "pick")
    with pytest.raises(ValueError, match="found 7, expected annotations with seconds"):
        scores_of_videos(dict(v=values[:7]), [BenchmarkVideo("v", 300)], "x", "second")
    unambiguous = BenchmarkVideo("v", 300, duration=20.0, picks=np.arange(0, 300, 15))
    assert np.array_equal(scores_of_videos(dict(v=values), [unambiguous], "x")[0], picks)  # picks and seconds coincide


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ('{"name-0": [1, 2]}', "video name-0: scores: found 2, expected 360 .per frame. or about 12 .per second.$"),
        ('{"name-0": [1, -1]}', "video name-0: scores: found NaN, infinity or less than 0"),
        ('{"name-0": [1, null]}', "scores: name-0: 1: found None, expected a finite number"),
        ('{"name-9": [1, 2]}', "video name-9: not in the annotations"),
        (json.dumps({"name-0": [0] * 12, "video_1": [0] * 12}), "video video_1: scores: found twice .name-0."),
        (json.dumps({"name-0": [0] * 12}), r"video name-1: scores: missing for 4 of 5 videos"),
        ('{"video_id": "name-0", "saliency": null}', "video name-0: saliency: found null"),
        ('{"video_id": "name-0", "saliency": [1]}\n' * 2, "video name-0: found twice"),
        ("[]", "scores: found a list of 0, expected an object"),
        ("{}", "scores: found none"),
        ("PK\3\4", "scores: not valid JSON"),
    ],
)
def test_invalid_scores_raise(root, tmp_path, scores, message):
    path = tmp_path / "s.json"
    path.write_text(scores)
    with pytest.raises(ValueError, match=message) as error:
        scores_of_videos(read_scores(path), read_tvsum_mat(root / "y.mat"), path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_invalid_npz_raises(tmp_path):
    for array in (np.zeros((2, 2)), np.array([None]), np.array(["a"])):
        np.savez(tmp_path / "s.npz", v=array)
        with pytest.raises(ValueError, match="s.npz: scores: damaged or not an .npz file of scores"):
            read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([], "splits: found a list of 0, expected at least 1 item"),
        ([{"train_keys": []}], "splits: 0: test_keys: missing"),
        ([dict(train_keys=["video_1"], test_keys=["video_1"])], "splits: 0: test_keys: found 'video_1' in both"),
        ([dict(train_keys=[], test_keys=[])], "splits: 0: test_keys: found a list of 0, expected at least 1 item"),
        ([dict(train_keys=[], test_keys=["a/video_9"])], "splits: 0: test_keys: 'video_9': not in the annotations"),
    ],
)
def test_invalid_splits_raise(root, tmp_path, splits, message):
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match=f"splits.json: {message}"):
        read_splits(tmp_path / "splits.json", read_tvsum_mat(root / "y.mat"))


def test_random_splits():
    test_sets = make_splits(50, seed=0)
    assert test_sets == make_splits(50, seed=0) != make_splits(50, seed=1)
    assert [len(set(test_set)) for test_set in test_sets] == [10] * 5
    assert len({i for test_set in test_sets for i in test_set}) > 20
    assert [len(test_set) for test_set in make_splits(25, 0)] == [5] * 5 and len(make_splits(2, 0)[0]) == 1


@pytest.fixture(scope="module")
def zero_shot_flags(mini_root, tmp_path_factory):
    """Flags that select an untrained small model and features of the videos."""
    torch.manual_seed(0)
    folder, med_config = tmp_path_factory.mktemp("model"), str(ROOT / "configs/med_config_mini.json")
    model = v2vt_sum("vtsum_blip_tt_ca", med_config=med_config, tokenizer=str(mini_root / "tokenizer"))
    torch.save(dict(model=model.state_dict()), folder / "model.pth")
    rng = np.random.default_rng(0)
    for i in range(5):
        scenes = np.repeat(rng.normal(size=(4, 768)), 3, axis=0) + 0.1 * rng.normal(size=(SECONDS, 768))
        np.savez(folder / f"name-{i}.npz", features=scenes.astype(np.float32))
    flags = ["--features", folder, "--config", ROOT / "configs/mini.yaml", "--pretrained_model", folder / "model.pth"]
    return [*flags, "--tokenizer", mini_root / "tokenizer", "--med_config", med_config, "--device", "cpu"]


def test_zero_shot_scores_equal_explicit_loops(evaluate, root, zero_shot_flags, mini_root):
    """Saliency and shots are computed from stored features, in the script and independently."""
    with expect_device_options():
        results, scores = evaluate("tvsum", "y.mat", *zero_shot_flags)
    folder = zero_shot_flags[1]
    med_config = str(ROOT / "configs/med_config_mini.json")
    model = v2vt_sum("vtsum_blip_tt_ca", med_config=med_config, tokenizer=str(mini_root / "tokenizer"))
    model.load_state_dict(torch.load(folder / "model.pth", weights_only=True)["model"])
    for i in range(5):
        features = np.load(folder / f"name-{i}.npz")["features"]
        with torch.no_grad():
            _, logits = model.eval().generate(
                torch.from_numpy(features)[None], torch.ones(1, SECONDS), num_beams=1, max_length=8, min_length=1
            )
        saliency, middles = logits.sigmoid().numpy(), [FPS * second + FPS // 2 for second in range(SECONDS)]
        taus = [scipy.stats.kendalltau(saliency, user)[0] for user in files.make_ratings(i)[:, middles]]
        assert scores[f"name-{i}"]["model"]["Kendall"] == pytest.approx(np.mean(taus), abs=1e-6)
        spans = [(FPS * first, FPS * stop) for first, stop in segment_shots(features)]
        assert len(spans) > 1
        summary, *users = (knapsack_summary(row, spans) for row in (np.repeat(saliency, FPS), *files.make_ratings(i)))
        f1 = [2 * (summary * user).sum() / max(1, summary.sum() + user.sum()) for user in users]
        assert scores[f"name-{i}"]["model"]["F1"] == pytest.approx(np.mean(f1))
    assert results["config"]["model"] == "vtsum_blip_tt_ca" and len(results["checkpoint_sha256"]) == 64
    with expect_device_options(tf32=True):
        with_shots, _ = evaluate("tvsum", "y.mat", *zero_shot_flags, "--tf32", "--shots", root / "tvsum.h5")
    model = [result["all_videos"]["model"] for result in (results, with_shots)]
    assert model[0]["Kendall"] == model[1]["Kendall"] and model[0]["F1"] != model[1]["F1"]


def test_features_of_another_length_raise(evaluate, zero_shot_flags, tmp_path):
    for i in range(5):
        np.savez(tmp_path / f"name-{i}.npz", features=np.ones((SECONDS - 3, 768), np.float32))
    with pytest.raises(ValueError, match="name-0: features: found 9 frames, expected one for each of 12.0 seconds"):
        evaluate("tvsum", "y.mat", *zero_shot_flags, "--features", tmp_path)


def test_shots_of_an_eccv16_file_without_change_points(root, tmp_path):
    write_eccv16(tmp_path / "e.h5", change_points=None, n_frame_per_seg=None)
    video, other = read_eccv16(tmp_path / "e.h5")[:2]
    spans = segment_annotated_features(video)
    assert spans[0][0] == 0 and spans[-1][1] == FRAMES and segment_annotated_features(other) is None
    assert spans == [
        (PICKS[start], FRAMES if stop == len(PICKS) else PICKS[stop]) for start, stop in segment_shots(video.features)
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["tvsum", "GT", "--agreement"], "GT: annotations: found those of summe, expected ydata-tvsum50.mat or an"),
        (["summe", "y.mat", "--agreement"], "y.mat: annotations: found those of tvsum, expected SumMe's GT or an"),
        (["tvsum", "tvsum.h5", "--agreement", "--shots", "x"], "tvsum.h5: annotations: found an eccv16 file"),
        (["tvsum", "y.mat"], "one of the arguments --scores --features --agreement is required"),
        (["tvsum", "y.mat", "--agreement", "--model", "x"], "--model: unknown argument, or one that goes with --feat"),
        (["tvsum", "y.mat", "--agreement", "--split_seed", "-1"], "--split_seed: found -1, expected at least 0"),
        (["tvsum", "y.mat", "--agreement", "--scores_at", "pick"], "--scores_at: found without --scores"),
        (
            ["tvsum", "y.mat", "--features", "x", "--modle", "x", "--config", "x"],
            "--modle: unknown flag; did you mean --m",
        ),
        (["tvsum", "y.mat", "--features", "x", "--config", str(ROOT / "configs/mini.yaml")], "pretrained_model: miss"),
    ],
)
def test_invalid_command_lines_raise(evaluate, flags, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*flags)


def test_errors_are_one_line(root, capsys):
    path = str(root / "none.mat")
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: script.main(["--benchmark", "tvsum", "--annotations", path, "--agreement"]))
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {path}: no such file\n"
