"""Beam search at the published size, beside transformers' `generate` on the same weights."""

import torch

from benchmarks.machine import bandwidth, in_turns, peak_rate, seconds
from benchmarks.peers import Peer
from benchmarks.reference_search import reference_search
from benchmarks.workload import draw_lengths, draw_videos, full_size_model
from utils.device import PRECISIONS, autocast


def lively(model):
    """Widen the random weights, so that captions are not one word again and again."""
    for parameter in model.text_decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def search(model, embeddings, mask, *, num_beams, max_length, precision="fp32"):
    """Captions of exactly `max_length` tokens: none ends early. (B, n) ids."""
    how = dict(num_beams=num_beams, max_length=max_length, min_length=max_length)
    with autocast(precision, embeddings.device):
        frames = model.encode(embeddings, mask)
        return model.generate_ids(*frames, sample=False, top_p=0.9, repetition_penalty=1.0, **how)


def needed(model, B, T, K, L):
    """Operations and bytes that a search cannot do without: every token once, every weight once per step."""
    c, D = model.text_decoder.config, model.position_embeddings.embedding_dim
    W, layers, prompt = c.hidden_size, c.num_hidden_layers, len(model.tokenizer.prompt_ids)
    per_token = layers * (6 * W * W + 2 * W * c.intermediate_size) + W * W + W * c.vocab_size
    per_frame = 16 * D * D + layers * 2 * D * W  # TT, CA, keys and values of cross-attention
    steps = L - prompt - 1
    tokens = B * (K * steps + prompt)
    seen = sum(prompt + t for t in range(steps))  # self-attention reads so many places of each beam
    attention = layers * 2 * W * B * K * (seen + steps * T)
    operations = 2 * (tokens * per_token + B * T * per_frame + attention)
    cached = layers * 2 * W * B * (K * seen + steps * T)
    return operations, (steps * per_token + cached) * 4


def run(device, *, B=16, T=120, K=3, L=48, rounds=2, references=1, model_options=None):
    """Compare with transformers' generate; a few videos also with the slow reference search."""
    model = lively(full_size_model(**(model_options or {})).to(device))
    peer = Peer(model).to(device).eval()
    embeddings, mask, _ = draw_videos([T] * B)
    embeddings = embeddings.to(device)
    ids = dict(end_id=model.tokenizer.end_id, pad_id=model.tokenizer.pad_id)

    def theirs():
        how = dict(num_beams=K, max_length=L, min_length=L)
        return peer.generate(embeddings, mask.to(device), model.tokenizer.prompt_ids, **how, **ids)

    def ours():
        return search(model, embeddings, mask, num_beams=K, max_length=L)

    found, expected = ours(), theirs()
    same = (found == expected).all(1).float().mean().item()
    frames, _ = model.encode(embeddings, mask)
    for i in range(references):
        slow = reference_search(model, frames[i], num_beams=K, max_length=L, min_length=L)
        assert device.type != "cpu" or found[i].tolist() == slow, f"video {i}: the captions differ"
    # On a GPU, where sums are taken in another order each time, two beams may be as good as each other.
    assert same == 1 or (device.type != "cpu" and same > 0.8), f"{same:.0%} of transformers' captions are the same"
    mine, other, ratio = in_turns(ours, theirs, device, rounds)
    operations, size = needed(model, B, T, K, L)
    limit = max(operations / peak_rate(device, torch.float32), size / bandwidth(device))
    row = dict(
        what=f"beam search, B = {B}, K = {K}, T = {T}, {L} tokens",
        project=mine,
        peer=other,
        unit="s",
        peer_is="transformers' generate",
        ratio=ratio,
        of_limit=limit / mine,
        limit_is="operations at the rate of a large product, or bytes at memory's",
        check=f"{same:.0%} of {B} captions are transformers', {references} compared with the reference search",
    )
    return [row]


def test_split(device, *, count=4000, batch_size=64, L=48, precision="bf16", model_options=None):
    """Decode as many videos as the test split has, by length, in low precision: a GPU's work."""
    model = lively(full_size_model(**(model_options or {})).to(device))
    lengths = sorted(draw_lengths(count, seed=2)[0].tolist())
    batches = [draw_videos(lengths[i : i + batch_size], seed=i)[:2] for i in range(0, count, batch_size)]

    def decode(precision):
        how = dict(num_beams=3, max_length=L, precision=precision)
        return [row for e, m in batches for row in search(model, e.to(device), m, **how).tolist()]

    low, full = decode(precision), decode("fp32")
    same = sum(a == b for a, b in zip(low, full)) / count
    mine, other = (seconds(lambda p=p: decode(p), device, 1) for p in (precision, "fp32"))
    assert PRECISIONS[precision] is not None
    row = dict(what=f"{count} videos decoded, {precision}", project=mine, peer=other, unit="s", peer_is="float32")
    return [row | dict(ratio=other / mine, check=f"{same:.1%} of the captions are those of float32")]
