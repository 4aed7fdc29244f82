"""Limits of uploaded files, checked before a frame is decoded."""

import os
import pathlib

from data.video.reader import CONTAINER_FORMATS, VideoFile
from utils.text import format_time

MAX_PIXELS = 4096 * 2304  # of a frame
# Video codecs that current browsers play, by file suffix.
_MP4_CODECS = ("h264", "av1", "vp9")
PLAYABLE_CODECS = {".mp4": _MP4_CODECS, ".m4v": _MP4_CODECS, ".mov": _MP4_CODECS, ".webm": ("vp8", "vp9", "av1")}


def check_upload(path: str | os.PathLike, max_seconds: float) -> float:
    """Check an uploaded file before it is decoded; returns its duration in seconds.

    Raises:
        ValueError: not a video, not an accepted format, too large frames, or longer than `max_seconds`.
    """
    import av

    try:
        # Formats that refer to other files or URLs are refused.
        with av.open(
            str(path), options=dict(format_whitelist=CONTAINER_FORMATS, protocol_whitelist="file")
        ) as container:
            largest = max((s.width * s.height for s in container.streams.video if s.codec_context), default=0)
    except (av.error.FFmpegError, ValueError):
        raise ValueError(f"{path}: video: not a video, damaged, or of a format that is not accepted") from None
    if largest > MAX_PIXELS:
        raise ValueError(f"{path}: video: found frames of {largest:,} pixels, expected at most {MAX_PIXELS:,}")
    duration = VideoFile(path).timeline.duration
    if duration > max_seconds:
        raise ValueError(
            f"{path}: video: found a length of {format_time(duration)}, "
            f"expected at most {format_time(max_seconds)} (minutes:seconds)"
        )
    return duration


def is_playable(path: str | os.PathLike) -> bool:
    """Whether current browsers can play a video, by its suffix and codec."""
    with VideoFile(path).open() as (_, stream):
        return stream.codec_context.name in PLAYABLE_CODECS.get(pathlib.Path(path).suffix.lower(), ())
