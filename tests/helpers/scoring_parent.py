"""A process of multiprocessing that starts a scoring process; imports little, so that it starts fast."""

import os
import signal

from engine.scoring_process import ScoringProcess


def start_and_exit(connection, is_killed):
    """Start a scoring process, send its id, wait for a message, and then be killed or return."""
    scoring = ScoringProcess()
    connection.send(scoring._process.pid)
    connection.recv()
    if is_killed:
        os.kill(os.getpid(), signal.SIGKILL)
