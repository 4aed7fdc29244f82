"""Video files: when their pictures are shown, and the pictures shown at given times.

Presentation times decide, never frame counts. Second 0 is when the first picture appears; k numbers the pictures in
the order in which they are shown. PyAV (FFmpeg) decodes; it is imported where it is used, so that training needs no
codec.
"""

import collections
import contextlib
import os
import stat

import numpy as np
from PIL import Image

from data.video.timeline import LONGEST_STILL, Packets, Timeline, demux

# FFmpeg's names of the kinds of files that are opened. Playlists, which name other files and addresses, are not.
KINDS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,mxf,nut,dv,rm,gif,ivf,h264,hevc"


class OtherPictures(Exception):
    """Decoding gave other pictures than the packets promised; the video's timeline is now corrected."""


class Video:
    """A video file.

    Normally the packets' time stamps tell which pictures there are, and only those packets are decoded that a wanted
    picture needs. Where decoding gives other pictures than that (a truncated or damaged file, no time stamps),
    everything is decoded, and what comes out decides.

    Args:
        path: file of any format that FFmpeg reads.
    Attributes:
        timeline: `Timeline`; reading may correct it.
        rate: mean number of pictures per second, a Fraction.
        start: when the first picture appears on the file's own clock, in seconds.
        has_clock: whether that clock is to be believed.
    Raises:
        FileNotFoundError, ValueError: no such file, not a video, no video stream, no picture; the message names it.
    """

    def __init__(self, path):
        self.path = path
        with self.open() as (container, stream):
            self.rate = stream.average_rate or stream.guessed_rate or 25
            self._packets = Packets.read(container, stream)
            if self._packets is not None:
                self._set_timeline(self._packets.pts, self._packets.last_duration, stream.time_base)
        if self._packets is None:
            self._scan_pictures()

    @property
    def has_clock(self):
        return self._packets is not None

    @contextlib.contextmanager
    def open(self):
        """Open the file: PyAV's container and its stream of moving pictures, decoded on one thread.

        Raises:
            FileNotFoundError, ValueError: see the class.
        """
        import av

        place = f"{self.path}: video"
        try:
            status = os.stat(self.path)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{place}: {getattr(error, 'strerror', str(error)).lower()}") from None
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{place}: found a folder or a device, expected a file")
        if status.st_size == 0:
            raise ValueError(f"{place}: the file is empty")
        try:
            # Not a relative path: FFmpeg would take what is before a colon for a protocol.
            options = dict(format_whitelist=KINDS, protocol_whitelist="file")
            container = av.open(os.path.abspath(self.path), metadata_errors="replace", options=options)
        except av.error.FFmpegError as error:
            what = "cannot be read" if isinstance(error, OSError) else "not a video, or damaged"
            raise ValueError(f"{place}: {what} ({error.strerror})") from None
        with container:
            yield container, self._stream(container)

    def _stream(self, container):
        """The first stream of moving pictures; the cover of a music file is none."""
        from av.stream import Disposition

        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
                stream.codec_context.thread_count = 1  # videos are decoded side by side, not one on all cores
                return stream
        raise ValueError(f"{self.path}: video: found no video stream")

    def _set_timeline(self, pts, last_duration, time_base):
        """Take the pictures' time stamps (N,), in units of `time_base`."""
        ticks = pts - pts[0]
        self.start = float(int(pts[0]) * time_base)
        if not last_duration:
            last_duration = np.median(np.diff(ticks)) if len(ticks) > 1 else 1 / (self.rate * time_base)
        up, down = time_base.numerator, time_base.denominator  # one division, so that whole seconds stay whole
        starts, duration = ticks * up / down, (int(ticks[-1]) + float(last_duration)) * up / down
        stays = np.diff(np.append(starts, duration))
        if stays.max() > LONGEST_STILL:
            found = f"found a picture that stays for {stays.max():.0f} s at second {starts[stays.argmax()]:.0f}"
            raise ValueError(f"{self.path}: video: {found}, expected at most {LONGEST_STILL:.0f} s: its clock jumps")
        self.timeline = Timeline(starts, duration)

    def _scan_pictures(self):
        """Take the timeline from what decoding the whole file gives."""
        self._packets = None
        with self.open() as (_, stream):
            time_base = stream.time_base
        usual = max(1, round(1 / (self.rate * time_base)))
        pts, duration = [], 0
        for frame in self._decode_all():
            # A picture without a time, or with one not after its predecessor's, follows when that one ends.
            known = frame.pts is not None and (not pts or frame.pts > pts[-1])
            pts.append(frame.pts if known else pts[-1] + duration if pts else 0)
            duration = frame.duration or usual
        if not pts:
            raise ValueError(f"{self.path}: video: damaged, not one picture can be decoded")
        self._set_timeline(np.array(pts), duration, time_base)

    def _decode_all(self):
        """Yield every picture that can be decoded."""
        with self.open() as (container, stream):
            for packet in demux(container, stream):
                yield from _decode(stream, packet)
            yield from _decode(stream, None)

    def _decode_needed(self, wanted):
        """Decode just the packets that these pictures need; yields (k, frame) of those of them that come out."""
        needed, wanted_places = self._packets.needed(wanted), set(self._packets.places[wanted].tolist())
        k_of = dict(zip(self._packets.pts[wanted].tolist(), wanted))
        with self.open() as (container, stream):
            context, fed = stream.codec_context, False

            def drained():
                yield from _decode(stream, None)
                context.flush_buffers()

            def frames():
                nonlocal fed
                for place, packet in zip(range(len(needed)), demux(container, stream)):
                    if needed[place]:
                        if context.name == "h264":  # pictures that no other refers to need not be decoded
                            context.skip_frame = "DEFAULT" if place in wanted_places else "NONREF"
                        yield from _decode(stream, packet)
                    elif fed:
                        yield from drained()
                    fed = bool(needed[place])
                yield from drained()

            for frame in frames():
                if frame.pts in k_of:
                    yield k_of[frame.pts], frame

    def pictures(self, wanted):
        """Decode pictures.

        Args:
            wanted: ascending k, without repetition.
        Yields:
            (k, `av.VideoFrame`), see `as_shown`.
        Raises:
            OtherPictures: what the packets promised did not come out. The timeline is corrected: choose again.
        """
        wanted = [int(k) for k in wanted]
        if self._packets is None:
            chosen = set(wanted)
            yield from ((k, frame) for k, frame in enumerate(self._decode_all()) if k in chosen)
            return
        # The first and the last picture carry the timeline, so they are checked too.
        promised = sorted({0, *wanted, len(self._packets.pts) - 1})
        chosen, found = set(wanted), 0
        for k, frame in self._decode_needed(promised):
            if k != promised[found]:
                break
            found += 1
            if k in chosen:
                yield k, frame
        if found < len(promised):
            self._scan_pictures()
            raise OtherPictures

    def each_second(self, T=None, only=None):
        """Decode the picture shown at the middle of each second, see `Timeline.middles`.

        Args:
            T: seconds; None means all that the video reaches into.
            only: ascending seconds; None gives all of them.
        Yields:
            (i, `av.VideoFrame`) for i = 0 … T-1, or for those asked for.
        """
        given = -1
        while True:
            middles = self.timeline.middles(T or self.timeline.seconds)
            seconds = range(len(middles)) if only is None else only
            try:
                for i, frame in _one_behind(self._at_middles(middles, seconds)):
                    if i > given:
                        yield i, frame
                        given = i
                return
            except OtherPictures:
                continue

    def _at_middles(self, middles, seconds):
        """Yield (i, frame) for these seconds; one picture may last for several."""
        waiting = collections.deque(seconds)
        for k, frame in self.pictures(np.unique(middles[list(seconds)])):
            while waiting and middles[waiting[0]] == k:
                yield waiting.popleft(), frame


def _one_behind(items):
    """Give each item when the next has come: the last second of a file cut short is only known at its end."""
    held = None
    for item in items:
        if held is not None:
            yield held
        held = item
    if held is not None:
        yield held


def _decode(stream, packet):
    """Decode a packet, None to get what is left; a damaged one gives nothing."""
    import av

    try:
        return stream.codec_context.decode(packet)
    except av.error.FFmpegError:
        return []


def orientation(frame):
    """Tell how a decoded picture is to be turned: (transpose, flip left-right, flip upside-down), in this order."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)  # x' = a x + c y, y' = b x + d y
    across = abs(int(b)) > abs(int(a))
    return across, (c if across else a) < 0, (b if across else d) < 0


def as_shown(frame):
    """Turn a decoded picture into what a player shows: `PIL.Image`, RGB, upright."""
    array = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    transpose, mirror, overturn = orientation(frame)
    if transpose:
        array = array.transpose(1, 0, 2)
    array = array[:: -1 if overturn else 1, :: -1 if mirror else 1]
    return Image.fromarray(np.ascontiguousarray(array))
