"""Scores from arrays and strings: key-frames, captions, the agreement of both, shots.

`registry.METRICS` is the table of all of them. Knows neither files nor models. Imports `utils`.
"""

import importlib
from typing import Any

_MODULES = {
    "f1_per_annotator": "keyframes",
    "f1_published_per_annotator": "keyframes",
    "kendall_tau": "keyframes",
    "spearman_rho": "keyframes",
    "keyframe_scores": "registry",
    "caption_scores": "registry",
    "random_baseline": "baselines",
    "human_baseline": "baselines",
    "vt_clip_score": "alignment",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a function's module when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"metrics.{_MODULES[name]}"), name)
