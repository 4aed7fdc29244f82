"""Scoring of predictions in a separate process, while the run predicts the next split.

In a thread of the run, it would compete for Python's global lock with the launches of GPU kernels.
"""

import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from data.annotations import Subset, VideoRecord
from engine.predictions import Prediction, write_predictions
from engine.scoring import describe_subset, score_predictions, score_subset, write_scores
from metrics.captions import start_meteor
from utils import interrupt


@dataclasses.dataclass(frozen=True)
class ScoringJob:
    """The predictions of a split, and what their scores depend on.

    Attributes:
        output_dir: folder of the files to write.
        split: name of the split.
        predictions: one for each record, in the same order.
        records: the split.
        baselines: `ScoredSplit.baselines` of an earlier job of the split; {} computes all.
        subset: restriction of the split, for the results; None is the whole split.
        also_subset: videos to score in addition, see `Config.also_subset`.
        frame_features: see `score_predictions`.
        captions_left_out: see `score_predictions`.
        origin: further entries of the results.
    """

    output_dir: str
    split: str
    predictions: Sequence[Prediction]
    records: Sequence[VideoRecord]
    baselines: dict[str, Any]
    subset: Subset | None
    also_subset: Subset | None
    frame_features: Callable[[str], np.ndarray] | None
    captions_left_out: str | None
    origin: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ScoredSplit:
    """Result of a `ScoringJob`, whose files are written.

    Attributes:
        split: its name.
        results: content of `results_{split}.json`.
        baselines: name of the split or of the subset -> baselines.
        log_records: messages, for the log of the run.
    """

    split: str
    results: dict[str, Any]
    baselines: dict[str, Any]
    log_records: list[logging.LogRecord]


class _RecordList(logging.Handler):
    """Collects log records with formatted messages, so that they can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        self.records.append(record)


def score_split(job: ScoringJob) -> ScoredSplit:
    """Score a split, and write its predictions, results and scores."""
    handler, root = _RecordList(), logging.getLogger()
    root.addHandler(handler)
    try:
        write_predictions(job.output_dir, job.split, job.predictions, job.records)
        results, scores = score_predictions(
            job.predictions,
            job.records,
            job.baselines.get(job.split),
            frame_features=job.frame_features,
            captions_left_out=job.captions_left_out,
        )
        baselines = {job.split: results["baselines"]}
        if job.subset is not None:
            results["subset"] = describe_subset(job.subset, job.records)
        if job.also_subset is not None:
            name = job.also_subset.name
            part = score_subset(
                job.predictions,
                job.records,
                job.also_subset,
                job.baselines.get(f"{job.split} {name}"),
                frame_features=job.frame_features,
                captions_left_out=job.captions_left_out,
            )
            baselines[f"{job.split} {name}"] = part["baselines"]
            results["subsets"] = {name: part}
        results |= job.origin
        write_scores(job.output_dir, job.split, results, scores)
    finally:
        root.removeHandler(handler)
    return ScoredSplit(job.split, results, baselines, handler.records)


class ScoringProcess:
    """A process that scores one split after the other; METEOR's Java process is started once in it.

    It ends with this process.
    """

    def __init__(self) -> None:
        # Not forked from this process, which may have threads and a GPU.
        context: Any = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        self._jobs = context.Queue()
        self._results, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(self._jobs, sender), daemon=True)
        self._process.start()
        sender.close()
        self._num_pending = 0

    @property
    def is_busy(self) -> bool:
        """Whether there are results that `poll` has not returned."""
        return self._num_pending > 0

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.is_alive()

    def start_meteor(self) -> None:
        """Start METEOR's Java process, in parallel with the caller."""
        self._jobs.put(None)

    def submit(self, job: ScoringJob) -> None:
        """Start a job after those that were submitted before."""
        self._num_pending += 1
        self._jobs.put((os.getcwd(), job))

    def poll(self) -> list[ScoredSplit]:
        """Return the results that are new.

        Raises:
            Exception: of a job that failed.
            OSError: the process was killed.
        """
        scored: list[ScoredSplit] = []
        while self._num_pending and self._results.poll():
            try:
                result = self._results.recv()
            except EOFError:
                self.kill()
                raise OSError(
                    "scoring: its process was killed, perhaps for lack of memory; METEOR needs about 2 GB; score "
                    "predictions_{split}.jsonl by python -m metrics"
                ) from None
            self._num_pending -= 1
            if isinstance(result, BaseException):
                raise result
            scored.append(result)
        return scored

    def kill(self) -> None:
        """End the process, with its unfinished jobs."""
        self._process.kill()
        self._process.join()
        self._jobs.cancel_join_thread()
        _started_process.cache_clear()


@functools.cache
def _started_process() -> ScoringProcess:
    return ScoringProcess()


def scoring_process() -> ScoringProcess:
    """Return the scoring process of this process, started at the first call, and again if it was killed while idle."""
    process = _started_process()
    if process.is_busy or process.is_alive:
        return process
    _started_process.cache_clear()
    return _started_process()


def _work(jobs: "multiprocessing.Queue[tuple[str, ScoringJob] | None]", results: Connection) -> None:
    """Score jobs in the working directories of their submission; None starts METEOR."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    interrupt.terminate_on_signal_of(parent.pid)
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    while True:
        submission = jobs.get()
        if submission is None:
            with contextlib.suppress(Exception):  # scoring raises it again
                start_meteor()
            continue
        folder, job = submission
        try:
            os.chdir(folder)
            results.send(score_split(job))
        except Exception as error:
            error.add_note(traceback.format_exc())  # a pickled error has no traceback
            results.send(error)


def _exit_after(parent: BaseProcess) -> None:
    """Exit when the parent process does: a killed one cannot terminate this process."""
    parent.join()
    os._exit(0)
