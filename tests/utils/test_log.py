"""Progress bars on a real terminal, and none elsewhere."""

import os
import pty
import subprocess
import sys

from tests.conftest import ROOT

PROGRAM = """
from utils.log import progress_bar
with progress_bar(range(3), is_main=%s, desc="epoch 0") as bar:
    print(sum(bar))
"""


def shown_on_a_terminal(is_main):
    ours, theirs = pty.openpty()  # a terminal that does not say its width
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM % is_main], cwd=ROOT, stderr=theirs, stdout=subprocess.PIPE
    ) as p:
        os.close(theirs)
        assert p.communicate(timeout=60)[0] == b"3\n"
        try:
            return os.read(ours, 100_000).decode()
        except OSError:  # nothing was written before the other side closed
            return ""
        finally:
            os.close(ours)


def test_the_first_process_draws_on_a_terminal():
    shown = shown_on_a_terminal(True)
    assert "epoch 0: " in shown and "100%|" in shown


def test_others_draw_nothing():
    assert shown_on_a_terminal(False) == ""


def test_no_bar_in_a_file():
    done = subprocess.run([sys.executable, "-c", PROGRAM % True], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    """As `… | head` does."""
    code = "from utils.log import run_main\nrun_main(lambda: [print('x' * 1000, flush=True) for _ in range(10**4)])"
    script = f'{sys.executable} -c "{code}" | head -n 1'
    ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "x" * 1000 + "\n" and ended.stderr == ""
