"""Render the videos of mini VideoXum: H.264 and AAC in .mp4.

A shape in the event's color performs the event's action. The size of the shape and the lightness of the background
grow with the strength of the event. The action is also visible in a single frame: trail, arc, outlines, streaks or
dots. The event's tone has the pitch of its color, and its loudness grows with the strength.
"""

import fractions
import math
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from data.mini.plans import VideoPlan

if TYPE_CHECKING:
    import av

VIDEO_WIDTH = 128  # pixels
VIDEO_HEIGHT = 96  # pixels
FRAME_RATE = 8  # frames per second
SOUND_RATE = 8000  # samples per second
TICKS_PER_SECOND = 16000  # of the time stamps
RGB_BY_COLOR = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (60, 90, 255), "yellow": (240, 220, 40)}
PITCH_BY_COLOR = {"red": 220.0, "green": 330.0, "blue": 440.0, "yellow": 550.0}  # Hz
CORNERS_BY_SHAPE = {"triangle": 3, "square": 4, "circle": 24}


def draw_frame(plan: VideoPlan, second: float) -> Image.Image:
    """Draw the frame of a video at a time in seconds: RGB, `VIDEO_WIDTH` x `VIDEO_HEIGHT`."""
    event = plan.find_event(second)
    if event is None:
        return Image.new("RGB", (VIDEO_WIDTH, VIDEO_HEIGHT), (24, 24, 24))
    strength = float(event.compute_strength(second))
    color = RGB_BY_COLOR[event.color]
    level = 24 + round(100 * strength)
    image = Image.new("RGB", (VIDEO_WIDTH, VIDEO_HEIGHT), (level, level, level))
    canvas = ImageDraw.Draw(image)
    x = VIDEO_WIDTH / 2
    y = VIDEO_HEIGHT / 2
    radius = 24 + 10 * strength
    angle = 0.0
    is_filled = True
    swing = math.sin(2 * math.pi * second / 1.7)
    faint_color = tuple(2 * value // 3 for value in color)
    if event.action == "bounces":
        y += 16 * abs(swing) - 8
        canvas.line((x, y - radius - 20, x, y + radius + 20), faint_color, 9)
    elif event.action == "spins":
        angle = 2.2 * second
        canvas.arc((x - 44, y - 44, x + 44, y + 44), math.degrees(angle), math.degrees(angle) + 250, faint_color, 5)
    elif event.action == "grows":
        radius *= 1 + 0.2 * swing
        for distance in (8, 16, 24):
            canvas.polygon(_outline(event.shape, x, y, radius + distance, 0), outline=faint_color, width=3)
    elif event.action == "slides":
        x += 24 * swing
        for line in range(-2, 3):
            canvas.line((0, y + 12 * line, VIDEO_WIDTH, y + 12 * line), faint_color, 4)
    else:
        is_filled = int(2 * second) % 2 == 0
        for dot in range(10):
            dot_angle = 2 * math.pi * dot / 10
            dot_x = x + 42 * math.cos(dot_angle)
            dot_y = y + 42 * math.sin(dot_angle)
            canvas.ellipse((dot_x - 4, dot_y - 4, dot_x + 4, dot_y + 4), fill=faint_color)
    outline = _outline(event.shape, x, y, radius, angle)
    canvas.polygon(outline, fill=color if is_filled else None, outline=color, width=4)
    return image


def _outline(shape: str, x: float, y: float, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape around (x, y), turned by an angle in radians."""
    num_corners = CORNERS_BY_SHAPE[shape]
    first = angle - math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    corner_angles = (first + 2 * math.pi * i / num_corners for i in range(num_corners))
    return [(x + radius * math.cos(corner), y + radius * math.sin(corner)) for corner in corner_angles]


def synthesize_tone(plan: VideoPlan) -> np.ndarray:
    """Synthesize the sound track: float32 samples at `SOUND_RATE`, (samples,)."""
    sound = np.zeros(round(plan.duration * SOUND_RATE), np.float32)
    for event in plan.events:
        first = event.start * SOUND_RATE
        seconds = np.arange(first, min(event.stop * SOUND_RATE, len(sound))) / SOUND_RATE
        loudness = 0.05 + 0.3 * event.compute_strength(seconds)
        sound[first : first + len(seconds)] = loudness * np.sin(2 * np.pi * PITCH_BY_COLOR[event.color] * seconds)
    return sound


def render_video(plan: VideoPlan, file: IO[bytes]) -> None:
    """Write a video of exactly `plan.duration` seconds to an open binary file."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # without it, each frame would build its own converter, which takes longest
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=FRAME_RATE, options=dict(preset="superfast", bf="0", crf="24", threads="1")
        )
        stream.width = VIDEO_WIDTH
        stream.height = VIDEO_HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, TICKS_PER_SECOND)
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono", options=dict(aac_coder="fast"))
        for i in range(math.ceil(plan.duration * FRAME_RATE)):
            image_frame = av.VideoFrame.from_image(draw_frame(plan, i / FRAME_RATE))
            frame = reformatter.reformat(image_frame, format=stream.pix_fmt)
            frame.pts = i * TICKS_PER_SECOND // FRAME_RATE
            frame.time_base = fractions.Fraction(1, TICKS_PER_SECOND)
            _mux_frame(container, stream, frame, plan)
        _mux_frame(container, stream, None, plan)
        samples = av.AudioFrame.from_ndarray(synthesize_tone(plan)[None], "fltp", "mono")
        samples.rate = SOUND_RATE
        samples.pts = 0
        container.mux([*sound.encode(samples), *sound.encode()])


def _mux_frame(
    container: "av.container.OutputContainer", stream: "av.VideoStream", frame: "av.VideoFrame | None", plan: VideoPlan
) -> None:
    """Encode and write a frame; None flushes the encoder."""
    for packet in stream.encode(frame):
        assert packet.pts is not None, "each frame has a time stamp"
        end = min(packet.pts + TICKS_PER_SECOND // FRAME_RATE, round(plan.duration * TICKS_PER_SECOND))
        packet.duration = end - packet.pts  # the encoder does not know that of the last frame
        container.mux(packet)
