"""Temporal transformer and context aggregation over frame features.

Axes: B videos, T frames (1 fps, padded), D width, H heads, Dh = 64 = D / H.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

HEAD_WIDTH = 64
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def init_vit_weights(module):
    """Draw linear weights from a normal of std 0.02 truncated at two units, as ViT does; biases start at 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def recomputed_layers(depth, enabled, last):
    """Tell for each of `depth` layers whether its activations are recomputed in the backward pass.

    Args:
        depth: number of layers.
        enabled: False recomputes nothing.
        last: recompute just the last so many layers; 0 means all of them.
    Returns:
        list of `depth` bools.
    """
    first = depth - last if last > 0 else 0
    return [enabled and layer >= first for layer in range(depth)]


class TemporalTransformer(nn.Module):
    """Pre-norm ViT blocks over the frames of a video, then a LayerNorm.

    Source: VideoXum (Lin et al., 2023), section on VTSUM-BLIP; the blocks are timm's.
    """

    def __init__(self, width, depth, *, grad_ckpt=False, ckpt_layer=0):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, width // HEAD_WIDTH, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)
        )
        self.norm = LayerNorm(width)
        self.recompute = recomputed_layers(depth, grad_ckpt, ckpt_layer)
        self.apply(init_vit_weights)

    def forward(self, x, frame_mask):
        """Let every frame attend to the real frames.

        Args:
            x: (B, T, D) float.
            frame_mask: (B, T) bool, True = real frame.
        Returns:
            (B, T, D); rows of padded frames are finite and mean nothing.
        """
        keys = frame_mask[:, None, None, :]  # (B, 1, 1, T)
        for block, recompute in zip(self.blocks, self.recompute):
            if recompute and self.training:
                x = checkpoint(block, x, keys, use_reentrant=False)
            else:
                x = block(x, attn_mask=keys)
        return self.norm(x)


class LocalAttention(nn.Module):
    """Multi-head self-attention in which a frame sees the frames at most `radius` away.

    The band is computed in blocks of queries, each against its own stretch of keys: cost and memory grow
    linearly with T, and a short video is one call of the fused kernel.
    """

    QUERY_BLOCK = 256

    def __init__(self, width, radius):
        super().__init__()
        self.radius = radius
        self.num_heads = width // HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, frame_mask):
        """See `ContextAggregation.forward`; padded rows get the bias of the output layer."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)  # (B, H, T, Dh)
        blocks = []
        for start in range(0, T, self.QUERY_BLOCK):
            stop = min(start + self.QUERY_BLOCK, T)
            first, last = max(0, start - self.radius), min(T, stop + self.radius)
            rows = torch.arange(start, stop, device=x.device)[:, None]
            columns = torch.arange(first, last, device=x.device)[None, :]
            near = (rows - columns).abs() <= self.radius
            seen = near & frame_mask[:, None, first:last]  # (B, rows, columns)
            # A padded row would see nothing and become NaN in some kernels: let it see itself, its result is dropped.
            seen = seen | ((rows == columns) & ~frame_mask[:, start:stop, None])
            blocks.append(
                F.scaled_dot_product_attention(
                    q[:, :, start:stop], k[:, :, first:last], v[:, :, first:last], attn_mask=seen[:, None]
                )
            )
        out = torch.cat(blocks, dim=2).transpose(1, 2).reshape(B, T, D)
        return self.proj(out * frame_mask[..., None])


class ContextAggregation(nn.Module):
    """`x + attention(LayerNorm(x))` within a window of `kernel_size` frames; no MLP.

    Source: VideoXum (Lin et al., 2023), context aggregation.
    """

    def __init__(self, width, kernel_size):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = LocalAttention(width, kernel_size // 2)
        self.apply(init_vit_weights)

    def forward(self, x, frame_mask):
        """Mix each real frame with the real frames at most `kernel_size // 2` away.

        Args:
            x: (B, T, D) float.
            frame_mask: (B, T) bool, True = real frame.
        Returns:
            (B, T, D); rows of padded frames are finite and mean nothing.
        """
        return x + self.attn(self.norm1(x), frame_mask)
