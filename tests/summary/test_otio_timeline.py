"""Timelines for editing programs, read back with OpenTimelineIO."""

from fractions import Fraction

import opentimelineio as otio
import pytest

from data.video.reader import VideoFile
from summary.otio_timeline import build_timeline, with_relative_urls
from tests.helpers.clips import constant_rate, write_clip


def read_timeline(text):
    return otio.adapters.read_from_string(text, "otio_json")


@pytest.mark.parametrize("with_audio", [True, False])
def test_clips_are_the_segments(tmp_path, with_audio):
    rate = Fraction(30000, 1001)
    path = write_clip(tmp_path / "a b#%.mp4", constant_rate(rate, 300), last=1 / rate)
    video = VideoFile(path)
    segments = [(1.0, 3.0), (5.0, 6.0), (9.0, video.timeline.duration)]
    timeline = read_timeline(build_timeline(video, segments, with_audio).to_json_string())
    kinds = [otio.schema.TrackKind.Video, otio.schema.TrackKind.Audio][: 1 + with_audio]
    assert [track.kind for track in timeline.tracks] == kinds
    for track in timeline.tracks:
        clips = list(track.find_clips())
        for clip, (start, end) in zip(clips, segments, strict=True):
            source = clip.source_range
            assert source.start_time.rate == pytest.approx(float(video.rate))
            assert source.start_time.value == round(start * video.rate)
            assert source.end_time_exclusive().value == round(end * video.rate)
            available = clip.media_reference.available_range
            assert (available.start_time.value, available.duration.value) == (0, 300)
            assert source.end_time_exclusive() <= available.end_time_exclusive()
            assert otio.url_utils.filepath_from_url(clip.media_reference.target_url) == str(path)
        assert track.duration().to_seconds() == pytest.approx(sum(end - start for start, end in segments), abs=0.1)


def test_slides_have_clips_of_at_least_a_frame(tmp_path):
    video = VideoFile(write_clip(tmp_path / "slides.mkv", [0, 9], last=1))
    timeline = build_timeline(video, [(2.0, 3.0), (9.0, 10.0)], False)
    for clip in timeline.find_clips():
        assert clip.source_range.duration.value >= 1
        available = clip.media_reference.available_range
        assert clip.source_range.end_time_exclusive() <= available.end_time_exclusive()


def test_relative_urls(tmp_path):
    video = VideoFile(write_clip(tmp_path / "clip.mp4", constant_rate(25, 50)))
    text = build_timeline(video, [(0.0, 1.0)], True).to_json_string()
    assert str(tmp_path) in text
    text = with_relative_urls(text, "my: clip.mp4")
    assert str(tmp_path) not in text
    assert [clip.media_reference.target_url for clip in read_timeline(text).find_clips()] == ["my%3A%20clip.mp4"] * 2
