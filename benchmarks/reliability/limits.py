"""R14, limits and what is no request: every limit at its edge and one beyond, mutated bodies, raw bytes.

Each edge has its status written down. For mutated bodies and raw bytes no status is foretold, but that it is no 5xx and
that an error is OpenAI's object; afterwards the server must be healthy and no larger.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
from typing import Any

from benchmarks.reliability.common import Row, Scale
from benchmarks.reliability.server import (
    CHAT,
    COMPLETIONS,
    MIB,
    Server,
    patch,
    random_run,
    read_answer,
    request,
    serving,
    status_of,
)  # fmt: skip
from tinygpt import runs
from tinygpt.inference import generate

BLOCK = 32
MOST_GROWTH = 50 << 20  # of memory [bytes]
QUICK = patch("web.HEADERS_S = web.STALLED_S = app.BODY_S = 2.0")
BASES: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {"prompt": "Once", "max_tokens": 2, "temperature": 0}),
    (COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 3, "n": 2, "stop": ["x", "yz"], "logprobs": 3, "echo": True}),
    (COMPLETIONS, {"prompt": [5, 6], "stream": True, "logit_bias": {"7": 1.5}, "seed": 4, "top_p": 0.5}),
    (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True,
            "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_completion_tokens": 2,
            "presence_penalty": 1, "frequency_penalty": -1, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}),
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 8, 9, 1.5, -0.0, 1e308, 1e-308, 2**31, 2**63, -(2**63), 10**400, "", "5", "\x00",
    "\ud800", "\u2028", "<eos>", "a" * 65, "ä" * 3_000, [], {}, [[]], [None], [[0]], [[-1]], [10**30], ["", "\udfff"],
    {"": {}}, {"0": "x"}, {"-1": 1}, {"1e3": 1}, {"3": 10**400}, {"type": "image_url"}, [{"role": 1}], [[1], "a"],
]  # fmt: skip


LIKELY: list[Any] = [
    None, True, False, 0, 1, 2, 0.5, 1.5, "a", "tiny", "user", [3, 4], ["a", "b"], {"5": 1}, "x" * 64, [[3], [4, 5]],
    {"include_usage": True}, [{"role": "", "content": "é"}], 5, 20, -1,
]  # fmt: skip


def row(scale: Scale) -> Row:
    """R14 of the table."""
    result = Row("R14", "limits at the edge and beyond, mutated JSON, raw bytes")
    draw = random.Random(scale.seed)
    folder = random_run(scale.folder, block_size=BLOCK)
    with serving(scale.folder, code=QUICK) as server:
        edges(result, server, runs.load(str(folder))[0].tokenizer.vocab_size)
        raw_edges(result, server)
        head_edges(result, server)
        greedy(result, server, str(folder))
        server.check_sound(result, "limits")
        before = server.rss()
        mutated(result, server, draw, scale.pick(1_000, 10_000))
        raw(result, server, draw, scale.pick(200, 2_000))
        server.check_sound(result, "mutated requests and raw bytes")
        grown = server.rss() - before
        result.measured["memory more after it"] = f"{grown / 1e6:.0f} MB (limit {MOST_GROWTH / 1e6:.0f} MB)"
        result.check(not scale.full or grown < MOST_GROWTH, f"the server has grown by {grown / 1e6:.0f} MB")
    return result


def edges(result: Row, server: Server, vocab: int) -> None:
    """Every limit of a field."""
    many = {str(id): 1 for id in range(3, 304)}
    cases: list[tuple[dict[str, Any], int]] = [
        *(({"temperature": t}, s) for t, s in ((0, 200), (1e-300, 200), (2, 200), (2.001, 400), (-0.001, 400))),
        *(({"top_p": p}, s) for p, s in ((1, 200), (1e-9, 200), (0, 400), (1.001, 400))),
        *(({"n": n}, s) for n, s in ((1, 200), (8, 200), (9, 400), (0, 400), (1.5, 400), ("1", 400), (True, 400))),
        *(({"stop": stop}, s) for stop, s in (("x" * 64, 200), ("x" * 65, 400), ("", 400), (list("abcd"), 200),
                                              (list("abcde"), 400), (["a", ""], 400), ([], 200))),
        *(({"logprobs": k}, s) for k, s in ((0, 200), (20, 200), (21, 400), (-1, 400))),
        *(({"logit_bias": bias}, s) for bias, s in (
            (dict(list(many.items())[:300]), 200), (many, 400), ({"0": 100}, 200), ({"0": 100.1}, 400),
            ({"0": -100}, 200), ({str(vocab - 1): 1}, 200), ({str(vocab): 1}, 400), ({"-1": 1}, 400), ({"x": 1}, 400),
        )),
        *(({"prompt": ids}, s) for ids, s in (
            ([0], 200), ([vocab - 1], 200), ([vocab], 400), ([-1], 400), ([2**31], 400), ([2**64], 400), ([], 400),
            ([[]], 400), ([1.0], 200), ([1.5], 400), (["a"] * 32, 200), (["a"] * 33, 400), ("", 200), ("\0", 200),
        )),
        *(({"prompt": [3] * n, "max_tokens": new}, s) for n, new, s in (
            (BLOCK - 1, 1, 200), (BLOCK, 1, 400), (BLOCK, 0, 200), (BLOCK + 1, 0, 400), (10, BLOCK - 10, 200),
            (10, BLOCK - 9, 400), (10, None, 200), (BLOCK, None, 400), (1, 2**31 - 1, 400), (1, 2**31, 400),
            (1, -1, 400),
        )),
        *(({"presence_penalty": p}, s) for p, s in ((-2, 200), (2, 200), (2.1, 400))),
        *(({"seed": seed}, s) for seed, s in ((-(2**63), 200), (2**63 - 1, 200), (2**63, 400))),
        *(({"top_k": k}, s) for k, s in ((-1, 200), (2**31 - 1, 200), (-2, 400))),
        ({"model": "tiny"}, 200), ({"model": "other"}, 404), ({"model": "x" * 257}, 400), ({"unknown": [1]}, 200),
        ({"prompt": ["a"] * 5, "n": 7}, 400), ({"prompt": "a" * 200_000}, 400),
    ]  # fmt: skip
    for fields, wanted in cases:
        reply = server.complete(**{"prompt": "a", "max_tokens": 1, **fields})
        label = f"{json.dumps(fields)[:80]} must give {wanted}"
        result.check(reply.status == wanted, f"{label}, not {reply.status}: {reply.body[:200]!r}")
        if reply.status == 400 and ("max_tokens" in fields and fields["max_tokens"] in (1, 0, BLOCK - 9)):
            result.check(reply.json["error"]["code"] == "context_length_exceeded", f"{label}: {reply.body[:200]!r}")


def raw_edges(result: Row, server: Server) -> None:
    """Bodies that no JSON library would write, and sizes."""
    start = b'{"prompt": "a", "max_tokens": 1'

    def nested(depth: int) -> bytes:
        return start + b', "x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    def padded(size: int) -> bytes:
        return start + b" " * (size - len(start) - 1) + b"}"

    bodies: list[tuple[str, bytes, int]] = [
        ("depth 32", nested(32), 200), ("depth 33", nested(33), 400), ("depth 500,000", b"[" * 500_000, 400),
        *((word, start + b', "temperature": ' + word.encode() + b"}", 400)
          for word in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "1" + "0" * 4_000)),
        ("NaN where it does not matter", start + b', "x": NaN}', 400),
        ("an integer of 4,301 digits", start + b', "x": ' + b"1" * 4_301 + b"}", 400),
        ("a number of 1 MB", start + b', "x": ' + b"1" * 1_000_000 + b"}", 400),
        ("no UTF-8", start + b', "x": "\xff"}', 400), ("overlong UTF-8", start + b', "x": "\xc0\xaf"}', 400),
        ("a surrogate in UTF-8", start + b', "x": "\xed\xa0\x80"}', 400), ("BOM", b"\xef\xbb\xbf" + start + b"}", 400),
        ("half a character", b'{"prompt": "\\ud800"}', 400), ("two halves", b'{"prompt": "\\ude00\\ud83d"}', 400),
        ("a whole one", b'{"prompt": "\\ud83d\\ude00", "max_tokens": 1}', 200),
        ("half a character as a stop", start + b', "stop": "\\ud800"}', 400),
        ("half a character as a model", start + b', "model": "\\ud800"}', 400),
        ("half a character as an id", start + b', "logit_bias": {"\\ud800": 1}}', 400),
        ("empty", b"", 400), ("white space", b" \n", 400), ("a list", b"[]", 400), ("a number", b"1", 400),
        ("cut", start, 400), ("more after it", start + b"} {}", 400),
        ("quotes that do not end", b'"' + b'\\"' * 500_000, 400),
        ("backslashes", b'{"prompt": "' + b"\\" * 1_000_001 + b'"}', 400),
        ("many ids, the last one wrong", b'{"prompt": [' + b"0," * 500_000 + b"0.5]}", 400),
        ("many wrong messages", b'{"prompt": [' + b"{}," * 300_000 + b"{}]}", 400),
        ("1 MiB", padded(MIB), 200), ("1 MiB and a byte", padded(MIB + 1), 413), ("3 MiB", padded(3 * MIB), 413),
    ]  # fmt: skip
    for label, body, wanted in bodies:
        with contextlib.suppress(ConnectionError):
            reply = server.ask("POST", COMPLETIONS, body)
            told = f"{label} must give {wanted}, not {reply.status}: {reply.body[:200]!r}"
            result.check(reply.status == wanted and (wanted == 200 or is_error(reply.body)), told)
            continue
        result.check(False, f"{label} must give {wanted}; the connection was cut before")
    for size, wanted in ((MIB, 200), (MIB + 1, 413), (3 * MIB, 413)):
        body = padded(size)
        parts = (body[i : i + 50_000] for i in range(0, size, 50_000))
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        wire = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
        got = status_of(patient(server, wire))
        result.check(got == wanted, f"{size:,} bytes in chunks must give {wanted}, not {got}")
        expecting = request(COMPLETIONS, b"", Expect="100-continue", Content_Length=str(size))
        with server.open(expecting) as client:
            first = client.recv(1 << 16)
            if b" 100 " in first.split(b"\r\n")[0]:
                with contextlib.suppress(ConnectionError):
                    client.sendall(body)
                first += read_answer(client)
        result.check(status_of(first) == wanted, f"{size:,} bytes after 100-continue: {first[:200]!r}")


def patient(server: Server, data: bytes) -> bytes:
    """The answer to something large, though the server may cut its sending short."""
    with server.open(b"") as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        return read_answer(client)


def head_edges(result: Row, server: Server) -> None:
    """Headers within 1 KiB of 64 KiB and beyond, at once and in pieces; what HTTP itself forbids."""
    for size, wanted in ((63 << 10, 200), (66 << 10, 400), (200 << 10, 400)):
        for piece in (1 << 20, 10_000):
            wire = f"GET /health HTTP/1.1\r\nHost: localhost\r\nX: {'x' * size}\r\n\r\n".encode()
            with server.open(b"") as client:
                with contextlib.suppress(ConnectionError):
                    for i in range(0, len(wire), piece):
                        client.sendall(wire[i : i + piece])
                got = status_of(read_answer(client))
            result.check(got == wanted, f"{size:,} bytes of headers in pieces of {piece:,} must give {wanted}: {got}")
    get = "GET /health HTTP/1.1\r\nHost: localhost\r\n"
    cases = {
        get + "\r\n": 200, get + "\r\n" + get + "\r\n": 200, "GET /health HTTP/1.1\r\n\r\n": 400,
        get + "Host: localhost\r\n\r\n": 400, "GET /health HTTP/1.0\r\n\r\n": 403, 
        "GET /health\r\n\r\n": 400, "\r\n\r\n\r\n": 400, get + "Transfer-Encoding: gzip\r\n\r\n": 400,
        get + "Content-Length: -1\r\n\r\n": 400, get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
        get + "A : b\r\n\r\n": 400, get + "A: \0\r\n\r\n": 400, get + "Content-Length: 5\r\n\r\nabcde": 200,
        get + "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n": 200,
        get.replace("GET", "HEAD") + "\r\n": 405, get.replace("GET", "OPTIONS") + "\r\n": 405,
        get.replace("GET", "PUT") + "Content-Length: 2\r\n\r\n{}": 405, get.replace("GET", "BREW") + "\r\n": 405,
        get.replace("/health", "/") + "\r\n": 404, get.replace("/health", "*") + "\r\n": 404,
        get.replace("/health", "http://localhost/health") + "\r\n": 404,
    }  # fmt: skip
    for wire, wanted in cases.items():
        with server.open(wire.encode()) as client:
            first = client.recv(1 << 16)
        result.check(status_of(first) == wanted, f"{wire[:90]!r} must give {wanted}: {first[:100]!r}")
    with server.open((get + "\r\n").encode() * 50) as client:  # one after the other on one connection
        data = b""
        while data.count(b'{"status":"ok"}') < 50 and (piece := client.recv(1 << 16)):
            data += piece
    count = data.count(b"HTTP/1.1 200")
    result.check(count == 50, f"50 requests sent at once had {count} answers")


def greedy(result: Row, server: Server, run: str) -> None:
    """Temperature 0 is what the library writes greedily."""
    loaded, model, _, _ = runs.load(run)
    for prompt in ("Once", "The fox", "é"):
        wanted = generate(model, loaded.tokenizer, prompt, 12)[len(prompt) :]
        for seed in (0, 1):
            got = server.complete(prompt=prompt, max_tokens=12, seed=seed).text
            result.check(got == wanted, f"greedy {prompt!r}: {got!r}, the library writes {wanted!r}")


def is_error(body: bytes) -> bool:
    """Whether an answer is OpenAI's error object."""
    try:
        error = json.loads(body)["error"]
        return {*error} == {"message", "type", "param", "code"} and isinstance(error["message"], str)
    except (ValueError, TypeError, KeyError):
        return False


# --- what is no request ----------------------------------------------------------------------------------------------


def mutated(result: Row, server: Server, draw: random.Random, count: int) -> None:
    """Bodies with something odd in them, over one connection."""
    statuses: dict[int, int] = {}
    connection = server.connect()
    for number in range(count):
        path, body = mutation(draw)
        try:
            reply = server.ask("POST", path, body, over=connection)
        except (OSError, ValueError) as error:
            result.check(False, f"mutated body {number}: {error!r} for {body[:300]!r}")
            connection.close()  # which the next request opens again
            continue
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
        good = sound(reply.body, reply.headers) if reply.status == 200 else is_error(reply.body)
        result.check(reply.status < 500 and good, f"{reply.status} {reply.body[:200]!r} for {body[:300]!r}")
    connection.close()
    told = ", ".join(f"{statuses[status]:,} x {status}" for status in sorted(statuses))
    result.measured["answers to mutated bodies"] = told


def sound(body: bytes, headers: dict[str, str]) -> bool:
    """Whether a 200 is whole."""
    if not headers["content-type"].startswith("text/event-stream"):
        return bool(json.loads(body)["choices"])
    return body.endswith(b"data: [DONE]\n\n")


def mutation(draw: random.Random) -> tuple[str, bytes]:
    """A path and a body: fields exchanged for odd ones, bytes changed, cut or doubled."""
    path, base = draw.choice(BASES)
    fields = json.loads(json.dumps(base))
    names = [*{name: 0 for _, other in BASES for name in other}]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        name = draw.choice(names if draw.random() < 0.3 else [*fields, *names[:1]])
        place = fields
        if isinstance(fields.get("messages"), list) and fields["messages"] and draw.random() < 0.2:
            inner = fields["messages"][0]
            if isinstance(inner, dict):
                place, name = inner, draw.choice(("role", "content", "name"))
        if draw.random() < 0.2:
            place.pop(name, None)
        else:
            place[name] = draw.choice(LIKELY if draw.random() < 0.6 else ODD)
    body = bytearray(json.dumps(fields).encode())
    kind = draw.random()
    if kind < 0.1:
        for _ in range(draw.randint(1, 4)):
            body[draw.randrange(len(body))] = draw.randrange(256)
    elif kind < 0.15:
        del body[draw.randrange(len(body)) :]
    elif kind < 0.2:
        first, last = sorted(draw.randrange(len(body)) for _ in range(2))
        body[first:first] = body[first:last] * draw.randint(1, 50)
    elif kind < 0.23:
        body = bytearray(draw.randbytes(draw.randrange(300)))
    return (draw.choice((COMPLETIONS, CHAT)) if draw.random() < 0.1 else path), bytes(body)


def raw(result: Row, server: Server, draw: random.Random, count: int) -> None:
    """Bytes that are hardly HTTP. Some clients wait a moment, some end at once; none may see a 5xx."""
    words = [b"\r\n", b"\n", b": ", b"\0", b"HTTP/1.1", b"HTTP/2.0", b"Content-Length: 5\r\n", b"Host: localhost\r\n",
             b"Transfer-Encoding: chunked\r\n", b"Content-Length: 99999999999999999999\r\n", b"ffffffffffffffff\r\n",
             b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00", b"%00", b"..", b"\xff\xfe"]  # fmt: skip
    for number in range(count):
        _, body = mutation(draw)
        data = bytearray(request(draw.choice((COMPLETIONS, "/health", "/v1/models", "/%2e%2e/x")), body,
                                 draw.choice(("POST", "GET", "PUT"))))  # fmt: skip
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(data))
            data[place : place + draw.randint(0, 8)] = draw.choice([*words, draw.randbytes(draw.randint(1, 20))])
        if draw.random() < 0.1:
            data = bytearray(draw.randbytes(draw.randint(1, 5_000)))
        answer = b""
        with contextlib.suppress(OSError), server.open(bytes(data)) as client:
            if draw.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
            else:
                client.settimeout(draw.choice((0.01, 0.1)))
            answer = client.recv(1 << 16)
        result.check(status_of(answer) < 500, f"raw bytes {number}: {answer[:200]!r} for {bytes(data)[:200]!r}")
