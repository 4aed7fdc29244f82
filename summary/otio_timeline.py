"""The selected segments as a timeline for editing programs, in OpenTimelineIO's format (.otio)."""

import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.video.reader import VideoFile
from utils.text import format_time, printable_path

if TYPE_CHECKING:
    import opentimelineio as otio


def build_timeline(
    video: VideoFile, segments: Sequence[tuple[float, float]], with_audio: bool
) -> "otio.schema.Timeline":
    """Build a timeline: one video track, and one audio track, of the segments.

    The clips refer to the video by its absolute `file://` URL. Their times are in frames at the video's mean rate, from
    its first frame.

    Args:
        video: the source.
        segments: (start, end) in seconds, ascending, disjoint.
        with_audio: whether there is an audio track.
    """
    import opentimelineio as otio

    rate = float(video.rate)
    ranges = [_frame_range(start, end, rate) for start, end in segments]
    num_frames = max(ranges[-1][1], round(video.timeline.duration * rate))

    def time_range(first: int, last: int) -> otio.opentime.TimeRange:
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(first, rate), otio.opentime.RationalTime(last - first, rate)
        )

    name = printable_path(pathlib.Path(video.path).name)
    timeline = otio.schema.Timeline(f"{name}: summary")
    for kind in [otio.schema.TrackKind.Video] + [otio.schema.TrackKind.Audio] * with_audio:
        track = otio.schema.Track(kind, kind=kind)
        for (start, _), (first, last) in zip(segments, ranges):
            media = otio.schema.ExternalReference(file_url(video.path), time_range(0, num_frames))
            track.append(otio.schema.Clip(f"{name} {format_time(start)}", media, time_range(first, last)))
        timeline.tracks.append(track)
    return timeline


def _frame_range(start: float, end: float, rate: float) -> tuple[int, int]:
    """Convert a segment to frames (first, last + 1), at least one."""
    first = round(start * rate)
    return first, max(first + 1, round(end * rate))


def file_url(path: str | os.PathLike) -> str:
    """Return the `file://` URL of a path."""
    return pathlib.Path(os.path.abspath(path)).as_uri()


def with_relative_urls(text: str, name: str) -> str:
    """Return a timeline (content of an .otio file) that refers to a file `name` in its own folder."""
    import opentimelineio as otio

    timeline = otio.adapters.read_from_string(text, "otio_json")
    for clip in timeline.find_clips():
        clip.media_reference.target_url = urllib.parse.quote(name)
    return timeline.to_json_string()
