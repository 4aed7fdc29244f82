"""Training losses: key-frame and caption losses of VTSUM-BLIP, contrastive loss of VT-CLIP.

Axes: B videos, R annotators, T frames, L text tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

SMOOTHING = 0.1
SMOOTHING_SCOPES = ("published", "scored")
MAX_LOGITS = 2**24  # logits in memory at a time: 64 MB in float32
# The gradients of the n positions' logits are scaled to about 2 ** 4, see `_WeightedNLL`.
LOSS_SCALE_BITS = 4
# The sum of a frequent token's gradients may exceed float16's maximum of 65504: sum values divided by this.
FP16_SUM_DIVISOR = 64
NUM_HARD_NEGATIVES = 6  # r = 0 … 5


def _annotator_mean(labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Average labels (B, R, T) over the annotators, ignoring rows of NaN, which pad R: (B, T)."""
    return labels.to(dtype).nanmean(dim=1) if labels.is_floating_point() else labels.to(dtype).mean(dim=1)


def cross_entropy_keyframe_loss(saliency: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the binary cross-entropy against every annotator over all positions, including padding.

    Binary cross-entropy is linear in its label: that against the annotators' mean is the average over the annotators.

    Args:
        saliency: (B, T) logits.
        labels: (B, R, T) in {0, 1}, or graded in [0, 1]; NaN for an annotator that a video does not have.
        mask: (B, T) in {0, 1}, 1 = real frame.
    Returns:
        () float.
    Source: the released implementation; dividing by B·R·T rather than by the real frames is QUIRK-1.
    """
    importance = _annotator_mean(labels, saliency.dtype)  # (B, T)
    loss = F.binary_cross_entropy_with_logits(saliency, importance, reduction="none")
    return (loss * mask).mean()  # QUIRK-1: padded positions count in the divisor


def l2_keyframe_loss(saliency: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the squared error of the sigmoid against every annotator over the real frames.

    The mean of (p - y)² over the labels y of the annotators is p² - 2 p mean(y) + mean(y²).

    Args and Returns: as in `cross_entropy_keyframe_loss`.
    """
    importance, p = _annotator_mean(labels, saliency.dtype), saliency.sigmoid()  # (B, T)
    squares = _annotator_mean(labels.square(), saliency.dtype)  # (B, T)
    return ((p.square() - 2 * p * importance + squares) * mask).sum() / mask.sum()


# Functions of saliency logits (B, T), labels (B, R, T) and mask (B, T) that return a loss (). Except for QUIRK-1, they
# average over the real frames.
KEYFRAME_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy_keyframe_loss,
    "l2": l2_keyframe_loss,
}


def caption_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    scored: torch.Tensor,
    smoothing_scope: str = "published",
) -> torch.Tensor:
    """Label-smoothed negative log-likelihood of the next token, output layer included.

    The logits over the vocabulary and their gradients are computed and freed chunk by chunk: at most `MAX_LOGITS`
    logits are in memory.

    Args:
        states: (n, D) float, inputs of the output layer, one row per position.
        weight: (V, D) of the output layer.
        bias: (V,) of the output layer.
        targets: (n,) int, the next token of each position.
        scored: (n,) bool; False for padding and for the prompt.
        smoothing_scope: "published" averages the smoothing term over all n positions, which must be the B·(L-1) of the
            padded batch, as PyTorch 1.10 did with ignored targets (QUIRK-2); "scored" averages both terms over the
            scored positions, and the others may be omitted.
    Returns:
        () float32: 0.9 · likelihood term + 0.1 · smoothing term.
    """
    is_scored = scored.to(torch.promote_types(states.dtype, torch.float32))
    nll_weight = is_scored / is_scored.sum()
    # QUIRK-2: padding and prompt are included
    smoothing_weight = nll_weight if smoothing_scope == "scored" else torch.full_like(nll_weight, 1 / len(targets))
    nll_weight, smoothing_weight = (1 - SMOOTHING) * nll_weight, SMOOTHING * smoothing_weight
    needs_gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (states, weight, bias))
    return _WeightedNLL.apply(states, weight, bias, targets, nll_weight, smoothing_weight, needs_gradients)


class _WeightedNLL(torch.autograd.Function):
    """Sum over positions of nll_weight · (-log p of the target) + smoothing_weight · (mean over V of -log p).

    The gradient of the logits has a closed form in p (`_gradient_of_logits_`): the forward pass computes all gradients,
    chunk by chunk, and the backward pass multiplies them by the gradient of the loss.

    The stored gradients are scaled by `loss_scale`. The weights of n positions are about 1 / n each, too small for
    float16; a power of two between 16 n and 32 n scales them to about 16 without rounding.
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
        gradients = None
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
                if gradients is not None:
                    grad_logits = _gradient_of_logits_(log_p, target, *chunk_weights, loss_scale)
                    _accumulate_gradients(gradients, grad_logits, x, w, rows)
        ctx.loss_scale = loss_scale
        ctx.save_for_backward(*(gradients or ()))
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
    grad_logits: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    rows: slice,
) -> None:
    """Add a chunk's part to the gradients of states (n, D), weight (V, D) and bias (V,), in place.

    Args:
        gradients: gradients of states, weight and bias.
        grad_logits: (rows, V), gradient of the chunk's logits.
        x: (n, D) states in the dtype of the computation.
        w: (V, D) weight in the dtype of the computation.
        rows: the chunk.
    """
    grad_states, grad_weight, grad_bias = gradients
    grad_bias += grad_logits.sum(0)
    grad_logits = grad_logits.to(w.dtype)
    grad_states[rows] = grad_logits @ w
    if w.dtype == grad_weight.dtype:
        grad_weight.addmm_(grad_logits.t(), x[rows])
    elif w.dtype == torch.float16:
        grad_weight.add_(grad_logits.t() @ (x[rows] / FP16_SUM_DIVISOR), alpha=FP16_SUM_DIVISOR)
    else:
        grad_weight += grad_logits.t() @ x[rows]


def next_token_targets(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift a batch of captions into targets and mark those that are scored.

    Args:
        input_ids: (B, L) int.
        attention_mask: (B, L) bool, True = real token.
        prompt_length: number of tokens of the prompt with [DEC], without [SEP]; [DEC] is never a target.
    Returns:
        targets (B, L - 1) int, scored (B, L - 1) bool.
    """
    positions = torch.arange(1, input_ids.shape[1], device=input_ids.device)
    return input_ids[:, 1:], attention_mask[:, 1:] & (positions >= prompt_length)


def vt_clip_loss(
    keyframes: torch.Tensor, others: torch.Tensor, has_others: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive loss of videos and texts, with hard negatives from the same video.

    Args:
        keyframes: (N, C) mean feature of each video's key-frames, not normalized.
        others: (N, C) mean feature of its other frames.
        has_others: (N,), 0 for a video without other frames, which has no hard negatives.
        texts: (N, C) feature of each video's text, not normalized.
        scale: () scale of the cosines, the inverse temperature.
    Returns:
        loss: () float, the mean of the video-to-text and the text-to-video loss. The negatives of a text include
            others·(1 − 0.1r) + keyframes·0.1r of its video, r = 0 … 5.
        accuracies: (2,) float, fraction of texts whose cosine with their video exceeds that with all other videos, and
            with all its hard negatives.
    Source: VideoXum (Lin et al., 2023), VT-CLIPScore; CLIP's loss (Radford et al., 2021).
    """
    texts = F.normalize(texts, dim=-1)
    cosines = texts @ F.normalize(keyframes, dim=-1).T  # (N texts, N videos)
    weights = 0.1 * torch.arange(NUM_HARD_NEGATIVES, device=texts.device, dtype=texts.dtype)[:, None]
    mixed = others[:, None] * (1 - weights) + keyframes[:, None] * weights  # (N, 6, C)
    hard = (F.normalize(mixed, dim=-1) @ texts[..., None])[..., 0]  # (N, 6)
    missing = ~has_others.bool()[:, None]  # (N, 1)
    targets = torch.arange(len(texts), device=texts.device)
    # Mask after scaling: otherwise the gradient of the scale is 0 times infinity.
    hard_logits = (scale * hard).masked_fill(missing, -torch.inf)
    text_to_video = F.cross_entropy(torch.cat([scale * cosines, hard_logits], 1), targets)
    video_to_text = F.cross_entropy(scale * cosines.T, targets)
    is_closest_video = cosines.argmax(1) == targets
    is_closer_than_hard_negatives = (cosines.diagonal()[:, None] > hard).logical_or(missing).all(1)
    accuracies = torch.stack([is_closest_video, is_closer_than_hard_negatives]).float().mean(1)
    return (text_to_video + video_to_text) / 2, accuracies
