"""Signals that stop the command, held back while they would get lost. No torch."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@contextlib.contextmanager
def signals_waiting() -> Iterator[None]:
    """What tells the command to stop is heard at the end, whatever happens inside.

    In the midst of loading numpy and torch it would get lost, and PyTorch's exporter takes it for an error of its own.
    In a thread, which hears no signals, this does nothing.
    """
    came: list[int] = []
    listening = threading.current_thread() is threading.main_thread()
    heard = [number for number in STOPPING if listening and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
