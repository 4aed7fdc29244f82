"""Download VideoXum and the published weights: `python -m data.download [--what anno blip_feat vt_clip_feat weights]`.

    ROOT/anno/{train,val,test}_videoxum.json
    ROOT/feat/blip/{video_id}.npz            from blip_feat.zip
    ROOT/feat/vt_clipscore/{video_id}.npz    from vt_clip_feat.zip
    outputs/…/*.pth                          weights, see `utils.published_weights`

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
from data.check import FEATURES, PARTS, CheckReport, add_options, check_features, read_annotations
from data.feature_writer import PROVENANCE_FILE
from data.registry import annotation_path, load_annotations
from data.unpack import unpack_archive
from data.videoxum import NUM_VIDEOS
from utils.command_line import OneLineParser
from utils.download import describe_download, is_local, resolve_file
from utils.files import atomic_write, compute_sha256, make_folder, replace_hardlink
from utils.log import run_main, setup_logging
from utils.published_weights import PUBLISHED_WEIGHTS

REPOSITORY = "hf://datasets/jylins/videoxum"

logger = logging.getLogger(__name__)


def download(root: str | os.PathLike, parts: Iterable[str]) -> CheckReport:
    """Download parts of VideoXum and unpack them.

    Args:
        root: folder, made if missing.
        parts: `anno`, `blip_feat`, `vt_clip_feat`, `weights`.
    Returns:
        report of the annotations and these parts.
    Raises:
        FileNotFoundError: the hub or the cache does not have a file.
        ValueError: a different file exists, an archive is damaged, or there is too little disk space.
    """
    parts = list(parts)
    if "weights" in parts:
        for name in PUBLISHED_WEIGHTS:
            download_weights(name)
    if set(parts) == {"weights"}:
        return CheckReport()
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


def download_weights(name: str) -> None:
    """Download published weights to their local path, unless the file exists.

    The SHA-256 of the first download is kept beside the file, in `{file}.sha256`, and compared with that of the file
    and of later downloads: it has not been published.

    Args:
        name: a key of `PUBLISHED_WEIGHTS`.
    Raises:
        FileNotFoundError: the file cannot be downloaded.
        ValueError: the file differs from the first download.
    """
    weights = PUBLISHED_WEIGHTS[name]
    path, checksum_path = pathlib.Path(weights.path), pathlib.Path(f"{weights.path}.sha256")
    is_present = path.is_file()
    source = path if is_present else _fetch(weights.source, path)
    sha256 = compute_sha256(source)
    if checksum_path.is_file() and (first := checksum_path.read_text().split()[0]) != sha256:
        raise ValueError(
            f"{source}: found SHA-256 {sha256}, expected {first} of the first download, in {checksum_path}; remove "
            "the first file if it is damaged, or the second if the publisher has replaced the weights"
        )
    if is_present:
        logger.info("%s: exists", path)
        return
    make_folder(path.parent, "weights")
    replace_hardlink(source.resolve(), path)  # a copy if the cache is on another file system
    with atomic_write(checksum_path) as file:
        file.write(f"{sha256}  {path.name}\n")
    logger.info("%s: SHA-256 %s (not published: kept to compare later downloads)", path, sha256)


def _fetch(source: str, target: pathlib.Path) -> pathlib.Path:
    """Return the cached file of a URL; size and cache of a download are logged before it starts."""
    if not is_local(source):
        logger.info("%s: downloading %s", target, describe_download(source))
    return resolve_file(source)


def download_annotations(root: pathlib.Path, split: str) -> None:
    """Download a split's annotations, unless they exist; a file of other content is never replaced."""
    path = annotation_path(root / "anno", split)
    if path.is_file() and len(load_annotations(path)) == NUM_VIDEOS[split]:
        logger.info("%s: exists", path)
        return
    source = _fetch(f"{REPOSITORY}/{path.name}", path)
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
    folder = root / "feat" / FEATURES[part][0]
    archive = _fetch(source, folder)
    written, kept = unpack_archive(archive, folder)
    logger.info("%s: %d files extracted, %d existed", folder, written, kept)
    logger.info("%s: no longer needed; `hf cache rm %s` frees its space", archive, source)
    check_features(root, *FEATURES[part], records, report)


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m data.download", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--root", default="dataset/ActivityNet", help="folder of the dataset (%(default)s)")
    add_options(parser, (*PARTS, "weights"))
    args = parser.parse_args(argv)
    setup_logging(True)
    report = download(args.root, args.what)
    report.show(args.list)
    if not report.is_complete:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
