"""Time from a command to its first training batch, on the small model and data of `configs/mini.yaml`."""

import functools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks.records import Row
from benchmarks.user_commands import REPOSITORY_FOLDER, CommandChecks


def benchmark_startup(rounds: int = 5) -> list[Row]:
    """Compare the start of training, up to the log entry of its first batch, with the imports that PyTorch needs.

    PyTorch's optimizers import torch._dynamo.

    Args:
        rounds: number of alternating measurements, after one that is not measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        commands = CommandChecks(pathlib.Path(folder), "cpu", "toy")
        commands.write_features()
        flags = [*commands.data_flags(), "--tokenizer", str(commands.features_root / "tokenizer")]
        argv = ["train_v2vt_sum.py", "--config", "configs/mini.yaml", *flags, "--resume", "", "--log_freq", "1"]
        functions: list[Callable[[], float]] = [
            functools.partial(_time_first_batch, argv, pathlib.Path(folder)),
            functools.partial(_time_command, ["train_v2vt_sum.py", "--help"]),
            functools.partial(_time_command, ["-c", "import torch, torch._dynamo"]),
        ]
        seconds = [[function() for function in functions] for _ in range(1 + rounds)]
    first_batch, help_text, imports = map(statistics.median, zip(*seconds[1:]))
    return [
        Row(
            measurement="training command to its first batch, mini model, one process",
            project_value=first_batch,
            unit="s",
            peer_value=imports,
            peer_name="import torch, torch._dynamo",
        ),
        Row(measurement="train_v2vt_sum.py --help", project_value=help_text, unit="s"),
    ]


def _time_command(argv: list[str]) -> float:
    """Run Python with arguments; returns seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *argv], cwd=REPOSITORY_FOLDER, capture_output=True, check=True)
    return time.perf_counter() - start


def _time_first_batch(argv: list[str], folder: pathlib.Path) -> float:
    """Start a training command, wait for the log entry of its first batch, and stop it; returns seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as run, open(folder / "output.txt", "w+", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *argv, "--output_dir", run], cwd=REPOSITORY_FOLDER, stdout=output, stderr=output
        )
        log = pathlib.Path(run, "log.jsonl")
        while not (log.is_file() and log.stat().st_size):
            if process.poll() is not None:
                output.seek(0)
                raise ValueError(f"{' '.join(argv)}: status {process.returncode}: {output.read()}")
            time.sleep(0.002)
        seconds = time.perf_counter() - start
        process.terminate()
        process.wait()
    return seconds
