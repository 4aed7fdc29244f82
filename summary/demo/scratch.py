"""A folder for what is not to be kept."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
import time


class Scratch:
    """A private folder in the system's temporary one. Its files go some time after they came, all of it at the end.

    Args:
        keep: seconds that a file stays.
    Attributes:
        folders: as many `pathlib.Path` in it as names were given; these themselves stay.
    """

    def __init__(self, keep, *names):
        self.keep = keep
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="vtsum-app-"))  # for its owner's eyes only
        self.folders = [self.root / name for name in names]
        self._ended = threading.Event()

    def __enter__(self):
        for folder in self.folders:
            folder.mkdir()
        threading.Thread(target=self._sweep_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep_now_and_then(self):
        while not self._ended.wait(min(60, self.keep / 4)):
            self._sweep()

    def _sweep(self):
        for top in self.folders:
            everything = [
                os.path.join(place, name)
                for place, folders, names in os.walk(top, topdown=False)  # what is in a folder before the folder
                for name in names + folders
            ]
            for path in list(filter(self._is_old, everything)):  # all asked first: a folder is as new as what it lost
                with contextlib.suppress(OSError):  # gone, or something newer is in it
                    os.rmdir(path) if os.path.isdir(path) else os.unlink(path)

    def _is_old(self, path):
        """Not by the time of its content's last change, which copies inherit."""
        try:
            return time.time() - os.lstat(path).st_ctime > self.keep
        except OSError:  # gone
            return False
