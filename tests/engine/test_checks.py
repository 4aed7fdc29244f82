"""`--check`: what can be found without a process group, and nothing is written."""

import pytest

import eval_v2vt_sum
import extract_features
import train_v2vt_sum
import train_vt_clip
from tests.conftest import ROOT
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
