"""The server of the demo page, and clients with and without a browser."""

import functools
import json
import pathlib
import re
import secrets
import time
import zipfile

import httpx  # gradio brings it

from tests.conftest import ROOT
from tests.helpers.processes import find_free_port, start
from tests.helpers.summary_files import SUMMARY_FILES


class Server:
    """A running `app.py`.

    Args:
        argv: its arguments without the port.
        log: file for its output.
    """

    def __init__(self, argv, log):
        self.log = log
        self.port = find_free_port()
        argv = ["python", ROOT / "app.py", *argv, "--port", self.port]
        self.process = start(argv, ROOT, stdout=log.open("w"))

    @functools.cached_property
    def _ready_line(self):
        """Match of the line that the server prints when it is ready."""
        while not (match := re.search(r"(http://127\.0\.0\.1:\d+/) \(files in (.+)\)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return match

    @property
    def url(self):
        return self._ready_line[1]

    @property
    def root(self):
        """Folder of the server's files."""
        return pathlib.Path(self._ready_line[2])

    def wait_for_log(self, text, times=1):
        """Wait until the log contains a text at least `times` times."""
        end = time.monotonic() + 60
        while self.log.read_text().count(text) < times:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)


class BrowserClient:
    """The page in a separate browser context.

    Attributes:
        requests: URLs that it requested.
        messages: errors on its console.
    """

    def __init__(self, browser, server):
        self.context = browser.new_context()
        self.requests = []
        self.messages = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(60000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(server.url)
        self.button("Summarize").wait_for()

    def button(self, name):
        return self.page.get_by_role("button", name=name)

    def choose_file(self, path):
        self.page.locator("input[type=file]").set_input_files(path)

    def upload(self, path):
        self.choose_file(path)
        self.page.locator("video").first.wait_for(state="attached")

    def choose_example(self, name):
        self.page.get_by_label("or an example").click()
        self.page.get_by_role("option", name=name).click()
        self.page.locator("video").first.wait_for(state="attached")

    def clear(self):
        self.page.get_by_label("Clear").first.click()
        self.page.locator("video").last.wait_for(state="detached")

    def problem(self):
        """Wait for the message at the upload field and return it."""
        return self.page.get_by_role("alert").inner_text()

    def close_toast(self):
        """Close the first toast and return its text."""
        toast = self.page.locator(".toast-body").first
        text = toast.inner_text()
        self.page.get_by_test_id("toast-close").first.click()
        toast.wait_for(state="detached")
        return " ".join(text.split())

    def fetch_summary(self):
        """Wait for the summary; returns summary.json and the player's [position, duration, width] after playing."""
        self.page.locator(".curve svg").wait_for()
        with self.page.expect_download() as download:
            self.button("Download all").click()
        with zipfile.ZipFile(download.value.path()) as file:
            assert sorted(file.namelist()) == SUMMARY_FILES and file.testzip() is None
            summary = json.loads(file.read("summary.json"))
        played = (
            self.page.locator("video")
            .nth(1)
            .evaluate(
                """async player => {
                player.muted = true;
                await player.play();
                await new Promise(done => setTimeout(done, 300));
                return [player.currentTime, player.duration, player.videoWidth];
            }"""
            )
        )
        return summary, played


class ApiClient:
    """A client without a browser."""

    def __init__(self, server):
        self.session = secrets.token_hex(5)
        self.root = f"{server.url}gradio_api/"
        self.http = httpx.Client(trust_env=False, timeout=60)
        functions = self.http.get(f"{server.url}config").json()["dependencies"]
        self.summarize_function, self.example_function = (
            next(f["id"] for f in functions if f["targets"][0][1] == event and f["queue"] == is_queued)
            for event, is_queued in (("click", True), ("input", False))
        )

    def upload(self, path, name=None):
        files = {"files": (name or path.name, path.read_bytes())}
        return self.http.post(f"{self.root}upload", files=files)

    def join_queue(self, data, function=None):
        function = self.summarize_function if function is None else function
        body = json.dumps(dict(data=data, fn_index=function, session_hash=self.session))
        response = self.http.post(f"{self.root}queue/join", content=body, headers={"content-type": "application/json"})
        self.job = dict(session_hash=self.session, fn_index=function, event_id=response.json().get("event_id"))
        return response

    def call_unqueued(self, data, function):
        """Call a function that runs without the queue."""
        body = dict(data=data, fn_index=function, session_hash=self.session)
        return self.http.post(f"{self.root}run/predict", json=body)

    def cancel(self):
        assert self.http.post(f"{self.root}cancel", json=self.job).status_code == 200

    def summarize(self, data):
        """Call the function of the button; returns the problem, "" if there is none, and the output."""
        success, output = self.call(data)
        return (output["data"][0] if success else output["error"] or "no message"), output

    def call(self, data, function=None):
        """Call a function through the queue; returns whether it succeeded and its output."""
        assert self.join_queue(data, function).status_code == 200
        url = f"{self.root}queue/data?session_hash={self.session}"
        with self.http.stream("GET", url) as response:
            for line in response.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed":
                    return message["success"], message["output"]


def file_data(path):
    return dict(path=str(path), meta={"_type": "gradio.FileData"})
