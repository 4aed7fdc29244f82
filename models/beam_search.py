"""Beam search and nucleus sampling over the caption decoder.

The rules are those of transformers 4.15, which the published numbers were made with; today's `generate` scores
finished captions differently. Axes: B videos, K beams, V vocabulary, L length limit.
"""

import torch


def apply_repetition_penalty(scores, tokens, penalty):
    """Make the tokens (…, n) that are already there less likely: scores (…, V) divided by or times `penalty`."""
    if penalty == 1.0:
        return scores
    seen = scores.gather(-1, tokens)
    return scores.scatter(-1, tokens, torch.where(seen < 0, seen * penalty, seen / penalty))


class Hypotheses:
    """The K best finished captions of each video."""

    def __init__(self, B, K, max_length, device):
        self.scores = torch.full((B, K), float("-inf"), dtype=torch.float64, device=device)
        self.tokens = torch.zeros(B, K, max_length, dtype=torch.long, device=device)
        self.lengths = torch.zeros(B, K, dtype=torch.long, device=device)

    def add(self, scores, tokens, length):
        """Offer K captions per video.

        Args:
            scores: (B, K) float64, sum of log-probabilities / length; -inf where there is no caption.
            tokens: (B, K, L) int.
            length: tokens of each of them, prompt included, [SEP] not.
        """
        K = scores.shape[1]
        self.scores, kept = torch.cat([self.scores, scores], 1).topk(K)  # (B, K)
        lengths = torch.cat([self.lengths, torch.full_like(self.lengths, length)], 1)
        self.lengths = lengths.gather(1, kept)
        tokens = torch.cat([self.tokens, tokens], 1)
        self.tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))

    def keep(self, kept):
        """Go on with these videos only."""
        self.scores, self.tokens, self.lengths = self.scores[kept], self.tokens[kept], self.lengths[kept]

    def best_of(self, rows, videos, captions, lengths):
        """Write the best captions of the videos in these rows to where `videos` says they belong."""
        captions[videos[rows]], lengths[videos[rows]] = self.tokens[rows, 0], self.lengths[rows, 0]


@torch.no_grad()
def beam_search(
    decoder,
    frames,
    frame_mask,
    prompt_ids,
    *,
    num_beams,
    max_length,
    min_length,
    end_id,
    pad_id,
    repetition_penalty=1.0,
):
    """Find each video's best caption.

    Args:
        decoder: `TextDecoder`.
        frames: (B, T, D) frame states.
        frame_mask: (B, T) bool.
        prompt_ids: ids that every caption begins with.
        num_beams: K.
        max_length, min_length: limits in tokens, prompt included; [SEP] is forbidden below `min_length`.
        end_id, pad_id: ids of [SEP] and [PAD].
        repetition_penalty: > 1 makes tokens that are already there less likely.
    Returns:
        (B, n) int with n ≤ max_length: prompt, caption, [SEP] unless the limit was reached, then [PAD].
    Source: beam search of transformers 4.15, without early stopping, length penalty 1.
    """
    B, K, P, device = len(frames), num_beams, len(prompt_ids), frames.device
    tokens = torch.full((B, K, max_length), pad_id, dtype=torch.long, device=device)
    tokens[:, :, :P] = torch.tensor(prompt_ids, device=device)
    finished = Hypotheses(B, K, max_length, device)
    done = torch.zeros(B, dtype=torch.bool, device=device)
    videos = torch.arange(B, device=device)  # those still in the batch
    captions, lengths = torch.zeros_like(tokens[:, 0]), torch.zeros_like(videos)
    # All beams of a video are the same before the first choice: only the first may go on, and one run serves all.
    scores = torch.full((B, K), -1e9, device=device)
    scores[:, 0] = 0.0
    cache, logits = decoder.start(prompt_ids, frames, frame_mask, num_beams=K, max_length=max_length)
    logits = logits[:, None].expand(-1, K, -1)  # (B, K, V)

    for length in range(P, max_length):
        log_probs = logits.float().log_softmax(-1)
        log_probs = apply_repetition_penalty(log_probs, tokens[:, :, :length], repetition_penalty)
        if length < min_length:
            log_probs[:, :, end_id] = float("-inf")
        V = log_probs.shape[-1]
        totals = scores[..., None] + log_probs
        best, places = totals.flatten(1).topk(2 * K)  # (B, 2K), best first
        beams, words = places // V, places % V
        ends = words == end_id

        # A [SEP] among the first K places finishes its beam; one further down is dropped.
        ending = ends[:, :K] & ~done[:, None]
        ratio = best.double() / length
        finished.add(
            ratio[:, :K].masked_fill(~ending, float("-inf")),
            tokens.gather(1, beams[:, :K, None].expand(-1, -1, max_length)),
            length,
        )
        done = done | (finished.scores[:, -1] >= ratio[:, 0])  # -inf while fewer than K are finished

        # The best K others go on, in order.
        order = torch.arange(2 * K, device=device) + 2 * K * ends
        chosen = order.topk(K, largest=False).indices  # (B, K)
        scores, beams, words = best.gather(1, chosen), beams.gather(1, chosen), words.gather(1, chosen)
        tokens = tokens.gather(1, beams[..., None].expand(-1, -1, max_length))
        tokens[:, :, length] = words
        if length + 1 == max_length:
            break
        cache.follow(beams)
        if (length - P) % check_every(device) == 0:
            left = done.nonzero()[:, 0]  # waits for the device
            if len(left) == len(videos):
                break
            if 8 * len(left) >= len(videos):  # fewer are not worth the copies
                finished.best_of(left, videos, captions, lengths)
                kept = (~done).nonzero()[:, 0]
                videos, done = videos[kept], done[kept]
                scores, tokens, words = scores[kept], tokens[kept], words[kept]
                finished.keep(kept)
                cache.keep(kept)
        logits = decoder.step(words, cache)

    open_scores = scores.double() / (length + 1)
    finished.add(open_scores.masked_fill(done[:, None], float("-inf")), tokens, length + 1)
    finished.best_of(torch.arange(len(videos), device=device), videos, captions, lengths)
    return close_captions(captions, lengths, end_id, pad_id)


def check_every(device):
    """Steps between two looks at which videos are done: on a GPU each look waits for all that was asked of it."""
    return 8 if device.type == "cuda" else 1


def close_captions(tokens, lengths, end_id, pad_id):
    """Put [SEP] behind each caption that leaves room for it and [PAD] behind that; cut what is padding in all."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    tokens = tokens.masked_fill(places >= lengths[:, None], pad_id).masked_fill(places == lengths[:, None], end_id)
    return tokens[:, : int(lengths.max()) + 1]


def keep_top(logits, top_k, top_p):
    """Set logits (rows, V) to -inf but for the `top_k` best and, of these, the fewest that hold `top_p` together."""
    worst_kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    logits = logits.masked_fill(logits < worst_kept, float("-inf"))
    ordered, places = logits.sort(descending=True)
    probs = ordered.softmax(-1)
    dropped = probs.cumsum(-1) - probs > top_p  # the one that crosses the bound stays
    return logits.masked_fill(torch.zeros_like(dropped).scatter(1, places, dropped), float("-inf"))


@torch.no_grad()
def nucleus_sample(
    decoder,
    frames,
    frame_mask,
    prompt_ids,
    *,
    top_p,
    max_length,
    min_length,
    end_id,
    pad_id,
    top_k=50,
    repetition_penalty=1.1,
):
    """Draw one caption per video from torch's global generator; arguments and result as in `beam_search`."""
    B, P, device = len(frames), len(prompt_ids), frames.device
    cache, logits = decoder.start(prompt_ids, frames, frame_mask, num_beams=1, max_length=max_length)  # (B, V)
    tokens = torch.full((B, max_length), pad_id, dtype=torch.long, device=device)
    tokens[:, :P] = torch.tensor(prompt_ids, device=device)
    lengths = torch.full((B,), max_length, device=device)
    for length in range(P, max_length):
        logits = apply_repetition_penalty(logits.float(), tokens[:, :length], repetition_penalty)
        if length < min_length:
            logits[:, end_id] = float("-inf")
        words = keep_top(logits, top_k, top_p).softmax(-1).multinomial(1)  # (B, 1)
        tokens[:, length] = words[:, 0]
        ended = (words[:, 0] == end_id) & (lengths == max_length)
        lengths = lengths.masked_fill(ended, length)
        if length + 1 == max_length:
            break
        if (length - P) % check_every(device) == 0 and bool((lengths < max_length).all()):
            break
        logits = decoder.step(words, cache)[:, 0]
    return close_captions(tokens, lengths, end_id, pad_id)
