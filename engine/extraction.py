"""Feature extraction: videos are decoded in worker processes, encoded, and written as one file per video.

Axes: n frames of a chunk, T frames of a video at 1 fps, D feature width.
"""

import argparse
import datetime
import functools
import json
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from data.annotations import VideoRecord
from data.feature_writer import FeatureWriter
from data.video.decoding import DecodeJob, DecodeResult, FrameChunk, decode_videos
from engine.extraction_inputs import ExtractionInputs
from models.frame_encoders import EncoderOptions, FrameEncoder, load_frame_encoder
from utils import distributed, interrupt
from utils.distributed import DistContext
from utils.encoder_names import DEFAULT_FOLDERS, EncoderName
from utils.files import make_folder
from utils.log import ProgressInterval, progress_bar, setup_logging

logger = logging.getLogger(__name__)


def frame_array_name(encoder: FrameEncoder, folder: str) -> str:
    """Name of the array of frame features: `vision` for VT-CLIP in its published folder, else `features`."""
    is_published = encoder.architecture == "vt_clip" and folder == DEFAULT_FOLDERS["vt_clip"]
    return "vision" if is_published else "features"


def encode_videos(
    jobs: Sequence[DecodeJob],
    encoders: Mapping[str, FrameEncoder],
    *,
    chunk: int,
    workers: int,
    on_frames: Callable[[int, int], None] = lambda count, total: None,
) -> Iterator[tuple[DecodeResult, dict[str, np.ndarray]]]:
    """Decode and encode videos; a video's features do not depend on the others.

    Args:
        jobs: the videos.
        encoders: encoder's name -> encoder.
        chunk: frames of one video that are encoded together.
        workers: decoding processes, see `decode_videos`.
        on_frames: called with the number of newly encoded frames, and that of all frames of their video.
    Yields:
        (result of a job, features by the encoder's name: (T, D) float32); {} for a video that cannot be decoded.
    """
    transforms = {name: encoder.transform for name, encoder in encoders.items()}
    buffers: dict[DecodeJob, dict[str, _FeatureBuffer]] = {}
    for event in decode_videos(jobs, transforms, chunk=chunk, workers=workers):
        if isinstance(event, FrameChunk):
            video_buffers = buffers.setdefault(event.job, {name: _FeatureBuffer(event.total) for name in encoders})
            for name, encoder in encoders.items():
                video_buffers[name].append(encoder(event.pixels[name]))  # (n, D)
            on_frames(len(next(iter(event.pixels.values()))), event.total)
        elif event.reason:
            buffers.pop(event.job, None)
            yield event, {}
        else:
            yield event, {name: buffer.numpy() for name, buffer in buffers.pop(event.job).items()}


class _FeatureBuffer:
    """Collects the features of a video on the encoder's device, in one allocation.

    The chunks themselves are not kept: a ViT's features are a view of the states of all patches, and many small
    allocations between large temporary ones fragment the memory of videos of hours.

    Args:
        total: expected number of frames.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self.rows: torch.Tensor | None = None

    def append(self, features: torch.Tensor) -> None:
        """Append features (n, D)."""
        stop = self.count + len(features)
        if self.rows is None:
            self.rows = torch.empty(max(self.total, stop), features.shape[1], device=features.device)  # (total, D)
        elif stop > len(self.rows):  # decoding has found more frames
            self.rows = torch.cat([self.rows, torch.empty_like(self.rows)])
        self.rows[self.count : stop] = features
        self.count = stop

    def numpy(self) -> np.ndarray:
        """Return the appended features: (T, D) float32."""
        assert self.rows is not None
        return self.rows[: self.count].cpu().numpy()


class FailureLog:
    """`failures.jsonl`: videos that could not be extracted, with the reason. Without failures there is no file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.count = 0

    def add(self, job: DecodeJob, reason: str) -> None:
        self.count += 1
        with open(self.path, "a", encoding="utf-8") as file:  # in one write: other processes append too
            file.write(json.dumps(dict(video_id=job.video_id, path=job.path, reason=reason)) + "\n")
        logger.warning("failed: %s", reason)


def make_jobs(videos: Mapping[str, pathlib.Path], records: Mapping[str, VideoRecord]) -> list[DecodeJob]:
    """List the jobs for videos by id, largest file first, so that the processes end at about the same time."""
    jobs = [
        DecodeJob(video_id, str(path), records[video_id].num_frames if video_id in records else None)
        for video_id, path in videos.items()
    ]
    return sorted(jobs, key=lambda job: os.path.getsize(job.path) if os.path.exists(job.path) else 0, reverse=True)


def count_default_workers() -> int:
    """Number of decoding processes for this process: its share of the machine's cores, minus one."""
    total = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    if cores == total:  # otherwise the launcher has already assigned cores to this process
        cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores - 1)


def load_encoders(
    names: Mapping[str, EncoderName], args: argparse.Namespace, context: DistContext
) -> dict[str, FrameEncoder]:
    """Load encoders, on the device of this process.

    Args:
        names: folder of the features -> name of the encoder.
        args: parsed arguments of `extract_features.py`.
        context: rank, world size and device of this process.
    Returns:
        Folder of the features -> encoder.
    Raises:
        FileNotFoundError, ValueError: a checkpoint is missing or invalid.
    """
    options = EncoderOptions(
        args.precision,
        image_size=args.image_size,
        position_antialias=args.vit_position_antialias,
        with_text=bool(args.annotations),
        text_tokenizer=args.text_tokenizer,
    )
    with distributed.local_main_first(context):
        encoders = {folder: load_frame_encoder(name, options) for folder, name in names.items()}
    for folder, encoder in encoders.items():
        size = encoder.transform.size
        logger.info("%s: %s: %d x %d pixels, features of width %d", folder, encoder.name, size, size, encoder.width)
    return {folder: encoder.to(context.device) for folder, encoder in encoders.items()}


def extract(
    jobs: Sequence[DecodeJob],
    encoders: Mapping[str, FrameEncoder],
    writers: Mapping[str, FeatureWriter],
    failures: FailureLog,
    *,
    chunk: int,
    workers: int,
    context: DistContext,
) -> tuple[int, int]:
    """Extract this process's videos.

    Args:
        jobs: the videos.
        encoders: encoder's name -> encoder.
        writers: encoder's name -> writer.
        failures: records the videos that cannot be extracted.
        chunk, workers: see `encode_videos`.
        context: rank, world size and device of this process.
    Returns:
        Numbers of videos and of frames written.
    """
    videos = frames = 0
    start = time.monotonic()
    interval = ProgressInterval()
    with progress_bar(None, context.is_main, total=len(jobs), unit="video", desc="extract") as bar:
        for result, features in encode_videos(jobs, encoders, chunk=chunk, workers=workers):
            interrupt.raise_if_stop_requested()  # the same signal may have ended a decoder, which is not a failure
            reason = result.reason or _describe_non_finite(result.job, features.values())
            if reason:
                failures.add(result.job, reason)
            else:
                T = max(map(len, features.values()))
                _warn_if_short(result, T)
                for name, rows in features.items():
                    writers[name].write(result.job.video_id, rows, functools.partial(_encode_caption, encoders[name]))
                videos, frames = videos + 1, frames + T
            speed = f"{frames / (time.monotonic() - start):.1f} frames/s"
            bar.set_postfix_str(speed, refresh=False)
            bar.update()
            if bar.disable and interval.is_over():  # not a terminal
                logger.info("%d of %d videos, %s", videos + failures.count, len(jobs), speed)
    return videos, frames


def _encode_caption(encoder: FrameEncoder, caption: str) -> np.ndarray:
    """Encode a caption: (1, C) float32."""
    return encoder.encode_text([caption]).cpu().numpy()


def _describe_non_finite(job: DecodeJob, features: Iterable[np.ndarray]) -> str | None:
    if all(np.isfinite(rows).all() for rows in features):
        return None
    return f"{job.path}: video: its features contain NaN or infinity; try --precision fp32"


def _warn_if_short(result: DecodeResult, T: int) -> None:
    assert result.video is not None
    duration = result.video.timeline.duration
    if duration <= T - 2:
        logger.warning(
            "%s: found %.1f s of video, expected %d as annotated: the last frame is repeated",
            result.job.path,
            duration,
            T,
        )


def prepare_writers(
    root: pathlib.Path,
    encoders: Mapping[str, FrameEncoder],
    records: Mapping[str, VideoRecord],
    args: argparse.Namespace,
    context: DistContext,
) -> dict[str, FeatureWriter]:
    """Build the writer of each encoder's features; the first process prepares their folders.

    Raises:
        ValueError: a folder has features of another provenance, see `FeatureWriter.prepare`.
    """
    captions = {video_id: record.captions()[0] for video_id, record in records.items() if record.reference_texts}
    writers = {
        folder: FeatureWriter(
            root / folder, frame_array_name(encoder, folder), {} if encoder.text_encoder is None else captions
        )
        for folder, encoder in encoders.items()
    }
    if context.is_main:
        for folder, writer in writers.items():
            writer.prepare(_provenance(encoders[folder], args), args.overwrite)
    distributed.barrier()
    return writers


def _provenance(encoder: FrameEncoder, args: argparse.Namespace) -> dict[str, Any]:
    """Provenance of an encoder's features. The hash is last: the first difference between two is reported."""
    provenance = encoder.describe() | dict(precision=args.precision)
    if encoder.architecture == "blip":
        provenance["vit_position_antialias"] = args.vit_position_antialias
    return provenance | dict(weights_sha256=provenance.pop("weights_sha256"))


def run_extraction(args: argparse.Namespace, inputs: ExtractionInputs) -> int:
    """Extract the features of all videos.

    Args:
        args: parsed arguments of `extract_features.py`.
        inputs: the files that they name, from `find_inputs`.
    Returns:
        Number of videos that failed.
    Raises:
        FileNotFoundError, ValueError: a checkpoint is missing or invalid, or a folder has other features.
    """
    videos, records = inputs.videos, inputs.records
    root = make_folder(args.out, "--out")
    # Processes work independently, perhaps for days, and synchronize only at the end.
    context = distributed.init_context(args.device, backend="gloo", timeout=datetime.timedelta(days=30))
    setup_logging(context.is_main, root / "extract.log")
    if records:
        both = len(videos.keys() & records.keys())
        logger.info("%d videos, %d annotated, %d in both", len(videos), len(records), both)
        for line in inputs.describe_unmatched():
            logger.warning("%s", line)
    for note in inputs.encoders.notes:
        logger.warning("%s", note)
    encoders = load_encoders(inputs.encoders.names, args, context)
    failures = FailureLog(root / "failures.jsonl")
    if context.is_main:
        failures.path.unlink(missing_ok=True)
    writers = prepare_writers(root, encoders, records, args, context)
    jobs = make_jobs(videos, records)[context.rank :: context.world_size]
    todo = [job for job in jobs if args.overwrite or not all(w.is_complete(job) for w in writers.values())]
    start = time.monotonic()
    written = extract(
        todo,
        encoders,
        writers,
        failures,
        chunk=args.batch_size,
        workers=count_default_workers() if args.num_workers is None else args.num_workers,
        context=context,
    )
    seconds = time.monotonic() - start
    counts = torch.tensor([*written, len(jobs) - len(todo), failures.count])
    count, frames, kept, failed = distributed.all_reduce_sum(counts, context).tolist()
    logger.info(
        "extracted %d videos, %d frames in %.1f s (%.1f frames/s); %d videos were complete already; %d failed%s",
        count,
        frames,
        seconds,
        frames / max(seconds, 1e-9),
        kept,
        failed,
        f", see {failures.path}" if failed else "",
    )
    distributed.shutdown()
    return failed
