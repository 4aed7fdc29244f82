"""Agreement of visual and textual summaries in the space of a CLIP: VT-CLIPScore, F_CLIP and Cross-F_CLIP.

Axes: B videos, T frames (padded), R annotators, C width of the features.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from metrics.keyframes import frame_budget

if TYPE_CHECKING:
    import torch


def vt_clip_score(
    saliency: "torch.Tensor", lengths: Sequence[int], clip_vision: "torch.Tensor", text_features: "torch.Tensor"
) -> "torch.Tensor":
    """Compute the cosine of the mean feature of the top 15% of frames and the caption's feature.

    Args:
        saliency: (B, T) float.
        lengths: B numbers of real frames.
        clip_vision: (B, T, C) VT-CLIP frame features.
        text_features: (B, C) VT-CLIP features of the generated captions, not normalized.
    Returns:
        (B,) float32.
    Source: VideoXum (Lin et al., 2023). Frames are ranked by their exact scores; the released script adds 1e4 to them
        in float32, which rounds them to 0.001.
    """
    import torch

    pooled = []
    for scores, length, frames in zip(saliency, lengths, clip_vision):
        top = scores[:length].topk(max(1, frame_budget(length))).indices
        pooled.append(frames[top].mean(0))  # (C,)
    return torch.cosine_similarity(torch.stack(pooled).float(), text_features.float(), dim=-1)


def clip_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute κ, the cosine of features, or 0 if it is negative: (n, C), (m, C) -> (n, m) float64; 0 for zeros."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return np.maximum(a.astype(np.float64) @ b.astype(np.float64).T, 0)


def matching_f1(similarity: np.ndarray) -> float:
    """Compute the F1 of a soft matching of two sets from their similarity (n, m); 0 if one is empty.

    Precision is the mean over the rows of the best similarity in the row, recall the same over the columns.
    """
    if not similarity.size:
        return 0.0
    precision, recall = similarity.max(1).mean(), similarity.max(0).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def f_clip(similarity: np.ndarray, selected: np.ndarray, keyframes: np.ndarray) -> float:
    """Compute F_CLIP, the soft matching of selected frames and key-frames, averaged over the annotators.

    Args:
        similarity: (T, T) `clip_similarity` of the video's frames with each other.
        selected: (T,) bool, the selected frames.
        keyframes: (R, T) in {0, 1}, one row per annotator.
    Source: V2Xum-LLM (Hua et al., 2024, arXiv 2404.12353).
    """
    rows = similarity[selected]  # (n, T)
    return float(np.mean([matching_f1(rows[:, row]) for row in keyframes.astype(bool)]))


def cross_f_clip(
    frames: np.ndarray,
    selected: np.ndarray,
    keyframes: np.ndarray,
    references: Sequence[np.ndarray],
    generated: np.ndarray,
) -> float:
    """Compute Cross-F_CLIP, the soft matching of frames with the sentences of the other side's text.

    It is the mean of that of the selected frames with the reference text, averaged over the references, and that of the
    key-frames with the generated text, averaged over the annotators.

    Args:
        frames: (T, C) CLIP features of the video's frames.
        selected, keyframes: as of `f_clip`.
        references: (m, C) features of the sentences of each reference.
        generated: (k, C) features of the sentences of the generated text.
    Source: as of `f_clip`.
    """
    with_references = np.mean([matching_f1(clip_similarity(frames[selected], texts)) for texts in references])
    similarity = clip_similarity(frames, generated)  # (T, k)
    with_generated = np.mean([matching_f1(similarity[row]) for row in keyframes.astype(bool)])
    return float((with_references + with_generated) / 2)
