"""Batches without padding: the real elements of all sequences concatenated, and attention within each sequence.

Axes: B sequences, N elements of a padded sequence, n real elements of all sequences, H heads, Dh head width.
"""

import functools
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F

# On these devices attention is computed per sequence, without padding. On GPUs, where launch overhead dominates, it is
# one call on the padded batch.
PER_SEQUENCE_DEVICES = {"cpu"}
# Queries per block of local attention.
QUERY_BLOCK = 256


class _UniqueIndexSelect(torch.autograd.Function):
    """Select rows, each at most once: the backward pass is a copy, unlike that of index_select, which adds."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = rows
        ctx.size = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _scatter(gradient, ctx.rows, ctx.size), None


class _Scatter(torch.autograd.Function):
    """Copy rows to indices of a zero tensor, each index at most once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
        ctx.rows = rows
        return _scatter(x, rows, size)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.rows), None, None


def _scatter(x: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
    return x.new_zeros(size, *x.shape[1:]).index_copy_(0, rows, x)


def unique_index_select(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`x.index_select(0, rows)` for unique rows (m,) of x (n, …): the backward pass copies instead of adding."""
    return _UniqueIndexSelect.apply(x, rows)


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor from the host without a host sync."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class RaggedLayout:
    """Layout of the real elements of a padded batch (B, N): the first `lengths[i]` of sequence i.

    Args:
        lengths: B numbers from 0 to N, on the host.
        size: N.
        device: device of the indices.
    Attributes:
        rows: (n,) index of each real element in the flattened batch.
        columns: (n,) its index in its sequence.
        mask: (B, N) bool; None if there is no padding.
        is_full: whether there is no padding.
    """

    def __init__(self, lengths: Sequence[int], size: int, device: torch.device | str) -> None:
        self.lengths = list(lengths)
        self.size = size
        self.is_full = all(length == size for length in self.lengths)
        mask = torch.arange(size) < torch.tensor(self.lengths)[:, None]  # (B, N)
        rows = mask.view(-1).nonzero()[:, 0]
        self.rows = to_device(rows, device)
        self.columns = to_device(rows % size, device)
        self.mask = None if self.is_full else to_device(mask, device)

    @classmethod
    def from_mask(cls, mask: torch.Tensor, name: str, device: torch.device | str) -> Self:
        """Read the lengths from a mask (B, N), 1 = real; without a host sync if the mask is on the host.

        Raises:
            ValueError: a sequence is empty, or has padding before a real element; the message starts with `name`.
        """
        mask = mask.bool().cpu()
        lengths = mask.sum(1)
        if mask.shape[1] == 0 or not lengths.all() or (mask[:, 1:] > mask[:, :-1]).any():
            raise ValueError(
                f"{name}: found an empty sequence, or padding before a real element, expected padding at the end"
            )
        return cls(lengths.tolist(), mask.shape[1], device)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, …) -> (n, …)."""
        x = x.flatten(0, 1)
        return x if self.is_full else unique_index_select(x, self.rows)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """(n, …) -> (B, N, …), zeros at padding."""
        B, N = len(self.lengths), self.size
        return (x if self.is_full else _Scatter.apply(x, self.rows, B * N)).view(B, N, *x.shape[1:])

    def row_indices(self, other: "RaggedLayout") -> torch.Tensor | None:
        """Return the rows of this layout's elements in `other`, which contains all: (n,) int; None if both are
        equal.
        """
        if self.lengths == other.lengths:
            return None
        starts = torch.tensor([0, *other.lengths[:-1]]).cumsum(0)
        rows = [start + torch.arange(length) for start, length in zip(starts.tolist(), self.lengths)]
        return to_device(torch.cat(rows), self.rows.device)


def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: RaggedLayout,
    keys: RaggedLayout,
    *,
    causal: bool = False,
    radius: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Scaled dot-product attention of each query to the keys of its sequence.

    Args:
        q: (n, H, Dh), laid out by `queries`.
        k: (m, H, Dh), laid out by `keys`.
        v: (m, H, Dh), laid out by `keys`.
        queries: layout of the queries of B sequences.
        keys: layout of the keys of the same sequences.
        causal: element i attends to the keys up to i.
        radius: element i attends to keys at distance `radius` or less; `queries` and `keys` must be the same.
        dropout: probability that an attention weight is dropped.
    Returns:
        (n, H, Dh)
    """
    if q.device.type in PER_SEQUENCE_DEVICES:
        outputs = []
        for sequence in zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths)):
            q_i, k_i, v_i = (x[None].transpose(1, 2) for x in sequence)  # (1, H, N_i, Dh)
            outputs.append(_dense_attention(q_i, k_i, v_i, None, causal, radius, dropout)[0])
        return torch.cat(outputs)
    mask = keys.mask
    if causal and queries.lengths == keys.lengths:
        mask = None  # padding comes after every real element
    q, k, v = queries.unpack(q).transpose(1, 2), keys.unpack(k).transpose(1, 2), keys.unpack(v).transpose(1, 2)
    return queries.pack(_dense_attention(q, k, v, mask, causal, radius, dropout))


@functools.cache
def exclude_attention_from_compilation() -> None:
    """Exclude `varlen_attention` from torch.compile, which would recompile it for the lengths of each batch.

    A decorator would import torch._dynamo in every process, which takes a second.
    """
    global varlen_attention
    varlen_attention = torch.compiler.disable(varlen_attention)


def _dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    radius: int | None,
    dropout: float,
) -> torch.Tensor:
    """(B, H, N, Dh) queries, (B, H, M, Dh) keys and values, (B, M) mask or None -> (B, N, H, Dh)."""
    if radius is not None:
        out = _local_attention(q, k, v, mask, radius, dropout)
    elif mask is None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
    else:
        mask = mask[:, None, None, :]  # (B, 1, 1, M)
        if causal:
            mask = mask & torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()  # (B, 1, N, M)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2)


def _local_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, radius: int, dropout: float
) -> torch.Tensor:
    """Attention within `radius`, in blocks of queries: time and memory grow linearly with N."""
    N, blocks = q.shape[2], []
    for start in range(0, N, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, N)
        first, last = max(0, start - radius), min(N, stop + radius)
        rows = torch.arange(start, stop, device=q.device)[:, None]
        columns = torch.arange(first, last, device=q.device)
        is_near = (rows - columns).abs() <= radius
        if mask is not None:
            # Padding attends to itself, although its output is unused: some kernels return NaN without keys.
            is_near = (is_near & mask[:, None, None, first:last]) | (rows == columns)
        block = (q[:, :, start:stop], k[:, :, first:last], v[:, :, first:last])
        blocks.append(F.scaled_dot_product_attention(*block, attn_mask=is_near, dropout_p=dropout))
    return torch.cat(blocks, dim=2)
