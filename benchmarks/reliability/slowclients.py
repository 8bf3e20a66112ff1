"""R16, slow clients: they are cut off after their deadlines, cost nobody else anything, and leave no socket behind.

Slow senders give a byte at a time of headers or of a body, in two ways: announced by its length, and in chunks. Slow
readers ask for much and do not read, or read a byte at a time. The deadlines of 10 and 30 seconds are set to one.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from typing import Any

from benchmarks.reliability.common import HANG_S, Row, Scale
from benchmarks.reliability.server import (
    COMPLETIONS,
    NO_END,
    Server,
    is_linux,
    patch,
    random_run,
    serving,
    wait_until,
)  # fmt: skip

DEADLINE_S = 1.0
LIMIT_S = 45.0 - 30.0 + DEADLINE_S  # with a deadline of 30 s it is 45
SMALL_BUFFER = 64 << 10  # of what the kernel takes for a client that does not read
DEADLINES = patch(
    f"web.HEADERS_S = web.STALLED_S = app.BODY_S = {DEADLINE_S}",
    "import socket",
    "def made(self, transport, really=web.Deadlines.connection_made):",
    f"    transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {SMALL_BUFFER})",
    "    really(self, transport)",
    "web.Deadlines.connection_made = made",
)
BODY = b'{"prompt": "' + b"a" * 50 + b'"}'
HEAD = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BEGINNINGS = (
    b"", f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n".encode(), f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(),
    b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
)  # fmt: skip
MUCH: dict[str, Any] = {"prompt": "a", "n": 2, "logprobs": 20, "logit_bias": NO_END}  # some MB of answer
LITTLE: dict[str, Any] = {"prompt": "a", "n": 1, "logprobs": 20, "logit_bias": NO_END}  # a kB for each of max_tokens


def row(scale: Scale) -> Row:
    """R16 of the table: in full 50 slow senders, 50 slow readers and 10 others."""
    return tried(scale, DEADLINES, scale.pick(4, 50), scale.pick(24, 50), scale.pick(2, 10))


def controls(scale: Scale) -> dict[str, bool]:
    """Without deadlines the slow ones stay."""
    code = f"{DEADLINES}\nweb.Deadlines.start = lambda *_: None\napp.BODY_S = 3600.0"
    return {"deadlines": bool(tried(scale, code, 4, 2, 0, patience_s=6.0).failures)}


def tried(scale: Scale, code: str, senders: int, readers: int, others: int, patience_s: float = HANG_S) -> Row:
    """So many of each; those that are slow must be gone before `patience_s`."""
    result = Row("R16", "clients that send or read a byte at a time")
    random_run(scale.folder)
    with serving(scale.folder, code=code) as server:
        wanted: list[dict[str, Any]] = []
        for i in range(readers):  # of answers of all sizes some leave a rest to the server that is below any limit
            size = MUCH if i % 8 == 7 else LITTLE | {"max_tokens": 60 + 8 * (i % 24)}
            wanted.append(size | {"stream": i % 16 == 0})
        alone = [first_token(server) for _ in range(10)]
        wait_until(server.idle)
        quick = beside_quick(server, wanted, others) if scale.full else alone
        wait_until(server.idle)
        before = server.descriptors()
        slow = [server.open(BEGINNINGS[i % len(BEGINNINGS)]) for i in range(senders)]
        loaded: list[float] = []
        threads = [threading.Thread(target=normal, args=(server, loaded, scale.pick(2, 5))) for _ in range(others)]
        reading: list[socket.socket] = []
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for fields in wanted:
            wait_until(lambda: server.figure("texts_active") + server.figure("texts_queued") < 60)
            reading.append(server.begin(fields, receive_buffer=4096))
        while (left := server.descriptors() - before) > 0 and time.monotonic() - began < patience_s:
            for client in slow:
                trickle(client, sends=True)
            for client in reading[::2]:  # the others do not read at all
                trickle(client, sends=False)
            time.sleep(0.1)
        result.trials += senders + readers
        result.failures += [f"{left} slow clients are still there"] if left > 0 else []
        seconds = time.monotonic() - began
        for thread in threads:
            thread.join()
        promised = others * scale.pick(2, 5)
        result.check(len(loaded) == promised, f"{promised - len(loaded)} requests of others had no answer")
        result.check(left > 0 or wait_until(server.idle) is not None, "something is written for nobody")
        server.check_sound(result, "slow clients")
        for client in (*slow, *reading):
            client.close()
    if scale.full:
        result.lowered = (
            "the first token is held against that beside quick clients: texts share the machine, whoever reads"
        )
    if not is_linux():
        result.measured["descriptors"] = "not run: they cannot be counted here"
    if others:
        told = f"{1e3 * p95(loaded):.0f} ms, beside quick clients who ask for the same {1e3 * p95(quick):.0f} ms, "
        told += f"alone {1e3 * p95(alone):.0f} ms"
        result.measured["first token of the others, 95th percentile"] = told
        result.check(not scale.full or p95(loaded) < 2 * p95(quick), f"first token of the others: {told}")
    result.measured["the last slow one was gone"] = f"after {seconds:.1f} s with deadlines of {DEADLINE_S:g} s"
    result.check(not scale.full or seconds < LIMIT_S, f"the last slow one was gone after {seconds:.1f} s")
    return result


def p95(seconds: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(seconds, n=20)[-1]


def first_token(server: Server) -> float:
    """Seconds to the first byte of the text of a stream."""
    began = time.monotonic()
    with server.begin({"prompt": "Once", "max_tokens": 4, "stream": True}) as client:
        data = b""
        while b"data: " not in data and (piece := client.recv(4096)):
            data += piece
        if b"data: " not in data:
            raise RuntimeError(f"no stream: {data!r}")
        seconds = time.monotonic() - began
        while b"[DONE]" not in data and (piece := client.recv(4096)):
            data += piece
    return seconds


def beside_quick(server: Server, wanted: list[dict[str, Any]], others: int) -> list[float]:
    """Seconds to the first token for others while clients that read at once ask for the same as the slow ones."""
    seconds: list[float] = []
    threads = [threading.Thread(target=server.complete, kwargs=fields) for fields in wanted]
    threads += [threading.Thread(target=normal, args=(server, seconds, 5)) for _ in range(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def normal(server: Server, seconds: list[float], count: int) -> None:
    """A client that behaves."""
    for _ in range(count):
        seconds.append(first_token(server))


def trickle(client: socket.socket, sends: bool) -> None:
    """Send one more byte, or read one, of a connection that may have ended."""
    client.setblocking(False)
    with contextlib.suppress(OSError):
        client.send(b"1") if sends else client.recv(1)
