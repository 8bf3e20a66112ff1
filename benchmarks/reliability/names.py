"""R13, names that are paths: wherever a client gives a name, it is compared with the served one and opens nothing.

1,000 payloads in the path of /v1/models/NAME and as the model of a request, and in every place of the studio where a
name may stand, its static files too. Files with a sentence of their own stand where the payloads point to; the sentence
must never be in an answer. There are no imports yet.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from benchmarks.reliability import studio
from benchmarks.reliability.common import Row, Scale, merged
from benchmarks.reliability.data import tree
from benchmarks.reliability.server import COMPLETIONS, NAME, random_run, request, serving, status_of

SENTINEL = "sentinel-7d1f"
TARGETS = ("sentinel.txt", "config.json", "tokenizer.json", "etc/passwd", ".env", NAME, f"{NAME}/config.json", "runs")
ROOTS = (
    "", "../", "..\\", "../../../../../../", "/", "//", "./", "C:\\", "\\\\host\\share\\", "file:///", "~/", "..;/",
    "....//", "\u2215", "..\u2215", "..\uff0f", "\uff0e\uff0e/", "%2e%2e/", "%252e%252e%252f", "..%00/",
)  # fmt: skip
ENDS = ("", "/", "\0", "%00", ".", " ", "?", "#", ":", "::$DATA", "\u202e", "\ud83d")
RAW = (b"%c0%ae%c0%ae/", b"%e0%80%ae%e0%80%af", b"..%c0%af", b"%ff%fe", b"%", b"%zz", b"..%5c..%5c", b"a" * 4096)


def row(scale: Scale) -> Row:
    """R13 of the table, for the endpoints that take a name."""
    result, draw = (
        Row("R13", "paths as names, for the server and every route of the studio that takes one"),
        random.Random(scale.seed),
    )
    run = random_run(scale.folder, block_size=32)
    for folder in (scale.folder, scale.folder / "runs", run):
        (folder / "sentinel.txt").write_text(SENTINEL)
    payloads = named(draw, 1_000)
    with serving(scale.folder) as server:
        server.ask("GET", "/health")
        before = contents(scale.folder)
        for number, payload in enumerate(payloads):
            in_path = number % 2 == 0 or scale.full
            if in_path:
                path = payload if isinstance(payload, bytes) else quoted(payload, draw)
                wire = b"GET /v1/models/" + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                answer = server.raw(wire)
                result.check(status_of(answer) in (400, 404) and SENTINEL.encode() not in answer,
                             f"{wire[:120]!r}: {answer[:300]!r}")  # fmt: skip
            if not in_path or scale.full:
                name = payload.decode() if isinstance(payload, bytes) else payload
                body = json.dumps({"model": name, "prompt": "a", "max_tokens": 1}).encode()
                answer = server.raw(request(COMPLETIONS, body, Connection="close"))
                result.check(status_of(answer) in (400, 404) and SENTINEL.encode() not in answer,
                             f"model {name[:120]!r}: {answer[:300]!r}")  # fmt: skip
        result.check(contents(scale.folder) == before, "a file was made or changed")
        result.check(server.ask("GET", f"/v1/models/{NAME}").status == 200, "the right name is not found")
        server.check_sound(result, "names")
    result.measured["archives"] = "not run: there is nothing that takes them yet"
    beside = scale.folder / "studio"
    beside.mkdir()
    return merged(result, studio.names(replace(scale, folder=beside), payloads, draw, quoted, SENTINEL))


def contents(folder: Path) -> object:
    """Every file but what the server says."""
    return {path: data for path, data in tree(folder).items() if "said-" not in str(path)}


def named(draw: random.Random, count: int) -> list[str | bytes]:
    """Payloads as text, and some that only bytes can spell."""
    every: list[str | bytes] = [
        f"{root}{target}{end}" for root, target, end in itertools.product(ROOTS, TARGETS, ENDS)
        if f"{root}{target}{end}" not in (NAME, f"{NAME}?", f"{NAME}#", f"./{NAME}")
    ]  # fmt: skip
    return [*(RAW * 5), *draw.sample(every, count - 5 * len(RAW))]


def quoted(payload: str, draw: random.Random) -> bytes:
    """As it may stand in a request: encoded once, twice, or only where it must be."""
    how = draw.randrange(3)
    text = payload.encode("utf-8", "surrogatepass")
    once = quote(text, safe="" if how else "/\\%.:;?#~")
    return (quote(once) if how == 2 else once).encode()
