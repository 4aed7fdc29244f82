import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import constants

import eval_v2vt_sum
from engine.config import load_config
from tests.conftest import ROOT
from tests.hub_server import COMMIT, point_client
from utils import distributed
from utils.download import resolve_file
from utils.files import sha256_of
from utils.hub import hub_file

CONTENT = bytes(range(256)) * 1000
SOURCE = "hf://org/name/folder/w.pth"


@pytest.fixture
def hub(hub):
    hub.files["org/name", "folder/w.pth"] = CONTENT
    hub.files["datasets/org/data", "small.txt"] = b"small"
    return hub


def cached(folder):
    return [path for path in (folder / "hf").rglob("*") if path.is_file() and path.suffix not in (".lock", ".TAG")]


def test_a_file_is_downloaded_once_and_then_had_without_the_hub(hub, monkeypatch):
    path = hub_file(SOURCE)
    assert path.read_bytes() == CONTENT and path.name == "w.pth" and hub.sent == [(0, len(CONTENT))]
    assert hub_file("hf://datasets/org/data/small.txt").read_bytes() == b"small"
    assert hub_file(f"hf://org/name@{COMMIT}/folder/w.pth") == resolve_file(SOURCE) == path and len(hub.sent) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = hub.asked
    assert resolve_file(SOURCE) == path and hub.asked == asked


def test_a_cut_connection_is_taken_up_again(hub):
    hub.faults = ["cut"]
    assert hub_file(SOURCE).read_bytes() == CONTENT
    (_, half), (first, rest) = hub.sent
    assert half == len(CONTENT) // 2 and half - 2**14 < first <= half and first + rest == len(CONTENT)


def test_a_later_call_goes_on_where_an_earlier_one_failed(hub, tmp_path):
    hub.faults = ["reset", "busy"]
    for reason in ("the download failed .*; the same command goes on from there", "the download failed .*503"):
        with pytest.raises(FileNotFoundError, match=f"{SOURCE}: {reason}"):
            hub_file(SOURCE)
    (partial,) = cached(tmp_path)
    there = partial.stat().st_size
    assert 0 < there < len(CONTENT)
    assert hub_file(SOURCE).read_bytes() == CONTENT and hub.sent[-1] == (there, len(CONTENT) - there)
    assert not partial.exists()


def test_a_part_that_is_longer_than_the_whole_counts_for_nothing(hub, tmp_path):
    hub.faults = ["reset"]
    with pytest.raises(FileNotFoundError):
        hub_file(SOURCE)
    (partial,) = cached(tmp_path)
    partial.write_bytes(CONTENT + b"more")
    assert hub_file(SOURCE).read_bytes() == CONTENT and hub.sent[-1] == (0, len(CONTENT))


def test_what_is_damaged_on_the_way_is_never_used(hub, tmp_path):
    hub.faults = ["damaged"]
    with pytest.raises(
        ValueError, match=f"{SOURCE}: found bytes of another checksum, expected [0-9a-f]{{64}}: damaged"
    ):
        hub_file(SOURCE)
    assert cached(tmp_path) == []
    assert hub_file(SOURCE).read_bytes() == CONTENT


def test_what_is_damaged_in_the_cache_is_never_used(hub, monkeypatch):
    path = hub_file(SOURCE)
    path.resolve().write_bytes(CONTENT[:-1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"{path}: found another checksum than [0-9a-f]{{64}}: damaged, and HF_HUB"):
        hub_file(SOURCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub_file(SOURCE).read_bytes() == CONTENT


def test_a_checksum_of_ones_own_is_compared_too(hub):
    right = hashlib.sha256(CONTENT).hexdigest()
    assert resolve_file(f"{SOURCE}#sha256={right}").read_bytes() == CONTENT
    with pytest.raises(ValueError, match=f"w.pth#sha256=0+: found SHA-256 {right}, expected 0000"):
        resolve_file(f"{SOURCE}#sha256={'0' * 64}")


def test_why_a_file_cannot_be_had_is_one_line(hub, monkeypatch):
    hub.gated.add("org/closed")
    for source, reason in {
        "hf://org/name/none.pth": "found no such file in org/name",
        "hf://org/none/w.pth": "found no repository org/none, or a private one: log in",
        "hf://org/name@v9/w.pth": "found no revision v9 in org/name",
        "hf://org/closed/w.pth": "org/closed is gated: accept its terms on its page, then log in with `hf auth login`",
    }.items():
        with pytest.raises(FileNotFoundError) as error:
            resolve_file(source)
        assert str(error.value).startswith(f"{source}: {reason}") and "\n" not in str(error.value)
    for source in ("hf://org", "hf://org/name", "hf://spaces/org/name/w.pth", "hf://"):
        with pytest.raises(ValueError, match=r"expected hf://\[datasets/\]ORG/NAME\[@REVISION\]/FILE"):
            resolve_file(source)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="not in the cache /.*/hf/hub, and HF_HUB_OFFLINE forbids"):
        resolve_file(SOURCE)


def test_without_a_network(hub, tmp_path, monkeypatch):
    path = hub_file(SOURCE)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # of the client, between its attempts
    point_client(monkeypatch, "http://127.0.0.1:1", tmp_path / "hf/hub")
    assert hub_file(SOURCE) == path
    with pytest.raises(FileNotFoundError, match="not in the cache .*, and http://127.0.0.1:1 gives no answer"):
        hub_file("hf://org/name/other.pth")


def test_too_little_space_is_said_beforehand(hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(ValueError, match=r"found 0.00 GB free in /.*blobs, expected 0.00 GB \(HF_HOME moves it\)"):
        hub_file(SOURCE)
    assert hub.sent == []


def test_the_token_stays_with_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub_file(SOURCE)
    assert hub.tokens == [None]


def test_processes_share_one_download(hub, tmp_path):
    words = [sys.executable, "-c", f"from utils.hub import hub_file; print(hub_file({SOURCE!r}))"]
    env = os.environ | dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    env.pop("HF_HUB_CACHE", None)
    running = [subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate(timeout=60)[0].strip() for process in running}
    assert len(paths) == 1 and pathlib.Path(paths.pop()).read_bytes() == CONTENT and len(hub.sent) == 1


def test_evaluation_takes_its_checkpoints_from_the_hub(hub, mini_root, mini_model, mini_flags, tmp_path, monkeypatch):
    torch.save(dict(model=mini_model("vtsum_blip_tt", task="v2v").state_dict()), tmp_path / "model.pth")
    hub.files["jylins/vtsum_blip", "vtsum_tt.pth"] = (tmp_path / "model.pth").read_bytes()
    hub.files["jylins/vtsum_blip", "vt_clip.pth"] = (mini_root / "vt_clip.pth").read_bytes()
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--model", "vtsum_blip_tt", "--task", "v2v"]
    words += ["--pretrained_clip", "hf://jylins/vtsum_blip/vt_clip.pth", "--splits", "val", "--output_dir", "run"]
    eval_v2vt_sum.main([*words, "--pretrained_model", "hf://jylins/vtsum_blip/vtsum_tt.pth"])
    results = json.loads((tmp_path / "run/results_val.json").read_text())
    assert results["checkpoint_sha256"] == sha256_of(tmp_path / "model.pth") and len(hub.sent) == 1
    config, _ = load_config([*words, "--task", "v2vt"], "")
    world = distributed.World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    assert eval_v2vt_sum.Evaluator(config, world).vt_clip is not None and len(hub.sent) == 2
