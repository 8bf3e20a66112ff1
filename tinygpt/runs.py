"""What is in a run folder: make it, read it back.

    runs/<name>/  config.json corpus.json tokenizer.json data/{train,val}.tokens (start.safetensors)
                  metrics.jsonl samples.jsonl checkpoints/ snapshots/

config.json is written last, and a folder without it is no run, so a half-made run does not exist.
"""

from __future__ import annotations

import contextlib
import functools
import math
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

import tinygpt
from tinygpt import checkpoint
from tinygpt.config import FORMAT_VERSION, Config, from_stored, to_dict
from tinygpt.data import Ids, digest, read_tokens, write_tokens
from tinygpt.errors import BAD_CONFIG, UserError
from tinygpt.folders import WRITTEN_FIRST, refuse_existing, resolve
from tinygpt.model import TinyGPT
from tinygpt.records import METRICS, read
from tinygpt.start import start_from_pairs, starts_from_pairs
from tinygpt.storage import canonical, read_json, remove_if_possible, write_atomic
from tinygpt.tokenizer import BOS, EOS, Tokenizer

DECIDED = ("max_steps", "eval_every", "save_every", "sample_every")  # by the planner, where they were 0


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

    @property
    def origin(self) -> dict[str, Any] | None:
        """{"source", "step", "sha256"} of the weights that it began with, if they came from another model."""
        return self.facts.get("from")

    @property
    def began_with(self) -> str:
        """The same in words: "letters, step 400", "" for a run from scratch."""
        if self.origin is None:
            return ""
        return self.origin["source"] + ("" if self.origin["step"] is None else f", step {self.origin['step']:,}")

    def to_dict(self) -> dict[str, Any]:
        """Settings and facts as they stand in config.json."""
        return {**self.facts, **to_dict(self.config)}

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """What a checkpoint must have been made with."""
        return {"tokenizer": self.tokenizer.sha256, "data": digest(self.train_ids, self.val_ids)}


def create(
    folder: Path, config: Config, tokenizer: Tokenizer, corpus: dict[str, Any], facts: dict[str, Any],
    train_ids: Ids, val_ids: Ids, start: dict[str, Tensor] | None = None,
) -> Run:  # fmt: skip
    """Write a new run folder, all or nothing. UserError if one of that name exists.

    start: weights to begin with; facts["from"] says where they come from.
    """
    refuse_existing(folder)
    libraries = {"numpy": np.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__}
    versions = {"tinygpt": tinygpt.__version__, "python": platform.python_version(), **libraries}
    try:
        if start is not None:
            facts = {**facts, "from": {**facts["from"], "sha256": checkpoint.save_start(folder, start)}}
        stored = {"format_version": FORMAT_VERSION, "versions": versions, **facts, **to_dict(config)}
        write_atomic(folder / "corpus.json", canonical(corpus))
        tokenizer.save(folder / "tokenizer.json")
        write_tokens(folder / "data" / "train.tokens", train_ids, tokenizer)
        write_tokens(folder / "data" / "val.tokens", val_ids, tokenizer)
        write_atomic(folder / "config.json", canonical(stored))
    except BaseException:
        for name in WRITTEN_FIRST:
            remove_if_possible(folder / name)
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless something else is in it, such as its lock
        raise
    return open_run(folder)[0]


def open_run(folder: Path) -> tuple[Run, list[str]]:
    """The run in a folder, and notices. UserError: exit 78 for another format version or a config that cannot be."""
    try:
        stored = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{folder} is not a run of tinygpt: config.json: {reason}.", BAD_CONFIG) from None
    if not isinstance(stored, dict) or "format_version" not in stored:
        raise UserError(f"{folder} {what_else(folder, stored)}.", BAD_CONFIG)
    version = stored["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} has format version {version}, this tinygpt reads version {FORMAT_VERSION}; "
            f"use the version of tinygpt that made it ({stored.get('versions', {}).get('tinygpt', 'unknown')}).",
            BAD_CONFIG,
        )
    config, notices = from_stored(stored)
    undecided = [name for name in DECIDED if not getattr(config.train, name)]
    if undecided:
        raise UserError(f"{folder}: config.json: {undecided[0]}=0 is for the planner, which has decided.", BAD_CONFIG)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    try:
        corpus = read_json(folder / "corpus.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: corpus.json cannot be read: {error}.", BAD_CONFIG) from None
    facts = {name: value for name, value in stored.items() if name not in to_dict(config)}
    missing = [name for name in ("baselines", "floor") if name not in facts]
    if missing:
        raise UserError(f"{folder}: config.json lacks {', '.join(missing)}; restore the original file.", BAD_CONFIG)
    if not is_origin(facts.get("from")):
        raise UserError(f"{folder}: config.json: from is no source, step and sha256; restore the file.", BAD_CONFIG)
    if not isinstance(corpus, dict):
        raise UserError(f"{folder}: corpus.json holds no report; restore the original file.", BAD_CONFIG)
    tokens = [read_tokens(folder / "data" / f"{part}.tokens", tokenizer) for part in ("train", "val")]
    return Run(folder, config, tokenizer, corpus, facts, *tokens), notices


def what_else(folder: Path, stored: Any) -> str:
    """What a folder is whose config.json is not a run's, and what to do instead."""
    if isinstance(stored, dict) and "model_type" in stored:
        start = f"tinygpt train TEXT --from {shlex.quote(str(folder))}"
        return f"is a Hugging Face folder, not a run; name the run that it came from, or start one from it: {start}"
    if isinstance(stored, dict) and "opset" in stored:
        return "is an ONNX export, not a run; name the run that it came from"
    return "is not a run of tinygpt: config.json has no format_version"


def is_origin(found: Any) -> bool:
    """Whether this is nothing, or what `create` writes of a source."""
    kinds: dict[str, Any] = {"source": str, "step": (int, type(None)), "sha256": str}
    return found is None or (
        isinstance(found, dict) and all(name in found and isinstance(found[name], kinds[name]) for name in kinds)
    )


def load(reference: str) -> tuple[Run, TinyGPT, checkpoint.Checkpoint, list[str]]:
    """Run, model with its weights (on the CPU, in evaluation mode), its checkpoint, and notices."""
    folder, which = resolve(reference)
    run, notices = open_run(folder)
    loaded, rejected = checkpoint.load(folder, which, run.digests)
    model = TinyGPT(run.config.model)
    checkpoint.load_model(model, loaded.model)
    return run, model.eval(), loaded, notices + rejected


def first_weights(run: Run, model: TinyGPT) -> None:
    """Weights before step 0: those of another model (--from), counted pairs, or the random ones that are there."""
    if run.origin:
        checkpoint.load_model(model, checkpoint.load_start(run.folder, run.origin["sha256"]))
    elif starts_from_pairs(run.config.model, run.config.train.start):
        start_from_pairs(model, run.train_ids)


def at_step_0(run: Run, loss: float) -> str:
    """What the first validation says about the first weights."""
    nothing = f"knowing nothing, ln V, is {math.log(run.config.model.vocab_size):.2f}"
    if run.origin:
        return f"It starts from {run.began_with}: the loss is {loss:.2f} nats per token; {nothing}."
    known = starts_from_pairs(run.config.model, run.config.train.start) * " (it starts from counted pairs)"
    return f"Untrained, the loss is {loss:.2f} nats per token{known}; {nothing}."


def documents(run: Run, part: str = "train") -> list[str]:
    """The documents of the training or validation text, decoded from its tokens: exactly what went in."""
    ids = {"train": run.train_ids, "val": run.val_ids}[part]
    begins, ends = np.flatnonzero(ids == BOS), np.flatnonzero(ids == EOS)
    return [run.tokenizer.decode(ids[a + 1 : b].tolist()) for a, b in zip(begins, ends, strict=True)]


def first_words(run: Run) -> list[str]:
    """The words that the validation (else training) text begins with: a prompt in the text's own style."""
    ids = run.val_ids if len(run.val_ids) > 1 else run.train_ids
    return run.tokenizer.decode(ids[1:200].tolist()).split()


def steps_recorded(run: Run) -> int:
    """The last step in metrics.jsonl, 0 if there is none; UserError (exit 65) if a line of it is damaged."""
    return max((r.get("step", 0) for r in read(run.folder / METRICS) if r.get("kind") != "event"), default=0)
