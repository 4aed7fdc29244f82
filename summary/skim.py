"""Write the skim: selected segments of a video one after another, frames and sound in sync.

Both are cut by their time since the first frame. They are decoded, encoded and muxed in parallel, in the order of
time, so that memory does not grow with the video.

Axes: C channels, n samples.
"""

import fractions
import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data.video.reader import TimelineChanged, VideoFile, orientation, to_upright_rgb
from data.video.timeline import Timeline, demux

Segments = Sequence[tuple[float, float]]  # start and end in seconds, ascending, apart

TICK = fractions.Fraction(1, 90000)  # of the skim's time stamps, in seconds
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
JITTER = 0.02  # seconds; containers round the times of sound, and what is off by less is continuous


def write_skim(
    video: VideoFile,
    segments: Segments,
    path: str | os.PathLike,
    on_frame: Callable[[int, Any], None] | None = None,
) -> None:
    """Write a skim as H.264 and AAC, at the source's size (made even) and rate.

    Args:
        video: the source.
        segments: to keep.
        path: .mp4 file to write; a browser can play it while it loads.
        on_frame: called with the number of each decoded frame and the frame, an `av.VideoFrame`.
    Raises:
        OSError, ValueError: the file cannot be written; the frames cannot be encoded.
    """
    import av

    while True:
        try:
            with av.open(os.path.abspath(path), "w", format="mp4", options=dict(movflags="faststart")) as container:
                streams = [_video_packets(container, video, segments, on_frame)]
                with video.open() as (source, _):
                    audible = [stream for stream in source.streams.audio if stream.codec_context is not None]
                    if audible:
                        streams.append(_audio_packets(container, source, audible[0], video, segments))
                    for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
                        container.mux(packet)
            return
        except TimelineChanged:  # the video's timeline is corrected now
            continue
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise ValueError(f"{video.path}: video: its skim cannot be encoded ({error.strerror})") from None


def _video_packets(container, video, segments, on_frame):
    """Encode the frames shown in the segments, each for as long as it is shown there; yields packets."""
    # Without B-frames the file keeps every duration exactly.
    stream = container.add_stream("libx264", rate=video.rate, options=dict(preset="veryfast", crf="20", bf="0"))
    stream.codec_context.time_base = TICK
    return _encode_frames(stream, video, _ticks_of_frames(video.timeline, segments), on_frame)


def _ticks_of_frames(timeline: Timeline, segments: Segments) -> dict[int, list[tuple[int, int]]]:
    """k -> [(first tick in the skim, ticks)] of each frame, more than one where k reaches into two segments."""
    ticks_of, offset = {}, 0.0
    ends = np.append(timeline.starts[1:], timeline.duration)
    for start, end in segments:
        for k in range(int(timeline.at(start)), int(np.searchsorted(timeline.starts, end))):
            bounds = max(start, timeline.starts[k]), min(end, ends[k])
            first, last = (round((offset + second - start) / TICK) for second in bounds)
            if last > first:
                ticks_of.setdefault(k, []).append((first, last - first))
        offset += end - start
    return ticks_of


def _encode_frames(stream, video, ticks_of, on_frame):
    durations = {}

    def encode(frame):
        for packet in stream.encode(frame):
            packet.duration = durations.pop(packet.pts)
            yield packet

    for k, frame in video.iter_frames(sorted(ticks_of)):
        if on_frame is not None:
            on_frame(k, frame)
        frame = _convert_frame(frame, stream)
        for first, ticks in ticks_of[k]:
            frame.pts, frame.time_base, durations[first] = first, TICK, ticks
            yield from encode(frame)
    yield from encode(None)


def _convert_frame(frame, stream):
    """Turn a frame upright, make it 8 bit 4:2:0 of even width and height; the first one sets the stream's."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    colors = {name: getattr(frame, name) for name in ("colorspace", "color_primaries", "color_trc")}
    colorspace = None
    if any(orientation(frame)):
        frame = av.VideoFrame.from_image(to_upright_rgb(frame))
    if frame.format.is_rgb:  # has no matrix to keep
        colors["colorspace"] = colorspace = Colorspace.ITU709
    context = stream.codec_context
    if not context.is_open:
        stream.width, stream.height = (max(2, side - side % 2) for side in (frame.width, frame.height))
        stream.pix_fmt = "yuv420p"
        for name, value in (colors | dict(color_range=ColorRange.MPEG)).items():
            setattr(context, name, value)
    size = (stream.width, stream.height)
    return frame.reformat(*size, "yuv420p", dst_colorspace=colorspace, dst_color_range=ColorRange.MPEG)


def _audio_packets(container, source, stream, video, segments):
    """Encode the sound of the segments, silence where there is none; yields packets."""
    rate = stream.rate if stream.rate in AAC_RATES else 48000
    layout = "mono" if stream.channels == 1 else "stereo"
    target = container.add_stream("aac", rate=rate, layout=layout)
    # Spans of source samples, as long as the segments are in the skim: rounding must not add up.
    spans, offset = [], 0.0
    for first, last in segments:
        length = round((offset + last - first) * rate) - round(offset * rate)
        spans.append((round(first * rate), round(first * rate) + length))
        offset += last - first
    # Without reliable time stamps it is not known which packets are near a segment: all are decoded.
    packets = _packets_near(source, stream, video.start, segments) if video.has_clock else demux(source, stream)
    decoded = _decode_audio(packets, stream, video.start, rate, layout)
    return _encode_audio(target, cut_audio(decoded, spans, target.layout.nb_channels), rate)


def _encode_audio(stream, pieces, rate):
    import av

    position, layout = 0, stream.layout.name
    for samples in pieces:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.rate, frame.pts, frame.time_base = rate, position, fractions.Fraction(1, rate)
        position += samples.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _decode_audio(packets, stream, start, rate, layout):
    """Decode sound; yields (number of the first sample since the first frame, (C, n)), ascending."""
    import av

    due = source_format = resampler = None
    for packet in packets:
        frames = []
        try:
            for frame in stream.codec_context.decode(packet):
                frame_format = (frame.format.name, frame.layout.name, frame.rate)
                if frame_format != source_format:  # it may change within a broadcast
                    source_format, resampler = frame_format, av.AudioResampler("fltp", layout, rate)
                frames += resampler.resample(frame)
        except av.error.FFmpegError:
            continue  # damaged: silence
        for frame in frames:
            number = due if frame.pts is None else round((float(frame.pts * frame.time_base) - start) * rate)
            if due is not None and number < due + JITTER * rate:  # also where time stamps start again
                number = due
            due = number + frame.samples
            yield number, frame.to_ndarray()


def _packets_near(source, stream, start, segments, margin=1.0):
    """Sound packets less than a second from a segment: decoders need some before the first they give out."""
    remaining = list(reversed(segments))
    for packet in demux(source, stream):
        second = None if packet.pts is None else float(packet.pts * packet.time_base) - start
        while second is not None and remaining and second > remaining[-1][1] + margin:
            remaining.pop()
        if not remaining:
            return
        if second is None or second > remaining[-1][0] - margin:
            yield packet


def cut_audio(
    pieces: Iterable[tuple[int, np.ndarray]], spans: Sequence[tuple[int, int]], channels: int, most: int = 48000
) -> Iterator[np.ndarray]:
    """Cut spans out of sound.

    Args:
        pieces: number of the first sample, and (C, n) samples, ascending; they may leave gaps.
        spans: (first, last + 1) sample numbers, ascending, apart.
        channels: C.
        most: samples of silence in one array.
    Yields:
        (C, n) arrays that fill the spans one after another, silence in the gaps.
    """
    pieces = iter(pieces)
    silence = np.zeros((channels, most), np.float32)
    number, samples = 0, silence[:, :0]
    for at, stop in spans:
        while at < stop:
            while samples is not None and number + samples.shape[1] <= at:
                number, samples = next(pieces, (0, None))
            reach = stop if samples is None else min(stop, max(at, number))
            while at < reach:
                n = min(most, reach - at)
                yield silence[:, :n]
                at += n
            if at < stop:
                part = samples[:, at - number : stop - number]
                yield part
                at += part.shape[1]
