"""Frame preprocessing that an image encoder expects, as plain values."""

import dataclasses

# CLIP's, also used by BLIP.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class FrameTransform:
    """Preprocessing of a frame: `data.video` resizes and crops, the encoder normalizes.

    Attributes:
        size: S, side of the square input in pixels.
        crop: resize the shorter side to S and crop the center; otherwise resize the whole frame to S x S.
        interpolation: `bicubic` or `bilinear`.
        mean, std: per channel, of pixels in [0, 1].
    """

    size: int
    crop: bool = False
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
