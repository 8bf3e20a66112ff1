"""What the rows about the server share: a run with random weights, `tinygpt serve` in a process, and plain clients."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.reliability.common import HANG_S, Row, environment, small_run
from tinygpt import guards
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.train import set_up

SHAPE: dict[str, Any] = {"n_embd": 32, "n_heads": 4, "n_layers": 2, "block_size": 256, "dropout": 0.0, "max_steps": 1}
NAME = "tiny"
NO_END = {"1": -100}  # a logit_bias with which a text does not end before max_tokens
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
MIB = 1 << 20


def random_run(folder: Path, **settings: Any) -> Path:
    """The folder of a run named tiny whose weights are noise: it writes varied nonsense, and takes no training."""
    run = small_run(folder / "runs" / NAME, **{**SHAPE, **settings})
    session = set_up(run, choose_machine(run.config.train), Display(io.StringIO()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in session.model.named_parameters():
            noise = torch.randn(p.shape, generator=generator) * 0.3
            p.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    guards.save(session, last=True)
    return run.folder


class Reply(NamedTuple):
    """An answer; headers with names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The first text of a completion or a chat, streamed or not; ValueError if the answer is not whole."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return streamed_text(events(self.body))
        choice = self.json["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]


def events(body: bytes) -> list[dict[str, Any]]:
    """The objects of an event stream. ValueError where it is none, or does not end with [DONE]."""
    lines = body.decode().split("\n\n")
    if lines[-2:] != ["data: [DONE]", ""] or not all(line.startswith("data: ") for line in lines[:-1]):
        raise ValueError(f"the stream ends with {body[-200:]!r}")
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def streamed_text(told: list[dict[str, Any]], index: int = 0) -> str:
    """The pieces of one text, joined."""
    choices = [choice for event in told for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)


class Server:
    """A running `tinygpt serve`."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process, self.said, self.port = process, said, 0
        wait_until(lambda: self.process.poll() is not None or "Try:" in self.log())
        found = re.search(r"http://\S+?:(\d+)/v1", self.log())
        if not found:
            raise RuntimeError(f"no server: {self.log()[-500:]}")
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """All that the server has said."""
        return self.said.read_bytes().decode(errors="replace")

    def lines(self) -> list[str]:
        """One line for each request."""
        return [line for line in self.log().splitlines() if re.match(r"\d\d:\d\d:\d\d [A-Z]+ ", line)]

    def connect(self) -> http.client.HTTPConnection:
        """A client."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON,
        over: http.client.HTTPConnection | None = None,
    ) -> Reply:  # fmt: skip
        """One request; a body that is not bytes is sent as JSON. over: a connection that is kept."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = over or self.connect()
        try:
            connection.request(method, path, data, dict(headers))
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, fields, response.read())
        finally:
            if over is None:
                connection.close()

    def complete(self, **fields: Any) -> Reply:
        """POST /v1/completions, greedy unless said otherwise."""
        return self.ask("POST", COMPLETIONS, {"temperature": 0, **fields})

    def open(self, data: bytes, receive_buffer: int = 0) -> socket.socket:
        """A connection of which these bytes have been sent."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(HANG_S)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    def begin(self, fields: Mapping[str, Any], path: str = COMPLETIONS, receive_buffer: int = 0) -> socket.socket:
        """A connection with a request on it whose answer nobody has read."""
        return self.open(request(path, json.dumps({"temperature": 0, **fields}).encode()), receive_buffer)

    def raw(self, data: bytes) -> bytes:
        """All that comes back for these bytes until the server closes, or for the first request if it keeps open."""
        with self.open(data) as client:
            return read_answer(client)

    def figure(self, name: str) -> int:
        """One figure of /metrics."""
        found = re.search(rf"^tinygpt_{name} (\d+)$", self.ask("GET", "/metrics").body.decode(), re.M)
        return int(found[1]) if found else -1

    def idle(self) -> bool:
        """Whether nothing is written and nothing waits."""
        return self.figure("texts_active") == self.figure("texts_queued") == 0

    def rss(self) -> int:
        """Resident memory [bytes]; 0 where that cannot be read."""
        status = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
        return int(found[1]) << 10 if found else 0

    def descriptors(self) -> int:
        """Open files and sockets; 0 where that cannot be read."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        return len(list(folder.iterdir())) if folder.exists() else 0

    def check_sound(self, row: Row, after: str) -> None:
        """Check that it still answers, that no answer was 5xx, and that it has told no traceback."""
        row.check(self.process.poll() is None and self.ask("GET", "/health").status == 200, f"{after}: not healthy")
        bad = [line for line in self.lines() if re.search(r" 5\d\d \d+ ms$", line)]
        row.check(not bad and "Traceback" not in self.log(), f"{after}: {bad[:3]} {traceback_in(self.log())}")


def traceback_in(said: str) -> str:
    """The first traceback in what was said."""
    return said[said.find("Traceback") :][:1500] if "Traceback" in said else ""


@contextlib.contextmanager
def serving(
    folder: Path, *options: object, name: str = NAME, code: str = "", more_environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """`tinygpt serve NAME` on a free port, in `folder`; code: Python that runs in the process before the command."""
    program = ["-c", f"{code}\nfrom tinygpt.cli import main\nmain()"] if code else ["-m", "tinygpt"]
    words = [sys.executable, *program, "serve", name, "--port", "0", *map(str, options)]
    said = folder / f"said-{time.monotonic_ns()}"
    with said.open("wb") as out:
        process = subprocess.Popen(
            words, cwd=folder, env=environment() | dict(more_environment or {}), stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield Server(process, said)
    finally:
        process.kill()
        process.wait()


def request(path: str, body: bytes, method: str = "POST", host: str = "127.0.0.1", **headers: str) -> bytes:
    """A request as it goes over the wire."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **more}
    told = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{told}\r\n".encode() + body


def read_answer(client: socket.socket) -> bytes:
    """One answer as it came: up to its end if it says where that is, else until the connection ends."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(1 << 16):
            data += piece
            head, found, rest = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.I)
            if found and ((length and len(rest) >= int(length[1])) or rest.endswith(b"0\r\n\r\n")):
                break
    return data


def status_of(answer: bytes) -> int:
    """The status in an answer, 0 if there is none; what goes before, as 100 Continue, does not count."""
    found = [int(code) for code in re.findall(rb"^HTTP/1\.\d (\d{3})", answer, re.M) if code != b"100"]
    return found[0] if found else 0


def drop(client: socket.socket, reset: bool) -> None:
    """Leave, politely or with a reset."""
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def ended(client: socket.socket) -> bool:
    """Whether the server has ended a connection; what it has sent is read and forgotten."""
    client.setblocking(False)
    try:
        while data := client.recv(1 << 16):
            del data
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def wait_until(true: Callable[[], bool], seconds: float = HANG_S) -> float | None:
    """How long it took until that was so [s]; None if it never was."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if true():
            return time.monotonic() - began
        time.sleep(0.01)
    return None


def patch(*lines: str) -> str:
    """Code for `serving` that changes the server before it starts."""
    return "\n".join(
        ["import time", "from tinygpt import native, web", "from tinygpt.serve import app, engine, run", *lines]
    )


SLOW = """
def slowed(really):
    def slowly(self, tokens, positions, slots, wanted):
        time.sleep(0.2 if 0 in positions[1:] or len(tokens) > 64 else 0.01)
        return really(self, tokens, positions, slots, wanted)
    return slowly
for rows in (engine.PlainRows, native.NativeModel):
    rows.logits = slowed(rows.logits)
"""  # a token takes 10 ms, a prompt that joins 200 ms


@functools.cache
def is_linux() -> bool:
    """Whether memory and descriptors of a process can be read."""
    return os.path.isdir("/proc/self/fd")  # noqa: PTH112
