"""Annotated videos: `VideoRecord`, and what the readers of annotation files have in common.

Each dataset has a reader (`data/videoxum.py`, ...); `data.registry.DATASETS` lists them. Axes: R annotators, T frames
at 1 fps. The annotators' key-frames are `vsum_onehot` in files and records, `vsum_labels` in batches, and `keyframes`
in `metrics`. Files may grade frames by `importance` instead.
"""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pydantic

from data.captions import pre_caption
from utils.files import read_json, read_text
from utils.text import is_file_name
from utils.validation import abbreviate, describe_first_error

LabelKind = Literal["captions", "keyframes"]
LABEL_KINDS: tuple[LabelKind, ...] = ("captions", "keyframes")
LABELS_OF_TASK: dict[str, tuple[LabelKind, ...]] = dict(v2vt=LABEL_KINDS, v2v=("keyframes",), v2t=("captions",))

RecordModel = TypeVar("RecordModel", bound=pydantic.BaseModel)


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
        return reindex(selected)


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


def reindex(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """Number records by their position."""
    return [dataclasses.replace(record, index=index) for index, record in enumerate(records)]


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


@dataclasses.dataclass(frozen=True)
class DatasetReader:
    """The format of a dataset's annotation files.

    Attributes:
        read: path of a file -> its records in the file's order, with index -1. It raises FileNotFoundError and
            ValueError: the message names file, video and field.
        file_names: names of the file of a `{split}`, of which the first that exists is read; () if they are not known.
        missing_labels: kind of labels -> the field that is missing, and what is expected.
        title: name of a published dataset.
        repository: its id on the Hugging Face hub.
    """

    read: Callable[[str | os.PathLike], Iterator[VideoRecord]]
    file_names: tuple[str, ...] = ()
    missing_labels: Mapping[LabelKind, str] = dataclasses.field(default_factory=dict)
    title: str = ""
    repository: str = ""


def read_entries(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file with a list of records: position in the list, for messages -> entry.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is not such a list.
    """
    entries = read_json(path, "annotations")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: annotations: found {abbreviate(entries)}, expected a list of records")
    return {f"record {number}": entry for number, entry in enumerate(entries)}


def validate_entries(
    path: str | os.PathLike, entries: Mapping[str, Any], model: type[RecordModel], id_field: str = "video_id"
) -> Iterator[RecordModel]:
    """Validate the entries of a file, and that each video occurs once.

    Args:
        path: the file, for messages.
        entries: position in the file -> entry.
        model: model of an entry.
        id_field: its field with the video's id.
    Raises:
        ValueError: an entry is invalid; the message names file, video and field.
    """
    video_ids: set[str] = set()
    for position, entry in entries.items():
        try:
            fields = model.model_validate(entry)
        except pydantic.ValidationError as error:
            video_id = entry.get(id_field) if isinstance(entry, dict) else None
            if isinstance(video_id, str) and is_file_name(video_id):
                position = f"video {video_id}"
            raise ValueError(f"{path}: {position}: {describe_first_error(error)}") from None
        video_id = getattr(fields, id_field)
        if video_id in video_ids:
            raise ValueError(f"{path}: video {video_id}: {id_field}: found twice, expected once")
        video_ids.add(video_id)
        yield fields


def _require_name(video_id: str) -> str:
    if not is_file_name(video_id):
        raise ValueError(f"found {abbreviate(video_id)}, expected a name, not a path")
    return video_id


def as_rows(value: Any) -> Any:
    """Convert a flat row, of one annotator, to a list of rows; other values are returned unchanged."""
    is_flat = isinstance(value, list) and bool(value) and not any(isinstance(item, list) for item in value)
    return [value] if is_flat else value


def to_keyframes(rows: Any) -> np.ndarray:
    """Convert R rows of 0 and 1, or false and true, to (R, T) uint8."""
    labels = _to_matrix(rows)
    if labels is not None and ((labels == 0) | (labels == 1)).all():
        return labels.astype(np.uint8)
    raise _describe_bad_rows(rows, lambda value: value in (0, 1), "0 and 1, or false and true")


def to_importance(rows: Any) -> np.ndarray:
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


def is_span(value: Any) -> bool:
    """Whether a JSON value is a list of two numbers."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


# Types of the fields that the records of several datasets have.
VideoId = Annotated[str, pydantic.AfterValidator(_require_name)]
Duration = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Keyframes = Annotated[np.ndarray, pydantic.BeforeValidator(to_keyframes)]
Importance = Annotated[np.ndarray, pydantic.BeforeValidator(to_importance)]
