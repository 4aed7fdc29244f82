"""Small video files whose frames and sound encode their own time."""

import fractions

import av
import numpy as np

BITS = 16  # of a time in milliseconds, drawn as black and white squares in two rows of eight
SQUARE = 16  # pixels


def draw_milliseconds(milliseconds, width=160, height=90):
    """Draw a number of milliseconds below 65536: (H, W, 3) uint8."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, BITS // 2)
        value = 255 * (milliseconds >> bit & 1)
        frame[row * SQUARE : (row + 1) * SQUARE, column * SQUARE : (column + 1) * SQUARE] = value
    frame[2 * SQUARE :, : width // 2, 0] = 255  # red at the bottom left shows the orientation
    return frame


def read_milliseconds(frame):
    """Read the milliseconds that a frame (H, W, 3) shows."""
    centers = frame[SQUARE // 2 : 2 * SQUARE : SQUARE, SQUARE // 2 : BITS // 2 * SQUARE : SQUARE, 1]
    return sum(int(value > 127) << bit for bit, value in enumerate(centers.flatten()))


LOWEST_PITCH = 400  # Hz
PITCH_RISE = 100  # Hz per second


def read_pitch_time(samples, rate):
    """Read the time in seconds at the middle of samples (n,) from their pitch, by zero crossings."""
    rising = np.flatnonzero((samples[:-1] < 0) & (samples[1:] >= 0))
    crossings = rising + samples[rising] / (samples[rising] - samples[rising + 1])  # interpolated between two samples
    return ((len(crossings) - 1) / (crossings[-1] - crossings[0]) * rate - LOWEST_PITCH) / PITCH_RISE


def constant_rate(rate, count):
    """Compute the times in seconds of `count` frames at a constant rate."""
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
    """Write a video whose frames show their own time in milliseconds.

    Args:
        path: file whose suffix selects the container.
        times: times of the frames in seconds, ascending from 0.
        last: duration of the last frame in seconds.
        offset: seconds added to all timestamps in the file.
        sound: sampling rate of a tone whose pitch encodes the time, see `read_pitch_time`; None writes no sound.
        layout: channel layout of the sound; all channels are equal.
        rotation: (degrees counter-clockwise, flip left-right, flip upside-down) in the container's metadata.
    """
    times = [fractions.Fraction(time) for time in times]
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
        durations = {}  # timestamp -> duration, which encoders drop

        def mux(packets):
            for packet in packets:
                packet.duration = round(durations[packet.pts] / packet.time_base)
                container.mux(packet)

        for start, end in zip(times, ends):
            frame = av.VideoFrame.from_ndarray(draw_milliseconds(round(1000 * start), *size), "rgb24")
            frame.pts = round((start + offset) / time_base)
            frame.time_base = time_base
            durations[frame.pts] = end - start
            mux(stream.encode(frame))
        mux(stream.encode())
        if audio:
            rate, count = sound, round(ends[-1] * sound)
            seconds = np.arange(count) / rate
            tone = 0.3 * np.sin(2 * np.pi * (LOWEST_PITCH * seconds + PITCH_RISE / 2 * seconds**2))
            for offset_samples in range(0, count, 1024):
                chunk = tone[None, offset_samples : offset_samples + 1024].astype(np.float32)
                chunk = np.repeat(chunk, audio.layout.nb_channels, axis=0)
                frame = av.AudioFrame.from_ndarray(chunk, "fltp", layout)
                frame.rate = rate
                frame.pts = offset_samples + round(offset * rate)
                frame.time_base = fractions.Fraction(1, rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path
