"""Annotation JSON -> validated `VideoRecord`s, ordered by duration.

Axes: R annotators, T frames at 1 fps. The annotators' key-frames are `vsum_onehot` in files and records, `vsum_labels`
in batches, and `keyframes` in `metrics`. Files may grade frames by `importance` instead.
"""

import contextlib
import dataclasses
import gc
import hashlib
import logging
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic

from data.captions import pre_caption
from utils.files import read_json, read_text
from utils.text import is_file_name
from utils.validation import abbreviate, describe_first_error

logger = logging.getLogger(__name__)

# Of VideoXum, as published.
NUM_ANNOTATORS = 10
NUM_VIDEOS = dict(train=8000, val=2001, test=4000)

LabelKind = Literal["captions", "keyframes"]
LABEL_KINDS: tuple[LabelKind, ...] = ("captions", "keyframes")
LABELS_OF_TASK: dict[str, tuple[LabelKind, ...]] = dict(v2vt=LABEL_KINDS, v2v=("keyframes",), v2t=("captions",))
# Kind of labels -> the field that is missing, and what is expected.
_MISSING_LABELS: dict[LabelKind, str] = dict(
    captions="tsum: missing, expected one sentence per segment, or references (whole captions)",
    keyframes="vsum_onehot: missing, expected a row of 0 and 1 per annotator, or importance (rows from 0 to 1)",
)


@dataclasses.dataclass(frozen=True)
class VideoRecord:
    """One annotated video.

    Attributes:
        video_id: its name, and that of its files.
        index: position in the split, ordered by duration.
        duration: seconds.
        tsum: one sentence per segment; () if the file has none.
        references: whole reference captions, as in the file; () if it has none.
        vsum_onehot: (R, T) uint8 in {0, 1}, the annotators' key-frames; None if the file has none.
        importance: (R, T) float32 in [0, 1], the annotators' grades, in place of `vsum_onehot`.
        spans: (start, end) in seconds of each sentence; () if the file has no valid ones.
    """

    video_id: str
    index: int
    duration: float
    tsum: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    vsum_onehot: np.ndarray | None = None
    importance: np.ndarray | None = None
    spans: tuple[tuple[float, float], ...] = ()

    @property
    def labels(self) -> np.ndarray | None:
        """(R, T), key-frames or importance; None without both."""
        return self.vsum_onehot if self.importance is None else self.importance

    @property
    def num_frames(self) -> int | None:
        """T; None if frames are not annotated."""
        return None if self.labels is None else self.labels.shape[1]

    @property
    def reference_texts(self) -> tuple[str, ...]:
        """Reference captions before cleaning; () without captions.

        Those of `references`, else one: the sentences of `tsum` joined without a space (QUIRK-6), so that a sentence
        that does not end in a mark that `pre_caption` removes runs into the next.
        """
        return self.references or (("".join(self.tsum),) if self.tsum else ())

    def captions(self, max_words: int | None = None) -> list[str]:
        """Cleaned reference captions, the first of which is the training caption; see `data.captions.pre_caption`."""
        return [pre_caption(text, max_words) for text in self.reference_texts]

    def has_labels(self, kind: LabelKind) -> bool:
        """Whether the video has captions, or annotated frames."""
        return bool(self.reference_texts) if kind == "captions" else self.labels is not None


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


class MissingLabels(ValueError):
    """A video lacks labels that are needed."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """Videos to restrict a dataset to.

    Attributes:
        path: file of the ids.
        video_ids: ids, of any splits.
    """

    path: str
    video_ids: frozenset[str]

    @property
    def name(self) -> str:
        """File name without extension."""
        return pathlib.Path(self.path).stem

    def select(self, records: Sequence[VideoRecord], source: str | os.PathLike) -> list[VideoRecord]:
        """Return the records of the subset, with new indices.

        Raises:
            ValueError: there are none; the message names the file and `source`, that of the records.
        """
        selected = [record for record in records if record.video_id in self.video_ids]
        if not selected:
            raise ValueError(f"{self.path}: subset: found none of the {len(records)} videos of {source}")
        return _reindex(selected)


def read_subset(path: str | os.PathLike) -> Subset:
    """Read a file of video ids, one per line; empty lines are ignored.

    Raises:
        FileNotFoundError, ValueError: no such file, or a line is not an id.
    """
    lines = [line.strip() for line in read_text(path, "subset").splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not is_file_name(line):
            raise ValueError(f"{path}: subset: line {number}: found {abbreviate(line)}, expected a video's id")
    return Subset(str(path), frozenset(filter(None, lines)))


def hash_video_ids(records: Sequence[VideoRecord]) -> str:
    """Hex SHA-256 of the ids of records, independent of their order."""
    return hashlib.sha256("\n".join(sorted(record.video_id for record in records)).encode()).hexdigest()


def _reindex(records: list[VideoRecord]) -> list[VideoRecord]:
    return [dataclasses.replace(record, index=index) for index, record in enumerate(records)]


@_paused_gc()
def load_annotations(
    path: str | os.PathLike, *, needs: Collection[LabelKind] = LABEL_KINDS, subset: Subset | None = None
) -> list[VideoRecord]:
    """Read an annotation file.

    Args:
        path: JSON file with a list of records with `video_id` and `duration`; captions are `tsum` or `references`,
            key-frames `vsum_onehot` or `importance`.
        needs: labels that every record must have.
        subset: keep these videos only; None keeps all.
    Returns:
        records by duration, ascending; records of equal duration keep the file's order.
    Raises:
        FileNotFoundError: no such file.
        MissingLabels: a video lacks labels that are needed.
        ValueError: the file is not such a list, a field is bad or missing, or no video is left; the message names file,
            video and field.
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
        has_spans = fields.tsum is not None and "timestamps" not in problems
        spans = tuple(map(tuple, fields.timestamps or ())) if has_spans else ()
        record = records[fields.video_id] = VideoRecord(
            video_id=fields.video_id,
            index=-1,
            duration=fields.duration,
            tsum=tuple(fields.tsum or ()),
            references=tuple(fields.references or ()),
            vsum_onehot=fields.vsum_onehot,
            importance=fields.importance,
            spans=spans,
        )
        _require_labels(record, needs, path)
    if warnings:
        logger.warning("%s: %d unexpected values in optional fields, the first: %s", path, len(warnings), warnings[0])
    ordered = _reindex(sorted(records.values(), key=lambda record: record.duration))
    _warn_of_other_annotators(ordered, path)
    return ordered if subset is None else subset.select(ordered, path)


def _require_labels(record: VideoRecord, needs: Collection[LabelKind], path: str | os.PathLike) -> None:
    for kind in needs:
        if not record.has_labels(kind):
            raise MissingLabels(f"{path}: video {record.video_id}: {_MISSING_LABELS[kind]}")


def _warn_of_other_annotators(records: list[VideoRecord], path: str | os.PathLike) -> None:
    """Log a warning if a file of VideoXum's size does not have VideoXum's annotators."""
    counts = {record.video_id: len(record.labels) for record in records if record.labels is not None}
    others = [video_id for video_id, count in counts.items() if count != NUM_ANNOTATORS]
    if others and len(records) in NUM_VIDEOS.values():
        logger.warning(
            "%s: %d of %d videos do not have VideoXum's %d annotators; video %s has %d",
            path,
            len(others),
            len(records),
            NUM_ANNOTATORS,
            others[0],
            counts[others[0]],
        )


def fingerprint(records: list[VideoRecord]) -> str:
    """Hex SHA-256 of ids, captions and labels of records, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((record.video_id, record.tsum, record.num_frames)).encode())
        if record.references:
            digest.update(repr(record.references).encode())
        if record.labels is not None:
            digest.update(record.labels.tobytes())
    return digest.hexdigest()


def _name(entry: Any, number: int) -> str:
    video_id = entry.get("video_id") if isinstance(entry, dict) else None
    return f"video {video_id}" if isinstance(video_id, str) and is_file_name(video_id) else f"record {number}"


def _require_name(video_id: str) -> str:
    if not is_file_name(video_id):
        raise ValueError(f"found {abbreviate(video_id)}, expected a name, not a path")
    return video_id


def _to_keyframes(rows: Any) -> np.ndarray:
    """Convert R rows of 0 and 1, or false and true, to (R, T) uint8."""
    labels = _to_matrix(rows)
    if labels is not None and ((labels == 0) | (labels == 1)).all():
        return labels.astype(np.uint8)
    raise _describe_bad_rows(rows, lambda value: value in (0, 1), "0 and 1, or false and true")


def _to_importance(rows: Any) -> np.ndarray:
    """Convert R rows of numbers in [0, 1] to (R, T) float32."""
    importance = _to_matrix(rows)
    if importance is not None and ((importance >= 0) & (importance <= 1)).all():
        return importance.astype(np.float32)
    raise _describe_bad_rows(rows, lambda value: 0 <= value <= 1, "numbers from 0 to 1")


def _to_matrix(rows: Any) -> np.ndarray | None:
    """Convert R rows of T numbers to an array; None if they are something else."""
    try:
        matrix = np.array(rows)
    except ValueError:  # rows of different lengths
        return None
    return matrix if matrix.ndim == 2 and matrix.size > 0 and matrix.dtype.kind in "bif" else None


def _describe_bad_rows(rows: Any, is_valid: Callable[[float], bool], expected: str) -> ValueError:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return ValueError(f"found {abbreviate(rows)}, expected one row per annotator")
    for value in (value for row in rows for value in row):
        if not isinstance(value, (int, float)) or not is_valid(value):
            return ValueError(f"found {abbreviate(value)}, expected {expected}")
    lengths = sorted(map(len, rows)) or [0]
    shape = f"{len(rows)} rows of {lengths[0]} to {lengths[-1]} frames"
    return ValueError(f"found {shape}, expected one row per annotator, of the same length, at least 1 frame")


class _Record(pydantic.BaseModel):
    """One record of the file."""

    model_config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)

    video_id: Annotated[str, pydantic.AfterValidator(_require_name)]
    duration: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    tsum: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    references: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    vsum_onehot: Annotated[np.ndarray, pydantic.BeforeValidator(_to_keyframes)] | None = None
    importance: Annotated[np.ndarray, pydantic.BeforeValidator(_to_importance)] | None = None
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
