"""The demo page: layout, events and server of `app.py`, in Gradio.

Set GRADIO_TEMP_DIR before the first import: Gradio keeps uploads and displayed files in that folder.
"""

import html
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any, cast

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, traverse
from starlette.middleware import Middleware

from summary.demo.request_filter import RequestFilter
from summary.demo.service import Cancelled, SummaryService
from summary.page import render_segments
from utils.log import one_line

logger = logging.getLogger(__name__)

METHOD_LABELS = [("the most salient seconds", "topk"), ("whole shots", "shots")]

# The requests of the page. Gradio has more routes: functions by name, a proxy for URLs, an editor of this file.
API = "/gradio_api"
ALLOWED_REQUESTS = [
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


class UploadOnlyBlocks(gr.Blocks):
    """Blocks that only accept uploaded files: Gradio would also fetch URLs."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Check that all files among the inputs are uploads."""

        def require_uploaded(file: dict[str, Any]) -> dict[str, Any]:
            if not pathlib.Path(os.path.abspath(file["path"])).is_relative_to(gr.utils.get_upload_folder()):
                raise ValueError("found a file that was not uploaded")
            return file

        try:
            traverse(inputs, require_uploaded, is_file_obj_with_meta)
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except Exception as error:
            line = one_line(error)
            logger.info("refused: %s", line)
            line = line if isinstance(error, gr.Error) else "This request is not valid."
            raise gr.Error(html.escape(line), print_exception=False) from None


def _to_gradio_error(error: Exception, video: str) -> gr.Error:
    """Convert an error to one line without paths of the server; unexpected errors are only logged."""
    line, prefix = one_line(error), f"{video}: video: "
    is_expected = isinstance(error, (ValueError, OSError))
    if is_expected and line.startswith(prefix):
        line = f"{pathlib.Path(video).name}: {line.removeprefix(prefix)}"
    elif not is_expected or "/" in line:
        logger.error("%s: %s", type(error).__name__, line, exc_info=not is_expected)
        line = "The summary failed. See the server's log for the reason."
    logger.info("refused: %s", line)
    return gr.Error(html.escape(line), duration=30, print_exception=False)


def _format_minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min"


class EventHandlers:
    """Handlers of the page's events.

    Args:
        service: summarizes the uploads.
    """

    def __init__(self, service: SummaryService) -> None:
        self.service = service

    def show_example(self, name: str) -> tuple[str, None]:
        """Return the path of an example, and clear the upload."""
        if name not in self.service.examples:
            raise gr.Error("There is no such example.", print_exception=False)
        return str(self.service.examples[name]), None

    def summarize(
        self,
        video: str,
        percent: float,
        method: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's interface)
    ) -> Iterator[tuple[str, str, str, str, Any]]:
        """Summarize a video; yields note, skim, caption, curve and the update of the download button.

        It is a generator: Gradio copies the yielded files to its cache before the request's folder is removed.
        """

        def on_progress(fraction: float, label: str) -> None:
            progress(fraction, desc=label)

        try:
            with self.service.summarize(str(request.session_hash), video, percent, method, on_progress) as served:
                caption, button = served.summary["caption"] or "", gr.update(value=str(served.bundle), interactive=True)
                yield "Done, see below.", str(served.skim), caption, render_segments(served.summary), button
        except Cancelled:
            logger.info("stopped, or the client disconnected")
        except Exception as error:
            raise _to_gradio_error(error, video) from None

    def stop(self, request: gr.Request) -> None:
        """Cancel the request of a session."""
        self.service.stop(request.session_hash)


def build_page(service: SummaryService) -> gr.Blocks:
    """Build the page and connect it to the service."""
    limits, handlers = service.limits, EventHandlers(service)
    # Interval and lifetime in seconds; floats are accepted, too.
    delete_cache = cast(tuple[int, int], (min(60, limits.keep_seconds / 4), limits.keep_seconds))
    with UploadOnlyBlocks(title="Video summary", analytics_enabled=False, delete_cache=delete_cache) as page:
        gr.Markdown(
            "# Video summary\nA skim of the seconds of a video that matter, and a caption of the whole video, by "
            f"VTSUM-BLIP. Files are removed after {_format_minutes(limits.keep_seconds)}."
        )
        with gr.Row():
            with gr.Column():
                bounds = f"up to {_format_minutes(limits.max_seconds)} and {limits.max_megabytes} MB"
                upload = gr.File(label=f"Your video, {bounds}", file_types=["video"], height=150)
                names = list(service.examples)
                example = gr.Dropdown(names, value=None, label="or an example", visible=bool(names))
            with gr.Column():
                percent = gr.Slider(1, 100, 15, step=1, label="Length of the skim, % of the video", buttons=[])
                method = gr.Radio(METHOD_LABELS, value="topk", label="Selection")
                with gr.Row():
                    start_button = gr.Button("Summarize", variant="primary")
                    stop_button = gr.Button("Stop")
                note = gr.Markdown(min_height=64)  # next to the button: on a phone, the skim is far below
        with gr.Row():
            video = gr.Video(label="Original", height=320, interactive=False, buttons=[])
            skim = gr.Video(label="Skim", height=320, interactive=False, buttons=[])
        caption = gr.Textbox(label="Caption", lines=2, interactive=False)
        curve = gr.Markdown(sanitize_html=False)  # safe: numbers only
        bundle = gr.DownloadButton("Download all (.zip)", interactive=False)
        outputs = [note, skim, caption, curve, bundle]
        cleared = ["", None, "", "", gr.update(value=None, interactive=False)]

        upload.upload(
            lambda path: (path, None),
            upload,
            [video, example],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        upload.clear(lambda: None, None, video, queue=False, api_visibility="private", show_progress="hidden")
        example.input(
            handlers.show_example,
            example,
            [video, upload],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        # The displayed summary is of another video.
        video.change(lambda: cleared, None, outputs, queue=False, api_visibility="private", show_progress="hidden")
        summarizing = start_button.click(
            handlers.summarize,
            [video, percent, method],
            outputs,
            concurrency_limit=1,
            show_progress_on=note,
            api_visibility="private",
        )
        stop_button.click(
            handlers.stop,
            None,
            None,
            cancels=summarizing,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        page.unload(handlers.stop)
    return page.queue(max_size=limits.max_waiting, api_open=False)


def serve(page: gr.Blocks, service: SummaryService, host: str, port: int) -> str:
    """Start the server in the background and return its address.

    Raises:
        ValueError: the port is taken.
    """
    max_bytes = service.limits.max_megabytes * 2**20
    upload = ("POST", rf"{API}/upload", max_bytes + 2**16)
    request_filter = Middleware(RequestFilter, allowed=[*ALLOWED_REQUESTS, upload], headers=HEADERS)
    theme = gr.themes.Default(
        primary_hue="amber",
        neutral_hue="stone",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    theme.set(button_primary_text_color="*neutral_950", button_primary_text_color_dark="*neutral_950")
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_bytes,
            allowed_paths=[str(path) for path in service.examples.values()],
            app_kwargs=dict(middleware=[request_filter]),
            theme=theme,
            css=CSS,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
        )
    except OSError:
        raise ValueError(f"--host, --port: cannot listen on port {port} of {host}") from None
    return url
