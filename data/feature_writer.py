"""Fill a folder of features: their provenance, which videos are complete, one file per video."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from data.features import feature_path, is_complete
from utils.files import atomic_write, make_folder, read_json, remove_leftovers

if TYPE_CHECKING:
    from data.video.decoding import DecodeJob

PROVENANCE_FILE = "extraction.json"


class FeatureWriter:
    """One encoder's features: `{video_id}.npz` files and a note of their provenance.

    Args:
        root: the folder.
        field: name of the array of frame features.
        texts: video id -> caption whose feature is stored in the file as `text`.
    """

    def __init__(self, root: str | os.PathLike, field: str, texts: Mapping[str, str]):
        self.root = pathlib.Path(root)
        self.field = field
        self.texts = texts

    def prepare(self, provenance: dict[str, Any], overwrite: bool) -> None:
        """Make the folder and write the provenance of its features.

        With `overwrite`, all features of another provenance are removed: a folder never holds two kinds.

        Raises:
            ValueError: there are such features and `overwrite` is not set, or features without provenance.
        """
        path = make_folder(self.root, "--out") / PROVENANCE_FILE
        remove_leftovers(self.root)
        if not path.is_file() and any(self.root.glob("*.npz")):
            raise ValueError(
                f"{self.root}: --out: found features without a note of how they were made ({path.name}), such as "
                "released ones, expected none: use another folder"
            )
        if path.is_file() and (stored := read_provenance(path)) != provenance:
            if not overwrite:
                name = next((name for name in provenance if stored.get(name) != provenance[name]), "settings")
                raise ValueError(
                    f"{path}: {name}: found {stored.get(name)}, expected {provenance.get(name)}: the features there "
                    "were made with other settings; --overwrite makes them anew, another --out keeps both"
                )
            for features in self.root.glob("*.npz"):
                features.unlink()
        with atomic_write(path) as file:
            json.dump(provenance, file, indent=2)

    def is_complete(self, job: "DecodeJob") -> bool:
        """Whether a video's features exist, whole."""
        text = {"text": 1} if job.video_id in self.texts else {}
        return is_complete(feature_path(self.root, job.video_id), {self.field: job.frames} | text)

    def write(self, video_id: str, features: np.ndarray, encode_text: Callable[[str], np.ndarray]) -> None:
        """Write a video's features (T, D) and those of its caption (1, D), atomically."""
        arrays = {self.field: features}
        if video_id in self.texts:
            arrays["text"] = encode_text(self.texts[video_id])
        with atomic_write(feature_path(self.root, video_id), "wb") as file:
            np.savez(file, **arrays)


def read_provenance(path: str | os.PathLike) -> dict[str, Any]:
    """Read a note of what features are made with; {} where it is missing or damaged."""
    try:
        provenance = read_json(path, "note of an extraction")
    except (FileNotFoundError, ValueError):
        return {}
    return provenance if isinstance(provenance, dict) else {}
