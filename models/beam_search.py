"""Beam search and nucleus sampling over the caption decoder.

The rules are those of transformers 4.15, with which the published numbers were computed; later versions score finished
captions differently. Axes: B videos, K beams, V vocabulary, L length limit.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch

from models.ragged import to_device
from models.text_decoder import TextDecoder

# Initial score of all beams but the first, which duplicate it; as in transformers.
DUPLICATE_SCORE = -1e9
# Finished videos are removed from the batch once they are this fraction of it: removing fewer is not worth the copies.
MIN_FINISHED_FRACTION = 1 / 8


def apply_repetition_penalty(scores: torch.Tensor, tokens: torch.Tensor, penalty: float) -> torch.Tensor:
    """Penalize the tokens (…, n) of a caption so far: divide positive scores (…, V) by `penalty`, multiply others."""
    if penalty == 1.0:
        return scores
    selected = scores.gather(-1, tokens)
    return scores.scatter(-1, tokens, torch.where(selected < 0, selected * penalty, selected / penalty))


class Candidates(NamedTuple):
    """The 2K best continuations of each video's beams, best first.

    Attributes:
        scores: (B, 2K) float, sum of log-probabilities.
        beams: (B, 2K) int, the beam that each continues.
        next_tokens: (B, 2K) int, the token that it appends.
        is_end: (B, 2K) bool, whether that is [SEP].
    """

    scores: torch.Tensor
    beams: torch.Tensor
    next_tokens: torch.Tensor
    is_end: torch.Tensor

    @classmethod
    def select(cls, scores: torch.Tensor, log_probs: torch.Tensor, end_id: int) -> Self:
        """Select from the beams' scores (B, K) and the log-probabilities of their next tokens (B, K, V)."""
        K = log_probs.shape[1]
        log_probs, tokens = log_probs.topk(2 * K)  # (B, K, 2K) of each beam
        best, index = (scores[..., None] + log_probs).flatten(1).topk(2 * K)  # (B, 2K)
        next_tokens = tokens.flatten(1).gather(1, index)
        return cls(best, index // (2 * K), next_tokens, next_tokens == end_id)

    def continuing(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return scores, beams and tokens of the K best that do not end, best first: (B, K) each."""
        count = self.scores.shape[1]
        rank = torch.arange(count, device=self.scores.device) + count * self.is_end
        kept = rank.topk(count // 2, largest=False).indices  # (B, K)
        return self.scores.gather(1, kept), self.beams.gather(1, kept), self.next_tokens.gather(1, kept)


class BeamHypotheses:
    """The K best finished captions of each video.

    Attributes:
        scores: (B, K) float64, sum of log-probabilities / length; -inf for missing captions.
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
            scores: (B, K) float64, as the attribute; -inf for no caption.
            tokens: (B, K, L) int.
            length: number of tokens of each caption.
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


@dataclasses.dataclass
class Beams:
    """The beams of the videos in the batch, from which videos are removed when their search is done.

    Attributes:
        videos: (B,) int, indices of the videos.
        scores: (B, K) float, sums of log-probabilities.
        tokens: (B, K, L) int.
        finished: the best finished captions.
        done: (B,) bool, whether no beam can exceed the finished captions any more.
    """

    videos: torch.Tensor
    scores: torch.Tensor
    tokens: torch.Tensor
    finished: BeamHypotheses
    done: torch.Tensor

    @classmethod
    def start(
        cls, B: int, K: int, prompt_ids: Sequence[int], max_length: int, pad_id: int, device: torch.device
    ) -> Self:
        """Start K equal beams per video; only the first one is continued in the first step."""
        tokens = torch.full((B, K, max_length), pad_id, dtype=torch.long, device=device)
        tokens[:, :, : len(prompt_ids)] = to_device(torch.tensor(prompt_ids), device)
        scores = torch.full((B, K), DUPLICATE_SCORE, device=device)
        scores[:, 0] = 0.0
        return cls(
            videos=torch.arange(B, device=device),
            scores=scores,
            tokens=tokens,
            finished=BeamHypotheses(B, K, max_length, device),
            done=torch.zeros(B, dtype=torch.bool, device=device),
        )

    def finish(self, candidates: Candidates, length: int) -> None:
        """Add the captions of `length` tokens that candidates end.

        A [SEP] among the first K candidates finishes its beam; one further down is dropped.
        """
        K = self.scores.shape[1]
        mean_scores = candidates.scores.double() / length  # (B, 2K)
        is_finished = candidates.is_end[:, :K] & ~self.done[:, None]
        parents = self.tokens.gather(1, _expand_to(candidates.beams[:, :K], self.tokens))  # (B, K, L)
        self.finished.add(mean_scores[:, :K].masked_fill(~is_finished, float("-inf")), parents, length)
        # -inf while fewer than K captions are finished.
        self.done = self.done | (self.finished.scores[:, -1] >= mean_scores[:, 0])

    def extend(self, candidates: Candidates, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the candidates that do not end; returns their beams and tokens, (B, K) int each."""
        self.scores, beams, next_tokens = candidates.continuing()
        self.tokens = self.tokens.gather(1, _expand_to(beams, self.tokens))
        self.tokens[:, :, length] = next_tokens
        return beams, next_tokens

    def finish_at_limit(self, length: int) -> None:
        """Add the captions of `length` tokens that have reached the limit."""
        mean_scores = self.scores.double() / length
        self.finished.add(mean_scores.masked_fill(self.done[:, None], float("-inf")), self.tokens, length)

    def select_videos(self, rows: torch.Tensor) -> None:
        """Keep these videos only, (B',) int."""
        self.videos = self.videos[rows]
        self.scores = self.scores[rows]
        self.tokens = self.tokens[rows]
        self.done = self.done[rows]
        self.finished.select_videos(rows)


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
        min_length: [SEP] is forbidden below this many tokens, prompt included.
        end_id: id of [SEP].
        pad_id: id of [PAD].
        repetition_penalty: > 1 makes repeated tokens less likely.
    Returns:
        (B, n) int with n ≤ max_length: prompt, caption, [SEP] unless the limit is reached, [PAD].
    Source: beam search of transformers 4.15, without early stopping, length penalty 1.
    """
    B, K, P, device = len(frames), num_beams, len(prompt_ids), frames.device
    captions = torch.full((B, max_length), pad_id, dtype=torch.long, device=device)
    lengths = torch.zeros(B, dtype=torch.long, device=device)
    beams = Beams.start(B, K, prompt_ids, max_length, pad_id, device)
    # All beams of a video are equal before the first choice: the decoder runs once per video.
    cache, logits = decoder.start(prompt_ids, frames, frame_mask, num_beams=K)
    logits = logits[:, None].expand(-1, K, -1)  # (B, K, V)

    for length in range(P, max_length):
        log_probs = logits.float().log_softmax(-1)
        log_probs = apply_repetition_penalty(log_probs, beams.tokens[:, :, :length], repetition_penalty)
        if length < min_length:
            log_probs[:, :, end_id] = float("-inf")
        candidates = Candidates.select(beams.scores, log_probs, end_id)
        beams.finish(candidates, length)
        parents, next_tokens = beams.extend(candidates, length)
        if length + 1 == max_length:
            break
        cache.reorder_beams(parents)

        if length > P and (length - P) % steps_between_checks(device) == 0:
            num_videos, num_done = len(beams.videos), int(beams.done.sum())  # host sync
            if num_done == num_videos:
                break
            if num_done >= MIN_FINISHED_FRACTION * num_videos:
                order = beams.done.long().argsort(stable=True)  # open videos first
                open_rows, done_rows = order.split([num_videos - num_done, num_done])
                captions[beams.videos[done_rows]] = beams.finished.tokens[done_rows, 0]
                lengths[beams.videos[done_rows]] = beams.finished.lengths[done_rows, 0]
                beams.select_videos(open_rows)
                cache.select_videos(open_rows)
                next_tokens = next_tokens[open_rows]
        logits = decoder.step(next_tokens, cache)

    beams.finish_at_limit(length + 1)
    captions[beams.videos] = beams.finished.tokens[:, 0]
    lengths[beams.videos] = beams.finished.lengths[:, 0]
    return append_eos(captions, lengths, end_id, pad_id)


def _expand_to(index: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Expand an index (B, K) of captions to (B, K, L), for gathering from `tokens` (B, …, L)."""
    return index[..., None].expand(-1, -1, tokens.shape[2])


def steps_between_checks(device: torch.device) -> int:
    """Return the number of steps between checks for finished videos: on a GPU each check is a host sync."""
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
    """Mask logits (rows, V), except the `top_k` best and, of these, the fewest with total probability `top_p`."""
    worst_kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    logits = logits.masked_fill(logits < worst_kept, float("-inf"))
    ordered, order = logits.sort(descending=True)
    probs = ordered.softmax(-1)
    dropped = probs.cumsum(-1) - probs > top_p  # keeps the token that crosses the bound
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
    """Sample one caption per video from torch's global generator.

    Args:
        top_p: total probability of the tokens to sample from, of the `top_k` most likely ones.
        top_k: maximum number of tokens to sample from.
        decoder, frames, frame_mask, prompt_ids, max_length, min_length, end_id, pad_id, repetition_penalty: as in
            `beam_search`.
    Returns:
        As `beam_search`.
    """
    B, P, device = len(frames), len(prompt_ids), frames.device
    cache, logits = decoder.start(prompt_ids, frames, frame_mask, num_beams=1)  # (B, V)
    tokens = torch.full((B, max_length), pad_id, dtype=torch.long, device=device)
    tokens[:, :P] = to_device(torch.tensor(prompt_ids), device)
    lengths = torch.full((B,), max_length, device=device)
    for length in range(P, max_length):
        logits = apply_repetition_penalty(logits.float(), tokens[:, :length], repetition_penalty)
        if length < min_length:
            logits[:, end_id] = float("-inf")
        next_tokens = top_k_top_p_filter(logits, top_k, top_p).softmax(-1).multinomial(1)  # (B, 1)
        tokens[:, length] = next_tokens[:, 0]
        is_finished = (next_tokens[:, 0] == end_id) & (lengths == max_length)
        lengths = lengths.masked_fill(is_finished, length)
        if length + 1 == max_length:
            break
        if length > P and (length - P) % steps_between_checks(device) == 0 and bool((lengths < max_length).all()):
            break
        logits = decoder.step(next_tokens, cache)[:, 0]
    return append_eos(tokens, lengths, end_id, pad_id)
