"""Files given by the user as a path or a URL (https:// or hf://); a URL is downloaded once."""

import hashlib
import ipaddress
import os
import pathlib
import re
import urllib.parse
from typing import TYPE_CHECKING, Any

from utils.files import compute_sha256, make_folder
from utils.published_weights import fetch_hint

if TYPE_CHECKING:
    import requests

TIMEOUT = 60  # seconds without data
CHECKSUM = re.compile(r"sha256=([0-9a-f]{64})")


def is_url(source: str | os.PathLike) -> bool:
    """Whether a source is a URL and not a path."""
    return "://" in str(source)


def resolve_file(source: str | os.PathLike) -> pathlib.Path:
    """Return the local path of a file; a URL is downloaded once, into torch's hub cache or Hugging Face's.

    Args:
        source: a path, an https URL (http only for localhost) or a file on the Hugging Face hub as
            `hf://org/name/file` (see `utils.hub`). A URL may end in `#sha256=` and a hexadecimal SHA-256;
            the file, cached or not, is verified against it.
    Raises:
        FileNotFoundError: there is no such file, or the URL cannot be downloaded.
        ValueError: another type of URL, or a file of another SHA-256.
    """
    source = str(source)
    if not is_url(source):
        path = pathlib.Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{source}: checkpoint: no such file{fetch_hint(source)}")
        return path
    url, _, fragment = source.partition("#")
    expected = CHECKSUM.fullmatch(fragment)
    if fragment and not expected:
        raise ValueError(f"{source}: found {fragment[:80]!r} after #, expected sha256= and 64 hexadecimal digits")
    if not url.startswith("hf://"):
        return _download(url, expected and expected[1])
    from utils.hub import download_hub_file

    path = download_hub_file(url)
    if expected and compute_sha256(path) != expected[1]:
        raise ValueError(f"{source}: found SHA-256 {compute_sha256(path)}, expected {expected[1]}")
    return path


def is_local(source: str | os.PathLike) -> bool:
    """Whether `resolve_file` needs no download: a path, or a URL whose file is cached."""
    url = str(source).partition("#")[0]
    if not is_url(url):
        return True
    if not url.startswith("hf://"):
        return _cache_path(url).is_file()
    from utils.hub import find_cached_hub_file

    return find_cached_hub_file(url) is not None


def describe_download(source: str) -> str:
    """Describe the download of a URL: its file, size, and the folder of the cache."""
    url = source.partition("#")[0]
    if url.startswith("hf://"):
        from huggingface_hub import constants

        from utils.hub import read_hub_file_size

        size, folder = read_hub_file_size(url), constants.HF_HUB_CACHE
    else:
        size, folder = _read_size(url), str(_cache_folder())
    return f"{url} ({'unknown size' if size is None else format_bytes(size)}) to {folder}"


def format_bytes(size: int) -> str:
    """Format a number of bytes in units of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size / 1000:.0f} kB"


def _read_size(url: str) -> int | None:
    """Return a server's Content-Length of a file, None without one."""
    import requests

    _require_safe(url)
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT, hooks={"response": _check_redirect}) as response:
            response.raise_for_status()
            return int(response.headers["Content-Length"])
    except (OSError, KeyError, ValueError):  # the download raises it, too
        return None


def _cache_path(url: str) -> pathlib.Path:
    """Path of a URL's file in the cache."""
    name = pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name or "checkpoint.pth"
    # Two URLs may end in the same name, so each has its own folder.
    return _cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _download(url: str, sha256: str | None) -> pathlib.Path:
    """Return the cached file of a URL, downloaded if it is missing or of another SHA-256."""
    import pooch

    _require_safe(url)
    path = _cache_path(url)
    make_folder(path.parent, "TORCH_HOME")
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT, hooks={"response": _check_redirect})
    try:
        return pathlib.Path(
            pooch.retrieve(url, sha256 and f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader)
        )
    except OSError as error:  # requests' exceptions are OSErrors
        raise FileNotFoundError(f"{url}: checkpoint: cannot be downloaded ({error})") from None
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None


def _cache_folder() -> pathlib.Path:
    """`torch.hub.get_dir()/vtsum_blip`, without importing torch."""
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = os.path.expanduser(os.environ.get("TORCH_HOME", os.path.join(cache, "torch")))
    return pathlib.Path(home, "hub", "vtsum_blip")


def _check_redirect(response: "requests.Response", *_: Any, **__: Any) -> None:
    """Raise a ValueError before requests follows a redirect to an unsafe address."""
    if response.is_redirect:
        _require_safe(urllib.parse.urljoin(response.url, response.headers["Location"]))


def _require_safe(url: str) -> None:
    """Raise a ValueError unless a URL is https, or http on this machine itself."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError(f"{url}: found {parts.scheme}://, expected https:// (http:// only on this machine itself)")


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def main(argv: list[str] | None = None) -> None:
    from utils.command_line import OneLineParser

    parser = OneLineParser(prog="python -m utils.download", description="Download a file once and print its path.")
    parser.add_argument("source", help="https:// or hf://")
    print(resolve_file(parser.parse_args(argv).source))


if __name__ == "__main__":
    from utils.log import run_main

    run_main(main)
