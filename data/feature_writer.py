"""Write features: one file per video, and a file with their provenance."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from data.features import feature_path, is_complete
from utils.files import atomic_write, make_folder, read_json, remove_leftovers
from utils.precision import canonical_precision

if TYPE_CHECKING:
    from data.video.decoding import DecodeJob

PROVENANCE_FILE = "extraction.json"
# Entries of the provenance that earlier versions did not record; the hash of the weights identifies the encoder, too.
UNRECORDED = ("encoder", "transform")
# Settings that earlier versions did not record -> their value in them.
UNRECORDED_SETTINGS = {"vit_position_antialias": True}
NOT_COMPARED = ("name",)  # with the path of the weights


class FeatureWriter:
    """Writes one encoder's features: `{video_id}.npz` files and their provenance, `extraction.json`.

    Args:
        root: the folder.
        field: name of the array of frame features.
        texts: video id -> caption whose feature is stored in the file as `text`.
    """

    def __init__(self, root: str | os.PathLike, field: str, texts: Mapping[str, str]) -> None:
        self.root = pathlib.Path(root)
        self.field = field
        self.texts = texts

    def prepare(self, provenance: dict[str, Any], overwrite: bool) -> None:
        """Make the folder and write the provenance of its features.

        A folder has features of one provenance only: with `overwrite`, features of a different provenance are removed.

        Raises:
            ValueError: there are features without provenance, or of another one and `overwrite` is not set.
        """
        path = make_folder(self.root, "--out") / PROVENANCE_FILE
        remove_leftovers(self.root)
        if not path.is_file() and any(self.root.glob("*.npz")):
            raise ValueError(
                f"{self.root}: --out: found features without provenance ({path.name}), such as released ones, expected "
                "none: use another folder"
            )
        unrecorded = {name: provenance[name] for name in UNRECORDED if name in provenance}
        unrecorded |= {name: value for name, value in UNRECORDED_SETTINGS.items() if name in provenance}
        stored = unrecorded | read_provenance(path) if path.is_file() else provenance
        different = [name for name in provenance if stored.get(name) != provenance[name] and name not in NOT_COMPARED]
        if different:
            if not overwrite:
                name = different[0]
                raise ValueError(
                    f"{path}: {name}: found {stored.get(name)}, expected {provenance[name]}: these features were "
                    "extracted with other settings; --overwrite replaces them, another --out keeps both"
                )
            for features in self.root.glob("*.npz"):
                features.unlink()
        with atomic_write(path) as file:
            json.dump(provenance, file, indent=2)

    def is_complete(self, job: "DecodeJob") -> bool:
        """Whether a video's features exist and are complete."""
        expected = {self.field: job.num_frames}
        if job.video_id in self.texts:
            expected["text"] = 1
        return is_complete(feature_path(self.root, job.video_id), expected)

    def write(self, video_id: str, features: np.ndarray, encode_text: Callable[[str], np.ndarray]) -> None:
        """Write a video's features (T, D) and those of its caption (1, D), atomically."""
        arrays = {self.field: features}
        if video_id in self.texts:
            arrays["text"] = encode_text(self.texts[video_id])
        with atomic_write(feature_path(self.root, video_id), "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # names of arrays, not its own flag


def read_provenance(path: str | os.PathLike) -> dict[str, Any]:
    """Read the provenance of features, with today's names of precisions; {} if it is missing or damaged."""
    try:
        provenance = read_json(path, "note of an extraction")
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(provenance, dict):
        return {}
    precision = provenance.get("precision")
    return provenance | ({"precision": canonical_precision(precision)} if isinstance(precision, str) else {})
