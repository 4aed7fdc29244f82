"""`--check`: what can be found without a process group, and nothing is written."""

import shutil

import pytest

import eval_v2vt_sum
import extract_features
import train_v2vt_sum
import train_vt_clip
from data.mini.formats import read_mini, to_own_data
from tests.conftest import ROOT
from tests.helpers.json_lines import write_json_lines
from utils.command_line import CHECK_PASSED

FETCH = "run python -m data.download --what weights"


@pytest.fixture
def commands(mini_flags, mini_root, mini_videos):
    """Command -> its main function and arguments."""
    config = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags]
    vt_clip = ["--config", str(ROOT / "configs/vt_clip.yaml"), "--ann_root", str(mini_root / "anno")]
    vt_clip += ["--vision_root", str(mini_root / "feat/vt_clipscore"), "--clip", str(mini_root / "vt_clip.pth")]
    videos = ["--videos", str(mini_videos / "videos"), "--out", "out"]
    return {
        "train": (train_v2vt_sum.main, config),
        "evaluate": (eval_v2vt_sum.main, [*config, "--pretrained_model", str(mini_root / "vt_clip.pth")]),
        "vt_clip": (train_vt_clip.main, vt_clip),
        "extract": (extract_features.main, [*videos, "--blip", str(mini_videos / "frame_encoder.pth")]),
    }


@pytest.mark.parametrize("name", ["train", "evaluate", "vt_clip", "extract"])
def test_complete_files_pass(commands, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main, argv = commands[name]
    main([*argv, "--check"])
    assert capsys.readouterr().out == f"{CHECK_PASSED}\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train", ["--pretrained", "outputs/blip/model_base_capfilt_large.pth"], f"--pretrained '', or {FETCH}$"),
        ("train", ["--ann_root", "none"], "annotations: no such file; run python -m data.download for VideoXum"),
        ("train", ["--video_embeddings_root", "none"], "no such folder; run python -m data.download for VideoXum"),
        ("train", ["--video_embeddings_root", "."], "frame features: found no .npz file, expected one per video"),
        ("train", ["--feature_width", "512"], "feature_width: found frame features of width 768, expected 512"),
        (
            "train",
            ["--batch_size", "34"],
            "batch_size: found 34 on 1 processes, expected at most the 33 training videos",
        ),
        ("train", ["--dataset", "own", "--ann_root", "none"], "train.jsonl: annotations: no such file; set ann_root"),
        ("train", ["--task", "v2t", "--eval_freq", "1"], "best_metric: found Kendall, .* use --best_metric CIDEr$"),
        ("evaluate", ["--pretrained_model", "outputs/vtsum_tt/vtsum_tt.pth"], f"checkpoint: no such file; {FETCH}$"),
        ("evaluate", ["--ann_root", "none"], "val_videoxum.json: annotations: no such file; run python -m data.dow"),
        ("vt_clip", ["--clip", "outputs/vt_clipscore/vt_clip.pth"], f"clip: no such file, expected .*; {FETCH}$"),
        ("vt_clip", ["--ann_root", "none"], "annotations: no such file; run python -m data.download for VideoXum"),
        ("vt_clip", ["--vision_root", "none"], "no such folder; extract the features with extract_features.py"),
        ("extract", ["--vt_clip", "outputs/vt_clipscore/vt_clip.pth"], f"--vt_clip: no such file; {FETCH}$"),
        ("extract", ["--encoder", "vt_clip=own"], f"vt_clip.pth: --encoder: no such file; {FETCH}$"),
        ("extract", ["--annotations", "none.json"], "no such file; run python -m data.download for VideoXum$"),
    ],
)
def test_errors_name_the_remedy(commands, name, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main, argv = commands[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([*argv, *flags, "--check"])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def write_own_data(mini_root, tmp_path):
    """Return a function that writes mini VideoXum as own data, one record of a split changed: flags that select it."""

    def write(split, change, *fields):
        for name in ("train", "val", "test"):
            records = [to_own_data(entry, *fields) for entry in read_mini(mini_root, name)]
            if name == split:
                change(records)
            write_json_lines(tmp_path / f"{name}.jsonl", records)
        return ["--dataset", "own", "--ann_root", str(tmp_path)]

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[0].update(duration="9"), "duration: found '9', expected a finite number"),
        (lambda records: records[2].update(segments=[[3, 1]]), r"segments: found \[3, 1\], expected \[start, end\]"),
        (lambda records: records.append(records[1]), "video_id: found twice, expected once"),
        (
            lambda records: records[3].pop("captions"),
            "captions: missing, expected a list of captions; the tasks v2v and v2t need only one kind of labels",
        ),
    ],
)
def test_records_are_checked(commands, write_own_data, change, message):
    main, argv = commands["train"]
    flags = write_own_data("train", change, "captions", "segments")
    with pytest.raises(ValueError, match=f"train.jsonl: video mini_train_.*: {message}"):
        main([*argv, *flags, "--check"])


def test_annotations_that_are_not_json_are_found(commands, mini_root, tmp_path):
    main, argv = commands["evaluate"]
    shutil.copytree(mini_root / "anno", tmp_path / "anno")
    path = tmp_path / "anno/test_videoxum.json"
    path.write_text(path.read_text().replace(",", "", 1))
    with pytest.raises(ValueError, match="test_videoxum.json: annotations: not valid JSON"):
        main([*argv, "--ann_root", str(tmp_path / "anno"), "--check"])
    main([*argv, "--ann_root", str(tmp_path / "anno"), "--splits", "val", "--check"])


def test_labels_that_the_task_does_not_need_may_be_missing(commands, write_own_data, capsys):
    flags = write_own_data("train", lambda records: None, "captions")
    main, argv = commands["train"]
    main([*argv, *flags, "--task", "v2t", "--check"])
    flags = write_own_data("val", lambda records: records[0].pop("captions"), "captions")
    main, argv = commands["evaluate"]
    main([*argv, *flags, "--predict_only", "--check"])
    main([*argv, "--predict_only", "--ann_root", "", "--check"])
    assert capsys.readouterr().out == 3 * f"{CHECK_PASSED}\n"
    with pytest.raises(ValueError, match="val.jsonl: video mini_.*: captions: missing"):
        main([*argv, *flags, "--task", "v2t", "--check"])


@pytest.mark.parametrize(("folder", "name"), [("blip", "video_embeddings_root"), ("vt_clipscore", "clip_root")])
def test_each_selected_video_needs_features(commands, mini_root, tmp_path, capsys, folder, name):
    shutil.copytree(mini_root / "feat" / folder, tmp_path / folder)
    for video_id in ("mini_val_001", "mini_val_002"):
        (tmp_path / folder / f"{video_id}.npz").unlink()
    main, argv = commands["train"]
    argv = [*argv, f"--{name}", str(tmp_path / folder), "--check"]
    message = "video mini_val_00[12]: .* features: no such file .and those of 1 more videos.; run python -m data.dow"
    with pytest.raises(FileNotFoundError, match=message):
        main(argv)
    video_ids = [entry["video_id"] for split in ("train", "val", "test") for entry in read_mini(mini_root, split)]
    (tmp_path / "subset.txt").write_text("\n".join({*video_ids} - {"mini_val_001", "mini_val_002"}))
    main([*argv, "--subset", str(tmp_path / "subset.txt")])
    assert capsys.readouterr().out == f"{CHECK_PASSED}\n"
    (tmp_path / "none.txt").write_text("v_1")
    with pytest.raises(ValueError, match="none.txt: subset: found none of the 33 videos of .*train_videoxum.json"):
        main([*argv, "--subset", str(tmp_path / "none.txt")])
