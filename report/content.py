"""What a report shows, gathered from a run's files and the annotations.

Axes: T frames at 1 fps, R annotators.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np

from data.annotations import VideoRecord, load_annotations
from engine.scoring import read_predictions
from metrics.keyframes import top_frames
from report.runs import Run, read_log, read_run


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a split: what was annotated, what was predicted, its scores.

    Attributes:
        record: `VideoRecord`.
        saliency: (T,) probabilities, or None; T may be less than the record's where VT-CLIP's features cut the video.
        chosen: (T,) bool, the frames that F1 looks at, or None.
        caption: str, or None.
        scores: metric -> float.
        why: words that say why it has a section.
    """

    record: VideoRecord
    saliency: np.ndarray | None
    chosen: np.ndarray | None
    caption: str | None
    scores: dict
    why: str


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything a report shows.

    Attributes:
        run: `Run`.
        log: list of the dictionaries of `log.jsonl`, empty where there is none.
        rows: list of (video_id, frames, generated caption, reference) for every scored video, in `run.scores`' order.
        videos: list of `Video`, those with a section.
        by: metric that said which are the best.
    """

    run: Run
    log: list
    rows: list
    videos: list
    by: str


def gather(folder, split="test", annotations=None, *, best=6, worst=6, random=6, ids=(), by=None, seed=0):
    """Read a run's files and choose the videos to show.

    Args:
        folder: of the run.
        split: name.
        annotations: path of the split's annotation file; None takes the one that the run was scored with.
        best, worst, random: how many videos of each kind to show.
        ids: further videos to show.
        by: metric that says which are the best; None takes Kendall or, without it, the first that the run has.
        seed: of the random choice.
    Returns:
        `Content`.
    Raises:
        FileNotFoundError, ValueError: a file is missing or bad, an id is not in the split, or there is no such metric.
    """
    run = read_run(folder, split)
    if annotations is None:
        annotations = pathlib.Path(run.results["config"].get("ann_root", ""), f"{split}_videoxum.json")
        if not annotations.is_file():
            raise FileNotFoundError(f"{annotations}: annotations: no such file; name it with --annotations")
    records = {record.video_id: record for record in load_annotations(annotations)}
    predictions = {entry["video_id"]: entry for entry in read_predictions(run.folder / f"predictions_{split}.jsonl")}
    for source, known in ((annotations, records), (run.folder / f"predictions_{split}.jsonl", predictions)):
        for video_id in run.video_ids:
            if video_id not in known:
                raise ValueError(f"{source}: video {video_id}: missing, expected as it is in scores_{split}.jsonl")
    if by and by not in run.metrics:
        raise ValueError(f"by: found {by}, expected one of {', '.join(run.metrics)}")
    by = by or ("Kendall" if "Kendall" in run.metrics else next(iter(run.metrics)))
    rows = [
        (name, records[name].num_frames, predictions[name]["caption"], " ".join(records[name].tsum))
        for name in run.video_ids
    ]
    videos = []
    for video_id, why in _choose(run, by, best, worst, random, ids, seed).items():
        place = run.video_ids.index(video_id)
        scores = {name: float(values[place]) for name, values in run.scores.items()}
        videos.append(_video(records[video_id], predictions[video_id], scores, why))
    return Content(run, read_log(run.folder / "log.jsonl"), rows, videos, by)


def _choose(run, by, best, worst, random, ids, seed):
    """Dictionary from the videos to show to why they are shown; none twice."""
    order = np.argsort(-run.scores[by], kind="stable")
    draw = np.random.default_rng(seed).permutation(len(order))
    chosen = {}
    for video_id in ids:
        if video_id not in run.video_ids:
            raise ValueError(f"ids: video {video_id}: not among the {len(run.video_ids)} scored ones")
        chosen[video_id] = "asked for"
    kinds = ((order[:best], f"among the best by {by}"), (order[::-1][:worst], f"among the worst by {by}"))
    for places, why in (*kinds, (draw[:random], "drawn at random")):
        for place in places:
            chosen.setdefault(run.video_ids[place], why)
    return chosen


def _video(record, prediction, scores, why):
    saliency = chosen = None
    if prediction["saliency"] is not None:
        logits = np.array(prediction["saliency"], np.float64)
        if len(logits) > record.num_frames:
            raise ValueError(
                f"predictions: video {record.video_id}: saliency: found {len(logits)} frames, "
                f"expected {record.num_frames}"
            )
        saliency, chosen = 0.5 * (1 + np.tanh(logits / 2)), top_frames(logits)
    return Video(record, saliency, chosen, prediction["caption"], scores, why)


def curves(log):
    """Curves over the epochs: kind (`train`, `scores_{split}`) -> name -> (epochs, values).

    A batch's place is the part of all epochs that is done after it. What is null in the log is left out.
    """
    steps = [line for line in log if line["type"] == "step"]
    batches = max((line["step"] + 1 for line in steps), default=1)
    found = {}
    for line in log:
        if line["type"] not in ("step", "evaluation"):
            continue
        is_step = line["type"] == "step"
        kind = "train" if is_step else f"scores_{line['split']}"
        place = line["epoch"] + ((line["step"] + 1) / batches if is_step else 1)
        for name, value in line.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "step") and math.isfinite(value):
                xs, ys = found.setdefault(kind, {}).setdefault(name, ([], []))
                xs.append(place)
                ys.append(value)
    return found


def thinned(xs, ys, most=1000):
    """A curve of at most `most` points: means of neighbours."""
    step = -(-len(xs) // most)
    parts = [slice(i, i + step) for i in range(0, len(xs), step)]
    return [float(np.mean(xs[part])) for part in parts], [float(np.mean(ys[part])) for part in parts]


def as_script(value):
    """JSON that may stand in a page's script."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", " ")
