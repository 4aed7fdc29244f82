"""Summaries of video files: selection of seconds, skim, storyboard, page. Imports all packages except `report`.

`from summary import Summarizer` imports torch and the models lazily.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Summarizer":
        return importlib.import_module("summary.summarizer").Summarizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
