import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import constants

import eval_v2vt_sum
from models.vt_clip import load_vt_clip
from tests.conftest import ROOT
from tests.hub_server import COMMIT, point_client
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


def environment(hub, folder):
    """Environment of a fresh process whose client asks the test's hub."""
    env = os.environ | dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(folder / "home"), HF_HUB_OFFLINE="0")
    env.pop("HF_HUB_CACHE", None)
    return env


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


def test_a_cut_connection_is_resumed(hub):
    hub.faults = ["cut"]
    assert hub_file(SOURCE).read_bytes() == CONTENT
    (_, half), (first, rest) = hub.sent
    assert half == len(CONTENT) // 2 and half - 2**14 < first <= half and first + rest == len(CONTENT)


def test_a_failed_download_leaves_nothing_and_is_repeated(hub, tmp_path):
    hub.faults = ["reset", "busy"]
    for reason in ("the download failed .*; run the same command again", "the download failed .*503"):
        with pytest.raises(FileNotFoundError, match=f"{SOURCE}: {reason}"):
            hub_file(SOURCE)
        assert not [path for path in cached(tmp_path) if path.parent.name == "blobs"]
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


def test_a_full_disk_is_one_line(hub, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))"
    words = [sys.executable, "-c", f"{limit}; from utils.hub import hub_file; hub_file({SOURCE!r})"]
    done = subprocess.run(words, cwd=ROOT, env=environment(hub, tmp_path), capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("home/hub (File too large); HF_HOME moves it") and "cannot be written to the cache" in last


def test_the_token_stays_with_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub_file(SOURCE)
    assert hub.tokens == [None]


def test_processes_share_one_download(hub, tmp_path):
    words = [sys.executable, "-c", f"from utils.hub import hub_file; print(hub_file({SOURCE!r}))"]
    running = [
        subprocess.Popen(words, cwd=ROOT, env=environment(hub, tmp_path), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
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
    load_vt_clip("hf://jylins/vtsum_blip/vt_clip.pth")
    assert len(hub.sent) == 2
