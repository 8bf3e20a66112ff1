"""What can go wrong because of input, and the exit code that says so.

A `UserError` carries one plain sentence: the value, the rule, the nearest fix. The command line prints
it without a traceback and leaves with `exit_code`. Everything else that escapes is a bug (code 1).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

USAGE = 2  # a wrong word on the command line
BAD_INPUT = 65  # text that cannot be used
MISMATCH = 66  # model, tokenizer and data that do not belong together
NON_FINITE = 70  # loss or gradient is not a number
OUT_OF_MEMORY = 71
NO_CHECKPOINT = 72  # a run without a valid checkpoint
LOCKED = 73  # another process works on this run
IO_ERROR = 74  # disk full, unreadable, network
RANK_LOST = 75  # one of several processes that train together ended or hangs
UNSAFE = 77  # a file that could run code
BAD_CONFIG = 78  # a stored configuration that cannot be used
INTERRUPTED = 130  # Ctrl-C
TERMINATED = 143  # SIGTERM

PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".dill", ".ckpt", ".bin", ".joblib")  # may run code when opened


class UserError(ValueError):
    """A mistake that the user can mend; the text is the whole message, one sentence where possible."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int:
    """The exit code that belongs to an exception; 1 for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    torchs = isinstance(error, RuntimeError) and re.search("out of memory|allocate memory", str(error))
    if torchs or isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        return IO_ERROR
    return getattr(error, "exit_code", 1)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean a, b?)' with the nearest known names, or '' when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(near)}?)" if near else ""
