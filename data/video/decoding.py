"""Decode many videos in worker processes while the caller computes.

A worker that FFmpeg takes down with it costs one video, not the run.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal

import numpy as np

from data.video.preprocessing import preprocess
from data.video.reader import Video, as_shown


@dataclasses.dataclass(frozen=True)
class Job:
    """A video to decode at 1 fps: `frames` of them, None for as many as its duration says."""

    video_id: str
    path: str
    frames: int | None = None


@dataclasses.dataclass(frozen=True)
class Frames:
    """Consecutive frames of a video, as each encoder wants to see them: name -> (n, S, S, 3) uint8."""

    job: Job
    pixels: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class End:
    """A video is through: the `Video`, its timeline verified, or the reason why it cannot be decoded."""

    job: Job
    video: Video | None = None
    reason: str | None = None


def decode(job, transforms, chunk):
    """Decode one video: yields `Frames` of `chunk` seconds each (the last of fewer), then `End`; never raises."""
    try:
        video, rows = Video(job.path), []
        for _, frame in video.each_second(job.frames):
            image = as_shown(frame)
            rows.append({name: preprocess(image, transform) for name, transform in transforms.items()})
            if len(rows) == chunk:
                yield _together(job, rows)
                rows = []
        if rows:
            yield _together(job, rows)
        yield End(job, video=video)
    except (OSError, ValueError) as error:  # already a line that names the file
        yield End(job, reason=" ".join(str(error).split()))
    except Exception as error:  # no file may stop the run, whatever it makes FFmpeg or Pillow raise
        yield End(job, reason=" ".join(f"{job.path}: video: {type(error).__name__}: {error}".split()))


def _together(job, rows):
    return Frames(job, {name: np.stack([row[name] for row in rows]) for name in rows[0]})


def decode_videos(jobs, transforms, *, chunk, workers):
    """Decode videos side by side.

    Args:
        jobs: list of `Job`, begun in this order.
        transforms: name -> `FrameTransform`.
        chunk: frames that come together; each worker is at most one chunk ahead.
        workers: processes; 0 decodes in a thread of this one, which no program that a user writes need prepare for.
    Yields:
        `Frames` and one `End` for each job. Those of one job come in order, those of several jobs mixed.
    """
    if workers == 0:
        yield from _ahead(event for job in jobs for event in decode(job, transforms, chunk))
        return
    waiting = collections.deque(jobs)
    with contextlib.ExitStack() as stack:
        busy = {}  # connection -> (process, job)

        def start():
            connection, process = _start_worker(transforms, chunk)
            stack.callback(_stop_worker, connection, process)
            give(connection, process)

        def give(connection, process):
            if waiting:
                with contextlib.suppress(OSError):  # it has just died: its answer will not come
                    connection.send(waiting[0])
                busy[connection] = process, waiting.popleft()

        for _ in range(min(workers, len(jobs))):
            start()
        while busy:
            for connection in multiprocessing.connection.wait(list(busy)):
                process, job = busy[connection]
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    process.join()
                    yield End(job, reason=f"{job.path}: video: its decoder ended with {_how(process.exitcode)}")
                    if waiting:
                        start()
                    continue
                if isinstance(event, End):
                    del busy[connection]
                    give(connection, process)
                yield event


def _ahead(events):
    """Let a thread be one event ahead of the consumer."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, events, None)
        while (event := coming.result()) is not None:
            coming = thread.submit(next, events, None)
            yield event


def _start_worker(transforms, chunk):
    # A fresh process to fork from: this one may have threads, a GPU and the other workers' pipes.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, transforms, chunk), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _stop_worker(connection, process):
    connection.close()
    process.terminate()
    process.join()


def _work(connection, transforms, chunk):
    """A worker: takes jobs until the other side is gone."""
    for number in (signal.SIGINT, signal.SIGUSR1):  # the caller ends it
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            for event in decode(connection.recv(), transforms, chunk):
                connection.send(event)


def _how(exitcode):
    return signal.Signals(-exitcode).name if exitcode and exitcode < 0 else f"status {exitcode}"
