import pytest
import torch
from timm.models.vision_transformer import Block

from models import ragged
from models.temporal import HEAD_WIDTH, ContextAggregation, LayerNorm, TemporalTransformer
from tests.models.padded import through


def naive_attention(attention, x, seen):
    """Softmax attention with a dense (B, T, T) table of who sees whom, by the book."""
    B, T, D = x.shape
    heads = D // HEAD_WIDTH
    q, k, v = attention.qkv(x).view(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1)) / (D // heads) ** 0.5
    probs = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1).nan_to_num(0.0)
    return attention.proj((probs @ v).transpose(1, 2).reshape(B, T, D))


@pytest.fixture
def frames():
    torch.manual_seed(0)
    lengths = torch.tensor([70, 33, 1])
    return torch.randn(3, 70, 128), torch.arange(70) < lengths[:, None]


def test_temporal_transformer_is_timms_blocks(frames):
    x, mask = frames
    tt = TemporalTransformer(128, 2).eval()
    blocks = [Block(128, 2, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm).eval() for _ in range(2)]
    for ours, theirs in zip(tt.blocks, blocks):
        theirs.load_state_dict(ours.state_dict())
    found = through(tt, x, mask)
    for i, length in enumerate(mask.sum(1).tolist()):
        y = x[i : i + 1, :length]
        for block in blocks:
            y = block(y)
        torch.testing.assert_close(found[i, :length], tt.norm(y)[0], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("depth", [1, 3])
def test_initial_weights(depth):
    torch.manual_seed(0)
    tt = TemporalTransformer(256, depth)
    weights = torch.cat([m.weight.detach().flatten() for m in tt.modules() if isinstance(m, torch.nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert all((m.bias == 0).all() for m in tt.modules() if isinstance(m, torch.nn.Linear))
    assert len(tt.blocks) == depth


@pytest.mark.parametrize("kernel_size", [1, 3, 4, 5, 9, 33, 500])
@pytest.mark.parametrize("query_block", [16, 256])
def test_context_aggregation_equals_dense_attention(frames, kernel_size, query_block, monkeypatch):
    monkeypatch.setattr(ragged, "QUERY_BLOCK", query_block)
    x, mask = frames
    ca = ContextAggregation(128, kernel_size).eval()
    distance = (torch.arange(70)[:, None] - torch.arange(70)).abs()
    seen = (distance <= kernel_size // 2) & mask[:, None, :] & mask[:, :, None]
    expected = x + naive_attention(ca.attn, ca.norm1(x), seen)
    torch.testing.assert_close(through(ca, x, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_context_aggregation_has_finite_gradients_beside_padding(frames):
    x, mask = frames
    x.requires_grad_()
    ca = ContextAggregation(128, 3)
    through(ca, x, mask)[mask].square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in ca.parameters())
    assert (x.grad[~mask] == 0).all()
