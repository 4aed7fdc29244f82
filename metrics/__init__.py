"""Scores of arrays and strings: key-frames, captions, their agreement, shots.

`registry.METRICS` is the table of VideoXum's metrics. Does not read files or use models. Imports `utils`; the command
`python -m metrics` also imports `data` and `engine`, and `python -m metrics.parse` converts answers of language models.
"""

import importlib
from typing import Any

_MODULE_OF_FUNCTION = {
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
__all__ = sorted(_MODULE_OF_FUNCTION)


def __getattr__(name: str) -> Any:
    """Import a function's module on first access."""
    if name not in _MODULE_OF_FUNCTION:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"metrics.{_MODULE_OF_FUNCTION[name]}"), name)
