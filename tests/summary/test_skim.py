"""Skims of files whose frames and pitch encode their own time."""

from fractions import Fraction

import av
import numpy as np
import pytest

from data.video.reader import VideoFile, to_upright_rgb
from summary.skim import cut_audio, has_audio, write_skim
from tests.helpers.clips import constant_rate, read_milliseconds, read_pitch_time, write_clip


def read_frames(path):
    """Read (time in seconds, milliseconds that it shows) of every frame."""
    video = VideoFile(path)
    frames = video.iter_frames(range(len(video.timeline.starts)))
    return [
        (float(video.timeline.starts[i]), read_milliseconds(np.asarray(to_upright_rgb(frame)))) for i, frame in frames
    ]


def read_sound(path):
    """Read the sound: samples (n,), starting with the first frame, and their rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    first = round(float(frames[0].pts * frames[0].time_base) * frames[0].rate)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return (samples[-first:] if first < 0 else np.pad(samples, (first, 0))), frames[0].rate


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mp4", dict(sound=44100)),
        ("clip.mkv", dict(sound=48000, offset=Fraction(3, 2))),
        ("clip.ts", dict(sound=48000, options=dict(bf="2"))),
    ],
)
def test_skim_has_the_frames_and_sound_of_the_segments(name, options, tmp_path):
    video = VideoFile(write_clip(tmp_path / name, constant_rate(25, 253), **options))
    segments = [(1.0, 3.0), (5.0, 6.0), (9.0, video.timeline.duration)]
    write_skim(video, segments, tmp_path / "skim.mp4")
    skim = VideoFile(tmp_path / "skim.mp4")
    assert skim.timeline.duration == pytest.approx(sum(end - start for start, end in segments), abs=0.002)
    assert skim.rate == pytest.approx(25, abs=0.1)
    samples, rate = read_sound(tmp_path / "skim.mp4")
    offset = 0.0
    frames = read_frames(tmp_path / "skim.mp4")
    for start, end in segments:
        segment_frames = [
            (time - offset, ms) for time, ms in frames if offset - 1e-3 <= time < offset + end - start - 1e-3
        ]
        assert [ms for _, ms in segment_frames] == [round(1000 * (start + time)) for time, _ in segment_frames]
        assert len(segment_frames) == round(25 * (end - start))
        for second in np.arange(0.1, end - start - 0.1, 0.2):
            window = samples[round((offset + second - 0.05) * rate) : round((offset + second + 0.05) * rate)]
            assert read_pitch_time(window, rate) == pytest.approx(start + second, abs=0.02)
        offset += end - start


def test_variable_frame_rate_keeps_durations(tmp_path):
    times = [
        Fraction(0),
        Fraction(3, 10),
        Fraction(1, 2),
        Fraction(17, 10),
        Fraction(19, 10),
        Fraction(4),
        Fraction(41, 10),
    ]
    video = VideoFile(write_clip(tmp_path / "clip.mkv", times, last=Fraction(9, 10)))
    write_skim(video, [(1.0, 3.0), (4.0, 5.0)], tmp_path / "skim.mp4")
    assert VideoFile(tmp_path / "skim.mp4").timeline.duration == pytest.approx(3.0, abs=0.002)
    frames = read_frames(tmp_path / "skim.mp4")
    assert [ms for _, ms in frames] == [500, 1700, 1900, 4000, 4100]
    assert [time for time, _ in frames] == pytest.approx([0, 0.7, 0.9, 2.0, 2.1], abs=0.002)


def test_frame_in_several_segments_is_repeated(tmp_path):
    video = VideoFile(write_clip(tmp_path / "clip.mp4", [Fraction(0), Fraction(9)], last=Fraction(1)))
    write_skim(video, [(0.0, 1.0), (5.0, 6.0), (8.0, 10.0)], tmp_path / "skim.mp4")
    assert [round(time, 3) for time, _ in read_frames(tmp_path / "skim.mp4")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (dict(size=(161, 91), codec="ffv1"), (160, 90)),
        (dict(rotation=(90, False, False)), (90, 160)),
        (dict(rotation=(0, True, False)), (160, 90)),
    ],
)
def test_size_and_rotation(options, size, tmp_path):
    """The skim has even sides and shows the same frame upright."""
    path = write_clip(tmp_path / ("clip.mkv" if "codec" in options else "clip.mp4"), constant_rate(25, 30), **options)
    video = VideoFile(path)
    write_skim(video, [(0.0, 1.0)], tmp_path / "skim.mp4")
    with av.open(str(tmp_path / "skim.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == size
        assert not container.streams.audio
    (_, source_frame), (_, skim_frame) = (
        next(video.iter_sampled_frames()),
        next(VideoFile(tmp_path / "skim.mp4").iter_sampled_frames()),
    )
    source_frame = np.asarray(to_upright_rgb(source_frame).resize(size)).astype(int)
    assert np.abs(source_frame - np.asarray(to_upright_rgb(skim_frame))).mean() < 6


def test_video_of_one_frame(tmp_path):
    video = VideoFile(write_clip(tmp_path / "clip.mp4", [Fraction(0)]))
    write_skim(video, [(0.0, video.timeline.duration)], tmp_path / "skim.mp4")
    assert len(read_frames(tmp_path / "skim.mp4")) == 1


def test_undecodable_frames_are_skipped(tmp_path):
    """The packets announce more frames than the end of this file contains."""
    path = write_clip(
        tmp_path / "clip.mp4",
        constant_rate(25, 253),
        container_options=dict(movflags="faststart"),
        options=dict(g="50", bf="2"),
    )
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    written = []
    write_skim(VideoFile(path), [(5.0, 5.72)], tmp_path / "skim.mp4", lambda i, frame: written.append(i))
    assert len(set(written)) == len(read_frames(tmp_path / "skim.mp4")) > 10


def test_cut_audio_equals_slices_of_an_array():
    rng = np.random.default_rng(0)
    for _ in range(100):
        array, pieces, position = np.zeros((2, 400), np.float32), [], int(rng.integers(0, 30))
        while position < 300:
            samples = rng.standard_normal((2, int(rng.integers(1, 40)))).astype(np.float32)
            array[:, position : position + samples.shape[1]] = samples[:, : 400 - position]
            pieces.append((position, samples))
            position += samples.shape[1] + int(rng.integers(0, 3)) * 7
        edges = np.sort(rng.choice(400, 6, replace=False)).tolist()
        spans = list(zip(edges[::2], edges[1::2]))
        actual = np.concatenate(list(cut_audio(pieces, spans, 2, max_silence=5)), axis=1)
        assert np.array_equal(actual, np.concatenate([array[:, start:stop] for start, stop in spans], axis=1))


def test_sound_continues_after_restarted_timestamps(tmp_path):
    part = write_clip(tmp_path / "part.ts", constant_rate(25, 75), sound=48000).read_bytes()
    (tmp_path / "twice.ts").write_bytes(part + part)
    video = VideoFile(tmp_path / "twice.ts")
    assert not video.has_clock
    write_skim(video, [(0.0, 1.0), (4.0, 5.0)], tmp_path / "skim.mp4")
    samples, rate = read_sound(tmp_path / "skim.mp4")
    assert [ms for time, ms in read_frames(tmp_path / "skim.mp4")][30] == pytest.approx(1200, abs=50)
    assert read_pitch_time(samples[int(1.4 * rate) : int(1.6 * rate)], rate) == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuvj444p", "yuv420p10le", "gray"])
def test_colors_are_preserved(tmp_path, pixel_format):
    """The skim is 8-bit 4:2:0 with a color space tag, for every format of the source."""
    codec = dict(rgb24="png", yuvj444p="mjpeg", yuv420p10le="libx265", gray="ffv1")[pixel_format]
    codec_options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    options = dict(codec=codec, pixel_format=pixel_format, options=codec_options)
    path = write_clip(tmp_path / ("clip.mov" if codec == "png" else "clip.mkv"), constant_rate(25, 30), **options)
    write_skim(VideoFile(path), [(0.0, 1.0)], tmp_path / "skim.mp4")
    with av.open(str(tmp_path / "skim.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p" and context.colorspace != 0
    (_, source_frame), (_, skim_frame) = (
        next(VideoFile(path).iter_sampled_frames()),
        next(VideoFile(tmp_path / "skim.mp4").iter_sampled_frames()),
    )
    assert (
        np.abs(np.asarray(to_upright_rgb(source_frame)).astype(int) - np.asarray(to_upright_rgb(skim_frame))).mean() < 6
    )


def test_undecodable_sound_is_skipped(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", constant_rate(25, 50), sound=48000)
    path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_ZZZZ"))
    write_skim(VideoFile(path), [(0.0, 1.0)], tmp_path / "skim.mp4")
    with av.open(str(tmp_path / "skim.mp4")) as container:
        assert not container.streams.audio


def test_muted_skim_has_no_audio_stream(tmp_path):
    video = VideoFile(write_clip(tmp_path / "clip.mp4", constant_rate(25, 50), sound=48000))
    assert has_audio(video)
    for audio, count in (("keep", 1), ("mute", 0)):
        write_skim(video, [(0.0, 1.0)], tmp_path / "skim.mp4", audio=audio)
        with av.open(str(tmp_path / "skim.mp4")) as container:
            assert len(container.streams.audio) == count
        assert len(read_frames(tmp_path / "skim.mp4")) == 25
    assert not has_audio(VideoFile(tmp_path / "skim.mp4"))
    with pytest.raises(ValueError, match="audio: found 'loud', expected one of keep, mute"):
        write_skim(video, [(0.0, 1.0)], tmp_path / "skim.mp4", audio="loud")


def test_frames_that_cannot_be_encoded_raise_one_line(tmp_path):
    path = write_clip(tmp_path / "wide.mkv", constant_rate(25, 2), size=(17000, 64), codec="ffv1")
    with pytest.raises(ValueError, match=r"wide.mkv: video: its skim cannot be encoded \("):
        write_skim(VideoFile(path), [(0.0, 0.08)], tmp_path / "skim.mp4")


def test_sound_with_changing_channels(tmp_path):
    """As in broadcasts; the timestamps of the second part start again too."""
    parts = [
        write_clip(tmp_path / f"{layout}.ts", constant_rate(25, 75), sound=48000, layout=layout)
        for layout in ("stereo", "mono")
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    write_skim(VideoFile(tmp_path / "both.ts"), [(1.0, 2.0), (4.0, 5.0)], tmp_path / "skim.mp4")
    samples, rate = read_sound(tmp_path / "skim.mp4")
    assert read_pitch_time(samples[int(0.4 * rate) : int(0.6 * rate)], rate) == pytest.approx(1.5, abs=0.1)
    assert read_pitch_time(samples[int(1.4 * rate) : int(1.6 * rate)], rate) == pytest.approx(1.5, abs=0.1)
