"""Beam search against a slow reference implementation."""

import pytest
import torch

from benchmarks.reference_search import reference_search
from models import beam_search as search
from models.beam_search import apply_repetition_penalty, top_k_top_p_filter
from models.caption_decoder import GenerationOptions

END = 102


def strip_padding(row):
    return [i for i in row if i != 0]


@pytest.mark.parametrize("end_bias", [2.0, 4.0, 7.0])
@pytest.mark.parametrize(("num_beams", "steps_between_checks"), [(1, 1), (2, 1), (3, 1), (3, 8), (5, 1)])
@torch.no_grad()
def test_beam_search_equals_the_reference_search(
    small_model, random_videos, num_beams, end_bias, steps_between_checks, monkeypatch
):
    monkeypatch.setattr(search, "steps_between_checks", lambda device: steps_between_checks)
    model = small_model(scale=0.2, end_bias=end_bias).double()  # in float32, rounding decides between close beams
    lengths = [13, 4, 9, 1, 13]
    embeddings, mask, _ = random_videos(lengths, seed=num_beams)
    embeddings = embeddings.double()
    limits = dict(num_beams=num_beams, max_length=20, min_length=6)
    frames, frame_mask = model.encode(embeddings, mask)
    ids = model.text_decoder.generate_ids(frames, frame_mask, GenerationOptions(**limits))
    for i, length in enumerate(lengths):
        single, _ = model.encode(embeddings[i : i + 1, :length], mask[i : i + 1, :length])
        assert strip_padding(ids[i].tolist()) == reference_search(model, single[0], **limits)
    if end_bias == 7.0 and num_beams > 1:
        assert any(END in row for row in ids[:, :8].tolist()), (
            "no caption ended early, so this case is weaker than intended"
        )


@pytest.mark.parametrize("min_length", [0, 8, 15])
def test_generated_lengths_are_within_limits(small_model, random_videos, min_length):
    model = small_model(scale=0.2, end_bias=9.0)
    embeddings, mask, _ = random_videos([9, 5])
    frames = model.encode(embeddings, mask)
    for sample in (False, True):
        options = GenerationOptions(sample=sample, max_length=16, min_length=min_length)
        ids = model.text_decoder.generate_ids(*frames, options)
        ends = [row.index(END) if END in row else 16 for row in ids.tolist()]
        assert all(min_length <= end <= 16 for end in ends), ends
    with pytest.raises(ValueError, match="max_length: found 4, expected 5 to 512"):
        model.generate(embeddings, mask, max_length=4)


def test_sampling_is_seeded(small_model, random_videos):
    model = small_model(scale=0.2)
    embeddings, mask, _ = random_videos([9, 5])

    def draw(seed, **options):
        torch.manual_seed(seed)
        return model.generate(embeddings, mask, sample=True, **options)[0]

    assert draw(0) == draw(0) != draw(1)
    assert draw(0) == draw(0, repetition_penalty=1.1) != draw(0, repetition_penalty=5.0)


def test_top_k_top_p_filter():
    probs = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04], [0.2, 0.2, 0.21, 0.19, 0.2]])
    kept = torch.isfinite(top_k_top_p_filter(probs.log(), 50, 0.85))
    assert kept.tolist() == [[True, True, True, False, False], [True, True, True, True, True]]
    assert torch.isfinite(top_k_top_p_filter(probs.log(), 2, 1.0))[0].tolist() == [True, True, False, False, False]
    assert torch.isfinite(top_k_top_p_filter(probs.log(), 50, 0.0)).sum(1).tolist() == [1, 1]


def test_repetition_penalty():
    scores = apply_repetition_penalty(torch.tensor([[2.0, -2.0, 3.0]]), torch.tensor([[0, 1, 1]]), 2.0)
    assert scores.tolist() == [[1.0, -4.0, 3.0]]
