"""Write the video files of mini VideoXum, in one process per core.

This module does not import torch: each process imports it.
"""

import concurrent.futures
import functools
import logging
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Sequence
from typing import Any

from data.mini.plans import VideoPlan
from data.mini.rendering import render_video
from utils.files import atomic_write
from utils.log import ProgressInterval, progress_bar

logger = logging.getLogger(__name__)


def write_videos(folder: pathlib.Path, plans: Sequence[VideoPlan]) -> None:
    """Render videos to `{video_id}.mp4`.

    Args:
        folder: existing folder.
        plans: plans of the videos.
    """
    # Not forked from this process, which may have threads.
    context: Any = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_processes = max(1, min(len(plans), num_cores))
    interval = ProgressInterval()
    with (
        concurrent.futures.ProcessPoolExecutor(
            num_processes, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        ) as pool,
        progress_bar(None, True, total=len(plans), desc="render", unit="video") as bar,
    ):
        for count, _ in enumerate(pool.map(functools.partial(_write_video, folder), plans), 1):
            bar.update()
            if bar.disable and interval.is_over():
                logger.info("rendered %d of %d videos", count, len(plans))


def _write_video(folder: pathlib.Path, plan: VideoPlan) -> None:
    with atomic_write(folder / f"{plan.video_id}.mp4", "wb") as file:
        render_video(plan, file)
