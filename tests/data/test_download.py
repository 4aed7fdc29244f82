import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from huggingface_hub import constants

from data import check, download
from tests.conftest import ROOT
from tests.helpers.hub_files import DATASET_REPOSITORY, serve_dataset
from tests.helpers.hub_server import configure_client
from utils.download import format_bytes
from utils.log import run_main
from utils.published_weights import PUBLISHED_WEIGHTS

DATA = ["--what", *check.PARTS]
WEIGHTS = {name: f"{name} ".encode() * 1000 for name in PUBLISHED_WEIGHTS}


@pytest.fixture
def hub(hub, mini_root, tmp_path, monkeypatch):
    """Hub with mini VideoXum in the dataset's repository, and with all weights."""
    serve_dataset(hub, mini_root, tmp_path, monkeypatch)
    for name, weights in PUBLISHED_WEIGHTS.items():
        hub.files["jylins/vtsum_blip", pathlib.PurePath(weights.source).name] = WEIGHTS[name]
    blip = PUBLISHED_WEIGHTS["blip"]
    source = f"{hub.endpoint}/jylins/vtsum_blip/resolve/main/{pathlib.PurePath(blip.source).name}"
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "blip", dataclasses.replace(blip, source=source))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return hub


def read_tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_download_writes_all_files(hub, mini_root, tmp_path, capsys):
    download.main([])
    files = read_tree(tmp_path / "dataset/ActivityNet")
    assert files == {name: data for name, data in read_tree(mini_root).items() if name.startswith(("anno/", "feat/"))}
    assert all((tmp_path / weights.path).read_bytes() == WEIGHTS[name] for name, weights in PUBLISHED_WEIGHTS.items())
    report, messages = capsys.readouterr()
    assert report.endswith("complete\n")
    assert "blip: 43 files extracted, 0 existed" in messages
    size = format_bytes(len(hub.files[DATASET_REPOSITORY, "blip_feat.zip"]))
    line = f"feat/blip: downloading hf://datasets/jylins/videoxum/blip_feat.zip ({size}) to {tmp_path}/hf/hub\n"
    assert line in messages
    request_count = hub.request_count
    download.main([])
    assert hub.request_count == request_count and "feat/blip: exists" in capsys.readouterr().err


def test_weights_are_downloaded_to_their_local_paths(hub, tmp_path, capsys):
    """Each with its SHA-256 beside it; a second call makes no request, and does not create the dataset's folder."""
    download.main(["--what", "weights"])
    messages, request_count = capsys.readouterr().err, hub.request_count
    assert messages.count("(not published: kept to compare later downloads)") == len(PUBLISHED_WEIGHTS)
    download.main(["--what", "weights"])
    assert hub.request_count == request_count and not (tmp_path / "dataset").exists()
    later_messages = capsys.readouterr().err
    for name, weights in PUBLISHED_WEIGHTS.items():
        path, sha256 = tmp_path / weights.path, hashlib.sha256(WEIGHTS[name]).hexdigest()
        assert path.read_bytes() == WEIGHTS[name]
        assert path.with_name(f"{path.name}.sha256").read_text() == f"{sha256}  {path.name}\n"
        assert f"{weights.path}: downloading {weights.source} ({len(WEIGHTS[name]) / 1000:.0f} kB)" in messages
        assert f"{weights.path}: exists" in later_messages


@pytest.mark.parametrize("name", ["vt_clip", "blip"])
def test_weights_that_differ_from_the_first_download_are_refused(hub, tmp_path, monkeypatch, name):
    download.main(["--what", "weights"])
    weights = PUBLISHED_WEIGHTS[name]
    (tmp_path / weights.path).unlink()
    hub.files["jylins/vtsum_blip", pathlib.PurePath(weights.source).name] = b"others" * 1000
    configure_client(monkeypatch, hub.endpoint, tmp_path / "other_cache")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "other_torch"))
    first = hashlib.sha256(WEIGHTS[name]).hexdigest()
    with pytest.raises(
        ValueError, match=rf": found SHA-256 .*, expected {first} of the first download, in {weights.path}"
    ):
        download.main(["--what", "weights"])
    assert not (tmp_path / weights.path).exists()


def test_missing_and_damaged_files_are_restored_from_the_cache(hub, mini_root, tmp_path, monkeypatch):
    root = tmp_path / "data"
    download.main(["--root", str(root), *DATA])
    shutil.rmtree(root / "feat/vt_clipscore")
    damaged = root / "feat/blip/mini_val_001.npz"
    damaged.write_bytes(bytes(100))
    (root / "feat/blip/mini_val_000.npz").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    download.main(["--root", str(root), "--what", "blip_feat"])
    assert damaged.read_bytes() == (mini_root / "feat/blip/mini_val_001.npz").read_bytes()
    assert not (root / "feat/vt_clipscore").exists() and len(hub.sent) == 5


def test_unrelated_files_are_not_overwritten(hub, tmp_path):
    root = tmp_path / "data"
    (root / "anno").mkdir(parents=True)
    annotations = root / "anno/val_videoxum.json"
    annotations.write_text(json.dumps(json.loads(hub.files[DATASET_REPOSITORY, "val_videoxum.json"])[:2]))
    before = annotations.read_bytes()
    with pytest.raises(
        ValueError, match=f"{annotations}: found a file that differs from the hub's, expected none: move it"
    ):
        download.main(["--root", str(root), *DATA])
    assert annotations.read_bytes() == before
    (root / "feat/vt_clipscore").mkdir(parents=True)
    note = root / "feat/vt_clipscore/extraction.json"
    note.write_text("{}")
    with pytest.raises(ValueError, match=f"{note}: found features of extract_features.py, expected none"):
        download.main(["--root", str(root), "--what", "blip_feat", "vt_clip_feat"])
    assert not (root / "feat/blip").exists()


def test_archives_with_missing_videos_are_reported(hub, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "less.zip", "w") as archive:
        archive.writestr("a/other.npz", b"junk" * 100)
    hub.files[DATASET_REPOSITORY, "blip_feat.zip"] = (tmp_path / "less.zip").read_bytes()
    with pytest.raises(SystemExit, match="1"):
        download.main(["--root", "data", "--what", "anno", "blip_feat"])
    out = capsys.readouterr().out
    assert "missing: 43 videos without features" in out and "extra: 1 feature files" in out


def test_errors_are_one_line(hub, tmp_path, capsys):
    del hub.files[DATASET_REPOSITORY, "test_videoxum.json"]
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: download.main(["--root", "data", "--what", "anno"]))
    expected = "error: hf://datasets/jylins/videoxum/test_videoxum.json: found no such file in jylins/videoxum\n"
    assert capsys.readouterr().err.endswith(expected)


def test_command_uses_the_environment_of_the_hub_client(hub, tmp_path):
    argv = [sys.executable, "-m", "data.download", "--root", str(tmp_path / "data"), "--what", "anno", "blip_feat"]
    env = os.environ | dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout.endswith("NOT complete\n")  # fewer videos than published
    assert "number: 3 splits" in done.stdout and "blip: 43 of 43 videos" in done.stdout and "HTTP" not in done.stderr
    assert (tmp_path / "home/hub/datasets--jylins--videoxum/blobs").is_dir()
