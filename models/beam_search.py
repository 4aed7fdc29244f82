"""Beam search and nucleus sampling over the caption decoder.

The rules are those of transformers 4.15, which the published numbers were made with; its later versions score
finished captions differently. Axes: B videos, K beams, V vocabulary, L length limit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.text_decoder import TextDecoder

# Score of the K - 1 beams that duplicate the first one at the start, as in transformers.
DUPLICATE_SCORE = -1e9
# Finished videos are removed from the batch when they are at least this part of it: fewer are not worth the copies.
MIN_FINISHED = 1 / 8


def apply_repetition_penalty(scores: torch.Tensor, tokens: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make tokens (…, n) that a caption already has less likely: scores (…, V) divided by or times `penalty`."""
    if penalty == 1.0:
        return scores
    selected = scores.gather(-1, tokens)
    return scores.scatter(-1, tokens, torch.where(selected < 0, selected * penalty, selected / penalty))


class Candidates(NamedTuple):
    """The 2K best continuations of each video's beams, best first.

    Attributes:
        scores: (B, 2K) float, sum of log-probabilities.
        beams: (B, 2K) int, the beam that each continues.
        words: (B, 2K) int, the token that it appends.
        is_end: (B, 2K) bool, whether that is [SEP].
    """

    scores: torch.Tensor
    beams: torch.Tensor
    words: torch.Tensor
    is_end: torch.Tensor

    @classmethod
    def of(cls, scores: torch.Tensor, log_probs: torch.Tensor, end_id: int) -> "Candidates":
        """Select from the beams' scores (B, K) and the log-probabilities of their next tokens (B, K, V)."""
        K, V = log_probs.shape[1:]
        best, index = (scores[..., None] + log_probs).flatten(1).topk(2 * K)  # (B, 2K)
        words = index % V
        return cls(best, index // V, words, words == end_id)

    def continuing(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, beams and words of the K best that do not end, in order: (B, K) each."""
        count = self.scores.shape[1]
        rank = torch.arange(count, device=self.scores.device) + count * self.is_end
        kept = rank.topk(count // 2, largest=False).indices  # (B, K)
        return self.scores.gather(1, kept), self.beams.gather(1, kept), self.words.gather(1, kept)


class BeamHypotheses:
    """The K best finished captions of each video.

    Attributes:
        scores: (B, K) float64, sum of log-probabilities / length; -inf where there are fewer than K.
        tokens: (B, K, L) int.
        lengths: (B, K) int, prompt included, [SEP] not.
    """

    def __init__(self, B: int, K: int, max_length: int, device: torch.device) -> None:
        self.scores = torch.full((B, K), float("-inf"), dtype=torch.float64, device=device)
        self.tokens = torch.zeros(B, K, max_length, dtype=torch.long, device=device)
        self.lengths = torch.zeros(B, K, dtype=torch.long, device=device)

    def add(self, scores: torch.Tensor, tokens: torch.Tensor, length: int) -> None:
        """Add K captions per video and keep the best K.

        Args:
            scores: (B, K) float64, as the attribute; -inf where there is no caption.
            tokens: (B, K, L) int.
            length: of all of them.
        """
        K = scores.shape[1]
        self.scores, kept = torch.cat([self.scores, scores], 1).topk(K)  # (B, K)
        lengths = torch.cat([self.lengths, torch.full_like(self.lengths, length)], 1)
        self.lengths = lengths.gather(1, kept)
        tokens = torch.cat([self.tokens, tokens], 1)
        self.tokens = tokens.gather(1, _expand_to(kept, tokens))

    def select_videos(self, videos: torch.Tensor) -> None:
        """Keep these videos only, (B',) int."""
        self.scores = self.scores[videos]
        self.tokens = self.tokens[videos]
        self.lengths = self.lengths[videos]


@torch.no_grad()
def beam_search(
    decoder: TextDecoder,
    frames: torch.Tensor,
    frame_mask: torch.Tensor,
    prompt_ids: Sequence[int],
    *,
    num_beams: int,
    max_length: int,
    min_length: int,
    end_id: int,
    pad_id: int,
    repetition_penalty: float = 1.0,
) -> torch.Tensor:
    """Find each video's best caption.

    Args:
        decoder: scores the tokens.
        frames: (B, T, D) frame states.
        frame_mask: (B, T) bool.
        prompt_ids: ids that every caption begins with.
        num_beams: K.
        max_length: limit in tokens, prompt included.
        min_length: [SEP] is forbidden below so many tokens, prompt included.
        end_id: id of [SEP].
        pad_id: id of [PAD].
        repetition_penalty: > 1 makes tokens that a caption already has less likely.
    Returns:
        (B, n) int with n ≤ max_length: prompt, caption, [SEP] unless the limit was reached, then [PAD].
    Source: beam search of transformers 4.15, without early stopping, length penalty 1.
    """
    B, K, P, device = len(frames), num_beams, len(prompt_ids), frames.device
    captions = torch.full((B, max_length), pad_id, dtype=torch.long, device=device)
    lengths = torch.zeros(B, dtype=torch.long, device=device)
    videos = torch.arange(B, device=device)  # indices of those still in the batch
    done = torch.zeros(B, dtype=torch.bool, device=device)
    finished = BeamHypotheses(B, K, max_length, device)
    tokens = captions[:, None].repeat(1, K, 1)  # (B, K, L)
    tokens[:, :, :P] = torch.tensor(prompt_ids, device=device)
    # All beams of a video are the same before the first choice: one decoder run serves all, and only one is continued.
    scores = torch.full((B, K), DUPLICATE_SCORE, device=device)
    scores[:, 0] = 0.0
    cache, logits = decoder.start(prompt_ids, frames, frame_mask, num_beams=K, max_length=max_length)
    logits = logits[:, None].expand(-1, K, -1)  # (B, K, V)

    for length in range(P, max_length):
        log_probs = logits.float().log_softmax(-1)
        log_probs = apply_repetition_penalty(log_probs, tokens[:, :, :length], repetition_penalty)
        if length < min_length:
            log_probs[:, :, end_id] = float("-inf")
        candidates = Candidates.of(scores, log_probs, end_id)

        # A [SEP] among the first K candidates finishes its beam; one further down is dropped.
        mean_scores = candidates.scores.double() / length
        is_finished = candidates.is_end[:, :K] & ~done[:, None]
        parents = tokens.gather(1, _expand_to(candidates.beams[:, :K], tokens))
        finished.add(mean_scores[:, :K].masked_fill(~is_finished, float("-inf")), parents, length)
        done = done | (finished.scores[:, -1] >= mean_scores[:, 0])  # -inf while fewer than K are finished

        scores, beams, words = candidates.continuing()
        tokens = tokens.gather(1, _expand_to(beams, tokens))
        tokens[:, :, length] = words
        if length + 1 == max_length:
            break
        cache.reorder_beams(beams)

        if (length - P) % check_every(device) == 0:
            done_rows = done.nonzero()[:, 0]  # host sync
            if len(done_rows) == len(videos):
                break
            if len(done_rows) >= MIN_FINISHED * len(videos):
                captions[videos[done_rows]] = finished.tokens[done_rows, 0]
                lengths[videos[done_rows]] = finished.lengths[done_rows, 0]
                open_rows = (~done).nonzero()[:, 0]
                videos, done = videos[open_rows], done[open_rows]
                scores, tokens, words = scores[open_rows], tokens[open_rows], words[open_rows]
                finished.select_videos(open_rows)
                cache.select_videos(open_rows)
        logits = decoder.step(words, cache)

    mean_scores = scores.double() / (length + 1)
    finished.add(mean_scores.masked_fill(done[:, None], float("-inf")), tokens, length + 1)
    captions[videos] = finished.tokens[:, 0]
    lengths[videos] = finished.lengths[:, 0]
    return append_eos(captions, lengths, end_id, pad_id)


def _expand_to(index: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Index (B, K) of captions -> (B, K, L), to gather them from `tokens` (B, …, L)."""
    return index[..., None].expand(-1, -1, tokens.shape[2])


def check_every(device: torch.device) -> int:
    """Steps between two checks for finished videos: on a GPU each check is a host sync."""
    return 8 if device.type == "cuda" else 1


def append_eos(tokens: torch.Tensor, lengths: torch.Tensor, end_id: int, pad_id: int) -> torch.Tensor:
    """Append [SEP] to each caption shorter than the limit, pad with [PAD], and cut columns that are padding in all.

    Args:
        tokens: (B, L) int.
        lengths: (B,) int.
        end_id: id of [SEP].
        pad_id: id of [PAD].
    Returns:
        (B, n) int with n ≤ L.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    tokens = tokens.masked_fill(positions >= lengths[:, None], pad_id)
    tokens = tokens.masked_fill(positions == lengths[:, None], end_id)
    return tokens[:, : int(lengths.max()) + 1]


def top_k_top_p_filter(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Set logits (rows, V) to -inf but for the `top_k` best and, of these, the fewest with `top_p` in total."""
    worst_kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    logits = logits.masked_fill(logits < worst_kept, float("-inf"))
    ordered, order = logits.sort(descending=True)
    probs = ordered.softmax(-1)
    dropped = probs.cumsum(-1) - probs > top_p  # the one that crosses the bound stays
    return logits.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), float("-inf"))


@torch.no_grad()
def nucleus_sample(
    decoder: TextDecoder,
    frames: torch.Tensor,
    frame_mask: torch.Tensor,
    prompt_ids: Sequence[int],
    *,
    top_p: float,
    max_length: int,
    min_length: int,
    end_id: int,
    pad_id: int,
    top_k: int = 50,
    repetition_penalty: float = 1.1,
) -> torch.Tensor:
    """Draw one caption per video from torch's global generator.

    Args:
        top_p: total probability of the tokens to draw from, of the `top_k` most likely ones.
        top_k: tokens to draw from, at most.
        decoder, frames, frame_mask, prompt_ids, max_length, min_length, end_id, pad_id, repetition_penalty: as in
            `beam_search`, and so is the result.
    """
    B, P, device = len(frames), len(prompt_ids), frames.device
    cache, logits = decoder.start(prompt_ids, frames, frame_mask, num_beams=1, max_length=max_length)  # (B, V)
    tokens = torch.full((B, max_length), pad_id, dtype=torch.long, device=device)
    tokens[:, :P] = torch.tensor(prompt_ids, device=device)
    lengths = torch.full((B,), max_length, device=device)
    for length in range(P, max_length):
        logits = apply_repetition_penalty(logits.float(), tokens[:, :length], repetition_penalty)
        if length < min_length:
            logits[:, end_id] = float("-inf")
        words = top_k_top_p_filter(logits, top_k, top_p).softmax(-1).multinomial(1)  # (B, 1)
        tokens[:, length] = words[:, 0]
        is_finished = (words[:, 0] == end_id) & (lengths == max_length)
        lengths = lengths.masked_fill(is_finished, length)
        if length + 1 == max_length:
            break
        if (length - P) % check_every(device) == 0 and bool((lengths < max_length).all()):
            break
        logits = decoder.step(words, cache)[:, 0]
    return append_eos(tokens, lengths, end_id, pad_id)
