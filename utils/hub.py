"""Files on the Hugging Face hub: `hf://[datasets/]org/name[@revision]/path` -> a whole file in the hub's local cache.

`huggingface_hub` finds, caches and links files, and reads its own environment (HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT,
HF_TOKEN). Two things are added: a download that was cut off goes on where it was, in another process too, and no file
is used whose bytes are not those that the hub announced (the library compares sizes alone).
"""

import hashlib
import os
import pathlib
import re
import shutil

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, parse_hf_uri
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from utils.files import sha256_of

PREFIX = "hf://"


def hub_file(source):
    """Give the local path of a file on the hub, downloading it where it is not in the hub's cache.

    Args:
        source: `hf://org/name/path` of a model's repository, `hf://datasets/org/name/path` of a data set's; a branch,
            tag or commit may stand behind the name, after an @.
    Returns:
        `pathlib.Path` of a file whose checksum is the hub's.
    Raises:
        FileNotFoundError: it is not on the hub or cannot be had from it; one line says why.
        ValueError: not such an address, too little space, or what came is damaged.
    """
    where, revision = _parse(source)
    try:
        found = hf_hub_download(**where, revision=revision, dry_run=True)
        if not found.is_cached:
            _download(where, found.commit_hash)
        path = pathlib.Path(hf_hub_download(**where, revision=revision))
        if not _matches(path, etag := _etag_of(path)):
            if constants.is_offline_mode():
                raise _Refused(f"{path}: found another checksum than {etag}: damaged, and HF_HUB_OFFLINE is set")
            _download(where, found.commit_hash)
        return path
    except _Refused as error:
        raise ValueError(f"{source}: {error}") from None
    except Exception as error:  # the library's, its HTTP client's (of which it has had three) and the system's
        raise FileNotFoundError(f"{source}: {_reason(error, where['repo_id'], revision)}") from None


class _Refused(Exception):
    """A file that must not be used or begun; the text says what was found and what was expected."""


def _parse(source):
    """Split an address into `hf_hub_download`'s arguments and the revision."""
    try:
        uri = parse_hf_uri(source)
        if uri.type not in ("model", "dataset") or not uri.path_in_repo:
            raise ValueError
    except ValueError:
        expected = "hf://[datasets/]ORG/NAME[@REVISION]/FILE"
        raise ValueError(f"{source}: found no file of a repository on the hub, expected {expected}") from None
    return dict(repo_id=uri.id, filename=uri.path_in_repo, repo_type=uri.type), uri.revision or "main"


def _download(where, revision):
    """Put a file among the cache's blobs, whole; `hf_hub_download` then finds it there.

    The library's own download begins anew in each process and keeps nothing of one that failed: of 2.45 GB that is
    too much to lose.
    """
    url = hf_hub_url(**where, revision=revision)
    metadata = get_hf_file_metadata(url)
    repository = repo_folder_name(repo_id=where["repo_id"], repo_type=where["repo_type"])
    blob = pathlib.Path(constants.HF_HUB_CACHE, repository, "blobs", metadata.etag)
    partial = blob.with_name(f"{metadata.etag}.incomplete")
    lock = pathlib.Path(constants.HF_HUB_CACHE, ".locks", repository, f"{metadata.etag}.lock")  # the library's own
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.is_file() and _matches(blob, metadata.etag):
            return  # another process has been here
        with open(partial, "ab") as file:
            if metadata.size is not None:
                if file.tell() > metadata.size:
                    file.seek(file.truncate(0))
                _require_space(blob.parent, metadata.size - file.tell())
            how = dict(headers=build_hf_headers(), expected_size=metadata.size, displayed_filename=where["filename"])
            http_get(url, file, resume_size=file.tell(), **how)
            file.flush()
            os.fsync(file.fileno())
        if not _matches(partial, metadata.etag):
            partial.unlink()
            raise _Refused(f"found bytes of another checksum, expected {metadata.etag}: damaged on the way, removed")
        os.replace(partial, blob)


def _require_space(folder, needed):
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _Refused(f"found {free / 1e9:.2f} GB free in {folder}, expected {needed / 1e9:.2f} GB (HF_HOME moves it)")


def _etag_of(path):
    """What the hub calls the content of a cached file: the name of the blob that it links to; "" where it is none."""
    return pathlib.Path(os.readlink(path)).name if path.is_symlink() else ""


def _matches(path, etag):
    """Compare a file with its name on the hub, a SHA-256 of large files and git's SHA-1 of others."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        return sha256_of(path) == etag
    if re.fullmatch("[0-9a-f]{40}", etag):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == etag
    return True


def _reason(error, repository, revision):
    """Say in one line why a file cannot be had."""
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
        if constants.is_offline_mode():
            return f"not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to ask the hub"
        return f"not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} gives no answer ({text})"
    if isinstance(error, EntryNotFoundError):
        return f"found no such file in {repository}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be kept in the cache {constants.HF_HUB_CACHE} ({error.strerror})"
    return f"the download failed ({text}); the same command goes on from there"
