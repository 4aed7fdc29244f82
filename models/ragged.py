"""Batches without padding: the real elements of all sequences concatenated, and attention within each sequence.

Axes: B sequences, N elements of a padded sequence, n real elements of all sequences, H heads, Dh head width.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F

# On these devices attention is computed per sequence, without padding. On GPUs, where launch overhead dominates, it is
# one call on the padded batch.
PER_SEQUENCE_DEVICES = {"cpu"}
# Queries per block of local attention.
QUERY_BLOCK = 256
# The fused kernels of GPUs copy a bias in each call unless its rows start at multiples of this many elements.
BIAS_ALIGNMENT = 8

Nested = TypeVar("Nested")


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


def to_device(value: Nested, device: torch.device | str) -> Nested:
    """Copy the tensors of a value from the host to a device: to a GPU, in one copy without a host sync.

    Args:
        value: a tensor, a `RaggedLayout`, or a tuple or dataclass of such values and any others; several tensors must
            be integer or bool.
        device: device of the copies.
    Returns:
        The value with copied tensors.
    """
    if torch.device(device).type != "cuda":
        return _map_tensors(value, lambda tensor: tensor.to(device))
    tensors = _list_tensors(value)
    if len(tensors) == 1:
        return _map_tensors(value, lambda tensor: _copy_async(tensor, device))
    assert not any(tensor.is_floating_point() for tensor in tensors)
    packed = _copy_async(torch.cat([tensor.flatten().long() for tensor in tensors]), device)
    parts = iter(packed.split([tensor.numel() for tensor in tensors]))
    return _map_tensors(value, lambda tensor: next(parts).view(tensor.shape).to(tensor.dtype))


def _copy_async(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    if tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()  # from pageable memory, a copy is a host sync
    return tensor.to(device, non_blocking=True)


def _list_tensors(value: Any) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []

    def add(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    _map_tensors(value, add)
    return tensors


def _map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to the tensors of a value, see `to_device`."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, RaggedLayout):
        return value.map_tensors(function)
    if isinstance(value, tuple):
        return tuple(_map_tensors(item, function) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _map_tensors(item, function) for name, item in items.items()})
    return value


class RaggedLayout:
    """Layout of the real elements of a padded batch (B, N): the first `lengths[i]` of sequence i.

    It is built on the host; `to_device` copies it.

    Args:
        lengths: B numbers from 0 to N, on the host.
        size: N.
    Attributes:
        rows: (n,) index of each real element in the flattened batch.
        columns: (n,) its index in its sequence.
        mask: (B, N) bool.
        is_full: whether there is no padding.
    """

    def __init__(self, lengths: Sequence[int], size: int) -> None:
        self.lengths = list(lengths)
        self.size = size
        self.is_full = all(length == size for length in self.lengths)
        self.mask = torch.arange(size) < torch.tensor(self.lengths)[:, None]  # (B, N)
        self.rows = self.mask.view(-1).nonzero()[:, 0]
        self.columns = self.rows % size
        self._biases: dict[tuple[torch.dtype, int], torch.Tensor] = {}

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Return a copy whose tensors are those returned by the function."""
        layout = copy.copy(self)
        layout.mask = function(self.mask)
        layout.rows = function(self.rows)
        layout.columns = function(self.columns)
        layout._biases = {}
        return layout

    @classmethod
    def from_mask(cls, mask: torch.Tensor, name: str) -> Self:
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
        return cls(lengths.tolist(), mask.shape[1])

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, …) -> (n, …)."""
        x = x.flatten(0, 1)
        return x if self.is_full else unique_index_select(x, self.rows)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """(n, …) -> (B, N, …), zeros at padding."""
        B, N = len(self.lengths), self.size
        return (x if self.is_full else _Scatter.apply(x, self.rows, B * N)).view(B, N, *x.shape[1:])

    def row_indices(self, other: "RaggedLayout") -> torch.Tensor | None:
        """Return the rows of this layout's elements in `other`, which contains all: (n,) int on the host; None if
        both are equal.
        """
        if self.lengths == other.lengths:
            return None
        starts = torch.tensor([0, *other.lengths[:-1]]).cumsum(0)
        rows = [start + torch.arange(length) for start, length in zip(starts.tolist(), self.lengths)]
        return torch.cat(rows)

    def attention_bias(self, dtype: torch.dtype, causal_queries: int = 0) -> torch.Tensor:
        """Return the bias of attention scores with these elements as keys: 0 for real elements, -inf for padding.

        It is computed once for all layers.

        Args:
            dtype: dtype of the queries.
            causal_queries: number of queries, of which the i-th attends to the keys up to i; 0: all attend to all keys.
        Returns:
            (B, 1, 1, N), or (B, 1, causal_queries, N).
        """
        key = dtype, causal_queries
        if key not in self._biases:
            mask = self.mask[:, None, None, :]  # (B, 1, 1, N)
            if causal_queries:
                is_past = torch.ones(causal_queries, self.size, dtype=torch.bool, device=mask.device).tril()
                mask = mask & is_past  # (B, 1, queries, N)
            aligned = -(-self.size // BIAS_ALIGNMENT) * BIAS_ALIGNMENT
            bias = torch.zeros(*mask.shape[:-1], aligned, dtype=dtype, device=mask.device)[..., : self.size]
            self._biases[key] = bias.masked_fill_(~mask, float("-inf"))
        return self._biases[key]


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
    mask: torch.Tensor | None = None
    if radius is not None:
        mask = None if keys.is_full else keys.mask
    elif not keys.is_full and not (causal and queries.lengths == keys.lengths):  # there, padding is last
        mask = keys.attention_bias(q.dtype, queries.size if causal else 0)
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
    """Attention of padded sequences, or of one.

    Args:
        q: (B, H, N, Dh).
        k, v: (B, H, M, Dh).
        mask: with `radius`, (B, M) bool, True = real key; otherwise the bias of the scores, causality included; None
            without padding.
        causal, radius, dropout: see `varlen_attention`.
    Returns:
        (B, N, H, Dh)
    """
    if radius is not None:
        out = _local_attention(q, k, v, mask, radius, dropout)
    else:
        is_causal = causal and mask is None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, dropout_p=dropout)
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
