"""TVSum and SumMe: annotations, scores of frames and shots together -> results."""

import dataclasses
import json
import logging
import pathlib

import torch

from data.eccv16 import read_eccv16
from data.features import open_features
from data.tvsum_summe import is_tvsum_mat, read_summe, read_tvsum_mat, with_shots
from engine.score_files import fits_duration
from engine.setup import build_model, load_trained
from metrics.keyframes import average
from metrics.segmentation import shots as segment
from metrics.shots import (
    NAMES,
    human_scores,
    make_reference,
    random_scores,
    score,
    spans_of_frames,
)
from models.vtsum_blip import WIDTHS
from utils import distributed
from utils.device import allow_tf32, autocast
from utils.download import resolve_file
from utils.files import atomic_write
from utils.log import progress_bar

logger = logging.getLogger(__name__)

COLUMN = max(map(len, NAMES))  # of the table


def read_videos(args):
    """Read the annotations, whatever their layout, and the shots that go with them."""
    path = pathlib.Path(args.annotations)
    expected = "ydata-tvsum50.mat or an eccv16 .h5" if args.benchmark == "tvsum" else "SumMe's GT or an eccv16 .h5"
    if path.is_dir():
        found, videos = "summe", read_summe(path) if args.benchmark == "summe" else None
    elif is_tvsum_mat(path):
        found, videos = "tvsum", read_tvsum_mat(path) if args.benchmark == "tvsum" else None
    else:
        found, videos = args.benchmark, read_eccv16(path)
        if args.shots:
            raise ValueError(f"{path}: annotations: found an eccv16 file, which has shots: expected no --shots")
    if found != args.benchmark:
        raise ValueError(f"{path}: annotations: found those of {found}, expected {expected}")
    return with_shots(videos, read_eccv16(args.shots), args.shots) if args.shots else videos


@torch.no_grad()
def zero_shot(config, videos, root):
    """Score videos with a checkpoint of ours that never saw the benchmark.

    Args:
        config: `Config` with `pretrained_model`.
        videos: list of `BenchmarkVideo`.
        root: folder of `{video}.npz` as `extract_features.py` writes it.
    Returns:
        list of (n,) float64 saliency in [0, 1] per frame; list of the shots that these features give, as frames.
    """
    device = distributed.pick_device(config.device)
    allow_tf32(config.tf32)
    what = "frame features"
    features = open_features(root, [video.video_id for video in videos], "features", WIDTHS[config.vit], what)
    config = dataclasses.replace(config, task="v2v")  # captions are not scored here
    model = build_model(config)
    load_trained(config, model, resolve_file(config.pretrained_model))
    model = model.to(device).eval()
    scores, shots = [], []
    with progress_bar(videos, True, desc="zero-shot", unit="video") as bar:
        for video in bar:
            frames = features.load(video.video_id)  # (T, D)
            T = len(frames)
            if not fits_duration(T, video):
                place = f"{features.path(video.video_id)}: video {video.video_id}: features"
                raise ValueError(f"{place}: found {T} frames, expected one for each of {video.duration:.1f} seconds")
            with autocast(config.precision, device):
                _, logits = model.generate(torch.from_numpy(frames)[None].to(device), torch.ones(1, T))
            second = video.second_of_frame(T)
            if not logits.isfinite().all():
                raise FloatingPointError(
                    f"video {video.video_id}: saliency: found NaN or infinity in the model's output"
                )
            scores.append(logits.double().sigmoid().cpu().numpy()[second])  # (n,)
            shots.append(None if video.change_points else spans_of_frames(segment(frames), second))
    return scores, shots


def shots_of_annotations(video):
    """Shots by kernel temporal segmentation where a file has features at its picks but no change points."""
    if video.change_points or video.features is None:
        return None
    return spans_of_frames(segment(video.features), video.pick_of_frame())


def evaluate(videos, benchmark, scores, shots):
    """Score all videos: dictionary from row (`model` unless scores is None, `random`, `human`) to a list of scores."""
    references = [make_reference(video, benchmark, spans) for video, spans in zip(videos, shots)]
    rows = dict(random=[random_scores(r) for r in references], human=[human_scores(r) for r in references])
    if scores is not None:
        rows = dict(model=[score(values, r) for values, r in zip(scores, references)]) | rows
    for singles in rows.values():
        for video, single in zip(videos, singles):
            if single.keys() != singles[0].keys():
                only = ", ".join(sorted(single.keys() ^ singles[0].keys()))
                raise ValueError(f"video {video.video_id}: {only}: found for some videos, expected for all or none")
    return {name: singles for name, singles in rows.items() if singles[0]}


def average_rows(rows, tests):
    """Average each row's scores over all videos, over each test set, and over these: three dictionaries by row."""
    everything = {name: average(singles) for name, singles in rows.items()}
    per_test = {name: [average([singles[i] for i in test]) for test in tests] for name, singles in rows.items()}
    return everything, per_test, {name: average(singles) for name, singles in per_test.items()}


def write(output_dir, results, videos, rows):
    """Write `results_{benchmark}.json` and `scores_{benchmark}.jsonl`, a line per video."""
    benchmark = results["benchmark"]
    with atomic_write(output_dir / f"scores_{benchmark}.jsonl") as file:
        for i, video in enumerate(videos):
            line = dict(video_id=video.video_id) | {name: singles[i] for name, singles in rows.items()}
            file.write(json.dumps(line) + "\n")
    with atomic_write(output_dir / f"results_{benchmark}.json") as file:
        json.dump(results, file, indent=2)


def format_table(results):
    """Lay results out as text, F1 x 100."""
    lines = [f"{results['benchmark']}: {results['num_videos']} videos (F1 x 100)"]
    splits = results["splits"]
    blocks = {
        "all videos": results["all_videos"],
        f"mean of {len(splits['test_sets'])} test sets, {splits['source']}": splits["mean"],
    }
    for title, rows in blocks.items():
        lines += [title, "  ".join([f"{'':8}", *(f"{name:>{COLUMN}}" for name in NAMES)])]
        for row, values in rows.items():
            shown = {n: f"{100 * v:.1f}" if n == "F1" else f"{round(v, 3) + 0.0:.3f}" for n, v in values.items()}
            lines.append("  ".join([f"{row:8}", *(f"{shown.get(n, '-'):>{COLUMN}}" for n in NAMES)]))
    return "\n".join(lines)
