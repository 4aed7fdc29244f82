"""Scoring: predictions and annotations -> scores of every video and of the split, and baselines.

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
from metrics.registry import (
    METRICS,
    UNSCALED_METRICS,
    PredictionField,
    caption_scores,
    format_score,
    keyframe_scores,
    metric_names_for,
)
from utils.files import atomic_write, read_text

logger = logging.getLogger(__name__)

MatchedPairs = Sequence[tuple[Prediction, VideoRecord]]
MetricScores = dict[str, float]  # by metric


def _match(predictions: Sequence[Prediction], records: Sequence[VideoRecord]) -> MatchedPairs:
    """Pair predictions with their records, in the records' order.

    Raises:
        ValueError: a video is unknown or repeated, or its number of frames is wrong.
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
    baselines: Mapping[str, MetricScores] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score the predictions of one split.

    Args:
        predictions: in any order. Parts that are None for all videos are not scored.
        records: the whole split.
        baselines: those of an earlier call for the same split, to reuse.
    Returns:
        results: `metrics`, `baselines` (`random` and `human`) and `num_videos`.
        scores: `video_id` and all scores of each video.
    Raises:
        ValueError: a prediction does not fit the annotations.
    """
    pairs = _match(predictions, records)
    metrics: MetricScores = {}
    per_video: list[MetricScores] = [{} for _ in pairs]
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
    """Return the key-frames (R, T) of the frames that a prediction has."""
    assert prediction.saliency is not None
    return record.vsum_onehot[:, : len(prediction.saliency)]


def _score_saliency(pairs: MatchedPairs) -> tuple[MetricScores, list[MetricScores]]:
    per_video = [keyframe_scores(np.array(p.saliency), _keyframes(p, record)) for p, record in pairs]
    return average(per_video), per_video


def _score_captions(pairs: MatchedPairs) -> tuple[MetricScores, list[MetricScores]]:
    captions = {record.video_id: str(prediction.caption) for prediction, record in pairs}
    references = {record.video_id: reference_caption(record.tsum) for _, record in pairs}
    corpus, per_video = caption_scores(captions, references)
    return corpus, [per_video[record.video_id] for _, record in pairs]


def _score_alignment(pairs: MatchedPairs) -> tuple[MetricScores, list[MetricScores]]:
    (name,) = metric_names_for("vt_clip_score")
    per_video = [{name: float(prediction.vt_clip_score or 0.0)} for prediction, _ in pairs]
    return average(per_video), per_video


# Field of a prediction -> function that returns the scores of the split and of each video.
SCORERS: dict[PredictionField, Callable[[MatchedPairs], tuple[MetricScores, list[MetricScores]]]] = dict(
    saliency=_score_saliency, caption=_score_captions, vt_clip_score=_score_alignment
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
    """Format results as text: one row each for the model, random saliency and the annotators; scores x 100 but τ, ρ."""
    from tabulate import tabulate

    rows = dict(model=results["metrics"], **results["baselines"])
    counts = results["num_videos"]
    lines = [
        f"{title}: {counts['scored']} of {counts['expected']} videos (x 100, except {', '.join(UNSCALED_METRICS)})"
    ]
    for group in (metric_names_for("saliency"), (*metric_names_for("caption"), *metric_names_for("vt_clip_score"))):
        names = [name for name in group if any(name in values for values in rows.values())]
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
