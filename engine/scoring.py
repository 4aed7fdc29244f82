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

from data.annotations import LABEL_KINDS, Subset, VideoRecord, hash_video_ids
from engine.config import CaptionMetrics
from engine.predictions import Prediction
from metrics.baselines import BASELINES, f_clip_baselines
from metrics.captions import CaptionCorpus, tokenize_corpus
from metrics.keyframes import SUMMARY_FRACTION, AnnotatorLabels, average, frame_budget, select_top_frames
from metrics.registry import (
    METRICS,
    UNSCALED_METRICS,
    PredictionField,
    format_score,
    keyframe_scores,
    metric_names_for,
    score_corpus,
    score_selections,
)
from utils.files import atomic_write, read_text

logger = logging.getLogger(__name__)

MatchedPairs = Sequence[tuple[Prediction, VideoRecord]]
MetricScores = dict[str, float]  # by metric
SplitScores = tuple[MetricScores, list[MetricScores]]  # scores of the split, and of each video
MAX_TIED_FRAMES = 2  # more than this many times the frames of a ranking without ties are worth a warning
CLIP_FIELDS: tuple[PredictionField, ...] = ("vt_clip_score", "f_clip", "cross_f_clip")  # scores in predictions


def build_labels(record: VideoRecord, T: int | None = None) -> AnnotatorLabels:
    """Build the labels of a video, cut to T frames; grades are converted to key-frames before the cut."""
    if record.importance is not None:
        labels = AnnotatorLabels.from_importance(record.importance)
    else:
        assert record.vsum_onehot is not None
        labels = AnnotatorLabels.from_keyframes(record.vsum_onehot)
    return AnnotatorLabels(labels.keyframes[:, :T], labels.importance[:, :T])


def check_caption_metrics(missing: str | None, caption_metrics: CaptionMetrics) -> str | None:
    """Return the reason to leave the metrics of captions out, after a warning; None if nothing is missing.

    Args:
        missing: result of `metrics.captions.describe_missing_java`.
        caption_metrics: `Config.caption_metrics`.
    Raises:
        FileNotFoundError: something is missing, and the metrics are required.
    """
    if missing is None:
        return None
    if caption_metrics == "require":
        raise FileNotFoundError(f"caption metrics: {missing}; caption_metrics: auto leaves them out")
    logger.warning("%s are omitted: %s", ", ".join(metric_names_for("caption")), missing)
    return f"caption_metrics: auto, and {missing}"


def _match(predictions: Sequence[Prediction], records: Sequence[VideoRecord], source: str) -> MatchedPairs:
    """Pair predictions with their records, in the records' order; `source` is the predictions' name in messages.

    Raises:
        ValueError: a video is unknown or repeated, or its number of frames is wrong.
    """
    by_id = {record.video_id: record for record in records}
    predicted: dict[str, Prediction] = {}
    for prediction in predictions:
        video_id = prediction.video_id
        if video_id not in by_id:
            raise ValueError(f"{source}: video {video_id}: not in the annotations")
        if video_id in predicted:
            raise ValueError(f"{source}: video {video_id}: found twice, expected once")
        expected = by_id[video_id].num_frames
        frames = None if prediction.saliency is None else len(prediction.saliency)
        if frames is not None and expected is not None:
            is_cut = frames < expected and prediction.cut_from == expected
            if frames != expected and not is_cut:
                raise ValueError(f"{source}: video {video_id}: saliency: found {frames} frames, expected {expected}")
        predicted[video_id] = prediction
    if not predicted:
        raise ValueError(f"{source}: found no prediction, expected at least one video of the annotations")
    for field in ("saliency", "caption", *CLIP_FIELDS):
        _require_all_or_none(source, (field,), predicted)
    _require_all_or_none(source, ("keyframes", "segments"), predicted)
    if len(predicted) < len(records):
        logger.warning(
            "%s: %d of %d videos are missing; CIDEr depends on all",
            source,
            len(records) - len(predicted),
            len(records),
        )
    return [(predicted[record.video_id], record) for record in records if record.video_id in predicted]


def _require_all_or_none(source: str, fields: Sequence[str], predicted: Mapping[str, Prediction]) -> None:
    """Raise a ValueError if one of these fields is predicted for some of the videos (by id) only."""
    without = [p for p in predicted.values() if all(getattr(p, field) is None for field in fields)]
    if 0 < len(without) < len(predicted):
        state = "missing" if without[0].model_fields_set.isdisjoint(fields) else "found null"
        context = f"{source}: video {without[0].video_id}: {' or '.join(fields)}"
        raise ValueError(f"{context}: {state}, expected it for every video or none")


def score_predictions(
    predictions: Sequence[Prediction],
    records: Sequence[VideoRecord],
    baselines: Mapping[str, MetricScores] | None = None,
    *,
    frame_features: Callable[[str], np.ndarray] | None = None,
    captions_left_out: str | None = None,
    refuse_binary: bool = False,
    source: str = "predictions",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score the predictions of one split.

    Args:
        predictions: in any order. Parts that are None for all videos are not scored.
        records: the whole split.
        baselines: those of an earlier call for the same split; the ones that depend on the annotations only are reused.
        frame_features: video id -> (T, C) VT-CLIP features, for F_CLIP of the baselines; None leaves it out.
        captions_left_out: reason to leave the metrics of captions out, see `check_caption_metrics`; None computes them.
        refuse_binary: raise an error for saliency that is a set of frames (0 and 1); otherwise log a warning.
        source: name or path of the predictions, for messages.
    Returns:
        results: `metrics`, `baselines` (rows of `BASELINES`), `num_videos`, and `left_out`, lines on the metrics that
            are not computed; `selected_fraction` for predicted sets of frames; `keyframes_from: importance` for graded
            annotations.
        scores: `video_id` and all scores of each video.
    Raises:
        ValueError: a prediction does not fit the annotations, or there is nothing to score.
    """
    pairs = _match(predictions, records, source)
    first, _ = pairs[0]
    has_labels, has_captions = (
        all(record.has_labels(kind) for _, record in pairs) for kind in ("keyframes", "captions")
    )
    results: dict[str, Any] = dict(metrics={}, baselines={}, num_videos=dict(expected=len(records), scored=len(pairs)))
    scored: list[SplitScores] = []
    computed: dict[str, MetricScores] = {}
    known = {name: row for name, row in (baselines or {}).items() if name in BASELINES}
    if has_labels and (first.saliency is not None or first.has_selection):
        labels = [_build_pair_labels(*pair) for pair in pairs]
        if first.saliency is not None:
            _check_saliency(pairs, refuse_binary, source)
            scored.append(_score_saliency(pairs, labels))
        else:
            selections, results["selected_fraction"] = _score_selections(pairs, labels, source)
            scored.append(selections)
        computed |= _compute_baselines("keyframes", labels, known)
        if first.f_clip is not None and frame_features is not None and "F_CLIP" not in computed["random"]:
            features = (frame_features(record.video_id) for _, record in pairs)
            for name, value in f_clip_baselines(labels, features).items():
                computed[name] = computed[name] | dict(F_CLIP=value)
        if any(record.importance is not None for _, record in pairs):
            results["keyframes_from"] = "importance"
    if has_captions and first.caption is not None and captions_left_out is None:
        corpus = tokenize_corpus(
            {record.video_id: prediction.caption or "" for prediction, record in pairs},
            {record.video_id: record.captions() for _, record in pairs},
        )
        if len(pairs) == 1:
            logger.warning(
                "CIDEr of one video is 0: its weights are computed over the videos; "
                "shuffled and constant need two videos"
            )
        scored.append(_score_captions(corpus))
        computed |= _compute_baselines("captions", corpus, known)
    for field in CLIP_FIELDS:
        if getattr(first, field) is not None:
            scored.append(_average_field(pairs, field))
    per_video: list[MetricScores] = [{} for _ in pairs]
    for split_scores, video_scores in scored:
        results["metrics"] |= split_scores
        per_video = [scores | new for scores, new in zip(per_video, video_scores)]
    results["left_out"] = _explain_omissions(pairs, results["metrics"], captions_left_out)
    if not results["metrics"]:
        raise ValueError(f"{source}: found nothing to score: {'; '.join(results['left_out'])}")
    results["baselines"] = {name: computed[name] for name in BASELINES if computed.get(name)}
    scores = [dict(video_id=record.video_id) | values for (_, record), values in zip(pairs, per_video)]
    return results, scores


def score_subset(
    predictions: Sequence[Prediction],
    records: Sequence[VideoRecord],
    subset: Subset,
    baselines: Mapping[str, MetricScores] | None = None,
    *,
    frame_features: Callable[[str], np.ndarray] | None = None,
    captions_left_out: str | None = None,
) -> dict[str, Any]:
    """Score some videos of a split; CIDEr uses their references only.

    Args:
        predictions: of the whole split.
        records: the whole split.
        subset: videos to score.
        baselines, frame_features, captions_left_out: as of `score_predictions`; `baselines` are those of the subset.
    Returns:
        results as of `score_predictions`, with the entry `subset`.
    Raises:
        ValueError: none of the videos is in the split.
    """
    selected = subset.select(records, "the annotations")
    results, _ = score_predictions(
        [prediction for prediction in predictions if prediction.video_id in subset.video_ids],
        selected,
        baselines,
        frame_features=frame_features,
        captions_left_out=captions_left_out,
    )
    return results | dict(subset=describe_subset(subset, selected))


def describe_subset(subset: Subset, records: Sequence[VideoRecord]) -> dict[str, Any]:
    """Describe a subset and its videos in a split, for results."""
    return dict(file=subset.path, sha256=hash_video_ids(records), num_videos=len(records))


def _compute_baselines(needs: str, data: Any, known: Mapping[str, MetricScores]) -> dict[str, MetricScores]:
    """Compute the rows of `BASELINES` from labels or from a corpus; known ones are reused if no run changes them."""
    return {
        name: known[name] if name in known and not baseline.depends_on_run else baseline.compute(data)
        for name, baseline in BASELINES.items()
        if baseline.needs == needs
    }


def _build_pair_labels(prediction: Prediction, record: VideoRecord) -> AnnotatorLabels:
    """Labels of the frames that a prediction has."""
    return build_labels(record, None if prediction.saliency is None else len(prediction.saliency))


def _check_saliency(pairs: MatchedPairs, refuse_binary: bool, source: str) -> None:
    """Warn of saliency that ties make meaningless.

    F1 selects all frames that score at least the (n+1)-th highest, n = int(0.15 T): with at most n ones among zeros,
    that is the whole video.
    """
    tied, binary = [], []
    for prediction, _ in pairs:
        assert prediction.saliency is not None
        saliency = np.array(prediction.saliency)
        budget, count = frame_budget(len(saliency)), int(select_top_frames(saliency).sum())
        if set(prediction.saliency) == {0, 1} and saliency.sum() <= budget:
            binary.append(prediction.video_id)
        elif count > MAX_TIED_FRAMES * (budget + 1) or (len(saliency) > 1 and np.ptp(saliency) == 0):
            tied.append((prediction.video_id, count / len(saliency)))
    if binary:
        text = (
            f"{source}: video {binary[0]}: saliency: found a set of frames (0 and 1), in {len(binary)} of {len(pairs)} "
            "videos, expected a ranking: F1 would select the whole video; list the selected seconds as keyframes"
        )
        if refuse_binary:
            raise ValueError(text)
        logger.warning("%s", text)
    if tied:
        video_id, fraction = tied[0]
        logger.warning(
            "%s: video %s: saliency: found equal values, so that F1 selects %.0f%% of the frames; likewise in %d of %d "
            "videos",
            source,
            video_id,
            100 * fraction,
            len(tied),
            len(pairs),
        )


def _score_saliency(pairs: MatchedPairs, labels: Sequence[AnnotatorLabels]) -> SplitScores:
    per_video = [keyframe_scores(np.array(prediction.saliency), video) for (prediction, _), video in zip(pairs, labels)]
    return average(per_video), per_video


def _score_selections(pairs: MatchedPairs, labels: Sequence[AnnotatorLabels], source: str) -> tuple[SplitScores, float]:
    """Score predicted sets of frames; returns the scores, and the mean fraction of the frames that is selected."""
    per_video: list[MetricScores] = []
    fractions: list[float] = []
    outside: list[str] = []
    for (prediction, _), video in zip(pairs, labels):
        selected, is_cut = prediction.select_frames(video.keyframes.shape[1])
        outside += [prediction.video_id] * is_cut
        fractions.append(float(selected.mean()))
        scores = score_selections(selected[None].astype(np.float64), video)
        per_video.append({name: float(values[0]) for name, values in scores.items()})
    if outside:
        logger.warning(
            "%s: video %s: found seconds after its end, in %d of %d videos: ignored",
            source,
            outside[0],
            len(outside),
            len(pairs),
        )
    return (average(per_video), per_video), float(np.mean(fractions))


def _score_captions(corpus: CaptionCorpus) -> SplitScores:
    split_scores, per_video = score_corpus(corpus)
    return split_scores, list(per_video.values())


def _average_field(pairs: MatchedPairs, field: PredictionField) -> SplitScores:
    (name,) = metric_names_for(field)
    per_video = [{name: float(getattr(prediction, field))} for prediction, _ in pairs]
    return average(per_video), per_video


def _explain_omissions(pairs: MatchedPairs, metrics: Mapping[str, float], captions_left_out: str | None) -> list[str]:
    """Explain why metrics are not computed, in a line for each reason."""
    prediction, _ = pairs[0]  # all predictions have the same fields
    fields = sorted(prediction.model_fields_set | set(prediction.model_extra or ()))
    found_fields = f"found: {', '.join(name for name in fields if getattr(prediction, name) is not None)}"
    missing = {kind: [record.video_id for _, record in pairs if not record.has_labels(kind)] for kind in LABEL_KINDS}
    clip_reason = "they require a visual summary and clip_root; all but F_CLIP a caption and pretrained_clip, too"
    reasons: dict[PredictionField, str] = dict.fromkeys(CLIP_FIELDS, clip_reason)
    if prediction.saliency is None and not prediction.has_selection:
        reasons["saliency"] = f"no video has saliency, keyframes or segments; {found_fields}"
    elif missing["keyframes"]:
        reasons["saliency"] = f"the annotations have no key-frames of {_describe_videos(missing['keyframes'], pairs)}"
    else:
        reasons["saliency"] = "they rank all frames; keyframes and segments are a set"
    if prediction.caption is None:
        reasons["caption"] = f"no video has a caption; {found_fields}"
    elif captions_left_out is not None:
        reasons["caption"] = captions_left_out
    else:
        reasons["caption"] = f"the annotations have no captions of {_describe_videos(missing['captions'], pairs)}"
    names_by_reason: dict[str, list[str]] = {}
    for name, metric in METRICS.items():
        if name not in metrics:
            names_by_reason.setdefault(reasons[metric.needs], []).append(name)
    return [f"{', '.join(names)} left out: {reason}" for reason, names in names_by_reason.items()]


def _describe_videos(video_ids: Sequence[str], pairs: MatchedPairs) -> str:
    return f"{len(video_ids)} of {len(pairs)} videos, such as {', '.join(video_ids[:1])}"


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
    """Format results as text: one row each for the model and the baselines; scores x 100 but τ, ρ."""
    from tabulate import tabulate

    rows = dict(model=results["metrics"], **results["baselines"])
    counts = results["num_videos"]
    lines = [
        f"{title}: {counts['scored']} of {counts['expected']} videos (x 100, except {', '.join(UNSCALED_METRICS)})"
    ]
    if "keyframes_from" in results:
        lines.append(f"key-frames from {results['keyframes_from']}: each annotator's top {SUMMARY_FRACTION:.0%}")
    if "selected_fraction" in results:
        lines.append(f"selected: {results['selected_fraction']:.1%} of the frames (saliency: {SUMMARY_FRACTION:.0%})")
    other_names = [name for field in CLIP_FIELDS for name in metric_names_for(field)]
    for group in (metric_names_for("saliency"), (*metric_names_for("caption"), *other_names)):
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
