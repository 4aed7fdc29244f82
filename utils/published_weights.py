"""The published weights: their sources, and the local paths that configurations and documents use."""

import dataclasses
import os
import pathlib

from utils.encoder_names import BLIP_WEIGHTS, VT_CLIP_WEIGHTS

HUB_REPOSITORY = "hf://jylins/vtsum_blip"
FETCH_COMMAND = "python -m data.download --what weights"


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights.

    Attributes:
        source: hf:// or https://, see `utils.download.resolve_file`.
        path: local path, relative to the folder of a run.
        content: what it is, for messages.
    """

    source: str
    path: str
    content: str


# Name -> file. VTSUM-BLIP's names are those of the architectures in `Config.model`.
PUBLISHED_WEIGHTS = {
    "vtsum_blip_tt": PublishedWeights(
        f"{HUB_REPOSITORY}/vtsum_tt.pth", "outputs/vtsum_tt/vtsum_tt.pth", "VTSUM-BLIP (TT)"
    ),
    "vtsum_blip_tt_ca": PublishedWeights(
        f"{HUB_REPOSITORY}/vtsum_tt_ca.pth", "outputs/vtsum_tt_ca/vtsum_tt_ca.pth", "VTSUM-BLIP (TT+CA)"
    ),
    "vt_clip": PublishedWeights(f"{HUB_REPOSITORY}/vt_clip.pth", VT_CLIP_WEIGHTS, "VT-CLIP"),
    "blip": PublishedWeights(
        "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base_capfilt_large.pth",
        BLIP_WEIGHTS,
        "BLIP",
    ),
}


def find_weights(path: str | os.PathLike) -> str:
    """Return where to get weights from: the source, if this is the path of a published file that is missing.

    Args:
        path: local path, or a URL, which is returned unchanged.
    """
    for weights in PUBLISHED_WEIGHTS.values():
        if pathlib.PurePath(path) == pathlib.PurePath(weights.path) and not pathlib.Path(path).is_file():
            return weights.source
    return str(path)


def fetch_hint(path: str | os.PathLike, alternative: str = "") -> str:
    """Return the end of the message about a missing file of weights: the command that fetches it, if it is published.

    Args:
        path: local path.
        alternative: another remedy, which is named first.
    """
    is_published = any(pathlib.PurePath(path) == pathlib.PurePath(file.path) for file in PUBLISHED_WEIGHTS.values())
    remedies = [remedy for remedy in (alternative, f"run {FETCH_COMMAND}" if is_published else "") if remedy]
    return f"; {', or '.join(remedies)}" if remedies else ""
