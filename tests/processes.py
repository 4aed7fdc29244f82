"""Real processes for tests: a command run as a user runs it."""

import os
import signal
import subprocess
import sys

ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LAUNCHER = ["python", "-m", "torch.distributed.run", "--standalone"]


def start(words, cwd, **how):
    """Start a command as `python …` in a process group of its own."""
    words = [sys.executable if word == "python" else str(word) for word in words]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(words, cwd=cwd, env=ENVIRONMENT, start_new_session=True, **(pipes | how))


def run(words, cwd, timeout=300, **how):
    """Run a command as `python …`: exit status and output; the process group is ended if it takes too long."""
    with start(words, cwd, **how) as process:
        try:
            shown, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, shown
