import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from huggingface_hub import constants

from data import check, download
from tests.conftest import ROOT
from utils.log import run_main

REPOSITORY = "datasets/jylins/videoxum"
COUNTS = dict(train=33, val=3, test=7)  # of mini VideoXum in tests


@pytest.fixture
def hub(hub, mini_root, tmp_path, monkeypatch):
    """The data set's repository with mini VideoXum in it, its archives with folders that nobody announced."""
    for path in (mini_root / "anno").iterdir():
        hub.files[REPOSITORY, path.name] = path.read_bytes()
    for part, (folder, _) in check.FEATURES.items():
        with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for i, path in enumerate(sorted((mini_root / "feat" / folder).iterdir())):
                archive.write(path, f"some/{part}/{i % 2}/{path.name}")
        hub.files[REPOSITORY, f"{part}.zip"] = (tmp_path / "made.zip").read_bytes()
    for module in (check, download):
        monkeypatch.setattr(module, "VIDEOS", COUNTS)
    monkeypatch.chdir(tmp_path)
    return hub


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_comes_to_its_place(hub, mini_root, tmp_path, capsys):
    download.main([])
    there = tree(tmp_path / "dataset/ActivityNet")
    assert there == {name: data for name, data in tree(mini_root).items() if name.startswith(("anno/", "feat/"))}
    out, said = capsys.readouterr()
    assert out.endswith("complete\n") and "blip: 43 files unpacked, 0 were there already" in said and len(hub.sent) == 5
    asked = hub.asked
    download.main([])
    assert hub.asked == asked and "feat/blip: there already" in capsys.readouterr().err


def test_only_what_is_missing_is_fetched_and_mended_from_the_cache(hub, mini_root, tmp_path, monkeypatch):
    root = tmp_path / "data"
    download.main(["--root", str(root)])
    shutil.rmtree(root / "feat/vt_clipscore")
    victim = root / "feat/blip/mini_val_001.npz"
    victim.write_bytes(bytes(100))
    (root / "feat/blip/mini_val_000.npz").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    download.main(["--root", str(root), "--what", "blip_feat"])
    assert victim.read_bytes() == (mini_root / "feat/blip/mini_val_001.npz").read_bytes()
    assert not (root / "feat/vt_clipscore").exists() and len(hub.sent) == 5


def test_files_of_others_are_not_touched(hub, tmp_path):
    root = tmp_path / "data"
    (root / "anno").mkdir(parents=True)
    own = root / "anno/val_videoxum.json"
    own.write_text(json.dumps(json.loads(hub.files[REPOSITORY, "val_videoxum.json"])[:2]))
    before = own.read_bytes()
    with pytest.raises(ValueError, match=f"{own}: found another file than the hub's, expected none: move it"):
        download.main(["--root", str(root)])
    assert own.read_bytes() == before
    (root / "feat/vt_clipscore").mkdir(parents=True)
    note = root / "feat/vt_clipscore/extraction.json"
    note.write_text("{}")
    with pytest.raises(ValueError, match=f"{note}: found features of an extraction of your own, expected another --ro"):
        download.main(["--root", str(root), "--what", "blip_feat", "vt_clip_feat"])
    assert not (root / "feat/blip").exists()


def test_an_archive_that_lacks_videos_is_told(hub, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "less.zip", "w") as archive:
        archive.writestr("a/other.npz", b"junk" * 100)
    hub.files[REPOSITORY, "blip_feat.zip"] = (tmp_path / "less.zip").read_bytes()
    with pytest.raises(SystemExit, match="1"):
        download.main(["--root", "data", "--what", "anno", "blip_feat"])
    out = capsys.readouterr().out
    assert "missing: 43 videos without features" in out and "extra: 1 feature files" in out


def test_errors_are_one_line(hub, tmp_path, capsys):
    del hub.files[REPOSITORY, "test_videoxum.json"]
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: download.main(["--root", "data", "--what", "anno"]))
    expected = "error: hf://datasets/jylins/videoxum/test_videoxum.json: found no such file in jylins/videoxum\n"
    assert capsys.readouterr().err.endswith(expected)


def test_the_command_with_the_clients_own_environment(hub, tmp_path):
    words = [sys.executable, "-m", "data.download", "--root", str(tmp_path / "data"), "--what", "anno", "blip_feat"]
    env = os.environ | dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout.endswith("NOT complete\n")  # the numbers are not the published ones
    assert "number: 3 splits" in done.stdout and "blip: 43 of 43 videos" in done.stdout and "HTTP" not in done.stderr
    assert (tmp_path / "home/hub/datasets--jylins--videoxum/blobs").is_dir()
