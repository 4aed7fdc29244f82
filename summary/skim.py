"""Write the skim: chosen stretches of a video one after another, picture and sound in step.

Both are cut on the clock that starts with the first picture. They are decoded, encoded and muxed side by side, in the
order of time, so that memory does not grow with the video.
"""

import fractions
import heapq
import os

import numpy as np

from data.video.reader import TimelineChanged, orientation, to_upright_rgb
from data.video.timeline import demux

TICK = fractions.Fraction(1, 90000)  # of the skim's time stamps, in seconds
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
JITTER = 0.02  # seconds; containers round the times of sound, and what is off by less is continuous


def write_skim(video, segments, path, seen=None):
    """Write a skim as H.264 and AAC, at the source's size (made even) and rate.

    Args:
        video: `VideoFile`.
        segments: list of (start, end) in seconds, ascending, apart.
        path: .mp4 file to write; a browser can play it while it loads.
        seen: function that is given each decoded picture, (k, `av.VideoFrame`).
    Raises:
        OSError, ValueError: the file cannot be written; the pictures cannot be encoded.
    """
    import av

    while True:
        try:
            with av.open(os.path.abspath(path), "w", format="mp4", options=dict(movflags="faststart")) as container:
                streams = [_pictures(container, video, segments, seen)]
                with video.open() as (source, _):
                    audible = [stream for stream in source.streams.audio if stream.codec_context is not None]
                    if audible:
                        streams.append(_sound(container, source, audible[0], video, segments))
                    for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
                        container.mux(packet)
            return
        except TimelineChanged:  # the video's timeline is corrected now
            continue
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise ValueError(f"{video.path}: video: its skim cannot be encoded ({error.strerror})") from None


def _pictures(container, video, segments, seen):
    """Encode the pictures shown in the segments, each for as long as it is shown there; yields packets."""
    # Without B-pictures the file keeps every duration exactly.
    stream = container.add_stream("libx264", rate=video.rate, options=dict(preset="veryfast", crf="20", bf="0"))
    stream.codec_context.time_base = TICK
    return _encoded_pictures(stream, video, _placed(video.timeline, segments), seen)


def _placed(timeline, segments):
    """Where pictures go: k -> [(first tick in the skim, ticks)], more than one where k reaches into two segments."""
    placed, offset = {}, 0.0
    ends = np.append(timeline.starts[1:], timeline.duration)
    for start, end in segments:
        for k in range(int(timeline.at(start)), int(np.searchsorted(timeline.starts, end))):
            shown, gone = max(start, timeline.starts[k]), min(end, ends[k])
            first, last = (round((offset + second - start) / TICK) for second in (shown, gone))
            if last > first:
                placed.setdefault(k, []).append((first, last - first))
        offset += end - start
    return placed


def _encoded_pictures(stream, video, placed, seen):
    durations = {}

    def encode(frame):
        for packet in stream.encode(frame):
            packet.duration = durations.pop(packet.pts)
            yield packet

    for k, frame in video.iter_frames(sorted(placed)):
        if seen is not None:
            seen(k, frame)
        frame = _for_encoder(frame, stream)
        for first, ticks in placed[k]:
            frame.pts, frame.time_base, durations[first] = first, TICK, ticks
            yield from encode(frame)
    yield from encode(None)


def _for_encoder(frame, stream):
    """Turn a picture upright, make it 8 bit 4:2:0 of even width and height; the first one sets the stream's."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    colours = {name: getattr(frame, name) for name in ("colorspace", "color_primaries", "color_trc")}
    how = dict(dst_color_range=ColorRange.MPEG)
    if any(orientation(frame)):
        frame = av.VideoFrame.from_image(to_upright_rgb(frame))
    if frame.format.is_rgb:  # has no matrix to keep
        colours["colorspace"] = how["dst_colorspace"] = Colorspace.ITU709
    context = stream.codec_context
    if not context.is_open:
        stream.width, stream.height = (max(2, side - side % 2) for side in (frame.width, frame.height))
        stream.pix_fmt = "yuv420p"
        for name, value in (colours | dict(color_range=ColorRange.MPEG)).items():
            setattr(context, name, value)
    return frame.reformat(stream.width, stream.height, "yuv420p", **how)


def _sound(container, source, stream, video, segments):
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
    # Where the clock is not to be believed, what is near a segment is not known: all of it is decoded.
    packets = _packets_near(source, stream, video.start, segments) if video.has_clock else demux(source, stream)
    decoded = _decoded_sound(packets, stream, video.start, rate, layout)
    return _encoded_sound(target, cut(decoded, spans, target.layout.nb_channels), rate)


def _encoded_sound(stream, pieces, rate):
    import av

    position, layout = 0, stream.layout.name
    for samples in pieces:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.rate, frame.pts, frame.time_base = rate, position, fractions.Fraction(1, rate)
        position += samples.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _decoded_sound(packets, stream, start, rate, layout):
    """Decode sound; yields (number of the first sample after the first picture, (C, n)), ascending."""
    import av

    due = was = resampler = None
    for packet in packets:
        frames = []
        try:
            for frame in stream.codec_context.decode(packet):
                now = (frame.format.name, frame.layout.name, frame.rate)
                if now != was:  # broadcasts change on the way
                    was, resampler = now, av.AudioResampler("fltp", layout, rate)
                frames += resampler.resample(frame)
        except av.error.FFmpegError:
            continue  # damaged: silence
        for frame in frames:
            number = due if frame.pts is None else round((float(frame.pts * frame.time_base) - start) * rate)
            if due is not None and number < due + JITTER * rate:  # also where the clock starts again
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


def cut(pieces, spans, channels, most=48000):
    """Cut spans out of sound.

    Args:
        pieces: iterable of (number of the first sample, (C, n) samples), ascending; they may leave gaps.
        spans: list of (first, last + 1) sample numbers, ascending, apart.
        channels: C.
        most: so many samples of silence come at once.
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
