"""What a report shows, read from a run's files and the annotations.

Axes: T frames at 1 fps.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.annotations import VideoRecord, load_annotations
from engine.predictions import Prediction, read_predictions
from metrics.keyframes import top_frames
from report.runs import Run, read_log, read_run


@dataclasses.dataclass(frozen=True)
class ReportVideo:
    """One video of a split: its annotations, its prediction, its scores.

    Attributes:
        record: its annotations.
        saliency: (T,) probabilities, or None; T may be less than the record's where VT-CLIP's features cut the video.
        selected: (T,) bool, the frames that F1 compares, or None.
        caption: generated, or None.
        scores: metric -> value.
        reason: why it has a section.
    """

    record: VideoRecord
    saliency: np.ndarray | None
    selected: np.ndarray | None
    caption: str | None
    scores: dict[str, float]
    reason: str


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        run: the scored split.
        log: entries of `log.jsonl`, empty where there is none.
        rows: (video_id, frames, generated caption, reference) of every scored video, in the order of `run.scores`.
        videos: those with a section.
        rank_by: metric that orders the videos.
    """

    run: Run
    log: list[dict[str, Any]]
    rows: list[tuple[str, int, str | None, str]]
    videos: list[ReportVideo]
    rank_by: str


def load_report_data(
    folder: str | pathlib.Path,
    split: str = "test",
    annotations: str | pathlib.Path | None = None,
    *,
    best: int = 6,
    worst: int = 6,
    random: int = 6,
    ids: Sequence[str] = (),
    rank_by: str | None = None,
    seed: int = 0,
) -> ReportData:
    """Read a run's files and choose the videos to show.

    Args:
        folder: of the run.
        split: name.
        annotations: path of the split's annotation file; None takes the one that the run was scored with.
        best, worst, random: number of videos of each kind to show.
        ids: further videos to show.
        rank_by: metric that orders the videos; None takes Kendall or, without it, the first that the run has.
        seed: of the random choice.
    Raises:
        FileNotFoundError, ValueError: a file is missing or bad, an id is not in the split, or there is no such metric.
    """
    run = read_run(folder, split)
    if annotations is None:
        annotations = pathlib.Path((run.results.config or {}).get("ann_root", ""), f"{split}_videoxum.json")
        if not annotations.is_file():
            raise FileNotFoundError(f"{annotations}: annotations: no such file; name it with --annotations")
    predictions_file = run.folder / f"predictions_{split}.jsonl"
    records = {record.video_id: record for record in load_annotations(annotations)}
    predictions = {entry.video_id: entry for entry in read_predictions(predictions_file)}
    for source, known in ((annotations, records), (predictions_file, predictions)):
        for video_id in run.video_ids:
            if video_id not in known:
                raise ValueError(f"{source}: video {video_id}: missing, expected as it is in scores_{split}.jsonl")
    if rank_by and rank_by not in run.metrics:
        raise ValueError(f"by: found {rank_by}, expected one of {', '.join(run.metrics)}")
    rank_by = rank_by or ("Kendall" if "Kendall" in run.metrics else next(iter(run.metrics)))
    rows = [
        (name, records[name].num_frames, predictions[name].caption, " ".join(records[name].tsum))
        for name in run.video_ids
    ]
    videos = []
    for video_id, reason in _choose_videos(run, rank_by, best, worst, random, ids, seed).items():
        index = run.video_ids.index(video_id)
        scores = {name: float(values[index]) for name, values in run.scores.items()}
        videos.append(_report_video(records[video_id], predictions[video_id], scores, reason))
    return ReportData(run, read_log(run.folder / "log.jsonl"), rows, videos, rank_by)


def _choose_videos(
    run: Run, rank_by: str, best: int, worst: int, random: int, ids: Sequence[str], seed: int
) -> dict[str, str]:
    """The videos to show -> why they are shown; none twice."""
    order = np.argsort(-run.scores[rank_by], kind="stable")
    shuffled = np.random.default_rng(seed).permutation(len(order))
    reasons = {}
    for video_id in ids:
        if video_id not in run.video_ids:
            raise ValueError(f"ids: video {video_id}: not among the {len(run.video_ids)} scored ones")
        reasons[video_id] = "asked for"
    for indices, reason in (
        (order[:best], f"among the best by {rank_by}"),
        (order[::-1][:worst], f"among the worst by {rank_by}"),
        (shuffled[:random], "drawn at random"),
    ):
        for index in indices:
            reasons.setdefault(run.video_ids[index], reason)
    return reasons


def _report_video(record: VideoRecord, prediction: Prediction, scores: dict[str, float], reason: str) -> ReportVideo:
    saliency = selected = None
    if prediction.saliency is not None:
        logits = np.array(prediction.saliency, np.float64)
        if len(logits) > record.num_frames:
            raise ValueError(
                f"predictions: video {record.video_id}: saliency: found {len(logits)} frames, "
                f"expected {record.num_frames}"
            )
        saliency, selected = 0.5 * (1 + np.tanh(logits / 2)), top_frames(logits)
    return ReportVideo(record, saliency, selected, prediction.caption, scores, reason)


def log_curves(log: list[dict[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Curves over the epochs: kind (`train`, `scores_{split}`) -> name -> (epochs, values).

    A batch's x is the part of all epochs that is done after it. What is null in the log is left out.
    """
    steps = [entry for entry in log if entry["type"] == "step"]
    batches_per_epoch = max((entry["step"] + 1 for entry in steps), default=1)
    kinds = {}
    for entry in log:
        if entry["type"] == "step":
            kind, epoch = "train", entry["epoch"] + (entry["step"] + 1) / batches_per_epoch
        elif entry["type"] == "evaluation":
            kind, epoch = f"scores_{entry['split']}", entry["epoch"] + 1
        else:
            continue
        for name, value in entry.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "step") and math.isfinite(value):
                epochs, values = kinds.setdefault(kind, {}).setdefault(name, ([], []))
                epochs.append(epoch)
                values.append(value)
    return kinds
