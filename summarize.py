"""Summarize videos: a skim, a caption, a storyboard and an HTML page.

    python summarize.py VIDEO... [--out summaries]

    OUT/{name}/summary.mp4, summary.json, storyboard.png, index.html

with the released VTSUM-BLIP (TT+CA), or with your model: --config FILE --pretrained_model FILE. As a Python call:

    from summary import Summarizer
    summary = Summarizer().summarize("holiday.mp4")
"""

import argparse
import pathlib
import sys

from data.video.files import find_videos
from engine.config import Config
from summary.released import RELEASED_CONFIG
from summary.selection import METHODS, check_selection
from utils.command_line import load_settings
from utils.encoder_names import NAME_FORMS
from utils.log import one_line, run_main, setup_logging
from utils.text import printable, printable_path


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="video files, folders of them, or .txt lists")
    add("--out", default="summaries", help="output folder, with a subfolder per video (default: summaries)")
    add(
        "--blip",
        default=None,
        help="checkpoint (path, https:// or hf://) with BLIP's image encoder (default: `pretrained`)",
    )
    add("--encoder", default=None, help=f"another frame encoder (default: the checkpoint's): {NAME_FORMS}")
    add("--budget", type=float, default=0.15, help="fraction of the video to keep (default: 0.15)")
    add(
        "--method",
        choices=tuple(METHODS),
        default="topk",
        help="the most salient seconds, or whole shots (default: topk)",
    )


def main(argv: list[str] | None = None) -> None:
    command = load_settings(Config, argv, __doc__.splitlines()[0], _add_arguments, RELEASED_CONFIG)
    config, args = command.settings, command.arguments
    check_selection(args.budget, args.method)
    videos = find_videos(args.videos)
    setup_logging(True)

    from summary import Summarizer

    summarizer = Summarizer(config, blip=args.blip, encoder=args.encoder)
    failed = False
    for path in videos.values():
        try:
            summary = summarizer.summarize(path, args.out, args.budget, args.method)
        except (OSError, ValueError) as error:
            failed = True
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            continue
        kept = sum(end - start for start, end in summary["segments"])
        page = printable_path(pathlib.Path(args.out, path.stem, "index.html"))
        print(f"{page}: {kept:.1f} of {summary['duration']:.1f} s: {printable(summary['caption'] or '')}", flush=True)
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    run_main(main)
