"""Files that the user names: a path, or a URL (https:// or hf://) that is downloaded once."""

import hashlib
import http.client
import ipaddress
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request

import torch

from utils.files import atomic_write, sha256_of

TIMEOUT = 60  # seconds without a byte
CHECKSUM = re.compile(r"sha256=([0-9a-f]{64})")


def is_url(source):
    """Tell a URL from a path."""
    return "://" in str(source)


def resolve_file(source):
    """Give the local path of a file; a URL is downloaded once, into torch's hub cache or Hugging Face's.

    Args:
        source: a path, an https URL (http on this machine itself) or a file on the Hugging Face hub as
            `hf://org/name/file` (see `utils.hub`). A URL may end in `#sha256=` and the file's hexadecimal SHA-256:
            that is then compared, also with a file downloaded before.
    Raises:
        FileNotFoundError: there is no such file, or the URL cannot be read.
        ValueError: another kind of URL, or a file of another SHA-256.
    """
    source = str(source)
    if not is_url(source):
        path = pathlib.Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{source}: checkpoint: no such file")
        return path
    url, _, fragment = source.partition("#")
    expected = CHECKSUM.fullmatch(fragment)
    if fragment and not expected:
        raise ValueError(f"{source}: found {fragment[:80]!r} behind #, expected sha256= and 64 hexadecimal digits")
    if url.startswith("hf://"):
        from utils.hub import hub_file

        path = hub_file(url)
        if expected and sha256_of(path) != expected[1]:
            raise ValueError(f"{source}: found SHA-256 {sha256_of(path)}, expected {expected[1]}")
        return path
    _require_safe(url)
    name = pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name or "checkpoint.pth"
    # Two URLs may end in the same name, so each has a folder of its own.
    path = pathlib.Path(torch.hub.get_dir(), "vtsum_blip", hashlib.sha256(url.encode()).hexdigest()[:16], name)
    if path.is_file() and (not expected or sha256_of(path) == expected[1]):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download(url, path, expected[1] if expected else None)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise FileNotFoundError(f"{source}: checkpoint: cannot be downloaded ({error})") from None
    return path


def _download(url, path, expected):
    """Download to `path`, in one step: a file that is cut off or of another SHA-256 never stands there."""
    opener, digest, size = urllib.request.build_opener(_SafeRedirects), hashlib.sha256(), 0
    with opener.open(url, timeout=TIMEOUT) as answer, atomic_write(path, "wb") as file:
        announced = answer.headers.get("Content-Length")
        while block := answer.read(2**20):
            file.write(block)
            digest.update(block)
            size += len(block)
        if announced is not None and size != int(announced):
            raise OSError(f"found {size} bytes, expected {announced}: the connection ended early")
        if expected and digest.hexdigest() != expected:
            raise ValueError(f"{url}: found SHA-256 {digest.hexdigest()}, expected {expected}")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to where a download may come from."""

    def redirect_request(self, request, file, code, message, headers, newurl):
        _require_safe(newurl)
        return super().redirect_request(request, file, code, message, headers, newurl)


def _require_safe(url):
    """Raise a ValueError unless a URL is https, or http on this machine itself."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError(f"{url}: found {parts.scheme}://, expected https:// (http:// only on this machine itself)")


def _is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def main(argv=None):
    from utils.command_line import OneLineParser

    parser = OneLineParser(prog="python -m utils.download", description="Download a file once and print where it is.")
    parser.add_argument("source", help="https:// or hf://")
    print(resolve_file(parser.parse_args(argv).source))


if __name__ == "__main__":
    from utils.log import run_main

    run_main(main)
