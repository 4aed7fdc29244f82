"""Frame preprocessing that an image encoder expects, as plain values."""

import dataclasses
from typing import Any

# CLIP's, also used by BLIP.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class FrameTransform:
    """Preprocessing of a frame: `data.video` resizes and crops, the encoder normalizes.

    Attributes:
        size: S, side of the square input in pixels.
        crop: resize the shorter side and keep the aspect ratio; otherwise resize the whole frame to a square.
        interpolation: of `torchvision.transforms.InterpolationMode`, such as `bicubic` or `bilinear`.
        mean, std: per channel, of pixels in [0, 1].
        resize_size: side in pixels that frames are resized to before the center S x S is cropped; None is S.
    """

    size: int
    crop: bool = False
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize_size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON reads them back."""
        return dataclasses.asdict(self) | dict(
            mean=list(self.mean), std=list(self.std), resize_size=self.resize_size or self.size
        )
