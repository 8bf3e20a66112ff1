"""R17, many clients at once: every request has one outcome, and every text is the one that a single client gets.

Half of the answers are streamed; all are greedy. The sums of /metrics must be those that the clients count. A burst of
more texts than may run and wait must be refused with 429 and Retry-After, or answered.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

from benchmarks.reliability.common import Row, Scale
from benchmarks.reliability.server import CHAT, COMPLETIONS, NO_END, Server, random_run, serving

PROMPTS = (
    "Once",
    "The fox found",
    "é",
    "",
    "A small owl lost the key.",
    "\n\n",
    "Tom and Mia",
    "1 2 3",
    "hid",
    "x " * 20,
)
MOST_DRIFT = 0.05  # of memory over the requests of the full row


def row(scale: Scale) -> Row:
    """R17 of the table."""
    clients, requests = scale.pick(16, 64), scale.pick(100, 500)
    result, draw = (
        Row("R17", f"{clients} clients at once, {requests} requests, half streamed"),
        random.Random(scale.seed),
    )
    random_run(scale.folder)
    asked = [fields(draw, number) for number in range(requests)]
    with serving(scale.folder) as server:
        alone: dict[str, str] = {}
        for path, body in asked:
            if key(path, body) not in alone:
                alone[key(path, body)] = server.ask("POST", path, {**body, "stream": False}).text
        result.measured["different texts"] = f"{len({*alone.values()}):,}"
        outcomes = at_once(result, server, asked, clients, alone, done_before=len(alone))
        result.measured["answers"] = ", ".join(f"{outcomes[status]:,} x {status}" for status in sorted(outcomes))
        burst(result, server, scale.pick(16, 64))
        if scale.full and server.rss():
            drift(result, server, asked, clients, alone)
        server.check_sound(result, "load")
    return result


def fields(draw: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    """A path and a request; every second one is streamed."""
    prompt, more = draw.choice(PROMPTS), {"temperature": 0, "logit_bias": NO_END, "stream": number % 2 == 0}
    more["max_tokens"] = draw.choice((1, 8, 30, 60))
    if draw.random() < 0.3:
        return CHAT, {"messages": [{"role": "user", "content": prompt}, {"role": "user", "content": "a"}], **more}
    return COMPLETIONS, {"prompt": prompt, **more}


def key(path: str, body: dict[str, Any]) -> str:
    """What the text depends on."""
    return repr((path, {**body, "stream": None}))


def at_once(
    result: Row, server: Server, asked: list[tuple[str, dict[str, Any]]], clients: int, alone: dict[str, str],
    done_before: int,
) -> Counter[int]:  # fmt: skip
    """All requests, by so many clients; the number of answers by status."""
    waiting, outcomes, lock = list(asked), Counter[int](), threading.Lock()
    before = {name: server.figure(f"requests_{name}_total") for name in ("done", "refused", "cancelled", "failed")}
    result.check(before["done"] >= done_before, f"{before['done']} requests are counted as done")

    def client() -> None:
        connection = server.connect()
        while True:
            with lock:
                if not waiting:
                    break
                path, body = waiting.pop()
            try:
                reply = server.ask("POST", path, body, over=connection)
                status, text = reply.status, reply.text if reply.status == 200 else ""
            except Exception as error:  # whatever it is, it is no outcome
                status, text = 0, repr(error)
                connection.close()  # which the next request opens again
            with lock:
                outcomes[status] += 1
                same = status == 429 or (status == 200 and text == alone[key(path, body)])
                result.check(same, f"{status} {text[:80]!r} for {body}, alone {alone[key(path, body)][:80]!r}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = {name: server.figure(f"requests_{name}_total") - count for name, count in before.items()}
    mine = {"done": outcomes[200], "refused": outcomes[429], "cancelled": 0, "failed": 0}
    result.check(counted == mine, f"/metrics counts {counted}, the clients {mine}")
    result.check(sum(outcomes.values()) == len(asked), f"{outcomes} for {len(asked)} requests")
    return outcomes


def burst(result: Row, server: Server, clients: int) -> None:
    """Eight texts per request, more than there is room for."""
    statuses: list[int] = []

    def client() -> None:
        reply = server.complete(prompt="Once", n=8, max_tokens=60, logit_bias=NO_END)
        good = reply.status == 200 and len(reply.json["choices"]) == 8
        full = reply.status == 429 and reply.json["error"]["code"] == "rate_limit_exceeded"
        statuses.append(reply.status if good or (full and int(reply.headers["retry-after"]) > 0) else -reply.status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.check(sorted({*statuses} - {200, 429}) == [] and len(statuses) == clients, f"a burst: {statuses}")
    result.measured["a burst of texts"] = f"{statuses.count(200)} x 200, {statuses.count(429)} x 429"


def drift(
    result: Row, server: Server, asked: list[tuple[str, dict[str, Any]]], clients: int, alone: dict[str, str]
) -> None:
    """Memory over 2,000 more requests."""
    before = server.rss()
    at_once(result, server, (asked * 4)[:2_000], clients, alone, done_before=0)
    grown = server.rss() / before - 1
    result.measured["memory over 2,000 more requests"] = f"{grown:+.1%} of {before / 1e6:.0f} MB (limit 5 %)"
    result.check(grown < MOST_DRIFT, f"memory grew by {grown:.1%} over 2,000 requests")
