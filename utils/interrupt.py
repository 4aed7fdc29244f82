"""Signals that ask a run to stop soon: SIGTERM, SIGUSR1 and the first Ctrl-C."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

EX_TEMPFAIL = 75  # sysexits.h: exit status of a run that was stopped and can be resumed
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME_KEYPRESS_SECONDS = 2.0  # seconds; closer signals are one Ctrl-C, which the terminal and the launcher both send

_received: tuple[str, float] | None = None  # name of the first signal, and its time


class Interrupted(Exception):
    """Raised to stop a run after a signal; what a repeated command needs is on disk.

    Args:
        cause: name of the signal.
    Attributes:
        next_start: what the same command does when it is started again, as the end of a sentence.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.next_start = "resumes from here"


def stop_requested() -> str | None:
    """Return the name of the signal that asked this process to stop, or None."""
    return _received[0] if _received else None


def raise_if_stop_requested() -> None:
    """Raise `Interrupted` if a signal has asked this process to stop."""
    if _received:
        raise Interrupted(_received[0])


@contextlib.contextmanager
def signal_handlers() -> Iterator[None]:
    """Record signals instead of terminating; a second Ctrl-C is a KeyboardInterrupt."""
    global _received
    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        yield
        return
    before = {number: signal.signal(number, _record) for number in SIGNALS}
    _received = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def repeated_on_restart(activity: str) -> Iterator[None]:
    """Let `Interrupted` say that the same command repeats an activity, which does not keep what it has done."""
    try:
        yield
    except Interrupted as error:
        error.next_start = f"repeats {activity}"
        raise


@contextlib.contextmanager
def default_handlers() -> Iterator[None]:
    """Restore the default action of the signals within the block, for phases without anything to save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(number: int, frame: FrameType | None) -> None:
    global _received
    if _received is None:
        _received = signal.Signals(number).name, time.monotonic()
    elif number == signal.SIGINT and time.monotonic() - _received[1] > SAME_KEYPRESS_SECONDS:
        raise KeyboardInterrupt


def init_loader_worker(worker_id: int) -> None:
    """`worker_init_fn` of data loaders, see `terminate_on_signal_of`; torch's own handler terminates on any SIGTERM."""
    terminate_on_signal_of(os.getppid())


def terminate_on_signal_of(parent: int) -> None:
    """Let a worker process terminate only on SIGTERM from its parent process.

    Schedulers send SIGTERM to every process of a job. It would terminate the workers, and what the run still has to
    finish would fail.

    Args:
        parent: process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_signal_of, args=(parent,), daemon=True).start()


def _exit_on_signal_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
