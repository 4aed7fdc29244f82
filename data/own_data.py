"""Reader of the format for your own data: JSON or JSON lines, see docs/data.md.

Axes: R annotators, T frames at 1 fps.
"""

import logging
import math
import os
from collections.abc import Iterator
from typing import Annotated, Any, Self

import numpy as np
import pydantic

from data.annotations import (
    DatasetReader,
    Duration,
    Importance,
    Keyframes,
    VideoId,
    VideoRecord,
    as_rows,
    is_span,
    read_entries,
    validate_entries,
)
from data.captions import pre_caption
from data.video.timeline import count_sampled_frames, sampling_times
from utils.files import parse_json, read_text
from utils.text import printable
from utils.validation import abbreviate, suggest_name

logger = logging.getLogger(__name__)

MAX_DURATION = 1_000_000  # seconds; the memory of key-frames grows with it
_LABEL_FIELDS = ("vsum_onehot", "importance", "segments")


def _to_segments(value: Any) -> list[list[list[float]]]:
    """Convert segments, or a list of segments per annotator, to the latter."""
    annotators = [value] if isinstance(value, list) and all(map(is_span, value)) else value
    for segments in annotators if isinstance(annotators, list) else [annotators]:
        for segment in segments if isinstance(segments, list) else [segments]:
            if not is_span(segment) or not 0 <= segment[0] < segment[1]:
                raise ValueError(f"found {ascii(segment)[:60]}, expected [start, end] in seconds, 0 <= start < end")
    return annotators


class _OwnRecord(pydantic.BaseModel):
    """One record of the file."""

    model_config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)

    video_id: VideoId
    duration: Annotated[Duration, pydantic.Field(le=MAX_DURATION)]
    captions: (
        Annotated[
            list[str],
            pydantic.BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
            pydantic.Field(min_length=1),
        ]
        | None
    ) = None
    vsum_onehot: Annotated[Keyframes, pydantic.BeforeValidator(as_rows)] | None = None
    importance: Annotated[Importance, pydantic.BeforeValidator(as_rows)] | None = None
    segments: Annotated[list[list[list[float]]], pydantic.BeforeValidator(_to_segments)] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, entry: Any) -> Any:
        for key in entry if isinstance(entry, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{printable(key)}: unknown key{suggest_name(key, cls.model_fields)}")
        return entry

    @pydantic.model_validator(mode="after")
    def _check_labels(self) -> Self:
        for caption in self.captions or ():
            if not pre_caption(caption, None):
                raise ValueError(f"captions: found {abbreviate(caption)}, expected words")
        given = [name for name in _LABEL_FIELDS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: found {given[0]} too, expected one of the two")
        for start, end in (segment for segments in self.segments or () for segment in segments):
            if start >= self.duration:
                raise ValueError(
                    f"segments: found [{start:g}, {end:g}], expected a start before the end of the video, "
                    f"{self.duration:g}"
                )
            if end > math.ceil(self.duration):
                raise ValueError(
                    f"segments: found [{start:g}, {end:g}], expected an end of at most {math.ceil(self.duration)} for "
                    f"duration {self.duration:g}"
                )
        self._check_length("vsum_onehot", self.vsum_onehot)
        self._check_length("importance", self.importance)
        return self

    def _check_length(self, name: str, rows: np.ndarray | None) -> None:
        """Raise a ValueError unless rows (R, T) have the T of the duration, whose rounding error is ignored."""
        expected = count_sampled_frames(self.duration)
        if rows is not None and rows.shape[1] not in (expected, math.ceil(self.duration)):
            raise ValueError(
                f"{name}: found {rows.shape[1]} values, expected {expected} for duration {self.duration:.10g}"
            )


def segments_to_keyframes(segments: list[list[list[float]]], duration: float) -> np.ndarray:
    """Select the frames that are sampled within segments.

    Args:
        segments: [start, end] in seconds, of R annotators.
        duration: of the video, in seconds.
    Returns:
        (R, T) uint8 in {0, 1}.
    """
    times = sampling_times(duration, count_sampled_frames(duration))  # (T,)
    keyframes = np.zeros((len(segments), len(times)), np.uint8)
    for row, segments_of_annotator in zip(keyframes, segments):
        for start, end in segments_of_annotator:
            row[(start <= times) & (times < end)] = 1
    return keyframes


def _read_own_entries(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON list, or one JSON object per line."""
    text = read_text(path, "annotations")
    if text.lstrip()[:1] == "[":
        return read_entries(path)
    entries = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entries[f"line {number}"] = parse_json(line)
        except ValueError as error:
            raise ValueError(
                f"{path}: line {number}: annotations: not valid JSON ({error}), expected one record per line, or a "
                "JSON list of records"
            ) from None
    if not entries:
        raise ValueError(f"{path}: annotations: found no records, expected one per line")
    return entries


def read_own_data(path: str | os.PathLike) -> Iterator[VideoRecord]:
    """Read records with the fields of `_OwnRecord`; see `DatasetReader.read`."""
    empty: list[str] = []
    for fields in validate_entries(path, _read_own_entries(path), _OwnRecord):
        keyframes = fields.vsum_onehot
        if fields.segments is not None:
            keyframes = segments_to_keyframes(fields.segments, fields.duration)
        if keyframes is not None and not keyframes.any():
            empty.append(fields.video_id)
        yield VideoRecord(
            video_id=fields.video_id,
            index=-1,
            duration=fields.duration,
            references=tuple(fields.captions or ()),
            vsum_onehot=keyframes,
            importance=fields.importance,
        )
    if empty:
        logger.warning(
            "%s: %d videos have no key-frame, the first: %s; segments select the seconds whose middle is in them",
            path,
            len(empty),
            empty[0],
        )


OWN_DATA = DatasetReader(
    read_own_data,
    file_names=("{split}.jsonl", "{split}.json"),
    missing_labels=dict(
        captions="captions: missing, expected a list of captions",
        keyframes="vsum_onehot: missing, expected vsum_onehot, importance or segments",
    ),
)
