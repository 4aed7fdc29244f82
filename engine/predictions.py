"""Predictions on disk: the files of a finished split, and what is kept while it is under way."""

import hashlib
import json
import pathlib
import zlib

from data.captions import reference_caption
from utils import distributed
from utils.files import atomic_write, cannot_be_written


class Unfinished:
    """Predictions of a split so far, in a file of each process, so that an interrupted evaluation need not repeat them.

    A line is a checksum and a JSON object; the first one says what they were predicted with. Lines that are torn or
    changed, and files of other weights, settings or data, count for nothing.

    Args:
        folder: where they lie, `unfinished/` of the run's folder.
        split: name.
        made_with: plain values that tell these predictions from others.
        world: `distributed.World`.
    """

    def __init__(self, folder, split, made_with, world):
        self.folder, self.split, self.world = pathlib.Path(folder), split, world
        self.key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
        self.file = None

    def read(self):
        """All processes' predictions so far, the same on each: dictionary from a video's index to its prediction."""
        found = {}
        if self.world.is_main:
            for path in self.folder.glob(f"{self.split}.*.jsonl"):
                for entry in self._lines(path):
                    found[entry.pop("index")] = entry
        return distributed.from_main(found, self.world)

    def _lines(self, path):
        whole = []
        with open(path, "rb") as file:
            for line in file:
                checksum, _, text = line.rstrip(b"\n").partition(b" ")
                if checksum == b"%08x" % zlib.crc32(text):
                    whole.append(json.loads(text))
        return whole[1:] if whole and whole[0] == dict(key=self.key) else []

    def add(self, predictions):
        """Write this process's next predictions, a list of (index, prediction), to its file.

        Raises:
            OSError: they cannot be written; the message names the file.
        """
        path = self.folder / f"{self.split}.{self.world.rank}.jsonl"
        try:
            if self.file is None:
                self.folder.mkdir(exist_ok=True)
                fresh = not (path.exists() and self._lines(path))
                self.file = open(path, "wb" if fresh else "ab")
                self.file.write(_line(dict(key=self.key)) if fresh else b"\n")  # the last line may be torn
            for index, entry in predictions:
                self.file.write(_line(dict(entry, index=index)))
            self.file.flush()
        except OSError as error:
            raise cannot_be_written(path, error) from None

    def close(self):
        """Close this process's file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def remove(self):
        """Remove the split's files: what they held is in the results."""
        for path in self.folder.glob(f"{self.split}.*.jsonl"):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _line(value):
    text = json.dumps(value, allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def write_predictions(output_dir, split, predictions, records):
    """Write `predictions_{split}.jsonl`, and COCO captions and references to `result/{,gt_}{split}.json`."""
    folder = pathlib.Path(output_dir, "result")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(pathlib.Path(output_dir, f"predictions_{split}.jsonl")) as file:
        for entry in predictions:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
    if predictions[0]["caption"] is None:
        for name in (f"{split}.json", f"gt_{split}.json"):
            (folder / name).unlink(missing_ok=True)  # an earlier run's, which these predictions would belie
        return
    with atomic_write(folder / f"{split}.json") as file:
        json.dump([dict(image_id=r.index, caption=p["caption"]) for p, r in zip(predictions, records)], file)
    truth = dict(
        images=[dict(id=r.index) for r in records],
        annotations=[dict(image_id=r.index, id=r.index, caption=reference_caption(r.tsum)) for r in records],
    )
    with atomic_write(folder / f"gt_{split}.json") as file:
        json.dump(truth, file)
