"""Exceptions that determine a command's exit, and where an exception comes from."""

import traceback


class PeerFailure(OSError):
    """A collective failed, most likely because another process of the run failed."""


def raising_module(error: BaseException) -> str:
    """Return the name of the Python module that raised an exception, "" if it has no traceback."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "") if frames else ""
