"""Signals that ask a run to end soon: SIGTERM, SIGUSR1 and the first Ctrl-C."""

import contextlib
import os
import signal
import threading
import time

CONTINUE_ME = 75  # exit status of a run that was asked to end and can be continued: EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ONE_KEYPRESS = 2.0  # seconds; the launcher hands a Ctrl-C on to processes that had it from the terminal already

_received = None  # name of the first signal, and when it came


class Interrupted(Exception):
    """The run ends because it was asked to; all that it needs to go on is on the disk."""


def requested():
    """Name of the signal that asked this process to end, or None."""
    return _received[0] if _received else None


def stop_if_requested():
    """Raise `Interrupted` where a signal has asked this process to end."""
    if _received:
        raise Interrupted(_received[0])


@contextlib.contextmanager
def listening():
    """Note signals instead of dying of them; a second Ctrl-C is a KeyboardInterrupt."""
    global _received
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    _received = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def by_default():
    """Let signals end this process as they do by default, for a while in which there is nothing to save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(number, frame):
    global _received
    if _received is None:
        _received = signal.Signals(number).name, time.monotonic()
    elif number == signal.SIGINT and time.monotonic() - _received[1] > ONE_KEYPRESS:
        raise KeyboardInterrupt


def leave_signals_to_parent(*_):
    """In a helper process: outlive the signals that reach all processes of a run; end when the parent says so.

    Of SIGTERM only the parent's counts: schedulers send it to every process, and a loader that died of it would take
    with it the step that the run still wants to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent):
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
