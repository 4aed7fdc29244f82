"""Write a run's report, a self-contained HTML page: `python -m report RUN`."""

import pathlib

from engine.config import SPLITS
from metrics.registry import METRICS
from utils.command_line import OneLineParser
from utils.log import run_main


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m report", description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=pathlib.Path, help="folder of a run or an evaluation")
    add("--split", choices=SPLITS, default="test", help="default: test")
    add("--annotations", help="annotation file of the split (default: the one that the run was scored with)")
    for kind in ("best", "worst", "random"):
        add(f"--{kind}", type=int, default=6, metavar="N", help=f"show N {kind} videos (default: 6)")
    add("--ids", nargs="+", default=(), metavar="ID", help="show these videos too")
    add(
        "--by",
        choices=tuple(METRICS),
        metavar="NAME",
        help="metric that orders the videos (default: Kendall, or the run's first)",
    )
    add("--out", type=pathlib.Path, help="file to write (default: RUN/report.html)")
    args = parser.parse_args(argv)
    for kind in ("best", "worst", "random"):
        if getattr(args, kind) < 0:
            raise ValueError(f"{kind}: found {getattr(args, kind)}, expected at least 0")

    from report.content import load_report_data
    from report.page import write_report

    data = load_report_data(
        args.run,
        args.split,
        args.annotations,
        best=args.best,
        worst=args.worst,
        random=args.random,
        ids=args.ids,
        rank_by=args.by,
    )
    path = args.out or args.run / "report.html"
    write_report(data, path)
    print(f"{path}: {len(data.videos)} of {len(data.rows)} videos shown, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(main)
