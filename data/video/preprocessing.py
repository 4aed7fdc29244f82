"""Frame preprocessing for an image encoder: resizing and cropping."""

import numpy as np
from PIL import Image

from utils.frame_transform import FrameTransform


def preprocess(image: Image.Image, transform: FrameTransform) -> np.ndarray:
    """Resize and crop an RGB image: (S, S, 3) uint8. The encoder normalizes."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    side = transform.resize_size or transform.size
    resized = F.resize(image, side if transform.crop else [side, side], InterpolationMode(transform.interpolation))
    return np.asarray(F.center_crop(resized, transform.size))
