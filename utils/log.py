"""Logging of a run, progress bars, and one-line errors."""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import shutil
import sys

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from utils import distributed, interrupt
from utils.files import cannot_be_written
from utils.text import printable


class _Formatter(logging.Formatter):
    """One line for each message, whatever the names in it hold."""

    def format(self, record):
        return printable(super().format(record))


FORMAT = _Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


class LogFile(logging.FileHandler):
    """A log file, of one process alone; what cannot be written ends the run.

    Raises:
        ValueError: another process writes it.
    """

    def __init__(self, path):
        super().__init__(path, encoding="utf-8")
        try:
            fcntl.lockf(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except (BlockingIOError, PermissionError):
            self.close()
            raise ValueError(f"{path}: found another run at work in this folder, expected none") from None
        except OSError:
            pass  # a file system without locks

    def handleError(self, record):
        error = sys.exc_info()[1]
        raise cannot_be_written(self.baseFilename, error) if isinstance(error, OSError) else error


def setup_logging(is_main, path=None):
    """Send the first process's messages to the screen and, if given, to a file; others only show errors."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if is_main else logging.ERROR)
    handlers = [logging.StreamHandler(sys.stderr)]
    if is_main and path is not None:
        handlers.append(LogFile(path))
    for handler in handlers:
        handler.setFormatter(FORMAT)
        root.addHandler(handler)
    for library in ("httpx", "httpx2", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)


class JsonLines:
    """Appends one JSON object per line to a file; on other processes than the first it does nothing.

    Args:
        path: the file.
        enabled: False on those.
        keep: bytes of the file to keep, None for all: a run that goes on from a checkpoint writes what came after anew.
    Attributes:
        followers: what is shown each line too, see `engine.trackers`.
    """

    def __init__(self, path, enabled=True, keep=None):
        self.path, self.file, self.followers = path, None, []
        if enabled:
            try:
                self.file = open(path, "ab", buffering=0)
                if keep is not None and keep < self.file.tell():
                    self.file.truncate(keep)
            except OSError as error:
                raise cannot_be_written(path, error) from None

    def write(self, **values):
        """Add a line, with null for what is not finite; raises OSError, naming the file, where it cannot be written."""
        if self.file:
            values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            line = json.dumps(values, allow_nan=False).encode() + b"\n"
            try:
                if self.file.write(line) < len(line):  # the disk is full, or nearly so
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise cannot_be_written(self.path, error) from None
            for follower in self.followers:
                follower.add(values)

    def position(self):
        """Bytes written, which are on the disk then; 0 where nothing is written."""
        if not self.file:
            return 0
        os.fsync(self.file.fileno())
        return self.file.seek(0, os.SEEK_END)

    def close(self):
        if self.file:
            self.file.close()
        for follower in self.followers:
            follower.close()


@contextlib.contextmanager
def progress_bar(iterable, is_main, **how):
    """A tqdm bar on a terminal, on the first process only; log messages go above it."""
    size = shutil.get_terminal_size()  # 80 x 24 where a terminal says 0 x 0, in which tqdm would draw nothing
    how |= dict(disable=None if is_main else True, ncols=size.columns, nrows=size.lines)
    with logging_redirect_tqdm(), tqdm(iterable, **how) as bar:
        yield bar


def run_main(main, resumable=False):
    """Run a script's main function; an expected error becomes one line on stderr and exit status 2.

    The environment variable VTSUM_DEBUG=1 shows the traceback of an error instead.

    Args:
        main: the function.
        resumable: signals only ask it to end, see `utils.interrupt`, and the exit status is then 75.
    """
    with interrupt.listening() if resumable else contextlib.nullcontext():
        try:
            main()
        except BrokenPipeError:  # who reads what is printed has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            _say("interrupted")
            sys.exit(130)
        except interrupt.Interrupted as signal:
            _say(f"ended by {signal}; the same command goes on from here")
            distributed.stop(together=False)
            os._exit(interrupt.CONTINUE_ME)  # threads that score or decode are not waited for
        except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
            lost = isinstance(error, RuntimeError) and any(w in str(error) for w in ("gloo", "NCCL", "Connection"))
            if not lost:
                distributed.tell_others(error)
            worker = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)  # killed, it can say nothing
            if os.environ.get("VTSUM_DEBUG") or (isinstance(error, RuntimeError) and not lost and not worker):
                raise
            _say("error: " + one_line(distributed.failure_of_another(error) if lost else error))
            sys.exit(2)


def one_line(error):
    """The message of an error in one printable line."""
    line = str(error).strip() or type(error).__name__
    if line.startswith("Caught "):  # a loader's worker wraps the message in its own traceback, as the last line
        line = line.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
    return printable(" ".join(line.split()))


def _say(line):
    """Show a run's last line on stderr and in its log file, if these can still be written."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            with contextlib.suppress(OSError):
                handler.handle(logging.makeLogRecord(dict(msg=line)))
