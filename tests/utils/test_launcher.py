"""Errors of processes under torch.distributed.run: one line, printed once."""

import pytest

from tests.conftest import ROOT
from tests.helpers.processes import LAUNCHER, run

PROGRAM = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from utils import launcher
from utils.log import run_main

def main():
    if sys.argv[1] == "every process":
        raise ValueError("a.yaml: seed: found -1, expected 0")
    launcher.LAUNCHER_SECONDS = 1
    from utils import distributed
    context = distributed.init_context("cpu")
    if context.rank == 1 and sys.argv[1] == "one process":
        raise ValueError("v.npz: damaged")
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()

run_main(main, resumable=True)
"""


@pytest.mark.parametrize(
    ("failure", "line", "in_report"),
    [
        ("every process", "error: a.yaml: seed: found -1, expected 0", "exitcode  : 2"),
        ("one process", "error: v.npz: damaged", "traceback : ValueError: v.npz: damaged"),
        ("killed", "error: another process of this run, or a collective, failed (", "Signal 9 (SIGKILL) received"),
    ],
)
def test_one_process_prints_the_error(tmp_path, failure, line, in_report):
    """The launcher's status is 1, and its report has the error without a traceback of ours."""
    (tmp_path / "program.py").write_text(PROGRAM)
    status, output = run([*LAUNCHER, "--nproc_per_node=2", "program.py", failure], tmp_path)
    assert status == 1
    (printed,) = [text for text in output.splitlines() if text.startswith("error: ")]
    assert printed.startswith(line)
    assert in_report in output and 'program.py", line' not in output
