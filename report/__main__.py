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
    add("--videos", nargs="+", metavar="PATH", help="folder, .txt list of paths, or video files: show frames of them")
    add("--out", type=pathlib.Path, help="file to write (default: RUN/report.html)")
    args = parser.parse_args(argv)
    for kind in ("best", "worst", "random"):
        if getattr(args, kind) < 0:
            raise ValueError(f"{kind}: found {getattr(args, kind)}, expected at least 0")

    from data.video.files import find_videos
    from report.content import load_report_data
    from report.frames import read_frame_rows
    from report.page import write_report

    paths = find_videos(args.videos) if args.videos else {}

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
    frame_rows = read_frame_rows(data.videos, paths) if args.videos else {}
    write_report(data, path, frame_rows)
    with_frames = f", {len(frame_rows)} of them with frames" if args.videos else ""
    size = path.stat().st_size / 1e6
    print(f"{path}: {len(data.videos)} of {len(data.rows)} videos shown{with_frames}, {size:.1f} MB")


if __name__ == "__main__":
    run_main(main)
