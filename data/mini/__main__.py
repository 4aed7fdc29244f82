"""Write mini VideoXum: `python -m data.mini OUT [--seed 0] [--ready_made]`."""

import pathlib
from collections.abc import Sequence

from utils.command_line import OneLineParser
from utils.log import run_main, setup_logging


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m data.mini", description="Write mini VideoXum.")
    parser.add_argument("out", type=pathlib.Path, help="root folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ready_made", action="store_true", help="write synthetic features instead of videos")
    args = parser.parse_args(argv)
    setup_logging(True)

    from data.mini.dataset import SPLIT_SIZES, write_mini

    write_mini(args.out, args.seed, ready_made=args.ready_made)
    print(f"{args.out}: {', '.join(f'{count} {split}' for split, count in SPLIT_SIZES.items())} videos")


if __name__ == "__main__":
    run_main(main)
