"""Downloads, against a real HTTP server on 127.0.0.1 that misbehaves in every way a real one does."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import inside, tinygpt

from tinygpt.corpus import load, named
from tinygpt.corpus.progress import ProgressLine
from tinygpt.errors import IO_ERROR, USAGE, UserError

STORIES = "".join(f"Once there was story {n}.\n\nIt ended well.\n<|endoftext|>\n" for n in range(8000)).encode()
BOOK = (
    "\ufeffThe Project Gutenberg eBook\r\n\r\nThis ebook is for the use of anyone.\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK THE ADVENTURES ***\r\n\r\n"
    "Produced by an anonymous volunteer\r\nand another one.\r\n\r\n\r\n"
    "To Sherlock Holmes she is always the woman.\r\n  He said so.\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK THE ADVENTURES ***\r\nlicence\r\n"
).encode()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; each request takes the next behaviour from `script`, then the plain one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = STORIES
        self.etag: str | None = '"one"'
        self.ranges = True
        self.script: list[dict] = []
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, host: str = "127.0.0.1", path: str = "/file.txt") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def header(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, headers in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        act = server.script.pop(0) if server.script else {}
        if "status" in act:
            self.send_response(act["status"])
            for name, value in act.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        time.sleep(act.get("wait", 0))
        body, first = server.body, 0
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            first = int(asked[1])
            last = min(int(asked[2] or len(body)), len(body) - 1)
            if first >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            first += act.get("shift", 0)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        stop = act.get("cut", len(body))
        try:
            self.wfile.write(body[:stop])
            self.wfile.flush()
            time.sleep(act.get("stall", 0))
            if "stall" in act:
                self.wfile.write(body[stop:])
        except OSError:
            pass  # the client gave up
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(named, "BACKOFF_S", 0.001)
    monkeypatch.setattr(named, "TIMEOUT_S", 5.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, name: str = "tinystories", *, megabytes: float | None = 0.1, **options) -> Path:
    if name != "tinystories":
        megabytes = None
    return named.fetch(name, megabytes=megabytes, base_urls={name: (server.url(),)}, **options)


def failure(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(*args, **options)
    assert caught.value.exit_code == IO_ERROR
    message = str(caught.value)
    assert message.endswith(".")
    for advice in ("tinygpt corpus tales", "your own", "put the file at"):
        assert advice in message
    return message


def expected_stories(size: int = 100_000) -> bytes:
    mark = b"<|endoftext|>\n"
    return STORIES[: STORIES[:size].rindex(mark[:-1])] + mark


def left_over(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "corpora").iterdir() if ".part" in p.name)


# --- the three texts


def test_tinystories_takes_the_first_bytes_and_whole_stories(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    path = fetch(server, progress=lambda done, total: steps.append((done, total)))
    assert path == tmp_path / "cache" / "corpora" / "tinystories-100000.txt"
    assert path.read_bytes() == expected_stories()
    assert server.header("Range") == ["bytes=0-99999"]
    assert steps[-1] == (100_000, 100_000) and [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert left_over(tmp_path) == []
    assert all(story.endswith("well.") for story in load([path], val_fraction=0).train)


def test_a_cached_file_needs_no_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(server)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lock = path.with_name(path.name + ".lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # as in a shared cache that can only be read: no lock can be taken
    assert fetch(server) == path and len(server.requests) == 1


def test_a_server_that_ignores_range_is_read_no_further_than_needed(server: Server) -> None:
    server.ranges = False
    assert fetch(server).read_bytes() == expected_stories()


def test_a_file_shorter_than_asked_for(server: Server) -> None:
    assert fetch(server, megabytes=5).read_bytes() == STORIES


def test_sherlock_without_licence(server: Server) -> None:
    server.body = BOOK
    assert fetch(server, "sherlock").read_text() == "To Sherlock Holmes she is always the woman.\n  He said so.\n"
    server.body = BOOK.replace(b"START OF THE", b"START OF THIS").replace(b"*** ", b"***")
    assert named._strip_licence(server.body).startswith(b"To Sherlock")


def test_sherlock_falls_back_to_its_second_address(server: Server) -> None:
    server.body, server.script = BOOK, [{"status": 404}]
    urls = (server.url(path="/gone"), server.url(path="/here"))
    named.fetch("sherlock", base_urls={"sherlock": urls})
    assert [path for path, _ in server.requests] == ["/gone", "/here"]


def test_sherlock_reissued_gives_a_notice_with_both_hashes(server: Server) -> None:
    server.body = BOOK
    path = fetch(server, "sherlock")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    server.body = BOOK.replace(b"always the", b"always THE")
    said: list[str] = []
    after = hashlib.sha256(fetch(server, "sherlock", notify=said.append).read_bytes()).hexdigest()
    assert len(said) == 1 and before in said[0] and after in said[0]
    path.unlink()
    fetch(server, "sherlock", notify=said.append)
    assert len(said) == 1  # the same again is no news


def test_shakespeare_is_held_against_its_hash(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = failure(server, "shakespeare")
    assert "86c4e6aa" in message and hashlib.sha256(STORIES).hexdigest() in message
    assert not (tmp_path / "cache" / "corpora" / "shakespeare.txt").exists() and left_over(tmp_path) == []
    digest = hashlib.sha256(STORIES).hexdigest()
    known = named._Download((), bytes, sha256=digest)
    monkeypatch.setitem(named._DOWNLOADS, "shakespeare", known)
    path = fetch(server, "shakespeare")
    assert path.read_bytes() == STORIES
    path.write_bytes(b"damaged")
    assert fetch(server, "shakespeare").read_bytes() == STORIES  # a damaged cache file is fetched again


@pytest.mark.parametrize("name", ["tinystories", "sherlock"])
def test_a_login_page_is_no_corpus(server: Server, tmp_path: Path, name: str) -> None:
    server.body = b"<html>Please log in to the hotel network</html>"
    assert "not the text" in failure(server, name)
    assert not any(p.suffix == ".txt" for p in (tmp_path / "cache" / "corpora").iterdir())
    assert left_over(tmp_path) == []


def test_a_second_download_of_the_same_size_must_have_the_same_hash(server: Server) -> None:
    path = fetch(server)
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and record["etag"] == '"one"'
    path.write_bytes(b"damaged")
    assert fetch(server).read_bytes() == expected_stories()
    path.unlink()
    server.body = STORIES.replace(b"story 7.", b"story 8.")
    message = failure(server)
    assert record["sha256"] in message and not path.exists()


# --- connections that fail


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed_or_started_again(server: Server, ranges: bool) -> None:
    server.ranges, server.script = ranges, [{"cut": 30_000}, {"cut": 20_000}]
    assert fetch(server).read_bytes() == expected_stories()
    if ranges:
        assert server.header("Range") == ["bytes=0-99999", "bytes=30000-99999", "bytes=50000-99999"]
        assert server.header("If-Range") == [None, '"one"', '"one"']
    else:
        assert len(server.requests) == 3


def test_what_was_downloaded_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    server.script = [{"cut": 40_000}] + [{"status": 503}] * named.ATTEMPTS
    assert "HTTP 503" in failure(server)
    assert "tinystories-100000.txt.part" in left_over(tmp_path)
    server.requests.clear()
    assert fetch(server).read_bytes() == expected_stories()
    assert server.header("Range") == ["bytes=40000-99999"]


def test_a_whole_part_is_recognised(server: Server, tmp_path: Path) -> None:
    server.body = BOOK
    path = tmp_path / "cache" / "corpora" / "sherlock.txt.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(BOOK)
    note = {"url": server.url(), "etag": '"one"', "total": len(BOOK)}
    path.with_name(path.name + ".json").write_text(json.dumps(note))
    assert fetch(server, "sherlock").read_text().startswith("To Sherlock")
    assert server.header("Range") == [f"bytes={len(BOOK)}-"]
    part = path.with_name("tinystories-100000.txt.part")
    part.write_bytes(STORIES[:100_000])
    note["total"] = len(STORIES)
    part.with_name(part.name + ".json").write_text(json.dumps(note))
    assert fetch(server).read_bytes() == expected_stories()
    assert len(server.requests) == 1  # all that was asked for lies there already


@pytest.mark.parametrize(
    ("before", "after"), [('"one"', '"two"'), ('"one"', None), (None, None), ('W/"one"', 'W/"two"'), (None, '"two"')]
)
def test_a_file_that_changed_is_not_glued_to_the_old_part(
    server: Server, before: str | None, after: str | None
) -> None:
    other = STORIES.upper().replace(b"<|ENDOFTEXT|>", b"<|endoftext|>") + b"more"
    server.etag = before
    server.script = [{"cut": 30_000}, *[{"status": 503}] * named.ATTEMPTS]
    failure(server)
    server.body, server.etag = other, after
    assert fetch(server).read_bytes() == expected_stories().upper().replace(b"<|ENDOFTEXT|>", b"<|endoftext|>")


def test_a_part_from_another_address_or_without_a_record_is_not_used(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "corpora" / "tinystories-100000.txt.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else" * 100)
    assert fetch(server).read_bytes() == expected_stories()
    path.with_name("tinystories-100000.txt").unlink()
    path.write_bytes(b"something else" * 100)
    note = {"url": server.url(path="/other"), "etag": '"one"', "total": len(STORIES)}
    path.with_name(path.name + ".json").write_text(json.dumps(note))
    assert fetch(server).read_bytes() == expected_stories()


def test_a_weak_tag_is_no_promise_of_equal_bytes(server: Server) -> None:
    server.etag, server.script = 'W/"one"', [{"cut": 30_000}]
    assert fetch(server).read_bytes() == expected_stories()
    assert server.header("If-Range") == [None, None]


def test_a_wrong_content_range_is_not_believed(server: Server) -> None:
    server.script = [{"cut": 30_000}, {"shift": 5}]
    assert fetch(server).read_bytes() == expected_stories()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_servers_are_asked_again(server: Server, status: int) -> None:
    server.script = [{"status": status, "headers": {"Retry-After": "0"}}] * 2
    assert fetch(server).read_bytes() == expected_stories()
    assert len(server.requests) == 3


def test_retry_after_is_obeyed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(named, "time", types.SimpleNamespace(sleep=waits.append))
    server.script = [{"status": 429, "headers": {"Retry-After": after}} for after in ("3", "9999", "soon")]
    fetch(server)
    assert waits == [3.0, named.MAX_WAIT_S, named.BACKOFF_S * 4]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server: Server, status: int) -> None:
    server.script = [{"status": status}] * 9
    assert f"HTTP {status}" in failure(server)
    assert len(server.requests) == 1


def test_attempts_end(server: Server) -> None:
    server.script = [{"status": 503}] * 100
    failure(server)
    assert len(server.requests) == named.ATTEMPTS


def test_a_server_that_is_down(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UserError) as caught:
        named.fetch("sherlock", base_urls={"sherlock": (f"http://127.0.0.1:{port}/x", f"http://127.0.0.1:{port}/y")})
    assert caught.value.exit_code == IO_ERROR and "refused" in str(caught.value)
    assert server.requests == []


def test_a_server_that_stalls_is_left_and_resumed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "TIMEOUT_S", 0.2)
    server.script = [{"wait": 0.6}, {"cut": 10_000, "stall": 0.6}]
    assert fetch(server).read_bytes() == expected_stories()
    assert len(server.requests) == 3


# --- token, redirects, offline


def test_the_token_goes_to_its_host_and_not_through_a_redirect(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(named, "TOKEN_ORIGINS", (f"http://127.0.0.1:{server.server_port}",))
    elsewhere = server.url("localhost", "/cdn")
    server.script = [{"status": 302, "headers": {"Location": elsewhere}}]
    fetch(server)
    assert [path for path, _ in server.requests] == ["/file.txt", "/cdn"]
    assert server.header("Authorization") == ["Bearer hf_secret", None]
    assert server.header("Range") == ["bytes=0-99999"] * 2  # the range does travel


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/x",
        "https://huggingface.co.evil.example/x",
        "https://huggingface.co:8443/x",
        "https://huggingface.co@evil.example/x",
        "https://cdn-lfs.huggingface.co/x",
        "https://www.gutenberg.org/x",
    ],
)
def test_the_token_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert not named._request(url, 0, None, None).has_header("Authorization")
    right = named._request("https://huggingface.co/x", 0, None, None)
    assert right.has_header("Authorization") and "Authorization" not in right.headers


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = named._request("https://huggingface.co/x", 0, None, None)
    for address in ("http://huggingface.co/x", "ftp://example.org/x", "file:///etc/passwd"):
        with pytest.raises(named._Failed, match="not safe"):
            named._Redirects().redirect_request(request, None, 302, "Found", {}, address)
    assert named._Redirects().redirect_request(request, None, 302, "Found", {}, "https://example.org/x")


def test_endless_redirects_end(server: Server) -> None:
    server.script = [{"status": 302, "headers": {"Location": "/again"}}] * 100
    assert "HTTP 302" in failure(server)


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_means_no_request(server: Server, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert "HF_HUB_OFFLINE" in failure(server)
    assert server.requests == []


def test_a_file_put_into_the_cache_by_hand_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = Path(failure(server, "sherlock").rsplit("put the file at ", 1)[1].removesuffix(" by hand."))
    path.write_text("by hand\n")
    assert fetch(server, "sherlock") == path


# --- names, places, the built-in corpus


def test_names_and_sizes_are_checked() -> None:
    with pytest.raises(UserError, match="did you mean tinystories") as caught:
        named.fetch("tinystory")
    assert caught.value.exit_code == USAGE
    cases = [
        ("tinystories", 0, "10 is"),
        ("tinystories", -1, "10 is"),
        ("tales", float("nan"), "; 4 is"),
        ("sherlock", 1, "one"),
    ]
    for name, megabytes, word in cases:
        with pytest.raises(UserError, match=rf"{word}.*\.$") as caught:
            named.fetch(name, megabytes=megabytes)
        assert caught.value.exit_code == USAGE


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "own"))
    assert named.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TINYGPT_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert named.cache_folder() == tmp_path / "xdg" / "tinygpt"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert named.cache_folder() == tmp_path / ".cache" / "tinygpt"


def test_a_cache_that_cannot_be_written(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="TINYGPT_CACHE") as caught:
        fetch(server)
    assert caught.value.exit_code == IO_ERROR and server.requests == []


@pytest.fixture
def tales(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the generator with the same interface; it has tests of its own."""
    module = types.ModuleType("tinygpt.corpus.tales")

    def text(n_bytes: int, seed: int) -> bytes:
        return random.Random(seed).randbytes(n_bytes // 2).hex().encode()

    module.text = text  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinygpt.corpus.tales", module)
    monkeypatch.setattr("tinygpt.corpus.tales", module, raising=False)


def test_tales_need_neither_network_nor_cache(
    tales: None, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = named.fetch("tales", megabytes=0.002, seed=3)
    assert path.stat().st_size == 2000 and path.is_relative_to(tmp_path / "cache")
    assert named.fetch("tales", megabytes=0.002, seed=4) != path
    monkeypatch.setenv("TINYGPT_CACHE", "/proc/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")  # the bug: went through a temporary file
    out = named.write_named("tales", tmp_path / "data" / "tiny_corpus.txt", megabytes=0.002, seed=3)
    assert out.read_bytes() == path.read_bytes() and server.requests == []


def test_write_named_copies_and_leaves_the_old_file_when_it_fails(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data" / "stories.txt"
    options = {"megabytes": 0.1, "base_urls": {"tinystories": (server.url(),)}}
    assert named.write_named("tinystories", out, **options) == out
    assert out.read_bytes() == expected_stories()
    server.script = [{"status": 404}]
    with pytest.raises(UserError):
        named.write_named("tinystories", out, **options | {"megabytes": 0.2})
    assert out.read_bytes() == expected_stories()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        named.write_named("tinystories", tmp_path / "file" / "x.txt", **options)
    assert caught.value.exit_code == IO_ERROR


def test_two_at_once_give_one_good_file(server: Server) -> None:
    server.script = [{"cut": 30_000}, {"cut": 10_000}]
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected_stories()] * 4
    assert len(server.requests) == 3  # one download, two resumptions; the others waited for it


# --- what the user sees of it


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def reported(stream: io.StringIO, total: int | None) -> str:
    with ProgressLine("tinystories", stream) as line:
        for done in range(0, 2_000_001, 50_000):
            line(done, total)
        line.say("The text was re-issued.")
        line(1_000, 2_000_000)
    return stream.getvalue()


def test_progress_is_a_line_per_tenth_where_nobody_watches() -> None:
    lines = reported(io.StringIO(), 2_000_000).splitlines()
    percents = [f"tinystories: {n} %, {n / 50:.1f} of 2.0 MB" for n in range(10, 101, 10)]
    again = "tinystories: 0 %, 0.0 of 2.0 MB"  # another address, from the start
    assert lines == [*percents, "Note: The text was re-issued.", again]
    assert reported(io.StringIO(), None).splitlines()[:2] == ["tinystories: 1.0 MB", "tinystories: 2.0 MB"]


def test_progress_rewrites_one_line_of_a_terminal() -> None:
    shown = reported(Terminal(), 2_000_000)
    first, note, last = shown.split("\n")[:3]
    assert first.count("\r") == 41 and first.endswith("\rtinystories: 100 %, 2.0 of 2.0 MB")
    assert note == "Note: The text was re-issued." and last.startswith("\rtinystories: 0 %")
    assert shown.endswith("MB\n")
    with ProgressLine("tales", unused := Terminal()):
        pass
    assert unused.getvalue() == ""


def test_a_shorter_line_leaves_nothing_of_the_longer_one() -> None:
    with ProgressLine("tinystories", stream := Terminal()) as line:
        line(99_000_000, 99_000_000)
        line(0, 99_000_000)
    _, longer, shorter = stream.getvalue().removesuffix("\n").split("\r")
    assert len(shorter) == len(longer)


def test_the_command_reports_a_download_on_standard_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug: `tinygpt corpus NAME` downloaded in silence, and a re-issued text went unmentioned."""
    for name in ("tinystories", "sherlock"):
        old = named._DOWNLOADS[name]
        changed = named._Download((server.url(),), old.clean, may_change=old.may_change)
        monkeypatch.setitem(named._DOWNLOADS, name, changed)
    with inside(tmp_path):
        done = tinygpt("corpus", "tinystories", "--megabytes", "0.3", "-o", "t.txt", "--json")
        assert (done.code, done.json["sources"][0]["name"]) == (0, "t.txt")  # nothing else on standard output
        assert "tinystories: 43 %, 0.1 of 0.3 MB" in done.err and "tinystories: 100 %, 0.3 of 0.3 MB" in done.err
        server.body = BOOK
        assert tinygpt("corpus", "sherlock", "-o", "1.txt").code == 0
        (named.cache_folder() / "corpora" / "sherlock.txt").unlink()
        server.body = BOOK.replace(b"always the", b"always THE")
        again = tinygpt("corpus", "sherlock", "-o", "2.txt", "--json")
    assert again.code == 0 and again.json["documents"] == 1
    assert "Note: the text at " in again.err and "re-issued" in again.err
