"""Text for terminals, logs, pages and file names."""

import os
import re

_TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def format_time(second: float) -> str:
    """Write a time as m:ss or h:mm:ss."""
    minutes, seconds = divmod(int(second), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def select_tick_step(seconds: float, max_intervals: int) -> float:
    """Return the smallest round step, in seconds, that divides a time axis into at most `max_intervals` intervals."""
    steps = (step for step in _TICK_STEPS if seconds / step <= max_intervals)
    return next(steps, seconds / max_intervals)


def printable(text: str) -> str:
    """Escape control characters, which a terminal or a log viewer may interpret."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_path(path: str | os.PathLike) -> str:
    """Convert a path to printable text: bytes that are not UTF-8 and control characters become �."""
    text = os.fsencode(path).decode("utf-8", errors="replace")
    return "".join(char if char.isprintable() else "�" for char in text)


def is_file_name(text: str) -> bool:
    """Whether text can be part of a file name: printable, not empty, at most 200 characters, not a path."""
    return text.isprintable() and 0 < len(text) <= 200 and text not in (".", "..") and not set(text) & set("/\\")


def split_sentences(text: str) -> list[str]:
    """Split a text after `.`, `!` and `?` that a space follows; a text without them is one sentence."""
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]
