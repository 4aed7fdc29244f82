"""Scores from arrays and strings: key-frames, captions, the agreement of both, shots; `registry.METRICS` is the table of
all. Knows no files and no models. Imports `utils`.
"""

from metrics.alignment import vt_clip_score
from metrics.captions import caption_scores, require_java
from metrics.keyframes import (
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
