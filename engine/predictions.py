"""Files of a split's predictions: `predictions_{split}.jsonl`, and captions and references in COCO's format."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic

from data.annotations import VideoRecord
from data.captions import reference_caption
from utils.files import atomic_write, parse_json, read_text
from utils.validation import abbreviate, describe_first_error


def _require_printable(video_id: str) -> str:
    if not video_id or not video_id.isprintable():
        raise ValueError(f"found {abbreviate(video_id)}, expected a name")
    return video_id


class Prediction(pydantic.BaseModel):
    """Prediction for one video; parts that are not predicted are None.

    Attributes:
        video_id: id of the video.
        caption: without the prompt.
        saliency: one number per frame at 1 fps, on any monotone scale; logits of VTSUM-BLIP.
        vt_clip_score: VT-CLIPScore of caption and saliency.
        cut_from: number of annotated frames, if the video was cut to fewer VT-CLIP features.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    video_id: Annotated[str, pydantic.AfterValidator(_require_printable)]
    caption: str | None = None
    saliency: Annotated[list[float], pydantic.Field(min_length=1)] | None = None
    vt_clip_score: float | None = None
    cut_from: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a line of the file; `cut_from` only if the video was cut."""
        return self.model_dump(exclude={"cut_from"} if self.cut_from is None else None)


def read_predictions(path: str | os.PathLike) -> list[Prediction]:
    """Read a `predictions_{split}.jsonl`; unknown fields are ignored.

    Raises:
        FileNotFoundError, ValueError: the message names file, line, video, field, found and expected.
    """
    lines = read_text(path, "predictions").split("\n")
    return [_parse(line, f"{path}: line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _parse(line: str, source: str) -> Prediction:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON ({error})") from None
    try:
        return Prediction.model_validate(entry)
    except pydantic.ValidationError as error:
        video_id = entry.get("video_id") if isinstance(entry, dict) else None
        is_named = isinstance(video_id, str) and video_id.isprintable()
        video = f"video {video_id}: " if is_named else ""
        raise ValueError(f"{source}: {video}{describe_first_error(error)}") from None


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
    with atomic_write(pathlib.Path(output_dir, f"predictions_{split}.jsonl")) as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.to_dict(), allow_nan=False) + "\n")
    if predictions[0].caption is None:
        for name in (f"{split}.json", f"gt_{split}.json"):
            (folder / name).unlink(missing_ok=True)  # of an earlier evaluation
        return
    with atomic_write(folder / f"{split}.json") as file:
        json.dump([dict(image_id=r.index, caption=p.caption) for p, r in zip(predictions, records)], file)
    truth = dict(
        images=[dict(id=r.index) for r in records],
        annotations=[dict(image_id=r.index, id=r.index, caption=reference_caption(r.tsum)) for r in records],
    )
    with atomic_write(folder / f"gt_{split}.json") as file:
        json.dump(truth, file)
