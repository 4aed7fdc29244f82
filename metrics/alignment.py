"""VT-CLIPScore: agreement of the selected frames and the generated caption.

Axes: B videos, T frames (padded), C width of VT-CLIP's features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from metrics.keyframes import frame_budget


def vt_clip_score(
    saliency: torch.Tensor, lengths: Sequence[int], clip_vision: torch.Tensor, text_features: torch.Tensor
) -> torch.Tensor:
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
    pooled = []
    for scores, length, frames in zip(saliency, lengths, clip_vision):
        top = scores[:length].topk(max(1, frame_budget(length))).indices
        pooled.append(frames[top].mean(0))  # (C,)
    return F.cosine_similarity(torch.stack(pooled).float(), text_features.float(), dim=-1)
