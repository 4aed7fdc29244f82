"""The storyboard: the chosen frames with their times, as one picture."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from data.video.reader import to_upright_rgb
from utils.text import clock

MOST = 48  # frames; of more, the most salient are shown
COLUMNS, WIDTH, GAP, LABEL, FONT = 4, 320, 12, 38, 26  # pixels
PAPER, INK = (250, 250, 249), (28, 25, 23)


class Storyboard:
    """Collects frames while the skim is written.

    Args:
        video: `VideoFile`.
        saliency: (T,) float.
        chosen: (T,) bool; the most salient of these seconds are shown, each by the picture at its middle.
    """

    def __init__(self, video, saliency, chosen):
        self.video, self.T = video, len(saliency)
        seconds = np.flatnonzero(chosen)
        self.seconds = np.sort(seconds[np.argsort(-saliency[seconds], kind="stable")[:MOST]])
        self.timeline = None

    def seen(self, k, frame):
        """Take a decoded picture if it is one of those to show."""
        if self.timeline is not self.video.timeline:  # the first, or everything anew: reading corrected it
            self.timeline, self.frames, self.wanted = self.video.timeline, {}, {}
            for second, middle in zip(self.seconds, self.timeline.sample_indices(self.T)[self.seconds]):
                self.wanted.setdefault(int(middle), []).append(int(second))
        if k in self.wanted:
            image = ImageOps.contain(to_upright_rgb(frame), (WIDTH, WIDTH), Image.Resampling.LANCZOS)
            self.frames |= dict.fromkeys(self.wanted[k], image)

    def write(self, path):
        """Write the collected frames with their times as PNG."""
        font = ImageFont.load_default(size=FONT)
        columns = min(COLUMNS, len(self.frames))
        height = max(image.height for image in self.frames.values()) + LABEL
        rows = -(-len(self.frames) // columns)
        sheet = Image.new("RGB", (columns * (WIDTH + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
        pen = ImageDraw.Draw(sheet)
        for place, (second, image) in enumerate(sorted(self.frames.items())):
            x, y = GAP + place % columns * (WIDTH + GAP), GAP + place // columns * (height + GAP)
            sheet.paste(image, (x + (WIDTH - image.width) // 2, y + (height - LABEL - image.height) // 2))
            pen.text((x + 2, y + height - LABEL + 4), clock(second), INK, font)
        sheet.save(path, format="PNG")
