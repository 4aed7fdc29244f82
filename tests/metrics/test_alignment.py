import pytest
import torch

from metrics import vt_clip_score


def test_by_hand():
    torch.manual_seed(0)
    lengths = [20, 3, 1]
    saliency, vision, text = torch.randn(3, 20), torch.randn(3, 20, 8), torch.randn(3, 8)
    found = vt_clip_score(saliency, lengths, vision, text)
    for i, length in enumerate(lengths):
        ranked = sorted(range(length), key=lambda t: -saliency[i, t].item())[: max(1, int(0.15 * length))]
        mean = torch.stack([vision[i, t] for t in ranked]).mean(0)
        expected = (mean / mean.norm()) @ (text[i] / text[i].norm())
        assert found[i].item() == pytest.approx(expected.item(), abs=1e-6)


def test_frames_are_ranked_exactly_and_padding_never_counts():
    """The released script adds 1e4 in float32 and so cannot tell scores 0.0001 apart."""
    saliency = torch.tensor([[0.5000, 0.5001, 9.0]])
    vision = torch.eye(3)[None]
    assert vt_clip_score(saliency, [2], vision, torch.eye(3)[1:2]).item() == pytest.approx(1.0)
