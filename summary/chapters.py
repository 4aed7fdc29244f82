"""Chapters of a video at its selected segments, as the descriptions of videos on video sites list them."""

from collections.abc import Sequence

from utils.text import format_time

MIN_CHAPTER_SECONDS = 10  # of YouTube


def list_chapters(segments: Sequence[tuple[float, float]], duration: float) -> list[tuple[int, str]]:
    """List chapters: (start in seconds, title).

    The first starts at 0, and each is at least ten seconds long: a segment that starts too early after the previous
    chapter, or too late before the end of the video, is merged into the previous chapter. The first chapter is a
    highlight only if a segment starts with the video.

    Args:
        segments: selected segments (start, end) in seconds, ascending.
        duration: of the video in seconds.
    """
    starts = [0]
    for start, _ in segments:
        second = int(start)
        if second - starts[-1] >= MIN_CHAPTER_SECONDS and duration - second >= MIN_CHAPTER_SECONDS:
            starts.append(second)
    first = int(segments[0][0])
    titles = [f"Highlight {number}" for number in range(1, len(starts) + 1)]
    if first in starts[1:]:
        titles = ["Start", *titles[:-1]]
    elif first > 0:  # merged into the first chapter
        titles[0] = "Start and highlight 1"
    return list(zip(starts, titles))


def render_chapters(segments: Sequence[tuple[float, float]], duration: float) -> str:
    """Return the content of `chapters.txt`: a line `m:ss title` or `h:mm:ss title` per chapter."""
    return "".join(f"{format_time(second)} {title}\n" for second, title in list_chapters(segments, duration))
