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
from tests.helpers.hub_server import COMMIT, configure_client
from utils.download import resolve_file
from utils.files import compute_sha256
from utils.hub import download_hub_file

CONTENT = bytes(range(256)) * 1000
SOURCE = "hf://org/name/folder/w.pth"


@pytest.fixture
def hub(hub):
    hub.files["org/name", "folder/w.pth"] = CONTENT
    hub.files["datasets/org/data", "small.txt"] = b"small"
    return hub


def make_environment(hub, folder):
    """Make the environment of a process whose client uses the test's hub."""
    env = os.environ | dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(folder / "home"), HF_HUB_OFFLINE="0")
    env.pop("HF_HUB_CACHE", None)
    return env


def list_cached_files(folder):
    return [path for path in (folder / "hf").rglob("*") if path.is_file() and path.suffix not in (".lock", ".TAG")]


def test_file_is_downloaded_once_and_then_read_from_the_cache(hub, monkeypatch):
    path = download_hub_file(SOURCE)
    assert path.read_bytes() == CONTENT and path.name == "w.pth" and hub.sent == [(0, len(CONTENT))]
    assert download_hub_file("hf://datasets/org/data/small.txt").read_bytes() == b"small"
    assert (
        download_hub_file(f"hf://org/name@{COMMIT}/folder/w.pth") == resolve_file(SOURCE) == path and len(hub.sent) == 1
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    request_count = hub.request_count
    assert resolve_file(SOURCE) == path and hub.request_count == request_count


def test_cut_connection_is_resumed(hub):
    hub.faults = ["cut"]
    assert download_hub_file(SOURCE).read_bytes() == CONTENT
    (_, half), (first, rest) = hub.sent
    assert half == len(CONTENT) // 2 and half - 2**14 < first <= half and first + rest == len(CONTENT)


def test_failed_download_leaves_no_file_and_can_be_repeated(hub, tmp_path):
    hub.faults = ["reset", "busy"]
    for reason in ("the download failed .*; run the same command again", "the download failed .*503"):
        with pytest.raises(FileNotFoundError, match=f"{SOURCE}: {reason}"):
            download_hub_file(SOURCE)
        assert not [path for path in list_cached_files(tmp_path) if path.parent.name == "blobs"]
    assert download_hub_file(SOURCE).read_bytes() == CONTENT


def test_given_checksum_is_verified(hub):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert resolve_file(f"{SOURCE}#sha256={sha256}").read_bytes() == CONTENT
    with pytest.raises(ValueError, match=f"w.pth#sha256=0+: found SHA-256 {sha256}, expected 0000"):
        resolve_file(f"{SOURCE}#sha256={'0' * 64}")


def test_unavailable_files_raise_one_line(hub, monkeypatch):
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


def test_no_network(hub, tmp_path, monkeypatch):
    path = download_hub_file(SOURCE)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between attempts
    configure_client(monkeypatch, "http://127.0.0.1:1", tmp_path / "hf/hub")
    assert download_hub_file(SOURCE) == path
    with pytest.raises(FileNotFoundError, match="not in the cache .*, and http://127.0.0.1:1 does not respond"):
        download_hub_file("hf://org/name/other.pth")


def test_full_disk_is_one_line(hub, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))"
    argv = [sys.executable, "-c", f"{limit}; from utils.hub import download_hub_file; download_hub_file({SOURCE!r})"]
    done = subprocess.run(
        argv, cwd=ROOT, env=make_environment(hub, tmp_path), capture_output=True, text=True, timeout=60
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("home/hub (File too large); HF_HOME moves it") and "cannot be written to the cache" in last


def test_token_is_sent_only_to_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download_hub_file(SOURCE)
    assert hub.tokens == [None]


def test_processes_share_one_download(hub, tmp_path):
    argv = [sys.executable, "-c", f"from utils.hub import download_hub_file; print(download_hub_file({SOURCE!r}))"]
    running = [
        subprocess.Popen(argv, cwd=ROOT, env=make_environment(hub, tmp_path), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in running}
    assert len(paths) == 1 and pathlib.Path(paths.pop()).read_bytes() == CONTENT and len(hub.sent) == 1


def test_evaluation_downloads_its_checkpoints_from_the_hub(
    hub, mini_root, mini_model, mini_flags, tmp_path, monkeypatch
):
    torch.save(dict(model=mini_model("vtsum_blip_tt", task="v2v").state_dict()), tmp_path / "model.pth")
    hub.files["jylins/vtsum_blip", "vtsum_tt.pth"] = (tmp_path / "model.pth").read_bytes()
    hub.files["jylins/vtsum_blip", "vt_clip.pth"] = (mini_root / "vt_clip.pth").read_bytes()
    monkeypatch.chdir(tmp_path)
    argv = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--model", "vtsum_blip_tt", "--task", "v2v"]
    argv += ["--pretrained_clip", "hf://jylins/vtsum_blip/vt_clip.pth", "--splits", "val", "--output_dir", "run"]
    eval_v2vt_sum.main([*argv, "--pretrained_model", "hf://jylins/vtsum_blip/vtsum_tt.pth"])
    results = json.loads((tmp_path / "run/results_val.json").read_text())
    assert results["checkpoint_sha256"] == compute_sha256(tmp_path / "model.pth") and len(hub.sent) == 1
    load_vt_clip("hf://jylins/vtsum_blip/vt_clip.pth")
    assert len(hub.sent) == 2
