"""Write a run's report: `python -m report RUN`, one page that needs no network."""

import os
import pathlib

from engine.config import SPLITS
from metrics.registry import METRICS
from report import gather, write_report
from utils.command_line import OneLineParser
from utils.log import run_main


def main(argv=None):
    parser = OneLineParser(prog="python -m report", description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a run or an evaluation")
    add("--split", choices=SPLITS, default="test", help="default: test")
    add("--annotations", help="annotation file of the split (default: the one that the run was scored with)")
    for kind in ("best", "worst", "random"):
        add(f"--{kind}", type=int, default=6, metavar="N", help=f"show N {kind} videos (default: 6)")
    add("--ids", nargs="+", default=(), metavar="ID", help="show these videos too")
    add("--by", choices=tuple(METRICS), metavar="NAME", help="what best means (default: Kendall, or what the run has)")
    add("--out", help="file to write (default: RUN/report.html)")
    args = parser.parse_args(argv)
    how = dict(best=args.best, worst=args.worst, random=args.random, ids=args.ids, by=args.by)
    for kind in ("best", "worst", "random"):
        if how[kind] < 0:
            raise ValueError(f"{kind}: found {how[kind]}, expected at least 0")
    content = gather(args.run, args.split, args.annotations, **how)
    path = pathlib.Path(args.out or pathlib.Path(args.run, "report.html"))
    write_report(content, path)
    print(f"{path}: {len(content.videos)} of {len(content.rows)} videos shown, {os.path.getsize(path) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(main)
