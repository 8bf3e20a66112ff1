"""`tinygpt studio`: an address on this machine, a browser that opens it, and the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path

from tinygpt.errors import IO_ERROR, UserError
from tinygpt.studio.app import LOGGER, Studio
from tinygpt.web import Server, address, bind, listen, log_to_stderr

PORT, PORTS = 7860, 100  # the first that is tried, and how many


def free_port() -> socket.socket:
    """A listening socket at PORT or the next free one."""
    for port in range(PORT, PORT + PORTS):
        try:
            return listen("127.0.0.1", port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise UserError(f"the ports {PORT} to {PORT + PORTS - 1} are all taken; choose another with --port.", IO_ERROR)


def run(root: Path, port: int | None, browser: bool) -> None:
    """Show the runs below `root` until Ctrl-C or SIGTERM. port: None for PORT or the next free one."""
    listener = free_port() if port is None else bind("127.0.0.1", port, "")
    studio = Studio(root)
    log_to_stderr(LOGGER, logging.WARNING)  # a line for each request would be one for each key that is pressed
    url = f"{address(listener)}/#token={studio.token}"
    print(f"The studio is open at {url}\nLook at your runs there and train others; Ctrl-C ends it, trainings go on.",
          flush=True)  # fmt: skip
    if browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    asyncio.run(serve(Server(studio.app, 0, studio.close), listener, studio))
    if studio.answers.forwards.busy or studio.answers.readers.busy:  # nobody waits for them any more
        sys.stdout.flush()
        os._exit(0)


async def serve(server: Server, listener: socket.socket, studio: Studio) -> None:
    """Serve, and look after the job meanwhile."""
    watching = asyncio.create_task(studio.jobs.watch())
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()
