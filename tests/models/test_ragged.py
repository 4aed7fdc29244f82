import dataclasses

import pytest
import torch

from models import ragged
from models.packed_linear import AVAILABLE, prepacked_linears
from models.ragged import RaggedLayout, to_device, unique_index_select, varlen_attention

LENGTHS, N = [5, 1, 9, 4], 9


@pytest.fixture
def layout():
    return RaggedLayout(LENGTHS, N)


def test_pack_and_unpack(layout):
    mask = torch.arange(N) < torch.tensor(LENGTHS)[:, None]
    x = torch.randn(4, N, 3, requires_grad=True)
    packed = layout.pack(x)
    assert torch.equal(packed, x[mask]) and torch.equal(layout.mask, mask)
    assert layout.columns.tolist() == [i for length in LENGTHS for i in range(length)]
    assert torch.equal(layout.unpack(packed), x * mask[..., None])
    weights = torch.randn(4, N, 3)
    (layout.unpack(packed * 2) * weights).sum().backward()
    assert torch.equal(x.grad, 2 * weights * mask[..., None])
    full = RaggedLayout([N] * 4, N)
    assert full.is_full and full.mask.all() and torch.equal(full.unpack(full.pack(x)), x)


def test_row_indices_of_a_shorter_layout(layout):
    shorter = RaggedLayout([3, 1, 0, 4], N)
    rows = shorter.row_indices(layout)
    x = torch.randn(19, 2, requires_grad=True)
    assert torch.equal(unique_index_select(x, rows), shorter.pack(layout.unpack(x)))
    unique_index_select(x, rows).sum().backward()
    assert torch.equal(x.grad[:, 0], torch.zeros(19).index_fill(0, rows, 1.0))
    assert layout.row_indices(RaggedLayout(LENGTHS, N)) is None


@pytest.mark.parametrize(("mask", "shape"), [([[1, 0, 1]], (1, 3)), ([[0, 0]], (1, 2)), ([[]], (1, 0))])
def test_padding_before_elements_raises(mask, shape):
    with pytest.raises(ValueError, match="frames: found an empty sequence, or padding before a real element"):
        RaggedLayout.from_mask(torch.tensor(mask).view(shape), "frames")


@pytest.mark.parametrize(
    ("options", "query_lengths"),
    [(dict(), LENGTHS), (dict(radius=2), LENGTHS), (dict(causal=True), LENGTHS), (dict(causal=True), [N] * 4)]
    + [(dict(), [2, 7, 3, 9])],
)
def test_attention_per_sequence_equals_padded_attention(layout, options, query_lengths, monkeypatch):
    """The implementations for CPU and GPU have the same results and gradients."""
    queries = RaggedLayout(query_lengths, N)
    q = torch.randn(len(queries.rows), 2, 8, requires_grad=True)
    k, v = (torch.randn(len(layout.rows), 2, 8, requires_grad=True) for _ in range(2))
    weights, results = torch.randn_like(q), []
    for per_sequence_devices in ({"cpu"}, set()):
        monkeypatch.setattr(ragged, "PER_SEQUENCE_DEVICES", per_sequence_devices)
        output = varlen_attention(q, k, v, queries, layout, **options)
        results.append((output, *torch.autograd.grad((output * weights).sum(), (q, k, v))))
    for per_sequence, padded in zip(*results):
        torch.testing.assert_close(per_sequence, padded)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A value with tensors of different kinds."""

    ids: torch.Tensor
    layout: RaggedLayout
    texts: list[str]
    targets: tuple[torch.Tensor | None, ...]


class CopiesOnHost:
    """Replaces the copy to a GPU by one on the host; `copies` lists the tensors."""

    def __init__(self, monkeypatch):
        self.copies = []
        monkeypatch.setattr(ragged, "_copy_async", self.copy)

    def copy(self, tensor, device):
        assert device == "cuda" and tensor.device.type == "cpu"
        self.copies.append(tensor)
        return tensor.clone()


@pytest.fixture(params=["cpu", "cuda"])
def copies_on(request, monkeypatch):
    """A device, and the copies to it; those to a GPU stay on the host."""
    return request.param, CopiesOnHost(monkeypatch).copies


def test_to_device_keeps_nested_values(layout, copies_on):
    """To a GPU, all tensors are one copy; values that are not tensors are the same objects."""
    device, copies = copies_on
    ids = torch.tensor([[3, -(2**31)], [2**40, 7], [0, 1]])
    targets = torch.tensor([[1, 0, 250]], dtype=torch.uint8), None, torch.tensor(5, dtype=torch.int32)
    strided = torch.arange(12).view(3, 4).T[1:]
    value = (Tokens(ids, layout, ["a", "b"], targets), (strided, torch.zeros(0, 3, dtype=torch.bool), "text", 2.5))
    moved, others = to_device(value, device)
    assert len(copies) == (device == "cuda")
    assert moved.texts is value[0].texts and others[2:] == ("text", 2.5) and moved.targets[1] is None
    actual = [moved.ids, moved.targets[0], moved.targets[2], *others[:2]]
    actual += [moved.layout.mask, moved.layout.rows, moved.layout.columns]
    expected = [ids, targets[0], targets[2], *value[1][:2], layout.mask, layout.rows, layout.columns]
    for tensor, original in zip(actual, expected, strict=True):
        assert tensor.dtype == original.dtype and tensor.shape == original.shape and torch.equal(tensor, original)
    assert type(moved) is Tokens and type(moved.layout) is RaggedLayout and type(others) is tuple
    assert moved.layout.lengths == LENGTHS and moved.layout.size == N and not moved.layout.is_full


def test_to_device_copies_one_tensor_of_any_dtype(copies_on):
    device, copies = copies_on
    x = torch.randn(2, 3)
    (moved,) = to_device((x,), device)
    assert torch.equal(moved, x) and moved.dtype == torch.float32 and len(copies) == (device == "cuda")
    assert to_device((None, "a"), "cpu") == (None, "a")
    assert to_device(x, "meta").device.type == "meta"


def test_several_float_tensors_are_not_copied_at_once(monkeypatch):
    CopiesOnHost(monkeypatch)
    with pytest.raises(AssertionError):
        to_device((torch.arange(3), torch.zeros(2)), "cuda")


@pytest.mark.parametrize("queries", [0, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_bias(layout, queries, dtype):
    """Layers share one bias, whose rows start at multiples of 8 elements; a copy on a device has its own."""
    bias = layout.attention_bias(dtype, queries)
    assert bias.shape == (4, 1, queries or 1, N) and bias.dtype == dtype
    for i, length in enumerate(LENGTHS):
        for query in range(queries or 1):
            num_keys = min(length, query + 1) if queries else length
            assert (bias[i, 0, query, :num_keys] == 0).all() and bias[i, 0, query, num_keys:].eq(-torch.inf).all()
    assert layout.attention_bias(dtype, queries) is bias
    assert layout.attention_bias(dtype, queries + 1) is not bias and layout.attention_bias(torch.float64) is not bias
    assert all(stride % 8 == 0 for stride in bias.stride()[:-1]) and bias.stride(-1) == 1
    copy = to_device(layout, "meta")
    assert copy.attention_bias(dtype, queries).device.type == "meta" and bias.device.type == "cpu"
    assert layout.attention_bias(dtype, queries) is bias


@pytest.mark.skipif(not AVAILABLE, reason="this torch has no oneDNN")
def test_prepacked_linears_equal_linear_and_are_restored():
    layers = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.GELU(), torch.nn.Linear(96, 7))
    x = torch.randn(3, 5, 64)
    expected = layers(x)
    with torch.no_grad(), prepacked_linears(layers):
        assert all("forward" in vars(layer) for layer in layers if isinstance(layer, torch.nn.Linear))
        torch.testing.assert_close(layers(x), expected)
        torch.testing.assert_close(layers(x[:1, :2]), expected[:1, :2])
    assert not any("forward" in vars(layer) for layer in layers)
    assert torch.equal(layers(x), expected)
    with prepacked_linears(layers.double()):
        assert layers(x.double()).dtype == torch.float64
