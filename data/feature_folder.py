"""A folder of features while it is filled: what is there, what it was made with, writing a video's file."""

import json
import pathlib

import numpy as np

from data.features import feature_path, is_complete
from utils.files import atomic_write, make_folder, read_json, remove_leftovers

RECORD = "extraction.json"


class FeatureFolder:
    """One encoder's features: `{video_id}.npz` files and a record of what they are made with.

    Args:
        root: the folder.
        field: name of the array of frame features.
        texts: video id -> caption whose feature belongs into the file as `text`.
    """

    def __init__(self, root, field, texts):
        self.root, self.field, self.texts = pathlib.Path(root), field, texts

    def prepare(self, made_with, overwrite):
        """Make the folder and note what its features are made with.

        Features that were made otherwise are removed with `overwrite`, all of them: half of them would belie the note.

        Raises:
            ValueError: there are such features, and `overwrite` is not set; or features of which nothing is known.
        """
        record = make_folder(self.root, "--out") / RECORD
        remove_leftovers(self.root)
        if not record.is_file() and any(self.root.glob("*.npz")):
            raise ValueError(
                f"{self.root}: --out: found features without a note of how they were made ({record.name}), such as "
                "released ones, expected none: use another folder"
            )
        if record.is_file() and (there := read_record(record)) != made_with:
            if not overwrite:
                name = next((name for name in made_with if there.get(name) != made_with[name]), "settings")
                raise ValueError(
                    f"{record}: {name}: found {there.get(name)}, expected {made_with.get(name)}: the features there "
                    "were made with other settings; --overwrite makes them anew, another --out keeps both"
                )
            for path in self.root.glob("*.npz"):
                path.unlink()
        with atomic_write(record) as file:
            json.dump(made_with, file, indent=2)

    def is_complete(self, job):
        """Tell whether a video's features are there."""
        text = {"text": 1} if job.video_id in self.texts else {}
        return is_complete(feature_path(self.root, job.video_id), {self.field: job.frames} | text)

    def write(self, video_id, features, encode_text):
        """Write a video's features (T, D) and those of its caption, in one step."""
        arrays = {self.field: features}
        if video_id in self.texts:
            arrays["text"] = encode_text(self.texts[video_id])
        with atomic_write(feature_path(self.root, video_id), "wb") as file:
            np.savez(file, **arrays)


def read_record(path):
    """Read a note of what features are made with; {} where it is damaged."""
    try:
        record = read_json(path, "note of an extraction", most_bytes=2**20)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
