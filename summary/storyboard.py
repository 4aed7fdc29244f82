"""The storyboard: an image of the selected frames with their times."""

import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from data.video.reader import VideoFile, to_upright_rgb
from data.video.timeline import Timeline
from utils.text import format_time

if TYPE_CHECKING:
    import av

MAX_FRAMES = 48  # if more frames are selected, the most salient are shown
COLUMNS, WIDTH, GAP, LABEL, FONT = 4, 320, 12, 38, 26  # pixels
BACKGROUND_COLOR, TEXT_COLOR = (250, 250, 249), (28, 25, 23)


class Storyboard:
    """Collects frames while the skim is written.

    Args:
        video: the file.
        saliency: (T,) float.
        selected: (T,) bool; the storyboard shows the middle frames of the most salient of these seconds.
    Attributes:
        frames: second -> image.
    """

    def __init__(self, video: VideoFile, saliency: np.ndarray, selected: np.ndarray) -> None:
        seconds = np.flatnonzero(selected)
        self.video = video
        self.T = len(saliency)
        self.seconds = np.sort(seconds[np.argsort(-saliency[seconds], kind="stable")[:MAX_FRAMES]])
        self.timeline: Timeline | None = None
        self.frames: dict[int, Image.Image] = {}
        self.wanted: dict[int, list[int]] = {}  # number of a frame -> its seconds

    def add(self, k: int, frame: "av.VideoFrame") -> None:
        """Add the k-th frame of the video if it is shown."""
        if self.timeline is not self.video.timeline:  # at the first frame, and if decoding has corrected the timeline
            self.timeline = self.video.timeline
            self.frames = {}
            self.wanted = {}
            for second, middle in zip(self.seconds, self.timeline.sample_indices(self.T)[self.seconds]):
                self.wanted.setdefault(int(middle), []).append(int(second))
        if k in self.wanted:
            image = ImageOps.contain(to_upright_rgb(frame), (WIDTH, WIDTH), Image.Resampling.LANCZOS)
            self.frames |= dict.fromkeys(self.wanted[k], image)

    def write(self, path: str | os.PathLike) -> None:
        """Write the collected frames with their times as PNG."""
        font = ImageFont.load_default(size=FONT)
        columns = min(COLUMNS, len(self.frames))
        height = max(image.height for image in self.frames.values()) + LABEL
        rows = -(-len(self.frames) // columns)
        sheet = Image.new("RGB", (columns * (WIDTH + GAP) + GAP, rows * (height + GAP) + GAP), BACKGROUND_COLOR)
        pen = ImageDraw.Draw(sheet)
        for i, (second, image) in enumerate(sorted(self.frames.items())):
            x, y = GAP + i % columns * (WIDTH + GAP), GAP + i // columns * (height + GAP)
            sheet.paste(image, (x + (WIDTH - image.width) // 2, y + (height - LABEL - image.height) // 2))
            pen.text((x + 2, y + height - LABEL + 4), format_time(second), TEXT_COLOR, font)
        sheet.save(path, format="PNG")
