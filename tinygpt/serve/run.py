"""From a run to a listening server, and its end: the last answers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from tinygpt.errors import UserError
from tinygpt.inference import reading
from tinygpt.model import TinyGPT
from tinygpt.native import choose_native
from tinygpt.serve.app import LOGGER, Served, make_app
from tinygpt.serve.engine import Engine, PlainRows, Rows
from tinygpt.tokenizer import Tokenizer
from tinygpt.web import Server, address, bind, log_to_stderr, split_origin

N_WAITING = 64  # texts that may wait for a slot


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
        log_to_stderr(LOGGER, logging.INFO)
        server, url = Server(make_app(served), grace_s, writer.stop), address(listener)
        print(f"Serving {name} at {url}/v1 (Ctrl-C ends it). Try:\n"
              f"  curl {url}/v1/completions -H 'Content-Type: application/json' \\\n"
              f"""    -d '{{"model": "{name}", "prompt": "Once", "max_tokens": 50}}'""", flush=True)  # fmt: skip
        asyncio.run(run(server, listener, writer))


async def run(server: Server, listener: socket.socket, engine: Engine) -> None:
    """Serve, and end without leaving a task behind."""
    try:
        await server.serve(sockets=[listener])
    finally:
        engine.close()
