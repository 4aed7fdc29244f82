"""When the pictures of a video are shown, and which packets of its file they need.

Second 0 is when the first picture appears; k numbers the pictures in the order in which they are shown.
"""

import contextlib
import dataclasses
import math

import numpy as np

# Containers round times to a millisecond, at both ends of a video: a remainder below this is no second of its own.
ROUNDING = 0.002
# Longest that one picture stays: more is a jump of a damaged file's clock, and would be frames without end.
LONGEST_STILL = 600.0


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When the pictures of a video are shown.

    Attributes:
        starts: (N,) float64 seconds, ascending, the first 0.
        duration: seconds from the first picture's start to the last one's end.
    """

    starts: np.ndarray
    duration: float

    @property
    def seconds(self):
        """T, the number of frames at 1 fps: the duration in seconds, rounded up."""
        return max(1, math.ceil(self.duration - ROUNDING))

    def at(self, seconds):
        """Picture shown at each of these times: (n,) int k."""
        return np.maximum(np.searchsorted(self.starts, seconds, side="right") - 1, 0)

    def middles(self, T):
        """Picture shown at the middle of each of T seconds: (T,) int k, ascending.

        The last second that the video reaches into counts for as long as it lasts; after its end its last picture
        stays.
        """
        first = np.arange(T)
        return self.at((first + np.clip(self.duration, first, first + 1)) / 2)


@dataclasses.dataclass(frozen=True)
class Packets:
    """What the packets of a video stream promise: N pictures, k in the order in which they are shown.

    A place is a packet's number in the file, that is in the order of decoding.
    """

    count: int
    pts: np.ndarray  # (N,) time stamp of picture k
    places: np.ndarray  # (N,) place of picture k
    last_duration: int
    key_pts: np.ndarray  # of the key pictures, from which decoding can begin
    key_places: np.ndarray

    @classmethod
    def read(cls, container, stream):
        """Scan a file without decoding it; None where the packets do not tell when each picture is shown."""
        rows = [(p.pts, p.duration or 0, p.is_keyframe, _is_hidden(p)) for p in demux(container, stream)]
        shown = sorted((pts, place) for place, (pts, _, _, hidden) in enumerate(rows) if not hidden and pts is not None)
        pts, places = np.array(shown, np.int64).reshape(-1, 2).T
        if not shown or any(row[0] is None for row in rows) or (np.diff(pts) == 0).any():
            return None
        keys = np.flatnonzero([key for _, _, key, _ in rows])
        return cls(len(rows), pts, places, rows[places[-1]][1], np.array([rows[key][0] for key in keys]), keys)

    def needed(self, wanted):
        """Tell which packets must be decoded for these pictures: (count,) bool.

        A picture needs everything between the last key picture that is both decoded and shown before it, and itself.
        """
        edges = np.zeros(self.count + 1, np.int64)
        for k in wanted:
            key = np.searchsorted(self.key_places, self.places[k], side="right") - 1
            while key >= 0 and self.key_pts[key] > self.pts[k]:
                key -= 1
            edges[self.key_places[key] if key >= 0 else 0] += 1
            edges[self.places[k] + 1] -= 1
        return edges.cumsum()[:-1] > 0


def _is_hidden(packet):
    """Tell a packet that no picture is shown for: before an edit list's start, or one that VP8 only refers to."""
    vp8 = packet.stream.codec_context.name == "vp8"
    return packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)


def demux(container, stream):
    """Yield the packets of a stream until the file ends or cannot be read further."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet
