"""Video files: the presentation times of their frames, and the frames presented at given times.

Frames are selected by presentation time, never by count. Second 0 is the presentation time of the first frame; k
numbers the frames in presentation order. Decoding is by PyAV (FFmpeg), imported lazily: training does not need it.
"""

import collections
import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from data.video.timeline import MAX_FRAME_SECONDS, Packets, Timeline, demux

if TYPE_CHECKING:
    import av

Item = TypeVar("Item")

# FFmpeg's names of the accepted container formats. Playlists are not accepted: they refer to other files and URLs.
CONTAINER_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,mxf,nut,dv,rm,gif,ivf,h264,hevc"


class TimelineChanged(Exception):
    """The decoded frames differ from those of the packets' headers; the timeline has been corrected."""


class VideoFile:
    """A video file.

    Normally the timeline is read from the packets' timestamps, and only the packets that a requested frame depends on
    are decoded. If the decoded frames differ (a truncated or damaged file, no timestamps), the whole file is decoded:
    decoded timestamps take precedence.

    Args:
        path: file of any format that FFmpeg reads.
    Attributes:
        timeline: presentation times; decoding may correct it.
        rate: mean number of frames per second.
        stated_duration: duration in seconds by the file's header; None if it has none.
        start: presentation time of the first frame on the file's clock, in seconds.
        has_clock: whether that clock is reliable.
    Raises:
        FileNotFoundError, ValueError: no such file, not a video, no video stream, no frame; the message names the file.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        with self.open() as (container, stream):
            self.rate: Fraction | int = stream.average_rate or stream.guessed_rate or 25
            self.stated_duration = _stated_duration(container, stream)
            self._packets = Packets.read(container, stream)
            if self._packets is not None:
                self._set_timeline(self._packets.pts, self._packets.last_duration, _time_base(stream))
        if self._packets is None:
            self._scan_frames()

    @property
    def has_clock(self) -> bool:
        """Whether the clock of the file is reliable."""
        return self._packets is not None

    @contextlib.contextmanager
    def open(self) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
        """Open the file: PyAV's container and its video stream, decoded on one thread.

        Raises:
            FileNotFoundError, ValueError: see the class.
        """
        import av

        prefix = f"{self.path}: video"
        try:
            status = os.stat(self.path)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{prefix}: {getattr(error, 'strerror', str(error)).lower()}") from None
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{prefix}: found a folder or a device, expected a file")
        if status.st_size == 0:
            raise ValueError(f"{prefix}: the file is empty")
        try:
            # An absolute path: in a relative one, FFmpeg would parse the part before a colon as a protocol.
            options = dict(format_whitelist=CONTAINER_FORMATS, protocol_whitelist="file")
            container = av.open(os.path.abspath(self.path), metadata_errors="replace", options=options)
        except av.error.FFmpegError as error:
            problem = "cannot be read" if isinstance(error, OSError) else "not a video, or damaged"
            raise ValueError(f"{prefix}: {problem} ({error.strerror})") from None
        with container:
            yield container, self._select_stream(container)

    def _select_stream(self, container: "av.container.InputContainer") -> "av.VideoStream":
        """Return the first video stream that is not the cover image of an audio file."""
        from av.stream import Disposition

        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
                stream.codec_context.thread_count = 1  # parallelism is over videos, one per core
                return stream
        raise ValueError(f"{self.path}: video: found no video stream")

    def _set_timeline(self, pts: np.ndarray, last_duration: int, time_base: Fraction) -> None:
        """Set the timeline from the frames' timestamps (N,), in units of `time_base`."""
        ticks = pts - pts[0]
        self.start = float(int(pts[0]) * time_base)
        last_ticks = float(last_duration)
        if not last_duration:
            last_ticks = float(np.median(np.diff(ticks)) if len(ticks) > 1 else 1 / (self.rate * time_base))
        up, down = time_base.numerator, time_base.denominator  # a single division keeps whole seconds exact
        starts = ticks * up / down
        duration = (int(ticks[-1]) + last_ticks) * up / down
        lengths = np.diff(np.append(starts, duration))
        if lengths.max() > MAX_FRAME_SECONDS:
            longest = f"a frame of {lengths.max():.0f} s at second {starts[lengths.argmax()]:.0f}"
            raise ValueError(
                f"{self.path}: video: found {longest}, expected at most {MAX_FRAME_SECONDS:.0f} s: its clock jumps"
            )
        self.timeline = Timeline(starts, duration)

    def _scan_frames(self) -> None:
        """Set the timeline by decoding the whole file."""
        self._packets = None
        with self.open() as (_, stream):
            time_base = _time_base(stream)
        default_duration = max(1, round(1 / (self.rate * time_base)))
        pts: list[int] = []
        duration = 0
        for frame in self._decode_all():
            # A frame without a timestamp, or with one not after its predecessor's, starts when that one ends.
            if frame.pts is not None and (not pts or frame.pts > pts[-1]):
                pts.append(frame.pts)
            else:
                pts.append(pts[-1] + duration if pts else 0)
            duration = frame.duration or default_duration
        if not pts:
            raise ValueError(f"{self.path}: video: damaged, not one frame can be decoded")
        self._set_timeline(np.array(pts), duration, time_base)

    def _decode_all(self) -> "Iterator[av.VideoFrame]":
        """Yield all decodable frames."""
        with self.open() as (container, stream):
            for packet in demux(container, stream):
                yield from _decode(stream, packet)
            yield from _decode(stream, None)

    def _decode_needed(self, wanted: Sequence[int]) -> "Iterator[tuple[int, av.VideoFrame]]":
        """Decode only the packets that these frames depend on; yields (k, frame) of the decodable ones."""
        assert self._packets is not None
        needed = self._packets.needed(wanted)
        wanted_packets = set(self._packets.packets[wanted].tolist())
        k_of_pts = dict(zip(self._packets.pts[wanted].tolist(), wanted))
        with self.open() as (container, stream):
            context, has_pending = stream.codec_context, False

            def drain() -> "Iterator[av.VideoFrame]":
                yield from _decode(stream, None)
                context.flush_buffers()

            def decode_runs() -> "Iterator[av.VideoFrame]":
                nonlocal has_pending
                for i, packet in zip(range(len(needed)), demux(container, stream)):
                    if needed[i]:
                        if context.name == "h264":  # skip frames that no other frame refers to
                            context.skip_frame = "DEFAULT" if i in wanted_packets else "NONREF"
                        yield from _decode(stream, packet)
                    elif has_pending:
                        yield from drain()
                    has_pending = bool(needed[i])
                yield from drain()

            for frame in decode_runs():
                if frame.pts in k_of_pts:
                    yield k_of_pts[frame.pts], frame

    def iter_frames(self, wanted: Iterable[int]) -> "Iterator[tuple[int, av.VideoFrame]]":
        """Decode frames.

        Args:
            wanted: frame numbers k, ascending and unique.
        Yields:
            (k, frame), see `to_upright_rgb`.
        Raises:
            TimelineChanged: the decoded frames differ from those of the packets' headers. The timeline is corrected:
                the caller can select frames again.
        """
        wanted = [int(k) for k in wanted]
        if self._packets is None:
            selected = set(wanted)
            yield from ((k, frame) for k, frame in enumerate(self._decode_all()) if k in selected)
            return
        # The first and the last frame determine the timeline: check them too.
        expected = sorted({0, *wanted, len(self._packets.pts) - 1})
        selected, decoded = set(wanted), 0
        for k, frame in self._decode_needed(expected):
            if k != expected[decoded]:
                break
            decoded += 1
            if k in selected:
                yield k, frame
        if decoded < len(expected):
            self._scan_frames()
            raise TimelineChanged

    def iter_sampled_frames(
        self, T: int | None = None, only: Sequence[int] | None = None
    ) -> "Iterator[tuple[int, av.VideoFrame]]":
        """Decode the frame presented at the middle of each second, see `Timeline.sample_indices`.

        Args:
            T: number of seconds; None is the duration, rounded up.
            only: ascending seconds to decode; None decodes all.
        Yields:
            (i, frame) for i = 0 … T-1, or for i in `only`.
        """
        last = -1  # last second that was yielded
        while True:
            indices = self.timeline.sample_indices(T or self.timeline.seconds)
            seconds = range(len(indices)) if only is None else only
            try:
                for i, frame in _delay_by_one(self._iter_seconds(indices, seconds)):
                    if i > last:
                        yield i, frame
                        last = i
                return
            except TimelineChanged:
                continue

    def _iter_seconds(self, indices: np.ndarray, seconds: Sequence[int]) -> "Iterator[tuple[int, av.VideoFrame]]":
        """Yield (i, frame) for these seconds; `indices` are the seconds' frames, which may repeat."""
        pending = collections.deque(seconds)
        for k, frame in self.iter_frames(np.unique(indices[list(seconds)])):
            while pending and indices[pending[0]] == k:
                yield pending.popleft(), frame


def _delay_by_one(items: Iterator[Item]) -> Iterator[Item]:
    """Delay items by one, because reaching the end of a truncated file may change its last second."""
    previous = None
    for item in items:
        if previous is not None:
            yield previous
        previous = item
    if previous is not None:
        yield previous


def _stated_duration(container: "av.container.InputContainer", stream: "av.VideoStream") -> float | None:
    """Return the duration in seconds by the header of the video stream, else of the file; None if it has none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None  # in units of AV_TIME_BASE


def _time_base(stream: "av.VideoStream") -> Fraction:
    assert stream.time_base is not None
    return stream.time_base


def _decode(stream: "av.VideoStream", packet: "av.Packet | None") -> "list[av.VideoFrame]":
    """Decode a packet, None to flush the decoder; a damaged one gives no frames."""
    import av

    try:
        return stream.codec_context.decode(packet)
    except av.error.FFmpegError:
        return []


def orientation(frame: "av.VideoFrame") -> tuple[bool, bool, bool]:
    """Return the operations that turn a decoded frame upright: (transpose, flip left-right, flip top-bottom)."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # declared for names, takes both
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)  # x' = a x + c y, y' = b x + d y
    transpose = abs(int(b)) > abs(int(a))
    return transpose, (c if transpose else a) < 0, (b if transpose else d) < 0


def to_upright_rgb(frame: "av.VideoFrame") -> Image.Image:
    """Convert a decoded frame to an upright RGB image, as a player displays it."""
    array = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    transpose, flip_horizontally, flip_vertically = orientation(frame)
    if transpose:
        array = array.transpose(1, 0, 2)
    array = array[:: -1 if flip_vertically else 1, :: -1 if flip_horizontally else 1]
    return Image.fromarray(np.ascontiguousarray(array))
