"""Frames of a report's videos, from the video files, as JPEG images in data URIs.

Axes: T frames at 1 fps.
"""

import base64
import dataclasses
import io
import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data.video.reader import VideoFile, to_upright_rgb
from metrics.keyframes import select_top_frames
from report.content import ReportVideo
from report.figures import contiguous_segments

logger = logging.getLogger(__name__)

FRAMES_PER_ROW = 6  # of each row
THUMBNAIL_SIZE = 200  # pixels, of the longer side
JPEG_QUALITY = 80


@dataclasses.dataclass(frozen=True)
class ReportFrame:
    """A frame of a video.

    Attributes:
        second: its second.
        width, height: in pixels.
        uri: data URI of the image.
    """

    second: int
    width: int
    height: int
    uri: str


@dataclasses.dataclass(frozen=True)
class FrameRow:
    """Frames that are shown in a row, in the order of time."""

    title: str
    frames: tuple[ReportFrame, ...]


def read_frame_rows(
    videos: Sequence[ReportVideo], paths: Mapping[str, pathlib.Path]
) -> dict[str, tuple[FrameRow, ...]]:
    """Decode frames of videos: those that the model selected, and those that the annotators prefer.

    A video whose file cannot be read is left out with a warning.

    Args:
        videos: the videos of the report.
        paths: video id -> path; ids without a path are left out.
    Returns:
        video id -> rows.
    Raises:
        ValueError: there is no path of any of the videos.
    """
    available = [video for video in videos if video.record.video_id in paths]
    if videos and not available:
        raise ValueError(
            f"videos: found none of the {len(videos)} videos to show, such as {videos[0].record.video_id}; "
            "expected files that are named by the videos' ids"
        )
    rows: dict[str, tuple[FrameRow, ...]] = {}
    for video in available:
        try:
            rows[video.record.video_id] = _read_rows(video, paths[video.record.video_id])
        except (OSError, ValueError) as error:
            logger.warning("%s; its frames are left out", error)
    return rows


def _read_rows(video: ReportVideo, path: pathlib.Path) -> tuple[FrameRow, ...]:
    seconds_of_row = _choose_rows(video)
    wanted = sorted({second for seconds in seconds_of_row.values() for second in seconds})
    decoded = VideoFile(path).iter_sampled_frames(video.num_frames, only=wanted)
    frames = {second: _encode_frame(second, to_upright_rgb(frame)) for second, frame in decoded}
    rows = {title: tuple(frames[s] for s in seconds if s in frames) for title, seconds in seconds_of_row.items()}
    return tuple(FrameRow(title, row) for title, row in rows.items() if row)


def _choose_rows(video: ReportVideo) -> dict[str, list[int]]:
    """Choose the seconds to show: title of the row -> seconds."""
    rows: dict[str, list[int]] = {}
    if video.selected is not None:
        saliency = np.zeros(len(video.selected)) if video.saliency is None else video.saliency
        rows["Selected by the model"] = choose_seconds(video.selected, saliency)
    if video.labels is not None:
        mean = video.labels.importance.mean(0)  # (T,)
        rows["Preferred by the annotators"] = choose_seconds(select_top_frames(mean) & (mean > 0), mean)
    return rows


def choose_seconds(flags: np.ndarray, weights: np.ndarray) -> list[int]:
    """Choose one second of each segment: that with the largest weight, of several the middle one.

    Args:
        flags: (T,) bool, whose runs of True are the segments.
        weights: (T,) float.
    Returns:
        At most `FRAMES_PER_ROW` seconds, ascending; of more segments, those of the largest weights, then the longest.
    """
    peaks: list[tuple[float, int, int]] = []
    for start, length in contiguous_segments(flags):
        segment = weights[start : start + length]
        highest = np.flatnonzero(segment == segment.max())
        peaks.append((-float(segment.max()), -length, start + int(highest[len(highest) // 2])))
    return sorted(second for *_, second in sorted(peaks)[:FRAMES_PER_ROW])


def _encode_frame(second: int, image: Image.Image) -> ReportFrame:
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return ReportFrame(second, image.width, image.height, f"data:image/jpeg;base64,{encoded}")
