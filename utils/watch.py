"""Notice the death of another process of a run, which the ones left would wait for, for hours.

gloo's connections break by themselves; NCCL's kernels wait, and a launcher that ends the others is not always there.
"""

import contextlib
import datetime
import os
import sys
import threading
import time

from torch import distributed as dist

PERIOD = 2.0  # seconds between two signs of life
SILENCE = 40.0  # seconds without one after which a process is taken for dead
GRACE = 5.0  # seconds that this process then has to end by its own means


class Watch:
    """A thread that ends this process, with status 2, when another one has failed or gives no sign of life.

    Args:
        store: the run's `torch.distributed.Store`.
        rank, size: this process among all.
    """

    def __init__(self, store, rank, size):
        self.store = dist.PrefixStore("watch", store.clone())  # a wait of the main thread's must not hold this one up
        self.store.set_timeout(datetime.timedelta(seconds=10))
        self.rank, self.neighbour, self.reason = rank, (rank + 1) % size, None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def report(self, line):
        """Tell the others why this process ends."""
        with contextlib.suppress(Exception):  # the store may be gone
            self.store.set("failed", f"process {self.rank}: {line}")

    def end(self):
        """Stop watching: this process is about to end, and so are the others."""
        self._ended.set()
        self._thread.join()

    def _run(self):
        beats, since = None, time.monotonic()
        while not self._ended.wait(PERIOD):
            now = time.monotonic()
            try:
                self.store.add(f"beats of {self.rank}", 1)
                latest = self.store.add(f"beats of {self.neighbour}", 0)
                if self.store.check(["failed"]):
                    self.reason = self.store.get("failed").decode(errors="replace")
            except Exception:  # whatever a broken connection raises
                self.reason = "the process where all meet is gone"
            else:
                if latest != beats:
                    beats, since = latest, now
                elif now - since > SILENCE and not self.reason:
                    self.reason = f"process {self.neighbour} has given no sign of life for {SILENCE:.0f} s"
                    self.report(self.reason)
            if self.reason:
                self._end_process()

    def _end_process(self):
        if not self._ended.wait(GRACE):
            print(f"error: another process of this run failed ({self.reason})", file=sys.stderr, flush=True)
            os._exit(2)
