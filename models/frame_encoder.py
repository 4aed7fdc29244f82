"""Frames -> features: pixels normalised as CLIP and BLIP do, an image encoder, a precision."""

import contextlib

import torch
from torch import nn

from data.decoding import Look
from models.blip_vit import load_blip_vit

# CLIP's, which BLIP took over.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def normalised(pixels):
    """Pixels as BLIP's and CLIP's image encoders take them: (n, S, S, 3) uint8 -> (n, 3, S, S) float32."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


class FrameEncoder(nn.Module):
    """An image encoder that takes frames as they are decoded.

    Args:
        image_encoder: (N, 3, S, S) normalised pixels -> (N, D).
        look: `Look` of the frames.
        precision: `float32`, or `bf16` and `fp16` for mixed precision.
    """

    def __init__(self, image_encoder, look, precision="float32"):
        super().__init__()
        self.image_encoder, self.look, self.dtype = image_encoder, look, PRECISIONS[precision]
        self.register_buffer("place", torch.empty(0), persistent=False)  # tells the device

    @torch.inference_mode()
    def forward(self, pixels):
        """Encode frames: (n, S, S, 3) uint8 -> (n, D) float32, on the encoder's device."""
        device = self.place.device
        images = normalised(torch.as_tensor(pixels).to(device, non_blocking=True))
        mixed = contextlib.nullcontext() if self.dtype is None else torch.autocast(device.type, self.dtype)
        with mixed:
            return self.image_encoder(images).float()


def blip_frame_encoder(path, image_size=224, precision="float32"):
    """BLIP's image encoder for whole frames, squeezed to a square; see `load_blip_vit`."""
    return FrameEncoder(load_blip_vit(path, image_size), Look(image_size), precision).eval()


def clip_frame_encoder(clip, precision="float32"):
    """`VTClip`'s image tower for the middle of frames, at its own size."""
    return FrameEncoder(clip.clip.visual, Look(clip.image_size, crop=True), precision).eval()
