"""Download VideoXum from the Hugging Face hub: `python -m data.download [--what anno blip_feat vt_clip_feat]`.

    ROOT/anno/{train,val,test}_videoxum.json
    ROOT/feat/blip/{video_id}.npz            from blip_feat.zip
    ROOT/feat/vt_clipscore/{video_id}.npz    from vt_clip_feat.zip

Files that exist are neither downloaded nor unpacked again. At the end, the data is checked as by
`python -m data.check`.
"""

import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable

from data.annotations import VideoRecord
from data.check import FEATURES, CheckReport, add_options, check_features, read_annotations
from data.feature_writer import PROVENANCE_FILE
from data.registry import annotation_path, load_annotations
from data.unpack import unpack_archive
from data.videoxum import NUM_VIDEOS
from utils.command_line import OneLineParser
from utils.files import atomic_write, compute_sha256, make_folder
from utils.hub import download_hub_file
from utils.log import run_main, setup_logging

REPOSITORY = "hf://datasets/jylins/videoxum"

logger = logging.getLogger(__name__)


def download(root: str | os.PathLike, parts: Iterable[str]) -> CheckReport:
    """Download parts of VideoXum and unpack them.

    Args:
        root: folder, made if missing.
        parts: `anno`, `blip_feat`, `vt_clip_feat`.
    Returns:
        report of the annotations and these parts.
    Raises:
        FileNotFoundError: the hub or the cache does not have a file.
        ValueError: a different file exists, an archive is damaged, or there is too little disk space.
    """
    root, features = make_folder(root, "--root"), [part for part in parts if part in FEATURES]
    for part in features:
        note = root / "feat" / FEATURES[part][0] / PROVENANCE_FILE
        if note.exists():  # never mix released and extracted features
            raise ValueError(f"{note}: found features of extract_features.py, expected none: choose another --root")
    if "anno" in parts:
        for split in NUM_VIDEOS:
            download_annotations(root, split)
    report = CheckReport()
    records = read_annotations(root, report)
    for part in features:
        download_features(root, part, records, report)
    return report


def download_annotations(root: pathlib.Path, split: str) -> None:
    """Download a split's annotations, unless they exist; a file of other content is never replaced."""
    path = annotation_path(root / "anno", split)
    if path.is_file() and len(load_annotations(path)) == NUM_VIDEOS[split]:
        logger.info("%s: exists", path)
        return
    source = download_hub_file(f"{REPOSITORY}/{path.name}")
    if path.exists() and compute_sha256(path) != compute_sha256(source):
        raise ValueError(
            f"{path}: found a file that differs from the hub's, expected none: move it, or choose another --root"
        )
    make_folder(path.parent, "--root")
    with open(source, "rb") as reader, atomic_write(path, "wb") as writer:
        shutil.copyfileobj(reader, writer)


def download_features(root: pathlib.Path, part: str, records: dict[str, VideoRecord], report: CheckReport) -> None:
    """Download and unpack one kind of features, unless all annotated videos have theirs; adds to the report."""
    before = CheckReport()
    check_features(root, *FEATURES[part], records, before)
    if records and before.is_complete:
        logger.info("%s: exists", root / "feat" / FEATURES[part][0])
        report.lines += before.lines
        report.issues += before.issues
        return
    source = f"{REPOSITORY}/{part}.zip"
    archive, folder = download_hub_file(source), root / "feat" / FEATURES[part][0]
    written, kept = unpack_archive(archive, folder)
    logger.info("%s: %d files extracted, %d existed", folder, written, kept)
    logger.info("%s: no longer needed; `hf cache rm %s` frees its space", archive, source)
    check_features(root, *FEATURES[part], records, report)


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m data.download", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--root", default="dataset/ActivityNet", help="folder of the dataset (%(default)s)")
    add_options(parser)
    args = parser.parse_args(argv)
    setup_logging(True)
    report = download(args.root, args.what)
    report.show(args.list)
    if not report.is_complete:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
