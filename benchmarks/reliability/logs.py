"""R29, the log: one line for each request whatever is in it, nothing that drives a terminal, and never the key."""

from __future__ import annotations

import random
import re
from urllib.parse import quote

from benchmarks.reliability.common import Row, Scale
from benchmarks.reliability.server import COMPLETIONS, JSON, Server, random_run, request, serving, wait_until

KEY = "sk-sécret-4f1c"
NASTY = (
    "\x1b[2J", "\x1b]0;owned\x07", "\x1b[31mred", "\r\n12:00:00 GET /forged 200 1 ms", "\n", "\r", "\t", "\x00", "\x7f",
    "\x9b31m", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ufeff", "\b\b\b", "\x0b", "\x0c", "%s%n{0}", "{{7*7}}",
)  # fmt: skip
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\t]")


def row(scale: Scale) -> Row:
    """R29 of the table."""
    result, draw = Row("R29", "control and ANSI characters and keys in 100 requests"), random.Random(scale.seed)
    random_run(scale.folder, block_size=32)
    with serving(scale.folder, more_environment={"TINYGPT_API_KEY": KEY}) as server:
        before = len(server.lines())
        sent, answers = requests(server, draw, 100), b""
        for data in sent:
            answers += server.raw(data)
        wait_until(lambda: len(server.lines()) - before >= len(sent), seconds=20)
        log = server.log()
        lines = log.splitlines()[-len(sent) :]
        written = len(server.lines()) - before
        result.check(written == len(sent), f"{written} lines for {len(sent)} requests")
        for line in lines:
            result.check(bool(re.fullmatch(r"\d\d:\d\d:\d\d [A-Z]+ \S.* \d{3} \d+ ms", line)), f"a line is {line!r}")
        found = sorted({*UNSAFE.findall(log)})
        result.check(not found, f"characters {found} are in the log")
        for name, words in {"the log": log, "an answer": answers.decode(errors="replace")}.items():
            result.check(not any(secret in words for secret in (KEY, "sécret", quote(KEY))), f"the key is in {name}")
        told = server.process.args
        result.check(KEY not in str(told), "the key is in the list of processes")
        result.check("Traceback" not in log, log[log.find("Traceback") :][:900])
    return result


def requests(server: Server, draw: random.Random, count: int) -> list[bytes]:
    """What is sent: nasty text in the path, the model, the prompt and headers; right, wrong and odd keys."""
    found = []
    for number in range(count):
        nasty, key = (
            NASTY[number % len(NASTY)] * draw.randint(1, 3),
            draw.choice((KEY, KEY[:-1], f"{KEY}x", "", "sk-x")),
        )
        fields = JSON | {"Authorization": f"Bearer {key}", "Connection": "close"}
        if number % 4 == 0:
            found.append(request(f"/{quote(nasty)}/v1/x", b"", "GET", **fields))
        elif number % 4 == 1:
            found.append(request(f"/v1/models/{quote(nasty)}?key={quote(nasty)}", b"", "GET", **fields))
        else:
            body = (
                f'{{"model": {escaped(nasty)}, "prompt": {escaped(nasty)}, "user": {escaped(nasty)}, "max_tokens": 1}}'
            )
            found.append(request(COMPLETIONS, body.encode(), **fields))
    return found


def escaped(text: str) -> str:
    """JSON."""
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'
