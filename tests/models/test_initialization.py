"""Initial weights have the distributions of the published implementation."""

import pytest
import scipy.stats
import torch

from models.vtsum_blip import VTSumBLIP, v2vt_sum


@pytest.fixture(scope="module")
def parameters(bert_vocabulary):
    """Parameters of the full-size model by name."""
    torch.manual_seed(0)
    return dict(v2vt_sum("vtsum_blip_tt_ca", tokenizer=str(bert_vocabulary)).named_parameters())


def assert_normal(values, std, cut=None):
    """Check mean, deviation and extremes; `cut` is the bound of a truncated normal distribution."""
    values = values.detach().flatten().double() / std
    n = len(values)
    assert abs(values.mean().item()) < 5 / n**0.5
    assert values.std().item() == pytest.approx(1, abs=5 / (2 * n) ** 0.5)
    # The maximum of n absolute normal values is within these quantiles with a probability of 0.998.
    low, high = (scipy.stats.norm.isf((1 - p ** (1 / n)) / 2) for p in (0.001, 0.999))
    assert low < values.abs().max().item() < high
    assert cut is None or values.abs().max().item() <= cut / std


def test_position_table_is_standard_normal(parameters):
    assert_normal(parameters["position_embeddings.weight"], 1.0)


def test_saliency_head(parameters):
    """Weight N(0, 0.02²), bias U(-1 / √D, 1 / √D)."""
    assert_normal(parameters["vsum_head.0.weight"], 0.02)
    assert abs(parameters["vsum_head.0.bias"].item()) <= 768**-0.5
    biases = [VTSumBLIP(width=64, tt_depth=0).vsum_head[0].bias.item() * 8 for _ in range(400)]
    assert max(map(abs, biases)) <= 1 and scipy.stats.kstest(biases, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("part", ["tt.blocks.0.", "local_atten_head."])
def test_temporal_layers(parameters, part):
    """Truncated normal weights of std 0.02, cut at ±2, which no value reaches."""
    kinds = split_kinds(parameters, part)
    assert_normal(kinds["weight"], 0.02, cut=2.0)
    assert not kinds["bias"].any() and (kinds["norm weight"] == 1).all() and not kinds["norm bias"].any()


def test_caption_decoder(parameters):
    """N(0, 0.02²) for linear layers and embeddings, including that of [PAD]."""
    kinds = split_kinds(parameters, "text_decoder.")
    assert_normal(kinds["weight"], 0.02)
    assert not kinds["bias"].any() and (kinds["norm weight"] == 1).all() and not kinds["norm bias"].any()
    words = parameters["text_decoder.bert.embeddings.word_embeddings.weight"]
    assert_normal(words[0], 0.02)
    assert_normal(parameters["text_decoder.bert.embeddings.position_embeddings.weight"], 0.02)


def split_kinds(parameters, prefix):
    """Concatenate the parameters of each kind: weight, bias, norm weight, norm bias."""
    parts = {"weight": [], "bias": [], "norm weight": [], "norm bias": []}
    for name, value in parameters.items():
        if name.startswith(prefix):
            kind = "bias" if name.endswith("bias") else "weight"
            parts[f"norm {kind}" if "norm" in name.lower() else kind].append(value.detach().flatten())
    return {kind: torch.cat(values) for kind, values in parts.items()}
