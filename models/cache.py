"""The key-value cache of beam search, and attention over it.

Axes: B videos, K beams, N queries, M keys, T frames, H heads, Dh head width.
"""

import torch


class KVCache:
    """Keys and values of one decoding run, K beams per video.

    Those of the tokens are written once and never moved: all beams of a video share one buffer of slots, and `mask`
    selects the slots of a beam's own history. Those of the frames are computed once per video.

    Args:
        frame_mask: (B, T) bool.
        K: beams per video.
        prompt_length: tokens of the prompt, which all beams share.
        max_length: tokens of a caption at most, prompt included.
        dtype: of the states.
    Attributes:
        frame_bias: (B, 1, 1, T), see `cached_attention`.
        position: of the next token in its caption.
        filled: number of slots with keys and values.
        mask: (B, K, slots) bool, slots that each beam attends to.
        self_kv: layer -> (2, B, H, slots, Dh) keys and values of the tokens.
        cross_kv: layer -> keys and values of the frames, (B, H, T, Dh) each.
    """

    def __init__(
        self, frame_mask: torch.Tensor, K: int, prompt_length: int, max_length: int, dtype: torch.dtype
    ) -> None:
        B, device = len(frame_mask), frame_mask.device
        slots = prompt_length + (max_length - prompt_length) * K
        self.frame_bias = mask_to_bias(frame_mask[:, None, None, :], dtype)  # (B, 1, 1, T)
        self.position = 0
        self.filled = 0
        self.mask = torch.zeros(B, K, slots, dtype=torch.bool, device=device)
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
            keys and values of all tokens so far, (B, H, M, Dh) each.
        """
        if layer not in self.self_kv:
            B, H, _, Dh = k.shape
            self.self_kv[layer] = k.new_empty(2, B, H, self.mask.shape[2], Dh)
        end = self.filled + k.shape[2]
        keys, values = self.self_kv[layer]
        keys[:, :, self.filled : end] = k
        values[:, :, self.filled : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int, new: int) -> None:
        """Record that all layers stored `tokens` more tokens per caption, in `new` slots."""
        self.position += tokens
        self.filled += new

    def reorder_beams(self, parents: torch.Tensor) -> None:
        """Give beam i of each video the history of its beam parents[:, i]; parents (B, K) int."""
        self.mask = self.mask.gather(1, parents[..., None].expand_as(self.mask))

    def reserve_slots(self) -> torch.Tensor:
        """Reserve the next K slots, one for each beam; returns the mask up to there: (B, K, M) bool."""
        K = self.mask.shape[1]
        end = self.filled + K
        self.mask[:, :, self.filled : end] |= torch.eye(K, dtype=torch.bool, device=self.mask.device)
        return self.mask[:, :, :end]

    def select_videos(self, videos: torch.Tensor) -> None:
        """Keep these videos only, (B',) int."""
        self.mask, self.frame_bias = self.mask[videos], self.frame_bias[videos]
        for layer in self.self_kv:
            self.self_kv[layer] = self.self_kv[layer][:, videos]
            self.cross_kv[layer] = tuple(x[videos] for x in self.cross_kv[layer])


def cached_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention of a few queries, for which a CPU's fused kernels are slower than the operations that they fuse.

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
    """Convert a bool mask, True where a query attends to a key, to what is added to the attention scores."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
