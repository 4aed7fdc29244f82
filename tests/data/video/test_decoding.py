"""Decoding in worker processes."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from data.video.decoding import DecodeJob, DecodeResult, FrameChunk, decode_videos
from tests.clips import constant_rate, write_clip
from utils.frame_transform import FrameTransform


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [
        DecodeJob(str(n), str(write_clip(folder / f"{n}.mp4", constant_rate(25, 25 * n)))) for n in (12, 7, 5, 3, 2, 1)
    ]


def by_job(events):
    """Pixels of each video, and its end."""
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
def test_every_video_comes_whole(jobs, workers):
    transforms = {"square": FrameTransform(32), "crop": FrameTransform(16, crop=True)}
    pixels, ends = by_job(decode_videos(jobs, transforms, chunk=4, workers=workers))
    assert sorted(ends) == sorted(job.video_id for job in jobs)
    for name, found in pixels.items():
        assert found.shape == (int(name), 32, 32, 3) and found.dtype == np.uint8
        assert ends[name].reason is None and ends[name].video.timeline.duration == int(name)
    assert len({found[-1].tobytes() for found in pixels.values()}) == len(jobs)


def test_a_decoder_that_dies_costs_one_video(jobs):
    """As when a broken file makes FFmpeg crash: its process is killed."""
    events, killed = [], None
    for event in decode_videos(jobs, {"square": FrameTransform(32)}, chunk=1, workers=2):
        events.append(event)
        if killed is None:
            killed = event.job
            # The worker of this video has the next frame ready; which one it is, the order of starting tells.
            victim = sorted(multiprocessing.active_children(), key=lambda process: process.pid)[jobs.index(killed)]
            os.kill(victim.pid, signal.SIGSEGV)
    pixels, ends = by_job(events)
    assert [name for name, end in ends.items() if end.reason] == [killed.video_id]
    assert ends[killed.video_id].reason == f"{killed.path}: video: its decoder ended with SIGSEGV"
    assert all(len(pixels[name]) == int(name) for name in ends if name != killed.video_id)


def test_workers_end_with_the_consumer(jobs):
    events = decode_videos(jobs, {"square": FrameTransform(32)}, chunk=1, workers=2)
    next(events)
    assert len(multiprocessing.active_children()) == 2
    events.close()
    assert not multiprocessing.active_children()
