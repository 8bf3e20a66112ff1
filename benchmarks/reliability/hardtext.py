"""R15, text that is hard to cut: long runs of one character, stacked marks, noise.

The tokenizer takes time in proportion to the length, and text that cannot fit is refused by its length alone. While
the server is given such texts it answers others: /health is asked all the time.
"""

from __future__ import annotations

import json
import random
import threading
import time

from benchmarks.reliability.common import Row, Scale, small_tokenizer
from benchmarks.reliability.server import COMPLETIONS, MIB, Server, random_run, serving
from tinygpt.tokenizer import Tokenizer

MOST_S_PER_MIB, MOST_RATIO, HEALTH_S = 2.0, 3.0, 0.1  # the ratio is that of one doubling; quadratic would be 4
DOUBLINGS = 4
BLOCK = 2048


def row(scale: Scale) -> Row:
    """R15 of the table."""
    result, size = Row("R15", "long runs, stacked marks and noise"), scale.pick(256 << 10, MIB)
    tokenizer, draw = small_tokenizer(), random.Random(scale.seed)
    slowest = ratio = 0.0
    for _ in range(scale.pick(1, 3)):
        for name, text in hard(draw, size).items():
            part, whole = encoded(tokenizer, text[: len(text) >> DOUBLINGS]), encoded(tokenizer, text)
            doubled = (whole / part) ** (1 / DOUBLINGS)
            result.check(tokenizer.decode(tokenizer.encode(text[:5_000])) == text[:5_000], f"{name} comes back changed")
            per_mib = whole / (len(text.encode()) / MIB)
            slowest, ratio = max(slowest, per_mib), max(ratio, doubled)
            result.check(not scale.full or per_mib < MOST_S_PER_MIB, f"{name}: {per_mib:.2f} s per MiB")
            result.check(not scale.full or doubled < MOST_RATIO, f"{name}: t(2n) / t(n) is {doubled:.2f}")
    if scale.full:
        result.measured["slowest text"] = f"{slowest:.2f} s per MiB (limit {MOST_S_PER_MIB:g})"
        result.lowered = (
            "t(2n) / t(n) is a mean of four doublings and may be 3.0, not 2.6: caches count from 256 KiB on"
        )
        result.measured["t(2n) / t(n)"] = f"at most {ratio:.2f} (limit {MOST_RATIO:g})"
    random_run(scale.folder, block_size=BLOCK)
    with serving(scale.folder) as server:
        meanwhile(result, server, draw, scale)
        server.check_sound(result, "hard text")
    return result


def encoded(tokenizer: Tokenizer, text: str) -> float:
    """Seconds to encode it, the best of three."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        tokenizer.encode(text)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def hard(draw: random.Random, size: int) -> dict[str, str]:
    """Eight texts of about `size` bytes."""
    units = {
        "space": " ",
        "newline": "\n",
        "emoji": "👩‍👧‍👦",
        "marks": "e" + "\u0301" * 50,
        "a": "a",
        "^": "^",
        "0": "0",
    }
    noise = draw.randbytes(size).decode("latin-1").encode()[: size * 3 // 4].decode(errors="ignore")
    return {name: unit * (size // len(unit.encode())) for name, unit in units.items()} | {"noise": noise}


def meanwhile(result: Row, server: Server, draw: random.Random, scale: Scale) -> None:
    """Bodies of nearly 1 MiB: one long text, or 32 shorter ones; health is asked all the time."""
    waits, done = [], threading.Event()

    def look() -> None:
        connection = server.connect()
        while not done.is_set():
            began = time.perf_counter()
            status = server.ask("GET", "/health", over=connection).status
            waits.append((time.perf_counter() - began, status))
            time.sleep(0.005)
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    for name, text in hard(draw, scale.pick(256 << 10, 900_000)).items():
        text = text[: len(text) // 2] if name == "newline" else text  # which takes two bytes in JSON
        body = json.dumps({"prompt": text, "max_tokens": 1}, ensure_ascii=False).encode(errors="replace")
        reply = server.ask("POST", COMPLETIONS, body)
        result.check(reply.status == 400 and reply.json["error"]["code"] == "context_length_exceeded",
                     f"{name}: {reply.status} {reply.body[:200]!r}")  # fmt: skip
        part = text[: len(text) // 40]
        body = json.dumps({"prompt": [part] * 32, "max_tokens": 0}, ensure_ascii=False).encode(errors="replace")
        reply = server.ask("POST", COMPLETIONS, body)
        result.check(reply.status in (200, 400), f"32 x {name}: {reply.status} {reply.body[:200]!r}")
    done.set()
    thread.join()
    longest = max(seconds for seconds, _ in waits)
    result.check({status for _, status in waits} == {200}, f"health answered { ({s for _, s in waits}) }")
    result.measured["longest wait for /health meanwhile"] = f"{longest:.3f} s (limit {HEALTH_S:g})"
    result.check(not scale.full or longest < HEALTH_S, f"/health waited for {longest:.3f} s")
