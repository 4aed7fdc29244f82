"""Progress bars appear on a terminal and nowhere else; messages of libraries."""

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


def run_on_a_terminal(is_main):
    parent_end, child_end = pty.openpty()  # a terminal of unknown width
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM % is_main], cwd=ROOT, stderr=child_end, stdout=subprocess.PIPE
    ) as process:
        os.close(child_end)
        assert process.communicate(timeout=60)[0] == b"3\n"
        try:
            return os.read(parent_end, 100_000).decode()
        except OSError:  # the process wrote nothing
            return ""
        finally:
            os.close(parent_end)


def test_main_process_shows_a_bar_on_a_terminal():
    output = run_on_a_terminal(True)
    assert "epoch 0: " in output and "100%|" in output


def test_other_processes_show_no_bar():
    assert run_on_a_terminal(False) == ""


def test_no_bar_without_a_terminal():
    done = subprocess.run([sys.executable, "-c", PROGRAM % True], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_closed_pipe_ends_the_command_silently():
    """As in `… | head`."""
    code = "from utils.log import run_main\nrun_main(lambda: [print('x' * 1000, flush=True) for _ in range(10**4)])"
    script = f'{sys.executable} -c "{code}" | head -n 1'
    ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "x" * 1000 + "\n" and ended.stderr == ""


def test_messages_of_libraries_to_the_root_logger_are_hidden():
    program = (
        "import logging; from utils.log import setup_logging; setup_logging(True); logging.info('of a library'); "
        "logging.warning('a warning'); logging.getLogger('engine').info('of this project')"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line[20:] for line in result.stderr.splitlines()] == ["a warning", "of this project"]
