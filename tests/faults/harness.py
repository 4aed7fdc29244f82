"""Real training processes to do things to.

They are forked from a server that has imported everything already, so that a start takes a second instead of five; each
is a process of its own, with its own memory, signals and limits.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import time

import torch

from models.weights import read_checkpoint
from tests.processes import ENVIRONMENT

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.preload"])


def _enter(script, words, folder, env, output, prepare):
    """What a forked process does: become the command `python SCRIPT WORDS`."""
    os.setsid()
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    from utils.log import run_main

    module = __import__(script)
    sys.argv = [f"{script}.py", *words]
    run_main(functools.partial(module.main, words), resumable=True)


class Run:
    """The processes of one start of a command.

    Args:
        script: `train_v2vt_sum` or another one.
        words: its arguments.
        folder: where it runs; what it says is added to `output.txt` there.
        size: processes, which meet as srun's do.
        prepare: function that each process calls first.
    """

    def __init__(self, script, words, folder, size=1, prepare=None):
        self.folder, self.output = pathlib.Path(folder), pathlib.Path(folder, "output.txt")
        self.said_before = self.output.stat().st_size if self.output.exists() else 0
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            meet = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(size))
        self.processes = []
        for rank in range(size):
            place = dict(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size), **meet) if size > 1 else {}
            env = {name: ENVIRONMENT[name] for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")} | place
            how = (script, list(map(str, words)), str(folder), env, str(self.output), prepare)
            self.processes.append(CONTEXT.Process(target=_enter, args=how))
        for process in self.processes:
            process.start()

    def signal(self, number, ranks=None):
        """Send a signal to the processes of some ranks, of all for None."""
        for rank, process in enumerate(self.processes):
            if ranks is None or rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def wait(self, timeout=120):
        """Wait for all processes; returns their exit statuses. Those that take too long are killed, and it fails."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        late = [process for process in self.processes if process.is_alive()]
        self.signal(signal.SIGKILL)
        for process in self.processes:
            process.join()
        assert not late, f"still there after {timeout} s: {self.said()}"
        return [process.exitcode for process in self.processes]

    def said(self):
        """What this start has said so far."""
        data = self.output.read_bytes() if self.output.exists() else b""
        return data[self.said_before :].decode(errors="replace")

    def until(self, condition, timeout=60):
        """Wait until a condition, a function, holds; fails if the processes end before."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"timeout: {self.said()}"
            assert any(process.is_alive() for process in self.processes), self.said()
            time.sleep(0.005)


def losses(folder):
    """The log of losses: its lines without their times."""
    lines = (pathlib.Path(folder) / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def steps(folder):
    """Steps in the log of a run that may be at work."""
    path = pathlib.Path(folder) / "log.jsonl"
    return path.read_bytes().count(b'"type": "step"') if path.exists() else 0


def assert_same(folder, undisturbed):
    """The same bytes of weights and optimiser, the same log of losses and scores."""
    ours, theirs = (read_checkpoint(path / "checkpoint.pth") for path in (folder, undisturbed))
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())
    moments = [state["optimizer"]["state"] for state in (ours, theirs)]
    assert all(torch.equal(moments[0][i][k], v) for i, values in moments[1].items() for k, v in values.items())
    assert losses(folder) == losses(undisturbed)
    assert not list(folder.glob(".*"))
