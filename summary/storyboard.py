"""The storyboard: an image of the selected frames with their times, and the poster of the skim's player."""

import base64
import io
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
POSTER_SIZE = 960  # pixels, largest side
MIN_CONTRAST = 10.0  # standard deviation of the gray levels (0-255) of a frame with content
BACKGROUND_COLOR, TEXT_COLOR = (250, 250, 249), (28, 25, 23)


class Storyboard:
    """Collects frames while the skim is written.

    Args:
        video: the file.
        saliency: (T,) float.
        selected: (T,) bool; the storyboard shows the middle frames of the most salient of these seconds.
    Attributes:
        frames: second -> image.
        poster: the first of these frames with content, not black or of one color, else the one with the most contrast.
    """

    def __init__(self, video: VideoFile, saliency: np.ndarray, selected: np.ndarray) -> None:
        seconds = np.flatnonzero(selected)
        self.video = video
        self.T = len(saliency)
        self.seconds = np.sort(seconds[np.argsort(-saliency[seconds], kind="stable")[:MAX_FRAMES]])
        self.timeline: Timeline | None = None
        self.frames: dict[int, Image.Image] = {}
        self.poster: Image.Image | None = None
        self._poster_contrast = -1.0
        self.wanted: dict[int, list[int]] = {}  # number of a frame -> its seconds

    def add(self, k: int, frame: "av.VideoFrame") -> None:
        """Add the k-th frame of the video if it is shown."""
        if self.timeline is not self.video.timeline:  # at the first frame, and if decoding has corrected the timeline
            self.timeline = self.video.timeline
            self.frames = {}
            self.poster = None
            self._poster_contrast = -1.0
            self.wanted = {}
            for second, middle in zip(self.seconds, self.timeline.sample_indices(self.T)[self.seconds]):
                self.wanted.setdefault(int(middle), []).append(int(second))
        if k in self.wanted:
            image = to_upright_rgb(frame)
            contained = ImageOps.contain(image, (WIDTH, WIDTH), Image.Resampling.LANCZOS)
            self.frames |= dict.fromkeys(self.wanted[k], contained)
            self._add_to_poster(image, _contrast(contained))

    def _add_to_poster(self, image: Image.Image, contrast: float) -> None:
        """Take an image as the poster if it has more content than the previous ones."""
        if self._poster_contrast < min(contrast, MIN_CONTRAST):
            self.poster = image.copy()
            self.poster.thumbnail((POSTER_SIZE, POSTER_SIZE), Image.Resampling.LANCZOS)
            self._poster_contrast = contrast

    def poster_url(self) -> str:
        """Return the poster as a `data:` URL of a JPEG file."""
        assert self.poster is not None, "a frame of the skim is collected"
        file = io.BytesIO()
        self.poster.save(file, format="JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

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


def _contrast(image: Image.Image) -> float:
    """Standard deviation of an image's gray levels."""
    return float(np.asarray(image.convert("L"), np.float32).std())
