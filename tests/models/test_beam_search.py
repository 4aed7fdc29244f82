"""The beam search against a slow one that follows the rule line by line."""

import pytest
import torch

from models import beam_search as search
from models.beam_search import apply_repetition_penalty, keep_top
from tests.models.padded import caption_states

END = 102


def reference_search(model, frames, frame_mask, *, num_beams, max_length, min_length):
    """Search one video: plain lists, no cache, no batch."""
    decoder, prompt, K = model.text_decoder, model.tokenizer.prompt_ids, num_beams
    beams, finished = [(0.0, list(prompt))], []
    while True:
        length = len(beams[0][1])
        ids = torch.tensor([tokens for _, tokens in beams])
        everything = torch.ones_like(ids, dtype=torch.bool)
        n = len(beams)
        states = caption_states(decoder, ids, everything, frames.expand(n, -1, -1), frame_mask.expand(n, -1))
        log_probs = decoder.logits(states[:, -1]).log_softmax(-1)
        if length < min_length:
            log_probs[:, END] = float("-inf")
        totals = log_probs + torch.tensor([score for score, _ in beams])[:, None]
        best, places = totals.flatten().topk(2 * K)
        following = []
        for rank, (score, place) in enumerate(zip(best.tolist(), places.tolist())):
            tokens, word = beams[place // log_probs.shape[1]][1], place % log_probs.shape[1]
            if word == END:
                if rank < K:
                    finished = keep(finished, (score / length, tokens), K)
            elif len(following) < K:
                following.append((score, [*tokens, word]))
        beams = following
        if len(finished) == K and min(finished)[0] >= best[0].item() / length:
            break
        if length + 1 == max_length:
            for score, tokens in beams:
                finished = keep(finished, (score / len(tokens), tokens), K)
            break
    tokens = max(finished, key=lambda hypothesis: hypothesis[0])[1]
    return tokens + [END] * (len(tokens) < max_length)


def keep(finished, hypothesis, K):
    if len(finished) < K or hypothesis[0] > min(finished)[0]:
        finished = sorted([*finished, hypothesis], key=lambda h: h[0])[-K:]
    return finished


def strip(row):
    return [i for i in row if i != 0]


@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
@pytest.mark.parametrize("end_bias", [2.0, 4.0, 7.0])
@pytest.mark.parametrize("check_every", [1, 8])
@torch.no_grad()
def test_equals_the_reference_search(small_model, random_videos, num_beams, end_bias, check_every, monkeypatch):
    monkeypatch.setattr(search, "check_every", lambda device: check_every)
    model = small_model(scale=0.2, end_bias=end_bias)
    lengths = [13, 4, 9, 1, 13]
    embeddings, mask, _ = random_videos(lengths, seed=num_beams)
    limits = dict(num_beams=num_beams, max_length=20, min_length=6)
    frames, frame_mask = model.encode(embeddings, mask)
    found = model.generate_ids(frames, frame_mask, sample=False, top_p=0.9, repetition_penalty=1.0, **limits)
    for i, length in enumerate(lengths):
        alone = model.encode(embeddings[i : i + 1, :length], mask[i : i + 1, :length])
        assert strip(found[i].tolist()) == reference_search(model, *alone, **limits)
    if end_bias == 7.0 and num_beams > 1:
        assert any(END in row for row in found[:, :8].tolist()), (
            "no caption ended early: the case tests less than it says"
        )


@pytest.mark.parametrize("min_length", [0, 8, 15])
def test_limits_of_length(small_model, random_videos, min_length):
    model = small_model(scale=0.2, end_bias=9.0)
    embeddings, mask, _ = random_videos([9, 5])
    frames = model.encode(embeddings, mask)
    how = dict(num_beams=3, max_length=16, min_length=min_length, top_p=0.9)
    for sample in (False, True):
        ids = model.generate_ids(*frames, sample=sample, repetition_penalty=1.0, **how)
        ends = [row.index(END) if END in row else 16 for row in ids.tolist()]
        assert all(min_length <= end <= 16 for end in ends), ends
    with pytest.raises(ValueError, match="max_length: found 4, expected 5 to 512"):
        model.generate(embeddings, mask, max_length=4)


def test_sampling_is_seeded(small_model, random_videos):
    model = small_model(scale=0.2)
    embeddings, mask, _ = random_videos([9, 5])

    def draw(seed, **how):
        torch.manual_seed(seed)
        return model.generate(embeddings, mask, sample=True, **how)[0]

    assert draw(0) == draw(0) != draw(1)
    assert draw(0) == draw(0, repetition_penalty=1.1) != draw(0, repetition_penalty=5.0)


def test_keep_top():
    probs = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04], [0.2, 0.2, 0.21, 0.19, 0.2]])
    kept = torch.isfinite(keep_top(probs.log(), 50, 0.85))
    assert kept.tolist() == [[True, True, True, False, False], [True, True, True, True, True]]
    assert torch.isfinite(keep_top(probs.log(), 2, 1.0))[0].tolist() == [True, True, False, False, False]
    assert torch.isfinite(keep_top(probs.log(), 50, 0.0)).sum(1).tolist() == [1, 1]


def test_repetition_penalty():
    scores = apply_repetition_penalty(torch.tensor([[2.0, -2.0, 3.0]]), torch.tensor([[0, 1, 1]]), 2.0)
    assert scores.tolist() == [[1.0, -4.0, 3.0]]
