import numpy as np
import pytest
import torch

from metrics import vt_clip_score
from metrics.alignment import clip_similarity, cross_f_clip, f_clip


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


def best_matches(a, b):
    """Mean over the rows of a of the best cosine, at least 0, with a row of b."""
    return sum(max(max(0.0, float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))) for y in b) for x in a) / len(a)


def explicit_f1(a, b):
    if not len(a) or not len(b):
        return 0.0
    precision, recall = best_matches(a, b), best_matches(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_f_clip_and_cross_f_clip_equal_explicit_loops():
    rng = np.random.default_rng(0)
    frames, selected = rng.standard_normal((20, 6)), rng.random(20) < 0.3
    keyframes = (rng.random((4, 20)) < 0.2).astype(float)
    keyframes[3] = 0  # an annotator without key-frames counts as 0
    references, generated = [rng.standard_normal((3, 6)), rng.standard_normal((1, 6))], rng.standard_normal((2, 6))
    by_annotator = [explicit_f1(frames[selected], frames[row.astype(bool)]) for row in keyframes]
    actual = f_clip(clip_similarity(frames, frames), selected, keyframes)
    assert actual == pytest.approx(np.mean(by_annotator)) and by_annotator[3] == 0
    with_text = np.mean([explicit_f1(frames[selected], text) for text in references])
    with_generated = np.mean([explicit_f1(frames[row.astype(bool)], generated) for row in keyframes])
    actual = cross_f_clip(frames, selected, keyframes, references, generated)
    assert actual == pytest.approx((with_text + with_generated) / 2)


def test_f_clip_of_the_key_frames_is_1_and_of_nothing_0():
    frames = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    keyframes = np.zeros((2, 10))
    keyframes[:, 3:5] = 1
    similarity = clip_similarity(frames, frames)
    assert f_clip(similarity, keyframes[0].astype(bool), keyframes) == pytest.approx(1)
    assert f_clip(similarity, np.zeros(10, bool), keyframes) == 0
    assert cross_f_clip(frames, np.zeros(10, bool), keyframes, [np.zeros((0, 4))], np.zeros((0, 4))) == 0
    opposite = clip_similarity(*[np.array([[1.0, 0.0], [-1.0, 0.0]])] * 2)
    assert f_clip(opposite, np.array([True, False]), np.array([[0, 1]])) == 0  # negative cosines count as 0
