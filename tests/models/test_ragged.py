import pytest
import torch

from models import ragged
from models.packed_linear import AVAILABLE, prepacked_linears
from models.ragged import RaggedLayout, unique_index_select, varlen_attention

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
