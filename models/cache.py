"""What beam search remembers of the tokens and frames it has read, and attention to it.

Axes: B videos, K beams, N queries, M keys, T frames, H heads, Dh head width.
"""

import torch


class Cache:
    """Keys and values of one decoding run, K beams per video.

    Those of the tokens are written once and stay where they are: all beams of a video read the same buffer, and
    `seen` says which of its places belong to a beam's own past. Those of the frames are computed once per video.
    """

    def __init__(self, frame_mask, K, prompt_length, max_length, dtype):
        B, device = len(frame_mask), frame_mask.device
        self.frame_bias = bias_of(frame_mask[:, None, None, :], dtype)  # (B, 1, 1, T)
        self.position = 0  # of the next token in its caption
        self.filled = 0  # places of the buffers
        places = prompt_length + (max_length - prompt_length) * K
        self.seen = torch.zeros(B, K, places, dtype=torch.bool, device=device)
        self.seen[:, :, :prompt_length] = True  # one prompt for all beams
        self.self_kv = {}  # layer -> (2, B, H, places, Dh)
        self.cross_kv = {}  # layer -> (key, value), each (B, H, T, Dh)

    def append(self, layer, k, v):
        """Store keys and values of new tokens, (B, H, new, Dh) each; return all so far."""
        if layer not in self.self_kv:
            B, heads, _, width = k.shape
            self.self_kv[layer] = k.new_empty(2, B, heads, self.seen.shape[2], width)
        end = self.filled + k.shape[2]
        keys, values = self.self_kv[layer]
        keys[:, :, self.filled : end] = k
        values[:, :, self.filled : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens, new):
        """Note that `tokens` more per caption, `new` places in all, were stored."""
        self.position += tokens
        self.filled += new

    def follow(self, parents):
        """Let beam i of each video go on from its beam parents[:, i], (B, K)."""
        self.seen = self.seen.gather(1, parents[..., None].expand_as(self.seen))

    def open_places(self):
        """Give each beam a place of its own behind the filled ones; returns who sees what up to there: (B, K, M)."""
        K = self.seen.shape[1]
        end = self.filled + K
        self.seen[:, :, self.filled : end] |= torch.eye(K, dtype=torch.bool, device=self.seen.device)
        return self.seen[:, :, :end]

    def keep(self, videos):
        """Go on with these videos only, (B',) int."""
        self.seen, self.frame_bias = self.seen[videos], self.frame_bias[videos]
        for layer in self.self_kv:
            self.self_kv[layer] = self.self_kv[layer][:, videos]
            self.cross_kv[layer] = tuple(x[videos] for x in self.cross_kv[layer])


def attend_few(q, k, v, bias):
    """Attention of a few queries, where the fused kernels of a CPU take longer than the steps they fuse.

    Args:
        q: (B, N, H, Dh).
        k, v: (B, H, M, Dh).
        bias: 0 where a query sees a key and -inf where not, broadcast to (B, H, N, M).
    Returns:
        (B, N, H, Dh)
    """
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ k.transpose(2, 3)  # (B, H, N, M)
    return ((scores + bias).softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def bias_of(seen, dtype):
    """Turn who sees whom, bool, into what is added to the scores."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
