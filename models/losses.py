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

    A label of 0 or 1 is its own square, so that the annotators' mean m is enough: the mean of (p - y)² is
    p² - 2 p m + m.

    Args and Returns: as in `cross_entropy_keyframe_loss`.
    """
    importance, p = labels.to(saliency.dtype).mean(dim=1), saliency.sigmoid()  # (B, T)
    return ((p.square() + importance * (1 - 2 * p)) * mask).sum() / mask.sum()


KEYFRAME_LOSSES = {"cross_entropy": cross_entropy_keyframe_loss, "l2": l2_keyframe_loss}


def caption_loss(states, weight, bias, targets, scored, smoothing_scope="published"):
    """Label-smoothed negative log-likelihood of the next token, output layer included.

    The scores over the vocabulary are made, used and dropped chunk by chunk, and so are their gradients: beyond the
    inputs it takes the memory of `CHUNK` scores and of the gradients.

    Args:
        states: (n, D) float, what the output layer reads; one row per place.
        weight, bias: (V, D), (V,) the output layer.
        targets: (n,) int, the next token of each place.
        scored: (n,) bool; False for padding and for the prompt.
        smoothing_scope: "published" averages the smoothing term over all n places, which should be the padded
            batch's B·(L-1), as PyTorch 1.10 did with ignored targets (QUIRK-2); "scored" averages both terms over the
            scored places, and the others may as well be left out.
    Returns:
        () float32: 0.9 · likelihood term + 0.1 · smoothing term.
    """
    per_place = scored.to(torch.promote_types(states.dtype, torch.float32))
    per_place = per_place / per_place.sum()
    # QUIRK-2: padding and prompt take part
    smoothing = per_place if smoothing_scope == "scored" else torch.full_like(per_place, 1 / len(targets))
    per_place, smoothing = (1 - SMOOTHING) * per_place, SMOOTHING * smoothing
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (states, weight, bias))
    return _WeightedNLL.apply(states, weight, bias, targets, per_place, smoothing, learning)


CHUNK = 2**24  # scores over the vocabulary held at a time, 64 MB in float32


class _WeightedNLL(torch.autograd.Function):
    """Σ over places of a · (-log p of the target) + s · (mean over the vocabulary of -log p).

    Its gradient with respect to the scores is (a + s) · p - a · [target] - s / V, known as soon as p is.
    """

    @staticmethod
    def forward(ctx, states, weight, bias, targets, a, s, learning):
        device, V = states.device.type, len(weight)
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        # Gradients of single places are small; a power of two lifts them into the range of half precision.
        lift = 2.0 ** (len(targets).bit_length() + 4)
        with torch.autocast(device, enabled=False):
            x, w, b = states.to(low), weight.to(low), bias.to(low)
            loss = torch.zeros((), dtype=a.dtype, device=a.device)
            if learning:
                of_states, of_weight, of_bias = (
                    torch.empty_like(states),
                    torch.zeros_like(weight),
                    torch.zeros_like(bias),
                )
            for rows in torch.arange(len(targets)).split(max(1, CHUNK // V)):
                rows = slice(rows[0], rows[-1] + 1)
                target, a_rows, s_rows = targets[rows, None], a[rows, None], s[rows, None]
                log_p = F.linear(x[rows], w, b).to(a.dtype).log_softmax(-1)  # (rows, V)
                loss -= (a_rows * log_p.gather(1, target) + s_rows * log_p.mean(1, keepdim=True)).sum()
                if learning:
                    p = log_p.exp_().mul_((a_rows + s_rows) * lift).sub_(s_rows * (lift / V))
                    p.scatter_add_(1, target, -lift * a_rows)
                    of_bias += p.sum(0)
                    p = p.to(low)
                    of_states[rows] = p @ w
                    if low == weight.dtype:
                        of_weight.addmm_(p.t(), x[rows])
                    elif low == torch.float16:  # a frequent word's sum may be too large for it
                        of_weight.add_(p.t() @ (x[rows] / 64), alpha=64)
                    else:
                        of_weight += p.t() @ x[rows]
        ctx.lift = lift
        if learning:
            ctx.save_for_backward(of_states, of_weight, of_bias)
        return loss

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient / ctx.lift
        return *(gradient * part for part in ctx.saved_tensors), None, None, None, None


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
