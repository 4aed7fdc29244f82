"""Predictions + annotations -> results: scores of every video, of the split, and of chance and the annotators.

Axes: R annotators, T frames at 1 fps.
"""

import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data.annotations import VideoRecord
from data.captions import reference_caption
from engine.predictions import Prediction
from metrics.baselines import human_baseline, random_baseline
from metrics.keyframes import average
from metrics.registry import METRICS, Need, caption_scores, format_score, keyframe_scores, metrics_that_need
from utils.files import atomic_write, read_text

logger = logging.getLogger(__name__)

Pairs = Sequence[tuple[Prediction, VideoRecord]]
Scores = dict[str, float]  # by metric


def _match(predictions: Sequence[Prediction], records: Sequence[VideoRecord]) -> Pairs:
    """Pair predictions with their records, in the records' order.

    Raises:
        ValueError: a video is unknown, twice there, or its number of frames is wrong.
    """
    by_id = {record.video_id: record for record in records}
    predicted: dict[str, Prediction] = {}
    for prediction in predictions:
        video_id = prediction.video_id
        if video_id not in by_id:
            raise ValueError(f"predictions: video {video_id}: not in the annotations")
        if video_id in predicted:
            raise ValueError(f"predictions: video {video_id}: found twice, expected once")
        expected = by_id[video_id].num_frames
        frames = expected if prediction.saliency is None else len(prediction.saliency)
        if frames != expected and not (frames < expected and prediction.cut_from == expected):
            raise ValueError(f"predictions: video {video_id}: saliency: found {frames} frames, expected {expected}")
        predicted[video_id] = prediction
    if not predicted:
        raise ValueError("predictions: found none, expected at least one video")
    for field in SCORERS:
        without = [video_id for video_id, prediction in predicted.items() if getattr(prediction, field) is None]
        if 0 < len(without) < len(predicted):
            raise ValueError(
                f"predictions: video {without[0]}: {field}: found null, expected it for every video or none"
            )
    if len(predicted) < len(records):
        logger.warning(
            "predictions: %d of %d videos are missing; CIDEr depends on all",
            len(records) - len(predicted),
            len(records),
        )
    return [(predicted[record.video_id], record) for record in records if record.video_id in predicted]


def score_predictions(
    predictions: Sequence[Prediction],
    records: Sequence[VideoRecord],
    baselines: Mapping[str, Scores] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score the predictions of one split.

    Args:
        predictions: in any order. A part that is None for all videos is left out of the scores.
        records: the whole split.
        baselines: of an earlier call for the same split, so that they are not computed again.
    Returns:
        results: `metrics`, `baselines` (`random` and `human`) and `num_videos`.
        scores: of each video: `video_id` and all its scores.
    Raises:
        ValueError: a prediction does not fit the annotations.
    """
    pairs = _match(predictions, records)
    metrics: Scores = {}
    per_video: list[Scores] = [{} for _ in pairs]
    for field, score in SCORERS.items():
        if getattr(pairs[0][0], field) is not None:
            split_scores, video_scores = score(pairs)
            metrics |= split_scores
            per_video = [known | new for known, new in zip(per_video, video_scores)]
    if baselines is None and pairs[0][0].saliency is not None:
        keyframes = [_keyframes(*pair) for pair in pairs]
        baselines = dict(random=random_baseline(keyframes), human=human_baseline(keyframes))
    counts = dict(expected=len(records), scored=len(pairs))
    scores = [dict(video_id=record.video_id) | values for (_, record), values in zip(pairs, per_video)]
    return dict(metrics=metrics, baselines=baselines or {}, num_videos=counts), scores


def _keyframes(prediction: Prediction, record: VideoRecord) -> np.ndarray:
    """Key-frames (R, T) of the frames that a prediction has."""
    assert prediction.saliency is not None
    return record.vsum_onehot[:, : len(prediction.saliency)]


def _score_saliency(pairs: Pairs) -> tuple[Scores, list[Scores]]:
    per_video = [keyframe_scores(np.array(p.saliency), _keyframes(p, record)) for p, record in pairs]
    return average(per_video), per_video


def _score_captions(pairs: Pairs) -> tuple[Scores, list[Scores]]:
    captions = {record.video_id: str(prediction.caption) for prediction, record in pairs}
    references = {record.video_id: reference_caption(record.tsum) for _, record in pairs}
    corpus, per_video = caption_scores(captions, references)
    return corpus, [per_video[record.video_id] for _, record in pairs]


def _score_agreement(pairs: Pairs) -> tuple[Scores, list[Scores]]:
    (name,) = metrics_that_need("vt_clip_score")
    per_video = [{name: float(prediction.vt_clip_score or 0.0)} for prediction, _ in pairs]
    return average(per_video), per_video


# Field of a prediction -> function from pairs to scores of the split and of each video.
SCORERS: dict[Need, Callable[[Pairs], tuple[Scores, list[Scores]]]] = dict(
    saliency=_score_saliency, caption=_score_captions, vt_clip_score=_score_agreement
)


def write_scores(
    output_dir: str | os.PathLike, split: str, results: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]
) -> None:
    """Write `results_{split}.json` and `scores_{split}.jsonl`, and add a line to `evaluate_{split}.txt`."""
    output_dir = pathlib.Path(output_dir)
    with atomic_write(output_dir / f"scores_{split}.jsonl") as file:
        for score in scores:
            file.write(json.dumps(score) + "\n")
    with atomic_write(output_dir / f"results_{split}.json") as file:
        json.dump(results, file, indent=2)
    line = {
        METRICS[name].published_name: value
        for name, value in results["metrics"].items()
        if METRICS[name].published_name
    }
    path = output_dir / f"evaluate_{split}.txt"
    lines = read_text(path, "evaluations") if path.exists() else ""
    with atomic_write(path) as file:
        file.write(lines + json.dumps(line) + "\n")


def format_table(results: Mapping[str, Any], title: str) -> str:
    """Lay results out as text: one row each for the model, chance and the annotators. Scores but τ and ρ are x 100."""
    from tabulate import tabulate

    rows = dict(model=results["metrics"], **results["baselines"])
    counts = results["num_videos"]
    lines = [f"{title}: {counts['scored']} of {counts['expected']} videos (all but Kendall and Spearman x 100)"]
    for names in (metrics_that_need("saliency"), (*metrics_that_need("caption"), *metrics_that_need("vt_clip_score"))):
        names = [name for name in names if any(name in values for values in rows.values())]
        if not any(name in results["metrics"] for name in names):
            continue
        cells = [
            [row, *(format_score(name, values[name]) if name in values else "-" for name in names)]
            for row, values in rows.items()
            if any(name in values for name in names)
        ]
        align = ("left", *["right"] * len(names))
        lines.append(tabulate(cells, ["", *names], tablefmt="plain", disable_numparse=True, colalign=align))
    return "\n".join(lines)
