"""R20, who may ask: Host x Origin x method and content type, 48 cases with their status; a page's script gets nothing.

Over sockets: the API and a stream of it; the studio's API, streams, static files and jobs with their token; strings of
script in the pages of a headless browser (in full).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

from benchmarks.reliability import studio
from benchmarks.reliability.common import Row, Scale, merged
from benchmarks.reliability.server import COMPLETIONS, Server, patch, random_run, request, serving, status_of

HOSTS = {"127.0.0.1:{port}": True, "localhost": True, "evil.example:{port}": False, "": False}  # -> allowed
ORIGINS = {"": True, "http://localhost:3000": True, "https://evil.example": False, "null": False}
FORMS = (("GET", "/v1/models", ""), ("POST", COMPLETIONS, "application/json"), ("POST", COMPLETIONS, "text/plain"))
BODY = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
STREAM = json.dumps({"prompt": "a", "max_tokens": 1, "stream": True}).encode()
GOOD_HOSTS = ("LOCALHOST", "localhost:1", "[::1]", "[::1]:8000", "127.0.0.1")
BAD_HOSTS = (
    "localhost.", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example#localhost", "localhost:80:80",
    "localhost:x", "user@localhost", "localhost@evil.example", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::]",
    "::1", "[::ffff:127.0.0.1]", "localhost,evil.example", "evil.example localhost", "localhost/", "xlocalhost", "*",
)  # fmt: skip
BAD_ORIGINS = (
    "http://localhost.evil.example", "http://evil.example/localhost", "http://localhost@evil.example", "file://",
    "http://", "localhost", "//localhost", "http://localhost/", "chrome-extension://localhost", "http://[::1", "*",
    "http://localhost http://evil.example", "http://localhost?x", "NULL", "data:",
)  # fmt: skip
PAGES = "https://pages.example"


def row(scale: Scale) -> Row:
    """R20 of the table, as far as there is something to ask."""
    result = Row(
        "R20",
        "cases Host x Origin x method and content type: 48, in the studio 160; odd hosts and origins; key, token",
    )
    random_run(scale.folder, block_size=32)
    with serving(scale.folder) as server:
        cases(result, server, BODY)
        cases(result, server, STREAM)
        odd(result, server)
        methods(result, server)
        server.check_sound(result, "hosts and origins")
    with serving(scale.folder, "--cors", PAGES, "--allowed-host", "box.local",
                 more_environment={"TINYGPT_API_KEY": "kéy-1"}) as server:  # fmt: skip
        opened(result, server)
    beside = scale.folder / "studio"
    beside.mkdir()
    return merged(result, studio.origins(replace(scale, folder=beside), HOSTS))


def controls(scale: Scale) -> dict[str, bool]:
    """Without the check of Host a page reaches the server by DNS rebinding."""
    random_run(scale.folder, block_size=32)
    without = Row("", "")
    with serving(scale.folder, code=patch("app.Guard.allowed = lambda guard, host: True")) as server:
        cases(without, server, BODY)
    in_studio = Row("", "")
    with studio.studio(scale.folder, patch("web.Guard.allowed = lambda guard, host: True")) as shown:
        studio.cases(in_studio, shown, HOSTS)
    untold = Row("", "")
    with studio.studio(scale.folder, patch("from tinygpt.studio import app as studio_app",
                                           "studio_app.Guard.check_key = lambda *_: None")) as shown:  # fmt: skip
        studio.tokens(untold, shown, 4)
    return {name: bool(row.failures) for name, row in (
        ("Host", without), ("Host in the studio", in_studio), ("token", untold),
    )}  # fmt: skip


def asked(server: Server, method: str, path: str, host: str, origin: str, kind: str, body: bytes = b"") -> bytes:
    """The answer to a request; "" leaves a header out."""
    fields = {"Host": host.format(port=server.port), "Origin": origin, "Content-Type": kind, "Connection": "close"}
    told = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    version = "1.1" if host else "1.0"  # which must not have a Host
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return server.raw(f"{method} {path} HTTP/{version}\r\n{told}{length}\r\n".encode() + body)


def cases(result: Row, server: Server, body: bytes) -> None:
    """The 48."""
    for (host, good), (origin, known), (method, path, kind) in itertools.product(HOSTS.items(), ORIGINS.items(), FORMS):
        wanted = 403 if not (good and known) else 415 if kind == "text/plain" else 200
        before = server.figure("tokens_total")
        answer = asked(server, method, path, host, origin, kind, body if method == "POST" else b"")
        written = server.figure("tokens_total") - before
        label = f"{method} {kind} for Host {host!r} from Origin {origin!r}"
        result.check(status_of(answer) == wanted, f"{label} must give {wanted}: {answer[:300]!r}")
        result.check(written == (wanted == 200 and method == "POST"), f"{label}: {written} tokens written")
        result.check(b"access-control" not in answer.lower(), f"{label}: a CORS header in {answer[:300]!r}")


def odd(result: Row, server: Server) -> None:
    """Names that only look like ours."""
    for host in GOOD_HOSTS:
        answer = asked(server, "GET", "/health", host, "", "")
        result.check(status_of(answer) == 200, f"Host {host} must be allowed: {answer[:200]!r}")
    for host in BAD_HOSTS:
        answer = asked(server, "GET", "/health", host, "", "")
        result.check(status_of(answer) in (400, 403), f"Host {host} must be refused: {answer[:200]!r}")
    for origin in BAD_ORIGINS:
        answer = asked(server, "POST", COMPLETIONS, "localhost", origin, "application/json", BODY)
        result.check(status_of(answer) == 403, f"Origin {origin} must be refused: {answer[:200]!r}")
    kinds = {"application/json; charset=utf-8": 200, "Application/JSON": 200, "application/jsonx": 415, "": 415,
             "application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "text/json": 415,
             "text/plain; application/json": 415, "application/json, text/plain": 415}  # fmt: skip
    for kind, wanted in kinds.items():
        answer = asked(server, "POST", COMPLETIONS, "localhost", "", kind, BODY)
        result.check(status_of(answer) == wanted, f"Content-Type {kind!r} must give {wanted}: {answer[:200]!r}")


def methods(result: Row, server: Server) -> None:
    """Other methods and an upgrade change nothing and have a status of their own."""
    for method, path in itertools.product(
        ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"), ("/v1/models", COMPLETIONS, "/health")
    ):
        answer = asked(server, method, path, "localhost", "", "application/json")
        result.check(status_of(answer) == 405, f"{method} {path} must give 405: {answer[:200]!r}")
        result.check(method != "HEAD" or answer.endswith(b"\r\n\r\n"), f"HEAD {path} has a body: {answer[:300]!r}")
    for path in ("/", "/docs", "/redoc", "/v1", "/v1/embeddings", "/index.html", "//evil.example/", "/v1/models/"):
        answer = asked(server, "GET", path, "localhost", "", "")
        result.check(status_of(answer) == 404, f"GET {path} must give 404: {answer[:200]!r}")
    more = {"Upgrade": "websocket", "Connection": "Upgrade, close", "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    for host, wanted in (("localhost", 200), ("evil.example", 403)):
        answer = server.raw(request("/v1/models", b"", "GET", host, **more))
        result.check(status_of(answer) == wanted, f"an upgrade for {host} must give {wanted}: {answer[:200]!r}")


def opened(result: Row, server: Server) -> None:
    """With a key, one foreign origin and one more host."""

    def get(path: str, origin: str = PAGES, host: str = "box.local", key: bytes = b"", method: str = "GET") -> bytes:
        told = b"Authorization: " + key + b"\r\n" if key else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n"
        return server.raw(head.encode() + told + b"\r\n")

    right = "Bearer kéy-1".encode()
    table: list[tuple[str, int, Any]] = [
        ("the key", 200, get("/v1/models", key=right)),
        ("the key in lower case", 200, get("/v1/models", key=right.replace(b"Bearer", b"bearer"))),
        ("no key", 401, get("/v1/models")), ("another key", 401, get("/v1/models", key=b"Bearer k")),
        ("the key without its kind", 401, get("/v1/models", key=right[7:])),
        ("a longer key", 401, get("/v1/models", key=right + b"1")),
        ("an empty key", 401, get("/v1/models", key=b"Bearer ")),
        ("health without a key", 200, get("/health")), ("a path that is none", 401, get("/v1/x")),
        ("another origin", 403, get("/v1/models", origin="https://evil.example", key=right)),
        ("an origin like it", 403, get("/v1/models", origin=PAGES + ".evil.example", key=right)),
        ("another host", 403, get("/v1/models", host="box.local.evil.example", key=right)),
        ("a preflight", 204, get(COMPLETIONS, method="OPTIONS")),
        ("a preflight from elsewhere", 403, get(COMPLETIONS, origin="https://evil.example", method="OPTIONS")),
    ]  # fmt: skip
    for label, wanted, answer in table:
        result.check(status_of(answer) == wanted, f"{label} must give {wanted}: {answer[:300]!r}")
        told = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"access-control-allow-origin")]
        result.check(told == [b"access-control-allow-origin: " + PAGES.encode()], f"{label}: {told}")
