"""Beam search without a cache or a batch, in plain lists: the reference for `models.beam_search`.

Axes: K beams, T frames, D width, L tokens, V tokens of the vocabulary.
"""

import torch

from benchmarks.workload import get_blip_decoder
from models.ragged import RaggedLayout, to_device
from models.vtsum_blip import VTSumBLIP

Hypothesis = tuple[float, list[int]]  # score, ids


@torch.no_grad()
def reference_search(
    model: VTSumBLIP, frames: torch.Tensor, *, num_beams: int, max_length: int, min_length: int
) -> list[int]:
    """Search one video's caption.

    Args:
        model: has a caption decoder.
        frames: (T, D) frame states.
        num_beams: K.
        max_length: limit in tokens, prompt included.
        min_length: [SEP] is forbidden below this many tokens, prompt included.
    Returns:
        ids: prompt, caption, [SEP] unless the limit was reached.
    """
    tokenizer = get_blip_decoder(model).tokenizer
    end_id = tokenizer.end_id
    beams: list[Hypothesis] = [(0.0, list(tokenizer.prompt_ids))]
    finished: list[Hypothesis] = []
    while True:
        length = len(beams[0][1])
        log_probs = _next_log_probs(model, frames, [ids for _, ids in beams])  # (K, V)
        if length < min_length:
            log_probs[:, end_id] = float("-inf")
        beam_scores = torch.tensor([score for score, _ in beams], dtype=log_probs.dtype, device=frames.device)
        scores, indices = (log_probs + beam_scores[:, None]).flatten().topk(2 * num_beams)
        next_beams: list[Hypothesis] = []
        for rank, (score, index) in enumerate(zip(scores.tolist(), indices.tolist())):
            beam, token_id = divmod(index, log_probs.shape[1])
            ids = beams[beam][1]
            if token_id == end_id:
                if rank < num_beams:
                    finished = _keep_best(finished, (score / length, ids), num_beams)
            elif len(next_beams) < num_beams:
                next_beams.append((score, [*ids, token_id]))
        beams = next_beams
        if len(finished) == num_beams and min(finished)[0] >= scores[0].item() / length:
            break
        if length + 1 == max_length:
            for score, ids in beams:
                finished = _keep_best(finished, (score / len(ids), ids), num_beams)
            break
    _, caption = max(finished, key=lambda hypothesis: hypothesis[0])
    return caption + [end_id] * (len(caption) < max_length)


def _next_log_probs(model: VTSumBLIP, frames: torch.Tensor, sequences: list[list[int]]) -> torch.Tensor:
    """Log-probabilities of the token after each of K sequences of L ids: (K, V)."""
    decoder = get_blip_decoder(model)
    K, L, T = len(sequences), len(sequences[0]), len(frames)
    ids = torch.tensor(sequences, device=frames.device)  # (K, L)
    tokens, videos = to_device((RaggedLayout([L] * K, L), RaggedLayout([T] * K, T)), frames.device)
    states = decoder(ids.flatten(), tokens, tokens, None, frames.repeat(K, 1), videos)  # (K·L, D)
    return decoder.logits(tokens.unpack(states)[:, -1]).log_softmax(-1)


def _keep_best(finished: list[Hypothesis], hypothesis: Hypothesis, count: int) -> list[Hypothesis]:
    """Add a finished caption to the best `count`."""
    if len(finished) < count or hypothesis[0] > min(finished)[0]:
        finished = sorted([*finished, hypothesis], key=lambda h: h[0])[-count:]
    return finished
