import hashlib
import http.server
import threading

import pytest

from utils import download
from utils.download import resolve_file

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve `CONTENT` as w.pth; other names give half of it, a redirect to another host, or status 404."""

    request_count = 0

    def do_GET(self):
        type(self).request_count += 1
        if self.path == "/away.pth":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/w.pth")
            self.end_headers()
        elif self.path == "/none.pth":
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/w.pth" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    Handler.request_count = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def list_files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_given_checksum_is_verified_each_time(url, tmp_path):
    path = resolve_file(f"{url}/w.pth#sha256={SHA256}")
    assert path.read_bytes() == CONTENT and resolve_file(f"{url}/w.pth") == path and Handler.request_count == 1
    path.write_bytes(b"changed")
    assert resolve_file(f"{url}/w.pth#sha256={SHA256}").read_bytes() == CONTENT and Handler.request_count == 2
    with pytest.raises(ValueError, match=f"w.pth: SHA256 hash .* expected sha256:0000.* but got {SHA256}"):
        resolve_file(f"{url}/w.pth#sha256={'0' * 64}")
    with pytest.raises(ValueError, match="found 'md5=1' after #, expected sha256= and 64"):
        resolve_file(f"{url}/w.pth#md5=1")


def test_partial_download_raises(url, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"half.pth: checkpoint: cannot be downloaded .*IncompleteRead"):
        resolve_file(f"{url}/half.pth")
    assert not list_files(tmp_path)


def test_insecure_and_missing_sources_raise(url, tmp_path):
    for source in (
        "http://example.org/w.pth",
        "ftp://example.org/w.pth",
        "file:///etc/passwd",
        "http://10.0.0.1/w.pth",
    ):
        with pytest.raises(ValueError, match=r"expected https:// \(http:// only on this machine itself\)"):
            resolve_file(source)
    with pytest.raises(ValueError, match=r"http://192.0.2.1/w.pth: found http://, expected https://"):
        resolve_file(f"{url}/away.pth")
    with pytest.raises(FileNotFoundError, match="none.pth: checkpoint: cannot be downloaded .*404"):
        resolve_file(f"{url}/none.pth")
    assert not list_files(tmp_path)


def test_command_prints_the_path(url, capsys):
    download.main([f"{url}/w.pth"])
    with open(capsys.readouterr().out.strip(), "rb") as file:
        assert file.read() == CONTENT
