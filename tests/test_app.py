"""The demo page with a real server, a real browser and real requests, including malicious ones."""

import http.server
import importlib.util
import json
import pathlib
import re
import shutil
import signal
import socket
import threading
import time
import types
from fractions import Fraction

import pytest

from summary.demo.service import Limits, SummaryService
from tests.conftest import ROOT
from tests.helpers.clips import constant_rate, write_clip
from utils.log import setup_logging

if importlib.util.find_spec("gradio") is None:
    pytest.skip("no gradio", allow_module_level=True)
from tests.helpers.browser_clients import ApiClient, BrowserClient, Server, file_data, find_free_port

MAX_SECONDS, MAX_MEGABYTES = 60, 2
# What screen readers announce; Gradio removes each text after a second.
RECORD_ANNOUNCEMENTS = """() => {
    window.announcements = [];
    const record = () => document.querySelectorAll("[role=status]").forEach(element => {
        const text = element.textContent.trim();
        if (text && text !== announcements.at(-1)) announcements.push(text);
    });
    new MutationObserver(record).observe(document.body, {childList: true, characterData: true, subtree: true});
}"""
NOT_A_VIDEO = "not a video, damaged, or of a format that is not accepted"


@pytest.fixture(scope="module")
def app_argv(summary_settings, mini_videos):
    examples = ["--examples", mini_videos / "videos/mini_test_000.mp4", mini_videos / "videos/mini_val_000.mp4"]
    return [argument for name, value in summary_settings.items() for argument in (f"--{name}", value)] + examples


@pytest.fixture(scope="module")
def server(app_argv, tmp_path_factory):
    limits = ["--max_seconds", MAX_SECONDS, "--max_megabytes", MAX_MEGABYTES, "--max_waiting", 2]
    running = Server([*app_argv, *limits], tmp_path_factory.mktemp("server") / "log")
    yield running
    running.process.terminate()  # no effect if it has exited
    running.process.wait(60)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder with videos of different lengths and files that are refused."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "ten.mp4", constant_rate(25, 250), size=(320, 180), sound=44100)
    write_clip(folder / "six.webm", constant_rate(10, 60), codec="libvpx")
    write_clip(folder / "slow.mp4", constant_rate(10, 590), size=(640, 360), options=dict(preset="ultrafast"))
    write_clip(folder / "long.mp4", constant_rate(1, 61), last=1)
    write_clip(folder / "huge.mp4", [0], size=(4096, 4096), options=dict(preset="ultrafast"))
    write_clip(
        folder / "six.avi", constant_rate(10, 60), codec="mpeg4", time_base=Fraction(1, 10), last=Fraction(1, 10)
    )
    write_clip(folder / "readable.mp4", constant_rate(25, 250), container_options=dict(movflags="faststart"))
    for name, whole in (("truncated.mp4", "ten.mp4"), ("readable.mp4", "readable.mp4")):
        (folder / name).write_bytes((folder / whole).read_bytes()[: (folder / whole).stat().st_size // 2])
    for name in ("text.mp4", "notes.txt"):
        (folder / name).write_text("no video" * 99)
    (folder / "large.mp4").write_bytes(bytes(MAX_MEGABYTES * 2**20 + 1))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{folder}/six.webm\n#EXT-X-ENDLIST\n"
    (folder / "list.m3u8").write_text(playlist)
    return folder


def test_upload_gives_a_playable_summary(browser, server, clips, tmp_path):
    name = '<img src=x onerror=alert(1)> & "#1%".mp4'
    shutil.copy(clips / "ten.mp4", tmp_path / name)
    client = BrowserClient(browser, server)
    dialogs = []
    client.page.on("dialog", lambda dialog: dialogs.append(dialog.dismiss()))
    client.upload(tmp_path / name)
    client.page.get_by_role("spinbutton").fill("30")
    client.page.evaluate(RECORD_ANNOUNCEMENTS)
    client.button("Summarize").click()
    summary, (position, seconds, width) = client.fetch_summary()
    duration = sum(end - start for start, end in summary["segments"])
    assert duration == pytest.approx(3) and summary["duration"] == 10 and summary["method"] == "topk"
    assert 0.1 < position <= seconds == pytest.approx(duration, abs=0.05) and width == 320
    assert client.page.get_by_label("Caption").input_value() == summary["caption"]
    assert client.page.locator(".curve tbody tr").count() == len(summary["segments"])
    assert str(server.root) not in json.dumps(summary) and str(ROOT) not in json.dumps(summary)

    original, skim = client.page.locator("video").all()
    assert original.evaluate("player => [player.duration, player.videoWidth]") == [10, 320]
    for width in (400, 1280):
        client.page.set_viewport_size(dict(width=width, height=900))
        assert client.page.evaluate("document.documentElement.scrollWidth") == width
        left, right = original.bounding_box(), skim.bounding_box()
        is_beside = right["x"] >= left["x"] + left["width"] and right["y"] == left["y"]
        assert is_beside if width == 1280 else right["y"] >= left["y"] + left["height"]
        assert left["width"] > 250 and client.page.locator(".curve svg").bounding_box()["width"] > 250
    client.page.wait_for_function("() => announcements.length > 1")
    assert client.page.evaluate("[announcements[0], announcements.at(-1)]") == ["Loading", "Ready"]
    assert all(url.startswith((server.url, "data:", "blob:")) for url in client.requests)
    assert not dialogs and not client.messages
    client.context.close()


def test_concurrent_clients_get_their_own_summaries(browser, server, clips):
    """One client uploads a video and one selects an example; each gets the summary of its own video."""
    uploader, chooser = BrowserClient(browser, server), BrowserClient(browser, server)
    assert uploader.page.locator("button:visible", has_text="Download").count() == 1
    uploader.upload(clips / "six.webm")
    chooser.choose_example("mini_val_000.mp4")
    for client in (uploader, chooser):
        client.button("Summarize").click()
    for client, name, expected_width in ((uploader, "six.webm", 160), (chooser, "mini_val_000.mp4", 128)):
        summary, (position, _, width) = client.fetch_summary()
        assert (summary["name"], width) == (name, expected_width) and position > 0.1
    assert uploader.page.get_by_text("Done, see below. A skim of 1 s is hard to follow").is_visible()
    chooser.choose_example("mini_test_000.mp4")
    chooser.page.locator(".curve svg").wait_for(state="detached")  # the summary of the previous example
    assert chooser.button("Download all").is_disabled()
    for client in (uploader, chooser):
        assert not client.messages
        client.context.close()


def test_invalid_uploads_are_refused(browser, server, clips):
    """A message at the upload field, no player, and no error elsewhere on the page."""
    client, api = BrowserClient(browser, server), ApiClient(server)
    client.button("Summarize").click()
    assert client.problem() == "Please choose a video first."
    for name in ("text.mp4", "truncated.mp4", "notes.txt"):
        client.choose_file(clips / name)
        client.page.get_by_role("alert").filter(has_text=name).wait_for()
        assert client.problem() == f"{name}: {NOT_A_VIDEO}"
        assert client.page.locator("video").count() == client.page.locator(".toast-body").count() == 0
        assert not client.page.get_by_text("Error").is_visible()
        assert client.button("Summarize").is_disabled()  # a click would replace the reason
    upload, problem = (
        client.page.locator(selector).bounding_box() for selector in ("button:has(input[type=file])", "p.problem")
    )
    assert 0 <= problem["y"] - upload["y"] - upload["height"] < 60 and problem["x"] < upload["x"] + 60
    client.choose_file(clips / "large.mp4")
    assert "exceed the maximum allowed size of 2.0 Mb" in client.close_toast()
    client.upload(clips / "six.webm")
    assert client.page.get_by_role("alert").count() == 0 and client.button("Summarize").is_enabled()
    assert not client.messages
    client.context.close()
    for name, message in (
        ("long.mp4", "found a length of 1:01, expected at most 1:00 (minutes:seconds)"),
        ("huge.mp4", "found frames of 16,777,216 pixels, expected at most 9,437,184"),
    ):
        (path,) = api.upload(clips / name).json()
        assert f">{name}: {message}<" in api.summarize([file_data(path), 15, "topk"])[0]


def test_players_appear_when_there_is_something_to_play(browser, server, clips):
    """Of a video that browsers do not play, only the skim; of a truncated one, the readable part."""
    client = BrowserClient(browser, server)
    assert client.page.get_by_text("Trained on rendered shapes: captions of real videos mean nothing.").is_visible()
    for name, labels in (("six.avi", ["Skim"]), ("readable.mp4", ["Original", "Skim"])):
        with client.page.expect_response(re.compile("/run/predict$")):
            client.choose_file(clips / name)
        client.page.wait_for_timeout(300)  # until the page has the checked video
        assert client.page.get_by_test_id("Skim-player").count() == 0
        client.button("Summarize").click()
        client.page.locator(".curve svg").wait_for()
        client.page.get_by_test_id("Skim-player").wait_for()
        players = client.page.locator("video").all()
        assert [player.get_attribute("data-testid") for player in players] == [f"{label}-player" for label in labels]
        for player in players:
            duration = player.evaluate(
                """async player => {
                    if (!player.readyState) await new Promise(done => player.onloadedmetadata = done);
                    return player.duration;
                }"""
            )
            assert 0 < duration < 11
        client.clear()
    assert client.page.locator(".curve svg").count() == 0 and not client.messages
    client.context.close()


def test_full_queue_disconnection_and_stop(browser, server, clips):
    leaving, late = clients = [BrowserClient(browser, server) for _ in range(2)]
    for client in clients:
        client.upload(clips / "slow.mp4")
        client.page.get_by_role("spinbutton").fill("100")
    leaving.button("Summarize").click()
    leaving.page.get_by_text(re.compile("Decoding and encoding")).wait_for()
    path = late.page.locator("video").first.evaluate("player => player.currentSrc.split('file=')[1]")
    waiting = [ApiClient(server) for _ in range(2)]
    assert [api.join_queue([file_data(path), 100, "topk"]).status_code for api in waiting] == [200, 200]
    late.button("Summarize").click()
    assert "This application is currently busy. Please try again." in late.close_toast()
    for api in waiting:
        api.cancel()
    leaving.context.close()
    server.wait_for_log("the client disconnected")
    late.button("Summarize").click()
    late.page.get_by_text(re.compile("Decoding and encoding")).wait_for()
    late.messages.clear()  # of the refused request
    late.button("Stop").click()
    server.wait_for_log("the client disconnected", times=2)
    late.page.get_by_text("Stopped.").wait_for()
    assert not late.messages
    late.clear()
    late.upload(clips / "six.webm")
    late.button("Summarize").click()
    assert late.fetch_summary()[0]["name"] == "six.webm"
    late.page.get_by_text("Done, see below.").wait_for()
    late.button("Stop").click()  # no effect
    late.page.wait_for_timeout(300)
    assert late.page.get_by_text("Done, see below.").is_visible()
    assert not list((server.root / "work").iterdir())
    late.context.close()


def test_paths_from_clients_are_not_trusted(server, clips, mini_videos):
    """Server files, URLs and path traversal are refused, and no URL is requested."""
    api, received_paths = ApiClient(server), []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            received_paths.append(self.path)

    listener = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{listener.server_port}/video.mp4"
    video = mini_videos / "videos/mini_test_001.mp4"
    (uploaded,) = api.upload(video).json()
    assert pathlib.Path(uploaded).is_relative_to(server.root / "files")
    (server.root / "work/secret.mp4").write_bytes(video.read_bytes())
    for path in (
        *(
            "/etc/passwd",
            "/proc/self/environ",
            video,
            server.root / "work/secret.mp4",
            "",
            "x",
            uploaded + "/../../none",
        ),
        *(f"{server.root}/files/../../../etc/passwd", f"{server.root}/files/../work/secret.mp4"),
        *(
            "file:///etc/passwd",
            address,
            "https://example.com/video.mp4",
            "http://169.254.169.254/",
            "concat:/etc/passwd",
        ),
    ):
        problem, output = api.summarize([file_data(path), 15, "topk"])
        assert problem and not re.search("root:|/etc|/work|/tmp|File ", json.dumps(output)), output
        assert api.summarize([file_data(uploaded), file_data(path), "topk"])[0]
    for data in (uploaded, "/etc/passwd", {"path": "/etc/passwd"}, {"path": {"a": 1}}, 3, None, [file_data(uploaded)]):
        assert api.summarize([data, 15, "topk"])[0], data
    for name in ("../../../etc/passwd", "mini_test_001.mp4", "", ["mini_test_000.mp4", "x"], file_data(uploaded)):
        assert not api.call([name], api.example_function)[0], name
    (playlist,) = api.upload(clips / "list.m3u8", "list.mp4").json()
    shutil.copy(clips / "list.m3u8", server.root / "files/list.m3u8")
    for path in (playlist, server.root / "files/list.m3u8"):
        assert f": {NOT_A_VIDEO}<" in api.summarize([file_data(path), 15, "topk"])[0]
    (outside,) = api.upload(video, "../../../../tmp/outside.mp4").json()
    assert pathlib.Path(outside).resolve().is_relative_to(server.root / "files")
    listener.shutdown()
    assert not received_paths


def test_invalid_arguments_are_refused(server, mini_videos):
    api = ApiClient(server)
    (path,) = api.upload(mini_videos / "videos/mini_test_001.mp4").json()
    nan, inf = float("nan"), float("inf")
    for percent in (0, -1, 101, 1e300, nan, inf, -inf, "15", "abc", None, [], {}, True, [15]):
        assert api.summarize([file_data(path), percent, "topk"])[0] or percent is True, percent
    for method in ("rm -rf /", "", None, ["topk"], {}, 0):
        assert api.summarize([file_data(path), 15, method])[0], method
    assert not api.call([file_data(path)])[0] and not api.call([])[0]
    assert not api.summarize([file_data(path), 15, "topk"])[0]


def test_other_endpoints_and_files_are_closed(server, mini_videos):
    api, root = ApiClient(server), f"{server.url}gradio_api/"
    for path in ("info", "openapi.json", "call/run", "run/run", "api/predict", "proxy=https://huggingface.co", "runs"):
        for method in ("GET", "POST", "PUT"):
            assert api.http.request(method, root + path, json={}).status_code == 404, path
    for path in ("docs", "redoc", "login", "monitoring", "monitoring/summary", "gradio_api/file=https://example.com"):
        assert api.http.get(server.url + path).status_code == 404, path
    for path in ("/etc/passwd", f"{server.root}/work", ROOT / "app.py", f"{server.root}/files/../work", "//etc/passwd"):
        assert api.http.get(f"{root}file={path}").status_code in (403, 404), path
    assert api.http.get(f"{server.url}assets/../../../../etc/passwd").status_code in (403, 404)
    body = dict(data=[file_data("/etc/passwd"), 15, "topk"], fn_index=api.summarize_function)
    assert api.http.post(f"{root}run/predict", json=body).status_code == 404  # the queue cannot be bypassed
    response = api.http.post(f"{root}run/predict", json=dict(data=body["data"][:1], fn_index=0))
    assert response.status_code == 500 and response.json()["error"] == "This request is not valid."
    assert api.http.post(f"{root}queue/join", content=b" " * 2**17).status_code == 413
    assert api.http.post(f"{root}queue/join", content=b"{").status_code == 422
    large = api.http.post(f"{root}upload", files={"files": ("a.mp4", bytes(MAX_MEGABYTES * 2**20 + 2**17))})
    assert large.status_code == 413
    many = [("files", (f"{i}.mp4", bytes(2**20))) for i in range(4)]
    assert api.http.post(f"{root}upload", files=many).status_code == 413
    page = api.http.get(server.url)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert not any(str(folder) in page.text for folder in (ROOT, server.root, mini_videos))
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.2", server.port))


def test_files_are_removed_after_keep_seconds(mini_videos, tmp_path, monkeypatch):
    """Uploaded files and copies of examples are removed."""
    from summary.demo.page import build_page, serve

    cache = tmp_path / "files"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    setup_logging(True)  # not to the log file of another test
    examples = {"mini_test_000.mp4": mini_videos / "videos/mini_test_000.mp4"}
    service = SummaryService(None, examples, tmp_path, Limits(keep_seconds=4))
    page = build_page(service)
    url = serve(page, service, "127.0.0.1", find_free_port())
    try:
        api = ApiClient(types.SimpleNamespace(url=url))
        (uploaded,) = api.upload(mini_videos / "videos/mini_test_001.mp4").json()
        assert pathlib.Path(uploaded).exists()
        example_path = api.call_unqueued(["mini_test_000.mp4"], api.example_function).json()["data"][0]["path"]
        assert pathlib.Path(example_path).exists() and pathlib.Path(example_path).is_relative_to(cache)
        deadline = time.monotonic() + 60
        while list(cache.rglob("*.mp4")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "no longer here" in api.summarize([file_data(uploaded), 15, "topk"])[0]
    finally:
        page.close(verbose=False)


def test_invalid_command_lines_raise(server, app_argv, tmp_path, monkeypatch):
    import app

    app_argv = [str(word) for word in app_argv]
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(app, "setup_logging", lambda is_main: None)
    for flags, message in (
        (["--port", "0"], "--port: invalid number from 1 to 65535 value: '0'"),
        (["--port", "99999"], "--port: invalid number from 1 to 65535 value: '99999'"),
        (["--keep_seconds", "nan"], "--keep_seconds: invalid number of at least 1"),
        (["--max_megabytes", "1.5"], "--max_megabytes: invalid number of at least 1"),
        (["--examples", "none.mp4"], "none.mp4: videos: no such file or folder"),
        (
            ["--port", str(server.port)],
            f"--host, --port: cannot listen on port {server.port} of 127.0.0.1: another program uses the port, or "
            "127.0.0.1 is not an address of this machine; use --port N or another --host",
        ),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            app.main([*app_argv, *flags])


def test_exit_removes_all_files(server, clips):
    """SIGTERM removes the server's folder, which has all files that it wrote; its log has no traceback."""
    api = ApiClient(server)
    (path,) = api.upload(clips / "six.webm").json()
    problem, output = api.summarize([file_data(path), 15, "topk"])
    assert not problem, output
    assert any((server.root / "files").rglob("summary.mp4"))
    assert {path.name for path in (server.root / "work").iterdir()} <= {"secret.mp4"}  # written by another test
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert not server.root.exists() and "Traceback" not in server.log.read_text()
