"""The run folder: make it, find it, read it back.

    runs/<name>/  config.json corpus.json tokenizer.json data/{train,val}.tokens
                  metrics.jsonl samples.jsonl checkpoints/ snapshots/

A folder gets its name when everything in it is written, so a half-made run does not exist. `RUN` on the command
line is a name under runs/ or a path, with @best (default), @last or @STEP behind it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import tokenizers
import torch

import tinygpt
from tinygpt import checkpoint
from tinygpt.config import FORMAT_VERSION, Config, from_stored, to_dict
from tinygpt.data import Ids, read_tokens, write_tokens
from tinygpt.errors import BAD_CONFIG, LOCKED, PICKLE_SUFFIXES, UNSAFE, UserError, did_you_mean
from tinygpt.model import TinyGPT
from tinygpt.storage import canonical, read_json, sha256, write_atomic
from tinygpt.tokenizer import BOS, EOS, Tokenizer

RUNS = Path("runs")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no name for a file on Windows


@dataclass(frozen=True)
class Run:
    """A run folder, read and checked: everything but the weights."""

    folder: Path
    config: Config
    tokenizer: Tokenizer
    corpus: dict[str, Any]  # corpus.json
    facts: dict[str, Any]  # the rest of config.json: command, versions, machine, reasons, baselines
    train_ids: Ids
    val_ids: Ids

    @property
    def marks(self) -> dict[str, float]:
        """What to hold a validation figure against, by name [bits/byte]: baselines, and the floor if it is known."""
        return {**self.facts["baselines"], **({"floor": self.facts["floor"]} if self.facts["floor"] else {})}

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """What a checkpoint must have been made with."""
        return {"tokenizer": self.tokenizer.sha256, "data": sha256(self.train_ids.tobytes() + self.val_ids.tobytes())}


def check_name(name: str) -> str:
    """The name, or UserError if it could not be a folder under runs/ on every system."""
    if not NAME.fullmatch(name):
        rule = "must be 1-64 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        raise UserError(f"run name {name!r} {rule}.")
    if DEVICE_NAME.fullmatch(name):
        raise UserError(f"run name {name!r} is the name of a device on Windows; choose another.")
    return name


def free_name(wanted: str) -> str:
    """`wanted` made a valid name, with -2, -3, ... behind it while a run of that name exists."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:50] or "run"
    base = f"run-{base}" if DEVICE_NAME.fullmatch(base) else base
    names = [base, *(f"{base}-{i}" for i in range(2, 10_000))]
    return next(name for name in names if not (RUNS / name).exists())


def refuse_existing(folder: Path) -> None:
    """UserError if there is a run, or anything else, at this place."""
    if folder.exists():
        raise UserError(f"{folder} exists; go on with --resume --run {folder.name}, or choose another --run NAME.")


def newest() -> Path:
    """The run folder that was worked on last; UserError if there is none."""
    found = [p.parent for p in RUNS.glob("[!.]*/config.json")]
    if not found:
        raise UserError("there is no run to go on with under runs/; start one with tinygpt train.")
    return max(found, key=lambda folder: max(p.stat().st_mtime for p in (folder, *folder.glob("metrics.jsonl"))))


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run for this process; UserError (exit 73) if another process works on it."""
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout:
        raise UserError(f"{folder} is being trained by another process; wait for it or stop it.", LOCKED) from None


def create(
    folder: Path, config: Config, tokenizer: Tokenizer, corpus: dict[str, Any], facts: dict[str, Any],
    train_ids: Ids, val_ids: Ids,
) -> Run:  # fmt: skip
    """Write a new run folder, all or nothing. UserError if one of that name exists."""
    refuse_existing(folder)
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    libraries = {"numpy": np.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__}
    versions = {"tinygpt": tinygpt.__version__, "python": platform.python_version(), **libraries}
    stored = {"format_version": FORMAT_VERSION, "versions": versions, **facts, **to_dict(config)}
    try:
        temporary.mkdir(parents=True)
        write_atomic(temporary / "config.json", canonical(stored))
        write_atomic(temporary / "corpus.json", canonical(corpus))
        tokenizer.save(temporary / "tokenizer.json")
        write_tokens(temporary / "data" / "train.tokens", train_ids, tokenizer)
        write_tokens(temporary / "data" / "val.tokens", val_ids, tokenizer)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return open_run(folder)[0]


def open_run(folder: Path) -> tuple[Run, list[str]]:
    """The run in a folder, and notices. UserError: exit 78 for another format version or a config that cannot be."""
    try:
        stored = read_json(folder / "config.json")
        version = stored["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{folder} is not a run of tinygpt: config.json: {reason}.", BAD_CONFIG) from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} has format version {version}, this tinygpt reads version {FORMAT_VERSION}; "
            f"use the version of tinygpt that made it ({stored.get('versions', {}).get('tinygpt', 'unknown')}).",
            BAD_CONFIG,
        )
    config, notices = from_stored(stored)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    try:
        corpus = read_json(folder / "corpus.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: corpus.json cannot be read: {error}.", BAD_CONFIG) from None
    facts = {name: value for name, value in stored.items() if name not in to_dict(config)}
    missing = [name for name in ("baselines", "floor") if name not in facts]
    if missing:
        raise UserError(f"{folder}: config.json lacks {', '.join(missing)}; restore the original file.", BAD_CONFIG)
    if not isinstance(corpus, dict):
        raise UserError(f"{folder}: corpus.json holds no report; restore the original file.", BAD_CONFIG)
    tokens = [read_tokens(folder / "data" / f"{part}.tokens", tokenizer) for part in ("train", "val")]
    return Run(folder, config, tokenizer, corpus, facts, *tokens), notices


def resolve(reference: str) -> tuple[Path, str]:
    """The folder and the checkpoint ("best", "last" or a step) that a RUN on the command line means."""
    name, at, which = reference.rpartition("@")
    if not at or (Path(reference) / "config.json").is_file():  # a path may contain an @
        name, which = reference, "best"
    if which not in ("best", "last") and not which.isdecimal():
        raise UserError(f"{reference!r}: behind @ stands best, last or a step, not {which!r}.")
    if Path(name).suffix.lower() in PICKLE_SUFFIXES:
        raise UserError(f"{name} may be a pickle, which can run code when opened; tinygpt reads run folders.", UNSAFE)
    for folder in (RUNS / name, Path(name)):
        if name and (folder / "config.json").is_file():
            return folder, which
    known = sorted(p.parent.name for p in RUNS.glob("[!.]*/config.json"))
    there = f"runs here: {', '.join(known)}" if known else "there are no runs here yet: start one with tinygpt train"
    raise UserError(f"there is no run {name!r}{did_you_mean(name, known)}; {there}.")


def resolve_whole(reference: str) -> Path:
    """The folder of a RUN where no single checkpoint of it can be meant; UserError for RUN@STEP."""
    folder, which = resolve(reference)
    if which != "best" or reference.endswith("@best"):
        raise UserError(f"{reference!r}: this command looks at a whole run; leave out @{which}.")
    return folder


def load(reference: str) -> tuple[Run, TinyGPT, checkpoint.Checkpoint, list[str]]:
    """Run, model with its weights (on the CPU, in evaluation mode), its checkpoint, and notices."""
    folder, which = resolve(reference)
    run, notices = open_run(folder)
    loaded, rejected = checkpoint.load(folder, which, run.digests)
    model = TinyGPT(run.config.model)
    checkpoint.load_model(model, loaded.model)
    return run, model.eval(), loaded, notices + rejected


def documents(run: Run, part: str = "train") -> list[str]:
    """The documents of the training or validation text, decoded from its tokens: exactly what went in."""
    ids = {"train": run.train_ids, "val": run.val_ids}[part]
    begins, ends = np.flatnonzero(ids == BOS), np.flatnonzero(ids == EOS)
    return [run.tokenizer.decode(ids[a + 1 : b].tolist()) for a, b in zip(begins, ends, strict=True)]
