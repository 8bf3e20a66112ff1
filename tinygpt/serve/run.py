"""From a run to a listening server, and its end: deadlines for slow clients, signals, the last answers."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinygpt.errors import IO_ERROR, UNSAFE, UserError
from tinygpt.inference import reading
from tinygpt.model import TinyGPT
from tinygpt.native import choose_native
from tinygpt.serve.app import HEADER_BYTES, Served, make_app, split_origin
from tinygpt.serve.engine import Engine, PlainRows, Rows
from tinygpt.tokenizer import Tokenizer

HEADERS_S, STALLED_S = 10.0, 30.0  # for sending the headers of a request; for reading what is ready
LAST_WORDS_S = 1  # after the grace, for telling those who wait that it is over
N_WAITING = 64  # texts that may wait for a slot


class Deadlines(H11Protocol):
    """uvicorn's HTTP/1.1 with two deadlines that it lacks: for headers that do not come, and for a reader that stalls.

    (The body's is in `app.read_body`.)
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

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_s: int) -> None:
        super().__init__(config)
        self.engine, self.grace_s = engine, grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self.grace_s, self.engine.stop)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(host: str, port: int, api_key: str) -> socket.socket:
    """A listening socket. UserError for an address that is taken or is not this machine's, or is open to others."""
    if not api_key and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines in; set a key with TINYGPT_API_KEY or --api-key, or use 127.0.0.1.",
            UNSAFE,
        )
    listener = None
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another with --port.", IO_ERROR
        ) from None
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    model: TinyGPT, tokenizer: Tokenizer, name: str, *, host: str = "127.0.0.1", port: int = 8000, api_key: str = "",
    allowed_hosts: Sequence[str] = (), cors: str = "", n_slots: int = 8, grace_s: int = 30, engine: str = "auto",
    say: Callable[[str], Any] = print,
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM; then finish what runs within `grace_s`, cancel the rest, and return.

    engine: what computes (`choose_native`); `say` hears why it is not the fast one.
    """
    if cors and split_origin(cors) is None:
        raise UserError(f"--cors {cors} must be an origin, as in https://example.org.")
    listener = bind(host, port, api_key)
    with reading(model):
        rows: Rows = choose_native(model, engine, n_slots, say) or PlainRows(model)
        writer = Engine(rows, n_slots, N_WAITING)
        served = Served(name, tokenizer, model.config.block_size, writer, api_key, allowed_hosts, cors)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logging.getLogger("tinygpt.serve").addHandler(handler)
        logging.getLogger("tinygpt.serve").setLevel(logging.INFO)
        config = uvicorn.Config(
            make_app(served), http=Deadlines, ws="none", lifespan="off", log_level="critical", access_log=False,
            proxy_headers=False, server_header=False, h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_graceful_shutdown=grace_s + LAST_WORDS_S,
        )  # fmt: skip
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"Serving {name} at http://{shown}:{address[1]}/v1 (Ctrl-C ends it). Try:\n"
              f"  curl http://{shown}:{address[1]}/v1/completions -H 'Content-Type: application/json' \\\n"
              f"""    -d '{{"model": "{name}", "prompt": "Once", "max_tokens": 50}}'""", flush=True)  # fmt: skip
        asyncio.run(run(Server(config, writer, grace_s), listener, writer))


async def run(server: Server, listener: socket.socket, engine: Engine) -> None:
    """Serve, and end without leaving a task behind."""
    try:
        await server.serve(sockets=[listener])
    finally:
        engine.close()
