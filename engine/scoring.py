"""Predictions + annotations -> results: scores of every video, of the split, and of chance and the annotators."""

import json
import logging
import pathlib

import numpy as np

from data.annotations import is_number, is_text
from data.captions import reference_caption
from metrics.baselines import human_baseline, random_baseline
from metrics.keyframes import average
from metrics.registry import METRICS, caption_scores, format_score, keyframe_scores, metrics_that_need
from utils.files import atomic_write, parse_json, read_text

logger = logging.getLogger(__name__)


def read_predictions(path):
    """Read a `predictions_{split}.jsonl`.

    Returns:
        list of dictionaries with `video_id`, `caption` (str or None), `saliency` (list of numbers or None),
        `vt_clip_score` (number or None) and, where VT-CLIP's features cut the video, `cut_from`.
    Raises:
        FileNotFoundError, ValueError: the message names file, line, field, found and expected.
    """
    lines = read_text(path, "predictions").split("\n")
    return [_prediction(line, f"{path}: line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _prediction(line, place):
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{place}: not valid JSON ({error})") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("video_id"), str) or not entry["video_id"].isprintable():
        raise ValueError(f"{place}: video_id: missing, expected an object with the video's name")
    place = f"{place}: video {entry['video_id']}"
    caption, saliency, clip = (entry.get(name) for name in ("caption", "saliency", "vt_clip_score"))
    if caption is not None and not is_text(caption):
        raise ValueError(f"{place}: caption: found {ascii(caption)[:60]}, expected text or null")
    if saliency is not None and not (isinstance(saliency, list) and saliency and all(map(is_number, saliency))):
        raise ValueError(f"{place}: saliency: expected a list of finite numbers, one per frame, or null")
    if clip is not None and not is_number(clip):
        raise ValueError(f"{place}: vt_clip_score: found {repr(clip)[:60]}, expected a finite number or null")
    return dict(entry, caption=caption, saliency=saliency, vt_clip_score=clip)


def _match(predictions, records):
    """Pair predictions with their records, in the records' order.

    Raises:
        ValueError: a video is unknown, there twice, or its number of frames is wrong.
    """
    by_id, predicted = {record.video_id: record for record in records}, {}
    for entry in predictions:
        video_id = entry["video_id"]
        if video_id not in by_id:
            raise ValueError(f"predictions: video {video_id}: not in the annotations")
        if video_id in predicted:
            raise ValueError(f"predictions: video {video_id}: found twice, expected once")
        frames = by_id[video_id].num_frames
        found = len(entry["saliency"]) if entry["saliency"] is not None else frames
        if found != frames and not (found < frames and entry.get("cut_from") == frames):
            raise ValueError(f"predictions: video {video_id}: saliency: found {found} frames, expected {frames}")
        predicted[video_id] = entry
    if not predicted:
        raise ValueError("predictions: found none, expected at least one video")
    for field in ("saliency", "caption", "vt_clip_score"):
        without = [video_id for video_id, entry in predicted.items() if entry[field] is None]
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


def score_predictions(predictions, records, baselines=None):
    """Score the predictions of one split.

    Args:
        predictions: list of dictionaries as `read_predictions` gives them. A part that is None for all videos
            (saliency, caption, VT-CLIPScore) is left out of the scores.
        records: list of `VideoRecord`, the whole split.
        baselines: those of an earlier call for the same split, so that they need not be computed again.
    Returns:
        results: dictionary with `metrics`, `baselines` (`random` and `human`) and `num_videos`.
        scores: list of dictionaries, one per video: `video_id` and all its scores.
    Raises:
        ValueError: a prediction does not fit the annotations.
    """
    pairs = _match(predictions, records)
    metrics, per_video = {}, [{} for _ in pairs]
    for field, score in SCORERS.items():
        if all(entry[field] is not None for entry, _ in pairs):
            split_scores, video_scores = score(pairs)
            metrics |= split_scores
            per_video = [known | new for known, new in zip(per_video, video_scores)]
    if baselines is None and all(entry["saliency"] is not None for entry, _ in pairs):
        keyframes = [_keyframes(*pair) for pair in pairs]
        baselines = dict(random=random_baseline(keyframes), human=human_baseline(keyframes))
    counts = dict(expected=len(records), scored=len(pairs))
    scores = [dict(video_id=record.video_id) | values for (_, record), values in zip(pairs, per_video)]
    return dict(metrics=metrics, baselines=baselines or {}, num_videos=counts), scores


def _keyframes(entry, record):
    """Key-frames (R, T) of the frames that a prediction has."""
    return record.vsum_onehot[:, : len(entry["saliency"])]


def _score_saliency(pairs):
    singles = [keyframe_scores(np.array(entry["saliency"]), _keyframes(entry, record)) for entry, record in pairs]
    return average(singles), singles


def _score_captions(pairs):
    captions = {record.video_id: entry["caption"] for entry, record in pairs}
    references = {record.video_id: reference_caption(record.tsum) for _, record in pairs}
    corpus, per_video = caption_scores(captions, references)
    return corpus, [per_video[record.video_id] for _, record in pairs]


def _score_agreement(pairs):
    singles = [dict(VT_CLIPScore=entry["vt_clip_score"]) for entry, _ in pairs]
    return average(singles), singles


# Field of a prediction -> function from pairs of prediction and record to scores of the split and of each video.
SCORERS = dict(saliency=_score_saliency, caption=_score_captions, vt_clip_score=_score_agreement)


def write_scores(output_dir, split, results, scores):
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


def format_table(results, title):
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
