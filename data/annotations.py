"""Annotation JSON -> validated `VideoRecord`s, ordered by duration.

Axes: R annotators, T frames at 1 fps. The annotators' key-frames are `vsum_onehot` in files and records, `vsum_labels`
in batches, and `keyframes` in `metrics`.
"""

import contextlib
import dataclasses
import gc
import hashlib
import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pydantic

from utils.files import read_json
from utils.text import is_file_name
from utils.validation import abbreviate, describe_first_error

logger = logging.getLogger(__name__)

NUM_ANNOTATORS = 10
NUM_VIDEOS = dict(train=8000, val=2001, test=4000)  # of VideoXum, as published


@dataclasses.dataclass(frozen=True)
class VideoRecord:
    """One annotated video.

    Attributes:
        video_id: its name, and that of its files.
        index: position in the split, ordered by duration.
        duration: seconds.
        tsum: one sentence per segment.
        vsum_onehot: (R, T) uint8 in {0, 1}, the annotators' key-frames.
        spans: (start, end) in seconds of each sentence; () if the file has no valid ones.
    """

    video_id: str
    index: int
    duration: float
    tsum: tuple[str, ...]
    vsum_onehot: np.ndarray
    spans: tuple[tuple[float, float], ...] = ()

    @property
    def num_frames(self) -> int:
        """T."""
        return self.vsum_onehot.shape[1]


def annotation_path(ann_root: str | os.PathLike, split: str) -> pathlib.Path:
    """Path of a split's annotation file in the folder of annotations."""
    return pathlib.Path(ann_root, f"{split}_videoxum.json")


@contextlib.contextmanager
def _paused_gc() -> Iterator[None]:
    """Disable garbage collection within the block: scanning the growing list of records doubles the loading time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_paused_gc()
def load_annotations(path: str | os.PathLike) -> list[VideoRecord]:
    """Read an annotation file.

    Args:
        path: JSON file with a list of records; `video_id`, `duration`, `tsum` and `vsum_onehot` are required.
    Returns:
        records by duration, ascending; records of equal duration keep the file's order.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not such a list or a needed field is bad; the message names file, video and field.
    """
    entries = read_json(path, "annotations")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: annotations: found {abbreviate(entries)}, expected a list of records")
    records: dict[str, VideoRecord] = {}
    warnings: list[str] = []
    for number, entry in enumerate(entries):
        try:
            fields = _Record.model_validate(entry)
        except pydantic.ValidationError as error:
            raise ValueError(f"{path}: {_name(entry, number)}: {describe_first_error(error)}") from None
        if fields.video_id in records:
            raise ValueError(f"{path}: video {fields.video_id}: video_id: found twice, expected once")
        problems = fields.optional_field_problems()
        warnings += [f"video {fields.video_id}: {field}: {problem}" for field, problem in problems.items()]
        spans = () if "timestamps" in problems else tuple(map(tuple, fields.timestamps or ()))
        records[fields.video_id] = VideoRecord(
            fields.video_id, -1, fields.duration, tuple(fields.tsum), fields.vsum_onehot, spans
        )
    if warnings:
        logger.warning("%s: %d unexpected values in optional fields, the first: %s", path, len(warnings), warnings[0])
    ordered = sorted(records.values(), key=lambda record: record.duration)
    return [dataclasses.replace(record, index=index) for index, record in enumerate(ordered)]


def fingerprint(records: list[VideoRecord]) -> str:
    """Hex SHA-256 of ids, captions and labels of records, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((record.video_id, record.tsum, record.num_frames)).encode())
        digest.update(record.vsum_onehot.tobytes())
    return digest.hexdigest()


def _name(entry: Any, number: int) -> str:
    video_id = entry.get("video_id") if isinstance(entry, dict) else None
    return f"video {video_id}" if isinstance(video_id, str) and is_file_name(video_id) else f"record {number}"


def _require_name(video_id: str) -> str:
    if not is_file_name(video_id):
        raise ValueError(f"found {abbreviate(video_id)}, expected a name, not a path")
    return video_id


def _to_labels(rows: Any) -> np.ndarray:
    """Convert R rows of 0 and 1, or false and true, to (R, T) uint8."""
    try:
        labels = np.array(rows)
        is_matrix = labels.ndim == 2 and len(labels) == NUM_ANNOTATORS and labels.size > 0
        if is_matrix and labels.dtype.kind in "bif" and ((labels == 0) | (labels == 1)).all():
            return labels.astype(np.uint8)
    except ValueError:  # rows of different lengths
        pass
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"found {abbreviate(rows)}, expected {NUM_ANNOTATORS} rows")
    for value in (value for row in rows for value in row):
        if not isinstance(value, (int, float)) or value not in (0, 1):
            raise ValueError(f"found {abbreviate(value)}, expected 0 and 1, or false and true")
    lengths = sorted(map(len, rows)) or [0]
    shape = f"{len(rows)} rows of {lengths[0]} to {lengths[-1]} frames"
    raise ValueError(f"found {shape}, expected {NUM_ANNOTATORS} rows of the same length, at least 1 frame")


class _Record(pydantic.BaseModel):
    """One record of the file."""

    model_config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)

    video_id: Annotated[str, pydantic.AfterValidator(_require_name)]
    duration: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    tsum: Annotated[list[str], pydantic.Field(min_length=1)]
    vsum_onehot: Annotated[np.ndarray, pydantic.BeforeValidator(_to_labels)]
    # Optional: unexpected values are reported, not refused.
    sampled_frames: Any = None
    timestamps: Any = None
    vsum: Any = None

    def optional_field_problems(self) -> dict[str, str]:
        """Describe unexpected values of the last three fields: field -> found and expected."""
        frames, segments = self.vsum_onehot.shape[1], len(self.tsum)
        problems: dict[str, str] = {}
        if self.sampled_frames not in (None, frames):
            problems["sampled_frames"] = f"found {abbreviate(self.sampled_frames)}, expected {frames} as in vsum_onehot"
        if self.timestamps is not None and not (
            _has_length(self.timestamps, segments) and all(map(_is_span, self.timestamps))
        ):
            problems["timestamps"] = (
                f"found {abbreviate(self.timestamps)}, expected [start, end] for each of {segments} sentences"
            )
        if self.vsum is not None and not _has_length(self.vsum, segments):
            problems["vsum"] = f"found {abbreviate(self.vsum)}, expected one entry for each of {segments} segments"
        return problems


def _has_length(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _is_span(value: Any) -> bool:
    return _has_length(value, 2) and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
