"""Cleaning of captions."""

import re

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_BLANKS = re.compile(r"\s{2,}")


def pre_caption(caption, max_words):
    """Clean a caption as BLIP does.

    Args:
        caption: text.
        max_words: words that are kept from the front; None keeps all.
    Returns:
        lower-cased text without the punctuation . ! " ( ) * # : ; ~
    """
    caption = _BLANKS.sub(" ", _PUNCTUATION.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words])


def reference_caption(tsum, max_words=None):
    """Join a video's sentences into its one reference caption, cleaned.

    Args:
        tsum: one sentence per segment. They are joined without a space (QUIRK-6): a sentence that does not end in
            one of the marks that `pre_caption` removes runs into the next.
        max_words: see `pre_caption`.
    """
    return pre_caption("".join(tsum), max_words)
