"""Beam search by the rule, line by line: no cache, no batch, plain lists. What the fast one must equal."""

import torch

from models.ragged import Ragged


@torch.no_grad()
def reference_search(model, frames, *, num_beams, max_length, min_length):
    """Search one video's caption.

    Args:
        model: `VTSumBLIP`.
        frames: (T, D) frame states.
        num_beams: K.
        max_length, min_length: limits in tokens, prompt included.
    Returns:
        list of ids: prompt, caption, [SEP] unless the limit was reached.
    """
    decoder, K, end = model.text_decoder, num_beams, model.tokenizer.end_id
    beams, finished = [(0.0, list(model.tokenizer.prompt_ids))], []
    while True:
        length, n, T = len(beams[0][1]), len(beams), len(frames)
        ids = torch.tensor([tokens for _, tokens in beams], device=frames.device)
        tokens, videos = Ragged([length] * n, length, frames.device), Ragged([T] * n, T, frames.device)
        states = tokens.unpack(decoder(ids.flatten(), tokens, tokens, frames.repeat(n, 1), videos))
        log_probs = decoder.logits(states[:, -1]).float().log_softmax(-1)
        if length < min_length:
            log_probs[:, end] = float("-inf")
        totals = log_probs + torch.tensor([score for score, _ in beams], device=frames.device)[:, None]
        best, places = totals.flatten().topk(2 * K)
        following = []
        for rank, (score, place) in enumerate(zip(best.tolist(), places.tolist())):
            caption, word = beams[place // log_probs.shape[1]][1], place % log_probs.shape[1]
            if word == end:
                if rank < K:
                    finished = _keep(finished, (score / length, caption), K)
            elif len(following) < K:
                following.append((score, [*caption, word]))
        beams = following
        if len(finished) == K and min(finished)[0] >= best[0].item() / length:
            break
        if length + 1 == max_length:
            for score, caption in beams:
                finished = _keep(finished, (score / len(caption), caption), K)
            break
    caption = max(finished, key=lambda hypothesis: hypothesis[0])[1]
    return caption + [end] * (len(caption) < max_length)


def _keep(finished, hypothesis, K):
    """Add a finished caption to the K best."""
    if len(finished) < K or hypothesis[0] > min(finished)[0]:
        finished = sorted([*finished, hypothesis], key=lambda h: h[0])[-K:]
    return finished
