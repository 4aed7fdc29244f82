"""Cleaning of captions."""

import re

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_REPEATED_SPACES = re.compile(r"\s{2,}")


def pre_caption(caption: str, max_words: int | None) -> str:
    """Clean a caption as BLIP does.

    Args:
        caption: text.
        max_words: keep this many words from the front; None keeps all.
    Returns:
        Lowercase text without the punctuation . ! " ( ) * # : ; ~
    """
    caption = _REPEATED_SPACES.sub(" ", _PUNCTUATION.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words])
