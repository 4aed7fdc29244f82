"""Parts of a long video that the model is run on one after another."""

import dataclasses
import itertools
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class VideoPart:
    """A part of a video.

    Attributes:
        start, end: in seconds.
        caption: caption of the part; None for the task v2v.
    """

    start: float
    end: float
    caption: str | None


def check_chunk(chunk: int | None) -> None:
    """Raise a ValueError unless it is None or a positive number of seconds."""
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk: found {chunk!r}, expected whole seconds, at least 1")


def split_seconds(T: int, chunk: int | None) -> list[tuple[int, int]]:
    """Split T seconds into as few parts as possible, of nearly equal length.

    Args:
        T: number of seconds.
        chunk: maximum length of a part in seconds; None is one part.
    Returns:
        (first, last + 1) of each part; lengths differ by at most 1.
    """
    count = 1 if chunk is None else -(-T // chunk)
    edges = [i * T // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def join_captions(captions: Sequence[str | None]) -> str | None:
    """Join the captions of parts, each as a sentence of its own; None if there are none."""
    texts = [caption.strip() for caption in captions if caption is not None]
    if len(texts) < 2:
        return captions[0]
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts if text)
