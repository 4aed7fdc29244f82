"""Scores of arrays and strings: key-frames, captions, their agreement, shots.

`registry.METRICS` is the table of VideoXum's metrics, `baselines.BASELINES` that of their baselines. Does not read
files or use models. Imports `utils`; the commands `python -m metrics` and `python -m metrics.parse` also import `data`
and `engine`.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "f1_per_annotator": "keyframes",
    "f1_published_per_annotator": "keyframes",
    "kendall_tau": "keyframes",
    "spearman_rho": "keyframes",
    "keyframe_scores": "registry",
    "caption_scores": "registry",
    "AnnotatorLabels": "keyframes",
    **dict.fromkeys(("random_baseline", "human_baseline", "uniform_baseline", "middle_baseline"), "baselines"),
    **dict.fromkeys(("shuffled_baseline", "constant_baseline"), "baselines"),
    **dict.fromkeys(("vt_clip_score", "f_clip", "cross_f_clip", "clip_similarity"), "alignment"),
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import the module of a function or class on first access."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"metrics.{_MODULE_OF[name]}"), name)
