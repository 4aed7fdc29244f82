"""A Hugging Face hub on loopback that answers the requests of a download as huggingface.co does."""

import contextlib
import hashlib
import http.server
import re
import socket
import struct
import threading

import pytest
from huggingface_hub import constants

COMMIT = "c" * 40


class Hub:
    """The state of the server.

    Attributes:
        files: (repository, path) -> bytes; the name of a dataset's repository begins with `datasets/`.
        gated: repositories whose terms the client has not accepted.
        faults: faults of the next responses with a file's bytes, one each: `cut` and `reset` close the connection in
            the middle, `damaged` changes a byte, `busy` is status 503.
        sent: (first byte, number of bytes) of each such response.
        tokens: authorization header of each such request.
        request_count: number of requests.
    """

    def __init__(self):
        self.files = {}
        self.gated = set()
        self.faults = []
        self.sent = []
        self.tokens = []
        self.request_count = 0

    @contextlib.contextmanager
    def serving(self):
        """Serve on 127.0.0.1, and file contents on `localhost`, which the client treats as another host."""
        handler = type("Handler", (_Handler,), dict(hub=self))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self.port = server.server_port
            yield self
            server.shutdown()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.hub.request_count += 1
        storage = re.fullmatch(r"/storage/([0-9a-f]{64})", self.path)
        if storage:
            return self.send_bytes(next(data for data in self.hub.files.values() if _sha256(data) == storage[1]))
        match = re.fullmatch(r"/((?:datasets/)?[^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", self.path)
        if match is None:  # the client itself asks for other things, too
            return self.refuse(404, "")
        repository, revision, path = match.groups()
        if repository in self.hub.gated:
            self.refuse(403, "GatedRepo")
        elif repository not in {name for name, _ in self.hub.files}:
            self.refuse(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif (repository, path) not in self.hub.files:
            self.refuse(404, "EntryNotFound")
        else:
            self.resolve(self.hub.files[repository, path])

    do_GET = do_HEAD

    def resolve(self, data):
        """Redirect to storage for files of 100 bytes and more, with their SHA-256; send others, with git's SHA-1."""
        small = len(data) < 100
        self.send_response(200 if small else 302)
        self.send_header("X-Repo-Commit", COMMIT)
        if small:
            self.send_header("ETag", f'"{hashlib.sha1(b"blob %d" % len(data) + bytes(1) + data).hexdigest()}"')
        else:
            self.send_header("X-Linked-Etag", f'"{_sha256(data)}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Location", f"http://localhost:{self.hub.port}/storage/{_sha256(data)}")
        self.send_header("Content-Length", str(len(data) if small else 0))
        self.end_headers()
        if small and self.command == "GET":
            self.wfile.write(data)

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_bytes(self, data):
        fault = self.hub.faults.pop(0) if self.hub.faults else None
        if fault == "busy":
            return self.refuse(503, "")
        byte_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(byte_range[1]) if byte_range else 0
        self.send_response(206 if byte_range else 200)
        if byte_range:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if fault == "damaged":
            data = data[:-1] + bytes([data[-1] ^ 1])
        data = data[first : (first + len(data)) // 2 if fault in ("cut", "reset") else None]
        self.hub.tokens.append(self.headers.get("Authorization"))
        self.hub.sent.append((first, len(data)))
        self.wfile.write(data)
        if fault in ("cut", "reset"):
            self.close_connection = True
        if fault == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_):
        pass


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve a hub to the client in this process, with an empty cache."""
    with Hub().serving() as server:
        configure_client(monkeypatch, server.endpoint, tmp_path / "hf/hub")
        yield server


def configure_client(monkeypatch, endpoint, cache):
    """Set the constants that the client reads once, at import, from HF_ENDPOINT and HF_HOME."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    values = dict(ENDPOINT=endpoint, HUGGINGFACE_CO_URL_TEMPLATE=template, HF_HUB_CACHE=str(cache))
    values |= dict(DOWNLOAD_CHUNK_SIZE=2**14)  # bytes that a cut connection can lose; the default is 10 MB
    for name, value in (values | dict(HF_HUB_OFFLINE=False)).items():
        monkeypatch.setattr(constants, name, value)
