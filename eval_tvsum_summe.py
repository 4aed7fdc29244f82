"""Score summaries of TVSum and SumMe: F1 of whole shots, Kendall's τ and Spearman's ρ against each annotator.

    python eval_tvsum_summe.py --benchmark tvsum --annotations ydata-tvsum50.mat --agreement
    python eval_tvsum_summe.py --benchmark tvsum --annotations ydata-tvsum50.mat --scores scores.json \\
        --shots eccv16_dataset_tvsum_google_pool5.h5 --split_file tvsum_splits.json --output_dir outputs/tvsum
    python eval_tvsum_summe.py --benchmark summe --annotations SumMe/GT --features SumMe/feat/blip \\
        --config configs/vtsum_blip_tt_ca.yaml --pretrained_model vtsum_tt_ca.pth --output_dir outputs/summe
"""

import dataclasses
import json
import logging
import pathlib

import torch

from data.eccv16 import read_eccv16
from data.features import open_features
from data.score_files import STEPS, fits_duration, make_splits, read_scores, read_splits, scores_of_videos
from data.tvsum_summe import is_tvsum_mat, read_summe, read_tvsum_mat, with_shots
from models.vtsum_blip import WIDTHS
from utils import distributed
from utils.config import OneLineParser, load_config
from utils.download import fetch
from utils.files import make_folder, replacing, sha256_of
from utils.log import progress_bar, run_main, setup_logging
from utils.metrics.keyframes import average
from utils.metrics.shots import (
    NAMES,
    OVER_ANNOTATORS,
    human_scores,
    make_reference,
    random_scores,
    score,
    spans_of_frames,
)
from utils.precision import allow_tf32, autocast
from utils.start import build_model, load_trained
from utils.summary.selection import shots as segment
from utils.versions import versions

logger = logging.getLogger(__name__)

COLUMN = max(map(len, NAMES))  # of the table


def parse(argv):
    """Read the command line: the script's own arguments, and a `Config` of the others with --features, else None."""
    parser = OneLineParser(
        description=__doc__.splitlines()[0],
        epilog="With --features also --config and every setting of eval_v2vt_sum.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--benchmark", required=True, choices=tuple(OVER_ANNOTATORS))
    add("--annotations", required=True, metavar="PATH", help="ydata-tvsum50.mat, SumMe's GT folder, or an eccv16 .h5")
    add("--shots", metavar="H5", help="eccv16 file with shots and user summaries for the original annotations")
    add("--split_file", metavar="JSON", help="list of train_keys and test_keys (default: five drawn by --split_seed)")
    add("--split_seed", type=int, default=0, help="(%(default)s)")
    add("--scores_at", choices=STEPS, help="what one score of --scores is for (default: their number tells)")
    add("--output_dir", help="folder for the results; without it, and without --features, they are only shown")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--scores", metavar="FILE", help="JSON {video: [scores]}, predictions .jsonl, or .npz")
    source.add_argument("--features", metavar="DIR", help="{video}.npz at 1 fps for --config and --pretrained_model")
    source.add_argument("--agreement", action="store_true", help="only the annotators and chance")
    args, others = parser.parse_known_args(argv)
    if args.split_seed < 0:
        raise ValueError(f"--split_seed: found {args.split_seed}, expected at least 0")
    if args.scores_at and not args.scores:
        raise ValueError("--scores_at: found without --scores")
    if args.features is None:
        if others:
            raise ValueError(f"{others[0]}: unknown argument, or one that goes with --features")
        return args, None
    config, _ = load_config([*others, *(["--output_dir", args.output_dir] if args.output_dir else [])])
    if not config.pretrained_model:
        raise ValueError("pretrained_model: missing, expected a VTSUM-BLIP checkpoint (--pretrained_model PATH)")
    args.output_dir = config.output_dir
    return args, config


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
    load_trained(config, model, fetch(config.pretrained_model))
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
    with replacing(output_dir / f"scores_{benchmark}.jsonl") as file:
        for i, video in enumerate(videos):
            line = dict(video_id=video.video_id) | {name: singles[i] for name, singles in rows.items()}
            file.write(json.dumps(line) + "\n")
    with replacing(output_dir / f"results_{benchmark}.json") as file:
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


def main(argv=None):
    args, config = parse(argv)
    setup_logging(True)
    output_dir = make_folder(args.output_dir, "output_dir") if args.output_dir else None
    videos = read_videos(args)
    tests = read_splits(args.split_file, videos) if args.split_file else make_splits(len(videos), args.split_seed)
    scores, shots, origin = None, [shots_of_annotations(video) for video in videos], {}
    if config is not None:
        scores, shots = zero_shot(config, videos, args.features)
        origin = dict(config=config.as_dict(), checkpoint_sha256=sha256_of(fetch(config.pretrained_model)))
    elif args.scores:
        scores = scores_of_videos(read_scores(args.scores), videos, args.scores, args.scores_at)
        origin = dict(scores_sha256=sha256_of(args.scores))
    rows = evaluate(videos, args.benchmark, scores, shots)
    everything, per_test, mean = average_rows(rows, tests)
    splits = dict(
        source=f"splits of {args.split_file}" if args.split_file else f"random splits of seed {args.split_seed}",
        mean=mean,
        per_test_set=per_test,
        test_sets=[[videos[i].video_id for i in test] for test in tests],
    )
    results = dict(benchmark=args.benchmark, num_videos=len(videos), all_videos=everything, splits=splits)
    results |= dict(inputs={k: v for k, v in vars(args).items() if k != "output_dir"}, versions=versions(), **origin)
    if output_dir:
        write(output_dir, results, videos, rows)
    print(format_table(results))
    if "F1" not in everything.get("random", {}):
        logger.warning("F1 is left out: nothing here tells the shots; --shots names an eccv16 file, which does")


if __name__ == "__main__":
    run_main(main)
