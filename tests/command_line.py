"""The command line as a user sees it: words in; text, errors and the exit code out. Shared by the tests beside it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The smallest model that still is one: a training of a few steps takes less than a second.
TINY = ("n_layers=1", "n_embd=16", "n_heads=2", "block_size=16", "vocab_size=300", "threads=1")
STORY = "{name} had a {colour} boat. One day {name} took the boat to the lake and {name} was very happy.\nThe end."


def story_text(count: int = 40) -> str:
    """`count` different short documents, with three empty lines between them."""
    names, colours = ("Ana", "Ben", "Cleo", "Dan", "Eve"), ("red", "blue", "green", "tiny", "big", "old", "new", "odd")
    told = [STORY.format(name=name, colour=colour) for colour in colours for name in names]
    assert count <= len(told)
    return "\n\n\n".join(told[:count]) + "\n"


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def tinygpt(*words: str | Path, stdin: bytes = b"") -> Outcome:
    """Run `tinygpt WORDS` in this process. An exception that escapes is what a user sees: its traceback, and code 1."""
    from tinygpt import cli, plan, prepare

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code: Any = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tinygpt", *map(str, words)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("COLUMNS", "200")
        # 4 steps are enough to see that measuring works; the seconds of it are for a good forecast
        patch.setattr(prepare, "measure", lambda config, machine, seconds: plan.measure(config, machine, 0.0))
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        except Exception:
            code = 1
            traceback.print_exc(file=err)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Outcome(code, *texts)


def refused(exit_code: int, words: str, call: Callable[..., object], *arguments: object) -> str:
    """The sentence with which `call` refuses its arguments, which has these words and this exit code."""
    from tinygpt.errors import UserError

    with pytest.raises(UserError, match=words) as error:
        call(*arguments)
    assert error.value.exit_code == exit_code
    return str(error.value)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """Work in `folder`, with no settings and no cache of the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / ".config"))
        patch.setenv("TINYGPT_CACHE", str(folder / ".cache"))
        yield folder


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below `folder` with its time of change and its bytes; lock files are no content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name != ".lock":
            data = path.read_bytes() if path.is_file() else b""
            found[path.relative_to(folder).as_posix()] = (path.stat().st_mtime_ns if path.is_file() else 0, data)
    return found


def environment(folder: Path) -> dict[str, str]:
    """Environment for a true subprocess that works in `folder`."""
    without = ("PYTHONUNBUFFERED", "WORLD_SIZE")  # as a user has it
    own = {"XDG_CONFIG_HOME": str(folder / ".config"), "TINYGPT_CACHE": str(folder / ".cache"), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in {**os.environ, **own}.items() if name not in without}
