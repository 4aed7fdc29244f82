import pytest
import torch
from timm.models.vision_transformer import Block

from models import ragged
from models.temporal import HEAD_WIDTH, ContextAggregation, LayerNorm, TemporalTransformer
from tests.helpers.padded import run_padded


def dense_attention(attention, x, visible):
    """Compute softmax attention with a dense (B, T, T) visibility mask."""
    B, T, D = x.shape
    heads = D // HEAD_WIDTH
    q, k, v = attention.qkv(x).view(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1)) / (D // heads) ** 0.5
    probs = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1).nan_to_num(0.0)
    return attention.proj((probs @ v).transpose(1, 2).reshape(B, T, D))


@pytest.fixture
def frames():
    torch.manual_seed(0)
    lengths = torch.tensor([70, 33, 1])
    return torch.randn(3, 70, 128), torch.arange(70) < lengths[:, None]


def test_temporal_transformer_equals_timm_blocks(frames):
    x, mask = frames
    tt = TemporalTransformer(128, 2).eval()
    blocks = [Block(128, 2, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm).eval() for _ in range(2)]
    for block, timm_block in zip(tt.blocks, blocks):
        timm_block.load_state_dict(block.state_dict())
    output = run_padded(tt, x, mask)
    for i, length in enumerate(mask.sum(1).tolist()):
        expected = x[i : i + 1, :length]
        for block in blocks:
            expected = block(expected)
        torch.testing.assert_close(output[i, :length], tt.norm(expected)[0], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("depth", [1, 3])
def test_initial_weights(depth):
    torch.manual_seed(0)
    tt = TemporalTransformer(256, depth)
    weights = torch.cat(
        [module.weight.detach().flatten() for module in tt.modules() if isinstance(module, torch.nn.Linear)]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert all((module.bias == 0).all() for module in tt.modules() if isinstance(module, torch.nn.Linear))
    assert len(tt.blocks) == depth


@pytest.mark.parametrize("kernel_size", [1, 3, 4, 5, 9, 33, 500])
@pytest.mark.parametrize("query_block", [16, 256])
def test_context_aggregation_equals_dense_attention(frames, kernel_size, query_block, monkeypatch):
    monkeypatch.setattr(ragged, "QUERY_BLOCK", query_block)
    x, mask = frames
    ca = ContextAggregation(128, kernel_size).eval()
    distance = (torch.arange(70)[:, None] - torch.arange(70)).abs()
    visible = (distance <= kernel_size // 2) & mask[:, None, :] & mask[:, :, None]
    expected = x + dense_attention(ca.attn, ca.norm1(x), visible)
    torch.testing.assert_close(run_padded(ca, x, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_context_aggregation_has_finite_gradients_with_padding(frames):
    x, mask = frames
    x.requires_grad_()
    ca = ContextAggregation(128, 3)
    run_padded(ca, x, mask)[mask].square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in ca.parameters())
    assert (x.grad[~mask] == 0).all()
