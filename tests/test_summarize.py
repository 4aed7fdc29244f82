"""Summaries of video files, in Python, on the command line and in a browser."""

import base64
import fractions
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import zipfile

import av
import numpy as np
import opentimelineio as otio
import pytest
import torch
from PIL import Image

import summarize as script
from data.mini.encoders import FRAME_SIZE
from data.video.decoding import DecodeJob
from data.video.files import find_videos
from data.video.reader import VideoFile
from engine.extraction import encode_videos
from models.blip_vit import load_blip_vit
from models.frame_encoders import EncoderOptions, load_frame_encoder
from summary import Summarizer
from summary.chapters import render_chapters
from summary.demo.bundle import write_bundle
from summary.parts import split_seconds
from summary.storyboard import Storyboard
from tests.conftest import ROOT
from tests.helpers.browser import open_page
from tests.helpers.clips import constant_rate, read_milliseconds, write_clip
from tests.helpers.device_options import expect_device_options
from tests.helpers.processes import run
from tests.helpers.summary_files import SUMMARY_FILES


@pytest.fixture(scope="module")
def summarizer(summary_settings):
    return Summarizer(**summary_settings)


@pytest.fixture
def flags(summary_settings):
    return [argument for name, value in summary_settings.items() for argument in (f"--{name}", str(value))]


def test_summary_files_and_values(summarizer, mini_videos, untrained_checkpoint, tmp_path):
    path = mini_videos / "videos/mini_test_000.mp4"
    summary = summarizer.summarize(path, tmp_path)
    folder = tmp_path / "mini_test_000"
    assert sorted(file.name for file in folder.iterdir()) == SUMMARY_FILES
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))

    video = VideoFile(path)
    T = video.timeline.seconds
    assert len(summary["saliency"]) == len(summary["chosen"]) == T
    assert all(0 < value < 1 for value in summary["saliency"])
    best = np.argsort(summary["saliency"])[::-1][: int(0.15 * T)]
    assert np.flatnonzero(summary["chosen"]).tolist() == sorted(best.tolist())
    skim_duration = sum(end - start for start, end in summary["segments"])
    assert summary["budget"] == dict(asked=0.15, used=pytest.approx(skim_duration / video.timeline.duration))
    assert VideoFile(folder / "summary.mp4").timeline.duration == pytest.approx(skim_duration, abs=0.002)
    assert summary["checkpoints"]["model"]["sha256"] == hashlib.sha256(untrained_checkpoint.read_bytes()).hexdigest()
    assert set(summary["timings"]) == {"features", "model", "choose", "skim", "page"}
    with Image.open(folder / "storyboard.png") as storyboard:
        assert storyboard.size == (4 * (320 + 12) + 12, (240 + 38 + 12) * -(-len(best) // 4) + 12)
    page = (folder / "index.html").read_text()
    assert summary["caption"] in page and "http" not in re.sub('data:image/jpeg;base64,[^"]+', "", page)
    assert summary["note"] == "Trained on rendered shapes: captions of real videos mean nothing." in page
    assert summary["selection_notes"] == []


def test_features_equal_those_of_extraction(summarizer, mini_videos, tmp_path):
    """The saliency equals the model's on features that `extract_features.py` makes."""
    import extract_features

    path = mini_videos / "videos/mini_test_001.mp4"
    argv = ["--videos", str(path), "--out", str(tmp_path / "feat"), "--blip", str(mini_videos / "frame_encoder.pth")]
    argv += ["--vt_clip", "", "--image_size", str(FRAME_SIZE), "--num_workers", "0", "--device", "cpu"]
    with expect_device_options():
        extract_features.main(argv)
    features = torch.from_numpy(np.load(tmp_path / "feat/blip/mini_test_001.npz")["features"])[None]
    captions, saliency = summarizer.model.generate(features, torch.ones(features.shape[:2]), max_length=40)
    summary = summarizer.summarize(path, tmp_path / "out")
    assert summary["caption"] == captions[0]
    assert summary["saliency"] == pytest.approx(saliency.sigmoid().tolist(), abs=1e-6)


def test_antialiasing_of_position_table_is_a_setting(summary_settings, mini_videos):
    blip = mini_videos / "frame_encoder.pth"
    for setting in ({}, dict(vit_position_antialias=True), dict(vit_position_antialias=False)):
        encoder = Summarizer(**summary_settings | dict(image_size=32) | setting).encoder.image_encoder
        expected = load_blip_vit(blip, 32, position_antialias=setting.get("vit_position_antialias", True))
        assert torch.equal(encoder.pos_embed, expected.pos_embed)
    assert not torch.equal(encoder.pos_embed, load_blip_vit(blip, 32).pos_embed)


def test_precision_is_also_that_of_the_encoder(summary_settings):
    assert Summarizer(**summary_settings, precision="bf16").encoder.precision == "bf16"


def test_recorded_encoder_is_the_default(summary_settings, untrained_checkpoint, mini_videos, tmp_path):
    """With its image size; `pretrained` is used if its file is elsewhere, and checked by its hash."""
    shutil.copy(mini_videos / "frame_encoder.pth", tmp_path / "blip.pth")
    described = load_frame_encoder(f"blip:{tmp_path / 'blip.pth'}", EncoderOptions(image_size=FRAME_SIZE)).describe()
    checkpoint = torch.load(untrained_checkpoint, weights_only=True) | dict(encoder=described)
    torch.save(checkpoint, tmp_path / "model.pth")
    settings = summary_settings | dict(pretrained_model=tmp_path / "model.pth", image_size=224, blip=None)
    summarizer = Summarizer(**settings)
    assert summarizer.checkpoints["blip"]["path"] == str(tmp_path / "blip.pth")
    assert summarizer.encoder.transform.size == FRAME_SIZE
    (tmp_path / "blip.pth").rename(tmp_path / "moved.pth")
    assert Summarizer(**settings, pretrained=str(tmp_path / "moved.pth")).encoder.transform.size == FRAME_SIZE
    with pytest.raises(ValueError, match="blip: missing, expected a checkpoint with BLIP's image encoder"):
        Summarizer(**settings, pretrained="")


def test_shots_method_keeps_the_budget(summarizer, mini_videos, tmp_path):
    path = mini_videos / "videos/mini_val_000.mp4"
    for budget in (0.3, 1.0):
        summary = summarizer.summarize(path, tmp_path, budget, "shots")
        assert 0 < summary["budget"]["used"] <= budget + 1e-6
    assert summary["segments"] == [[0.0, summary["duration"]]] or summary["segments"] == [(0.0, summary["duration"])]


@pytest.mark.parametrize(
    ("name", "times", "sound"),
    [("one_picture.mp4", [0], None), ("one_second.mp4", constant_rate(25, 25), 44100), ("slides.mkv", [0, 9], 48000)],
)
def test_shortest_videos(summarizer, tmp_path, name, times, sound):
    path = write_clip(tmp_path / name, times, sound=sound)
    summary = summarizer.summarize(path, tmp_path / "out")
    assert len(summary["segments"]) == 1 and len(summary["saliency"]) == VideoFile(path).timeline.seconds
    assert sorted(file.name for file in (tmp_path / "out" / path.stem).iterdir()) == SUMMARY_FILES


def test_progress_callback(summarizer, mini_videos, tmp_path):
    """Each stage reports its progress; an exception in the callback aborts the summary and leaves no files."""
    path, calls = mini_videos / "videos/mini_test_000.mp4", []
    summary = summarizer.summarize(path, tmp_path, on_stage=lambda *reached: calls.append(reached))
    stages = [stage for stage, second in calls if second == 0]
    assert list(dict.fromkeys(stages)) == list(summary["timings"])
    assert calls == sorted(calls, key=lambda reached: (stages.index(reached[0]), reached[1]))
    assert max(calls)[1] < max(second for _, second in calls) == len(summary["saliency"])
    shutil.rmtree(tmp_path / path.stem)

    def stop(stage, second):
        if stage == "skim" and second > 0:
            raise InterruptedError("enough")

    with pytest.raises(OSError, match="enough"):
        summarizer.summarize(path, tmp_path, on_stage=stop)
    assert not list(tmp_path.iterdir())


def test_command_continues_after_a_broken_file(flags, mini_videos, tmp_path):
    """Of a folder with a broken file, the others are summarized; each error is one line, and the status is 2."""
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(mini_videos / "videos/mini_val_001.mp4", videos / "a <b> & c.mp4")
    (videos / "broken.mp4").write_text("no video" * 999)
    status, output = run(["python", str(ROOT / "summarize.py"), videos, *flags, "--out", tmp_path / "out"], tmp_path)
    assert status == 2
    first, second, last = output.strip().splitlines()
    assert last == "error: 1 of 2 videos could not be summarized"
    assert first.startswith(f"{tmp_path}/out/a <b> & c/index.html: ")
    assert second.startswith(f"error: {videos}/broken.mp4: video: not a video, or damaged")
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["a <b> & c"]
    assert "<title>a &lt;b&gt; &amp; c.mp4" in (tmp_path / "out/a <b> & c/index.html").read_text()


def test_unusual_file_names(summarizer, mini_videos, tmp_path, monkeypatch):
    """A colon in the output's name, invalid UTF-8 in the video's; a summary does not overwrite its own video."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"bad\xff\n.mp4")
    shutil.copy(mini_videos / "videos/mini_val_001.mp4", name)
    summary = summarizer.summarize(name, "out:1")
    assert summary["name"] == "bad��.mp4"
    assert sorted(file.name for file in (tmp_path / "out:1" / name[:-4]).iterdir()) == SUMMARY_FILES
    (tmp_path / "summary").mkdir()
    shutil.copy(name, "summary/summary.mp4")
    with pytest.raises(ValueError, match="the summary would replace this file; use another --out"):
        summarizer.summarize("summary/summary.mp4", tmp_path)
    with pytest.raises(ValueError, match="out: found a file, expected a folder"):
        summarizer.summarize("summary/summary.mp4", name)


def test_task_v2v_has_no_caption(summary_settings, mini_videos, tmp_path):
    """The page has no caption, and subtitles of an earlier summary are removed."""
    folder = tmp_path / "mini_val_000"
    folder.mkdir()
    (folder / "summary.srt").write_text("of an earlier summary")
    (folder / "notes.txt").write_text("of the user")
    summary = Summarizer(**summary_settings, task="v2v").summarize(mini_videos / "videos/mini_val_000.mp4", tmp_path)
    assert summary["caption"] is None and summary["parts"][0]["caption"] is None
    files = [name for name in SUMMARY_FILES if name != "summary.srt"]
    assert sorted(summary["files"]) == files
    assert sorted(file.name for file in folder.iterdir()) == sorted([*files, "notes.txt"])
    page = (folder / "index.html").read_text()
    assert '<p class="caption">' not in page and "summary.srt" not in page


def test_files_for_other_programs(summarizer, tmp_path):
    """Subtitles, chapters and timeline agree with the segments; the demo's bundle has them without paths."""
    path = write_clip(tmp_path / "my clip.mp4", constant_rate(5, 300), last=fractions.Fraction(1, 5), sound=8000)
    summary = summarizer.summarize(path, tmp_path / "out", "12s")
    folder = tmp_path / "out/my clip"
    assert sum(summary["chosen"]) == 12 and summary["budget"] == dict(asked="12s", used=pytest.approx(0.2))
    assert sorted(summary["files"]) == SUMMARY_FILES
    subtitles = (folder / "summary.srt").read_text()
    assert subtitles.startswith("1\n00:00:00,000 --> ") and "--> 00:00:12,000\n" in subtitles
    sentences = [block.split("\n")[2] for block in subtitles.strip().split("\n\n")]
    assert " ".join(sentences) == summary["caption"]
    assert (folder / "chapters.txt").read_text() == render_chapters(summary["segments"], 60)
    timeline = otio.adapters.read_from_file(str(folder / "summary.otio"))
    assert [track.kind for track in timeline.tracks] == ["Video", "Audio"]
    ranges = [clip.source_range for clip in timeline.tracks[0].find_clips()]
    times = [(time.start_time.to_seconds(), time.end_time_exclusive().to_seconds()) for time in ranges]
    assert times == summary["segments"]
    page = (folder / "index.html").read_text()
    assert "(budget 12s, the most salient seconds)" in page
    assert all(f'<a href="{name}">' in page for name in SUMMARY_FILES if name != "index.html")

    write_bundle(summary, folder, tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert sorted(archive.namelist()) == SUMMARY_FILES
        assert all(str(tmp_path).encode() not in archive.read(name) for name in SUMMARY_FILES)
        assert b'"my%20clip.mp4"' in archive.read("summary.otio")


def test_muted_summary(summarizer, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", constant_rate(25, 50), sound=8000)
    for audio, count in (("keep", 1), ("mute", 0)):
        summary = summarizer.summarize(path, tmp_path, audio=audio)
        assert summary["audio"] == audio
        with av.open(str(tmp_path / "clip/summary.mp4")) as container:
            assert len(container.streams.audio) == count
        timeline = otio.adapters.read_from_file(str(tmp_path / "clip/summary.otio"))
        assert len(timeline.tracks) == 1 + count


def test_truncated_video_has_a_note(summarizer, tmp_path, caplog):
    whole = write_clip(tmp_path / "whole.webm", constant_rate(10, 200), codec="libvpx")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/whole.webm").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert not summarizer.summarize(whole, tmp_path / "out")["selection_notes"]
    (note,) = summarizer.summarize(tmp_path / "cut/whole.webm", tmp_path / "out")["selection_notes"]
    assert re.fullmatch(r"Only \d+\.\d s of the video can be read, of 19\.9 s by its header\.", note)
    assert f"whole.webm: {note}" in caplog.text
    assert f"cut/whole.webm: replaces the summary of {whole} in {tmp_path}/out/whole" in caplog.text
    assert note in (tmp_path / "out/whole/index.html").read_text()


def test_chunks_share_the_budget(summarizer, mini_videos, tmp_path):
    """The saliency of each part is that of the model on the part; the seconds are selected from all parts."""
    path = mini_videos / "videos/mini_test_000.mp4"
    T = VideoFile(path).timeline.seconds
    chunk = T // 3
    whole = summarizer.summarize(path, tmp_path / "whole", 0.3)
    assert whole["chunk"] is None and [part["caption"] for part in whole["parts"]] == [whole["caption"]]
    summary = summarizer.summarize(path, tmp_path, 0.3, chunk=chunk)
    job = DecodeJob("video", str(path))
    ((_, features),) = encode_videos([job], {"encoder": summarizer.encoder}, chunk=32, workers=0)
    expected = []
    for part, (first, stop) in zip(summary["parts"], split_seconds(T, chunk), strict=True):
        frames = torch.from_numpy(features["encoder"][first:stop])[None]
        captions, saliency = summarizer.model.generate(frames, torch.ones(1, stop - first), max_length=40)
        assert (part["start"], part["end"]) == (first, min(stop, summary["duration"]))
        assert part["caption"] == captions[0] and captions[0] in summary["caption"]
        expected += saliency.sigmoid().tolist()
    assert len(summary["parts"]) == -(-T // chunk) > 2 and summary["chunk"] == chunk
    assert summary["saliency"] == pytest.approx(expected, abs=1e-6)
    assert summary["saliency"] != pytest.approx(whole["saliency"], abs=1e-6)
    best = np.argsort(-np.array(summary["saliency"]), kind="stable")[: int(0.3 * T)]
    assert np.flatnonzero(summary["chosen"]).tolist() == sorted(best.tolist())
    page = (tmp_path / "mini_test_000/index.html").read_text()
    assert f"summarized in {len(summary['parts'])} parts of at most {chunk} s" in page
    assert " parts of at most " not in (tmp_path / "whole/mini_test_000/index.html").read_text()


def test_long_videos_in_chunks(summarizer, flags, tmp_path, caplog):
    """Above 512 s, one line names --chunk; the command says in how many parts it summarized the video."""
    path = write_clip(tmp_path / "long.mp4", constant_rate(1, 601), last=1, size=(64, 36))
    summary = summarizer.summarize(path, tmp_path / "whole", "20s")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"{path}: the model is run on 601 s at once, more than the 512 s of the videos that it was trained on; "
        "--chunk 512 runs it on parts of at most that length"
    ]
    assert sum(summary["chosen"]) == 20 and len(summary["saliency"]) == 601
    argv = ["python", ROOT / "summarize.py", path, *flags, "--out", "out", "--chunk", 512, "--budget", "20s"]
    status, output = run([*argv, "--audio", "mute"], tmp_path)
    assert status == 0, output
    (line,) = output.strip().splitlines()
    assert line.startswith("out/long/index.html: 20.0 of 601.0 s, in 2 parts of at most 512 s: ")


MEASURE_PEAK = """
import json, resource, sys
from summary import Summarizer
settings, out, *videos = json.loads(sys.argv[1])
summarizer = Summarizer(**settings)
for video in videos:
    summarizer.summarize(video, out, chunk=512)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.soak
def test_an_hour_in_bounded_memory(summary_settings, tmp_path):
    """After ten minutes of video, an hour takes little more memory, none of it per frame of the file."""
    videos = [
        write_clip(
            tmp_path / f"{minutes}.mp4", constant_rate(2, 120 * minutes), size=(64, 36), last=fractions.Fraction(1, 2)
        )
        for minutes in (10, 60)
    ]
    settings = {name: str(value) for name, value in summary_settings.items()} | dict(image_size=FRAME_SIZE)
    argument = json.dumps([settings, str(tmp_path / "out"), *map(str, videos)])
    status, output = run(["python", "-c", MEASURE_PEAK, argument], ROOT)
    assert status == 0, output
    ten_minutes, hour = map(int, output.split()[-2:])  # MiB
    assert hour - ten_minutes < 120, output
    summary = json.loads((tmp_path / "out/60/summary.json").read_text())
    assert len(summary["saliency"]) == 3600 and len(summary["parts"]) == 8


@pytest.mark.skipif("VTSUM_CLIPS" not in os.environ, reason="VTSUM_CLIPS=DIR names a folder of videos")
def test_given_clips(summarizer, tmp_path):
    for video_id, path in find_videos([os.environ["VTSUM_CLIPS"]]).items():
        summary = summarizer.summarize(path, tmp_path, "5s", chunk=60)
        assert sorted(file.name for file in (tmp_path / video_id).iterdir()) == SUMMARY_FILES
        assert 0 < sum(end - start for start, end in summary["segments"]) <= 5
        timeline = otio.adapters.read_from_file(str(tmp_path / video_id / "summary.otio"))
        assert len(list(timeline.tracks[0].find_clips())) == len(summary["segments"])


def test_invalid_arguments_raise(summary_settings, flags, mini_videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for change, message in (
        (dict(pretrained_model=""), "pretrained_model: missing, expected a VTSUM-BLIP checkpoint"),
        (dict(blip=""), "blip: missing, expected a checkpoint with BLIP's image encoder"),
        (dict(task="v2t"), "task: found v2t, expected v2vt or v2v"),
        (dict(blip=summary_settings["pretrained_model"]), "model.pth: BLIP's image encoder: missing visual_encoder"),
        (dict(config=str(ROOT / "configs/none.yaml")), "none.yaml: config: no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            Summarizer(**(summary_settings | change))
    for argv, message in (
        (["--budget", "0", str(mini_videos / "videos")], "budget: found 0.0, expected a fraction of the video"),
        (["--budget", "2m", str(mini_videos / "videos")], "budget: found '2m', expected a fraction of the video"),
        (["--chunk", "0", str(mini_videos / "videos")], "chunk: found 0, expected whole seconds, at least 1"),
        (["--audio", "loud", str(mini_videos / "videos")], "argument --audio: invalid choice: 'loud'"),
        (["none.mp4"], "none.mp4: videos: no such file or folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            script.main([*argv[-1:], *flags, "--out", "out", *argv[:-1]])
    assert not list(tmp_path.iterdir())


def test_another_feature_width_raises(summary_settings, mini_videos, tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(img_size=32, embed_dim=1024, depth=1, num_heads=16, num_classes=0)
    state = {f"visual_encoder.{name}": value for name, value in vit.state_dict().items()}
    torch.save(dict(model=state), tmp_path / "large.pth")
    for settings, message in (
        ({}, r"large.pth: encoder: found features of width 1024, expected 768, which .* was trained with"),
        (dict(vit="base"), "large.pth: vit: found frame features of width 1024, expected 768, as vit: base is set"),
        (
            dict(feature_width=64),
            "large.pth: feature_width: found frame features of width 1024, expected 64, as feature",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Summarizer(**(summary_settings | dict(blip=tmp_path / "large.pth", image_size=32) | settings))


def test_failed_summary_keeps_the_previous_one(summarizer, mini_videos, tmp_path, monkeypatch):
    """If the disk fills while the skim is written, the error is one line, and only the previous files remain."""
    small_disk = tmp_path / "small"
    small_disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", small_disk], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        path = mini_videos / "videos/mini_test_000.mp4"
        summarizer.summarize(path, small_disk, 0.1)
        before = {file.name: file.read_bytes() for file in (small_disk / "mini_test_000").iterdir()}
        (small_disk / "filler").write_bytes(
            bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192)
        )
        for video in (path, write_clip(tmp_path / "other.mp4", constant_rate(25, 250))):
            with pytest.raises(OSError, match=rf"small/{video.stem}: cannot be written \(No space left on device\)"):
                summarizer.summarize(video, small_disk, 0.9)
        assert {file.name: file.read_bytes() for file in (small_disk / "mini_test_000").iterdir()} == before
        assert sorted(file.name for file in small_disk.iterdir()) == ["filler", "mini_test_000"]
    finally:
        subprocess.run(["umount", small_disk], check=True)


def test_summary_page_in_a_browser(browser, summarizer, tmp_path):
    """The skim plays, only local files are requested, and the page fits a phone and a desktop."""
    path = write_clip(tmp_path / "clip.mp4", constant_rate(25, 500), size=(320, 180), sound=44100)
    summary = summarizer.summarize(path, tmp_path)
    page_file = tmp_path / "clip/index.html"
    with open_page(browser, page_file.as_uri(), width=1400) as (page, requests, messages):
        seconds, width, height, marked = page.evaluate(
            """async () => {
                const player = document.getElementById("player");
                player.muted = true;
                await player.play();
                await new Promise(done => player.addEventListener("ended", done));
                const now = document.getElementById("now").getAttribute("x1");
                return [player.duration, player.videoWidth, player.videoHeight, Number(now)];
            }"""
        )
        skim_duration = sum(end - start for start, end in summary["segments"])
        assert seconds == pytest.approx(skim_duration, abs=0.05)
        assert (width, height) == (320, 180)
        assert marked == pytest.approx(summary["segments"][-1][1], abs=0.1)
        assert {url.split("/")[-1] for url in requests} == {"index.html", "storyboard.png", "summary.mp4", "clip.mp4"}
        assert all(url.startswith("file://") for url in requests) and not messages

        start, end = summary["segments"][-1]
        box = page.locator("#curve").bounding_box()
        page.evaluate(
            """() => {
                const player = document.getElementById("player");
                player.loop = true;
                player.addEventListener("seeking", () => window.sought ??= player.currentTime);
            }"""
        )
        x = (start + end) / 2 / summary["duration"] * box["width"]
        page.locator("#curve").click(position=dict(x=x, y=5))
        position = page.wait_for_function("() => window.sought").json_value()
        assert position == pytest.approx(skim_duration - (end - start) / 2, abs=0.2)
        page.wait_for_function("() => !document.getElementById('player').paused")
        assert page.get_by_text("to play the skim from there; the original moves there, too.").is_visible()

        page.evaluate("document.getElementById('player').pause()")
        posters = page.evaluate("['player', 'original'].map(name => document.getElementById(name).poster)")
        assert posters[0] == posters[1] and posters[0].startswith("data:image/jpeg")

        links = page.locator(".segments a")
        assert links.count() == len(summary["segments"])
        links.first.click()
        page.wait_for_function("() => !document.getElementById('player').paused")
        assert page.evaluate("document.getElementById('original').currentTime") == summary["segments"][0][0]
        page.evaluate("document.getElementById('player').pause()")
        page.evaluate("scrollTo(0, 0)")  # boxes are relative to the window
        assert page.locator(".axis span").all_inner_texts() == ["0:00", "0:05", "0:10", "0:15", "0:20"]
        end = page.locator(".axis span").last.bounding_box()
        assert end["x"] + end["width"] == pytest.approx(box["x"] + box["width"], abs=1)
        highest, _, lowest = (float(text) for text in page.locator(".values span").all_inner_texts())
        assert (highest, lowest) == pytest.approx((max(summary["saliency"]), min(summary["saliency"])), abs=0.01)

        for width in (400, 1400):
            page.set_viewport_size(dict(width=width, height=900))
            page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            strip = page.locator(".strip").evaluate("strip => [strip.scrollWidth, strip.clientWidth]")
            is_hidden = strip[0] > strip[1]  # the end of the storyboard
            assert is_hidden == page.get_by_text("scroll sideways for the rest").is_visible() == (width == 400)
            boxes = [page.locator(selector).bounding_box() for selector in ("#player", ".caption", "#curve", "img")]
            assert all(box["width"] > 100 and box["height"] > 20 for box in boxes)
            player, caption, curve, _ = boxes
            if width == 400:  # in one column
                tops = [box["y"] for box in boxes]
                assert tops == sorted(tops) and player["y"] + player["height"] <= caption["y"]
            else:
                original = page.locator("#original").bounding_box()
                assert original["x"] >= player["x"] + player["width"] and original["width"] == player["width"]
            with Image.open(tmp_path / f"{width}.png") as screenshot:
                pixels = np.asarray(screenshot.convert("RGB")).astype(int)
            x, y, w, h = (round(player[side]) for side in ("x", "y", "width", "height"))
            frame = pixels[y : y + h // 2, x : x + w]
            red = (frame[..., 0] > 180) & (frame[..., 1] < 160) & (frame[..., 2] < 160)
            assert red.mean() > 0.05, "the player does not show the clip's red field"
            x, y, w, h = (round(curve[side]) for side in ("x", "y", "width", "height"))
            drawn = pixels[y : y + h, x : x + w]
            assert (np.ptp(drawn, axis=-1) > 40).mean() == pytest.approx(skim_duration / summary["duration"], abs=0.06)


def test_original_that_cannot_be_played_is_hidden(browser, summarizer, tmp_path):
    """Neither a missing file nor another format leaves an empty player; the poster is the first frame with content."""
    path = write_clip(tmp_path / "clip.mkv", constant_rate(25, 50), codec="ffv1")
    summarizer.summarize(path, tmp_path)
    shutil.copytree(tmp_path / "clip", tmp_path / "moved/to/clip")
    for folder in (tmp_path / "clip", tmp_path / "moved/to/clip"):
        with open_page(browser, (folder / "index.html").as_uri(), width=1400) as (page, _, _):
            page.wait_for_function("() => document.getElementById('original').error")
            assert (
                not page.locator("#original").is_visible() and not page.get_by_text("Original", exact=True).is_visible()
            )
            assert not page.get_by_text("the original moves there").is_visible()
            player, caption = (page.locator(selector).bounding_box() for selector in ("#player", ".caption"))
            assert caption["x"] >= player["x"] + player["width"]


def test_poster_has_content(tmp_path):
    """Black frames at the start are not the poster."""
    video = VideoFile(write_clip(tmp_path / "clip.mp4", constant_rate(25, 75)))
    storyboard = Storyboard(video, np.array([0.1, 0.2, 0.3]), np.ones(3, bool))
    frames = dict(video.iter_frames(sorted(int(k) for k in video.timeline.sample_indices(3))))
    numbers = list(frames)
    black = av.VideoFrame.from_ndarray(np.zeros((90, 160, 3), np.uint8))
    storyboard.add(numbers[0], black)
    assert np.asarray(storyboard.poster).max() == 0
    for k in numbers[1:]:
        storyboard.add(k, frames[k])
    assert read_milliseconds(np.asarray(storyboard.poster)) == round(1000 * float(video.timeline.starts[numbers[1]]))
    header, _, data = storyboard.poster_url().partition(",")
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (160, 90)
