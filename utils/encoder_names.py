"""Names of frame encoders, without importing their libraries."""

import dataclasses
import pathlib
import re
from typing import Self

BLIP_WEIGHTS = "outputs/blip/model_base_capfilt_large.pth"
VT_CLIP_WEIGHTS = "outputs/vt_clipscore/vt_clip.pth"
# Encoders whose architecture is read from their weights -> default weights.
DEFAULT_WEIGHTS = {"blip": BLIP_WEIGHTS, "vt_clip": VT_CLIP_WEIGHTS}
DEFAULT_FOLDERS = {"blip": "blip", "vt_clip": "vt_clipscore"}
WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# Names, the values of the setting `vit`, of BLIP's image encoders -> width of their features.
FEATURE_WIDTHS = {"base": 768, "large": 1024}
NAME_FORMS = (
    "blip[:PATH_OR_URL], vt_clip[:PATH_OR_URL], timm:MODEL[@WEIGHTS], open_clip:MODEL[@TAG_OR_PATH] or "
    "transformers:MODEL_OR_FOLDER"
)


@dataclasses.dataclass(frozen=True)
class EncoderName:
    """A frame encoder's name, `library:model@weights`.

    Attributes:
        library: a key of `models.frame_encoders.FRAME_ENCODERS`.
        model: name of the architecture in the library; "" where the weights determine it.
        weights: file, URL, folder, or name on a hub; "" is the library's default.
    """

    library: str
    model: str = ""
    weights: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name; see `NAME_FORMS`. The library is not checked.

        Raises:
            ValueError: there is no model.
        """
        library, _, rest = text.partition(":")
        if library in DEFAULT_WEIGHTS:
            return cls(library, weights=rest or DEFAULT_WEIGHTS[library])
        if not rest:
            raise ValueError(f"encoder: found {text!r}, expected {NAME_FORMS}")
        if library == "transformers":
            return cls(library, weights=rest)
        model, _, weights = rest.partition("@")
        return cls(library, model, weights)

    def __str__(self) -> str:
        weights = f"@{self.weights}" if self.model and self.weights else self.weights
        return f"{self.library}:{self.model}{weights}"

    @property
    def architecture(self) -> str:
        """`library:model` without weights and local paths: it identifies the encoder together with its weights."""
        model = "local-dir" if self.model.startswith("local-dir:") else self.model
        if self.library == "timm":
            model = model.partition(".")[0]  # without the tag of the weights
        return f"{self.library}:{model}" if model else self.library

    @property
    def folder(self) -> str:
        """Default name of the folder of its features."""
        if self.library in DEFAULT_FOLDERS:
            return DEFAULT_FOLDERS[self.library]
        return re.sub(r"[^\w.+-]+", "_", self.model or pathlib.PurePath(self.weights).name)
