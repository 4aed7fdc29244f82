"""Decoding in worker processes."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from data.video.decoding import DecodeJob, DecodeResult, FrameChunk, decode_videos
from tests.helpers.clips import constant_rate, write_clip
from utils.frame_transform import FrameTransform


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [
        DecodeJob(str(seconds), str(write_clip(folder / f"{seconds}.mp4", constant_rate(25, 25 * seconds))))
        for seconds in (12, 7, 5, 3, 2, 1)
    ]


@pytest.fixture
def list_workers():
    """Return a function that lists the child processes that the test has started, in the order of their start."""
    before = set(multiprocessing.active_children())  # the scoring process of an earlier test stays

    def list_children():
        return sorted(set(multiprocessing.active_children()) - before, key=lambda process: process.pid)

    return list_children


def group_by_video(events):
    """Collect the pixels and the final result of each video."""
    pixels, ends = {}, {}
    for event in events:
        if isinstance(event, DecodeResult):
            assert event.job.video_id not in ends
            ends[event.job.video_id] = event
        else:
            assert isinstance(event, FrameChunk) and event.job.video_id not in ends
            pixels.setdefault(event.job.video_id, []).append(event.pixels["square"])
    return {name: np.concatenate(parts) for name, parts in pixels.items()}, ends


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_video_is_decoded_completely(jobs, workers):
    transforms = {"square": FrameTransform(32), "crop": FrameTransform(16, crop=True)}
    pixels, ends = group_by_video(decode_videos(jobs, transforms, chunk=4, workers=workers))
    assert sorted(ends) == sorted(job.video_id for job in jobs)
    for name, frames in pixels.items():
        assert frames.shape == (int(name), 32, 32, 3) and frames.dtype == np.uint8
        assert ends[name].reason is None and ends[name].video.timeline.duration == int(name)
    assert len({frames[-1].tobytes() for frames in pixels.values()}) == len(jobs)


def test_crashed_decoder_fails_only_its_video(jobs, list_workers):
    """A SIGSEGV in the worker, as when a broken file makes FFmpeg crash."""
    events, killed_job = [], None
    for event in decode_videos(jobs, {"square": FrameTransform(32)}, chunk=1, workers=2):
        events.append(event)
        if killed_job is None:
            killed_job = event.job
            # Workers start in the order of the jobs; this one has the next frame ready.
            worker = list_workers()[jobs.index(killed_job)]
            os.kill(worker.pid, signal.SIGSEGV)
    pixels, ends = group_by_video(events)
    assert [name for name, end in ends.items() if end.reason] == [killed_job.video_id]
    assert ends[killed_job.video_id].reason == f"{killed_job.path}: video: its decoder ended with SIGSEGV"
    assert all(len(pixels[name]) == int(name) for name in ends if name != killed_job.video_id)


def test_workers_exit_with_the_consumer(jobs, list_workers):
    events = decode_videos(jobs, {"square": FrameTransform(32)}, chunk=1, workers=2)
    next(events)
    assert len(list_workers()) == 2
    events.close()
    assert not list_workers()
