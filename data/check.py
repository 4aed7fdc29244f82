"""Check that VideoXum is all there: `python -m data.check ROOT [--own_data] [--list FILE]`.

    ROOT/anno/{train,val,test}_videoxum.json
    ROOT/feat/{blip,vt_clipscore}           {video_id}.npz, or packed by data.pack
    ROOT/feat/{blip,vt_clipscore}_packed    where there is no folder of the name above

Every feature file is read as training reads it. The exit status is 0 where nothing is missing or broken, else 1.
"""

import collections
import concurrent.futures
import dataclasses
import json
import pathlib
import sys

from data.annotations import VIDEOS, load_annotations
from data.features import FeatureFiles
from data.store import FeatureStore, indices
from utils.command_line import OneLineParser
from utils.files import atomic_write
from utils.log import progress_bar, run_main
from utils.text import printable

FEATURES = dict(blip_feat=("blip", "features"), vt_clip_feat=("vt_clipscore", "vision"))  # folder in feat/, array
PARTS = ("anno", *FEATURES)
FLAWS = {
    "annotations": "annotation files that are missing or bad",
    "number": "splits of another number of videos than published",
    "missing": "videos without features",
    "broken": "feature files that cannot be used",
}
# What no run fails at.
REMARKS = {
    "cut": "VT-CLIP features of another length than the labels: such videos are cut to the shorter",
    "extra": "feature files of videos that are not annotated",
    "twice": "videos in two splits",
}
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong or strange: a key of `FLAWS` or `REMARKS`, and a line that names the file."""

    kind: str
    text: str


class Report:
    """What a check found.

    `lines` says what is there, `findings` what is not; `is_complete` that no finding is a flaw.
    """

    def __init__(self):
        self.lines, self.findings = [], []

    def add(self, kind, text):
        self.findings.append(Finding(kind, printable(text)))

    @property
    def is_complete(self):
        return not any(finding.kind in FLAWS for finding in self.findings)

    def show(self, file=None):
        """Print it, the first findings of each kind, and write all to a file of JSON lines if one is named."""
        print("\n".join(self.lines))
        for kind, meaning in (FLAWS | REMARKS).items():
            texts = [finding.text for finding in self.findings if finding.kind == kind]
            if texts:
                print(f"{kind}: {len(texts)} {meaning}", *texts[:SHOWN], sep="\n  ")
            if len(texts) > SHOWN:
                print(f"  and {len(texts) - SHOWN} more" + ("" if file else "; --list FILE writes all"))
        if file:
            with atomic_write(file) as written:
                written.writelines(json.dumps(dataclasses.asdict(finding)) + "\n" for finding in self.findings)
        print("complete" if self.is_complete else "NOT complete")


def check(root, parts=PARTS, own_data=False):
    """Check a data set on the disk.

    Args:
        root: its folder.
        parts: which of `PARTS` to look at; the annotations are always read.
        own_data: take the splits that there are, of any number of videos.
    Returns:
        `Report`.
    Raises:
        FileNotFoundError: no such folder, or one without annotations of one's own.
    """
    root, report = pathlib.Path(root), Report()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: data set: no such folder")
    records = read_splits(root, report, own_data)
    for part in parts:
        if part in FEATURES:
            check_features(root, part, records, report)
    return report


def read_splits(root, report, own_data):
    """Read the annotations: records of all splits by video id."""
    records, splits = {}, {}
    for split, expected in VIDEOS.items():
        path = annotation_file(root, split)
        if own_data and not path.exists():
            continue
        try:
            found = load_annotations(path)
        except (FileNotFoundError, ValueError) as error:
            report.add("annotations", str(error))
            continue
        report.lines.append(f"{path}: {len(found)} videos")
        if not own_data and len(found) != expected:
            report.add("number", f"{path}: found {len(found)} videos, expected {expected}")
        for record in found:
            if record.video_id in records:
                report.add("twice", f"{path}: video {record.video_id}: found in {splits[record.video_id]} too")
            records[record.video_id], splits[record.video_id] = record, split
    if own_data and not records and report.is_complete:
        raise FileNotFoundError(f"{annotation_file(root, 'test')}: annotations: no such file, nor of another split")
    return records


def annotation_file(root, split):
    """Path of a split's annotations."""
    return pathlib.Path(root, "anno", f"{split}_videoxum.json")


def check_features(root, part, records, report):
    """Check one kind of features: adds to the report what is there, missing, broken or too much."""
    name, field = FEATURES[part]
    folder, packed = root / "feat" / name, root / "feat" / f"{name}_packed"
    folder = packed if packed.is_dir() and not folder.is_dir() else folder
    try:
        features, there = open_all(folder, field)
    except ValueError as error:  # of a packed file
        report.add("broken", str(error))
        return
    for video_id in sorted(records.keys() - there):
        report.add("missing", f"{folder}: video {video_id}: no features")
    if not any(finding.kind == "annotations" for finding in report.findings):
        for video_id in sorted(there - records.keys()):
            report.add("extra", f"{features.path(video_id)}: no video of that name is annotated")
    present = [record for video_id, record in records.items() if video_id in there]
    shapes = read_all(features, present, f"check {folder.name}", report)
    _compare(features, field, present, shapes, report)
    frames = sum(frames for frames, _ in shapes.values())
    report.lines.append(f"{folder}: {len(shapes)} of {len(records)} videos, {frames} frames")


def open_all(folder, field):
    """Open a folder of features, packed or not: what `load`s a video, and the set of videos that it has."""
    if indices(folder):
        store = FeatureStore(folder, field)
        return store, set(store.videos)
    names = (path.name for path in folder.glob("*.npz"))  # also for a folder that is not there
    return FeatureFiles(folder, field), {name.removesuffix(".npz") for name in names if not name.startswith(".")}


def read_all(features, records, title, report):
    """Read the features of all records, once each; returns shapes by video id, without those of broken files."""

    def shape(record):
        try:
            return features.load(record.video_id).shape
        except (ValueError, OSError) as error:
            return error

    shapes, pool = {}, concurrent.futures.ThreadPoolExecutor()
    try:
        results = zip(records, pool.map(shape, records))
        with progress_bar(results, True, total=len(records), desc=title, unit="video") as bar:
            for record, result in bar:
                if isinstance(result, Exception):
                    report.add("broken", str(result))
                else:
                    shapes[record.video_id] = result
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return shapes


def _compare(features, field, records, shapes, report):
    """Compare lengths with the labels', and widths with each other."""
    widths = collections.Counter(width for _, width in shapes.values())
    usual = max(widths, key=widths.get, default=0)
    for record in records:
        frames, width = shapes.get(record.video_id, (record.num_frames, usual))
        start = f"{features.path(record.video_id)}: video {record.video_id}: {field}:"
        if width != usual:
            report.add("broken", f"{start} found width {width}, expected {usual} as of most videos")
        if frames != record.num_frames:
            kind = "cut" if field == "vision" else "broken"
            report.add(kind, f"{start} found {frames} frames, expected {record.num_frames} as in vsum_onehot")


def add_options(parser):
    """Add the options that checking and downloading have in common."""
    parser.add_argument("--what", nargs="+", choices=PARTS, default=PARTS, help="parts (all)")
    parser.add_argument("--list", metavar="FILE", help="write all that was found to a file, one JSON object a line")


def main(argv=None):
    parser = OneLineParser(prog="python -m data.check", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", help="folder of the data set, such as dataset/ActivityNet")
    parser.add_argument("--own_data", action="store_true", help="not VideoXum: any splits, of any number of videos")
    add_options(parser)
    args = parser.parse_args(argv)
    report = check(args.root, args.what, args.own_data)
    report.show(args.list)
    if not report.is_complete:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
