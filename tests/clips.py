"""Small real video files whose pixels carry their own time."""

import fractions

import av
import numpy as np

BITS, SQUARE = 16, 16  # milliseconds as black and white squares, in two rows of eight


def picture_of(milliseconds, width=160, height=90):
    """(H, W, 3) uint8 picture that shows a number of milliseconds below 65536."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, BITS // 2)
        value = 255 * (milliseconds >> bit & 1)
        picture[row * SQUARE : (row + 1) * SQUARE, column * SQUARE : (column + 1) * SQUARE] = value
    picture[2 * SQUARE :, : width // 2, 0] = 255  # red below on the left: tells which way up it is
    return picture


def time_in(picture):
    """Milliseconds that a picture (H, W, 3) shows."""
    middles = picture[SQUARE // 2 : 2 * SQUARE : SQUARE, SQUARE // 2 : BITS // 2 * SQUARE : SQUARE, 1]
    return sum(int(value > 127) << bit for bit, value in enumerate(middles.flatten()))


LOWEST, RISE = 400, 100  # Hz, Hz per second


def heard_at(samples, rate):
    """Second whose pitch is in the middle of some samples (n,), by their zero crossings."""
    up = np.flatnonzero((samples[:-1] < 0) & (samples[1:] >= 0))
    at = up + samples[up] / (samples[up] - samples[up + 1])  # between two samples
    return ((len(at) - 1) / (at[-1] - at[0]) * rate - LOWEST) / RISE


def constant_rate(rate, count):
    """Times of `count` pictures at a constant rate."""
    return [fractions.Fraction(i) / fractions.Fraction(rate) for i in range(count)]


def write_clip(
    path,
    times,
    *,
    last=fractions.Fraction(1, 25),
    offset=0,
    codec="libx264",
    options=None,
    size=(160, 90),
    sound=None,
    layout="mono",
    rotation=None,
    time_base=fractions.Fraction(1, 90000),
    container_options=None,
    pixel_format="yuv420p",
):
    """Write a video whose pictures show, in milliseconds, when they are shown.

    Args:
        path: the format is taken from its name.
        times: seconds at which the pictures appear, ascending from 0; `offset` is added in the file's time stamps.
        last: seconds that the last picture stays.
        sound: samples per second of a tone of the pictures' length whose pitch tells the time, see `heard_at`; None
            writes no sound. `layout` is of its channels, which are all alike.
        rotation: (degrees counter-clockwise, flip left-right, flip upside-down) for the container to note.
    """
    times = [fractions.Fraction(t) for t in times]
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=round(1 / last), options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(*rotation)
        audio = None
        if sound:
            audio = container.add_stream("aac" if str(path).endswith(("mp4", "mov", "ts")) else "libopus", rate=sound)
            audio.layout = layout
        ends = [*times[1:], times[-1] + last]
        lasting = {}  # time stamp -> duration, which encoders lose

        def mux(packets):
            for packet in packets:
                packet.duration = round(lasting[packet.pts] / packet.time_base)
                container.mux(packet)

        for start, end in zip(times, ends):
            frame = av.VideoFrame.from_ndarray(picture_of(round(1000 * start), *size), "rgb24")
            frame.pts, frame.time_base = round((start + offset) / time_base), time_base
            lasting[frame.pts] = end - start
            mux(stream.encode(frame))
        mux(stream.encode())
        if audio:
            rate, count = sound, round(ends[-1] * sound)
            second = np.arange(count) / rate
            tone = 0.3 * np.sin(2 * np.pi * (LOWEST * second + RISE / 2 * second**2))
            for first in range(0, count, 1024):
                part = tone[None, first : first + 1024].astype(np.float32)
                part = np.repeat(part, audio.layout.nb_channels, axis=0)
                frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
                frame.rate, frame.pts, frame.time_base = rate, first + round(offset * rate), fractions.Fraction(1, rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path
