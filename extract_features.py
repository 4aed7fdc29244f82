"""Extract frame features from videos, in the published layout.

    python -m torch.distributed.run --nproc_per_node=4 extract_features.py --videos videos \\
        --out dataset/ActivityNet/feat --annotations dataset/ActivityNet/anno/*_videoxum.json

    OUT/blip/{video_id}.npz           features (T, 768 or 1024)
    OUT/vt_clipscore/{video_id}.npz   vision (T, 512), with annotations also text (1, 512)
"""

import datetime
import functools
import json
import logging
import os
import pathlib
import sys
import time

import numpy as np
import torch

from data.annotations import load_annotations
from data.captions import reference_caption
from data.decoding import Frames, Job, decode_videos
from data.feature_folder import FeatureFolder
from data.video_files import find_videos
from models.frame_encoder import PRECISIONS, blip_frame_encoder, clip_frame_encoder
from models.vt_clip import find_clip, hub_names
from models.weights import weights_sha256
from utils import distributed, interrupt
from utils.config import OneLineParser
from utils.download import is_url
from utils.files import make_folder
from utils.log import progress_bar, run_main, setup_logging

logger = logging.getLogger(__name__)

BLIP = "outputs/blip/model_base_capfilt_large.pth"
VT_CLIP = "outputs/vt_clipscore/vt_clip.pth"
FIELDS = {"blip": "features", "vt_clipscore": "vision"}  # folder, and encoder's name -> array in its files
LOG_SECONDS = 60


def parse(argv):
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--videos", nargs="+", required=True, metavar="PATH", help="folder, .txt list of paths, or video files")
    add("--out", required=True, help="folder of features; blip/ and vt_clipscore/ are made in it")
    add("--blip", help=f"checkpoint (path or URL) with BLIP's image encoder; '' makes no BLIP features ({BLIP})")
    add(
        "--vt_clip",
        help=f"VT-CLIP or CLIP: file, URL or name on open_clip's hub; '' makes no such features ({VT_CLIP})",
    )
    add("--annotations", nargs="+", default=[], metavar="FILE", help="annotation files: number of frames, texts")
    add("--image_size", type=int, default=224, help="side of BLIP's frames in pixels (%(default)s)")
    add("--precision", choices=PRECISIONS, default="float32", help="of the encoders (%(default)s)")
    add("--batch_size", type=int, default=32, help="frames that are encoded together (%(default)s)")
    add("--num_workers", type=int, help="decoding processes per process (its share of the cores)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    add("--overwrite", action="store_true", help="make features anew; those made with other settings are removed")
    args = parser.parse_args(argv)
    for name, least in dict(image_size=1, batch_size=1, num_workers=0).items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}: found {value}, expected at least {least}")
    return args


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
        jobs: list of `Job`.
        encoders: name -> `FrameEncoder`.
        chunk: frames of one video that are encoded together.
        workers: decoding processes, see `decode_videos`.
        on_frames: is told the number of frames each time that some are encoded.
    Yields:
        `End` and, by the encoder's name, (T, D) float32 features; {} for a video that cannot be decoded.
    """
    looks = {name: encoder.look for name, encoder in encoders.items()}
    parts = {}
    for event in decode_videos(jobs, looks, chunk=chunk, workers=workers):
        if isinstance(event, Frames):
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
    """Paths and annotations by video id -> list of `Job`, the longest first.

    A file's size stands for its length: to open a million videos and ask takes longer than the order saves.
    """
    jobs = [
        Job(video_id, str(path), records[video_id].num_frames if video_id in records else None)
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
        size = encoders[name].look.size
        made_with[name] = dict(image_size=size, precision=args.precision, weights_sha256=weights)
        encoders[name].to(world.device)
    if clip is not None:
        clip.to(world.device)
    return encoders, clip, made_with


def main(argv=None):
    args = parse(argv)
    videos = find_videos(args.videos)
    records = {record.video_id: record for path in args.annotations for record in load_annotations(path)}
    texts = {video_id: reference_caption(record.tsum) for video_id, record in records.items()}
    root = make_folder(args.out, "--out")
    # Processes work on their own, perhaps for days, and only meet at the end.
    world = distributed.start(args.device, backend="gloo", timeout=datetime.timedelta(days=30))
    setup_logging(world.is_main, root / "extract.log")
    if records:
        both = len(videos.keys() & records.keys())
        logger.info("%d videos, %d annotated, %d in both", len(videos), len(records), both)

    encoders, clip, made_with = load_encoders(args, world)
    folders = {
        name: FeatureFolder(root / name, FIELDS[name], texts if name == "vt_clipscore" else {}) for name in encoders
    }
    failures = Failures(root / "failures.jsonl")
    if world.is_main:
        failures.path.unlink(missing_ok=True)
        for name, folder in folders.items():
            folder.prepare(made_with[name], args.overwrite)
    distributed.barrier()

    jobs = make_jobs(videos, records)[world.rank :: world.size]
    there = [] if args.overwrite else [job for job in jobs if all(f.is_complete(job) for f in folders.values())]
    done, start = set(there), time.monotonic()
    written = extract(
        [job for job in jobs if job not in done],
        encoders,
        folders,
        failures,
        encode_text=functools.partial(encode_caption, clip),
        chunk=args.batch_size,
        workers=share_of_cores() if args.num_workers is None else args.num_workers,
        world=world,
    )
    seconds = time.monotonic() - start
    counts = distributed.total(torch.tensor([*written, len(there), failures.count]), world).tolist()
    speed = f"{counts[0]} videos, {counts[1]} frames in {seconds:.1f} s ({counts[1] / max(seconds, 1e-9):.1f} frames/s)"
    failed = f"{counts[3]} failed" + (f", see {failures.path}" if counts[3] else "")
    logger.info("extracted %s; %d videos were there already; %s", speed, counts[2], failed)
    distributed.stop()
    if counts[3]:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main, resumable=True)
