"""Frames of each second of files whose pixels encode their own time, and invalid files."""

import math
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from data.video.reader import TimelineChanged, VideoFile, to_upright_rgb
from tests.helpers.clips import constant_rate, draw_milliseconds, read_milliseconds, write_clip

NTSC, FILM, MILLISECOND = Fraction(30000, 1001), Fraction(24000, 1001), Fraction(1, 1000)


def draw_variable_times(seconds):
    """Draw times with intervals of 10 to 900 ms."""
    rng, times = np.random.default_rng(0), [Fraction(0)]
    while times[-1] < seconds:
        times.append(times[-1] + Fraction(int(rng.integers(10, 900)), 1000))
    return times


CLIPS = {
    "cfr.mp4": dict(times=constant_rate(25, 103)),
    "b_frames.mp4": dict(times=constant_rate(25, 103), options=dict(bf="3", b_pyramid="normal")),
    "open_gop.mp4": dict(times=constant_rate(25, 203), options={"x264-params": "open-gop=1:keyint=30:bframes=3"}),
    "short_gop.mp4": dict(times=constant_rate(25, 203), options=dict(g="8")),
    "ntsc.mp4": dict(times=constant_rate(NTSC, 200), last=1 / NTSC),
    "film.mkv": dict(times=constant_rate(FILM, 170), last=1 / FILM, options=dict(g="12")),
    "vfr.mp4": dict(times=draw_variable_times(12), last=Fraction(7, 10), options=dict(bf="0")),
    "vfr.mkv": dict(times=draw_variable_times(12), last=Fraction(7, 10)),
    "offset.mp4": dict(times=constant_rate(25, 103), offset=Fraction(37, 10)),
    "offset.ts": dict(times=constant_rate(25, 103), offset=Fraction(37, 10), options=dict(bf="2")),
    "sound.ts": dict(times=constant_rate(25, 103), sound=48000),
    "hevc.mp4": dict(
        times=constant_rate(25, 203), codec="libx265", options={"x265-params": "keyint=20:log-level=none"}
    ),
    "vp9.webm": dict(times=constant_rate(25, 103), codec="libvpx-vp9", time_base=MILLISECOND),
    "live.webm": dict(
        times=constant_rate(25, 103), codec="libvpx-vp9", time_base=MILLISECOND, container_options=dict(live="1")
    ),
    "vp8.webm": dict(
        times=constant_rate(25, 103),
        codec="libvpx",
        options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
        time_base=MILLISECOND,
    ),
    "mpeg4.avi": dict(times=constant_rate(25, 103), codec="mpeg4", time_base=Fraction(1, 25), options=dict(bf="2")),
    "odd.mkv": dict(times=constant_rate(25, 53), codec="ffv1", size=(161, 91)),
    "one_picture.mp4": dict(times=[Fraction(0)]),
    "a_picture_for_nine_seconds.mp4": dict(times=[Fraction(0), Fraction(9)], last=Fraction(1)),
    # No timestamps, or key frames at which decoding cannot start: all frames are decoded.
    "raw.h264": dict(times=constant_rate(25, 103), options=dict(bf="2")),
    "intra_refresh.mp4": dict(
        times=constant_rate(25, 203), options={"x264-params": "intra-refresh=1:keyint=30:bframes=0"}
    ),
}
DECODED_WHOLE = ("raw.h264", "intra_refresh.mp4")


def compute_sampled_times(times, last):
    """Compute the time in milliseconds of each second's frame, from the definition."""
    duration = float(times[-1] + last)
    T = math.ceil(duration - 0.002)
    middles = [(i + min(i + 1, duration)) / 2 for i in range(T)]
    return [round(1000 * max(time for time in times if time <= middle)) for middle in middles]


def read_sampled_times(path, T=None):
    return [read_milliseconds(np.asarray(to_upright_rgb(frame))) for _, frame in VideoFile(path).iter_sampled_frames(T)]


@pytest.mark.parametrize("name", CLIPS)
def test_each_second_is_sampled_at_its_middle(name, tmp_path):
    clip = CLIPS[name]
    path = write_clip(tmp_path / name, **clip)
    times, last = clip["times"], clip.get("last", Fraction(1, 25))
    video = VideoFile(path)
    assert video.timeline.duration == pytest.approx(float(times[-1] + last), abs=0.002)
    sampled = list(video.iter_sampled_frames())
    assert [i for i, _ in sampled] == list(range(video.timeline.seconds))
    shown_times = [read_milliseconds(np.asarray(to_upright_rgb(frame))) for _, frame in sampled]
    assert shown_times == compute_sampled_times(times, last)
    assert (video._packets is None) == (name in DECODED_WHOLE)


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mp4", "short_gop.mp4", "hevc.mp4", "film.mkv"])
def test_selected_frames_equal_full_decoding(name, tmp_path):
    video = VideoFile(write_clip(tmp_path / name, **CLIPS[name]))
    all_frames = [frame.to_ndarray(format="rgb24") for frame in video._decode_all()]
    assert len(all_frames) == len(CLIPS[name]["times"])
    indices = [1, 40, 41, 77, 100]
    assert video._packets.needed([40]).sum() < len(all_frames) or name == "b_frames.mp4"
    selected = dict(video.iter_frames(indices))
    assert list(selected) == indices
    assert all(np.array_equal(frame.to_ndarray(format="rgb24"), all_frames[i]) for i, frame in selected.items())


def test_given_number_of_seconds(tmp_path):
    """Fewer seconds than the video has, or more: then its last frame is repeated."""
    path = write_clip(tmp_path / "clip.mp4", **CLIPS["cfr.mp4"])  # 4.12 s
    assert read_sampled_times(path, 2) == [480, 1480]
    assert read_sampled_times(path, 7) == [480, 1480, 2480, 3480, 4040, 4080, 4080]


@pytest.mark.parametrize("kept_fraction", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("name", ["fast_start.mp4", "clip.mkv", "clip.ts"])
def test_truncated_file_gives_its_remaining_frames(name, kept_fraction, tmp_path):
    faststart = dict(movflags="faststart") if name.endswith("mp4") else {}
    whole = write_clip(
        tmp_path / name, constant_rate(25, 253), container_options=faststart, options=dict(g="50", bf="2")
    )
    cut = tmp_path / f"cut_{name}"
    content = whole.read_bytes()
    cut.write_bytes(content[: int(kept_fraction * len(content))])
    video = VideoFile(cut)
    times = [read_milliseconds(np.asarray(to_upright_rgb(frame))) for _, frame in video.iter_sampled_frames()]
    duration = video.timeline.duration
    assert 0.5 < duration < 10 and len(times) == math.ceil(duration)
    last_middle = (len(times) - 1 + duration) / 2
    last = 40 * math.floor(last_middle / 0.04 + 1e-6)
    assert times[:-1] == [1000 * i + 480 for i in range(len(times) - 1)]
    # B-frames before the last frame are stored after it and may be cut off.
    assert last - 120 <= times[-1] <= last


def test_damaged_file_gives_a_frame_for_every_second(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", constant_rate(25, 253), options=dict(g="50"))
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(1)
    for position in rng.integers(len(content) // 4, len(content) // 2, 30):
        content[position] ^= 255
    path.write_bytes(content)
    video = VideoFile(path)
    assert len(list(video.iter_sampled_frames())) == video.timeline.seconds == 11


def test_missing_frames_correct_the_timeline(tmp_path):
    """If decoding gives fewer frames than the packets announce, the timeline is corrected and an error raised."""
    faststart = dict(movflags="faststart")
    path = write_clip(
        tmp_path / "clip.mp4", constant_rate(25, 253), container_options=faststart, options=dict(g="50", bf="2")
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    video = VideoFile(cut)
    announced = video.timeline.duration
    with pytest.raises(TimelineChanged):
        list(video.iter_frames([0, 10]))
    assert video.timeline.duration < announced
    assert [i for i, _ in video.iter_frames([0, 10])] == [0, 10]


@pytest.mark.parametrize(
    ("rotation", "turns", "mirrored"),
    [((90, False, False), 1, False), ((180, False, False), 2, False), ((-90, False, False), 3, False)]
    + [((0, True, False), 0, True), ((90, True, False), 1, True)],
)
def test_frames_are_upright(tmp_path, rotation, turns, mirrored):
    path = write_clip(tmp_path / "clip.mp4", constant_rate(25, 3), rotation=rotation)
    (_, frame), *_ = VideoFile(path).iter_sampled_frames()
    expected = np.rot90(draw_milliseconds(40), turns)
    expected = expected[:, ::-1] if mirrored else expected
    actual = np.asarray(to_upright_rgb(frame)).astype(int)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).mean() < 12


def test_cover_of_an_audio_file_is_not_a_video(tmp_path):
    path = tmp_path / "music.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        samples.rate, samples.pts = 44100, 0
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
        container.mux([*cover.encode(image), *cover.encode()])
        container.mux([*sound.encode(samples), *sound.encode()])
    with pytest.raises(ValueError, match=r"music.mp4: video: found no video stream$"):
        VideoFile(path)


@pytest.mark.parametrize(("kind", "name"), [("m3u8", "list.m3u8"), ("ffconcat", "list.mp4")])
def test_a_playlist_is_not_followed(tmp_path, kind, name):
    """FFmpeg would open any file or URL that the playlist names."""
    video = write_clip(tmp_path / "clip.mp4", constant_rate(25, 25))
    text = dict(
        m3u8=f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{video}\n#EXT-X-ENDLIST\n",
        ffconcat=f"ffconcat version 1.0\nfile {video.name}\n",
    )[kind]
    (tmp_path / name).write_text(text)
    with av.open(str(tmp_path / name)):
        pass  # FFmpeg alone follows it
    with pytest.raises(ValueError, match=rf"{name}: video: not a video, or damaged"):
        VideoFile(tmp_path / name)


def test_other_files_raise_one_line(tmp_path):
    cases = {
        "text.mp4": "not a video, or damaged (Invalid data found when processing input)",
        "empty.mp4": "the file is empty",
        "missing.mp4": "no such file or directory",
        "folder.mp4": "found a folder or a device, expected a file",
        "nul\0.mp4": "embedded null byte",
        "pipe.mp4": "found a folder or a device, expected a file",
    }
    (tmp_path / "text.mp4").write_text("not a video" * 1000)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in cases.items():
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            VideoFile(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: video: {reason}"


@pytest.mark.parametrize("name", ["jump.mkv", "jump.ts"])
def test_jump_in_timestamps_raises(tmp_path, name):
    """The jump is not filled with repeated frames."""
    times = [*constant_rate(25, 30), *(Fraction(8 * 3600) + time for time in constant_rate(25, 10))]
    path = write_clip(tmp_path / name, times)
    with pytest.raises(ValueError, match=r"found a frame of 28799 s at second 1, expected at most 600 s"):
        VideoFile(path)


def test_restarted_timestamps_continue(tmp_path):
    """Two concatenated recordings, as in broadcasts."""
    part = write_clip(tmp_path / "part.ts", constant_rate(25, 50)).read_bytes()
    (tmp_path / "twice.ts").write_bytes(part + part)
    assert read_sampled_times(tmp_path / "twice.ts") == [480, 1480, 480, 1480]


def test_colon_in_a_name_is_not_a_protocol(tmp_path, monkeypatch):
    write_clip(tmp_path / "rec:1.mp4", constant_rate(25, 25))
    monkeypatch.chdir(tmp_path)
    assert read_sampled_times("rec:1.mp4") == [480]
