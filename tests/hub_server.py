"""A Hugging Face hub on loopback: the few calls that a download makes, answered as huggingface.co answers them."""

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
    """What the server holds and does.

    Attributes:
        files: (repository, path) -> bytes; a data set's repository begins with `datasets/`.
        gated: repositories whose terms are not accepted.
        faults: what happens to the next answers with a file's bytes, one each: `cut` and `reset` end the connection
            in the middle, `damaged` changes a byte, `busy` is status 503.
        sent: (first byte, number of bytes) of each such answer, `tokens` the tokens that came with it.
        asked: number of requests.
    """

    def __init__(self):
        self.files, self.gated, self.faults, self.sent, self.tokens, self.asked = {}, set(), [], [], [], 0

    @contextlib.contextmanager
    def serving(self):
        """Serve on 127.0.0.1, and the bytes of files from localhost: to the client that is another machine."""
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
        self.hub.asked += 1
        storage = re.fullmatch(r"/storage/([0-9a-f]{64})", self.path)
        if storage:
            return self.send_bytes(next(data for data in self.hub.files.values() if _sha256(data) == storage[1]))
        match = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repository, revision, path = match.groups()
        if repository in self.hub.gated:
            self.refuse(403, "GatedRepo")
        elif repository not in {there for there, _ in self.hub.files}:
            self.refuse(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif (repository, path) not in self.hub.files:
            self.refuse(404, "EntryNotFound")
        else:
            self.resolve(self.hub.files[repository, path])

    do_GET = do_HEAD

    def resolve(self, data):
        """Large files (here: of 100 bytes and more) lie elsewhere and are named by SHA-256, others by git's SHA-1."""
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
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(span[1]) if span else 0
        self.send_response(206 if span else 200)
        if span:
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
    """A hub that this process's client asks, and an empty cache; as HF_ENDPOINT and HF_HOME would have it."""
    with Hub().serving() as server:
        point_client(monkeypatch, server.endpoint, tmp_path / "hf/hub")
        yield server


def point_client(monkeypatch, endpoint, cache):
    """Do to the client in this process what its environment, which it reads once, does to a fresh one."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    values = dict(ENDPOINT=endpoint, HUGGINGFACE_CO_URL_TEMPLATE=template, HF_HUB_CACHE=str(cache))
    values |= dict(DOWNLOAD_CHUNK_SIZE=2**14)  # what a cut connection can lose, 10 MB otherwise
    for name, value in (values | dict(HF_HUB_OFFLINE=False)).items():
        monkeypatch.setattr(constants, name, value)
