"""Files of a split's predictions: `predictions_{split}.jsonl`, and captions and references in COCO's format."""

import collections
import json
import logging
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
import pydantic

from data.annotations import VideoRecord
from utils.files import atomic_write, parse_json, read_text
from utils.validation import abbreviate, describe_first_error, suggest_name

logger = logging.getLogger(__name__)

# Fields that every line of a file has, null if they are not predicted; others are only written if they are.
_CORE_FIELDS = ("video_id", "caption", "saliency", "vt_clip_score")


def _require_printable(video_id: str) -> str:
    if not video_id or not video_id.isprintable():
        raise ValueError(f"found {abbreviate(video_id)}, expected a name")
    return video_id


def _require_interval(segment: list[float]) -> list[float]:
    if len(segment) != 2 or segment[1] < segment[0]:
        raise ValueError(f"found {segment[:3]}, expected [start, end] in seconds")
    return segment


Second = Annotated[float, pydantic.Field(ge=0)]
Cosine = Annotated[float, pydantic.Field(ge=-1.001, le=1.001)]  # with a tolerance for rounding


class Prediction(pydantic.BaseModel):
    """Prediction for one video; parts that are not predicted are None.

    A visual summary is `saliency`, or a set of frames: `keyframes`, `segments`, or both.

    Attributes:
        video_id: id of the video.
        caption: without the prompt.
        saliency: one number per frame at 1 fps, on any monotone scale; logits of VTSUM-BLIP.
        keyframes: selected seconds.
        segments: selected [start, end] in seconds.
        vt_clip_score: VT-CLIPScore of caption and selected frames.
        f_clip: F_CLIP of the selected frames.
        cross_f_clip: Cross-F_CLIP of caption and selected frames.
        cut_from: number of annotated frames, if the video was cut to fewer VT-CLIP features.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="allow")

    video_id: Annotated[str, pydantic.AfterValidator(_require_printable)]
    caption: str | None = None
    saliency: Annotated[list[float], pydantic.Field(min_length=1)] | None = None
    keyframes: list[Second] | None = None
    segments: list[Annotated[list[Second], pydantic.AfterValidator(_require_interval)]] | None = None
    vt_clip_score: Cosine | None = None
    f_clip: Cosine | None = None
    cross_f_clip: Cosine | None = None
    cut_from: int | None = None

    @pydantic.model_validator(mode="after")
    def _require_one_visual_summary(self) -> Self:
        if self.saliency is not None and self.has_selection:
            name = "segments" if self.keyframes is None else "keyframes"
            raise ValueError(f"{name}: found saliency too, expected one of the two")
        return self

    @property
    def has_selection(self) -> bool:
        """Whether the visual summary is a set of frames."""
        return self.keyframes is not None or self.segments is not None

    def select_frames(self, T: int) -> tuple[np.ndarray, bool]:
        """Convert `keyframes` and `segments` to frames.

        A second belongs to the frame of its integer part; a segment selects the frames that it overlaps, at least one.

        Args:
            T: number of frames of the video.
        Returns:
            (T,) bool, and whether seconds after the end of the video are dropped.
        """
        selected = np.zeros(T, bool)
        spans = [(math.floor(second), math.floor(second) + 1) for second in self.keyframes or ()]
        spans += [(math.floor(start), max(math.floor(start) + 1, math.ceil(end))) for start, end in self.segments or ()]
        for first, stop in spans:
            selected[first:stop] = True
        return selected, any(stop > T for _, stop in spans)

    def to_dict(self) -> dict[str, Any]:
        """Return a line of the file."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if name in _CORE_FIELDS or value is not None}


def read_predictions(path: str | os.PathLike) -> list[Prediction]:
    """Read a `predictions_{split}.jsonl`; unknown fields are ignored with a warning.

    Raises:
        FileNotFoundError, ValueError: the message names file, line, video, field, found and expected.
    """
    lines = read_text(path, "predictions").split("\n")
    predictions = [_parse(line, f"{path}: line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    unknown = collections.Counter(name for prediction in predictions for name in prediction.model_extra or ())
    for name, count in unknown.items():
        suggestion = suggest_name(name, Prediction.model_fields)
        logger.warning("%s: %s: unknown field, ignored in %d lines%s", path, abbreviate(name), count, suggestion)
    return predictions


def _parse(line: str, source: str) -> Prediction:
    entry, source = parse_video_line(line, source)
    try:
        return Prediction.model_validate(entry)
    except pydantic.ValidationError as error:
        raise ValueError(f"{source}: {describe_first_error(error)}") from None


def parse_video_line(line: str, source: str) -> tuple[Any, str]:
    """Parse the JSON line of a video.

    Args:
        line: the text.
        source: file and line, for messages.
    Returns:
        the JSON value, and the source with the video's id, if it has a printable one.
    Raises:
        ValueError: it is not JSON.
    """
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON ({error})") from None
    video_id = entry.get("video_id") if isinstance(entry, dict) else None
    is_named = isinstance(video_id, str) and video_id and video_id.isprintable()
    return entry, f"{source}: video {video_id}" if is_named else source


def write_prediction_lines(path: str | os.PathLike, predictions: Sequence[Prediction]) -> None:
    """Write predictions, one JSON object per line."""
    with atomic_write(path) as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.to_dict(), allow_nan=False) + "\n")


def write_predictions(
    output_dir: str | os.PathLike, split: str, predictions: Sequence[Prediction], records: Sequence[VideoRecord]
) -> None:
    """Write `predictions_{split}.jsonl`, and captions and references to `result/{,gt_}{split}.json`.

    Args:
        output_dir: folder of the run.
        split: name of the split.
        predictions: predictions of all records, in their order.
        records: records of the split.
    """
    folder = pathlib.Path(output_dir, "result")
    folder.mkdir(parents=True, exist_ok=True)
    write_prediction_lines(pathlib.Path(output_dir, f"predictions_{split}.jsonl"), predictions)
    if predictions[0].caption is None:
        for name in (f"{split}.json", f"gt_{split}.json"):
            (folder / name).unlink(missing_ok=True)  # of an earlier evaluation
        return
    with atomic_write(folder / f"{split}.json") as file:
        json.dump([dict(image_id=r.index, caption=p.caption) for p, r in zip(predictions, records)], file)
    references = [(record.index, caption) for record in records for caption in record.captions()]
    truth = dict(
        images=[dict(id=r.index) for r in records],
        annotations=[dict(image_id=index, id=i, caption=caption) for i, (index, caption) in enumerate(references)],
    )
    with atomic_write(folder / f"gt_{split}.json") as file:
        json.dump(truth, file)
