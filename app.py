"""Summarize videos in a browser: upload a video or choose an example, and watch its skim.

    python app.py

then open http://127.0.0.1:7860. The model is the released VTSUM-BLIP (TT+CA), or yours: --config FILE
--pretrained_model FILE. Which files are kept, the limits and other hosts: docs/demo.md.
"""

import argparse
import math
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Callable

from data.video.files import find_videos
from engine.config import Config
from summary.demo.service import Limits, SummaryService
from summary.released import RELEASED_CONFIG
from utils.command_line import load_settings
from utils.encoder_names import NAME_FORMS
from utils.log import run_main, setup_logging


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    def at_least_one(number_type: type[int] | type[float], highest: float = math.inf) -> Callable[[str], float]:
        def parse(text: str) -> float:
            if not 1 <= (value := number_type(text)) <= highest:
                raise ValueError
            return value

        parse.__name__ = "number of at least 1" if highest == math.inf else f"number from 1 to {highest}"
        return parse  # argparse's message has its name

    add = parser.add_argument
    add("--blip", default=None, help="checkpoint (path or URL) with BLIP's image encoder (default: `pretrained`)")
    add("--encoder", default=None, help=f"another frame encoder (default: the checkpoint's): {NAME_FORMS}")
    add("--examples", nargs="*", default=[], metavar="VIDEO", help="example videos: files, folders, .txt lists")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=at_least_one(int, 65535), default=7860, help="port to listen on (default: 7860)")
    for name, number_type, meaning in (
        ("max_seconds", float, "maximum length of a video"),
        ("max_megabytes", int, "maximum size of a file"),
        ("max_waiting", int, "maximum number of waiting requests"),
        ("keep_seconds", float, "lifetime of files"),
    ):
        default = getattr(Limits, name)
        add(f"--{name}", type=at_least_one(number_type), default=default, help=f"{meaning} (default: {default})")


def main(argv: list[str] | None = None) -> None:
    command = load_settings(Config, argv, __doc__.splitlines()[0], _add_arguments, RELEASED_CONFIG)
    config, args = command.settings, command.arguments
    examples = {path.name: path.resolve() for path in find_videos(args.examples).values()}
    limits = Limits(args.max_seconds, args.max_megabytes, args.max_waiting, args.keep_seconds)
    setup_logging(True)

    from summary import Summarizer

    summarizer = Summarizer(config, blip=args.blip, encoder=args.encoder)
    with tempfile.TemporaryDirectory(prefix="vtsum-app-", ignore_cleanup_errors=True) as root:
        work_dir, cache_dir = pathlib.Path(root, "work"), pathlib.Path(root, "files")
        work_dir.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(cache_dir)  # Gradio reads it when it is imported

        from summary.demo.page import build_page, serve

        service = SummaryService(summarizer, examples, work_dir, limits)
        page = build_page(service)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # before a client can see that the server is up
            signal.signal(number, lambda *_: ended.set())
        url = serve(page, service, args.host, args.port)
        print(f"{url} (files in {root})", flush=True)
        ended.wait()
        print("ending", flush=True)
        service.stop()
        page.close(verbose=False)


if __name__ == "__main__":
    run_main(main)
