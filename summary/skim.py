"""Write the skim: the selected segments of a video, concatenated, with video and audio in sync.

Both are cut by their time since the first frame. They are decoded, encoded and muxed in order of time: memory does not
grow with the length of the video.

Axes: C channels, n samples.
"""

import fractions
import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.video.reader import TimelineChanged, VideoFile, orientation, to_upright_rgb
from data.video.timeline import Timeline, demux

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer

Segments = Sequence[tuple[float, float]]  # start and end in seconds, ascending, disjoint

TICK = fractions.Fraction(1, 90000)  # time base of the skim, in seconds
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AUDIO_MODES = ("keep", "mute")
JITTER = 0.02  # seconds; containers round audio timestamps: smaller gaps are ignored


def write_skim(
    video: VideoFile,
    segments: Segments,
    path: str | os.PathLike,
    on_frame: Callable[[int, "av.VideoFrame"], None] | None = None,
    audio: str = "keep",
) -> None:
    """Write a skim as H.264 and AAC, at the source's size (made even) and rate.

    Args:
        video: the source.
        segments: to keep.
        path: .mp4 file to write; browsers can play it while it loads.
        on_frame: called with the number of each decoded frame, and the frame.
        audio: one of `AUDIO_MODES`: `keep`, or `mute` for a skim without an audio stream.
    Raises:
        OSError, ValueError: not such a mode; the file cannot be written; the frames cannot be encoded.
    """
    import av

    check_audio(audio)
    while True:
        try:
            with av.open(os.path.abspath(path), "w", format="mp4", options=dict(movflags="faststart")) as container:
                streams = [_video_packets(container, video, segments, on_frame)]
                with video.open() as (source, _):
                    stream = _find_audio(source) if audio == "keep" else None
                    if stream is not None:
                        streams.append(_audio_packets(container, source, stream, video, segments))
                    for packet in heapq.merge(*streams, key=_decoding_time):
                        container.mux(packet)
            return
        except TimelineChanged:  # the timeline is corrected: select frames again
            continue
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise ValueError(f"{video.path}: video: its skim cannot be encoded ({error.strerror})") from None


def check_audio(audio: str) -> None:
    """Raise a ValueError unless it is one of `AUDIO_MODES`."""
    if audio not in AUDIO_MODES:
        raise ValueError(f"audio: found {audio!r}, expected one of {', '.join(AUDIO_MODES)}")


def has_audio(video: VideoFile) -> bool:
    """Whether a video has audio that can be decoded."""
    with video.open() as (source, _):
        return _find_audio(source) is not None


def _find_audio(source: "InputContainer") -> "av.AudioStream | None":
    """Return the first audio stream that can be decoded."""
    return next((stream for stream in source.streams.audio if stream.codec_context is not None), None)


def _decoding_time(packet: "av.Packet") -> fractions.Fraction:
    assert packet.dts is not None and packet.time_base is not None
    return packet.dts * packet.time_base


def _video_packets(
    container: "OutputContainer",
    video: VideoFile,
    segments: Segments,
    on_frame: Callable[[int, "av.VideoFrame"], None] | None,
) -> "Iterator[av.Packet]":
    """Encode the frames presented in the segments, with their durations in these; yields packets."""
    # Without B-frames, the file keeps every duration exactly.
    stream = container.add_stream("libx264", rate=video.rate, options=dict(preset="veryfast", crf="20", bf="0"))
    stream.codec_context.time_base = TICK
    return _encode_frames(stream, video, _ticks_of_frames(video.timeline, segments), on_frame)


def _ticks_of_frames(timeline: Timeline, segments: Segments) -> dict[int, list[tuple[int, int]]]:
    """Map frames k to their [(first tick in the skim, number of ticks)]; two if k is presented in two segments."""
    ticks_of: dict[int, list[tuple[int, int]]] = {}
    offset = 0.0
    ends = np.append(timeline.starts[1:], timeline.duration)
    for start, end in segments:
        for k in range(int(timeline.frames_at(start)), int(np.searchsorted(timeline.starts, end))):
            bounds = max(start, timeline.starts[k]), min(end, ends[k])
            first, last = (round((offset + second - start) / TICK) for second in bounds)
            if last > first:
                ticks_of.setdefault(k, []).append((first, last - first))
        offset += end - start
    return ticks_of


def _encode_frames(
    stream: "av.VideoStream",
    video: VideoFile,
    ticks_of: dict[int, list[tuple[int, int]]],
    on_frame: Callable[[int, "av.VideoFrame"], None] | None,
) -> "Iterator[av.Packet]":
    durations: dict[int | None, int] = {}

    def encode(frame: "av.VideoFrame | None") -> "Iterator[av.Packet]":
        for packet in stream.encode(frame):
            packet.duration = durations.pop(packet.pts)
            yield packet

    for k, frame in video.iter_frames(sorted(ticks_of)):
        if on_frame is not None:
            on_frame(k, frame)
        frame = _convert_frame(frame, stream)
        for first, ticks in ticks_of[k]:
            frame.pts = first
            frame.time_base = TICK
            durations[first] = ticks
            yield from encode(frame)
    yield from encode(None)


def _convert_frame(frame: "av.VideoFrame", stream: "av.VideoStream") -> "av.VideoFrame":
    """Convert a frame to upright, 8 bit 4:2:0, even width and height; the first one sets the stream's size."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    colors = {name: getattr(frame, name) for name in ("colorspace", "color_primaries", "color_trc")}
    colorspace = None
    if any(orientation(frame)):
        frame = av.VideoFrame.from_image(to_upright_rgb(frame))
    if frame.format.is_rgb:  # has no color matrix to keep
        colors["colorspace"] = colorspace = Colorspace.ITU709
    context = stream.codec_context
    if not context.is_open:
        stream.width, stream.height = (max(2, side - side % 2) for side in (frame.width, frame.height))
        stream.pix_fmt = "yuv420p"
        for name, value in (colors | dict(color_range=ColorRange.MPEG)).items():
            setattr(context, name, value)
    size = (stream.width, stream.height)
    return frame.reformat(*size, "yuv420p", dst_colorspace=colorspace, dst_color_range=ColorRange.MPEG)


def _audio_packets(
    container: "OutputContainer",
    source: "InputContainer",
    stream: "av.AudioStream",
    video: VideoFile,
    segments: Segments,
) -> "Iterator[av.Packet]":
    """Encode the audio of the segments, with silence in gaps; yields packets."""
    rate = stream.rate if stream.rate in AAC_RATES else 48000
    layout = "mono" if stream.channels == 1 else "stereo"
    target = container.add_stream("aac", rate=rate, layout=layout)
    # Each span has exactly the samples of its segment in the skim, so that rounding errors do not accumulate.
    spans = []
    offset = 0.0
    for first, last in segments:
        length = round((offset + last - first) * rate) - round(offset * rate)
        spans.append((round(first * rate), round(first * rate) + length))
        offset += last - first
    # Without reliable timestamps, the packets near a segment are unknown: decode all.
    packets = _packets_near(source, stream, video.start, segments) if video.has_clock else demux(source, stream)
    decoded = _decode_audio(packets, stream, video.start, rate, layout)
    return _encode_audio(target, cut_audio(decoded, spans, target.layout.nb_channels), rate)


def _encode_audio(stream: "av.AudioStream", chunks: Iterable[np.ndarray], rate: int) -> "Iterator[av.Packet]":
    import av

    position, layout = 0, stream.layout.name
    for samples in chunks:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.rate = rate
        frame.pts = position
        frame.time_base = fractions.Fraction(1, rate)
        position += samples.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _decode_audio(
    packets: "Iterable[av.Packet]", stream: "av.AudioStream", start: float, rate: int, layout: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode audio; yields (number of the first sample since the first frame, (C, n)), ascending."""
    import av

    source_format: tuple[str, str, int] | None = None
    resampler = av.AudioResampler("fltp", layout, rate)
    next_number: int | None = None  # of the sample after the last decoded one
    for packet in packets:
        frames: list[av.AudioFrame] = []
        try:
            for decoded in stream.codec_context.decode(packet):
                frame_format = (decoded.format.name, decoded.layout.name, decoded.rate)
                if frame_format != source_format:  # may change within a broadcast
                    source_format, resampler = frame_format, av.AudioResampler("fltp", layout, rate)
                frames += resampler.resample(decoded)
        except av.error.FFmpegError:
            continue  # damaged: silence
        for frame in frames:
            number = next_number or 0
            if frame.pts is not None and frame.time_base is not None:
                number = round((float(frame.pts * frame.time_base) - start) * rate)
            # Ignore small gaps, overlaps and restarted timestamps.
            if next_number is not None and number < next_number + JITTER * rate:
                number = next_number
            next_number = number + frame.samples
            yield number, frame.to_ndarray()


def _packets_near(
    source: "InputContainer", stream: "av.AudioStream", start: float, segments: Segments, margin: float = 1.0
) -> "Iterator[av.Packet]":
    """Yield the audio packets within `margin` seconds of a segment: decoders need packets before the first output."""
    remaining = list(reversed(segments))
    for packet in demux(source, stream):
        second = None
        if packet.pts is not None and packet.time_base is not None:
            second = float(packet.pts * packet.time_base) - start
        while second is not None and remaining and second > remaining[-1][1] + margin:
            remaining.pop()
        if not remaining:
            return
        if second is None or second > remaining[-1][0] - margin:
            yield packet


def cut_audio(
    chunks: Iterable[tuple[int, np.ndarray]],
    spans: Sequence[tuple[int, int]],
    channels: int,
    max_silence: int = 48000,
) -> Iterator[np.ndarray]:
    """Cut spans out of audio.

    Args:
        chunks: number of the first sample, and (C, n) samples, ascending; there may be gaps between chunks.
        spans: (first, last + 1) sample numbers, ascending, disjoint.
        channels: C.
        max_silence: maximum samples of silence in one array.
    Yields:
        (C, n) arrays that fill the spans one after another, with silence in gaps.
    """
    remaining = iter(chunks)
    silence = np.zeros((channels, max_silence), np.float32)
    number, samples = 0, silence[:, :0]
    is_exhausted = False
    for position, stop in spans:
        while position < stop:
            while not is_exhausted and number + samples.shape[1] <= position:
                chunk = next(remaining, None)
                is_exhausted = chunk is None
                number, samples = chunk or (number, samples)
            silence_end = stop if is_exhausted else min(stop, max(position, number))
            while position < silence_end:
                n = min(max_silence, silence_end - position)
                yield silence[:, :n]
                position += n
            if position < stop:
                part = samples[:, position - number : stop - number]
                yield part
                position += part.shape[1]
