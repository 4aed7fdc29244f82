"""The released model as the default, and the download of what a `Summarizer` needs."""

import logging
import pathlib
from collections.abc import Iterable

from utils.download import describe_download, is_local, is_url, resolve_file
from utils.published_weights import FETCH_COMMAND

RELEASED_CONFIG = pathlib.Path(__file__).resolve().parent.parent / "configs/released_tt_ca.yaml"
LOCAL_FILES_HINT = (
    f"with network access, {FETCH_COMMAND} fetches the weights; local files are given by pretrained_model, blip and "
    "tokenizer (flags --pretrained_model, …)"
)

logger = logging.getLogger(__name__)


def announce_downloads(sources: Iterable[str], tokenizer: str) -> None:
    """Log, in one line, what will be downloaded, how large it is and where to.

    Nothing is logged if all is local, or if HF_HUB_OFFLINE forbids one of the downloads: an error follows.

    Args:
        sources: paths or URLs of files.
        tokenizer: folder of the tokenizer, or its name on the hub.
    """
    from models.tokenizer import is_tokenizer_local  # imports torch
    from utils.hub import is_hub_offline

    missing = [source for source in sources if not is_local(source)]
    has_tokenizer = is_tokenizer_local(tokenizer)
    if is_hub_offline() and (not has_tokenizer or any(source.startswith("hf://") for source in missing)):
        return
    downloads = [describe_download(source) for source in missing]
    if not has_tokenizer:
        downloads.append(f"the vocabulary of {tokenizer} (below 1 MB) to the hub's cache")
    if downloads:
        logger.info("downloading once: %s", ", ".join(downloads))


def resolve_weights(source: str) -> pathlib.Path:
    """Return the local path of weights, see `resolve_file`; errors name the options for local files."""
    try:
        return resolve_file(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {LOCAL_FILES_HINT}" if is_url(source) else str(error)) from None
