"""From a video file to its summary: selected seconds, skim, storyboard, page. Imports everything but `report`.

`from summary import Summarizer` imports the models, and torch, when it is used.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Summarizer":
        return importlib.import_module("summary.summarizer").Summarizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
