"""Steps of a reproduction: commands of this project in separate processes, and the records of those that finished."""

import dataclasses
import functools
import logging
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from data.annotations import VideoRecord
from engine.config import Config, SplitName
from report.runs import Run, StrictModel, read_log, read_run
from utils import interrupt
from utils.files import atomic_write, compute_sha256, make_folder, read_text
from utils.text import format_time

PROJECT_ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD_FILE = "step.json"
NUM_TIMED_VIDEOS = 32  # of an evaluation
NUM_TIMED_BATCHES = 8  # of a training, on each process
# Settings that do not change results, or whose files are compared by SHA-256.
SETTINGS_OF_NO_EFFECT = frozenset(
    ("output_dir", "device", "num_workers", "log_freq", "ann_root", "video_embeddings_root", "clip_root", "subset")
    + ("pretrained", "pretrained_model", "pretrained_clip")
)

logger = logging.getLogger(__name__)


class StepRecord(StrictModel):
    """Content of a step's `step.json`, written before it starts and again when it has finished.

    Attributes:
        inputs: what the results depend on: SHA-256 of each input, and the settings.
        hardware: see `describe_hardware`.
        processes: number of processes.
        seconds: wall-clock time of the command that finished the step; None before.
    """

    inputs: dict[str, Any]
    hardware: dict[str, Any]
    processes: int
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of this project that scores a split.

    Attributes:
        script: `eval_v2vt_sum.py` or `train_v2vt_sum.py`.
        arguments: its arguments.
        config: the settings that they give.
        checkpoint: weights that the results are of: an input of an evaluation, written by a training.
        split: the split whose results the step must leave.
        processes: number of processes.
    """

    script: str
    arguments: tuple[str, ...]
    config: Config
    checkpoint: pathlib.Path
    split: SplitName
    processes: int

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.config.output_dir)

    @property
    def command(self) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        script = os.path.relpath(PROJECT_ROOT / self.script)
        return [sys.executable, *(launcher if self.processes > 1 else ()), script, *self.arguments]

    def describe_inputs(self, hashes: dict[str, str | None]) -> dict[str, Any]:
        """Return `StepRecord.inputs`, given the SHA-256 of each input file or folder."""
        settings = {name: value for name, value in self.config.as_dict().items() if name not in SETTINGS_OF_NO_EFFECT}
        return dict(sha256=hashes, settings=settings)

    def read_record(self) -> StepRecord | None:
        """Read the record of the step, None if it is missing or damaged."""
        try:
            return StepRecord.model_validate_json(read_text(self.folder / RECORD_FILE, "record of a step"))
        except (FileNotFoundError, ValueError):
            return None

    def read_results(self, inputs: dict[str, Any]) -> Run | None:
        """Read the results of the step, None unless they were made from these inputs and this checkpoint."""
        record = self.read_record()
        if record is None or record.inputs != inputs or not self.checkpoint.is_file():
            return None
        try:
            run = read_run(self.folder, self.split)
        except (FileNotFoundError, ValueError):
            return None
        return run if run.results.checkpoint_sha256 == compute_sha256(self.checkpoint) else None

    def run(self, inputs: dict[str, Any], hardware: dict[str, Any]) -> Run:
        """Return the results of the step; unless they exist already, run its command, which prints to the terminal.

        Raises:
            SystemExit: the command failed and has explained it.
            ChildProcessError: the command failed otherwise.
            utils.interrupt.Interrupted: a signal stopped the command.
        """
        kept = self.read_results(inputs)
        if kept is not None:
            logger.info("%s: results of %s exist", self.folder, self.split)
            return kept
        make_folder(self.folder, "--out")
        (self.folder / f"results_{self.split}.json").unlink(missing_ok=True)  # of other inputs
        record = StepRecord(inputs=inputs, hardware=hardware, processes=self.processes)
        self._write_record(record)
        seconds = run_command(self.command)
        self._write_record(record.model_copy(update=dict(seconds=seconds)))
        interrupt.raise_if_stop_requested()
        run = self.read_results(inputs)
        if run is None:
            raise ValueError(f"{self.folder}: found no results of {self.checkpoint}, expected those of {self.script}")
        return run

    def _write_record(self, record: StepRecord) -> None:
        with atomic_write(self.folder / RECORD_FILE) as file:
            file.write(record.model_dump_json(indent=2) + "\n")


def run_command(command: Sequence[str]) -> float:
    """Run a command on this terminal; returns its seconds. SIGTERM and SIGUSR1 are passed on to it.

    Raises:
        SystemExit: it ended with status 2, after a line that explains the error.
        ChildProcessError: it ended with another status.
        utils.interrupt.Interrupted: a signal stopped it.
    """
    logger.info("%s", shlex.join(["python", *command[1:]]))
    start, is_told = time.monotonic(), False
    with interrupt.signal_handlers(), subprocess.Popen(command) as process:
        while process.poll() is None:
            signal_name = interrupt.stop_requested()
            if signal_name not in (None, "SIGINT") and not is_told:  # the terminal sends Ctrl-C to both
                process.terminate()
                is_told = True
            time.sleep(0.05)
    if process.returncode != 0 and interrupt.stop_requested():
        interrupt.raise_if_stop_requested()
    if process.returncode == interrupt.EX_TEMPFAIL:
        raise interrupt.Interrupted("a signal to the command")
    if process.returncode == 2:
        sys.exit(2)
    if process.returncode != 0:
        name = next((word for word in command if word.endswith(".py")), command[0])
        raise ChildProcessError(f"{name}: ended with status {process.returncode}, expected 0; see its output above")
    return time.monotonic() - start


def select_evenly(records: Sequence[VideoRecord], count: int) -> list[VideoRecord]:
    """Select records evenly from all records in the order of their lengths."""
    ordered = sorted(records, key=lambda record: (record.num_frames or 0, record.video_id))
    count = min(count, len(ordered))
    return [ordered[int((index + 0.5) * len(ordered) / count)] for index in range(count)]


def estimate_evaluation(step: Step, records: Sequence[VideoRecord]) -> float | None:
    """Estimate the seconds of an evaluation from two short ones, of one video and of `NUM_TIMED_VIDEOS`.

    The difference is the time of the videos, without that of the start.

    Args:
        step: the evaluation.
        records: the videos that it evaluates.
    Returns:
        None if there are too few videos for an estimate to be worth its time.
    """
    if len(records) <= 2 * NUM_TIMED_VIDEOS:
        return None
    timed = select_evenly(records, NUM_TIMED_VIDEOS)
    first, all_timed = (_time_step(step, videos, ()) for videos in (timed[len(timed) // 2 :][:1], timed))
    return first + max(0.0, all_timed - first) / (len(timed) - 1) * (len(records) - 1)


def estimate_training(step: Step, train: Sequence[VideoRecord], val: Sequence[VideoRecord]) -> float | None:
    """Estimate the remaining seconds of a training, without its evaluation.

    A training that has finished an epoch is estimated from that; otherwise `NUM_TIMED_BATCHES` batches on each process
    are trained for the purpose.

    Args:
        step: the training.
        train: the training videos.
        val: the validation videos.
    Returns:
        None if there are too few batches for an estimate to be worth its time.
    """
    config = step.config
    batch_videos = config.batch_size * step.processes
    epochs = [entry for entry in read_log(step.folder / "log.jsonl") if entry["type"] == "epoch"]
    if epochs:
        return epochs[-1]["seconds"] * (config.max_epoch - epochs[-1]["epoch"] - 1)
    num_batches = len(train) // batch_videos * config.max_epoch
    if num_batches <= 4 * NUM_TIMED_BATCHES:
        return None
    timed = select_evenly(train, NUM_TIMED_BATCHES * batch_videos)
    flags = ("--max_epoch", "1", "--resume", "", "--ckpt_freq", "0")
    folder = _timing_folder(step)
    try:
        _time_step(step, [*timed, val[0]], flags, keep=True)
        seconds = next(entry["seconds"] for entry in read_log(folder / "log.jsonl") if entry["type"] == "epoch")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return seconds / (len(timed) // batch_videos) * num_batches


def _timing_folder(step: Step) -> pathlib.Path:
    return step.folder / "timing"


def _time_step(step: Step, videos: Sequence[VideoRecord], flags: Sequence[str], keep: bool = False) -> float:
    """Run a step's command on some videos, in a folder that is removed unless `keep`; returns its seconds."""
    folder = _timing_folder(step)
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder, "--out")
    subset = folder / "subset.txt"
    with atomic_write(subset) as file:
        file.writelines(f"{record.video_id}\n" for record in videos)
    arguments = (*step.arguments, *flags, "--output_dir", str(folder), "--subset", str(subset))
    logger.info("%s: timing %d videos", step.folder, len(videos))
    try:
        seconds = run_command(dataclasses.replace(step, arguments=arguments).command)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    interrupt.raise_if_stop_requested()
    return seconds


def sum_epoch_seconds(folder: pathlib.Path) -> float:
    """Sum the seconds of all epochs in the `log.jsonl` of a training."""
    return sum(entry["seconds"] for entry in read_log(folder / "log.jsonl") if entry["type"] == "epoch")


@functools.cache
def describe_hardware() -> dict[str, Any]:
    """Return `cpu`, its model; `cores` that this process may use; `memory_gb`; and `gpus`, the names of all GPUs."""
    import torch

    try:
        match = re.search(r"^model name\s*: (.*)$", read_text("/proc/cpuinfo", "processor"), re.M)
    except (FileNotFoundError, ValueError):  # not Linux
        match = None
    return dict(
        cpu=match[1] if match else platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        gpus=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    )


def format_estimate(seconds: float | None) -> str:
    """Format an estimated duration, also if there is none."""
    return (
        "not estimated, as short as the measurement" if seconds is None else f"about {format_time(seconds)} (h:mm:ss)"
    )
