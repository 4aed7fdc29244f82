"""The scores: key-frames, captions, and the agreement of both."""

from utils.metrics.alignment import vt_clip_score
from utils.metrics.captions import caption_scores, require_java
from utils.metrics.keyframes import (
    f1_per_annotator,
    f1_published_per_annotator,
    human_baseline,
    kendall_tau,
    keyframe_scores,
    random_baseline,
    spearman_rho,
)

__all__ = [
    "caption_scores",
    "f1_per_annotator",
    "f1_published_per_annotator",
    "human_baseline",
    "kendall_tau",
    "keyframe_scores",
    "random_baseline",
    "require_java",
    "spearman_rho",
    "vt_clip_score",
]
