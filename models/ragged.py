"""Batches without padding: the real places of all sequences one after another, and attention among them.

Axes: B sequences, N places of a padded one, n real places of all, H heads, Dh head width.
"""

import functools

import torch
import torch.nn.functional as F

# Where a call costs little, attention goes sequence by sequence, and nothing is computed for padding. On GPUs it is the
# calls that cost: there it is one, with padding that nobody sees.
ONE_BY_ONE = {"cpu"}
# Local attention handles so many queries at a time, each time with their own stretch of keys.
QUERY_BLOCK = 256


class _Rows(torch.autograd.Function):
    """Take rows, each at most once: backward is a copy, where index_select's would be a sum."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.rows, ctx.size = rows, len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx, gradient):
        return _spread(gradient, ctx.rows, ctx.size), None


class _Spread(torch.autograd.Function):
    """Put rows to their places among zeros, each place at most once."""

    @staticmethod
    def forward(ctx, x, rows, size):
        ctx.rows = rows
        return _spread(x, rows, size)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.index_select(0, ctx.rows), None, None


def _spread(x, rows, size):
    return x.new_zeros(size, *x.shape[1:]).index_copy_(0, rows, x)


def take_rows(x, rows):
    """Rows of x, (n, …); `rows` (m,) int names each at most once."""
    return _Rows.apply(x, rows)


def to_device(tensor, device):
    """Copy a tensor from the host without waiting for the device."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Ragged:
    """The real places of a padded batch (B, N): the first `lengths[i]` of sequence i.

    Args:
        lengths: B numbers from 0 to N, on the host.
        size: N.
        device: where the indices are needed.
    Attributes:
        rows: (n,) the real places in the flattened batch.
        columns: (n,) each one's place in its sequence.
        mask: (B, N) bool, or None where all places are real.
    """

    def __init__(self, lengths, size, device):
        self.lengths, self.size = list(lengths), size
        self.is_full = all(length == size for length in self.lengths)
        inside = torch.arange(size) < torch.tensor(self.lengths)[:, None]  # (B, N)
        rows = inside.view(-1).nonzero()[:, 0]
        self.rows, self.columns = to_device(rows, device), to_device(rows % size, device)
        self.mask = None if self.is_full else to_device(inside, device)

    @classmethod
    def of(cls, mask, name, device):
        """Read a mask (B, N), 1 = real. One on the host spares a wait for the device.

        Raises:
            ValueError: a sequence has no real place, or padding before one; `name` is the mask's.
        """
        mask = mask.bool().cpu()
        lengths = mask.sum(1)
        if mask.shape[1] == 0 or not lengths.all() or (mask[:, 1:] > mask[:, :-1]).any():
            raise ValueError(f"{name}: found an empty sequence or padding before a real place, expected it behind")
        return cls(lengths.tolist(), mask.shape[1], device)

    def pack(self, x):
        """(B, N, …) -> (n, …)."""
        x = x.flatten(0, 1)
        return x if self.is_full else take_rows(x, self.rows)

    def unpack(self, x):
        """(n, …) -> (B, N, …), zeros at padding."""
        B, N = len(self.lengths), self.size
        return (x if self.is_full else _Spread.apply(x, self.rows, B * N)).view(B, N, *x.shape[1:])

    def inside(self, other):
        """Say where in `other`'s rows these lie, (n,), or None where they are the same; each is one of `other`'s."""
        if self.lengths == other.lengths:
            return None
        starts = torch.tensor([0, *other.lengths[:-1]]).cumsum(0)
        rows = [start + torch.arange(length) for start, length in zip(starts.tolist(), self.lengths)]
        return to_device(torch.cat(rows), self.rows.device)


def attend(q, k, v, queries, keys, *, causal=False, radius=None, dropout=0.0):
    """Let each query attend to the keys of its own sequence.

    Args:
        q: (n, H, Dh), laid out as `queries` says.
        k, v: (m, H, Dh), laid out as `keys` says.
        queries, keys: `Ragged` of the same B.
        causal: place i sees the keys up to place i.
        radius: place i sees the keys at most so far away; needs `queries` and `keys` to be the same.
        dropout: probability that an attention weight is dropped.
    Returns:
        (n, H, Dh)
    """
    how = dict(causal=causal, radius=radius, dropout=dropout)
    if q.device.type in ONE_BY_ONE:
        parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths))
        return torch.cat([_attend(*(x[None].transpose(1, 2) for x in part), None, **how)[0] for part in parts])
    seen = keys.mask
    if causal and queries.lengths == keys.lengths:
        seen = None  # padding lies behind every real place
    q, k, v = queries.unpack(q).transpose(1, 2), keys.unpack(k).transpose(1, 2), keys.unpack(v).transpose(1, 2)
    return queries.pack(_attend(q, k, v, seen, **how))


@functools.cache
def exclude_attention_from_compilation() -> None:
    """Make torch.compile leave `attend` alone, which it would compile anew for the lengths of each batch.

    A decorator would import torch._dynamo, which takes a second, in every process.
    """
    global attend
    attend = torch.compiler.disable(attend)


def _attend(q, k, v, seen, *, causal, radius, dropout):
    """(B, H, N, Dh) queries, (B, H, M, Dh) keys and values, (B, M) seen or None -> (B, N, H, Dh)."""
    if radius is not None:
        out = _attend_nearby(q, k, v, seen, radius, dropout)
    elif seen is None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
    else:
        seen = seen[:, None, None, :]  # (B, 1, 1, M)
        if causal:
            seen = seen & torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    return out.transpose(1, 2)


def _attend_nearby(q, k, v, seen, radius, dropout):
    """Attention within `radius`, in blocks of queries: time and memory grow linearly with N."""
    N, blocks = q.shape[2], []
    for start in range(0, N, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, N)
        first, last = max(0, start - radius), min(N, stop + radius)
        rows = torch.arange(start, stop, device=q.device)[:, None]
        columns = torch.arange(first, last, device=q.device)
        near = (rows - columns).abs() <= radius
        if seen is not None:
            # A padded place sees itself too, though nobody reads it: nothing at all becomes NaN in some kernels.
            near = (near & seen[:, None, None, first:last]) | (rows == columns)
        part = (q[:, :, start:stop], k[:, :, first:last], v[:, :, first:last])
        blocks.append(F.scaled_dot_product_attention(*part, attn_mask=near, dropout_p=dropout))
    return torch.cat(blocks, dim=2)
