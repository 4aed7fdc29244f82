"""Frames -> features: pixels normalized as the encoder expects, an image encoder, a precision."""

import torch
from torch import nn

from models.blip_vit import load_blip_vit
from utils.device import autocast
from utils.frame_transform import FrameTransform

PRECISIONS = {"float32": "fp32", "bf16": "bf16", "fp16": "fp16"}


def normalize(pixels, transform):
    """Pixels as an image encoder takes them: (n, S, S, 3) uint8 -> (n, 3, S, S) float32."""
    mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (transform.mean, transform.std))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


class FrameEncoder(nn.Module):
    """An image encoder that takes frames as they are decoded.

    Args:
        image_encoder: (N, 3, S, S) normalized pixels -> (N, D).
        transform: `FrameTransform` of the frames.
        precision: `float32`, or `bf16` and `fp16` for mixed precision.
    """

    def __init__(self, image_encoder, transform, precision="float32"):
        super().__init__()
        self.image_encoder, self.transform, self.precision = image_encoder, transform, PRECISIONS[precision]
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # tells the device

    @torch.inference_mode()
    def forward(self, pixels):
        """Encode frames: (n, S, S, 3) uint8 -> (n, D) float32, on the encoder's device."""
        device = self.anchor.device
        images = normalize(torch.as_tensor(pixels).to(device, non_blocking=True), self.transform)
        with autocast(self.precision, device):
            return self.image_encoder(images).float()


def blip_frame_encoder(path, image_size=224, precision="float32"):
    """BLIP's image encoder for whole frames, squeezed to a square; see `load_blip_vit`."""
    return FrameEncoder(load_blip_vit(path, image_size), FrameTransform(image_size), precision).eval()


def clip_frame_encoder(clip, precision="float32"):
    """`VTClip`'s image tower for the middle of frames, at its own size."""
    return FrameEncoder(clip.clip.visual, FrameTransform(clip.image_size, crop=True), precision).eval()
