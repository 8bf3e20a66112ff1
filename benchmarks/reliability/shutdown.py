"""R19, SIGTERM: what runs is finished within the grace, nothing new is taken, and nothing is left behind.

Beside ten requests in flight there are idle connections, one with half of its headers and one with half of its body.
Without grace each of the ten gets an answer, or an end, that says why.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.reliability.common import HANG_S, Row, Scale
from benchmarks.reliability.server import (
    COMPLETIONS,
    NO_END,
    SLOW,
    Reply,
    Server,
    events,
    patch,
    random_run,
    request,
    serving,
    traceback_in,
    wait_until,
)  # fmt: skip

BLOCK, IN_FLIGHT = 128, 10
LIMIT_S = 4.0  # without grace
SHORT = patch(SLOW, "web.HEADERS_S = app.BODY_S = 3.0")
LONG: dict[str, Any] = {"prompt": "Once", "logit_bias": NO_END, "max_tokens": 80}


def row(scale: Scale) -> Row:
    """R19 of the table."""
    result = Row("R19", "SIGTERM with 10 requests in flight, grace 30 and 0")
    random_run(scale.folder, block_size=BLOCK)
    for grace in (30, 0):
        taken = [stopped(result, scale, grace, f"grace {grace} (trial {i})") for i in range(scale.pick(1, 20))]
        told = f"median {statistics.median(taken):.1f} s, at most {max(taken):.1f} s"
        result.measured[f"from SIGTERM to the end, grace {grace}"] = told
        result.check(not scale.full or grace > 0 or max(taken) < LIMIT_S, f"grace 0: {told}, more than {LIMIT_S:g} s")
    return result


def stopped(result: Row, scale: Scale, grace: int, label: str) -> float:
    """Seconds from the signal to the end of the process."""
    with serving(scale.folder, "--grace", grace, code=SHORT) as server, ThreadPoolExecutor(IN_FLIGHT) as pool:
        idle = server.connect()
        server.ask("GET", "/health", over=idle)  # and keeps the connection
        others = [
            server.open(b""), server.open(b"GET /health HTT"),
            server.open(request(COMPLETIONS, b"{}", Content_Length="100")),
        ]  # fmt: skip
        asked = [pool.submit(answer, server, stream=i % 2 == 0) for i in range(IN_FLIGHT)]
        reached = wait_until(lambda: server.figure("texts_active") + server.figure("texts_queued") == IN_FLIGHT)
        result.check(reached is not None, f"{label}: not all requests were in flight")
        children = server_children(server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        refused = wait_until(lambda: not connects(server.port))
        result.check(refused is not None, f"{label}: new connections are taken")
        try:
            code: int | None = server.process.wait(HANG_S)
        except TimeoutError:
            code = None
        seconds = time.monotonic() - began
        result.check(code == 0, f"{label}: exit code {code}: {server.log()[-500:]}")
        for number, future in enumerate(asked):
            problem = wrong(future.result(), stream=number % 2 == 0, whole=grace > 0)
            result.check(not problem, f"{label}, request {number}: {problem}")
        result.check(not traceback_in(server.log()), f"{label}: {traceback_in(server.log())}")
        result.check(not children, f"{label}: child processes {children}")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))
        for client in others:
            client.close()
        idle.close()
        return seconds


def server_children(server: Server) -> str:
    """Process ids of its children, where the system tells them."""
    try:
        with open(f"/proc/{server.process.pid}/task/{server.process.pid}/children") as told:  # noqa: PTH123
            return told.read().strip()
    except OSError:
        return ""


def connects(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def answer(server: Server, stream: bool) -> Reply | str:
    """What a client in flight gets."""
    try:
        return server.complete(**LONG, stream=stream)
    except OSError as error:
        return repr(error)
    except Exception as error:  # an answer that is not complete
        return f"{error!r}: {getattr(error, 'partial', b'')[-200:]!r}"


def wrong(reply: Reply | str, stream: bool, whole: bool) -> str:
    """What is wrong with an answer, which must be whole, or may tell of the end."""
    if isinstance(reply, str):
        return reply
    if reply.status == 200:
        try:
            told = events(reply.body) if stream else [reply.json]
            return "" if told[-1]["choices"][0]["finish_reason"] == "length" else f"not whole: {reply.body[-300:]!r}"
        except ValueError:
            last = reply.body.rstrip().rpartition(b"data: ")[2]
            if not whole and stream and b"shutting down" in last and "error" in json.loads(last):
                return ""
            return f"neither whole nor an error: {reply.body[-300:]!r}"
    if whole or reply.status != 503 or "shutting down" not in reply.json["error"]["message"]:
        return f"{reply.status} {reply.body[:300]!r}"
    return ""
