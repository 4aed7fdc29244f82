"""Summarize videos: a skim, a caption, a storyboard, an HTML page, and files for video sites and editing programs.

    python summarize.py VIDEO... [--out summaries]

    OUT/{name}/index.html, summary.mp4, summary.srt, summary.json, summary.otio, storyboard.png, chapters.txt

with the released VTSUM-BLIP (TT+CA), or with your model: --config FILE --pretrained_model FILE. As a Python call:

    from summary import Summarizer
    summary = Summarizer().summarize("holiday.mp4")
"""

import argparse
import pathlib
import sys

from data.video.files import find_videos
from engine.config import Config
from summary.parts import check_chunk
from summary.released import RELEASED_CONFIG
from summary.selection import METHODS, check_selection
from summary.skim import AUDIO_MODES
from utils.command_line import load_settings
from utils.encoder_names import NAME_FORMS
from utils.files import require_writable
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
    add(
        "--budget",
        default="0.15",
        help="what to keep: a fraction of the video, or seconds such as 30s (default: 0.15)",
    )
    add(
        "--method",
        choices=tuple(METHODS),
        default="topk",
        help="the most salient seconds, or whole shots (default: topk)",
    )
    add("--audio", choices=AUDIO_MODES, default="keep", help="keep the skim's audio, or mute it (default: keep)")
    add(
        "--chunk",
        type=int,
        default=None,
        metavar="SECONDS",
        help="run the model on parts of at most this length, for videos of more than 512 s (default: the whole video)",
    )


def main(argv: list[str] | None = None) -> None:
    command = load_settings(Config, argv, __doc__.splitlines()[0], _add_arguments, RELEASED_CONFIG)
    config, args = command.settings, command.arguments
    check_selection(args.budget, args.method)
    check_chunk(args.chunk)
    videos = find_videos(args.videos)
    require_writable(args.out, "--out")  # before the model is loaded
    setup_logging(True)

    from summary import Summarizer

    summarizer = Summarizer(config, blip=args.blip, encoder=args.encoder)
    failed = 0
    for path in videos.values():
        try:
            summary = summarizer.summarize(path, args.out, args.budget, args.method, audio=args.audio, chunk=args.chunk)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            continue
        kept = sum(end - start for start, end in summary["segments"])
        page = printable_path(pathlib.Path(args.out, path.stem, "index.html"))
        parts = len(summary["parts"])
        in_parts = f", in {parts} parts of at most {args.chunk} s" if parts > 1 else ""
        caption = f": {printable(summary['caption'])}" if summary["caption"] else ""
        note = f" ({printable(summary['note'])})" if summary["note"] else ""
        print(f"{page}: {kept:.1f} of {summary['duration']:.1f} s{in_parts}{caption}{note}", flush=True)
    if failed:
        if len(videos) > 1:
            print(f"error: {failed} of {len(videos)} videos could not be summarized", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    run_main(main)
