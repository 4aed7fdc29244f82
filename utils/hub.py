"""Files on the Hugging Face hub: `hf://[datasets/]org/name[@revision]/path` -> a whole file in the hub's local cache.

`huggingface_hub` downloads, caches and links files, and reads its own environment (HF_HOME, HF_HUB_OFFLINE,
HF_ENDPOINT, HF_TOKEN). This module turns its errors into one line.
"""

import pathlib

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    parse_hf_uri,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfUriError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


def download_hub_file(source: str) -> pathlib.Path:
    """Return the local path of a file on the hub, downloaded once, if it is not in the hub's cache.

    Args:
        source: `hf://org/name/path` of a model's repository, `hf://datasets/org/name/path` of a dataset's; a branch,
            tag or commit may follow the name, after an @.
    Raises:
        FileNotFoundError: it is not on the hub or cannot be downloaded.
        ValueError: not such a URI.
    """
    try:
        uri = parse_hf_uri(source)
    except HfUriError:
        uri = None
    if uri is None or uri.type not in ("model", "dataset") or not uri.path_in_repo:
        expected = "hf://[datasets/]ORG/NAME[@REVISION]/FILE"
        raise ValueError(f"{source}: found no file of a hub repository, expected {expected}")
    try:
        if cached := find_cached_hub_file(source):  # else hf_hub_download retries an unreachable hub for 23 s
            return cached
        return pathlib.Path(hf_hub_download(uri.id, uri.path_in_repo, repo_type=uri.type, revision=uri.revision))
    except Exception as error:  # of the library, its HTTP clients or the system
        raise FileNotFoundError(f"{source}: {_reason(error, uri.id, uri.revision)}") from None


def is_hub_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests to the hub."""
    return constants.is_offline_mode()


def find_cached_hub_file(source: str) -> pathlib.Path | None:
    """Return the path of a file on the hub, see `download_hub_file`, in the hub's cache; None if it is not there."""
    uri = parse_hf_uri(source)
    cached = try_to_load_from_cache(uri.id, uri.path_in_repo, repo_type=uri.type, revision=uri.revision)
    return pathlib.Path(cached) if isinstance(cached, str) else None


def read_hub_file_size(source: str) -> int | None:
    """Return the bytes of a file on the hub, None if they cannot be read."""
    uri = parse_hf_uri(source)
    try:
        url = hf_hub_url(uri.id, uri.path_in_repo, repo_type=uri.type, revision=uri.revision)
        return get_hf_file_metadata(url).size
    except Exception:  # of the library, its HTTP clients or the system: the download raises it, too
        return None


def _reason(error: Exception, repository: str, revision: str | None) -> str:
    """Explain in one line why a file is not available."""
    cause = error.__cause__ or error
    text = " ".join(str(cause).split())[:200] or type(cause).__name__
    login = "log in with `hf auth login` or HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: accept its terms on its page, then {login}"
    if isinstance(error, RepositoryNotFoundError):
        return f"found no repository {repository}, or a private one: {login}"
    if isinstance(error, RevisionNotFoundError):
        return f"found no revision {revision} in {repository}"
    if isinstance(error, LocalEntryNotFoundError):
        if is_hub_offline():
            return f"not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids requests to the hub"
        return f"not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} does not respond ({text})"
    if isinstance(error, EntryNotFoundError):
        return f"found no such file in {repository}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be written to the cache {constants.HF_HUB_CACHE} ({error.strerror}); HF_HOME moves it"
    return f"the download failed ({text}); run the same command again"
