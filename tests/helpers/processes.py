"""Commands in processes of their own, run as a user runs them."""

import os
import signal
import socket
import subprocess
import sys

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LAUNCHER = ["python", "-m", "torch.distributed.run", "--standalone"]


def start(argv, cwd, env=ENVIRONMENT, **options):
    """Start a command `python …` in a new process group; `options` are those of `Popen`."""
    argv = [sys.executable if word == "python" else str(word) for word in argv]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(argv, cwd=cwd, env=env, start_new_session=True, **(pipes | options))


def run(argv, cwd, timeout=300, **options):
    """Run a command `python …`; returns its exit status and output. After `timeout` its process group is killed."""
    with start(argv, cwd, **options) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


def find_free_port():
    """Return a TCP port that is free on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
