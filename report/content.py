"""Content of a report, from a run's files and the annotations.

Axes: T frames at 1 fps.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.annotations import VideoRecord
from data.registry import annotation_path, load_annotations
from engine.predictions import Prediction, read_predictions
from engine.scoring import build_labels
from metrics.keyframes import AnnotatorLabels, select_top_frames
from report.runs import Run, read_log, read_run


@dataclasses.dataclass(frozen=True)
class ReportVideo:
    """One video of a split with its prediction and scores.

    Attributes:
        record: its annotations.
        labels: the annotators' labels, or None.
        num_frames: T of the annotations; without labels, of the saliency or else the duration, rounded up.
        saliency: (T,) probabilities, or None; T is less than the record's if the video was cut to its VT-CLIP features.
        selected: (T,) bool, the frames that F1 compares, or None.
        caption: generated caption, or None.
        scores: metric -> value.
        reason: why the video is shown.
    """

    record: VideoRecord
    labels: AnnotatorLabels | None
    num_frames: int
    saliency: np.ndarray | None
    selected: np.ndarray | None
    caption: str | None
    scores: dict[str, float]
    reason: str


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Content of a report.

    Attributes:
        run: results of the run on the split.
        log: lines of `log.jsonl`, [] if there is none.
        rows: (video_id, frames, generated caption, reference) of every scored video, in the order of `run.scores`.
        videos: videos with a section.
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
    """Read a run's files and select the videos to show.

    Args:
        folder: folder of the run.
        split: name of the split.
        annotations: path of the split's annotation file; None is the one of the run's configuration.
        best: number of best videos to show.
        worst: number of worst videos to show.
        random: number of random videos to show.
        ids: further videos to show.
        rank_by: metric that orders the videos; None is Kendall or, without it, the run's first metric.
        seed: random seed of the random videos.
    Raises:
        FileNotFoundError, ValueError: a file is missing or invalid, an id is not in the split, or there is no such
            metric.
    """
    run = read_run(folder, split)
    if annotations is None:
        config = run.results.config or {}
        annotations = annotation_path(config.get("ann_root", ""), split, run.dataset, config.get("ann_files"))
        if not annotations.is_file():
            raise FileNotFoundError(f"{annotations}: annotations: no such file; name it with --annotations")
    predictions_file = run.folder / f"predictions_{split}.jsonl"
    records = {record.video_id: record for record in load_annotations(annotations, dataset=run.dataset, needs=())}
    predictions = {entry.video_id: entry for entry in read_predictions(predictions_file)}
    for source, known in ((annotations, records), (predictions_file, predictions)):
        for video_id in run.video_ids:
            if video_id not in known:
                raise ValueError(f"{source}: video {video_id}: missing, but in scores_{split}.jsonl")
    if rank_by and rank_by not in run.metrics:
        raise ValueError(f"by: found {rank_by}, expected one of {', '.join(run.metrics)}")
    rank_by = rank_by or ("Kendall" if "Kendall" in run.metrics else next(iter(run.metrics)))
    rows = [
        (
            name,
            _count_frames(records[name], predictions[name]),
            predictions[name].caption,
            _reference_text(records[name]),
        )
        for name in run.video_ids
    ]
    videos = []
    for video_id, reason in _select_videos(run, rank_by, best, worst, random, ids, seed).items():
        index = run.video_ids.index(video_id)
        scores = {name: float(values[index]) for name, values in run.scores.items()}
        videos.append(_report_video(records[video_id], predictions[video_id], scores, reason))
    return ReportData(run, read_log(run.folder / "log.jsonl"), rows, videos, rank_by)


def _select_videos(
    run: Run, rank_by: str, best: int, worst: int, random: int, ids: Sequence[str], seed: int
) -> dict[str, str]:
    """Select the videos to show, without repetition: id -> reason."""
    order = np.argsort(-run.scores[rank_by], kind="stable")
    shuffled = np.random.default_rng(seed).permutation(len(order))
    reasons: dict[str, str] = {}
    for video_id in ids:
        if video_id not in run.video_ids:
            raise ValueError(f"ids: video {video_id}: not among the {len(run.video_ids)} scored ones")
        reasons[video_id] = "requested"
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
    T = _count_frames(record, prediction)
    if prediction.saliency is not None:
        logits = np.array(prediction.saliency, np.float64)
        if record.num_frames is not None and len(logits) > T:
            raise ValueError(
                f"predictions: video {record.video_id}: saliency: found {len(logits)} frames, expected {T}"
            )
        saliency, selected = 0.5 * (1 + np.tanh(logits / 2)), select_top_frames(logits)
    elif prediction.has_selection:
        selected, _ = prediction.select_frames(T)
    labels = None if record.labels is None else build_labels(record)
    return ReportVideo(record, labels, T, saliency, selected, prediction.caption, scores, reason)


def _count_frames(record: VideoRecord, prediction: Prediction) -> int:
    if record.num_frames is not None:
        return record.num_frames
    return len(prediction.saliency) if prediction.saliency is not None else math.ceil(record.duration)


def _reference_text(record: VideoRecord) -> str:
    """Reference captions as one text; events are separated by a space, several references by a slash."""
    return " / ".join(record.references) or " ".join(record.tsum)


def extract_curves(log: list[dict[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Extract curves over the epochs: kind (`train`, `validation`, `scores_{split}`) -> name -> (epochs, values).

    The first epoch, 0 in the log, ends at 1; a batch is at the fractional number of epochs completed after it.
    Validation losses have the names of the training losses. Null values in the log are skipped.
    """
    steps = [entry for entry in log if entry["type"] == "step"]
    batches_per_epoch = max((entry["step"] + 1 for entry in steps), default=1)
    kinds: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for entry in log:
        if entry["type"] == "step":
            kind, epoch = "train", entry["epoch"] + (entry["step"] + 1) / batches_per_epoch
        elif entry["type"] == "evaluation":
            kind, epoch = f"scores_{entry['split']}", entry["epoch"] + 1
        elif entry["type"] == "epoch":
            kind, epoch = "validation", entry["epoch"] + 1
            entry = {name.removeprefix("val_"): value for name, value in entry.items() if name.startswith("val_")}
        else:
            continue
        for name, value in entry.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "step") and math.isfinite(value):
                epochs, values = kinds.setdefault(kind, {}).setdefault(name, ([], []))
                epochs.append(epoch)
                values.append(value)
    return kinds
