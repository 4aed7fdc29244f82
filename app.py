"""Summarise videos in a browser: upload one or choose an example, watch its skim beside it.

    python app.py --config configs/vtsum_blip_tt_ca.yaml --pretrained_model outputs/vtsum_tt_ca/vtsum_tt_ca.pth

then open http://127.0.0.1:7860. What is kept, the limits and other hosts: docs/demo.md.
"""

import html
import logging
import os
import pathlib
import shutil
import signal
import tempfile
import threading
import time

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, traverse
from starlette.middleware import Middleware

from data.video.files import find_videos
from engine.config import load_config
from summary.demo import share
from summary.demo.gate import Gate
from summary.demo.scratch import Scratch
from summary.demo.untrusted import check_video
from summary.selection import check_choice
from summary.summarizer import FILES, load, summarize
from utils.log import one_line, run_main, setup_logging

logger = logging.getLogger("app")

# Stage -> what a visitor reads, and where it begins and ends on the progress bar.
STAGES = {
    "features": ("Decoding and encoding", 0.0, 0.6),
    "model": ("Finding what matters, writing the caption", 0.6, 0.7),
    "choose": ("Choosing seconds", 0.7, 0.75),
    "skim": ("Cutting the skim", 0.75, 0.97),
    "page": ("Drawing the storyboard", 0.97, 1.0),
}
METHODS = [("the most salient seconds", "topk"), ("whole shots", "shots")]

# All that the page asks for; gradio has far more: functions by name, a proxy for addresses, an editor of this file.
API = "/gradio_api"
OPEN = [
    ("GET", r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.+", 0),
    ("GET", rf"{API}/(startup-events|app_id|heartbeat/\w+|queue/data|upload_progress|file=/.+)", 0),
    ("POST", rf"{API}/(run/predict|queue/join|cancel)", 2**16),  # run: only what needs no queue
]
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

CSS = """
.gradio-container { max-width: 78rem !important; width: 100% !important; margin: 0 auto !important; }
h1 { font-size: 1.5rem !important; font-weight: 600; }
.curve svg { display: block; width: 100%; height: 8rem; border-bottom: 1px solid var(--border-color-primary); }
.curve rect { fill: #f59e0b; opacity: .4; }
.curve polyline { fill: none; stroke: var(--body-text-color); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.curve .axis { display: flex; justify-content: space-between; font-size: .85rem; }
.curve p { margin: .5rem 0 1rem; }
.curve :is(table, tr, th, td) { border: 0 !important; }
.curve tbody tr { border-top: 1px solid var(--border-color-primary) !important; }
.curve table { width: auto; font-variant-numeric: tabular-nums; }
.curve :is(th, td) { text-align: right; padding: .15rem 0 .15rem 3rem; font-weight: 400; }
.curve :is(th, td):first-child { padding-left: 0; }
"""


class Left(Exception):
    """The visitor has left, or stopped the work."""


class Page(gr.Blocks):
    """Blocks that take no file from a visitor but one that was uploaded: gradio would also fetch addresses."""

    async def preprocess_data(self, block_fn, inputs, *args, **how):
        def only_uploaded(file):
            if not pathlib.Path(os.path.abspath(file["path"])).is_relative_to(gr.utils.get_upload_folder()):
                raise ValueError("found a file that was not uploaded")
            return file

        try:
            traverse(inputs, only_uploaded, is_file_obj_with_meta)
            return await super().preprocess_data(block_fn, inputs, *args, **how)
        except Exception as error:
            line = one_line(error)
            logger.info("refused: %s", line)
            line = line if isinstance(error, gr.Error) else "This request cannot be understood."
            raise gr.Error(html.escape(line), print_exception=False) from None


class Desk:
    """Takes visitors' videos and hands out summaries.

    Args:
        summarizer: what `summarize.load` gave.
        examples: name -> path.
        work: folder; each summary is made in a folder of its own in it.
        args: see `_add_arguments`.
    """

    def __init__(self, summarizer, examples, work, args):
        self.summarizer, self.examples, self.work, self.args = summarizer, examples, work, args
        self.stops = {}  # session -> `threading.Event`, while its summary is made

    def example(self, name):
        """Give the video of an example's name."""
        if name not in self.examples:
            raise gr.Error("There is no such example.", print_exception=False)
        return str(self.examples[name])

    def stop(self, request: gr.Request):
        """End what is being made for a visitor."""
        if request.session_hash in self.stops:
            self.stops[request.session_hash].set()

    def run(self, video, percent, method, request: gr.Request, progress=gr.Progress()):  # noqa: B008  gradio's way
        """Summarise a visitor's video: a note, skim, caption, HTML of the curve, button with the .zip."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.work))
        stop = self.stops.setdefault(request.session_hash, threading.Event())
        try:
            return self._summarize(video, percent, method, folder, stop, progress)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, Left):
                logger.info("stopped, or its visitor left")
                return [gr.skip()] * 5
            raise _for_visitor(error, video) from None
        finally:
            self.stops.pop(request.session_hash, None)

    def _summarize(self, video, percent, method, folder, stop, progress):
        if not video:
            raise ValueError("Please choose a video first.")
        if not isinstance(percent, (int, float)):
            raise ValueError("The length of the skim is not a number.")
        check_choice(percent / 100, method)
        path, start = pathlib.Path(video), time.monotonic()
        if not path.is_file():
            kept = _minutes(self.args.keep_seconds)
            raise ValueError(f"This file is no longer here: files are kept for {kept}. Please choose it again.")
        os.utime(path)  # so that it stays for as long as the summary
        duration = check_video(path, self.args.max_seconds)

        def on_stage(stage, second):
            if stop.is_set():
                raise Left
            what, first, last = STAGES[stage]
            progress(first + (last - first) * min(1.0, second / duration), desc=what)

        summary = summarize(self.summarizer, path, folder, percent / 100, method, on_stage)
        made = folder / path.stem
        logger.info("%s: %.1f s of video summarised in %.1f s", path.name, duration, time.monotonic() - start)
        bundle = made / f"{path.stem} summary.zip"
        share.pack(summary, made, bundle)
        button = gr.update(value=str(bundle), interactive=True)
        return "Done, see below.", str(made / FILES[0]), summary["caption"] or "", share.draw(summary), button


def _for_visitor(error, video):
    """An error as one line that names no folder of this machine; what was not expected only goes to the log."""
    line, place = one_line(error), f"{video}: video: "
    expected = isinstance(error, (ValueError, OSError))
    if expected and line.startswith(place):
        line = f"{pathlib.Path(video).name}: {line.removeprefix(place)}"
    elif not expected or "/" in line:
        logger.error("%s: %s", type(error).__name__, line, exc_info=not expected)
        line = "The summary could not be made. The server's log says why."
    logger.info("refused: %s", line)
    return gr.Error(html.escape(line), duration=30, print_exception=False)


def _minutes(seconds):
    return f"{seconds / 60:g} min"


def build(desk, args):
    """Lay out the page."""
    kept = f"Files are removed after {_minutes(args.keep_seconds)}."
    with Page(title="Video summary", analytics_enabled=False) as page:
        gr.Markdown(
            "# Video summary\nThe seconds of a video that matter, cut into a skim, and the whole told in one caption: "
            f"VTSUM-BLIP. {kept}"
        )
        with gr.Row():
            with gr.Column():
                limits = f"up to {_minutes(args.max_seconds)} and {args.max_megabytes} MB"
                upload = gr.File(label=f"Your video, {limits}", file_types=["video"], height=150)
                names = list(desk.examples)
                example = gr.Dropdown(names, value=None, label="or an example", visible=bool(names))
            with gr.Column():
                percent = gr.Slider(1, 100, 15, step=1, label="Length of the skim, % of the video", buttons=[])
                method = gr.Radio(METHODS, value="topk", label="Made of")
                with gr.Row():
                    start = gr.Button("Summarise", variant="primary")
                    stop = gr.Button("Stop")
                note = gr.Markdown(min_height=64)  # beside the button, which on a phone is far from the skim
        with gr.Row():
            video = gr.Video(label="Original", height=320, interactive=False, buttons=[])
            skim = gr.Video(label="Skim", height=320, interactive=False, buttons=[])
        caption = gr.Textbox(label="Caption", lines=2, interactive=False)
        curve = gr.Markdown(sanitize_html=False)  # holds nothing but numbers
        bundle = gr.DownloadButton("Download all (.zip)", interactive=False)
        outputs = [note, skim, caption, curve, bundle]
        nothing = ["", None, "", "", gr.update(value=None, interactive=False)]

        quick = dict(queue=False, api_visibility="private", show_progress="hidden")
        upload.upload(lambda path: (path, None), upload, [video, example], **quick)
        upload.clear(lambda: None, None, video, **quick)
        example.input(lambda name: (desk.example(name), None), example, [video, upload], **quick)
        video.change(lambda: nothing, None, outputs, **quick)  # what is shown is of another video
        how = dict(concurrency_limit=1, show_progress_on=note, api_visibility="private")
        made = start.click(desk.run, [video, percent, method], outputs, **how)
        stop.click(desk.stop, None, None, cancels=made, **quick)
        page.unload(desk.stop)
    return page.queue(max_size=args.max_waiting, api_open=False)


def serve(page, args):
    """Start the server in threads of its own; returns its address."""
    upload = ("POST", rf"{API}/upload", args.max_megabytes * 2**20 + 2**16)
    gate = Middleware(Gate, open_paths=[*OPEN, upload], headers=HEADERS)
    fonts = dict(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme = gr.themes.Default(primary_hue="amber", neutral_hue="stone", **fonts)
    theme.set(button_primary_text_color="*neutral_950", button_primary_text_color_dark="*neutral_950")
    try:
        _, url, _ = page.launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=args.max_megabytes * 2**20,
            app_kwargs=dict(middleware=[gate]),
            theme=theme,
            css=CSS,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
            **dict.fromkeys(["share", "ssr_mode", "pwa", "mcp_server", "run_history", "enable_monitoring"], False),
        )
    except OSError:
        raise ValueError(f"--host, --port: cannot listen on port {args.port} of {args.host}") from None
    return url


def _add_arguments(parser):
    def number(kind, least):
        def read(text):
            if not (value := kind(text)) >= least:
                raise ValueError
            return value

        read.__name__ = f"number of at least {least}"  # what argparse says
        return read

    add = parser.add_argument
    add("--blip", default=None, help="checkpoint (path or URL) with BLIP's image encoder (default: `pretrained`)")
    add("--examples", nargs="*", default=[], metavar="VIDEO", help="videos to choose from: files, folders, .txt lists")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=number(int, 1), default=7860, help="port to listen on (default: 7860)")
    add("--max_seconds", type=number(float, 1), default=600, help="longest video that is taken (default: 600)")
    add("--max_megabytes", type=number(int, 1), default=200, help="largest file that is taken (default: 200)")
    add("--max_waiting", type=number(int, 1), default=8, help="visitors that may wait for their turn (default: 8)")
    add("--keep_seconds", type=number(float, 1), default=3600, help="files are removed after so long (default: 3600)")


def main(argv=None):
    config, _, args = load_config(argv, __doc__.splitlines()[0], add_arguments=_add_arguments)
    videos = find_videos(args.examples)
    setup_logging(True)
    summarizer = load(config, blip=args.blip)
    with Scratch(args.keep_seconds, "files", "work") as scratch:
        files, work = scratch.folders
        os.environ["GRADIO_TEMP_DIR"] = str(files)  # uploads, and what is shown
        gr.routes.DEFAULT_TEMP_DIR = str(files)  # it has read that when it was imported
        examples = {path.name: scratch.root / "examples" / path.name for path in videos.values()}
        (scratch.root / "examples").mkdir()  # gradio takes no file from elsewhere
        for path in videos.values():
            examples[path.name].symlink_to(path.resolve())
        desk = Desk(summarizer, examples, work, args)
        page = build(desk, args)
        url, ended = serve(page, args), threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        print(f"{url} (files in {scratch.root})", flush=True)
        ended.wait()
        print("ending", flush=True)
        for stop in list(desk.stops.values()):
            stop.set()
        page.close(verbose=False)


if __name__ == "__main__":
    run_main(main)
