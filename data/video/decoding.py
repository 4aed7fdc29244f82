"""Decode videos in worker processes, in parallel with the caller.

If FFmpeg crashes, a worker process ends and one video fails, not the run.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, cast

import numpy as np

from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from utils.frame_transform import FrameTransform


@dataclasses.dataclass(frozen=True)
class DecodeJob:
    """A video to decode at 1 fps.

    Attributes:
        video_id: its id.
        path: its file.
        num_frames: number of frames to decode; None is its duration in seconds, rounded up.
    """

    video_id: str
    path: str
    num_frames: int | None = None


@dataclasses.dataclass(frozen=True)
class FrameChunk:
    """Consecutive frames of a video, preprocessed for each encoder.

    Attributes:
        job: the job.
        pixels: encoder's name -> (n, S, S, 3) uint8.
        total: number of frames of the video; damage that decoding finds may still change it.
    """

    job: DecodeJob
    pixels: dict[str, np.ndarray]
    total: int


@dataclasses.dataclass(frozen=True)
class DecodeResult:
    """Result of a job: decoding finished or failed.

    Attributes:
        job: the job.
        video: the video, with its verified timeline; None if decoding failed.
        reason: one-line description of the failure.
    """

    job: DecodeJob
    video: VideoFile | None = None
    reason: str | None = None


DecodeEvent = FrameChunk | DecodeResult


def decode(job: DecodeJob, transforms: dict[str, FrameTransform], chunk: int) -> Iterator[DecodeEvent]:
    """Decode one video; never raises.

    Args:
        job: the video.
        transforms: encoder's name -> preprocessing.
        chunk: frames per `FrameChunk`; the last one has fewer.
    Yields:
        `FrameChunk`s in order, then one `DecodeResult`.
    """
    try:
        video = VideoFile(job.path)
        rows: list[dict[str, np.ndarray]] = []
        for _, frame in video.iter_sampled_frames(job.num_frames):
            image = to_upright_rgb(frame)
            rows.append({name: preprocess(image, transform) for name, transform in transforms.items()})
            if len(rows) == chunk:
                yield _stack(job, rows, video)
                rows = []
        if rows:
            yield _stack(job, rows, video)
        yield DecodeResult(job, video=video)
    except (OSError, ValueError) as error:  # their messages name the file
        yield DecodeResult(job, reason=" ".join(str(error).split()))
    except Exception as error:  # of FFmpeg or Pillow: a bad file must not stop the run
        yield DecodeResult(job, reason=" ".join(f"{job.path}: video: {type(error).__name__}: {error}".split()))


def _stack(job: DecodeJob, rows: Sequence[dict[str, np.ndarray]], video: VideoFile) -> FrameChunk:
    pixels = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return FrameChunk(job, pixels, job.num_frames or video.timeline.seconds)


def decode_videos(
    jobs: Sequence[DecodeJob], transforms: dict[str, FrameTransform], *, chunk: int, workers: int
) -> Iterator[DecodeEvent]:
    """Decode videos in parallel.

    Args:
        jobs: videos, started in this order.
        transforms: encoder's name -> preprocessing.
        chunk: frames per `FrameChunk`; each worker is at most one chunk ahead.
        workers: processes; 0 decodes in a thread of this process, also for scripts without `if __name__ == "__main__"`.
    Yields:
        `FrameChunk`s and one `DecodeResult` for each job: in order within a job, interleaved between jobs.
    """
    if workers == 0:
        yield from _prefetch(event for job in jobs for event in decode(job, transforms, chunk))
        return
    waiting = collections.deque(jobs)
    with contextlib.ExitStack() as stack:
        running: dict[Connection, tuple[BaseProcess, collections.deque[DecodeJob]]] = {}

        def start() -> None:
            connection, process = _start_worker(transforms, chunk)
            stack.callback(_stop_worker, connection, process)
            running[connection] = process, collections.deque()

        def assign(connection: Connection) -> None:
            if waiting:
                with contextlib.suppress(OSError):  # the worker has crashed: `recv` raises, too
                    connection.send(waiting[0])
                running[connection][1].append(waiting.popleft())

        def fill() -> None:
            """Assign two jobs to each worker: it starts the second while the caller processes the end of the first."""
            for count in range(2):
                for connection, (_, assigned) in running.items():
                    if len(assigned) == count:
                        assign(connection)

        for _ in range(min(workers, len(jobs))):
            start()
        fill()
        while running:
            for ready in multiprocessing.connection.wait(list(running)):
                connection = cast(Connection, ready)
                process, assigned = running[connection]
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    process.join()
                    job = assigned.popleft()
                    waiting.extendleft(assigned)
                    cause = _describe_exit(process.exitcode)
                    yield DecodeResult(job, reason=f"{job.path}: video: its decoder ended with {cause}")
                    if waiting:
                        start()
                        fill()
                    continue
                if isinstance(event, DecodeResult):
                    assigned.popleft()
                    fill()
                    if not assigned:
                        del running[connection]
                yield event


def _prefetch(events: Iterator[DecodeEvent]) -> Iterator[DecodeEvent]:
    """Compute one event ahead of the consumer, in a thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, events, None)
        while (event := future.result()) is not None:
            future = thread.submit(next, events, None)
            yield event


def _start_worker(transforms: dict[str, FrameTransform], chunk: int) -> tuple[Connection, BaseProcess]:
    # Not forked from this process, which may have threads, a GPU and the pipes of other workers.
    context: Any = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    parent_end, worker_end = context.Pipe()
    process = context.Process(target=_run_worker, args=(worker_end, transforms, chunk), daemon=True)
    process.start()
    worker_end.close()
    return parent_end, process


def _stop_worker(connection: Connection, process: BaseProcess) -> None:
    connection.close()
    process.terminate()
    process.join()


def _run_worker(connection: Connection, transforms: dict[str, FrameTransform], chunk: int) -> None:
    """Decode jobs from the connection until it is closed."""
    for number in (signal.SIGINT, signal.SIGUSR1):  # handled by the parent process, which terminates the worker
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            for event in decode(connection.recv(), transforms, chunk):
                connection.send(event)


def _describe_exit(exitcode: int | None) -> str:
    return signal.Signals(-exitcode).name if exitcode and exitcode < 0 else f"status {exitcode}"
