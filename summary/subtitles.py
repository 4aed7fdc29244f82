"""Subtitles of a skim: the sentences of the caption, in SubRip's format (.srt)."""

from collections.abc import Iterator
from typing import Any

from summary.selection import seconds_before
from utils.text import split_sentences


def render_subtitles(summary: dict[str, Any]) -> str:
    """Write the caption's sentences over the skim.

    Args:
        summary: content of `summary.json`.
    Returns:
        Content of the .srt file; empty without a caption. The sentences of each part of the video share the time of
        its selected seconds in proportion to their lengths.
    """
    cues = [cue for part in summary["parts"] for cue in _part_cues(part, summary["segments"])]
    return "\n".join(
        f"{number}\n{_format_milliseconds(start)} --> {_format_milliseconds(end)}\n{sentence}\n"
        for number, (start, end, sentence) in enumerate(cues, 1)
    )


def _part_cues(part: dict[str, Any], segments: list[tuple[float, float]]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, sentence) for a part, in milliseconds of the skim."""
    sentences = split_sentences(" ".join((part["caption"] or "").split()))
    first, last = (1000 * seconds_before(segments, part[edge]) for edge in ("start", "end"))
    total, position = sum(map(len, sentences)), 0
    for sentence in sentences:
        start = round(first + (last - first) * position / total)
        position += len(sentence)
        end = round(first + (last - first) * position / total)
        if start < end:  # otherwise no second of the part is selected
            yield start, end, sentence


def _format_milliseconds(milliseconds: int) -> str:
    minutes, milliseconds = divmod(milliseconds, 60000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"
