"""Evaluation on TVSum and SumMe: annotations, frame scores and shots -> results.

Axes: n frames of the video file, T frames at 1 fps, D feature width.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data.eccv16 import read_eccv16
from data.features import open_features, read_width
from data.tvsum_summe import BenchmarkVideo, add_shots, is_tvsum_mat, read_summe, read_tvsum_mat
from engine.config import Config
from engine.score_files import has_plausible_length, make_splits, read_scores, read_splits, scores_of_videos
from metrics.keyframes import average
from metrics.segmentation import segment_shots
from metrics.shots import (
    METRIC_NAMES,
    Shots,
    make_reference,
    score_annotators,
    score_frames,
    score_random,
    shots_in_frames,
)
from utils.download import resolve_file
from utils.environment import environment_info
from utils.files import atomic_write, compute_sha256, make_folder
from utils.log import progress_bar, setup_logging

Rows = dict[str, list[dict[str, float]]]  # `model`, `random`, `human` -> scores of each video


def read_videos(benchmark: str, annotations: str, shots: str | None) -> list[BenchmarkVideo]:
    """Read the annotations, in any of their formats, and their shots.

    Args:
        benchmark: `tvsum` or `summe`.
        annotations: ydata-tvsum50.mat, SumMe's GT folder, or an eccv16 .h5.
        shots: eccv16 .h5 for the original annotations.
    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or of the other benchmark.
    """
    path = pathlib.Path(annotations)
    read: Callable[[str | os.PathLike], list[BenchmarkVideo]]
    if path.is_dir():
        kind, read = "summe", read_summe
    elif is_tvsum_mat(path):
        kind, read = "tvsum", read_tvsum_mat
    elif shots:
        raise ValueError(f"{path}: annotations: found an eccv16 file, which has shots: expected no --shots")
    else:
        kind, read = benchmark, read_eccv16
    if kind != benchmark:
        expected = "ydata-tvsum50.mat or an eccv16 .h5" if benchmark == "tvsum" else "SumMe's GT or an eccv16 .h5"
        raise ValueError(f"{path}: annotations: found those of {kind}, expected {expected}")
    videos = read(path)
    return add_shots(videos, read_eccv16(shots), shots) if shots else videos


def score_zero_shot(
    config: Config, videos: Sequence[BenchmarkVideo], root: str | os.PathLike
) -> tuple[list[np.ndarray], list[Shots | None]]:
    """Score videos with a VTSUM-BLIP checkpoint that was not trained on the benchmark.

    Args:
        config: with `pretrained_model`.
        videos: all videos of the benchmark.
        root: folder of `{video}.npz` as `extract_features.py` writes it.
    Returns:
        (n,) float64 saliency in [0, 1] of each video's frames; shots from the features, in frames.
    Raises:
        FileNotFoundError, ValueError: features or checkpoint are missing, or do not fit.
    """
    import torch

    from engine.provenance import read_encoder, require_same_encoder
    from engine.setup import build_model, load_trained, with_feature_width
    from utils.device import autocast, setup_device

    device = setup_device(config.device, tf32=config.tf32)
    video_ids = [video.video_id for video in videos]
    config = with_feature_width(config, read_width(root), root).replace(task="v2v")  # captions are not scored here
    features = open_features(root, video_ids, "features", config.feature_width, "frame features")
    model = build_model(config)
    trained = load_trained(config, model, resolve_file(config.pretrained_model))
    require_same_encoder(trained.encoder, read_encoder(root), config.pretrained_model)
    model = model.to(device).eval()
    scores: list[np.ndarray] = []
    shots: list[Shots | None] = []
    with progress_bar(videos, True, desc="zero-shot", unit="video") as bar:
        for video in bar:
            frames = features.load(video.video_id)  # (T, D)
            T = len(frames)
            if not has_plausible_length(T, video):
                raise ValueError(
                    f"{features.path(video.video_id)}: video {video.video_id}: features: found {T} frames, "
                    f"expected one for each of {video.duration:.1f} seconds"
                )
            with torch.no_grad(), autocast(config.precision, device):
                _, logits = model.generate(torch.from_numpy(frames)[None].to(device), torch.ones(1, T))
            assert logits is not None  # of the saliency head
            if not logits.isfinite().all():
                raise FloatingPointError(f"video {video.video_id}: saliency: NaN or infinity in the model's output")
            second = video.second_of_frame(T)  # (n,)
            scores.append(logits.double().sigmoid().cpu().numpy()[second])
            shots.append(None if video.change_points else shots_in_frames(segment_shots(frames), second))
    return scores, shots


def segment_annotated_features(video: BenchmarkVideo) -> Shots | None:
    """Segment shots by the features at a video's picks; None if it has change points or no features."""
    if video.change_points or video.features is None:
        return None
    return shots_in_frames(segment_shots(video.features), video.pick_of_frame())


def score_videos(
    videos: Sequence[BenchmarkVideo],
    benchmark: str,
    scores: Sequence[np.ndarray] | None,
    shots: Sequence[Shots | None],
) -> Rows:
    """Score all videos.

    Args:
        videos: all videos of the benchmark.
        benchmark: `tvsum` or `summe`.
        scores: (n,) of each video; None omits the row `model`.
        shots: shots of each video without `change_points`.
    Raises:
        ValueError: a metric can be computed for some of the videos only.
    """
    references = [make_reference(video, benchmark, spans) for video, spans in zip(videos, shots)]
    rows = dict(random=[score_random(r) for r in references], human=[score_annotators(r) for r in references])
    if scores is not None:
        rows = dict(model=[score_frames(values, r) for values, r in zip(scores, references)]) | rows
    for per_video in rows.values():
        for video, video_scores in zip(videos, per_video):
            if video_scores.keys() != per_video[0].keys():
                only = ", ".join(sorted(video_scores.keys() ^ per_video[0].keys()))
                raise ValueError(f"video {video.video_id}: {only}: found for some videos, expected for all or none")
    return {name: per_video for name, per_video in rows.items() if per_video[0]}


def average_splits(rows: Rows, tests: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Average each row over each test set, and over the test sets.

    Args:
        rows: scores of each video.
        tests: indices of the videos of each test set.
    """
    per_test = {name: [average([per_video[i] for i in test]) for test in tests] for name, per_video in rows.items()}
    mean = {name: average(scores) for name, scores in per_test.items()}
    return dict(mean=mean, per_test_set=per_test)


def write_results(
    output_dir: pathlib.Path, results: Mapping[str, Any], videos: Sequence[BenchmarkVideo], rows: Rows
) -> None:
    """Write `results_{benchmark}.json` and `scores_{benchmark}.jsonl`, a line per video."""
    benchmark = results["benchmark"]
    with atomic_write(output_dir / f"scores_{benchmark}.jsonl") as file:
        for i, video in enumerate(videos):
            line = dict(video_id=video.video_id) | {name: per_video[i] for name, per_video in rows.items()}
            file.write(json.dumps(line) + "\n")
    with atomic_write(output_dir / f"results_{benchmark}.json") as file:
        json.dump(results, file, indent=2)


def format_results(results: Mapping[str, Any]) -> str:
    """Format results as text, F1 x 100, and the reasons for metrics that are not computed."""
    from tabulate import tabulate

    splits = results["splits"]
    blocks = {
        "all videos": results["all_videos"],
        f"mean of {len(splits['test_sets'])} test sets, {splits['source']}": splits["mean"],
    }
    lines = [f"{results['benchmark']}: {results['num_videos']} videos (F1 x 100)"]
    names = [name for name in METRIC_NAMES if any(name in values for values in results["all_videos"].values())]
    align = ("left", *["right"] * len(names))
    for title, rows in blocks.items():
        cells = [[row, *(_cell(name, values) for name in names)] for row, values in rows.items()]
        table = tabulate(cells, ["", *names], tablefmt="plain", disable_numparse=True, colalign=align)
        lines += [title, table]
    lines += explain_omissions(results["all_videos"])
    return "\n".join(lines)


def explain_omissions(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Explain why metrics of frame scores are not computed, in a line for each reason.

    Args:
        rows: name of a row -> scores; `random` is scored as a model is.
    """
    reasons = dict(F1="frame scores require shots, which the annotations do not have; add an eccv16 file with --shots")
    reasons |= dict.fromkeys(("Kendall", "Spearman"), "an .h5 file alone has no importance per annotator")
    reasons |= dict.fromkeys(("Kendall_mean", "Spearman_mean"), "the annotations have no gtscore")
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if name not in rows.get("random", {}):
            names_by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)} left out: {reason}" for reason, names in names_by_reason.items()]


def _cell(name: str, values: Mapping[str, float]) -> str:
    if name not in values:
        return "-"
    return f"{100 * values[name]:.1f}" if name == "F1" else f"{round(values[name], 3) + 0.0:.3f}"  # no -0.000


def run_benchmark(args: argparse.Namespace, config: Config | None) -> None:
    """Score a benchmark, print the table and write the results.

    Args:
        args: parsed arguments of `eval_tvsum_summe.py`.
        config: configuration of the model that scores the frames; None with `--scores` or `--agreement`.
    Raises:
        FileNotFoundError, ValueError: a file is missing or invalid, or does not fit the others.
    """
    setup_logging(True)
    output_dir = make_folder(args.output_dir, "output_dir") if args.output_dir else None
    videos = read_videos(args.benchmark, args.annotations, args.shots)
    tests = read_splits(args.split_file, videos) if args.split_file else make_splits(len(videos), args.split_seed)
    scores: Sequence[np.ndarray] | None = None
    shots: Sequence[Shots | None] = [segment_annotated_features(video) for video in videos]
    origin: dict[str, Any] = {}
    if config is not None:
        scores, shots = score_zero_shot(config, videos, args.features)
        origin = dict(config=config.as_dict(), checkpoint_sha256=compute_sha256(resolve_file(config.pretrained_model)))
    elif args.scores:
        scores = scores_of_videos(read_scores(args.scores), videos, args.scores, args.scores_at)
        origin = dict(scores_sha256=compute_sha256(args.scores))
    rows = score_videos(videos, args.benchmark, scores, shots)
    source = f"splits of {args.split_file}" if args.split_file else f"random splits of seed {args.split_seed}"
    results = dict(
        benchmark=args.benchmark,
        num_videos=len(videos),
        all_videos={name: average(per_video) for name, per_video in rows.items()},
        splits=dict(
            source=source,
            **average_splits(rows, tests),
            test_sets=[[videos[i].video_id for i in test] for test in tests],
        ),
        inputs={name: value for name, value in vars(args).items() if name != "output_dir"},
        versions=environment_info(),
        **origin,
    )
    if output_dir:
        write_results(output_dir, results, videos, rows)
    print(format_results(results))
