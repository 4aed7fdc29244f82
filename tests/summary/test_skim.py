"""The skim on files whose pictures and pitch tell their own time."""

import fractions

import av
import numpy as np
import pytest

from data.video.reader import VideoFile, to_upright_rgb
from summary.skim import cut_audio, write_skim
from tests.clips import constant_rate, heard_at, time_in, write_clip

F = fractions.Fraction


def shown(path):
    """(seconds in the skim, milliseconds that the picture says) of every picture."""
    video = VideoFile(path)
    frames = video.iter_frames(range(len(video.timeline.starts)))
    return [(float(video.timeline.starts[k]), time_in(np.asarray(to_upright_rgb(frame)))) for k, frame in frames]


def heard(path):
    """The skim's sound: samples (n,) on the clock of its pictures, and their rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    first = round(float(frames[0].pts * frames[0].time_base) * frames[0].rate)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return (samples[-first:] if first < 0 else np.pad(samples, (first, 0))), frames[0].rate


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mp4", dict(sound=44100)),
        ("clip.mkv", dict(sound=48000, offset=F(3, 2))),
        ("clip.ts", dict(sound=48000, options=dict(bf="2"))),
    ],
)
def test_picture_and_sound_are_those_of_the_segments(name, options, tmp_path):
    video = VideoFile(write_clip(tmp_path / name, constant_rate(25, 253), **options))
    segments = [(1.0, 3.0), (5.0, 6.0), (9.0, video.timeline.duration)]
    write_skim(video, segments, tmp_path / "skim.mp4")
    skim = VideoFile(tmp_path / "skim.mp4")
    assert skim.timeline.duration == pytest.approx(sum(b - a for a, b in segments), abs=0.002)
    assert skim.rate == pytest.approx(25, abs=0.1)
    samples, rate = heard(tmp_path / "skim.mp4")
    offset = 0.0
    pictures = shown(tmp_path / "skim.mp4")
    for start, end in segments:
        own = [(t - offset, ms) for t, ms in pictures if offset - 1e-3 <= t < offset + end - start - 1e-3]
        assert [ms for _, ms in own] == [round(1000 * (start + t)) for t, _ in own]
        assert len(own) == round(25 * (end - start))
        for second in np.arange(0.1, end - start - 0.1, 0.2):
            around = samples[round((offset + second - 0.05) * rate) : round((offset + second + 0.05) * rate)]
            assert heard_at(around, rate) == pytest.approx(start + second, abs=0.02)
        offset += end - start


def test_variable_rate_keeps_every_duration(tmp_path):
    times = [F(0), F(3, 10), F(1, 2), F(17, 10), F(19, 10), F(4), F(41, 10)]
    video = VideoFile(write_clip(tmp_path / "clip.mkv", times, last=F(9, 10)))
    write_skim(video, [(1.0, 3.0), (4.0, 5.0)], tmp_path / "skim.mp4")
    assert VideoFile(tmp_path / "skim.mp4").timeline.duration == pytest.approx(3.0, abs=0.002)
    found = shown(tmp_path / "skim.mp4")
    assert [ms for _, ms in found] == [500, 1700, 1900, 4000, 4100]
    assert [t for t, _ in found] == pytest.approx([0, 0.7, 0.9, 2.0, 2.1], abs=0.002)


def test_a_picture_that_reaches_into_two_segments_is_shown_twice(tmp_path):
    video = VideoFile(write_clip(tmp_path / "clip.mp4", [F(0), F(9)], last=F(1)))
    write_skim(video, [(0.0, 1.0), (5.0, 6.0), (8.0, 10.0)], tmp_path / "skim.mp4")
    assert [round(t, 3) for t, _ in shown(tmp_path / "skim.mp4")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("how", "size"),
    [
        (dict(size=(161, 91), codec="ffv1"), (160, 90)),
        (dict(rotation=(90, False, False)), (90, 160)),
        (dict(rotation=(0, True, False)), (160, 90)),
    ],
)
def test_size_and_rotation(how, size, tmp_path):
    """Even sides, upright, the same picture."""
    path = write_clip(tmp_path / ("clip.mkv" if "codec" in how else "clip.mp4"), constant_rate(25, 30), **how)
    video = VideoFile(path)
    write_skim(video, [(0.0, 1.0)], tmp_path / "skim.mp4")
    with av.open(str(tmp_path / "skim.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == size
        assert not container.streams.audio
    (_, theirs), (_, ours) = (
        next(video.iter_sampled_frames()),
        next(VideoFile(tmp_path / "skim.mp4").iter_sampled_frames()),
    )
    theirs = np.asarray(to_upright_rgb(theirs).resize(size)).astype(int)
    assert np.abs(theirs - np.asarray(to_upright_rgb(ours))).mean() < 6


def test_one_picture(tmp_path):
    video = VideoFile(write_clip(tmp_path / "clip.mp4", [F(0)]))
    write_skim(video, [(0.0, video.timeline.duration)], tmp_path / "skim.mp4")
    assert len(shown(tmp_path / "skim.mp4")) == 1


def test_pictures_that_do_not_decode_are_left_out(tmp_path):
    """The packets promise more than the end of this file gives."""
    path = write_clip(
        tmp_path / "clip.mp4",
        constant_rate(25, 253),
        container_options=dict(movflags="faststart"),
        options=dict(g="50", bf="2"),
    )
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    seen = []
    write_skim(VideoFile(path), [(5.0, 5.72)], tmp_path / "skim.mp4", lambda k, frame: seen.append(k))
    assert len(set(seen)) == len(shown(tmp_path / "skim.mp4")) > 10


def test_cut_equals_an_array_with_silence():
    rng = np.random.default_rng(0)
    for _ in range(100):
        whole, pieces, at = np.zeros((2, 400), np.float32), [], int(rng.integers(0, 30))
        while at < 300:
            samples = rng.standard_normal((2, int(rng.integers(1, 40)))).astype(np.float32)
            whole[:, at : at + samples.shape[1]] = samples[:, : 400 - at]
            pieces.append((at, samples))
            at += samples.shape[1] + int(rng.integers(0, 3)) * 7
        edges = np.sort(rng.choice(400, 6, replace=False)).tolist()
        spans = list(zip(edges[::2], edges[1::2]))
        found = np.concatenate(list(cut_audio(pieces, spans, 2, most=5)), axis=1)
        assert np.array_equal(found, np.concatenate([whole[:, a:b] for a, b in spans], axis=1))


def test_sound_goes_on_where_the_clock_starts_again(tmp_path):
    part = write_clip(tmp_path / "part.ts", constant_rate(25, 75), sound=48000).read_bytes()
    (tmp_path / "twice.ts").write_bytes(part + part)
    video = VideoFile(tmp_path / "twice.ts")
    assert not video.has_clock
    write_skim(video, [(0.0, 1.0), (4.0, 5.0)], tmp_path / "skim.mp4")
    samples, rate = heard(tmp_path / "skim.mp4")
    assert [ms for t, ms in shown(tmp_path / "skim.mp4")][30] == pytest.approx(1200, abs=50)
    assert heard_at(samples[int(1.4 * rate) : int(1.6 * rate)], rate) == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuvj444p", "yuv420p10le", "gray"])
def test_colours_stay(tmp_path, pixel_format):
    """8-bit 4:2:0 of the usual range, whatever the source is, and tagged as what it is."""
    codec = dict(rgb24="png", yuvj444p="mjpeg", yuv420p10le="libx265", gray="ffv1")[pixel_format]
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    how = dict(codec=codec, pixel_format=pixel_format, options=options)
    path = write_clip(tmp_path / ("clip.mov" if codec == "png" else "clip.mkv"), constant_rate(25, 30), **how)
    write_skim(VideoFile(path), [(0.0, 1.0)], tmp_path / "skim.mp4")
    with av.open(str(tmp_path / "skim.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p" and context.colorspace != 0
    (_, theirs), (_, ours) = (
        next(VideoFile(path).iter_sampled_frames()),
        next(VideoFile(tmp_path / "skim.mp4").iter_sampled_frames()),
    )
    assert np.abs(np.asarray(to_upright_rgb(theirs)).astype(int) - np.asarray(to_upright_rgb(ours))).mean() < 6


def test_sound_that_cannot_be_decoded_is_left_out(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", constant_rate(25, 50), sound=48000)
    path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_ZZZZ"))
    write_skim(VideoFile(path), [(0.0, 1.0)], tmp_path / "skim.mp4")
    with av.open(str(tmp_path / "skim.mp4")) as container:
        assert not container.streams.audio


def test_pictures_that_cannot_be_encoded_are_one_line(tmp_path):
    path = write_clip(tmp_path / "wide.mkv", constant_rate(25, 2), size=(17000, 64), codec="ffv1")
    with pytest.raises(ValueError, match=r"wide.mkv: video: its skim cannot be encoded \("):
        write_skim(VideoFile(path), [(0.0, 0.08)], tmp_path / "skim.mp4")


def test_sound_whose_channels_change_on_the_way(tmp_path):
    """As broadcasts do; the second part's clock starts again too."""
    parts = [
        write_clip(tmp_path / f"{layout}.ts", constant_rate(25, 75), sound=48000, layout=layout)
        for layout in ("stereo", "mono")
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    write_skim(VideoFile(tmp_path / "both.ts"), [(1.0, 2.0), (4.0, 5.0)], tmp_path / "skim.mp4")
    samples, rate = heard(tmp_path / "skim.mp4")
    assert heard_at(samples[int(0.4 * rate) : int(0.6 * rate)], rate) == pytest.approx(1.5, abs=0.1)
    assert heard_at(samples[int(1.4 * rate) : int(1.6 * rate)], rate) == pytest.approx(1.5, abs=0.1)
