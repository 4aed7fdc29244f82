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
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from utils import interrupt
from utils.errors import PeerFailure
from utils.files import cannot_be_written
from utils.text import printable


class _Formatter(logging.Formatter):
    """One line for each message, whatever the names in it hold."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


FORMAT = _Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


class LogFile(logging.FileHandler):
    """A log file, locked by one process; a failed write ends the run.

    Raises:
        ValueError: another process has locked it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path, encoding="utf-8")
        try:
            fcntl.lockf(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, in any way
        except (BlockingIOError, PermissionError):
            self.close()
            raise ValueError(f"{path}: output_dir is locked by another run") from None
        except OSError:
            pass  # a file system without locks

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        raise cannot_be_written(self.baseFilename, error) if isinstance(error, OSError) else error


def setup_logging(is_main: bool, path: str | os.PathLike | None = None) -> None:
    """Send the first process's messages to stderr and, if given, to a file; the other processes only show errors."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if is_main else logging.ERROR)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if is_main and path is not None:
        handlers.append(LogFile(path))
    for handler in handlers:
        handler.setFormatter(FORMAT)
        root.addHandler(handler)
    for library in ("httpx", "httpx2", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)


class Tracker(Protocol):
    """Shows the lines of a log elsewhere."""

    def add(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonlLogger:
    """Appends one JSON object per line to a file; does nothing where disabled.

    Args:
        path: the file.
        enabled: False on all processes but the first.
        keep: bytes of the file to keep, None for all: a resumed run writes what came after its checkpoint anew.
    Attributes:
        trackers: what gets each line too, see `engine.trackers`.
    """

    def __init__(self, path: str | os.PathLike, enabled: bool = True, keep: int | None = None) -> None:
        self.path = path
        self.file = None
        self.trackers: list[Tracker] = []
        if enabled:
            try:
                self.file = open(path, "ab", buffering=0)
                if keep is not None and keep < self.file.tell():
                    self.file.truncate(keep)
            except OSError as error:
                raise cannot_be_written(path, error) from None

    def write(self, **values: Any) -> None:
        """Add a line, with null for non-finite numbers; raises OSError, naming the file, if it cannot be written."""
        if self.file:
            values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            line = json.dumps(values, allow_nan=False).encode() + b"\n"
            try:
                if self.file.write(line) < len(line):  # the disk is full, or nearly so
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise cannot_be_written(self.path, error) from None
            for tracker in self.trackers:
                tracker.add(values)

    def position(self) -> int:
        """Flush to the disk; returns the number of bytes written, 0 where disabled."""
        if not self.file:
            return 0
        os.fsync(self.file.fileno())
        return self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        if self.file:
            self.file.close()
        for tracker in self.trackers:
            tracker.close()


@contextlib.contextmanager
def progress_bar(iterable: Iterable | None, is_main: bool, **options: Any) -> Iterator[tqdm]:
    """A tqdm bar on a terminal, on the first process only; log messages go above it."""
    size = shutil.get_terminal_size()  # 80 x 24 where a terminal says 0 x 0, in which tqdm would draw nothing
    options |= dict(disable=None if is_main else True, ncols=size.columns, nrows=size.lines)
    with logging_redirect_tqdm(), tqdm(iterable, **options) as bar:
        yield bar


def run_main(main: Callable[[], Any], resumable: bool = False) -> None:
    """Run a script's main function; an expected error becomes one line on stderr and exit status 2.

    The environment variable VTSUM_DEBUG=1 shows the traceback of an error instead.

    Args:
        main: the function.
        resumable: signals only ask it to stop, see `utils.interrupt`, and the exit status is then 75.
    """
    with interrupt.signal_handlers() if resumable else contextlib.nullcontext():
        try:
            main()
        except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            _show_last_line("interrupted")
            sys.exit(130)
        except interrupt.Interrupted as signal:
            _show_last_line(f"stopped by {signal}; the same command resumes from here")
            os._exit(interrupt.EX_TEMPFAIL)  # without joining threads that score or decode
        except PeerFailure as error:
            from utils.distributed import wait_for_launcher

            wait_for_launcher()
            _exit_with_error(error)
        except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
            if "torch.distributed" in sys.modules:
                from utils.distributed import report_failure

                report_failure(error)
            if isinstance(error, RuntimeError) and not _is_from_data_loader(error):
                raise
            _exit_with_error(error)


def _exit_with_error(error: BaseException) -> None:
    if os.environ.get("VTSUM_DEBUG"):
        raise error
    _show_last_line("error: " + one_line(error))
    sys.exit(2)


def _is_from_data_loader(error: BaseException) -> bool:
    """Whether torch's data loader raised an error itself, as it does when a worker process was killed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("torch.utils.data.")


def one_line(error: BaseException) -> str:
    """The message of an error in one printable line."""
    line = str(error).strip() or type(error).__name__
    if line.startswith("Caught "):  # a loader's worker wraps the message in its own traceback, as the last line
        line = line.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
    return printable(" ".join(line.split()))


def _show_last_line(line: str) -> None:
    """Show a run's last line on stderr and in its log file, if these can still be written."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            with contextlib.suppress(OSError):
                handler.handle(logging.makeLogRecord(dict(msg=line)))
