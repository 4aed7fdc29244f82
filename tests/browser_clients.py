"""The demo page's server, and its clients: with a browser and without."""

import functools
import json
import pathlib
import re
import secrets
import socket
import time
import zipfile

import httpx  # gradio brings it

from tests.conftest import ROOT
from tests.processes import start
from tests.test_summarize import FILES


class Server:
    """The running program."""

    def __init__(self, words, log):
        self.log, self.port = log, free_port()
        words = ["python", ROOT / "app.py", *words, "--port", self.port]
        self.process = start(words, ROOT, stdout=log.open("w"))

    @functools.cached_property
    def _ready_line(self):
        """Match of the line that is printed when the server is ready."""
        while not (match := re.search(r"(http://127\.0\.0\.1:\d+/) \(files in (.+)\)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return match

    @property
    def url(self):
        return self._ready_line[1]

    @property
    def root(self):
        """The folder of its files."""
        return pathlib.Path(self._ready_line[2])

    def until(self, text, times=1):
        """Wait until the log has a text so many times."""
        end = time.monotonic() + 60
        while self.log.read_text().count(text) < times:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class BrowserClient:
    """A separate browser context on the page; `requests` and `messages` hold its requests and its errors."""

    def __init__(self, browser, server):
        self.context, self.requests, self.messages = browser.new_context(), [], []
        self.page = self.context.new_page()
        self.page.set_default_timeout(60000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda m: self.messages.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(server.url)
        self.button("Summarize").wait_for()

    def button(self, name):
        return self.page.get_by_role("button", name=name)

    def upload(self, path):
        self.page.locator("input[type=file]").set_input_files(path)
        self.page.locator("video").first.wait_for(state="attached")

    def choose(self, name):
        self.page.get_by_label("or an example").click()
        self.page.get_by_role("option", name=name).click()
        self.page.locator("video").first.wait_for(state="attached")

    def clear(self):
        self.page.get_by_label("Clear").first.click()
        self.page.locator("video").wait_for(state="detached")

    def toast(self):
        toast = self.page.locator(".toast-body").first
        text = toast.inner_text()
        self.page.get_by_test_id("toast-close").first.click()
        toast.wait_for(state="detached")
        return " ".join(text.split())

    def summary(self):
        """Wait for the summary; returns what the .zip holds and how far the skim played."""
        self.page.locator(".curve svg").wait_for()
        with self.page.expect_download() as download:
            self.button("Download all").click()
        with zipfile.ZipFile(download.value.path()) as file:
            assert sorted(file.namelist()) == FILES and file.testzip() is None
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
        self.session, self.root = secrets.token_hex(5), f"{server.url}gradio_api/"
        self.http = httpx.Client(trust_env=False, timeout=60)
        functions = self.http.get(f"{server.url}config").json()["dependencies"]
        self.run, self.example = (
            next(f["id"] for f in functions if f["targets"][0][1] == on) for on in ("click", "input")
        )

    def upload(self, path, name=None):
        files = {"files": (name or path.name, path.read_bytes())}
        return self.http.post(f"{self.root}upload", files=files)

    def join(self, data, function=None):
        function = self.run if function is None else function
        body = json.dumps(dict(data=data, fn_index=function, session_hash=self.session))
        response = self.http.post(f"{self.root}queue/join", content=body, headers={"content-type": "application/json"})
        self.job = dict(session_hash=self.session, fn_index=function, event_id=response.json().get("event_id"))
        return response

    def run_at_once(self, data, function):
        """Call a function that needs no queue."""
        body = dict(data=data, fn_index=function, session_hash=self.session)
        return self.http.post(f"{self.root}run/predict", json=body)

    def cancel(self):
        assert self.http.post(f"{self.root}cancel", json=self.job).status_code == 200

    def call(self, data, function=None):
        """Call a function; returns whether it succeeded, and its output."""
        assert self.join(data, function).status_code == 200
        url = f"{self.root}queue/data?session_hash={self.session}"
        with self.http.stream("GET", url) as response:
            for line in response.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed":
                    return message["success"], message["output"]


def file_data(path):
    return dict(path=str(path), meta={"_type": "gradio.FileData"})
