"""Reader of VideoXum's annotation files.

Axes: R annotators, T frames at 1 fps.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

import pydantic

from data.annotations import (
    DatasetReader,
    Duration,
    Importance,
    Keyframes,
    VideoId,
    VideoRecord,
    is_span,
    read_entries,
    validate_entries,
)
from utils.validation import abbreviate

logger = logging.getLogger(__name__)

# As published.
NUM_ANNOTATORS = 10
NUM_VIDEOS = dict(train=8000, val=2001, test=4000)


def read_videoxum(path: str | os.PathLike) -> Iterator[VideoRecord]:
    """Read a JSON list of records with the fields of `_Record`; see `DatasetReader.read`.

    Unexpected values of optional fields are one warning for the file.
    """
    warnings: list[str] = []
    annotators: dict[str, int] = {}  # video id -> R
    entries = read_entries(path)
    for fields in validate_entries(path, entries, _Record):
        problems = fields.optional_field_problems()
        warnings += [f"video {fields.video_id}: {field}: {problem}" for field, problem in problems.items()]
        has_spans = fields.tsum is not None and "timestamps" not in problems
        record = VideoRecord(
            video_id=fields.video_id,
            index=-1,
            duration=fields.duration,
            tsum=tuple(fields.tsum or ()),
            references=tuple(fields.references or ()),
            vsum_onehot=fields.vsum_onehot,
            importance=fields.importance,
            spans=tuple(map(tuple, fields.timestamps or ())) if has_spans else (),
        )
        if record.labels is not None:
            annotators[record.video_id] = len(record.labels)
        yield record
    if warnings:
        logger.warning("%s: %d unexpected values in optional fields, the first: %s", path, len(warnings), warnings[0])
    if len(entries) in NUM_VIDEOS.values():  # a complete split, no excerpt in VideoXum's format
        _warn_of_other_annotators(path, annotators)


def _warn_of_other_annotators(path: str | os.PathLike, annotators: Mapping[str, int]) -> None:
    """Log a warning if videos of a complete split do not have the published number of annotators."""
    others = [video_id for video_id, count in annotators.items() if count != NUM_ANNOTATORS]
    if others:
        logger.warning(
            "%s: %d of %d videos do not have VideoXum's %d annotators; video %s has %d",
            path,
            len(others),
            len(annotators),
            NUM_ANNOTATORS,
            others[0],
            annotators[others[0]],
        )


class _Record(pydantic.BaseModel):
    """One record of the file."""

    model_config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)

    video_id: VideoId
    duration: Duration
    tsum: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    references: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    vsum_onehot: Keyframes | None = None
    importance: Importance | None = None
    # Optional: unexpected values are reported, not refused.
    sampled_frames: Any = None
    timestamps: Any = None
    vsum: Any = None

    @pydantic.model_validator(mode="after")
    def _require_one_kind_of_labels(self) -> Self:
        if self.vsum_onehot is not None and self.importance is not None:
            raise ValueError("importance: found vsum_onehot too, expected one of the two")
        return self

    def optional_field_problems(self) -> dict[str, str]:
        """Describe unexpected values of the last three fields: field -> found and expected."""
        problems: dict[str, str] = {}
        field, labels = (
            ("vsum_onehot", self.vsum_onehot) if self.importance is None else ("importance", self.importance)
        )
        if labels is not None and self.sampled_frames not in (None, labels.shape[1]):
            problems["sampled_frames"] = (
                f"found {abbreviate(self.sampled_frames)}, expected {labels.shape[1]} as in {field}"
            )
        if self.tsum is None:
            return problems
        segments = len(self.tsum)
        if self.timestamps is not None and not (
            _has_length(self.timestamps, segments) and all(map(is_span, self.timestamps))
        ):
            problems["timestamps"] = (
                f"found {abbreviate(self.timestamps)}, expected [start, end] for each of {segments} sentences"
            )
        if self.vsum is not None and not _has_length(self.vsum, segments):
            problems["vsum"] = f"found {abbreviate(self.vsum)}, expected one entry for each of {segments} segments"
        return problems


def _has_length(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


VIDEOXUM = DatasetReader(
    read_videoxum,
    file_names=("{split}_videoxum.json",),
    missing_labels=dict(
        captions="tsum: missing, expected one sentence per segment, or references (whole captions)",
        keyframes="vsum_onehot: missing, expected a row of 0 and 1 per annotator, or importance (rows from 0 to 1)",
    ),
    title="VideoXum",
    repository="jylins/videoxum",
)
