"""The stages of a summary: their times, and their progress on a terminal and for a callback."""

import contextlib
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from utils.log import progress_bar

OnStage = Callable[[str, float], None]


class StageProgress:
    """Progress of a stage, in seconds of the video.

    Args:
        bar: shows it; with a total, it shows the remaining time.
        on_second: called with the current second.
    """

    def __init__(self, bar: tqdm, on_second: Callable[[float], None]) -> None:
        self._bar = bar
        self._on_second = on_second

    def set_total(self, total: float) -> None:
        """Set the second at which the stage will be complete."""
        self._bar.total = int(total)

    def advance_to(self, second: float) -> None:
        """Report the current second."""
        self._bar.update(int(second) - self._bar.n)
        self._on_second(second)


class Stages:
    """Times the stages of a summary and reports their progress.

    Args:
        name: printable name of the video.
        on_stage: called with (stage, second) at the start of each stage and during it.
    Attributes:
        timings: completed stage -> its time in seconds.
    """

    def __init__(self, name: str, on_stage: OnStage | None) -> None:
        self.name = name
        self.on_stage = on_stage or (lambda stage, second: None)
        self.timings: dict[str, float] = {}

    @contextlib.contextmanager
    def run(self, stage: str, total: float | None = None) -> Iterator[StageProgress]:
        """Time a stage; yields its progress.

        Args:
            stage: its name.
            total: second of the video at which it will be complete; None if it is not known yet.
        """
        start = time.perf_counter()
        self.on_stage(stage, 0.0)
        seconds = None if total is None else int(total)
        description = f"{self.name}: {stage}"
        with progress_bar(None, True, total=seconds, desc=description, unit=" s of video", leave=False) as bar:
            yield StageProgress(bar, lambda second: self.on_stage(stage, second))
            bar.update((bar.total or bar.n) - bar.n)
        self.timings[stage] = round(time.perf_counter() - start, 3)
