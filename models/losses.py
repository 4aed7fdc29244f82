"""The training losses: key-frames and caption of VTSUM-BLIP, and VT-CLIP's.

Axes: B videos, R annotators, T frames, L text tokens, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F

SMOOTHING = 0.1
SMOOTHING_SCOPES = ("published", "scored")
MAX_LOGITS = 2**24  # of the vocabulary in memory at a time: 64 MB in float32
# Gradients of the n positions are scaled to about 2 ** 4, see `_WeightedNLL`.
LOSS_SCALE_BITS = 4
# A frequent word's sum of these over its positions may exceed float16's 65504, a 64th of it does not.
FP16_SUM_DIVISOR = 64
HARD_NEGATIVES = 6  # r = 0 … 5


def cross_entropy_keyframe_loss(saliency: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the binary cross-entropy against every annotator over all positions, padded ones included.

    Binary cross-entropy is linear in its label, so one pass against the annotators' mean gives the average over
    the annotators.

    Args:
        saliency: (B, T) logits.
        labels: (B, R, T) in {0, 1}.
        mask: (B, T) in {0, 1}, 1 = real frame.
    Returns:
        () float.
    Source: the released implementation; dividing by B·R·T rather than by the real frames is QUIRK-1.
    """
    importance = labels.to(saliency.dtype).mean(dim=1)  # (B, T)
    loss = F.binary_cross_entropy_with_logits(saliency, importance, reduction="none")
    return (loss * mask).mean()  # QUIRK-1: padded positions count in the divisor


def l2_keyframe_loss(saliency: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the squared error of the sigmoid against every annotator over the real frames.

    A label of 0 or 1 equals its square, so one pass against the annotators' mean m gives the average over the
    annotators: the mean of (p - y)² is p² - 2 p m + m.

    Args and Returns: as in `cross_entropy_keyframe_loss`.
    """
    importance, p = labels.to(saliency.dtype).mean(dim=1), saliency.sigmoid()  # (B, T)
    return ((p.square() + importance * (1 - 2 * p)) * mask).sum() / mask.sum()


def caption_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    scored: torch.Tensor,
    smoothing_scope: str = "published",
) -> torch.Tensor:
    """Label-smoothed negative log-likelihood of the next token, output layer included.

    The logits over the vocabulary and their gradients are computed, used and freed chunk by chunk: in addition to
    the inputs and their gradients, `MAX_LOGITS` logits are in memory.

    Args:
        states: (n, D) float, inputs of the output layer, one row per position.
        weight: (V, D) of the output layer.
        bias: (V,) of the output layer.
        targets: (n,) int, the next token of each position.
        scored: (n,) bool; False for padding and for the prompt.
        smoothing_scope: "published" averages the smoothing term over all n positions, which should be the padded
            batch's B·(L-1), as PyTorch 1.10 did with ignored targets (QUIRK-2); "scored" averages both terms over the
            scored positions, and the others may be left out.
    Returns:
        () float32: 0.9 · likelihood term + 0.1 · smoothing term.
    """
    is_scored = scored.to(torch.promote_types(states.dtype, torch.float32))
    nll_weight = is_scored / is_scored.sum()
    # QUIRK-2: padding and prompt take part
    smoothing_weight = nll_weight if smoothing_scope == "scored" else torch.full_like(nll_weight, 1 / len(targets))
    nll_weight, smoothing_weight = (1 - SMOOTHING) * nll_weight, SMOOTHING * smoothing_weight
    needs_gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (states, weight, bias))
    return _WeightedNLL.apply(states, weight, bias, targets, nll_weight, smoothing_weight, needs_gradients)


class _WeightedNLL(torch.autograd.Function):
    """Sum over positions of nll_weight · (-log p of the target) + smoothing_weight · (mean over V of -log p).

    The gradient with respect to the logits is known as soon as p is (`_gradient_of_logits_`), so the forward pass
    computes all gradients, chunk by chunk, and the backward pass multiplies them by the gradient of the loss.

    Until then they are multiplied by `loss_scale`. The weights of n positions are about 1 / n each, too small for
    float16; a power of two between 16 n and 32 n brings them to about 16, exactly.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        targets: torch.Tensor,
        nll_weight: torch.Tensor,
        smoothing_weight: torch.Tensor,
        needs_gradients: bool,
    ) -> torch.Tensor:
        device, n, V = states.device.type, len(targets), len(weight)
        compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        loss_scale = 2.0 ** (n.bit_length() + LOSS_SCALE_BITS)
        loss = torch.zeros((), dtype=nll_weight.dtype, device=nll_weight.device)
        gradients = ()
        if needs_gradients:
            gradients = torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias)
        with torch.autocast(device, enabled=False):
            x, w, b = states.to(compute_dtype), weight.to(compute_dtype), bias.to(compute_dtype)
            rows_per_chunk = max(1, MAX_LOGITS // V)
            for start in range(0, n, rows_per_chunk):
                rows = slice(start, min(start + rows_per_chunk, n))
                target, chunk_weights = targets[rows, None], (nll_weight[rows, None], smoothing_weight[rows, None])
                log_p = F.linear(x[rows], w, b).to(nll_weight.dtype).log_softmax(-1)  # (rows, V)
                loss -= _weighted_log_likelihood(log_p, target, *chunk_weights)
                if needs_gradients:
                    of_logits = _gradient_of_logits_(log_p, target, *chunk_weights, loss_scale)
                    _accumulate_gradients(gradients, of_logits, x, w, rows)
        ctx.loss_scale = loss_scale
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = gradient / ctx.loss_scale
        return *(gradient * part for part in ctx.saved_tensors), None, None, None, None


def _weighted_log_likelihood(
    log_p: torch.Tensor, target: torch.Tensor, nll_weight: torch.Tensor, smoothing_weight: torch.Tensor
) -> torch.Tensor:
    """log_p (rows, V), the others (rows, 1) -> () weighted log-likelihood."""
    return (nll_weight * log_p.gather(1, target) + smoothing_weight * log_p.mean(1, keepdim=True)).sum()


def _gradient_of_logits_(
    log_p: torch.Tensor,
    target: torch.Tensor,
    nll_weight: torch.Tensor,
    smoothing_weight: torch.Tensor,
    loss_scale: float,
) -> torch.Tensor:
    """loss_scale · ((nll_weight + smoothing_weight) · p - nll_weight · [target] - smoothing_weight / V).

    Overwrites log_p (rows, V) with the result.
    """
    p = log_p.exp_()
    gradient = p.mul_((nll_weight + smoothing_weight) * loss_scale).sub_(smoothing_weight * (loss_scale / p.shape[1]))
    return gradient.scatter_add_(1, target, -loss_scale * nll_weight)


def _accumulate_gradients(
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    of_logits: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    rows: slice,
) -> None:
    """Add a chunk's part to the gradients of states (n, D), weight (V, D) and bias (V,), in place.

    Args:
        gradients: of states, weight and bias.
        of_logits: (rows, V), gradient of the chunk's logits.
        x: (n, D) states in the dtype of the computation.
        w: (V, D) weight in the dtype of the computation.
        rows: the chunk.
    """
    of_states, of_weight, of_bias = gradients
    of_bias += of_logits.sum(0)
    of_logits = of_logits.to(w.dtype)
    of_states[rows] = of_logits @ w
    if w.dtype == of_weight.dtype:
        of_weight.addmm_(of_logits.t(), x[rows])
    elif w.dtype == torch.float16:
        of_weight.add_(of_logits.t() @ (x[rows] / FP16_SUM_DIVISOR), alpha=FP16_SUM_DIVISOR)
    else:
        of_weight += of_logits.t() @ x[rows]


def next_token_targets(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift a batch of captions into targets and mark those that are scored.

    Args:
        input_ids: (B, L) int.
        attention_mask: (B, L) bool, True = real token.
        prompt_length: leading targets that belong to the prompt, `len(tokenizer(prompt).input_ids) - 1`;
            counted from the first input token, which no position predicts.
    Returns:
        targets (B, L - 1) int, scored (B, L - 1) bool.
    """
    positions = torch.arange(1, input_ids.shape[1], device=input_ids.device)
    return input_ids[:, 1:], attention_mask[:, 1:] & (positions >= prompt_length)


def vt_clip_loss(
    keyframes: torch.Tensor, others: torch.Tensor, has_others: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrast videos with texts, with hard negatives from each video itself.

    Args:
        keyframes: (N, C) mean feature of each video's key-frames, not normalized.
        others: (N, C) mean feature of its other frames.
        has_others: (N,), 0 for a video that has no other frames: it has no hard negatives.
        texts: (N, C) feature of each video's text, not normalized.
        scale: () factor of the cosines.
    Returns:
        loss: () float, the mean of video against texts and text against videos. A text's negatives also include its
            own video's others·(1 − 0.1r) + keyframes·0.1r, r = 0 … 5.
        accuracies: (2,) float, fraction of texts closer to their own video than to all others, and than to all its
            hard negatives.
    Source: VideoXum (Lin et al., 2023), VT-CLIPScore; CLIP's loss (Radford et al., 2021).
    """
    texts = F.normalize(texts, dim=-1)
    cosines = texts @ F.normalize(keyframes, dim=-1).T  # (N texts, N videos)
    weights = 0.1 * torch.arange(HARD_NEGATIVES, device=texts.device, dtype=texts.dtype)[:, None]
    mixed = others[:, None] * (1 - weights) + keyframes[:, None] * weights  # (N, 6, C)
    hard = (F.normalize(mixed, dim=-1) @ texts[..., None])[..., 0]  # (N, 6)
    missing = ~has_others.bool()[:, None]  # (N, 1)
    targets = torch.arange(len(texts), device=texts.device)
    # Masked after scaling: the gradient of the scale would be 0 times infinity.
    hard_logits = (scale * hard).masked_fill(missing, -torch.inf)
    text_to_video = F.cross_entropy(torch.cat([scale * cosines, hard_logits], 1), targets)
    video_to_text = F.cross_entropy(scale * cosines.T, targets)
    beats_others = cosines.argmax(1) == targets
    beats_hard = (cosines.diagonal()[:, None] > hard).logical_or(missing).all(1)
    accuracies = torch.stack([beats_others, beats_hard]).float().mean(1)
    return (text_to_video + video_to_text) / 2, accuracies


KEYFRAME_LOSSES = {"cross_entropy": cross_entropy_keyframe_loss, "l2": l2_keyframe_loss}
