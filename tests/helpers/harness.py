"""Training processes into which tests inject faults.

They are forked from a server that has already imported all modules, so that a start takes one second instead of five.
Each is a separate process with its own memory, signals and limits.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import torch

from models.weights import read_checkpoint
from tests.helpers.processes import ENVIRONMENT, find_free_port

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.preload"])


def _run_script(script, argv, folder, env, output_path, prepare):
    """Run `python SCRIPT ARGV` in a forked process."""
    os.setsid()
    os.chdir(folder)
    file = os.open(output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    from utils.log import run_main

    module = __import__(script)
    sys.argv = [f"{script}.py", *argv]
    run_main(functools.partial(module.main, argv), resumable=True)


class Run:
    """The processes of one launch of a script.

    Args:
        script: name of the script without its suffix, such as `train_v2vt_sum`.
        argv: its arguments.
        folder: working directory; output is appended to `output.txt` in it.
        size: number of processes, with the environment variables that a launcher sets.
        prepare: function that each process calls first.
    """

    def __init__(self, script, argv, folder, size=1, prepare=None):
        self.folder = pathlib.Path(folder)
        self.output_path = self.folder / "output.txt"
        self.output_start = self.output_path.stat().st_size if self.output_path.exists() else 0  # bytes
        self.processes = []
        rendezvous = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_free_port()), WORLD_SIZE=str(size))
        for rank in range(size):
            env = {name: ENVIRONMENT[name] for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")}
            if size > 1:
                env |= dict(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size)) | rendezvous
            arguments = (script, list(map(str, argv)), str(folder), env, str(self.output_path), prepare)
            self.processes.append(CONTEXT.Process(target=_run_script, args=arguments))
        for process in self.processes:
            process.start()

    def signal(self, number, ranks=None):
        """Send a signal to the processes of the given ranks, or to all."""
        for rank, process in enumerate(self.processes):
            if ranks is None or rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def wait(self, timeout=120):
        """Wait for all processes and return their exit statuses; after `timeout` seconds, kill them and fail."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        late = [process for process in self.processes if process.is_alive()]
        self.signal(signal.SIGKILL)
        for process in self.processes:
            process.join()
        assert not late, f"still running after {timeout} s: {self.output()}"
        return [process.exitcode for process in self.processes]

    def output(self):
        """Return the output of this launch so far."""
        data = self.output_path.read_bytes() if self.output_path.exists() else b""
        return data[self.output_start :].decode(errors="replace")

    def wait_until(self, condition, timeout=60):
        """Wait until a function returns true; fails if the processes exit first."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"timeout: {self.output()}"
            assert any(process.is_alive() for process in self.processes), self.output()
            time.sleep(0.005)


def read_log(folder):
    """Read the lines of `log.jsonl` without their wall-clock times."""
    lines = (pathlib.Path(folder) / "log.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def count_steps(folder):
    """Count the steps in the log of a run that may still be running."""
    path = pathlib.Path(folder) / "log.jsonl"
    return path.read_bytes().count(b'"type": "step"') if path.exists() else 0


def assert_same_run(folder, reference):
    """Assert that two runs have bitwise equal weights and optimizer states and the same log."""
    actual, expected = (read_checkpoint(path / "checkpoint.pth") for path in (folder, reference))
    assert all(torch.equal(actual["model"][name], value) for name, value in expected["model"].items())
    actual_states, expected_states = (checkpoint["optimizer"]["state"] for checkpoint in (actual, expected))
    for i, state in expected_states.items():
        assert all(torch.equal(actual_states[i][name], value) for name, value in state.items())
    assert read_log(folder) == read_log(reference)
    assert not list(folder.glob(".*"))


def assert_same_training(folder, reference):
    """Assert that two runs end with bitwise equal weights, optimizers and RNG states, and the same losses.

    The log of one may have validation losses, and be longer for this.
    """
    _assert_same_values(*(read_checkpoint(path / "checkpoint.pth") for path in (folder, reference)))
    logs = [
        [{name: value for name, value in entry.items() if not name.startswith("val_")} for entry in read_log(path)]
        for path in (folder, reference)
    ]
    assert logs[0] == logs[1]


def _assert_same_values(actual, expected, path=""):
    """Assert that nested containers are equal, tensors bitwise."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for name in expected.keys() - {"config", "log_bytes", "seconds"}:
            _assert_same_values(actual[name], expected[name], f"{path}/{name}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), path
        for i, (item, expected_item) in enumerate(zip(actual, expected)):
            _assert_same_values(item, expected_item, f"{path}/{i}")
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype and torch.equal(actual, expected), path
    else:
        assert actual == expected, path
