"""Frame encoders by name, from video files to reports: features, training, evaluation and summaries."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch

import eval_v2vt_sum
import extract_features
import train_v2vt_sum
from data.pack import main as pack
from data.registry import load_annotations
from models.frame_encoders import load_frame_encoder
from report.card import main as write_card
from report.compare import main as compare
from summary import Summarizer
from summary.demo.bundle import write_bundle
from tests.conftest import ROOT, make_once
from tests.helpers.encoders import TIMM_NAME, build_open_clip_folder, save_timm_encoder
from utils.encoder_names import EncoderName

ARCHITECTURE = TIMM_NAME.partition(".")[0]
SPLITS = ("train", "val", "test")
CLIP_PREPROCESSING = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", resize_mode="squash")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Folder of the weights of three encoders: `vit.pth`, `other.pth`, `open_clip`."""

    def build(root):
        save_timm_encoder(root / "vit.pth")
        save_timm_encoder(root / "other.pth", seed=1)
        build_open_clip_folder(root / "open_clip", CLIP_PREPROCESSING)

    return make_once(tmp_path_factory, "encoder_weights", build)


@pytest.fixture(scope="session")
def encoder_features(weights, mini_videos, tmp_path_factory):
    """Features of the mini videos by the three encoders: `vit`, `other`, `clip`."""

    def build(root):
        names = [f"timm:{TIMM_NAME}@{weights / name}.pth={name}" for name in ("vit", "other")]
        annotations = [str(mini_videos / f"anno/{split}_videoxum.json") for split in SPLITS]
        extract_features.main(
            [
                *("--videos", str(mini_videos / "videos"), "--out", str(root), "--annotations", *annotations),
                *("--encoder", *names, f"open_clip:local-dir:{weights / 'open_clip'}=clip"),
                *("--num_workers", "0", "--device", "cpu"),
            ]
        )

    return make_once(tmp_path_factory, "encoder_features", build)


@pytest.fixture
def flags(mini_videos, weights, encoder_features):
    """Flags of a model on features of a timm encoder, scored in the space of an open_clip model."""
    return [
        *("--config", str(ROOT / "configs/mini.yaml"), "--device", "cpu", "--num_workers", "0"),
        *("--ann_root", str(mini_videos / "anno"), "--video_embeddings_root", str(encoder_features / "vit")),
        *("--clip_root", str(encoder_features / "clip")),
        *("--pretrained_clip", f"open_clip:local-dir:{weights / 'open_clip'}"),
        *("--tokenizer", str(mini_videos / "tokenizer"), "--med_config", str(ROOT / "configs/med_config_mini.json")),
        *("--batch_size", "2", "--max_epoch", "1", "--splits", "test", "--max_text_length", "12"),
        *("--ckpt_freq", "0", "--pretrained", ""),
    ]


@pytest.fixture
def run_folder(flags, tmp_path):
    train_v2vt_sum.main([*flags, "--output_dir", str(tmp_path / "run")])
    return tmp_path / "run"


def test_extraction(weights, encoder_features, mini_videos):
    """Each folder has its own width, and text features only where there is a text encoder."""
    provenance = {
        name: json.loads((encoder_features / name / "extraction.json").read_text()) for name in ("vit", "clip")
    }
    assert provenance["vit"]["encoder"] == f"timm:{ARCHITECTURE}"
    assert provenance["vit"]["name"] == f"timm:{TIMM_NAME}@{weights / 'vit.pth'}"
    encoder = load_frame_encoder(provenance["vit"]["name"])
    assert encoder.describe().items() <= provenance["vit"].items()
    assert provenance["vit"]["transform"]["size"] == 160 and provenance["clip"]["transform"]["crop"] is False
    for path in sorted((mini_videos / "videos").iterdir()):
        with np.load(encoder_features / "vit" / f"{path.stem}.npz") as arrays:
            assert set(arrays) == {"features"} and arrays["features"].shape[1] == encoder.width == 64
        with np.load(encoder_features / "clip" / f"{path.stem}.npz") as arrays:
            assert set(arrays) == {"features", "text"} and arrays["text"].shape == (1, 64)


def test_training_and_evaluation(flags, run_folder, encoder_features, tmp_path, capfd):
    results = json.loads((run_folder / "results_test.json").read_text())
    assert {"VT_CLIPScore", "F_CLIP", "Cross-F_CLIP"} <= set(results["metrics"])
    encoder = json.loads((encoder_features / "vit/extraction.json").read_text())
    checkpoint = torch.load(run_folder / "checkpoint.pth", weights_only=True)
    assert checkpoint["encoder"] == encoder == results["encoder"]
    assert results["clip_encoder"]["text"].startswith("open_clip:local-dir:")
    assert checkpoint["model"]["position_embeddings.weight"].shape == (512, 64)
    settings = (run_folder / "config.yaml").read_text()
    assert "feature_width: 64" in settings and "\nvit:" not in settings  # neither base nor large
    evaluation = [*flags, "--evaluate", "--pretrained_model", str(run_folder / "checkpoint.pth")]
    eval_v2vt_sum.main([*evaluation, "--config", str(run_folder / "config.yaml"), "--output_dir", str(tmp_path / "e")])
    assert json.loads((tmp_path / "e/results_test.json").read_text())["metrics"] == results["metrics"]

    write_card([str(run_folder)])
    card = (run_folder / "README.md").read_text()
    assert f"`timm:{ARCHITECTURE}` at 160 pixels" in card and encoder["weights_sha256"] in card
    assert f"--encoder timm:{TIMM_NAME}@vit.pth " in card and "frame features of width 64" in card

    other = ["--video_embeddings_root", str(encoder_features / "other")]
    start = ["--pretrained_model", str(run_folder / "checkpoint.pth")]
    line = r"weights_sha256: found \w+, expected \w+: the model was trained on features of timm:test_vit"
    for argv in (
        [*evaluation, *other, "--output_dir", str(tmp_path / "other")],
        [*flags, *other, "--max_epoch", "2", "--output_dir", str(run_folder)],
        [*flags, *other, *start, "--output_dir", str(tmp_path / "new")],
    ):
        with pytest.raises(ValueError, match=line):
            (eval_v2vt_sum if "--evaluate" in argv else train_v2vt_sum).main(argv)

    train_v2vt_sum.main([*flags, *other, "--output_dir", str(tmp_path / "other_run")])
    capfd.readouterr()
    compare([str(run_folder), str(tmp_path / "other_run"), "--format", "markdown"])
    output = capfd.readouterr().out
    assert re.search(r"^\| +\|.* encoder .*\|", output, re.M)
    assert f"timm:{ARCHITECTURE} {encoder['weights_sha256'][:12]}" in output


def test_compare_omits_scores_of_different_spaces(flags, run_folder, mini_videos, tmp_path, capfd):
    """Baselines of F_CLIP differ, too, but all other scores are compared."""
    results = json.loads((run_folder / "results_test.json").read_text())
    shutil.copytree(run_folder, tmp_path / "other_space")
    results["clip_encoder"]["frames_weights_sha256"] = "0" * 64
    results["baselines"]["random"]["F_CLIP"] += 0.1
    (tmp_path / "other_space/results_test.json").write_text(json.dumps(results))
    capfd.readouterr()
    compare([str(run_folder), str(tmp_path / "other_space")])
    output = capfd.readouterr().out
    assert "VT_CLIPScore: omitted, the runs were scored with features of different encoders." in output
    assert "CIDEr" in output


def test_summaries_use_the_encoder_of_the_checkpoint(run_folder, weights, encoder_features, mini_videos, tmp_path):
    (video, *_) = sorted((mini_videos / "videos").iterdir())
    settings = dict(config=run_folder / "config.yaml", pretrained_model=run_folder / "checkpoint.pth")
    summarizer = Summarizer(**settings)
    assert summarizer.encoder.name == EncoderName("timm", TIMM_NAME, str(weights / "vit.pth"))
    summary = summarizer.summarize(video, tmp_path)
    assert summary["checkpoints"]["encoder"]["path"] == str(summarizer.encoder.name)
    assert summary["encoder"] == f"timm:{ARCHITECTURE}"
    page = (tmp_path / video.stem / "index.html").read_text()
    assert f"frame encoder timm:{ARCHITECTURE}" in page and str(weights) not in page
    write_bundle(summary, tmp_path / video.stem, tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        public = archive.read(next(name for name in archive.namelist() if name.endswith("summary.json"))).decode()
    assert f"timm:{ARCHITECTURE}" in public and str(weights) not in public
    with np.load(encoder_features / "vit" / f"{video.stem}.npz") as arrays:
        _, saliency = summarizer._predict(arrays["features"])
    np.testing.assert_allclose(summary["saliency"], saliency, atol=1e-4)
    for change, line in (
        (dict(encoder=f"timm:{TIMM_NAME}@{weights / 'other.pth'}"), "encoder: weights_sha256: found"),
        (dict(blip=mini_videos / "frame_encoder.pth", image_size=64), "encoder: encoder: found blip, expected timm:"),
        (dict(blip="x.pth", encoder="blip"), "encoder: found blip and the checkpoint x.pth of BLIP, expected one of"),
    ):
        with pytest.raises(ValueError, match=line):
            Summarizer(**settings, **change)


def test_packed_features(flags, encoder_features, mini_videos, run_folder, tmp_path):
    """Packed features keep the provenance, which is that of the whole folder, and give the same model."""
    annotations = [str(mini_videos / f"anno/{split}_videoxum.json") for split in SPLITS]
    root = str(tmp_path / "packed")
    pack(["--features", str(encoder_features / "vit"), "--annotations", *annotations, "--out", root])
    with pytest.raises(ValueError, match="extraction.json: found packed features of another provenance than .*other"):
        pack(["--features", str(encoder_features / "other"), "--annotations", *annotations, "--out", root])
    train_v2vt_sum.main([*flags, "--video_embeddings_root", root, "--output_dir", str(tmp_path / "from_packed")])
    first, second = (
        torch.load(folder / "checkpoint.pth", weights_only=True) for folder in (run_folder, tmp_path / "from_packed")
    )
    assert first["encoder"] == second["encoder"]
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())


def test_texts_and_frames_of_two_models_raise(flags, encoder_features, tmp_path):
    """`other` has the width of the text encoder's features."""
    argv = [*flags, "--clip_root", str(encoder_features / "other"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(
        ValueError, match="other: weights_sha256: found frame features of timm:test_vit.*, expected those"
    ):
        train_v2vt_sum.main(argv)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            ["--vit", "base"],
            "vit: vit: found frame features of width 64, expected 768, as vit: base is set; without it",
        ),
        (["--feature_width", "128"], "vit: feature_width: found frame features of width 64, expected 128, as feature_"),
    ],
)
def test_other_widths_raise(flags, tmp_path, change, line):
    with pytest.raises(ValueError, match=line):
        train_v2vt_sum.main([*flags, *change, "--output_dir", str(tmp_path / "run")])


def test_projected_features(flags, mini_videos, tmp_path):
    """Features whose width is not a multiple of 64."""
    rng = np.random.default_rng(0)
    (tmp_path / "narrow").mkdir()
    for record in (r for split in SPLITS for r in load_annotations(mini_videos / f"anno/{split}_videoxum.json")):
        features = rng.standard_normal((record.num_frames, 100), np.float32)
        np.savez(tmp_path / "narrow" / f"{record.video_id}.npz", features=features)
    argv = [*flags, "--video_embeddings_root", str(tmp_path / "narrow"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(
        ValueError, match="feature_width: found 100, expected a multiple of 64, .*feature_projection: true"
    ):
        train_v2vt_sum.main(argv)
    train_v2vt_sum.main([*argv, "--feature_projection", "--lambda_tsum", "0"])
    checkpoint = torch.load(tmp_path / "run/checkpoint.pth", weights_only=True)
    assert checkpoint["model"]["feature_projection.weight"].shape == (768, 100)
    assert checkpoint["model"]["position_embeddings.weight"].shape == (512, 768)
    eval_v2vt_sum.main([*argv, "--feature_projection", "--pretrained_model", str(tmp_path / "run/checkpoint.pth")])
