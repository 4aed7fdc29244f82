import pytest
import torch

from models import ragged
from models.packed_linear import AVAILABLE, prepacked_linears
from models.ragged import Ragged, unique_index_select, varlen_attention

LENGTHS, N = [5, 1, 9, 4], 9


@pytest.fixture
def places():
    return Ragged(LENGTHS, N, "cpu")


def test_packing_and_back(places):
    mask = torch.arange(N) < torch.tensor(LENGTHS)[:, None]
    x = torch.randn(4, N, 3, requires_grad=True)
    packed = places.pack(x)
    assert torch.equal(packed, x[mask]) and torch.equal(places.mask, mask)
    assert places.columns.tolist() == [i for length in LENGTHS for i in range(length)]
    assert torch.equal(places.unpack(packed), x * mask[..., None])
    weights = torch.randn(4, N, 3)
    (places.unpack(packed * 2) * weights).sum().backward()
    assert torch.equal(x.grad, 2 * weights * mask[..., None])
    full = Ragged([N] * 4, N, "cpu")
    assert full.mask is None and torch.equal(full.unpack(full.pack(x)), x)


def test_rows_of_rows(places):
    fewer = Ragged([3, 1, 0, 4], N, "cpu")
    rows = fewer.row_indices(places)
    x = torch.randn(19, 2, requires_grad=True)
    assert torch.equal(unique_index_select(x, rows), fewer.pack(places.unpack(x)))
    unique_index_select(x, rows).sum().backward()
    assert torch.equal(x.grad[:, 0], torch.zeros(19).index_fill(0, rows, 1.0))
    assert places.row_indices(Ragged(LENGTHS, N, "cpu")) is None


@pytest.mark.parametrize(("mask", "shape"), [([[1, 0, 1]], (1, 3)), ([[0, 0]], (1, 2)), ([[]], (1, 0))])
def test_padding_must_lie_behind(mask, shape):
    with pytest.raises(ValueError, match="frames: found an empty sequence or padding before a real element"):
        Ragged.of(torch.tensor(mask).view(shape), "frames", "cpu")


@pytest.mark.parametrize(
    ("how", "query_lengths"),
    [(dict(), LENGTHS), (dict(radius=2), LENGTHS), (dict(causal=True), LENGTHS), (dict(causal=True), [N] * 4)]
    + [(dict(), [2, 7, 3, 9])],
)
def test_one_by_one_equals_one_padded_call(places, how, query_lengths, monkeypatch):
    """What a CPU does against what a GPU does, and the gradients."""
    queries = Ragged(query_lengths, N, "cpu")
    q = torch.randn(len(queries.rows), 2, 8, requires_grad=True)
    k, v = (torch.randn(len(places.rows), 2, 8, requires_grad=True) for _ in range(2))
    weights, results = torch.randn_like(q), []
    for one_by_one in ({"cpu"}, set()):
        monkeypatch.setattr(ragged, "PER_SEQUENCE_DEVICES", one_by_one)
        found = varlen_attention(q, k, v, queries, places, **how)
        results.append((found, *torch.autograd.grad((found * weights).sum(), (q, k, v))))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not AVAILABLE, reason="this torch has no oneDNN")
def test_prepacked_linears_are_linear_and_let_go():
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
