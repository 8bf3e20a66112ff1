"""R18, clients that leave: nothing more is written for them, wherever their request was.

A token is made to take 10 ms and a prompt 200 ms, so that there is something to leave: a request that nobody stops
would write for seconds. The server runs two texts at a time.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from benchmarks.reliability.common import HANG_S, Row, Scale
from benchmarks.reliability.server import (
    NO_END,
    SLOW,
    Server,
    drop,
    patch,
    random_run,
    serving,
    wait_until,
)  # fmt: skip

BLOCK = 512
LIMIT_S = 1.0  # until nothing is written any more, and until the next answer
LONG: dict[str, Any] = {"prompt": "Once", "logit_bias": NO_END}  # as many tokens as there is room for
WINDOWS = ("streamed", "unstreamed", "first byte", "prefill", "queued")


def row(scale: Scale) -> Row:
    """R18 of the table: in full 200 in the midst of their text and 50 in each of the other windows."""
    windows = ["streamed"] * 4 + ["unstreamed"] * 4 + [w for w in WINDOWS[1:] for _ in range(8)]
    if scale.full:
        windows = ["streamed"] * 200 + [window for window in WINDOWS[1:] for _ in range(50)]
    return tried(scale, windows, patch(SLOW))


def controls(scale: Scale) -> dict[str, bool]:
    """Without the flag a text is written to its end though nobody reads it."""
    deaf = tried(scale, ["unstreamed"], patch(SLOW, "engine.Ticket.cancel = lambda ticket: None"), 10.0)
    return {"flag": any("tokens more" in sentence for sentence in deaf.failures)}


def tried(scale: Scale, windows: list[str], code: str, patience_s: float = HANG_S) -> Row:
    """One client after the other leaves, in the windows given."""
    result, draw = Row("R18", "clients that leave"), random.Random(scale.seed)
    random_run(scale.folder, block_size=BLOCK)
    times: list[tuple[float, float]] = []
    with serving(scale.folder, "--parallel", 2, code=code) as server:
        for number, window in enumerate(windows):
            times.append(leave(result, server, f"{window} (trial {number})", window, draw, patience_s))
        wanted = len(windows) + 2 * windows.count("queued") + windows.count("prefill")
        left, done = gone(server), server.figure("requests_done_total")
        told = f"{left} requests are counted as left and {done} as done, not {wanted} and {len(windows)}"
        result.check((left, done) == (wanted, len(windows)), told)
        server.check_sound(result, "clients that leave")
    for name, taken in zip(("nothing more is written", "a new request is answered"), zip(*times, strict=True),
                           strict=True):  # fmt: skip
        told = f"median {statistics.median(taken):.2f} s, at most {max(taken):.2f} s (limit {LIMIT_S:g} s)"
        result.measured[f"from leaving until {name}"] = told
        result.check(not scale.full or max(taken) < LIMIT_S, f"from leaving until {name}: {told}")
    return result


def leave(
    result: Row, server: Server, label: str, window: str, draw: random.Random, patience_s: float
) -> tuple[float, float]:
    """Seconds until nothing is written any more, and until a new request was answered."""
    written, cancelled = server.figure("tokens_total"), gone(server)
    clients = [server.begin({**LONG, "stream": window == "streamed"})]
    if window == "queued":
        clients += [server.begin({**LONG, "stream": bool(i)}) for i in range(2)]
        reached = wait_until(lambda: server.figure("texts_queued") == 1)
    elif window == "prefill":
        clients[0].close()
        wait_until(lambda: gone(server) == cancelled + 1)
        clients = [server.begin({**LONG, "prompt": [3] * 300})]
        reached, cancelled = wait_until(lambda: server.figure("texts_active") == 1), cancelled + 1
    elif window == "first byte":
        reached = 0.0
    else:
        reached = wait_until(lambda: server.figure("tokens_total") > written)
        if window == "streamed":
            clients[0].recv(100)
        time.sleep(draw.uniform(0, 0.1))
    result.check(reached is not None, f"{label}: the window was never reached")
    began = time.monotonic()
    for client in reversed(clients):  # those that wait leave first
        drop(client, reset=draw.random() < 0.5 and window != "first byte")  # else nobody may have seen the request
    idle = wait_until(lambda: gone(server) == cancelled + len(clients) and server.idle(), patience_s)
    quiet_s = time.monotonic() - began
    result.check(idle is not None, f"{label}: texts are active or wait after {patience_s:g} s")
    before = server.figure("tokens_total")
    result.check(before - written < BLOCK // 2, f"{label}: {before - written} tokens more, though nobody reads them")
    began = time.monotonic()
    reply = server.complete(prompt="a", max_tokens=1)
    answered_s = time.monotonic() - began
    more = server.figure("tokens_total") - before
    result.check(reply.status == 200 and more == 1, f"{label}: then {reply.status}, and {more} tokens for one")
    return quiet_s, answered_s


def gone(server: Server) -> int:
    """Requests whose client left: while a text was written, or so early that the body was not read to its end."""
    return server.figure("requests_cancelled_total") + server.figure("requests_refused_total")
