"""Render the videos of mini VideoXum: H.264 and AAC in .mp4.

A shape of the event's colour does what its action says; the nearer the high point, the larger it is and the lighter
the background. Its action also shows in a still: trails, arcs, outlines, streaks, dots. The tone of an event has its
colour's pitch and swells towards the high point.
"""

import fractions
import math

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 128, 96
RATE = 8  # pictures per second
SOUND_RATE = 8000
TICKS = 16000  # of the time stamps, per second
RGB = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (60, 90, 255), "yellow": (240, 220, 40)}
PITCH = {"red": 220.0, "green": 330.0, "blue": 440.0, "yellow": 550.0}  # Hz
CORNERS = {"triangle": 3, "square": 4, "circle": 24}


def event_at(video, second):
    """The event that acts at a time, or None."""
    return next((event for event in video.events if event.start <= second < event.stop), None)


def draw(video, second):
    """Draw what the video shows at a time: `PIL.Image` of WIDTH x HEIGHT."""
    event = event_at(video, second)
    if event is None:
        return Image.new("RGB", (WIDTH, HEIGHT), (24, 24, 24))
    strength, colour = float(event.strength(second)), RGB[event.colour]
    level = 24 + round(100 * strength)
    image = Image.new("RGB", (WIDTH, HEIGHT), (level, level, level))
    pen = ImageDraw.Draw(image)
    x, y, radius, angle, filled = WIDTH / 2, HEIGHT / 2, 24 + 10 * strength, 0.0, True
    swing = math.sin(2 * math.pi * second / 1.7)
    faint = tuple(2 * value // 3 for value in colour)
    if event.action == "bounces":
        y += 16 * abs(swing) - 8
        pen.line((x, y - radius - 20, x, y + radius + 20), faint, 9)
    elif event.action == "spins":
        angle = 2.2 * second
        pen.arc((x - 44, y - 44, x + 44, y + 44), math.degrees(angle), math.degrees(angle) + 250, faint, 5)
    elif event.action == "grows":
        radius *= 1 + 0.2 * swing
        for step in (8, 16, 24):
            pen.polygon(_outline(event.shape, x, y, radius + step, 0), outline=faint, width=3)
    elif event.action == "slides":
        x += 24 * swing
        for step in range(-2, 3):
            pen.line((0, y + 12 * step, WIDTH, y + 12 * step), faint, 4)
    else:
        filled = int(2 * second) % 2 == 0
        for step in range(10):
            turn = 2 * math.pi * step / 10
            dot_x, dot_y = x + 42 * math.cos(turn), y + 42 * math.sin(turn)
            pen.ellipse((dot_x - 4, dot_y - 4, dot_x + 4, dot_y + 4), fill=faint)
    outline = _outline(event.shape, x, y, radius, angle)
    pen.polygon(outline, fill=colour if filled else None, outline=colour, width=4)
    return image


def _outline(shape, x, y, radius, angle):
    corners, first = CORNERS[shape], angle - math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    turns = (first + 2 * math.pi * i / corners for i in range(corners))
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def tone(video):
    """The sound track: (n,) float32 samples at SOUND_RATE."""
    sound = np.zeros(round(video.duration * SOUND_RATE), np.float32)
    for event in video.events:
        first = event.start * SOUND_RATE
        second = np.arange(first, min(event.stop * SOUND_RATE, len(sound))) / SOUND_RATE
        loudness = 0.05 + 0.3 * event.strength(second)
        sound[first : first + len(second)] = loudness * np.sin(2 * np.pi * PITCH[event.colour] * second)
    return sound


def render(video, file):
    """Write a video of exactly `video.duration` seconds to an open binary file."""
    import av

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=RATE, options=dict(preset="superfast", bf="0", crf="24", threads="1")
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, TICKS)
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono", options=dict(aac_coder="fast"))
        count = math.ceil(video.duration * RATE)
        for i in range(count):
            frame = av.VideoFrame.from_image(draw(video, i / RATE))
            frame.pts, frame.time_base = i * TICKS // RATE, fractions.Fraction(1, TICKS)
            _mux(container, stream, frame, video)
        _mux(container, stream, None, video)
        frame = av.AudioFrame.from_ndarray(tone(video)[None], "fltp", "mono")
        frame.rate, frame.pts = SOUND_RATE, 0
        container.mux([*sound.encode(frame), *sound.encode()])


def _mux(container, stream, frame, video):
    for packet in stream.encode(frame):
        end = min(packet.pts + TICKS // RATE, round(video.duration * TICKS))
        packet.duration = end - packet.pts  # the last picture's too, which the encoder does not know
        container.mux(packet)
