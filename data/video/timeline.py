"""Presentation times of a video's frames, and the packets of its file that decode to them.

Second 0 is the presentation time of the first frame; k numbers the frames in presentation order.
Axes: N frames of the file, T seconds.
"""

import array
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    import av

# Containers round times to milliseconds: a fraction of a second below this is ignored.
ROUNDING_SECONDS = 0.002
# Longest accepted presentation of a frame in seconds: a longer one is a jump of a damaged file's clock.
MAX_FRAME_SECONDS = 600.0


def count_sampled_frames(duration: float) -> int:
    """T, the number of frames at 1 fps of a video: its duration in seconds, rounded up."""
    return max(1, math.ceil(duration - ROUNDING_SECONDS))


def sampling_times(duration: float, T: int) -> np.ndarray:
    """Return the times at which T frames of a video are sampled: (T,) float64 seconds.

    These are the middles of its seconds; for a partial last second, the middle of that part.
    """
    first = np.arange(T)
    return (first + np.clip(duration, first, first + 1)) / 2


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Presentation times of a video's frames.

    Attributes:
        starts: (N,) float64 seconds, ascending, the first 0.
        duration: seconds from the first frame's start to the last one's end.
    """

    starts: np.ndarray
    duration: float

    @property
    def seconds(self) -> int:
        """T, see `count_sampled_frames`."""
        return count_sampled_frames(self.duration)

    def frames_at(self, seconds: np.ndarray | float) -> np.ndarray:
        """Return the frame presented at each time: (n,) int k."""
        return np.maximum(np.searchsorted(self.starts, seconds, side="right") - 1, 0)

    def sample_indices(self, T: int) -> np.ndarray:
        """Return the frame presented at each of T sampling times: (T,) int k, ascending.

        After the end of the video, the last frame is repeated.
        """
        return self.frames_at(sampling_times(self.duration, T))


@dataclasses.dataclass(frozen=True)
class Packets:
    """The frames of a video stream, from the headers of its packets.

    Attributes:
        count: number of packets.
        pts: (N,) timestamp of frame k.
        packets: (N,) number of frame k's packet in the file, that is in decoding order.
        last_duration: duration of the last frame, in units of the timestamps; 0 if unknown.
        key_pts: timestamps of the frames at which decoding can start.
        key_packets: numbers of their packets.
    """

    count: int
    pts: np.ndarray
    packets: np.ndarray
    last_duration: int
    key_pts: np.ndarray
    key_packets: np.ndarray

    @classmethod
    def read(cls, container: "av.container.InputContainer", stream: "av.VideoStream") -> Self | None:
        """Scan a file without decoding it; None if the packets lack timestamps."""
        timestamps, durations = array.array("q"), array.array("q")  # a file of hours has millions of packets
        key_flags, hidden_flags = bytearray(), bytearray()
        for packet in demux(container, stream):
            if packet.pts is None:
                return None
            timestamps.append(packet.pts)
            durations.append(packet.duration or 0)
            key_flags.append(packet.is_keyframe)
            hidden_flags.append(_is_hidden(packet))
        pts = np.array(timestamps, np.int64)
        shown = np.flatnonzero(np.array(hidden_flags) == 0)
        packets = shown[np.argsort(pts[shown], kind="stable")]  # in presentation order
        if not len(packets) or (np.diff(pts[packets]) == 0).any():
            return None
        keys = np.flatnonzero(np.array(key_flags))
        return cls(len(pts), pts[packets], packets, durations[packets[-1]], pts[keys], keys)

    def needed(self, wanted: Sequence[int]) -> np.ndarray:
        """Mark the packets that must be decoded for these frames: (count,) bool.

        A frame depends on all packets since the last random access point that precedes it in decoding and in
        presentation order.
        """
        edges = np.zeros(self.count + 1, np.int64)
        for k in wanted:
            key = np.searchsorted(self.key_packets, self.packets[k], side="right") - 1
            while key >= 0 and self.key_pts[key] > self.pts[k]:
                key -= 1
            edges[self.key_packets[key] if key >= 0 else 0] += 1
            edges[self.packets[k] + 1] -= 1
        return edges.cumsum()[:-1] > 0


def _is_hidden(packet: "av.Packet") -> bool:
    """Whether a packet's frame is never presented: before the start of an edit list, or VP8's hidden references."""
    vp8 = packet.stream.codec_context.name == "vp8"
    return packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)


def demux(container: "av.container.InputContainer", stream: "av.stream.Stream") -> "Iterator[av.Packet]":
    """Yield the packets of a stream until the file ends or cannot be read further."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet
