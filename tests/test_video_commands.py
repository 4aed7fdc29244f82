"""The documented commands that start from videos, run as a user runs them."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch

from data.registry import load_annotations
from models.vt_clip import load_vt_clip
from tests.conftest import ROOT
from tests.helpers.documents import read_code, read_document, read_launcher_commands
from tests.helpers.processes import run

VIDEO_ID = "mini_val_000"


@pytest.fixture(scope="module")
def clone(tmp_path_factory, mini_videos):
    """Folder like a user's clone with videos, annotations and weights, in small sizes."""
    from timm.models.vision_transformer import VisionTransformer

    from models.vtsum_blip import v2vt_sum

    root = tmp_path_factory.mktemp("video_clone")
    for path in ROOT.glob("*.py"):
        (root / path.name).symlink_to(path)
    for name in ("configs", "data", "engine", "metrics", "models", "summary", "utils"):
        (root / name).symlink_to(ROOT / name)
    (root / "dataset/ActivityNet").mkdir(parents=True)
    shutil.copytree(mini_videos / "anno", root / "dataset/ActivityNet/anno")
    shutil.copytree(mini_videos / "videos", root / "VIDEOS")
    shutil.copy(mini_videos / f"videos/{VIDEO_ID}.mp4", root / "holiday.mp4")
    for folder in ("blip", "vt_clipscore", "vtsum_tt_ca"):
        (root / "outputs" / folder).mkdir(parents=True)
    shutil.copy(mini_videos / "vt_clip.pth", root / "outputs/vt_clipscore")
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=224, depth=1, num_classes=0)  # ViT-B/16 of depth 1
    state = {f"visual_encoder.{name}": value for name, value in vit.state_dict().items()}
    torch.save(dict(model=state), root / "outputs/blip/model_base_capfilt_large.pth")
    small = dict(med_config=str(ROOT / "configs/med_config_mini.json"), tokenizer=str(mini_videos / "tokenizer"))
    model = v2vt_sum("vtsum_blip_tt_ca", **small)
    torch.save(dict(model=model.state_dict()), root / "outputs/vtsum_tt_ca/vtsum_tt_ca.pth")
    return root


@pytest.fixture(scope="module")
def extracted(clone):
    """The clone after the documented extraction on two processes."""
    (command,) = read_launcher_commands("own_videos", "extract_features.py")
    argv = shlex.split(command.replace("--nproc_per_node=4", "--nproc_per_node=2 --standalone"))
    pattern = next(argument for argument in argv if "*" in argument)
    position = argv.index(pattern)
    # Expand the pattern as a shell does.
    argv[position : position + 1] = [str(path.relative_to(clone)) for path in sorted(clone.glob(pattern))]
    status, output = run(argv, clone)
    assert status == 0, output
    return clone


def small_flags(mini_videos):
    return ["--tokenizer", mini_videos / "tokenizer", "--med_config", ROOT / "configs/med_config_mini.json"]


def test_documented_extraction(extracted):
    for split, count in dict(train=4, val=2, test=2).items():
        records = load_annotations(extracted / f"dataset/ActivityNet/anno/{split}_videoxum.json")
        assert len(records) == count
        for record in records:
            blip = np.load(extracted / f"dataset/ActivityNet/extracted/blip/{record.video_id}.npz")
            clip = np.load(extracted / f"dataset/ActivityNet/extracted/vt_clipscore/{record.video_id}.npz")
            assert blip["features"].shape == (record.num_frames, 768) and blip["features"].dtype == np.float32
            assert clip["vision"].shape == (record.num_frames, 512) and clip["text"].shape == (1, 512)


def test_documented_summary(clone, mini_videos):
    (command,) = re.findall(r"^python summarize\.py holiday.*$", read_code("own_videos"), re.M)
    status, output = run([*shlex.split(command), *small_flags(mini_videos)], clone)
    assert status == 0, output
    section = read_document("own_videos").split("## Features")[0]
    listed = re.findall(r"^\| `([a-z]+\.[a-z0-9]+)` \|", section, re.M)
    assert sorted(path.name for path in (clone / "summaries/holiday").iterdir()) == sorted(listed)


def test_documented_summary_from_python(clone, mini_videos):
    """The documented lines as a script without `if __name__ == "__main__"`."""
    lines = read_code("own_videos", "python")
    settings = ", ".join(f'{flag[2:]}="{value}"' for flag, value in zip(*[iter(small_flags(mini_videos))] * 2))
    lines = lines.replace("Summarizer()", f"Summarizer({settings})")
    (clone / "mine.py").write_text(lines)
    status, output = run(["python", "mine.py"], clone)
    assert status == 0, output
    summary = json.loads((clone / "summaries/holiday/summary.json").read_text())
    assert summary["caption"] in output and summary["method"] == "shots"


def test_documented_vt_clip_training(clone):
    """With a small CLIP instead of the one on the hub."""
    (command,) = re.findall(r"^python extract_features\.py .*$", read_code("evaluation"), re.M)
    status, output = run(shlex.split(command.replace("ViT-B-16", "outputs/vt_clipscore/vt_clip.pth")), clone)
    assert status == 0, output
    (command,) = read_launcher_commands("evaluation", "train_vt_clip.py")
    argv = shlex.split(command.replace("--nproc_per_node=4", "--nproc_per_node=2 --standalone"))
    argv += ["--clip", "outputs/vt_clipscore/vt_clip.pth", "--max_epoch", "1", "--batch_size", "2"]
    status, output = run(argv, clone)
    assert status == 0, output
    assert "is not known" not in output
    assert load_vt_clip(clone / "outputs/vt_clip/vt_clip.pth").width == 512
