"""Frame features from videos: decode in worker processes, encode, write a file per video."""

import json
import logging
import os
import pathlib
import time

import numpy as np
import torch

from data.video.decoding import DecodeJob, FrameChunk, decode_videos
from models.frame_encoders import blip_frame_encoder, clip_frame_encoder
from models.vt_clip import find_clip, hub_names
from models.weights import weights_sha256
from utils import distributed, interrupt
from utils.download import is_url
from utils.log import progress_bar

logger = logging.getLogger(__name__)

BLIP = "outputs/blip/model_base_capfilt_large.pth"
VT_CLIP = "outputs/vt_clipscore/vt_clip.pth"
FIELDS = {"blip": "features", "vt_clipscore": "vision"}  # folder, and encoder's name -> array in its files
LOG_SECONDS = 60


def checkpoint_of(flag, given, default):
    """Path of an encoder's checkpoint, or "" where there is none to use.

    Raises:
        FileNotFoundError: the checkpoint that was asked for is missing.
    """
    source = default if given is None else given
    named = flag == "--vt_clip" and source in hub_names()
    if not source or named or is_url(source) or pathlib.Path(source).is_file():
        return source
    if given is None:
        logger.warning("%s: no file %s: its features are left out", flag, source)
        return ""
    raise FileNotFoundError(f"{source}: {flag}: no such file")


def encode_videos(jobs, encoders, *, chunk, workers, on_frames=lambda n: None):
    """Decode and encode videos; a video's features do not depend on the others.

    Args:
        jobs: list of `DecodeJob`.
        encoders: name -> `FrameEncoder`.
        chunk: frames of one video that are encoded together.
        workers: decoding processes, see `decode_videos`.
        on_frames: is told the number of frames each time that some are encoded.
    Yields:
        `DecodeResult` and, by the encoder's name, (T, D) float32 features; {} for a video that cannot be decoded.
    """
    transforms = {name: encoder.transform for name, encoder in encoders.items()}
    parts = {}
    for event in decode_videos(jobs, transforms, chunk=chunk, workers=workers):
        if isinstance(event, FrameChunk):
            states = {name: encoder(event.pixels[name]) for name, encoder in encoders.items()}
            parts.setdefault(event.job, []).append(states)
            on_frames(len(next(iter(states.values()))))
        else:
            rows = [] if event.reason else parts[event.job]
            parts.pop(event.job, None)
            yield event, {name: torch.cat([r[name] for r in rows]).cpu().numpy() for name in encoders if rows}


@torch.inference_mode()
def encode_caption(clip, caption):
    """VT-CLIP's feature of a caption, by itself: (1, C) float32."""
    return clip.encode_text([caption]).float().cpu().numpy()


class Failures:
    """`failures.jsonl`: which videos could not be extracted, and why; without failures there is no such file."""

    def __init__(self, path):
        self.path, self.count = path, 0

    def add(self, job, reason):
        self.count += 1
        with open(self.path, "a", encoding="utf-8") as file:  # in one write: other processes write here too
            file.write(json.dumps(dict(video_id=job.video_id, path=job.path, reason=reason)) + "\n")
        logger.warning("failed: %s", reason)


def make_jobs(videos, records):
    """Paths and annotations by video id -> list of `DecodeJob`, the longest first.

    A file's size stands for its length: to open a million videos and ask takes longer than the order saves.
    """
    jobs = [
        DecodeJob(video_id, str(path), records[video_id].num_frames if video_id in records else None)
        for video_id, path in videos.items()
    ]
    return sorted(jobs, key=lambda job: os.path.getsize(job.path) if os.path.exists(job.path) else 0, reverse=True)


def share_of_cores():
    """Decoding processes that this process can have: its share of the machine's cores but one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == os.cpu_count():  # otherwise they are this process's own already
        cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores - 1)


def extract(jobs, encoders, folders, failures, *, encode_text, chunk, workers, world):
    """Extract this process's videos; returns how many videos and frames were written."""
    videos = frames = 0
    start = said = time.monotonic()
    with progress_bar(None, world.is_main, total=len(jobs), unit="video", desc="extract") as bar:
        for end, features in encode_videos(jobs, encoders, chunk=chunk, workers=workers):
            interrupt.stop_if_requested()  # also before a decoder that the same signal has ended counts as a failure
            reason = end.reason
            if not all(np.isfinite(rows).all() for rows in features.values()):
                reason = f"{end.job.path}: video: its features are not finite; --precision float32 has more room"
            if reason:
                failures.add(end.job, reason)
            else:
                T = max(map(len, features.values()))
                duration = end.video.timeline.duration
                if duration <= T - 2:
                    logger.warning(
                        "%s: found %.1f s of pictures, expected %d as annotated: the last picture stands for the rest",
                        end.job.path,
                        duration,
                        T,
                    )
                for name, rows in features.items():
                    folders[name].write(end.job.video_id, rows, encode_text)
                videos, frames = videos + 1, frames + T
            now = time.monotonic()
            speed = f"{frames / (now - start):.1f} frames/s"
            bar.set_postfix_str(speed, refresh=False)
            bar.update()
            if bar.disable and now - said > LOG_SECONDS:  # no terminal: a line now and then
                logger.info("%d of %d videos, %s", videos + failures.count, len(jobs), speed)
                said = now
    return videos, frames


def load_encoders(args, world):
    """Load what is there or was asked for: encoders by name, VT-CLIP or None, and what each is made of.

    Raises:
        FileNotFoundError, ValueError: a checkpoint is missing or bad.
    """
    encoders, clip, made_with = {}, None, {}
    sources = {"blip": checkpoint_of("--blip", args.blip, BLIP)}
    sources["vt_clipscore"] = checkpoint_of("--vt_clip", args.vt_clip, VT_CLIP)
    if not any(sources.values()):
        raise ValueError("--blip, --vt_clip: found no checkpoint, expected at least one of the two")
    for name, source in sources.items():
        if not source:
            continue
        with distributed.local_main_first(world):
            if name == "blip":
                encoders[name] = blip_frame_encoder(source, args.image_size, args.precision)
            else:
                clip = find_clip(source)
                encoders[name] = clip_frame_encoder(clip, args.precision)
        weights = weights_sha256(encoders[name].image_encoder if name == "blip" else clip.clip)
        size = encoders[name].transform.size
        made_with[name] = dict(image_size=size, precision=args.precision, weights_sha256=weights)
        encoders[name].to(world.device)
    if clip is not None:
        clip.to(world.device)
    return encoders, clip, made_with
