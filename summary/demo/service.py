"""Summaries of uploaded videos: limits, progress and cancellation, independent of the page."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from summary.demo.bundle import write_bundle
from summary.demo.uploads import check_upload
from summary.files import SKIM_FILE
from summary.selection import check_selection

if TYPE_CHECKING:
    from summary.summarizer import Summarizer

logger = logging.getLogger(__name__)

# Stage of `Summarizer.summarize` -> its label, and its start and end on the progress bar.
STAGES = {
    "features": ("Decoding and encoding", 0.0, 0.6),
    "model": ("Finding what matters, writing the caption", 0.6, 0.7),
    "choose": ("Choosing seconds", 0.7, 0.75),
    "skim": ("Cutting the skim", 0.75, 0.97),
    "page": ("Drawing the storyboard", 0.97, 1.0),
}


class Cancelled(Exception):
    """The client has closed the page, or stopped the request."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Attributes:
        max_seconds: longest video that is accepted.
        max_megabytes: largest file that is accepted.
        max_waiting: maximum length of the queue.
        keep_seconds: lifetime of files.
    """

    max_seconds: float = 600
    max_megabytes: int = 200
    max_waiting: int = 8
    keep_seconds: float = 3600


@dataclasses.dataclass(frozen=True)
class ServedSummary:
    """A summary: the content of `summary.json`, and files that exist until the request ends."""

    summary: dict[str, Any]
    skim: pathlib.Path
    bundle: pathlib.Path


class SummaryService:
    """Summarizes uploaded videos.

    Args:
        summarizer: summarizes them; None for a page without a model (tests).
        examples: name -> path of example videos.
        work_dir: folder of a request's files while it is served.
        limits: limits of uploads and files.
    """

    def __init__(
        self,
        summarizer: "Summarizer | None",
        examples: dict[str, pathlib.Path],
        work_dir: str | os.PathLike,
        limits: Limits,
    ) -> None:
        self.summarizer = summarizer
        self.examples = examples
        self.work_dir = work_dir
        self.limits = limits
        self._stop_events: dict[str, threading.Event] = {}  # by session, while its request is served

    @property
    def model_note(self) -> str:
        """Sentence about the model; "" if there is none."""
        return "" if self.summarizer is None else self.summarizer.note

    def check(self, video: str | None) -> tuple[pathlib.Path, float]:
        """Check a chosen video; returns its path, and its duration in seconds.

        Raises:
            ValueError: none is chosen, its file is removed, or it is refused; see `check_upload`.
        """
        if not video:
            raise ValueError("Please choose a video first.")
        path = pathlib.Path(video)
        if not path.is_file():
            raise ValueError(
                f"This file is no longer here: files are kept for {self.limits.keep_seconds / 60:g} min. "
                "Please choose it again."
            )
        return path, check_upload(path, self.limits.max_seconds)

    def stop(self, session: str | None = None) -> None:
        """Cancel the request of a session; None cancels all requests."""
        for key, event in list(self._stop_events.items()):
            if session in (None, key):
                event.set()

    @contextlib.contextmanager
    def summarize(
        self, session: str, video: str | None, percent: float, method: str, on_progress: Callable[[float, str], None]
    ) -> Iterator[ServedSummary]:
        """Summarize an uploaded video; its files exist within the `with` block.

        Args:
            session: session of the client, for `stop`.
            video: path of the upload; None if there is none.
            percent: percentage of the video to keep.
            method: see `summary.selection`.
            on_progress: called with the completed fraction, and the stage's label.
        Raises:
            Cancelled: `stop` was called.
            ValueError, OSError: the request or the video is refused, or the summary cannot be written.
        """
        if not isinstance(percent, (int, float)):
            raise ValueError("The length of the skim is not a number.")
        check_selection(percent / 100, method)
        start = time.monotonic()
        path, duration = self.check(video)
        os.utime(path)  # keep the upload for as long as the summary
        stop_event = self._stop_events.setdefault(session, threading.Event())

        def on_stage(stage: str, second: float) -> None:
            if stop_event.is_set():
                raise Cancelled
            label, first, last = STAGES[stage]
            on_progress(first + (last - first) * min(1.0, second / duration), label)

        try:
            with tempfile.TemporaryDirectory(dir=self.work_dir) as folder:
                assert self.summarizer is not None
                summary = self.summarizer.summarize(path, folder, percent / 100, method, on_stage)
                files = pathlib.Path(folder, path.stem)
                logger.info("%s: %.1f s of video summarized in %.1f s", path.name, duration, time.monotonic() - start)
                bundle = files / f"{path.stem} summary.zip"
                write_bundle(summary, files, bundle)
                yield ServedSummary(summary, files / SKIM_FILE, bundle)
        finally:
            self._stop_events.pop(session, None)
