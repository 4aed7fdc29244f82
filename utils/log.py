"""Logs of a run, progress bars, and the main function of scripts with its one-line errors."""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from utils import interrupt, launcher
from utils.errors import PeerFailure, raising_module
from utils.files import write_error
from utils.text import printable


class _Formatter(logging.Formatter):
    """Formats each message as one printable line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


FORMATTER = _Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


class LogFile(logging.FileHandler):
    """A log file that one process locks; a failed write is an error of the run.

    Raises:
        ValueError: another process has locked it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path, encoding="utf-8")
        assert self.stream is not None
        try:
            fcntl.lockf(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends for any reason
        except (BlockingIOError, PermissionError):
            self.close()
            raise ValueError(f"{path}: output_dir is locked by another run") from None
        except OSError:
            pass  # a file system without locks

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        raise write_error(self.baseFilename, error) if isinstance(error, OSError) else error


def setup_logging(is_main: bool, path: str | os.PathLike | None = None) -> None:
    """Log messages of the first process to stderr and, if given, to a file; other processes only log errors."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if is_main else logging.ERROR)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if is_main and path is not None:
        handlers.append(LogFile(path))
    for handler in handlers:
        handler.setFormatter(FORMATTER)
        # Libraries such as open_clip log to the root logger itself; this project's modules do not.
        handler.addFilter(lambda record: record.name != "root" or record.levelno >= logging.WARNING)
        root.addHandler(handler)
    for library in ("httpx", "httpx2", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # read by huggingface_hub if it is imported later


class Tracker(Protocol):
    """Receives the lines of a `JsonlLogger`."""

    def add(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonlLogger:
    """Appends one JSON object per line to a file; does nothing where disabled.

    Args:
        path: the file.
        enabled: False on all processes but the first.
        keep_bytes: truncate the file to this many bytes; None keeps all. A resumed run rewrites the lines after its
            checkpoint.
    Attributes:
        trackers: receive each line too, see `engine.trackers`.
    """

    def __init__(self, path: str | os.PathLike, enabled: bool = True, keep_bytes: int | None = None) -> None:
        self.path = path
        self.file = None
        self.trackers: list[Tracker] = []
        if enabled:
            try:
                self.file = open(path, "ab", buffering=0)
                if keep_bytes is not None and keep_bytes < self.file.tell():
                    self.file.truncate(keep_bytes)
            except OSError as error:
                raise write_error(path, error) from None

    def write(self, **values: Any) -> None:
        """Append a line, with null for non-finite numbers.

        Raises:
            OSError: the line cannot be written; the message names the file.
        """
        if self.file:
            values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            line = json.dumps(values, allow_nan=False).encode() + b"\n"
            try:
                if self.file.write(line) < len(line):  # the disk is full
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise write_error(self.path, error) from None
            for tracker in self.trackers:
                tracker.add(values)

    def sync(self) -> int:
        """Sync the file and return its length in bytes; 0 if disabled."""
        if not self.file:
            return 0
        os.fsync(self.file.fileno())
        return self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file and the trackers."""
        if self.file:
            self.file.close()
        for tracker in self.trackers:
            tracker.close()


@contextlib.contextmanager
def progress_bar(iterable: Iterable | None, is_main: bool, **options: Any) -> Iterator[tqdm]:
    """Show a tqdm bar on a terminal, on the first process only; log messages are printed above it."""
    size = shutil.get_terminal_size()  # 80 x 24 for a terminal of size 0 x 0, in which tqdm would draw nothing
    options |= dict(disable=None if is_main else True, ncols=size.columns, nrows=size.lines)
    with logging_redirect_tqdm(), tqdm(iterable, **options) as bar:
        yield bar


class ProgressInterval:
    """Interval of progress messages where there is no terminal: 5 s in the first minute, then 60 s."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def is_over(self) -> bool:
        """Whether a message is due; starts the next interval if it is."""
        now = time.monotonic()
        if now - self._last < (5 if now - self._start < 60 else 60):
            return False
        self._last = now
        return True


def run_main(main: Callable[[], Any], resumable: bool = False) -> None:
    """Run a script's main function; an expected error becomes one line on stderr and exit status 2.

    Under torch.distributed.run, one process of a machine prints the line, see `utils.launcher`. The environment
    variable VTSUM_DEBUG=1 shows the traceback of an error instead, of each process.

    Args:
        main: the function.
        resumable: on a signal, let it stop at a resumable point, with exit status 75; see `utils.interrupt`.
    """
    with interrupt.signal_handlers() if resumable else contextlib.nullcontext():
        try:
            main()
        except KeyboardInterrupt:
            _show_last_line("interrupted", launcher.is_first_process())
            sys.exit(130)
        except interrupt.Interrupted as signal:
            line = f"stopped by {signal}; the same command {signal.next_start}"
            _show_last_line(line, launcher.is_first_process())
            os._exit(interrupt.EX_TEMPFAIL)  # without joining threads that score or decode
        except BrokenPipeError:  # the reader of stdout, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
            _exit_with_error(error)


def _exit_with_error(error: Exception) -> NoReturn:
    """Exit with status 2 and a line, or with status 1 and the traceback of an unexpected error."""
    # The data loader itself raises RuntimeError if a worker process was killed.
    is_expected = not isinstance(error, RuntimeError) or raising_module(error).startswith("torch.utils.data.")
    shows_traceback = not is_expected or bool(os.environ.get("VTSUM_DEBUG"))
    if "torch.distributed" in sys.modules and not isinstance(error, PeerFailure):
        from utils.distributed import report_failure

        report_failure(error, with_traceback=shows_traceback)
    is_shown = not launcher.is_reported_elsewhere(error)
    if shows_traceback and is_shown:
        raise error
    _show_last_line("error: " + one_line(error), is_shown)
    sys.exit(2 if is_expected else 1)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one printable line."""
    line = str(error).strip() or type(error).__name__
    if line.startswith("Caught "):  # from a loader's worker: the last line of the traceback
        line = line.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
    return printable(" ".join(line.split()))


def _show_last_line(line: str, on_terminal: bool) -> None:
    """Write a run's last line to its log file and, if asked to, to stderr, if they are still writable."""
    if on_terminal:
        with contextlib.suppress(OSError):
            sys.stderr.write(line + "\n")  # in one call: other processes write to the same terminal
            sys.stderr.flush()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            with contextlib.suppress(OSError):
                handler.handle(logging.makeLogRecord(dict(msg=line)))
