"""Leave home: a run as the files that other programs load, compared with those programs before it gets its name.

    export RUN --to hf     what transformers loads          hf.py
                   gguf    what llama.cpp and Ollama load    gguf.py
                   onnx    what onnxruntime loads            onnx.py

Each of these modules has `refuse`, `write`, `compare` and `advice`; `export` calls them in this order:

1. refuse a shape that no such runtime has; nothing is written yet
2. write everything into .tmp-NAME-PID beside the target
3. load it back with the real runtime, if that is installed here, and compare with the model on the prompts
4. write the model card, README.md, with what came out; fsync all files
5. rename an older export to .del-NAME-PID, give the new one its name, delete the older one

Whatever fails or is stopped on the way, the older export stays, or is put back by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.config import listing
from tinygpt.errors import IO_ERROR, UserError, did_you_mean
from tinygpt.export.card import CARD, model_card, read_card
from tinygpt.export.origin import Source, source
from tinygpt.folders import lives
from tinygpt.storage import (
    DOOMED,
    TEMPORARY,
    fsync_file,
    fsync_folder,
    make_folder,
    remove,
    remove_if_possible,
    rename,
    write_durable,
)

__all__ = ["TARGETS", "Exported", "Source", "export", "source"]

TARGETS = ("hf", "gguf", "onnx")
ENCODINGS = {"hf": ("f32",), "gguf": ("f32", "f16", "q8_0"), "onnx": ("f32",)}
WRITERS = {"hf": (), "gguf": ("gguf",), "onnx": ("onnx", "onnxscript")}  # packages that writing needs
READERS = {"hf": "transformers", "gguf": "llama-cpp-python", "onnx": "onnxruntime"}  # what compare loads it with


@dataclass(frozen=True)
class Exported:
    """Where the export is, how near it is to the model, and what to tell the user."""

    path: Path
    figures: dict[str, str | float]  # of the comparison; {} if the runtime is not installed here
    sentences: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def export(reference: str, to: str, out: Path | None = None, encoding: str = "f32") -> Exported:
    """Write a run as what `to` names, into `out` (default: exports/NAME-hf beside runs/), all or nothing.

    Raises UserError: exit 2 for a shape, an encoding or a place that cannot be, or a package that is missing; exit 66
    if the real runtime computes something else; exit 74 if it cannot be written. An older export then stays.
    """
    to, encoding = to.lower(), encoding.lower()
    if to not in TARGETS:
        raise UserError(f"there is no export to {to!r}; targets are {listing(TARGETS)}{did_you_mean(to, TARGETS)}.")
    if encoding not in ENCODINGS[to]:
        raise UserError(f"--to {to} has no encoding {encoding!r}; it can be {listing(ENCODINGS[to])}.")
    if [package for package in WRITERS[to] if importlib.util.find_spec(package) is None]:
        raise UserError(f"--to {to} is written with {listing(WRITERS[to])}: pip install 'tinygpt[{to}]'.")
    target: Any = importlib.import_module(f"tinygpt.export.{to}")  # by name: they import from here
    s, notices = source(reference)
    target.refuse(s.run.config)
    path = out or place_of(s.run.folder) / f"{s.name}-{to}"
    try:
        mend(path)
        replaced = step_replaced(path, s.name, to)
        make_folder(path.parent)
        with replacing(path) as temporary:
            target.write(s, temporary, encoding)
            try:
                figures: dict[str, Any] | None = target.compare(s, temporary, encoding)
            except UserError as error:
                stays = f"{path} is as it was" if path.exists() else f"there is no {path}"
                raise UserError(f"{str(error).rstrip('.')}; nothing was exported, {stays}.", error.exit_code) from None
            card = model_card(s, to, temporary, target.advice(s, Path(), encoding), figures and spelled(figures))
            write_durable(temporary / CARD, card.encode())
    except OSError as error:  # its file has a name that nobody typed
        reason = error.strerror or error
        raise UserError(f"{path} cannot be written: {reason}; choose another place with --out DIR.", IO_ERROR) from None
    other = f" It replaces the export of step {replaced}." if replaced not in ("", f"{s.step:,}") else ""
    said = [f"Wrote {path}: run {s.name}, step {s.step:,}.{other}"]
    if figures is None:
        said.append(f"Not compared with the model: {READERS[to]} is not installed here.")
    else:
        said.append(f"Loaded back and compared: {listing(': '.join(pair) for pair in spelled(figures).items())}.")
    return Exported(path, figures or {}, [*notices, *said, *target.advice(s, path, encoding)])


def spelled(figures: dict[str, Any]) -> dict[str, str]:
    """Figures as text, numbers with the two digits that count."""
    return {name: f"{value:.2g}" if isinstance(value, float) else str(value) for name, value in figures.items()}


# --- places ----------------------------------------------------------------------------------------------------------


def place_of(run: Path) -> Path:
    """exports/ beside the runs/ that the run is in; for a run elsewhere, exports/ here."""
    return run.parent.with_name("exports") if run.parent.name == "runs" else Path("exports")


def step_replaced(path: Path, run: str, to: str) -> str:
    """The step of the export at `path`, which will be replaced; "" if there is nothing but perhaps an empty folder.

    UserError for anything else: an export of another run or format, one that was changed, other people's files.
    """
    if path.name in ("", ".."):
        raise UserError(f"--out {path} has no name of its own; name a folder that is not there yet.")
    if file := next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None):
        raise UserError(f"{path} cannot be a folder, because {file} is a file; choose another place with --out DIR.")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} exists and is no folder; choose another with --out DIR.")
    there, card, why = files_in(path), read_card(path), ""
    if foreign := [name for name in there if card is None or name not in {CARD, *card.files}]:
        why = f"{foreign[0]} in it is not of an export"
    elif card and (changed := [name for name in there if not card.is_unchanged(path, name)]):
        why = f"{changed[0]} in it is not what was exported"
    elif card and (card.run, card.to) != (run, to):
        why = f"it is an export of run {card.run} --to {card.to}"
    if why:
        raise UserError(f"{path} exists and is not replaced, because {why}; choose another place with --out DIR.")
    return card.step if card else ""


def files_in(folder: Path) -> list[str]:
    """Names of all files below `folder`, with / between folders; links count as files."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which has taken the place of `path` afterwards; not so if anything is raised."""
    parent, relic = path.parent, f"{path.name}-{os.getpid()}"
    temporary, former = parent / f"{TEMPORARY}{relic}", parent / f"{DOOMED}{relic}"
    try:
        make_folder(temporary)
        yield temporary
        for name in files_in(temporary):
            fsync_file(temporary / name)
        for folder in (temporary, *(p for p in temporary.rglob("*") if p.is_dir())):
            fsync_folder(folder)
        if path.exists():
            rename(path, former)
        rename(temporary, path)
        fsync_folder(parent)
    except BaseException:
        if former.exists() and not path.exists():
            rename(former, path)
        remove_if_possible(temporary)
        raise
    finally:
        if path.exists():
            remove_if_possible(former)


def mend(path: Path) -> None:
    """Remove what killed exports to `path` left behind, and give back its name to an older export set aside by one."""
    for begin in (DOOMED, TEMPORARY):
        for relic in sorted(path.parent.glob(f"{begin}*")):
            name, _, pid = relic.name.removeprefix(begin).rpartition("-")
            if name != path.name or not pid.isdecimal() or (int(pid) != os.getpid() and lives(int(pid))):
                continue  # of another export, or somebody exports to the same place right now
            if begin == DOOMED and not path.exists():
                rename(relic, path)
            else:
                remove(relic)
