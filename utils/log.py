"""Logging of a run, progress bars, and one-line errors."""

import contextlib
import json
import logging
import os
import shutil
import sys

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

FORMAT = logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


def setup_logging(is_main, path=None):
    """Send the first process's messages to the screen and, if given, to a file; others only show errors."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if is_main else logging.ERROR)
    handlers = [logging.StreamHandler(sys.stderr)]
    if is_main and path is not None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(FORMAT)
        root.addHandler(handler)
    for library in ("httpx", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)


class JsonLines:
    """Appends one JSON object per line to a file; on other processes than the first it does nothing."""

    def __init__(self, path, enabled=True):
        self.file = open(path, "a", encoding="utf-8") if enabled else None

    def write(self, **values):
        if self.file:
            self.file.write(json.dumps(values, allow_nan=False) + "\n")
            self.file.flush()

    def close(self):
        if self.file:
            self.file.close()


@contextlib.contextmanager
def progress(iterable, is_main, **how):
    """A tqdm bar on a terminal, on the first process only; log messages go above it."""
    size = shutil.get_terminal_size()  # 80 x 24 where a terminal says 0 x 0, in which tqdm would draw nothing
    how |= dict(disable=None if is_main else True, ncols=size.columns, nrows=size.lines)
    with logging_redirect_tqdm(), tqdm(iterable, **how) as bar:
        yield bar


def run_main(main):
    """Run a script's main function; an expected error becomes one line on stderr and exit status 2.

    The environment variable VTSUM_DEBUG=1 shows the traceback instead.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        lost = isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
        if os.environ.get("VTSUM_DEBUG") or (isinstance(error, RuntimeError) and not lost):
            raise
        if lost:
            error = OSError(f"another process of this run failed ({str(error).splitlines()[0][:200]})")
        line = str(error).strip() or type(error).__name__
        if line.startswith("Caught "):  # a loader's worker wraps the message in its own traceback, as the last line
            line = line.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
        line = "error: " + " ".join(line.split())
        print(line, file=sys.stderr, flush=True)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(logging.makeLogRecord(dict(msg=line)))
        sys.exit(2)
