"""Temporal transformer and context aggregation over frame features, and interpolation of position tables.

Both work on the real frames of all videos, concatenated (`models.ragged`).
Axes: n real frames of all videos, D width, H heads, Dh = 64 = D / H.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models import ragged

HEAD_WIDTH = 64
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def interpolate_positions(table: torch.Tensor, length: int) -> torch.Tensor:
    """Return the position embeddings of a sequence.

    Args:
        table: (P, D) learned positions.
        length: T, length of the sequence.
    Returns:
        (T, D): the first rows of the table; if it is too short, the whole table interpolated bicubically.
    """
    if length <= len(table):
        return table[:length]
    image = table.t()[None, :, :, None]  # (1, D, P, 1)
    return F.interpolate(image, (length, 1), mode="bicubic", align_corners=False)[0, :, :, 0].t()  # (T, D)


def init_vit_weights(module: nn.Module) -> None:
    """Initialize linear layers as ViT does: truncated normal of std 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def checkpointed_layers(depth: int, enabled: bool, last: int) -> list[bool]:
    """Select the layers that use gradient checkpointing.

    Args:
        depth: number of layers.
        enabled: False selects none.
        last: number of last layers to select; 0 selects all.
    Returns:
        For each layer, whether to recompute its activations in the backward pass.
    """
    first = depth - last if last > 0 else 0
    return [enabled and layer >= first for layer in range(depth)]


class FrameAttention(nn.Module):
    """Multi-head self-attention among the frames of a video, all of them or those at most `radius` away."""

    def __init__(self, width: int, radius: int | None = None) -> None:
        super().__init__()
        self.radius = radius
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, frame_layout: ragged.RaggedLayout) -> torch.Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, -1, HEAD_WIDTH).unbind(1)  # (n, H, Dh)
        return self.proj(ragged.varlen_attention(q, k, v, frame_layout, frame_layout, radius=self.radius).flatten(1))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, with timm's parameter names (importing timm takes 0.5 s)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm ViT block, with timm's parameter names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = FrameAttention(width)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: torch.Tensor, frame_layout: ragged.RaggedLayout) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), frame_layout)
        return x + self.mlp(self.norm2(x))


class TemporalTransformer(nn.Module):
    """ViT blocks over the frames of a video, then a LayerNorm.

    Args:
        width: D.
        depth: number of blocks.
        grad_ckpt: recompute activations in the backward pass.
        ckpt_layer: number of last blocks to which `grad_ckpt` applies; 0 is all.
    Source: VideoXum (Lin et al., 2023), section on VTSUM-BLIP.
    """

    def __init__(self, width: int, depth: int, *, grad_ckpt: bool = False, ckpt_layer: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = LayerNorm(width)
        self.recompute = checkpointed_layers(depth, grad_ckpt, ckpt_layer)
        self.apply(init_vit_weights)

    def forward(self, x: torch.Tensor, frame_layout: ragged.RaggedLayout) -> torch.Tensor:
        """Apply the blocks; every frame attends to all frames of its video.

        Args:
            x: (n, D) float, frames of all videos.
            frame_layout: layout of the frames.
        Returns:
            (n, D)
        """
        for block, recompute in zip(self.blocks, self.recompute):
            if recompute and self.training:
                x = checkpoint(block, x, frame_layout, use_reentrant=False)
            else:
                x = block(x, frame_layout)
        return self.norm(x)


class ContextAggregation(nn.Module):
    """`x + attention(LayerNorm(x))` within a window of `kernel_size` frames; no MLP.

    Args:
        width: D.
        kernel_size: frames of the window.
    Source: VideoXum (Lin et al., 2023), context aggregation.
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = FrameAttention(width, kernel_size // 2)
        self.apply(init_vit_weights)

    def forward(self, x: torch.Tensor, frame_layout: ragged.RaggedLayout) -> torch.Tensor:
        """Aggregate frames at distance `kernel_size // 2` or less; arguments as of `TemporalTransformer`."""
        return x + self.attn(self.norm1(x), frame_layout)
