"""Score summaries of TVSum and SumMe: F1 of whole shots, Kendall's τ and Spearman's ρ against each annotator.

    python eval_tvsum_summe.py --benchmark tvsum --annotations ydata-tvsum50.mat --agreement
    python eval_tvsum_summe.py --benchmark tvsum --annotations ydata-tvsum50.mat --scores scores.json \\
        --shots eccv16_dataset_tvsum_google_pool5.h5 --split_file tvsum_splits.json --output_dir outputs/tvsum
    python eval_tvsum_summe.py --benchmark summe --annotations SumMe/GT --features SumMe/feat/blip \\
        --config configs/vtsum_blip_tt_ca.yaml --pretrained_model vtsum_tt_ca.pth --output_dir outputs/summe
"""

import logging

from engine.benchmarks import average_rows, evaluate, format_table, read_videos, shots_of_annotations, write, zero_shot
from engine.config import load_config
from engine.score_files import STEPS, make_splits, read_scores, read_splits, scores_of_videos
from metrics.shots import (
    OVER_ANNOTATORS,
)
from utils.command_line import OneLineParser
from utils.download import resolve_file
from utils.files import make_folder, sha256_of
from utils.log import run_main, setup_logging
from utils.versions import versions

logger = logging.getLogger(__name__)


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


def main(argv=None):
    args, config = parse(argv)
    setup_logging(True)
    output_dir = make_folder(args.output_dir, "output_dir") if args.output_dir else None
    videos = read_videos(args)
    tests = read_splits(args.split_file, videos) if args.split_file else make_splits(len(videos), args.split_seed)
    scores, shots, origin = None, [shots_of_annotations(video) for video in videos], {}
    if config is not None:
        scores, shots = zero_shot(config, videos, args.features)
        origin = dict(config=config.as_dict(), checkpoint_sha256=sha256_of(resolve_file(config.pretrained_model)))
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
