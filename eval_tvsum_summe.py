"""Score summaries of TVSum and SumMe: F1 of whole shots, Kendall's τ and Spearman's ρ against each annotator.

    python eval_tvsum_summe.py --benchmark tvsum --annotations ydata-tvsum50.mat --agreement
    python eval_tvsum_summe.py --benchmark tvsum --annotations ydata-tvsum50.mat --scores scores.json \\
        --shots eccv16_dataset_tvsum_google_pool5.h5 --split_file tvsum_splits.json --output_dir outputs/tvsum
    python eval_tvsum_summe.py --benchmark summe --annotations SumMe/GT --features SumMe/feat/blip \\
        --config configs/vtsum_blip_tt_ca.yaml --pretrained_model vtsum_tt_ca.pth --output_dir outputs/summe
"""

import argparse
from collections.abc import Sequence

from engine.config import Config, load_config
from utils.command_line import OneLineParser
from utils.log import run_main


def _parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config | None]:
    """The script's own arguments, and with --features the `Config` that the other arguments give."""
    parser = OneLineParser(
        description=__doc__.splitlines()[0],
        epilog="With --features also --config and every setting of eval_v2vt_sum.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--benchmark", required=True, choices=("tvsum", "summe"))
    add("--annotations", required=True, metavar="PATH", help="ydata-tvsum50.mat, SumMe's GT folder, or an eccv16 .h5")
    add("--shots", metavar="H5", help="eccv16 file with shots and user summaries for the original annotations")
    add("--split_file", metavar="JSON", help="list of train_keys and test_keys (default: five drawn by --split_seed)")
    add("--split_seed", type=int, default=0, help="(%(default)s)")
    add("--scores_at", choices=("second", "pick", "frame"), help="unit of --scores (default: inferred from its length)")
    add("--output_dir", help="folder for the results; without it, and without --features, they are only printed")
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
    config = load_config([*others, *(["--output_dir", args.output_dir] if args.output_dir else [])]).settings
    if not config.pretrained_model:
        raise ValueError("pretrained_model: missing, expected a VTSUM-BLIP checkpoint (--pretrained_model PATH)")
    args.output_dir = config.output_dir
    return args, config


def main(argv: Sequence[str] | None = None) -> None:
    args, config = _parse_arguments(argv)
    from engine.tvsum_summe import run_benchmark

    run_benchmark(args, config)


if __name__ == "__main__":
    run_main(main)
