import json
import re
import shutil

import numpy as np
import pytest

from data import check as module
from data.check import check, main
from data.pack import pack_features

COUNTS = dict(train=33, val=3, test=7)


@pytest.fixture
def root(mini_root, tmp_path):
    return shutil.copytree(mini_root, tmp_path / "data", ignore=shutil.ignore_patterns("tokenizer", "*.pth"))


@pytest.fixture
def mini_counts(monkeypatch):
    """Replace the published numbers of videos by those of the mini dataset."""
    monkeypatch.setattr(module, "NUM_VIDEOS", COUNTS)


def issue_texts(report, kind):
    return [issue.text for issue in report.issues if issue.kind == kind]


def test_complete_data_set(root, mini_counts, capsys):
    main([str(root)])
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "complete" and lines[0] == f"{root}/anno/train_videoxum.json: 33 videos"
    assert lines[3].startswith(f"{root}/feat/blip: 43 of 43 videos, ") and len(lines) == 5


def test_video_counts_are_compared_with_published_ones(root, capsys):
    with pytest.raises(SystemExit, match="1"):
        main([str(root)])
    assert "test_videoxum.json: found 7 videos, expected 4000\nNOT complete" in capsys.readouterr().out
    main([str(root), "--own_data"])
    (root / "anno/train_videoxum.json").unlink()
    report = check(root, own_data=True)
    assert report.is_complete and len(issue_texts(report, "extra")) == 66
    assert f"{root}/anno/train_videoxum.json: no such file: there is no split train" in report.lines
    shutil.rmtree(root / "anno")
    with pytest.raises(FileNotFoundError, match="test_videoxum.json: annotations: no such file, and no other split"):
        check(root, own_data=True)
    with pytest.raises(FileNotFoundError, match="none: dataset: no such folder"):
        check(root / "none")


def test_missing_broken_and_extra_files_are_reported(root, mini_counts, capsys, tmp_path):
    blip, clip = root / "feat/blip", root / "feat/vt_clipscore"
    (blip / "mini_val_000.npz").unlink()
    (blip / "mini_val_001.npz").write_bytes((blip / "mini_val_001.npz").read_bytes()[:-100])
    frames = np.load(blip / "mini_val_002.npz")["features"]
    np.savez(blip / "mini_val_002.npz", features=frames[:-1])
    np.savez(blip / "mini_test_000.npz", features=np.load(blip / "mini_test_000.npz")["features"][:, :512])
    np.savez(blip / "mini_test_001.npz", features=np.full_like(np.load(blip / "mini_test_001.npz")["features"], np.nan))
    np.savez(clip / "mini_val_002.npz", vision=np.load(clip / "mini_val_002.npz")["vision"][:-2])
    shutil.copy(clip / "mini_val_000.npz", clip / "other.npz")
    with pytest.raises(SystemExit, match="1"):
        main([str(root), "--list", str(tmp_path / "all.jsonl")])
    out, T = capsys.readouterr().out, len(frames)
    lines = (
        f"missing: 1 videos without features\n  {blip}: video mini_val_000: no features",
        "broken: 4 feature files that cannot be used",
        f"  {blip}/mini_val_001.npz: video mini_val_001: features: damaged",
        f"  {blip}/mini_val_002.npz: video mini_val_002: features: found {T - 1} frames, expected {T} as in the labels",
        f"  {blip}/mini_test_000.npz: video mini_test_000: features: found width 512, expected 768 as in most files",
        f"  {blip}/mini_test_001.npz: video mini_test_001: features: found ",
        f"  {clip}/mini_val_002.npz: video mini_val_002: vision: found {T - 2} frames, expected {T}",
        f"  {clip}/other.npz: no video of that name is annotated",
        "NOT complete",
    )
    assert [line for line in lines if line not in out] == []
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert sorted(kinds) == sorted(["missing", *["broken"] * 4, "cut", "extra"])
    assert check(root, ["vt_clip_feat"]).is_complete  # cut and extra features make no run fail


def test_invalid_and_overlapping_annotations_are_reported(root, mini_counts):
    train, val = (root / f"anno/{split}_videoxum.json" for split in ("train", "val"))
    entries = json.loads(val.read_text())
    val.write_text(json.dumps([*entries[:2], json.loads(train.read_text())[0]]))
    (root / "anno/test_videoxum.json").write_text("[")
    report = check(root, ["anno"])
    assert issue_texts(report, "twice") == [f"{val}: video mini_train_000: found in train too"]
    (bad,) = issue_texts(report, "annotations")
    assert bad.startswith(f"{root}/anno/test_videoxum.json: annotations: not valid JSON") and not report.is_complete


def test_only_the_first_issues_are_printed(root, mini_counts, capsys):
    shutil.rmtree(root / "feat/blip")
    check(root).show()
    out = capsys.readouterr().out
    assert out.count("no features") == 10 and "  and 33 more; --list FILE writes all" in out


def test_packed_features_are_checked(root, mini_counts):
    files = sorted((root / "anno").iterdir())
    pack_features(root / "feat/blip", files, root / "feat/blip_packed", field="features", dtype="float16")
    shutil.rmtree(root / "feat/blip")
    report = check(root)
    assert report.is_complete and f"{root}/feat/blip_packed: 43 of 43 videos" in report.lines[3]
    path = root / "feat/blip_packed/val.safetensors"
    with open(path, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"\xff\x7f")  # NaN in half precision
    (broken,) = issue_texts(check(root), "broken")
    assert broken.startswith(f"{path}: video mini_val_") and broken.endswith("found 1 values that are NaN or infinite")
    with open(path, "r+b") as file:
        file.truncate(1000)
    (broken,) = issue_texts(check(root), "broken")
    assert broken.startswith(f"{path}: packed features: damaged")


def test_features_of_other_encoders_are_checked(root, mini_counts, capsys):
    """`--features` checks a further folder, which must have one width."""
    (root / "feat/other").mkdir()
    for number, path in enumerate(sorted((root / "feat/blip").glob("*.npz"))):
        with np.load(path) as arrays:
            width = 65 if number == 1 else 64
            np.savez(root / "feat/other" / path.name, features=arrays["features"][:, :width])
    with pytest.raises(SystemExit):
        main([str(root), "--features", "other"])
    output = capsys.readouterr().out
    assert "broken: 1 feature files that cannot be used" in output
    assert "features: found width 65, expected 64 as in most files" in output and "feat/blip" not in output


def test_own_data_names_the_labels_that_tasks_need(root, capsys):
    path = root / "anno/test_videoxum.json"
    entries = json.loads(path.read_text())
    for entry in entries[:3]:
        del entry["tsum"]
    for entry in entries[3:5]:
        del entry["vsum_onehot"]
    for entry in entries[5:]:
        entry["vsum_onehot"] = entry["vsum_onehot"][:3]
        entry["references"] = ["A video.", "Another caption."]
    path.write_text(json.dumps(entries))
    main([str(root), "--own_data"])  # complete: every video has the labels of some task
    out = capsys.readouterr().out
    assert f"{path}: 7 videos, annotators per video: 3 to 10, references per video: 0 to 2" in out
    assert re.search("3 of 7 videos have no captions, such as mini_test_00[012]; the tasks v2vt and v2t need", out)
    assert re.search("2 of 7 videos have no key-frames, such as mini_test_00[34]; the tasks v2vt and v2v need", out)
    assert "43 of 43 videos" in out  # all features are found
    path.unlink()
    main([str(root), "--own_data"])
    assert "36 of 36 videos" in (out := capsys.readouterr().out) and "extra: 14 feature files" in out


def test_videoxum_has_all_labels(root, mini_counts):
    path = root / "anno/test_videoxum.json"
    entries = json.loads(path.read_text())
    del entries[0]["tsum"]
    path.write_text(json.dumps(entries))
    (issue,) = issue_texts(check(root, ["anno"]), "annotations")
    assert f"{path}: video {entries[0]['video_id']}: tsum: missing, expected" in issue
