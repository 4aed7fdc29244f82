"""`python -m engine.export_h5` on mini VideoXum, read by our reader and by loaders of other code bases."""

import json
import shlex
import subprocess

import h5py
import numpy as np
import pytest

import eval_tvsum_summe
from data.eccv16 import read_eccv16
from data.features import load_features
from data.pack import main as pack
from data.registry import annotation_path, load_annotations
from engine.export_h5 import main as export
from metrics.keyframes import binary_f1, select_top_rows
from metrics.segmentation import knapsack, segment_shots
from metrics.shots import knapsack_summary, make_reference, score_annotators, score_frames
from tests.conftest import ROOT
from tests.helpers.documents import read_code
from tests.helpers.processes import run

SPLITS = ("test", "val")


@pytest.fixture
def annotations(mini_root):
    return [str(annotation_path(mini_root / "anno", split)) for split in SPLITS]


@pytest.fixture
def exported(mini_root, annotations, tmp_path):
    """File of the test and validation videos."""
    export(["--features", str(mini_root / "feat/blip"), "--annotations", *annotations, "--out", str(tmp_path / "e.h5")])
    return tmp_path / "e.h5"


def make_features(T, width, seconds=5):
    """Make features of scenes of a few seconds: (T, D) float32."""
    rng = np.random.default_rng(0)
    scenes = np.repeat(rng.standard_normal((T // seconds + 1, width)), seconds, axis=0)[:T]
    return (scenes + 0.1 * rng.standard_normal((T, width))).astype(np.float32)


@pytest.fixture
def own_data(tmp_path):
    """Return a function that writes one video, `v`, and returns the flags that select it."""

    def write(T, **labels):
        (tmp_path / "feat").mkdir()
        np.savez(tmp_path / "feat/v.npz", features=make_features(T, 8))
        (tmp_path / "own.json").write_text(json.dumps([dict(video_id="v", duration=30.0, **labels)]))
        return ["--features", str(tmp_path / "feat"), "--annotations", str(tmp_path / "own.json")]

    return write


@pytest.fixture
def two_minutes(own_data, tmp_path):
    """File of a video of 120 seconds with five annotators, and their key-frames (5, 120)."""
    keyframes = (np.random.default_rng(1).random((5, 120)) < 0.3).astype(float)
    export([*own_data(120, vsum_onehot=keyframes.astype(int).tolist()), "--out", str(tmp_path / "e.h5")])
    return tmp_path / "e.h5", keyframes


def test_our_reader_returns_the_same_numbers(exported, mini_root, annotations):
    records = [record for path in annotations for record in load_annotations(path)]
    videos = read_eccv16(exported)
    assert [video.video_id for video in videos] == [record.video_id for record in records] and len(videos) == 10
    assert [video.aliases for video in videos] == [(f"video_{i}",) for i in range(1, 11)]
    for video, record in zip(videos, records):
        features = load_features(mini_root / "feat/blip", record.video_id, "features")
        assert video.features.dtype == np.float32 and np.array_equal(video.features, features)
        assert np.array_equal(video.gtscore, record.vsum_onehot.mean(0).astype(np.float32))
        assert np.array_equal(video.user_summary, record.vsum_onehot) and len(video.user_summary) == 10
        assert video.change_points == tuple(segment_shots(features)) and len(video.change_points) > 1
        assert video.num_frames == len(features) and np.array_equal(video.picks, np.arange(len(features)))


def test_packed_features_export_the_same_file(exported, mini_root, annotations, tmp_path):
    packed, out = str(tmp_path / "packed"), tmp_path / "packed.h5"
    pack(["--features", str(mini_root / "feat/blip"), "--annotations", *annotations, "--out", packed])
    export(["--features", packed, "--annotations", *annotations, "--out", str(out)])
    assert out.read_bytes() == exported.read_bytes()


def test_f1_of_the_annotators_is_that_of_the_annotations(two_minutes):
    path, keyframes = two_minutes
    (video,) = read_eccv16(path)
    reference, shots = make_reference(video, "tvsum"), segment_shots(make_features(120, 8))
    for row, exported_row in zip(keyframes, video.user_summary):
        summary = knapsack_summary(row, shots)
        assert summary.sum() > 0
        f1 = binary_f1(summary[None], keyframes).mean()
        assert f1 == score_frames(exported_row, reference)["F1"] > 0
    others = binary_f1(keyframes, keyframes)[~np.eye(5, dtype=bool)]
    assert score_annotators(reference)["F1"] == pytest.approx(others.mean())


def generate_summary(shots, scores, n_frames, positions):
    """Select shots as `generate_summary` of PGL-SUM and `vsum_tools` of VASNet do, but for the knapsack."""
    frame_scores = np.zeros(n_frames, np.float32)
    if positions[-1] != n_frames:
        positions = np.concatenate([positions, [n_frames]])
    for i in range(len(positions) - 1):
        frame_scores[positions[i] : positions[i + 1]] = scores[i]
    lengths = [int(last - first + 1) for first, last in shots]
    values = [frame_scores[first : last + 1].mean().item() for first, last in shots]
    summary = np.zeros(shots[-1][1] + 1, np.int8)
    for i in knapsack(values, lengths, int((shots[-1][1] + 1) * 0.15)):
        summary[shots[i][0] : shots[i][1] + 1] = 1
    return summary


def test_loaders_of_other_code_bases(two_minutes):
    """Load as PGL-SUM and VASNet do; their summaries have the F1 of our evaluation."""
    path, _ = two_minutes
    fields = ("features", "gtscore", "user_summary", "change_points", "n_frames", "n_frame_per_seg", "picks")
    with h5py.File(path, "r") as hdf:
        data = {field: np.array(hdf["video_1/" + field]) for field in fields}
    shots, user_summary = data["change_points"], data["user_summary"]
    assert data["features"].shape == (120, 8) and data["gtscore"].shape == data["picks"].shape == (120,)
    assert data["n_frames"] == 120 and user_summary.shape == (5, 120)
    assert shots[0, 0] == 0 and shots[-1, 1] == 119 and (shots[1:, 0] == shots[:-1, 1] + 1).all()
    assert data["n_frame_per_seg"].tolist() == (shots[:, 1] - shots[:, 0] + 1).tolist()
    scores = np.random.default_rng(2).random(120).astype(np.float32)  # of a model
    summary = generate_summary(shots, scores, int(data["n_frames"]), data["picks"])
    assert summary.shape == (120,) and 0 < summary.sum() <= 18
    f1 = 2 * (summary * user_summary).sum(1) / (summary.sum() + user_summary.sum(1))
    (video,) = read_eccv16(path)
    assert score_frames(scores, make_reference(video, "tvsum"))["F1"] == pytest.approx(f1.mean())


def test_documented_commands(mini_root, tmp_path):
    lines = read_code("data").splitlines()
    i = next(i for i, line in enumerate(lines) if line.startswith("python -m engine.export_h5"))
    line = lines[i].replace("dataset/ActivityNet", str(mini_root)).replace(" videoxum", f" {tmp_path}/videoxum")
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    status, output = run(words.stdout.split(), ROOT)
    assert status == 0 and "videoxum.h5: 40 videos, features of width 768" in output, output
    videos = read_eccv16(tmp_path / "videoxum.h5")
    (split,) = json.loads((tmp_path / "videoxum_splits.json").read_text())
    names = {video.aliases[0]: video.video_id for video in videos}
    assert [names[key].split("_")[1] for key in split["train_keys"]] == ["train"] * 33
    assert [names[key].split("_")[1] for key in split["test_keys"]] == ["test"] * 7
    scores = {video.aliases[0]: video.gtscore.tolist() for video in videos}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    argv = [str(tmp_path / word) if word.endswith((".h5", ".json")) else word for word in shlex.split(lines[i + 1])]
    eval_tvsum_summe.main([*argv[2:], "--output_dir", str(tmp_path / "o")])
    results = json.loads((tmp_path / "o/results_tvsum.json").read_text())
    assert results["splits"]["mean"]["model"]["Kendall_mean"] == pytest.approx(1)
    assert len(results["splits"]["test_sets"][0]) == 7


def test_graded_importance(own_data, tmp_path):
    importance = np.random.default_rng(1).random((3, 30)).astype(np.float32)
    export([*own_data(30, importance=importance.tolist()), "--out", str(tmp_path / "e.h5")])
    (video,) = read_eccv16(tmp_path / "e.h5")
    assert np.array_equal(video.gtscore, importance.astype(np.float64).mean(0).astype(np.float32))
    assert np.array_equal(video.user_summary, select_top_rows(importance)) and video.user_summary.sum() == 3 * 5


def test_one_annotator_is_read_and_scored_without_human_scores(own_data, tmp_path, capsys):
    keyframes = [[0, 1, 0] * 10]
    export([*own_data(30, vsum_onehot=keyframes), "--out", str(tmp_path / "e.h5")])
    (video,) = read_eccv16(tmp_path / "e.h5")
    assert video.user_summary.tolist() == keyframes
    for benchmark in ("tvsum", "summe"):
        assert score_annotators(make_reference(video, benchmark)) == {}
    eval_tvsum_summe.main(["--benchmark", "summe", "--annotations", str(tmp_path / "e.h5"), "--agreement"])
    output = capsys.readouterr().out
    assert "random" in output and "human" not in output


def test_labels_of_another_length_and_without_keyframes(own_data, tmp_path):
    argv = own_data(29, vsum_onehot=[[0, 1, 0] * 10])
    out = ["--out", str(tmp_path / "e.h5")]
    with pytest.raises(ValueError, match="feat/v.npz: video v: features: found 29 frames, expected 30 as in the label"):
        export([*argv, *out])
    (tmp_path / "own.json").write_text(json.dumps([dict(video_id="v", duration=30.0, tsum=["A dog."])]))
    with pytest.raises(ValueError, match="own.json: video v: vsum_onehot: missing"):
        export([*argv, *out])
    assert not [path for path in tmp_path.iterdir() if "e.h5" in path.name]  # neither the file nor a temporary one


def test_features_of_another_width(own_data, tmp_path):
    argv = own_data(30, vsum_onehot=[[0, 1, 0] * 10])
    records = [dict(video_id=name, duration=30.0, vsum_onehot=[[0, 1, 0] * 10]) for name in ("v", "w")]
    (tmp_path / "own.json").write_text(json.dumps(records))
    np.savez(tmp_path / "feat/w.npz", features=np.ones((30, 9), np.float32))
    with pytest.raises(
        ValueError, match=r"feat/w.npz: video w: features: found shape \(30, 9\), expected \(frames, 8\)"
    ):
        export([*argv, "--out", str(tmp_path / "e.h5")])


def test_invalid_command_lines(mini_root, annotations, tmp_path):
    features, out = str(mini_root / "feat/blip"), str(tmp_path / "e.h5")
    flags = ["--features", features, "--out", out, "--annotations"]
    with pytest.raises(ValueError, match="test_videoxum.json: video mini_test_.*: found in .*test_videoxum.json too"):
        export([*flags, *annotations, annotations[0]])
    splits = ["--splits", str(tmp_path / "s.json")]
    with pytest.raises(ValueError, match=r"found test_videoxum.json, val_videoxum.json, expected train… and another"):
        export([*flags, *annotations, *splits])
    with pytest.raises(ValueError, match=f"{tmp_path}: out: found a folder, expected a file"):
        export(["--features", features, "--annotations", *annotations, "--out", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="anno: frame features: found no .npz file"):
        export(["--features", str(mini_root / "anno"), "--annotations", *annotations, "--out", out])
    assert list(tmp_path.iterdir()) == []
    argv = ["python", "-m", "engine.export_h5", "--features", "nowhere", "--annotations", *annotations, "--out", out]
    assert run(argv, ROOT) == (2, "error: nowhere: frame features: no such folder\n")
