"""A studio over small trained runs, and a real Chromium to look at it; skipped, loudly, where there is none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from command_line import environment

from benchmarks.browser import browser_path
from benchmarks.browser import chromium as launched

HANG_MS = 120_000  # forwards have the lowest priority, so on a busy machine an answer can take long
SHAPE = ["n_embd=48", "n_layers=2", "n_heads=3", "block_size=64", "vocab_size=420", "threads=1", "compiled=no"]


@pytest.fixture(scope="module")  # Playwright keeps an event loop running: other modules' tests start their own
def chromium():
    """The browser of this system; a page of it is closed by whoever opened it."""
    path = browser_path()
    if path is None:
        pytest.skip("NO BROWSER: install chromium (apt install chromium), or set TINYGPT_BROWSER")
    with launched(path) as browser:
        yield browser


@pytest.fixture(scope="session")
def studio_home(tmp_path_factory) -> Path:
    """A working folder whose runs/ holds `story` (tales, modern), `gpt2` and `tutorial`, each after some steps."""
    home = tmp_path_factory.mktemp("studio")
    tinygpt(home, "corpus", "tales", "-o", "tales.txt", "--megabytes", "0.1")
    for name, steps in (("gpt2", 12), ("tutorial", 12), ("story", 60)):
        preset = "modern" if name == "story" else name
        tinygpt(home, "train", "tales.txt", "--run", name, "--preset", preset, "--steps", str(steps), "--quiet", *SHAPE)
    return home


def tinygpt(home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "tinygpt", *words]
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


class Studio:
    """A running `tinygpt studio`: its address without and with the token of this start."""

    def __init__(self, home: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "tinygpt", "studio", "--port", str(port), "--no-browser"]
        self.home = home
        self.process = subprocess.Popen(command, cwd=home, env=environment(home), stdout=subprocess.PIPE, text=True)
        printed = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/\S*", printed)):
            line = self.process.stdout.readline()
            assert line, f"the studio ended: {printed}"
            printed += line
        self.with_token = found[0]
        parts = urlsplit(self.with_token)
        self.address, self.token = f"http://{parts.netloc}", parts.fragment.removeprefix("token=")

    def stop(self) -> int:
        self.process.terminate()
        with self.process.stdout:
            return self.process.wait(timeout=30)


@pytest.fixture
def own_studio(studio_home, tmp_path):
    """A studio over runs of its own, for what leaves a trace in them, or stops it."""
    shutil.copytree(studio_home, tmp_path / "home")
    running = Studio(tmp_path / "home")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="session")
def studio(studio_home):
    running = Studio(studio_home)
    yield running
    running.stop()


class Watched:
    """A page whose console, requests and replies are noted; requests off the machine are cut and noted."""

    def __init__(self, browser, studio: Studio, **options) -> None:
        self.studio, self.errors, self.strangers, self.replies = studio, [], [], {}
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(HANG_MS)
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", self._keep)
        self.asking: set = set()
        self.page.on("request", lambda r: self.asking.add(r) if r.resource_type != "eventsource" else None)
        for end in ("requestfinished", "requestfailed"):
            self.page.on(end, lambda r: self.asking.discard(r))

    def _route(self, route) -> None:
        if route.request.url.startswith(self.studio.address):
            route.continue_()
        else:
            self.strangers.append(route.request.url)
            route.abort()

    def _keep(self, response) -> None:
        if "/api/" in response.url and "json" in response.headers.get("content-type", ""):
            self.replies[response.url, response.request.post_data] = response

    def bodies(self) -> dict[str, bytes]:
        """python line -> body of every reply that has one; of several for one line, which must be equal, the last."""
        found = {}
        for response in list(self.replies.values()):
            try:
                body = response.body()
            except Exception:  # the page has gone on to another address meanwhile
                continue
            value = json.loads(body)
            if isinstance(value, dict) and value.get("python"):
                found[value["python"]] = body
        return found

    def open(self, path: str, **query) -> None:
        self.page.goto(f"{self.studio.address}{path}" + (f"?{urlencode(query)}" if query else ""))
        self.settle()

    def settle(self) -> None:
        """Until the page has drawn what it was asked for."""
        self.page.wait_for_selector("main h1")
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_selector("[aria-busy]", state="detached")

    def quiet(self, ms: int = 200) -> None:
        """Until nothing has been asked for that long, and what was asked is drawn: after a key, not after a load."""
        still = 0
        while still < ms:
            self.page.wait_for_timeout(40)
            still = 0 if self.asking else still + 40
        self.page.wait_for_selector("[aria-busy]", state="detached")

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def watch(chromium, studio):
    """watch(viewport=..., color_scheme=...): a fresh page of the studio."""
    opened = []

    def make(**options) -> Watched:
        opened.append(Watched(chromium, studio, **options))
        return opened[-1]

    yield make
    for page in opened:
        page.close()
