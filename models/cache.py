"""The key-value cache of beam search, and attention over it.

Axes: B videos, K beams, N queries, M keys, T frames, H heads, Dh head width.
"""

import torch
import torch.nn.functional as F

# The cache grows by this many slots: most steps attend to the whole contiguous buffer, which no kernel has to copy, and
# the shapes of few kernels occur.
SLOT_BLOCK = 32


class KVCache:
    """Keys and values of one decoding run, K beams per video.

    Those of the tokens are written once and never moved: all beams of a video share one buffer of slots, and `mask` is
    the attention mask over the used slots. Those of the frames are computed once per video.

    Args:
        frame_mask: (B, T) bool.
        K: beams per video.
        prompt_length: tokens of the prompt, shared by all beams.
        dtype: dtype of keys and values.
    Attributes:
        frame_bias: (B, 1, 1, T), see `cached_attention`.
        next_position: index of the next token in its caption.
        num_filled: number of slots with keys and values.
        mask: (B, K, slots) bool, slots that each beam attends to; slots is a multiple of `SLOT_BLOCK`.
        self_kv: layer -> (2, B, H, slots, Dh) keys and values of the tokens, 0 in unused slots.
        cross_kv: layer -> keys and values of the frames, (B, H, T, Dh) each.
    """

    def __init__(self, frame_mask: torch.Tensor, K: int, prompt_length: int, dtype: torch.dtype) -> None:
        B, device = len(frame_mask), frame_mask.device
        self.frame_bias = mask_to_bias(frame_mask[:, None, None, :], dtype)  # (B, 1, 1, T)
        self.next_position = 0
        self.num_filled = 0
        self.mask = torch.zeros(B, K, _round_up(prompt_length), dtype=torch.bool, device=device)
        self.mask[:, :, :prompt_length] = True
        self.self_kv: dict[int, torch.Tensor] = {}
        self.cross_kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values of new tokens.

        Args:
            layer: number of the decoder layer.
            k: (B, H, new, Dh).
            v: (B, H, new, Dh).
        Returns:
            keys and values of all slots, (B, H, slots, Dh) each.
        """
        slots = self.mask.shape[2]
        if layer not in self.self_kv:
            B, H, _, Dh = k.shape
            self.self_kv[layer] = k.new_zeros(2, B, H, slots, Dh)
        missing = slots - self.self_kv[layer].shape[3]
        if missing:
            self.self_kv[layer] = F.pad(self.self_kv[layer], (0, 0, 0, missing))
        end = self.num_filled + k.shape[2]
        keys, values = self.self_kv[layer]
        keys[:, :, self.num_filled : end] = k
        values[:, :, self.num_filled : end] = v
        return keys, values

    def advance(self, tokens: int, new: int) -> None:
        """Record that all layers stored `tokens` more tokens per caption, in `new` slots."""
        self.next_position += tokens
        self.num_filled += new

    def reorder_beams(self, parents: torch.Tensor) -> None:
        """Replace the history of beam i of each video by that of beam parents[:, i]; parents (B, K) int."""
        self.mask = self.mask.gather(1, parents[..., None].expand_as(self.mask))

    def reserve_slots(self) -> torch.Tensor:
        """Reserve the next K slots, one per beam; returns the mask over all slots: (B, K, slots) bool."""
        K = self.mask.shape[1]
        end = self.num_filled + K
        self.mask = F.pad(self.mask, (0, _round_up(end) - self.mask.shape[2]))
        self.mask[:, :, self.num_filled : end] |= torch.eye(K, dtype=torch.bool, device=self.mask.device)
        return self.mask

    def select_videos(self, videos: torch.Tensor) -> None:
        """Keep these videos only, (B',) int."""
        self.mask = self.mask[videos]
        self.frame_bias = self.frame_bias[videos]
        for layer in self.self_kv:
            self.self_kv[layer] = self.self_kv[layer][:, videos]
            k, v = self.cross_kv[layer]
            self.cross_kv[layer] = k[videos], v[videos]


def _round_up(slots: int) -> int:
    return -(-slots // SLOT_BLOCK) * SLOT_BLOCK


def cached_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention of few queries, for which the fused kernels on CPUs are slower than separate operations.

    Args:
        q: (B, N, H, Dh).
        k: (B, H, M, Dh).
        v: (B, H, M, Dh).
        bias: 0 where a query attends to a key and -inf where not, broadcast to (B, H, N, M).
    Returns:
        (B, N, H, Dh)
    """
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ k.transpose(2, 3)  # (B, H, N, M)
    return ((scores + bias).softmax(-1).to(v.dtype) @ v).transpose(1, 2)  # (B, N, H, Dh)


def mask_to_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a bool mask, True where a query attends to a key, to the bias of the attention scores: 0 or -inf."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
