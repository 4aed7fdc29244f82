"""torch.distributed.run as seen from a process that it started: which process prints the last line of a run.

All processes of a machine write to one terminal, and usually end for the same reason. The first process prints it. The
others print theirs only if the launcher does not end them, as it does as soon as one process has failed.
"""

import os
import pathlib
import time

from utils import interrupt
from utils.errors import PeerFailure

LAUNCHER_SECONDS = 10  # wait this long for the launcher's signal after an error


def is_launched() -> bool:
    """Whether torch.distributed.run started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_process() -> bool:
    """Whether this is the first process that a launcher started on this machine, or one without a launcher."""
    return not is_launched() or os.environ.get("LOCAL_RANK", "0") == "0"


def is_reported_elsewhere(error: BaseException) -> bool:
    """Whether another process of this machine prints the error that ends the run.

    Waits until the launcher ends this process, if another one is to print.

    Args:
        error: error of this process.
    Returns:
        False without a launcher. With one, True if the launcher's signal arrives, except for a peer's failure without a
        message, such as that of a process that was killed.
    """
    if not is_launched() or (is_first_process() and not isinstance(error, PeerFailure)):
        return False
    is_ended = _wait_for_signal()
    if is_first_process():
        return is_ended and _has_peer_message()
    return is_ended


def _wait_for_signal() -> bool:
    """Wait until the launcher, or a user, asks this process to stop; False after `LAUNCHER_SECONDS`."""
    deadline = time.monotonic() + LAUNCHER_SECONDS
    while not interrupt.stop_requested() and time.monotonic() < deadline:
        time.sleep(0.1)
    return interrupt.stop_requested() is not None


def _has_peer_message() -> bool:
    """Whether another process of this machine has recorded an error for the launcher's report.

    The launcher names the files `{attempt}/{local_rank}/error.json`.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    return path != "" and any(pathlib.Path(path).parent.parent.glob("*/error.json"))
