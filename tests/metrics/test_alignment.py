import pytest
import torch

from metrics import vt_clip_score


def test_vt_clip_score_equals_an_explicit_loop():
    torch.manual_seed(0)
    lengths = [20, 3, 1]
    saliency, vision, text = torch.randn(3, 20), torch.randn(3, 20, 8), torch.randn(3, 8)
    scores = vt_clip_score(saliency, lengths, vision, text)
    for i, length in enumerate(lengths):
        ranked = sorted(range(length), key=lambda frame: -saliency[i, frame].item())[: max(1, int(0.15 * length))]
        mean = torch.stack([vision[i, frame] for frame in ranked]).mean(0)
        expected = (mean / mean.norm()) @ (text[i] / text[i].norm())
        assert scores[i].item() == pytest.approx(expected.item(), abs=1e-6)


def test_frames_are_ranked_exactly_and_padding_is_ignored():
    """The released script adds 1e4 in float32, which makes scores that differ by 0.0001 equal."""
    saliency = torch.tensor([[0.5000, 0.5001, 9.0]])
    vision = torch.eye(3)[None]
    assert vt_clip_score(saliency, [2], vision, torch.eye(3)[1:2]).item() == pytest.approx(1.0)
