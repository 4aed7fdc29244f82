"""Frame preprocessing for an image encoder: resizing and cropping."""

import numpy as np
from PIL import Image

from utils.frame_transform import FrameTransform


def preprocess(image: Image.Image, transform: FrameTransform) -> np.ndarray:
    """Resize and crop an RGB image: (S, S, 3) uint8. The encoder normalizes."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    mode = InterpolationMode(transform.interpolation)
    if not transform.crop:
        return np.asarray(F.resize(image, [transform.size, transform.size], mode))
    return np.asarray(F.center_crop(F.resize(image, transform.size, mode), transform.size))
