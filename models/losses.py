"""The two training losses: key-frames and caption.

Axes: B videos, R annotators, T frames, L text tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F

SMOOTHING = 0.1
SMOOTHING_SCOPES = ("published", "scored")


def cross_entropy_keyframe_loss(saliency, labels, mask):
    """Average the binary cross-entropy against every annotator over all places, padded ones included.

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
    return (loss * mask).mean()  # QUIRK-1: padded places count in the divisor


def l2_keyframe_loss(saliency, labels, mask):
    """Average the squared error of the sigmoid against every annotator over the real frames.

    Args and Returns: as in `cross_entropy_keyframe_loss`.
    """
    error = (saliency.sigmoid()[:, None] - labels.to(saliency.dtype)) * mask[:, None]  # (B, R, T)
    return error.square().sum() / (labels.shape[1] * mask.sum())


KEYFRAME_LOSSES = {"cross_entropy": cross_entropy_keyframe_loss, "l2": l2_keyframe_loss}


def caption_loss(logits, targets, scored, smoothing_scope="published"):
    """Label-smoothed negative log-likelihood of the next token.

    Args:
        logits: (B, L - 1, V) float, the predictions for `targets`.
        targets: (B, L - 1) int, the next token of each place.
        scored: (B, L - 1) bool; False for padding and for the prompt.
        smoothing_scope: "published" averages the smoothing term over all B·(L-1) places, as PyTorch 1.10 did
            with ignored targets (QUIRK-2); "scored" averages both terms over the scored places.
    Returns:
        () float: 0.9 · likelihood term + 0.1 · smoothing term.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    likelihood = -log_probs.gather(-1, targets[..., None])[..., 0]  # (B, L - 1)
    smoothing = -log_probs.mean(dim=-1)  # (B, L - 1)
    count = scored.sum()
    if smoothing_scope == "scored":
        smoothing = (smoothing * scored).sum() / count
    else:
        smoothing = smoothing.mean()  # QUIRK-2: padding and prompt take part
    return (1 - SMOOTHING) * (likelihood * scored).sum() / count + SMOOTHING * smoothing


def next_token_targets(input_ids, attention_mask, prompt_length):
    """Shift a batch of captions into targets and tell which of them are scored.

    Args:
        input_ids: (B, L) int.
        attention_mask: (B, L) bool, True = real token.
        prompt_length: leading targets that belong to the prompt, `len(tokenizer(prompt).input_ids) - 1`;
            counted from the first input token, which no place predicts.
    Returns:
        targets (B, L - 1) int, scored (B, L - 1) bool.
    """
    places = torch.arange(1, input_ids.shape[1], device=input_ids.device)
    return input_ids[:, 1:], attention_mask[:, 1:] & (places >= prompt_length)
