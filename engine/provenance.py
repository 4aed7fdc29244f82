"""What a checkpoint records about its model: frame encoder, frozen weights of the decoder, note; and comparisons."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from data.feature_writer import PROVENANCE_FILE, read_provenance

# Entries that identify an encoder with its preprocessing. Features of other precisions are similar: they may be mixed.
IDENTITY = ("encoder", "image_size", "vit_position_antialias", "transform", "weights_sha256")


def read_encoder(feature_root: str | os.PathLike) -> dict[str, Any]:
    """Read which encoder made a folder of features; {} if it is not known, as for the released features."""
    return read_provenance(pathlib.Path(feature_root, PROVENANCE_FILE))


def recorded_name(encoder: Mapping[str, Any]) -> str:
    """Name of an encoder in its description; "" if it is not known."""
    return str(encoder.get("name") or encoder.get("encoder") or "")


def encoder_label(encoder: Mapping[str, Any]) -> str:
    """Architecture and hash of an encoder's weights, which do not depend on paths."""
    return " ".join([str(encoder.get("encoder", "")), str(encoder.get("weights_sha256", ""))[:12]]).strip()


def find_model_note(trained: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return the `model_note` of a model as one line; "" if there is none.

    Args:
        trained: settings in the model's checkpoint, which take precedence; {} if it has none.
        current: settings that the model is used with.
    """
    return " ".join(str(trained.get("model_note") or current.get("model_note") or "").split())


def require_same_encoder(trained: Mapping[str, Any], used: Mapping[str, Any], source: str | os.PathLike) -> None:
    """Raise a ValueError unless features are of the encoder that a model was trained on.

    Args:
        trained: description of the encoder in the checkpoint.
        used: description of the encoder of the features; what one of the two does not have is not compared.
        source: path of the checkpoint.
    """
    for name in IDENTITY:
        if name in trained and name in used and trained[name] != used[name]:
            raise ValueError(
                f"{source}: encoder: {name}: found {used[name]}, expected {trained[name]}: the model was trained on "
                f"features of {recorded_name(trained) or 'another encoder'}"
            )


def require_same_decoder_base(
    trained: Mapping[str, Any], used: Mapping[str, Any] | None, source: str | os.PathLike
) -> None:
    """Raise a ValueError unless a caption decoder has the frozen weights that a checkpoint was trained with.

    Args:
        trained: `decoder_base` of the checkpoint.
        used: `CaptionDecoder.describe_base()` of the model.
        source: path of the checkpoint.
    """
    for key in ("sha256", "tokenizer_sha256"):
        if used and key in trained and key in used and trained[key] != used[key]:
            raise ValueError(
                f"{source}: decoder_base: {key}: found {used['name']} ({used[key][:12]}…), expected {trained['name']} "
                f"({trained[key][:12]}…), as in training; change decoder_path"
            )
