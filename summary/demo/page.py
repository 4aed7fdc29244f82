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
from summary.demo.uploads import is_playable
from summary.page import METHOD_LABELS, render_segments
from summary.selection import MIN_SKIM_SECONDS
from utils.log import one_line

logger = logging.getLogger(__name__)

# Gradio announces this to screen readers when a request ends, and has no text for it.
TRANSLATIONS = gr.I18n(en={"common.complete": "Ready"})

# The requests of the page. Gradio has more routes: functions by name, a proxy for URLs, an editor of this file.
API = "/gradio_api"
ALLOWED_REQUESTS = [
    ("GET", r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.+", 0),
    ("GET", rf"{API}/(startup-events|app_id|heartbeat/\w+|queue/data|upload_progress|file=/.+)", 0),
    ("POST", rf"{API}/(run/predict|queue/join|cancel|reset)", 2**16),  # run: only what needs no queue
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
.problem { color: var(--error-text-color); font-weight: 600; overflow-wrap: anywhere; }
.progress span.error { display: none; } /* of a request that is refused: the message about it says more */
.curve .plot { display: grid; grid-template-columns: auto 1fr; padding-top: .5rem; }
.curve .values { position: relative; padding-right: .5rem; }
.curve :is(.values, .axis) { font-size: .85rem; font-variant-numeric: tabular-nums; }
.curve .values span { position: absolute; right: .5rem; transform: translateY(-50%); }
.curve .values b { visibility: hidden; font-weight: 400; }
.curve svg { display: block; width: 100%; height: 8rem; border: solid var(--border-color-primary); }
.curve svg { border-width: 0 0 1px 1px; }
.curve rect { fill: #f59e0b; opacity: .4; }
.curve polyline { fill: none; stroke: var(--body-text-color); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.curve .axis { grid-column: 2; position: relative; height: 1.5rem; }
.curve .axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.curve .axis span:first-child { transform: none; }
.curve .axis span:last-child { transform: translateX(-100%); }
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


def _describe_error(error: Exception, video: str | None) -> str:
    """Describe an error in one line without paths of the server; unexpected errors are only logged."""
    line, prefix = one_line(error), f"{video}: video: "
    is_expected = isinstance(error, (ValueError, OSError))
    if is_expected and line.startswith(prefix):
        line = f"{pathlib.Path(video or '').name}: {line.removeprefix(prefix)}"
    elif not is_expected or "/" in line:
        logger.error("%s: %s", type(error).__name__, line, exc_info=not is_expected)
        line = "The summary failed. See the server's log for the reason."
    logger.info("refused: %s", line)
    return line


def _render_problem(line: str) -> str:
    """Render a message at the upload field; "" if there is none."""
    return f'<p class="problem" role="alert">{html.escape(line)}</p>' if line else ""


def _render_notes(summary: dict[str, Any]) -> str:
    """Render the line beside the button when a summary is complete."""
    notes = ["Done, see below.", *summary["selection_notes"]]
    if (seconds := sum(summary["chosen"])) < MIN_SKIM_SECONDS <= len(summary["chosen"]):
        notes.append(f"A skim of {seconds} s is hard to follow: increase its length.")
    return html.escape(" ".join(notes))


def _format_minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min"


# Updates of note, skim, caption, curve and the download button when there is no summary.
CLEARED = ("", gr.update(value=None, visible=False), "", "", gr.update(value=None, interactive=False))


class EventHandlers:
    """Handlers of the page's events.

    Args:
        service: summarizes the uploads.
    """

    def __init__(self, service: SummaryService) -> None:
        self.service = service

    def choose_upload(self, path: str | None) -> tuple[Any, ...]:
        """Check an upload and show it.

        Returns:
            Updates of source, original, upload, example, problem and the start button.
        """
        source, original, problem, start_button = self._choose(path)
        return source, original, source, None, problem, start_button

    def choose_example(self, name: str) -> tuple[Any, ...]:
        """Show an example; returns the same updates as `choose_upload`."""
        if name not in self.service.examples:
            raise gr.Error("There is no such example.", print_exception=False)
        source, original, problem, start_button = self._choose(str(self.service.examples[name]))
        return source, original, None, name, problem, start_button

    def _choose(self, path: str | None) -> tuple[str | None, Any, str, Any]:
        """Check a video.

        Returns:
            Its path, None if it is refused; the update of its player; the problem; and the update of the start button,
            which is disabled while a refusal is shown.
        """
        enabled = gr.update(interactive=True)
        hidden = gr.update(value=None, visible=False)
        if not path:
            return None, hidden, "", enabled
        try:
            self.service.check(path)
        except Exception as error:
            return None, hidden, _render_problem(_describe_error(error, path)), gr.update(interactive=False)
        return path, gr.update(value=path, visible=True) if is_playable(path) else hidden, "", enabled

    def summarize(
        self,
        video: str | None,
        percent: float,
        method: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's interface)
    ) -> Iterator[tuple[Any, ...]]:
        """Summarize a video; yields problem, note, skim, caption, curve and the update of the download button.

        It is a generator: Gradio copies the yielded files to its cache before the request's folder is removed.
        """

        def on_progress(fraction: float, label: str) -> None:
            progress(fraction, desc=label)

        try:
            with self.service.summarize(str(request.session_hash), video, percent, method, on_progress) as served:
                summary = served.summary
                skim = gr.update(value=str(served.skim), visible=True)
                button = gr.update(value=str(served.bundle), interactive=True)
                yield "", _render_notes(summary), skim, summary["caption"] or "", render_segments(summary), button
        except Cancelled:
            logger.info("stopped, or the client disconnected")
        except Exception as error:
            yield _render_problem(_describe_error(error, video)), *CLEARED

    def stop(self, request: gr.Request) -> None:
        """Cancel the request of a session."""
        self.service.stop(request.session_hash)

    def stop_and_note(self, note: str, request: gr.Request) -> str:
        """Cancel the request of a session; returns the line beside the button, which a complete summary keeps."""
        self.stop(request)
        return note or "Stopped."


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
        if service.model_note:
            gr.Markdown(f"**{html.escape(service.model_note)}**")
        with gr.Row():
            with gr.Column():
                bounds = f"up to {_format_minutes(limits.max_seconds)} and {limits.max_megabytes} MB"
                # Without `file_types`: Gradio would refuse other files beside the page, not at the field.
                upload = gr.File(label=f"Your video, {bounds}", height=150)
                problem = gr.Markdown(sanitize_html=False, latex_delimiters=[])  # safe: escaped
                names = list(service.examples)
                example = gr.Dropdown(names, value=None, label="or an example", visible=bool(names))
            with gr.Column():
                percent = gr.Slider(1, 100, 15, step=1, label="Length of the skim, % of the video", buttons=[])
                method = gr.Radio(
                    [(label, name) for name, label in METHOD_LABELS.items()], value="topk", label="Selection"
                )
                with gr.Row():
                    start_button = gr.Button("Summarize", variant="primary")
                    stop_button = gr.Button("Stop")
                # Next to the button: on a phone, the skim is far below.
                note = gr.Markdown(min_height=64, elem_classes="progress")
        source = gr.File(visible=False)  # the chosen video; `original` is empty if browsers cannot play it
        with gr.Row():
            original = gr.Video(
                label="Original", height=320, interactive=False, buttons=[], visible=False, min_width=320
            )
            skim = gr.Video(label="Skim", height=320, interactive=False, buttons=[], visible=False, min_width=320)
        caption = gr.Textbox(label="Caption", lines=2, interactive=False)
        curve = gr.Markdown(sanitize_html=False)  # safe: numbers only
        bundle = gr.DownloadButton("Download all (.zip)", interactive=False)
        outputs = [note, skim, caption, curve, bundle]
        choice = [source, original, upload, example, problem, start_button, *outputs]

        for event, handler, inputs in (
            (upload.upload, lambda path: (*handlers.choose_upload(path), *CLEARED), upload),
            (upload.clear, lambda: (*handlers.choose_upload(None), *CLEARED), None),
            (example.input, lambda name: (*handlers.choose_example(name), *CLEARED), example),
        ):
            event(handler, inputs, choice, queue=False, api_visibility="private", show_progress="hidden")
        # Before the request: the page calls the functions of a click one after another.
        start_button.click(lambda: "", None, note, queue=False, api_visibility="private", show_progress="hidden")
        summarizing = start_button.click(
            handlers.summarize,
            [source, percent, method],
            [problem, *outputs],
            concurrency_limit=1,
            show_progress_on=note,
            api_visibility="private",
        )
        stop_button.click(
            handlers.stop_and_note,
            note,
            note,
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
        ValueError: the port is taken, or the host is not an address of this machine.
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
            i18n=TRANSLATIONS,
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
        raise ValueError(
            f"--host, --port: cannot listen on port {port} of {host}: another program uses the port, or {host} is not "
            "an address of this machine; use --port N or another --host"
        ) from None
    return url
