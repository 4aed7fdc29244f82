"""The training losses: key-frames and caption of VTSUM-BLIP, and VT-CLIP's.

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


HARD_NEGATIVES = 6  # r = 0 … 5


def vt_clip_loss(keyframes, others, has_others, texts, scale):
    """Contrast videos with texts, with hard negatives from each video itself.

    Args:
        keyframes: (N, C) mean feature of each video's key-frames, not normalised.
        others: (N, C) mean feature of its other frames.
        has_others: (N,), 0 for a video that has no other frames: it has no hard negatives.
        texts: (N, C) feature of each video's text, not normalised.
        scale: () factor of the cosines.
    Returns:
        loss: () float, the mean of video against texts and text against videos. The text also competes with its own
            video's others·(1 − 0.1r) + keyframes·0.1r, r = 0 … 5.
        right: (2,) float, how often the text prefers its video to the others', and to all its hard negatives.
    Source: VideoXum (Lin et al., 2023), VT-CLIPScore; CLIP's loss (Radford et al., 2021).
    """
    texts = F.normalize(texts, dim=-1)
    cosines = texts @ F.normalize(keyframes, dim=-1).T  # (N texts, N videos)
    part = 0.1 * torch.arange(HARD_NEGATIVES, device=texts.device, dtype=texts.dtype)[:, None]
    mixed = others[:, None] * (1 - part) + keyframes[:, None] * part  # (N, 6, C)
    hard = (F.normalize(mixed, dim=-1) @ texts[..., None])[..., 0]  # (N, 6)
    missing = ~has_others.bool()[:, None]
    targets = torch.arange(len(texts), device=texts.device)
    # Masked behind the scale, whose gradient would be 0 times infinity.
    competing = (scale * hard).masked_fill(missing, -torch.inf)
    text_to_video = F.cross_entropy(torch.cat([scale * cosines, competing], 1), targets)
    video_to_text = F.cross_entropy(scale * cosines.T, targets)
    own = cosines.diagonal()
    beats_hard = (own[:, None] > hard).logical_or(missing).all(1)
    right = torch.stack([cosines.argmax(1) == targets, beats_hard]).float().mean(1)
    return (text_to_video + video_to_text) / 2, right
