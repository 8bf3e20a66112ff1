"""What the server and the studio share: who may ask, bodies and headers with limits, JSON, deadlines, the end.

Guard       around an application: Host, Origin, headers and kind of body are checked before anything is read; the log
read_body   a body up to a size and a time; read_json, write_json: strict JSON
refusal     the answer to an ApiError: {"error": {"message", ...}} in one sentence
Deadlines   uvicorn's protocol with an end for headers that do not come and readers that stall
Server      uvicorn's server that ends tidily; listen, bind: a socket for it
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinygpt.display import safe_text
from tinygpt.errors import IO_ERROR, UNSAFE, UserError, did_you_mean

HEADER_BYTES = 64 << 10  # of one request
HEADERS_S, STALLED_S = 10.0, 30.0  # for sending the headers of a request; for reading what is ready
LAST_WORDS_S = 1  # after the grace, for telling those who wait that it is over
MAX_DEPTH = 32  # of nested JSON
LOCAL = ("localhost", "127.0.0.1", "[::1]")
SHUTTING_DOWN = "the server is shutting down"


class ApiError(Exception):
    """A request that cannot be answered: HTTP status, and the fields of OpenAI's error object."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """{"error": {...}}"""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


# --- JSON ------------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN, no Infinity, at most MAX_DEPTH deep; 5.0 is the integer 5. ApiError (400) else."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    def finite(word: str) -> float | int:
        number = float(word)
        if abs(number) == float("inf"):
            refuse(word[:20])
        return int(number) if number.is_integer() and abs(number) < 2**53 else number

    try:
        text = body.decode()
        if deepest(text) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except ValueError as error:  # also what UnicodeDecodeError and JSONDecodeError are
        raise ApiError(400, f"the body is no valid JSON: {error}.") from None


def deepest(text: str) -> int:
    """How deep brackets nest in JSON text, brackets in strings not counted. O(n): no string is tried twice."""
    depth = most = 0
    for token in re.finditer(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', text, re.DOTALL):
        if token[0] in "[{":
            depth += 1
            most = max(most, depth)
        elif token[0] in "]}":
            depth -= 1
    return most


def write_json(value: Any) -> bytes:
    """JSON in UTF-8; half a surrogate pair, which a request may hold and an error quote, stays an escape."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


# --- answers ---------------------------------------------------------------------------------------------------------

PLAIN_HEADERS = {"x-content-type-options": "nosniff"}


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; bytes are JSON already."""
    data = value if isinstance(value, bytes) else write_json(value)
    return Response(data, status, {**PLAIN_HEADERS, **(headers or {})}, media_type="application/json")


def refusal(error: ApiError, close: bool = False) -> Response:
    """The answer for an error; `close` ends the connection, where a body was not read."""
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(error.status, {})
    return json_response(error.body(), error.status, headers | ({"connection": "close"} if close else {}))


def plain_app(**about: Any) -> FastAPI:
    """An application without pages of its own, whose errors are all refusals of ours."""
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False, **about)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return refusal(error, close=error.status in (408, 413))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:  # and then it goes on to the Guard, which logs it
        return refusal(ApiError(500, "the server made a mistake; its log says more."))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        where = safe_text(request.url.path[:200])
        known = [getattr(route, "path", "") for route in app.routes]
        says = {
            404: f"there is no {where}{did_you_mean(where, known)}.",
            405: f"{request.method} is not what {where} takes.",
        }
        message = says.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        return json_response(ApiError(error.status_code, message).body(), error.status_code, headers)

    return app


async def read_body(request: Request, most_bytes: int, most_s: float, advice: str = "send a shorter prompt") -> bytes:
    """The whole body. ApiError beyond a size or a time."""
    body = bytearray()
    try:
        async with asyncio.timeout(most_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise ApiError(413, f"the body is larger than {most_bytes:,} bytes; {advice}.")
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {most_s:g} seconds.") from None
    except ClientDisconnect:
        raise ApiError(400, "the client left before its body was whole.") from None
    return bytes(body)


# --- who may ask -----------------------------------------------------------------------------------------------------


class Guard:
    """Around the application: checks Host, Origin, key and kind of body before anything is read; one line of log."""

    host_advice = "start the server with --allowed-host to allow it"
    origin_advice = "start the server with --cors to allow it"
    headers: tuple[tuple[bytes, bytes], ...] = ()  # of every answer

    def __init__(self, app: ASGIApp, logger: logging.Logger, allowed_hosts: Sequence[str] = (), cors: str = "") -> None:
        """cors: an origin whose pages may ask."""
        self.app, self.logger, self.cors = app, logger, cors
        self.hosts = {*LOCAL, *(host.lower() for host in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, began = 0, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [*self.headers, *(self.cors_headers() if self.cors else [])]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        headers = headers_of(scope)
        try:
            preflight = self.cors and scope["method"] == "OPTIONS"
            self.check(scope, headers, keyless=bool(preflight))
            if preflight:
                await Response(status_code=204)(scope, receive, noting)
            else:
                await self.app(scope, receive, noting)
        except ApiError as error:
            await refusal(error, close=scope["method"] == "POST")(scope, receive, noting)
        except asyncio.CancelledError:  # the grace is over, and the body has not come or the answer was not read
            if not status:
                await refusal(ApiError(503, f"{SHUTTING_DOWN}."), close=True)(scope, receive, noting)
        except Exception:
            self.logger.exception("an answer failed")
            if not status:
                await refusal(ApiError(500, "the server made a mistake; its log says more."))(scope, receive, noting)
        finally:
            if 400 <= status < 500 or status == 503:
                self.note_refusal()
            seconds = time.perf_counter() - began
            path = safe_text(scope["path"][:200], lines=False)
            self.logger.info("%s %s %s %.0f ms", scope["method"], path, status or "left", 1e3 * seconds)

    def note_refusal(self) -> None:
        """Hear of a request that was refused."""

    def check(self, scope: Scope, headers: dict[str, str], keyless: bool) -> None:
        """ApiError for a request that must not be answered."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:  # h11 lets one piece pass
            raise ApiError(400, f"the headers are larger than {HEADER_BYTES:,} bytes.")
        host = headers.get("host", "")
        if not self.allowed(host):
            raise ApiError(403, f"Host {host[:100]!r} is not allowed; {self.host_advice}.")
        origin = headers.get("origin")
        if origin is not None and not self.welcome(origin, host):
            raise ApiError(403, f"Origin {origin[:100]!r} is not allowed; {self.origin_advice}.")
        if not keyless:
            self.check_key(scope, headers)
        if (
            scope["method"] == "POST"
            and headers.get("content-type", "").split(";")[0].strip().lower() != "application/json"
        ):
            raise ApiError(415, "Content-Type must be application/json.")

    def welcome(self, origin: str, host: str) -> bool:
        """Whether the pages of an origin may ask: those of hosts on the list, and of the one that was named."""
        parts = split_origin(origin)
        return (parts is not None and self.allowed(parts)) or (bool(self.cors) and origin == self.cors)

    def check_key(self, scope: Scope, headers: dict[str, str]) -> None:
        """ApiError for a request without the key that it needs."""

    def allowed(self, host: str) -> bool:
        """Whether a host, with or without a port, is on the list."""
        name = re.sub(r":[0-9]+$", "", host.lower())
        return name in self.hosts or ("*" in self.hosts and name != "")

    def cors_headers(self) -> list[tuple[bytes, bytes]]:
        """What lets the pages of one origin use the server."""
        return [
            (b"access-control-allow-origin", self.cors.encode()), (b"vary", b"Origin"),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"Authorization, Content-Type"),
        ]  # fmt: skip


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name; of one that comes twice the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def split_origin(origin: str) -> str | None:
    """host[:port] of an http origin; None for null and all else."""
    try:
        parts = urlsplit(origin)
        good = parts.scheme in ("http", "https") and parts.netloc and not (parts.path or parts.query or parts.fragment)
        return parts.netloc if good and "@" not in parts.netloc else None
    except ValueError:
        return None


# --- listening -------------------------------------------------------------------------------------------------------


class Deadlines(H11Protocol):
    """uvicorn's HTTP/1.1 with two deadlines that it lacks: for headers that do not come, and for a reader that stalls.

    (The body's is in `read_body`.)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadlines: dict[str, asyncio.TimerHandle] = {}

    def start(self, name: str, seconds: float) -> None:
        """Cut the connection after so many seconds, unless `stop` is called before; one that runs goes on running."""
        if name not in self.deadlines:
            self.deadlines[name] = self.loop.call_later(seconds, self.transport.abort)

    def stop(self, name: str) -> None:
        """Met."""
        if name in self.deadlines:
            self.deadlines.pop(name).cancel()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that pause_writing tells of the last bytes of an answer too
        self.start("headers", HEADERS_S)

    def data_received(self, data: bytes) -> None:
        if self.between_requests():  # also the next request on a connection that is kept
            self.start("headers", HEADERS_S)
        super().data_received(data)
        if not self.between_requests():
            self.stop("headers")

    def between_requests(self) -> bool:
        """Whether no request is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        self.start("reader", STALLED_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stop("reader")

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop("headers")
        self.stop("reader")
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """uvicorn's server that ends without raising the signal once more, and after the grace tells who still waits."""

    def __init__(self, app: ASGIApp, grace_s: int, when_over: Callable[[], None]) -> None:
        """when_over: called once the grace is over."""
        super().__init__(uvicorn.Config(
            app, http=Deadlines, ws="none", lifespan="off", log_level="critical", access_log=False,
            proxy_headers=False, server_header=False, h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_graceful_shutdown=grace_s + LAST_WORDS_S,
        ))  # fmt: skip
        self.grace_s, self.when_over = grace_s, when_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self.grace_s, self.when_over)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def log_to_stderr(logger: logging.Logger, level: int) -> None:
    """Lines with the time of day, from a level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level)


def address(listener: socket.socket) -> str:
    """http://HOST:PORT of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int, api_key: str) -> socket.socket:
    """A listening socket. UserError for an address that is taken or is not this machine's, or is open to others."""
    if not api_key and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines in; set a key with TINYGPT_API_KEY or --api-key, or use 127.0.0.1.",
            UNSAFE,
        )
    try:
        return listen(host, port)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another with --port.", IO_ERROR
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError for an address that is taken or is not this machine's."""
    family, kind, number, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, number)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
