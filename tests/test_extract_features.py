"""Feature extraction: correct, reproducible, and robust to broken files and interruptions."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

import extract_features
from data.features import load_features
from data.mini.encoders import FRAME_SIZE
from data.registry import load_annotations
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from models.blip_vit import load_blip_vit
from models.vt_clip import load_vt_clip
from tests.conftest import ROOT
from tests.helpers.clips import constant_rate, write_clip
from tests.helpers.processes import ENVIRONMENT, LAUNCHER, run, start
from utils.encoder_names import EncoderName
from utils.frame_transform import FrameTransform

SCRIPT = str(ROOT / "extract_features.py")
SPLITS = ("train", "val", "test")


@pytest.fixture
def flags(mini_videos):
    """Flags that extract features of the mini videos."""
    return [
        *("--videos", str(mini_videos / "videos"), "--image_size", str(FRAME_SIZE), "--device", "cpu"),
        *("--num_workers", "0"),
        *("--annotations", *(str(mini_videos / f"anno/{split}_videoxum.json") for split in SPLITS)),
        *("--blip", str(mini_videos / "frame_encoder.pth"), "--vt_clip", str(mini_videos / "vt_clip.pth")),
    ]


@pytest.fixture(scope="module")
def extracted(mini_videos, tmp_path_factory):
    """Features of an uninterrupted run in a subprocess with one thread."""
    out = tmp_path_factory.mktemp("extracted")
    argv = ["--videos", mini_videos / "videos", "--image_size", FRAME_SIZE, "--device", "cpu", "--out", out]
    argv += ["--annotations", *(mini_videos / f"anno/{split}_videoxum.json" for split in SPLITS)]
    argv += ["--blip", mini_videos / "frame_encoder.pth", "--vt_clip", mini_videos / "vt_clip.pth"]
    status, output = run(["python", SCRIPT, *argv], ROOT)
    assert status == 0, output
    last = output.strip().splitlines()[-1]
    assert "extracted 8 videos" in last and last.endswith("0 videos were complete already; 0 failed")
    return out


def read_features(folder):
    """Read the bytes of all feature files by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*.npz"))}


def test_features_equal_those_of_single_frames(extracted, mini_videos):
    """Single frames, resized as by CLIP and BLIP and encoded one at a time."""
    vit, clip = load_blip_vit(mini_videos / "frame_encoder.pth", FRAME_SIZE), load_vt_clip(mini_videos / "vt_clip.pth")
    records = [record for split in SPLITS for record in load_annotations(mini_videos / f"anno/{split}_videoxum.json")]
    assert len(read_features(extracted)) == 2 * len(records) == 16
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    for record in records[:2]:
        frames = [
            to_upright_rgb(frame)
            for _, frame in VideoFile(mini_videos / f"videos/{record.video_id}.mp4").iter_sampled_frames()
        ]
        assert len(frames) == record.num_frames
        for name, field, size, encode in (
            ("blip", "features", FRAME_SIZE, vit),
            ("vt_clipscore", "vision", clip.image_size, clip.encode_image),
        ):
            rows = load_features(extracted / name, record.video_id, field)
            assert len(rows) == record.num_frames
            for second in (0, 7, len(rows) - 1):
                width = size if name == "blip" else int(size * 128 / 96)  # CLIP keeps the aspect ratio, then crops
                image, left = frames[second].resize((width, size), resample=3), round((width - size) / 2)
                image = image.crop((left, 0, left + size, size))
                pixels = torch.from_numpy((np.asarray(image) / 255 - mean) / std).permute(2, 0, 1)[None].float()
                with torch.no_grad():
                    assert np.allclose(encode(pixels)[0].numpy(), rows[second], atol=2e-4), (name, second)
        with torch.no_grad():
            text = clip.encode_text(record.captions()).numpy()
        assert np.allclose(load_features(extracted / "vt_clipscore", record.video_id, "text"), text, atol=1e-5)


def test_preprocessing_equals_that_of_clip_and_blip():
    """The pixels equal those of open_clip's and torchvision's transforms, for several frame shapes."""
    from open_clip.transform import image_transform
    from PIL import Image
    from torchvision import transforms

    rng = np.random.default_rng(0)
    for size in ((640, 360), (161, 91), (90, 160), (50, 40)):
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
        expected = image_transform(64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))(image)
        pixels = torch.from_numpy(preprocess(image, FrameTransform(64, crop=True)).copy()).permute(2, 0, 1) / 255
        assert torch.equal(pixels, expected)
        square = transforms.Resize((64, 64), transforms.InterpolationMode.BICUBIC)(image)
        assert np.array_equal(preprocess(image, FrameTransform(64)), np.asarray(square))


@pytest.mark.parametrize(
    ("text", "weights", "folder"),
    [
        ("blip:m.pth", "m.pth", "blip"),
        ("blip:m.pth=other", "m.pth", "other"),
        ("blip:my=model.pth", "my=model.pth", "blip"),
        (f"blip:https://x.org/m.pth#sha256={'0' * 64}", f"https://x.org/m.pth#sha256={'0' * 64}", "blip"),
        (f"blip:https://x.org/m.pth#sha256={'0' * 64}=b", f"https://x.org/m.pth#sha256={'0' * 64}", "b"),
        ("blip:https://x.org/m.pth?v=1", "https://x.org/m.pth?v=1", "blip"),
    ],
)
def test_encoder_arguments(text, weights, folder):
    assert extract_features._encoder(text) == (EncoderName("blip", weights=weights), folder)


def test_second_run_changes_no_file(extracted, flags, capfd):
    before = {path: path.stat().st_mtime_ns for path in extracted.rglob("*.npz")}
    extract_features.main([*flags, "--out", str(extracted)])
    assert "extracted 0 videos, 0 frames" in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in extracted.rglob("*.npz")}


@pytest.mark.soak
def test_two_processes_give_the_same_bytes(extracted, flags, tmp_path):
    status, output = run([*LAUNCHER, "--nproc_per_node=2", SCRIPT, *flags, "--out", tmp_path], ROOT)
    assert status == 0, output
    assert "extracted 8 videos" in output
    assert read_features(tmp_path) == read_features(extracted)


def test_killed_run_is_continued(extracted, flags, tmp_path):
    """SIGKILL after the first video: the second run extracts the others, with the same bytes."""
    argv = ["python", SCRIPT, *flags, "--out", tmp_path, "--num_workers", "1"]
    with start(argv, ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("*.npz")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    partial = read_features(tmp_path)
    assert 0 < len(partial) < 16
    (tmp_path / "blip" / f".x.npz.{os.uname().nodename}.{process.pid}.tmp").write_bytes(b"half")
    status, output = run(argv, ROOT)
    assert status == 0, output
    assert read_features(tmp_path) == read_features(extracted)
    assert partial.items() <= read_features(tmp_path).items()
    assert not list(tmp_path.rglob("*.tmp"))


def test_interrupted_run(mini_videos, tmp_path):
    """Ctrl-C: one line, status 75, no traceback."""
    videos, out = tmp_path / "many", tmp_path / "out"
    videos.mkdir()
    # More videos than finish before the signal.
    for i, path in itertools.product(range(50), (mini_videos / "videos").iterdir()):
        (videos / f"{i}_{path.name}").symlink_to(path)
    argv = ["--videos", videos, "--out", out, "--image_size", FRAME_SIZE, "--device", "cpu", "--num_workers", "1"]
    argv += ["--blip", mini_videos / "frame_encoder.pth", "--vt_clip", ""]
    with start(["python", SCRIPT, *argv], ROOT) as process:
        deadline = time.monotonic() + 120
        while not list(out.rglob("*.npz")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert output.strip().splitlines()[-1] == "stopped by SIGINT; the same command resumes from here"
    assert "Traceback" not in output and not (out / "failures.jsonl").exists()
    assert 0 < len(list(out.rglob("*.npz"))) < 400 and not list(out.rglob("*.tmp"))


@pytest.fixture
def mixed_videos(tmp_path):
    """Folder with two valid videos and five invalid ones."""
    folder = tmp_path / "odd"
    folder.mkdir()
    write_clip(folder / "good.mp4", constant_rate(25, 60))
    write_clip(folder / "silent.webm", constant_rate(25, 30), codec="libvpx-vp9")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video" * 999)
    (folder / "cut.mp4").write_bytes((folder / "good.mp4").read_bytes()[:2000])
    (folder / "folder.mp4").mkdir()
    (folder / "list.txt").write_text("good.mp4\nsilent.webm\nempty.mp4\ntext.mp4\ncut.mp4\nfolder.mp4\nmissing.mp4\n")
    return folder


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_broken_files_do_not_stop_the_run(mixed_videos, flags, tmp_path, capfd, num_workers):
    out = tmp_path / "out"
    argv = [*flags[2:], "--videos", str(mixed_videos / "list.txt"), "--out", str(out), "--num_workers", num_workers]
    for _ in range(2):  # the second run tries only the failed videos again
        with pytest.raises(SystemExit) as caught:
            extract_features.main(argv)
        assert caught.value.code == 1
        failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
        reasons = {failure["video_id"]: failure["reason"] for failure in failures}
        assert sorted(reasons) == ["cut", "empty", "folder", "missing", "text"] and len(failures) == 5
        assert reasons["empty"] == f"{mixed_videos}/empty.mp4: video: the file is empty"
        assert reasons["missing"] == "missing.mp4: video: no such file or directory"
        assert all("\n" not in reason for reason in reasons.values())
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last.endswith(f"5 failed, see {out}/failures.jsonl")
    assert sorted(read_features(out)) == [
        f"{name}/{video_id}.npz" for name in ("blip", "vt_clipscore") for video_id in ("good", "silent")
    ]
    assert len(load_features(out / "blip", "good", "features", 768)) == 3
    (mixed_videos / "list.txt").write_text("good.mp4\n")
    extract_features.main(argv)
    assert not (out / "failures.jsonl").exists()


@pytest.mark.parametrize("dataset", ["videoxum", "own"])
def test_annotations_determine_the_number_of_frames(mini_videos, flags, tmp_path, caplog, dataset):
    entries = json.loads((mini_videos / "anno/val_videoxum.json").read_text())[:1]
    video_id, frames = entries[0]["video_id"], len(entries[0]["vsum_onehot"][0]) + 3
    entries[0] |= dict(vsum_onehot=[[0] * frames] * 10, sampled_frames=frames)
    if dataset == "own":
        entries = [dict(video_id=video_id, duration=frames - 0.5, segments=[[1, 2]])]
    (tmp_path / "anno.json").write_text(json.dumps(entries))
    argv = ["--videos", str(mini_videos / f"videos/{video_id}.mp4"), "--annotations", str(tmp_path / "anno.json")]
    argv += ["--dataset", dataset]
    with caplog.at_level("WARNING"):
        extract_features.main([*flags[2:8], *flags[-4:], *argv, "--out", str(tmp_path / "out")])
    rows = load_features(tmp_path / "out/blip", video_id, "features")
    assert len(rows) == frames
    assert np.array_equal(rows[-1], rows[-2]) and not np.array_equal(rows[-5], rows[-20])
    assert f"expected {frames} as annotated" in (tmp_path / "out/extract.log").read_text()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(mini_videos, flags, extracted, tmp_path, precision):
    extract_features.main([*flags, "--precision", precision, "--out", str(tmp_path)])
    whole = np.load(extracted / "blip/mini_val_000.npz")["features"]
    half = np.load(tmp_path / "blip/mini_val_000.npz")["features"]
    assert half.dtype == np.float32 and not np.array_equal(half, whole)
    cosine = (half * whole).sum(1) / np.linalg.norm(half, axis=1) / np.linalg.norm(whole, axis=1)
    assert cosine.min() > 0.999


def test_features_of_other_settings_are_not_mixed(flags, tmp_path):
    argv = [*flags, "--out", str(tmp_path), "--vt_clip", ""]
    videos_position = flags.index("--videos") + 1
    argv[videos_position] = str(next(pathlib.Path(argv[videos_position]).iterdir()))
    extract_features.main(argv)
    assert not (tmp_path / "vt_clipscore").exists()
    (tmp_path / "released/blip").mkdir(parents=True)
    (tmp_path / "released/blip/v_1.npz").touch()
    for change in ([], ["--overwrite"]):
        with pytest.raises(ValueError, match=r"released/blip: --out: found features without provenance"):
            extract_features.main([*argv, *change, "--out", str(tmp_path / "released")])
    (path,) = (tmp_path / "blip").glob("*.npz")
    first = path.read_bytes()
    with pytest.raises(ValueError, match=r"extraction.json: image_size: found 64, expected 32: .*--overwrite"):
        extract_features.main([*argv, "--image_size", "32"])
    assert path.read_bytes() == first
    leftover = path.with_name("of_an_earlier_run.npz")
    leftover.write_bytes(first)
    extract_features.main([*argv, "--image_size", "32", "--overwrite"])
    assert path.read_bytes() != first and not leftover.exists()
    for content in ("[]", "{"):
        (tmp_path / "blip/extraction.json").write_text(content)
        with pytest.raises(ValueError, match=r"extraction.json: image_size: found None, expected"):
            extract_features.main(argv)


def test_antialiasing_of_position_table(flags, tmp_path):
    """It is part of the provenance; features of an earlier version, which did not record it, have antialiasing."""
    argv = [*flags, "--out", str(tmp_path), "--vt_clip", "", "--image_size", "32"]
    videos_position = flags.index("--videos") + 1
    argv[videos_position] = str(next(pathlib.Path(argv[videos_position]).iterdir()))
    extract_features.main(argv)
    note, (path,) = tmp_path / "blip/extraction.json", (tmp_path / "blip").glob("*.npz")
    recorded, smooth = json.loads(note.read_text()), np.load(path)["features"]
    assert recorded["vit_position_antialias"] is True
    off = [*argv, "--vit_position_antialias", "false"]
    with pytest.raises(ValueError, match=r"extraction.json: vit_position_antialias: found True, expected False: "):
        extract_features.main(off)
    earlier = {name: value for name, value in recorded.items() if name != "vit_position_antialias"}
    note.write_text(json.dumps(earlier))
    before = path.stat().st_mtime_ns
    extract_features.main([*argv, "--vit_position_antialias", "true"])
    assert path.stat().st_mtime_ns == before and json.loads(note.read_text()) == recorded
    with pytest.raises(ValueError, match=r"extraction.json: vit_position_antialias: found True, expected False: "):
        extract_features.main(off)
    extract_features.main([*off, "--overwrite"])
    assert json.loads(note.read_text())["vit_position_antialias"] is False
    assert not np.allclose(np.load(path)["features"], smooth, atol=1e-3)
    with pytest.raises(ValueError, match="argument --vit_position_antialias: found 'maybe', expected true or false"):
        extract_features.main([*argv, "--vit_position_antialias", "maybe"])


def extract_size(argv, out):
    """Extract BLIP's features; returns the image size in their provenance."""
    extract_features.main([*argv, "--out", str(out)])
    return json.loads((out / "blip/extraction.json").read_text())["image_size"]


def test_image_size_is_that_of_the_checkpoint_or_the_configuration(mini_videos, tmp_path, caplog):
    """The flag precedes the configuration, which precedes the checkpoint; a resampled table is a warning."""
    video = next((mini_videos / "videos").iterdir())
    flags = ["--videos", str(video), "--device", "cpu", "--num_workers", "0", "--vt_clip", ""]
    blip = str(mini_videos / "frame_encoder.pth")
    assert extract_size([*flags, "--blip", blip], tmp_path / "own") == FRAME_SIZE
    log = (tmp_path / "own/extract.log").read_text()
    assert "64 x 64 pixels" in log and "resampled" not in log
    (tmp_path / "base.yaml").write_text(f"pretrained: {blip}\nimage_size: 32\nvit_position_antialias: false\n")
    (tmp_path / "run.yaml").write_text("base: base.yaml\nmodel: vtsum_blip_tt\n")
    config = ["--config", str(tmp_path / "run.yaml")]
    assert extract_size([*flags, *config], tmp_path / "config") == 32
    assert json.loads((tmp_path / "config/blip/extraction.json").read_text())["vit_position_antialias"] is False
    warning = f"{blip}: BLIP's image encoder is for 64 x 64 pixels: its position table is resampled for image_size 32"
    assert (tmp_path / "config/extract.log").read_text().count(warning) == 1
    changes = ["--image_size", "48", "--vit_position_antialias", "true"]
    assert extract_size([*flags, *config, *changes], tmp_path / "flags") == 48
    assert json.loads((tmp_path / "flags/blip/extraction.json").read_text())["vit_position_antialias"] is True
    with pytest.raises(ValueError, match="run.yaml: no_setting: unknown key"):
        (tmp_path / "run.yaml").write_text("no_setting: 1\n")
        extract_features.main([*flags, *config, "--out", str(tmp_path / "wrong")])


def test_default_encoders_that_are_left_out(mini_videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--videos", str(next((mini_videos / "videos").iterdir())), "--out", "out", "--device", "cpu"]
    fetch = "run python -m data.download --what weights"
    with pytest.raises(
        ValueError,
        match="^--blip: outputs/blip/.*_large.pth: no such file; --vt_clip: outputs/.*/vt_clip.pth: no such file; "
        f"{fetch}, or name an encoder with --encoder, --blip or --vt_clip$",
    ):
        extract_features.main(argv)
    config = ["--config", str(ROOT / "configs/mini.yaml")]
    with pytest.raises(ValueError, match="^--blip: pretrained is '' in --config; --vt_clip: outputs/"):
        extract_features.main([*argv, *config])
    extract_features.main([*argv, "--num_workers", "0", "--blip", str(mini_videos / "frame_encoder.pth")])
    note = "--vt_clip: its features are not extracted: outputs/vt_clipscore/vt_clip.pth: no such file"
    assert f"{note}; {fetch}\n" in (tmp_path / "out/extract.log").read_text()


def test_missing_encoders_are_found_before_torch_is_imported(mini_videos, tmp_path):
    program = (
        "import sys, extract_features\n"
        "try: extract_features.main(sys.argv[1:])\n"
        "except ValueError as error: print(str(error).split('/')[0], 'torch' in sys.modules)\n"
    )
    argv = ["--videos", mini_videos / "videos", "--out", tmp_path / "out"]
    status, output = run(["python", "-c", program, *argv], tmp_path, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)})
    assert status == 0 and output == "--blip: outputs False\n"


def test_videos_without_a_counterpart_are_named(mini_videos, flags, tmp_path):
    video_ids = sorted(path.stem for path in (mini_videos / "videos").iterdir())
    entries = [dict(video_id=f"own_{number}", duration=3) for number in range(6, 0, -1)]
    (tmp_path / "anno.json").write_text(json.dumps([*entries, dict(video_id=video_ids[1], duration=24)]))
    videos = [str(mini_videos / f"videos/{video_id}.mp4") for video_id in video_ids[:2]]
    argv = ["--annotations", str(tmp_path / "anno.json"), "--dataset", "own", "--videos", *videos, "--vt_clip", ""]
    extract_features.main([*flags, *argv, "--out", str(tmp_path / "out")])
    log = (tmp_path / "out/extract.log").read_text()
    assert "2 videos, 7 annotated, 1 in both\n" in log
    assert "annotated, but no video file: own_1, own_2, own_3 and 3 more\n" in log
    assert f"not annotated: {video_ids[0]}\n" in log
    extract_features.main([*flags, "--vt_clip", "", "--out", str(tmp_path / "all")])
    log = (tmp_path / "all/extract.log").read_text()
    assert "8 videos, 8 annotated, 8 in both\n" in log and "annotated:" not in log and "no video file" not in log


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--videos", "none"], "none: videos: no such file or folder"),
        (["--videos", "."], ".: videos: found none, expected files that end in .3gp"),
        (["--blip", "", "--vt_clip", ""], "--encoder, --blip, --vt_clip: found no encoder, expected at least one"),
        (["--blip", "no.pth"], "no.pth: --blip: no such file"),
        (["--out", __file__], f"{__file__}: --out: found a file, expected a folder"),
        (["--batch_size", "0"], "--batch_size: found 0, expected at least 1"),
        (["--annotations", "no.json"], "no.json: annotations: no such file"),
        (["--image_size", "65"], "image_size: found 65, expected a multiple of 16"),
    ],
)
def test_invalid_arguments_raise(flags, tmp_path, monkeypatch, change, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        extract_features.main([*flags, "--out", "out", *change])
    assert str(caught.value).startswith(line)
    assert not list(tmp_path.rglob("*.npz"))


def test_usage_error_is_one_line_with_status_2(flags, tmp_path):
    status, output = run(["python", SCRIPT, *flags, "--out", tmp_path / "out", "--videos", "."], tmp_path)
    assert status == 2
    (line,) = output.strip().splitlines()
    assert line.startswith("error: .: videos: found none, expected files that end in .3gp")


def test_full_disk_is_one_line(flags, tmp_path):
    """On a file system of 64 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        status, output = run(["python", SCRIPT, *flags, "--out", small], tmp_path)
        left = [str(path.relative_to(small)) for path in small.rglob("*") if path.is_file() and path.suffix != ".json"]
    finally:
        subprocess.run(["umount", small], check=True)
    last = output.strip().splitlines()[-1]
    assert status == 2
    assert last.startswith(f"error: {small}/blip/mini_") and last.endswith(
        "cannot be written (No space left on device)"
    )
    assert left == ["extract.log"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its permissions and restore them")
def test_unreadable_file_raises(tmp_path):
    """A file without read permission raises an error of its own."""
    path = write_clip(tmp_path / "clip.mp4", constant_rate(25, 3))
    path.chmod(0)
    for folder in (tmp_path, *(parent for parent in tmp_path.parents if "pytest-" in str(parent))):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match=r"clip.mp4: video: cannot be read \(Permission denied\)$"):
            VideoFile(path)
    finally:
        os.seteuid(0)
