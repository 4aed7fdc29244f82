"""Extract frame features from videos, in the published layout.

    python -m torch.distributed.run --nproc_per_node=4 extract_features.py --videos videos \\
        --out dataset/ActivityNet/feat --annotations dataset/ActivityNet/anno/*_videoxum.json

    OUT/blip/{video_id}.npz           features (T, 768 or 1024)
    OUT/vt_clipscore/{video_id}.npz   vision (T, 512), with annotations also text (1, 512)
"""

import datetime
import functools
import logging
import sys
import time

import torch

from data.annotations import load_annotations
from data.captions import reference_caption
from data.feature_writer import FeatureWriter
from data.video.files import find_videos
from engine.extraction import (
    BLIP,
    FIELDS,
    VT_CLIP,
    Failures,
    encode_caption,
    extract,
    load_encoders,
    make_jobs,
    share_of_cores,
)
from models.frame_encoders import PRECISIONS
from utils import distributed
from utils.command_line import OneLineParser
from utils.files import make_folder
from utils.log import run_main, setup_logging

logger = logging.getLogger(__name__)


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
        name: FeatureWriter(root / name, FIELDS[name], texts if name == "vt_clipscore" else {}) for name in encoders
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
