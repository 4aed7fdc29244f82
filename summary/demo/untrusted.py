"""A stranger's file, before any of its pictures is decoded."""

from data.video.reader import KINDS, VideoFile
from utils.text import clock

MOST_PIXELS = 4096 * 2304  # of a picture


def check_video(path, most_seconds):
    """Refuse what should not be decoded for a stranger.

    Args:
        path: the file.
        most_seconds: longest duration that is taken.
    Returns:
        its duration in seconds.
    Raises:
        ValueError: not a video, not of the kinds that are taken, with too large pictures, or too long.
    """
    import av

    place = f"{path}: video"
    try:
        # What another file or address is needed for stays closed.
        with av.open(str(path), options=dict(format_whitelist=KINDS, protocol_whitelist="file")) as container:
            largest = max((s.width * s.height for s in container.streams.video if s.codec_context), default=0)
    except (av.error.FFmpegError, ValueError):
        raise ValueError(f"{place}: not a video, damaged, or of a kind that is not taken here") from None
    if largest > MOST_PIXELS:
        raise ValueError(f"{place}: found pictures of {largest:,} pixels, expected at most {MOST_PIXELS:,}")
    duration = VideoFile(path).timeline.duration
    if duration > most_seconds:
        found, most = clock(duration), clock(most_seconds)
        raise ValueError(f"{place}: found a length of {found}, expected at most {most} (minutes:seconds)")
    return duration
