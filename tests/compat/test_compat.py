"""Files of an earlier version: its run resumes, its predictions score, its features are read or refused.

`make_fixture` of the earlier code (commit 3cdb9b9) wrote them: a training run interrupted after 9 of 18 steps, the
digests of the same run uninterrupted (`twin.json`), predictions with their results, packed features, an extraction.
"""

import hashlib
import json
import lzma
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import torch

import train_v2vt_sum
from data.feature_writer import FeatureWriter
from data.features import load_features, open_features
from data.pack import main as pack
from tests.compat.dataset import write_dataset
from tests.conftest import ROOT

HERE = pathlib.Path(__file__).parent
TWIN = json.loads((HERE / "twin.json").read_text())


def is_same_machine():
    """Return whether floating-point sums have the same order as on the machine that made the files."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", file.read(), re.M))
    processor = "{model name} family {cpu family} model {model}".format_map(fields)
    machine = (processor, torch.backends.cpu.get_cpu_capability(), torch.__version__)
    return machine == tuple(TWIN["made_with"][name] for name in ("processor", "isa", "torch"))


@pytest.fixture
def old_run_argv(tmp_path, monkeypatch):
    """Put the interrupted run and its data into the current folder; returns the arguments that resume it."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data")
    shutil.copytree(HERE / "run", tmp_path / "run")
    (tmp_path / "run/checkpoint.pth").write_bytes(lzma.decompress((HERE / "run/checkpoint.pth.xz").read_bytes()))
    return [
        *("--config", str(ROOT / "configs/mini.yaml"), "--pretrained", "", "--task", "v2v", "--tt_depth", "0"),
        *("--model", "vtsum_blip_tt", "--video_embeddings_root", "data/feat/blip", "--ann_root", "data/anno"),
        *("--clip_root", "", "--pretrained_clip", "", "--num_workers", "0", "--device", "cpu", "--batch_size", "2"),
        *("--max_epoch", "3", "--log_freq", "1", "--splits", "val", "--ckpt_freq", "0", "--output_dir", "run"),
    ]


def compute_tensor_sha256(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_interrupted_run_of_earlier_version_resumes(old_run_argv, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_v2vt_sum.main(old_run_argv)
    finally:
        torch.set_num_threads(threads)
    state = torch.load(tmp_path / "run/checkpoint.pth", weights_only=True)
    model = state["model"]
    rows = np.array(TWIN["position_rows"])
    assert np.allclose(model["position_embeddings.weight"][: len(rows), :8], rows, rtol=1e-4, atol=1e-6)
    assert np.allclose(model["vsum_head.0.weight"][0, :32], TWIN["saliency_weight"], rtol=1e-4, atol=1e-6)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert len(log) == len(TWIN["log"])
    for line, expected in zip(log, TWIN["log"]):
        for name, value in expected.items():
            assert line[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4)), (name, line)
    metrics = json.loads((tmp_path / "run/results_val.json").read_text())["metrics"]
    assert {name: metrics[name] for name in TWIN["metrics"]} == pytest.approx(TWIN["metrics"], rel=1e-6)
    if is_same_machine():
        digests = {f"model.{name}": compute_tensor_sha256(value) for name, value in model.items()}
        for i, optimizer_state in state["optimizer"]["state"].items():
            digests |= {
                f"optimizer.{i}.{name}": compute_tensor_sha256(value) for name, value in optimizer_state.items()
            }
        assert digests == TWIN["sha256"]
        assert [{name: line[name] for name in old} for line, old in zip(log, TWIN["log"])] == TWIN["log"]


def test_packed_features_of_earlier_version_are_refused_until_repacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data")
    shutil.copytree(HERE / "packed", tmp_path / "packed")
    with pytest.raises(ValueError) as error:
        open_features("packed", ["val_00"], "features", 768, "BLIP features")
    text = str(error.value)
    assert text.startswith("packed: packed features: found the format of an earlier version") and "\n" not in text
    assert text.endswith(": python -m data.pack --features DIR --annotations FILE... --field features --out packed")
    argv = ["--features", "data/feat/blip", "--annotations", "data/anno/val_videoxum.json", "--field", "features"]
    pack([*argv, "--out", "packed", "--dtype", "float16"])
    features = open_features("packed", ["val_00"], "features", 768, "BLIP features")
    frames, videos = np.load("packed/val.npy"), json.loads(pathlib.Path("packed/val.json").read_text())["videos"]
    for video_id, (start, count, _) in videos.items():
        assert np.array_equal(features.load(video_id), frames[start : start + count])


def test_extraction_of_earlier_version_continues_only_with_same_settings(tmp_path):
    folder = shutil.copytree(HERE / "extraction", tmp_path / "blip")
    stored = json.loads((folder / "extraction.json").read_text())
    assert stored["precision"] == "float32"  # the earlier name of fp32
    provenance = stored | dict(precision="fp32")
    writer = FeatureWriter(folder, "features", {})
    writer.prepare(dict(provenance), overwrite=False)
    frames = len(load_features(folder, "mini_val_000", "features", 768))
    assert writer.is_complete(types.SimpleNamespace(video_id="mini_val_000", num_frames=frames))
    for name, value in dict(image_size=32, precision="bf16", weights_sha256="0" * 64).items():
        with pytest.raises(ValueError, match=f"extraction.json: {name}: found {provenance[name]}, expected {value}: "):
            writer.prepare(provenance | {name: value}, overwrite=False)
    assert (folder / "mini_val_000.npz").is_file()
    assert json.loads((folder / "extraction.json").read_text()) == provenance
