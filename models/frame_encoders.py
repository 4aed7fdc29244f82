"""Frame encoders: decoded frames -> features, by an image encoder with its normalization and precision.

Axes: n frames, S image side, D feature width.
"""

import os

import numpy as np
import torch
from torch import nn

from models.blip_vit import load_blip_vit
from models.vt_clip import VTClip
from utils.device import autocast
from utils.frame_transform import FrameTransform
from utils.precision import PrecisionName


def normalize(pixels: torch.Tensor, transform: FrameTransform) -> torch.Tensor:
    """Convert frames to an image encoder's input: (n, S, S, 3) uint8 -> (n, 3, S, S) float32."""
    mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (transform.mean, transform.std))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


class FrameEncoder(nn.Module):
    """An image encoder whose input is decoded frames.

    Args:
        image_encoder: (N, 3, S, S) normalized pixels -> (N, D).
        transform: preprocessing of the frames.
        precision: autocast precision.
    """

    def __init__(self, image_encoder: nn.Module, transform: FrameTransform, precision: PrecisionName = "fp32") -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.transform = transform
        self.precision = precision
        self.device_anchor: torch.Tensor  # on the module's device
        self.register_buffer("device_anchor", torch.empty(0), persistent=False)

    @torch.inference_mode()
    def forward(self, pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Encode frames: (n, S, S, 3) uint8 -> (n, D) float32, on the encoder's device."""
        device = self.device_anchor.device
        images = normalize(torch.as_tensor(pixels).to(device, non_blocking=True), self.transform)
        with autocast(self.precision, device):
            return self.image_encoder(images).float()


def blip_frame_encoder(
    path: str | os.PathLike,
    image_size: int = 224,
    precision: PrecisionName = "fp32",
    *,
    position_antialias: bool = True,
) -> FrameEncoder:
    """Load BLIP's image encoder, for whole frames resized to a square; see `load_blip_vit`."""
    vit = load_blip_vit(path, image_size, position_antialias=position_antialias)
    return FrameEncoder(vit, FrameTransform(image_size), precision).eval()


def clip_frame_encoder(clip: VTClip, precision: PrecisionName = "fp32") -> FrameEncoder:
    """Wrap VT-CLIP's image tower, for the center of frames at its image size."""
    return FrameEncoder(clip.clip.visual, FrameTransform(clip.image_size, crop=True), precision).eval()
