"""Annotation JSON -> validated `VideoRecord`s, ordered by duration."""

import dataclasses
import hashlib
import logging
import math
import pathlib

import numpy as np

from utils.files import read_json

logger = logging.getLogger(__name__)

ANNOTATORS = 10
VIDEOS = dict(train=8000, val=2001, test=4000)  # of VideoXum, as published


@dataclasses.dataclass(frozen=True)
class VideoRecord:
    """One annotated video.

    `index` is its place when the split is ordered by duration; `vsum_onehot` is (R, T) uint8 in {0, 1}; `spans` are
    the sentences' [start, end] in seconds, () where the file has none that can be read.
    """

    video_id: str
    index: int
    duration: float
    tsum: tuple[str, ...]
    vsum_onehot: np.ndarray
    spans: tuple[tuple[float, float], ...] = ()

    @property
    def num_frames(self):
        return self.vsum_onehot.shape[1]


def load_annotations(path):
    """Read an annotation file.

    Args:
        path: JSON file with a list of records; needed are `video_id`, `duration`, `tsum` and `vsum_onehot`.
    Returns:
        list of `VideoRecord`, by duration, ascending; records of like duration keep the file's order.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not such a list or a needed field is bad; the message names file, video and field.
    """
    path = pathlib.Path(path)
    entries = read_json(path, "annotations")
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else type(entries).__name__
        raise ValueError(f"{path}: annotations: found {found}, expected a list of records")
    records, strange, seen = [], [], set()
    for place, entry in enumerate(entries):
        record, remarks = _record(entry, f"{path}: record {place}", path)
        if record.video_id in seen:
            raise ValueError(f"{path}: video {record.video_id}: video_id: found twice, expected once")
        seen.add(record.video_id)
        records.append(record)
        strange += [f"video {record.video_id}: {remark}" for remark in remarks]
    if strange:
        logger.warning(
            "%s: %d strange values in fields that are not used, the first: %s", path, len(strange), strange[0]
        )
    records.sort(key=lambda record: record.duration)
    return [dataclasses.replace(record, index=index) for index, record in enumerate(records)]


def fingerprint(records):
    """Hex SHA-256 of what can be learned from records: ids, captions and labels, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((record.video_id, record.tsum, record.num_frames)).encode())
        digest.update(record.vsum_onehot.tobytes())
    return digest.hexdigest()


def _record(entry, place, path):
    """Validate one entry; returns the record (without its index) and remarks on optional fields."""
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: found {type(entry).__name__}, expected an object")
    video_id = entry.get("video_id")
    if "video_id" not in entry:
        raise ValueError(f"{place}: video_id: missing")
    if not isinstance(video_id, str) or not video_id or not video_id.isprintable():
        raise ValueError(f"{place}: video_id: found {video_id!r}, expected a name")
    if video_id in (".", "..") or any(sign in video_id for sign in "/\\"):
        raise ValueError(f"{place}: video_id: found {video_id!r}, expected a name, not a path")
    place = f"{path}: video {video_id}"
    for field in ("duration", "tsum", "vsum_onehot"):
        if field not in entry:
            raise ValueError(f"{place}: {field}: missing")
    duration, tsum = entry["duration"], entry["tsum"]
    if not is_number(duration) or duration <= 0:
        raise ValueError(f"{place}: duration: found {_brief(duration)}, expected seconds, more than 0")
    if not isinstance(tsum, list) or not tsum or not all(map(is_text, tsum)):
        raise ValueError(f"{place}: tsum: found {_brief(tsum)}, expected a list of sentences")
    onehot = _onehot(entry["vsum_onehot"], place)
    remarks = _remarks(entry, onehot.shape[1])
    spans = entry.get("timestamps") or ()
    spans = () if any(remark.startswith("timestamps") for remark in remarks) else tuple(map(tuple, spans))
    return VideoRecord(video_id, -1, float(duration), tuple(tsum), onehot, spans), remarks


def _onehot(rows, place):
    """Validate ten rows of 0 and 1 and return them as (R, T) uint8."""
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{place}: vsum_onehot: found {_brief(rows)}, expected {ANNOTATORS} rows")
    if len(rows) != ANNOTATORS:
        raise ValueError(f"{place}: vsum_onehot: found {len(rows)} rows, expected {ANNOTATORS}")
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise ValueError(
            f"{place}: vsum_onehot: found rows of {lengths[0]} to {lengths[-1]} frames, expected one length"
        )
    if lengths == [0]:
        raise ValueError(f"{place}: vsum_onehot: found no frames, expected at least 1")
    values = {value for row in rows for value in row if not isinstance(value, (list, dict))}
    nested = any(isinstance(value, (list, dict)) for row in rows for value in row)
    if nested or not values <= {0, 1}:
        wrong = "a nested list" if nested else repr(next(iter(values - {0, 1})))
        raise ValueError(f"{place}: vsum_onehot: found {wrong}, expected 0 and 1, or false and true")
    return np.array(rows, dtype=np.uint8)  # (R, T)


def _remarks(entry, frames):
    """Say what is strange about the fields that nothing here computes with."""
    remarks = []
    sampled = entry.get("sampled_frames", frames)
    if sampled != frames:
        remarks.append(f"sampled_frames: found {_brief(sampled)}, expected {frames} as in vsum_onehot")
    spans = entry.get("timestamps")
    if spans is not None and not (
        isinstance(spans, list)
        and len(spans) == len(entry["tsum"])
        and all(isinstance(span, list) and len(span) == 2 and all(map(is_number, span)) for span in spans)
    ):
        remarks.append(
            f"timestamps: found {_brief(spans)}, expected [start, end] for each of {len(entry['tsum'])} sentences"
        )
    vsum = entry.get("vsum")
    if vsum is not None and not (isinstance(vsum, list) and len(vsum) == len(entry["tsum"])):
        remarks.append(f"vsum: found {_brief(vsum)}, expected one entry for each of {len(entry['tsum'])} segments")
    return remarks


def is_number(value):
    """Tell whether a JSON value is a finite number that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_text(value):
    """Tell whether a JSON value is text that UTF-8 can hold (JSON can also write half a surrogate pair)."""
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _brief(value):
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return repr(value)[:60]
