"""What the trials share: a row of the table, a small run, the command in a process of its own, what must be equal."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from tinygpt import checkpoint
from tinygpt.config import make_config
from tinygpt.corpus import tales
from tinygpt.records import METRICS, read
from tinygpt.runs import Run, create
from tinygpt.storage import sha256
from tinygpt.tokenizer import Tokenizer, train_tokenizer

# The fixture: about a quarter of a million parameters, trained by the trials themselves.
SMALL = {
    "n_embd": 64, "n_heads": 4, "n_layers": 4, "block_size": 32, "vocab_size": 512, "batch_size": 4, "max_steps": 60,
    "eval_every": 20, "save_every": 10, "sample_every": 30, "log_every": 1, "threads": 1, "device": "cpu",
    "precision": "fp32", "compiled": "no", "dropout": 0.1,
}  # fmt: skip
HANG_S = 300.0  # no process here needs a tenth of it


@dataclass(frozen=True)
class Scale:
    """How much of a row is tried: `full` for the page, else what every change has time for."""

    full: bool
    folder: Path  # an empty folder for this row's files
    seed: int = 0  # of what is random; printed with a failure

    def pick(self, short: int, full: int) -> int:
        """The number of trials."""
        return full if self.full else short


@dataclass
class Row:
    """One line of the table: what was tried, how often, and what went wrong."""

    id: str
    what: str
    trials: int = 0  # things that were checked
    independent: int = 0  # repetitions with something random in them, where one has several checks; 0: trials
    failures: list[str] = field(default_factory=list)
    lost: int = 0  # runs, or files, that could not be had back
    measured: dict[str, str] = field(default_factory=dict)  # figure -> value with its unit
    lowered: str = ""  # what is smaller than asked for, and why

    def check(self, holds: bool, otherwise: str) -> bool:
        """Count a trial, and the sentence `otherwise` if it does not hold."""
        self.trials += 1
        if not holds:
            self.failures.append(otherwise)
        return holds


# --- a small run -----------------------------------------------------------------------------------------------------


@functools.cache
def texts(seed: int = 0) -> tuple[str, ...]:
    """A hundred kB of made-up stories."""
    return tuple(tales.text(100_000, seed).decode().split("\n\n"))


@functools.cache
def small_tokenizer(seed: int = 0) -> Tokenizer:
    """512 pieces learnt from them."""
    return train_tokenizer(list(texts(seed)), SMALL["vocab_size"])


def small_run(folder: Path, text_seed: int = 0, **settings: Any) -> Run:
    """A run folder at step 0, as `tinygpt train` makes it but without measuring; `settings` go over SMALL.

    text_seed: of text and tokenizer; the seed of the training is the setting `seed`.
    """
    config = make_config("modern", {**SMALL, **settings})
    documents, tokenizer = list(texts(text_seed)), small_tokenizer(text_seed)
    ids = [tokenizer.encode_documents(part) for part in (documents[:-10], documents[-10:])]
    report, facts = {"train": {}, "val": {}}, {"baselines": {}, "floor": None, "parameters": 0}
    return create(folder, config, tokenizer, report, facts, *ids)


# --- the command -----------------------------------------------------------------------------------------------------


def start(
    *words: object, cwd: Path, code: str = "", more_environment: Mapping[str, str] | None = None, **more: Any
) -> subprocess.Popen[str]:
    """`tinygpt WORDS` in a process of its own, one thread, standard output and error in one pipe.

    code: Python that runs in the process before the command, to put a recorder, a fault or a full disk in its way.
    """
    program = ["-c", f"{code}\nfrom tinygpt.cli import main\nmain()"] if code else ["-m", "tinygpt"]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)], cwd=cwd, env=environment() | dict(more_environment or {}),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", **more,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """What every process of the trials has: this package, one thread, wide lines."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "COLUMNS": "200"}


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and words of a process; one that hangs is killed and has code -1000."""
    try:
        said, _ = process.communicate(timeout=HANG_S)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        process.kill()
        return -1000, process.communicate()[0]


def command(*words: object, cwd: Path, code: str = "", **more: Any) -> tuple[int, str]:
    """`start` and `finish`."""
    return finish(start(*words, cwd=cwd, code=code, **more))


def one_sentence(said: str) -> bool:
    """Whether an error is a sentence of ours: one line that begins with the program's name, and no traceback."""
    return "Traceback" not in said and sum(line.startswith("tinygpt: ") for line in said.splitlines()) == 1


# --- what must be equal ----------------------------------------------------------------------------------------------


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that may not depend on how it came about: no times, no sizes of logs."""
    loaded, rejected = checkpoint.load(folder)
    timeless = ("time_s", "tokens_per_s")
    records = [{k: v for k, v in r.items() if k not in timeless} for r in read(folder / METRICS)]
    return {
        "step": loaded.step, "rejected": rejected, "model": tensors_digest(loaded.model),
        "optim": tensors_digest(loaded.optim), "metrics": [r for r in records if r["kind"] != "event"],
        "samples": read(folder / "samples.jsonl"),
        "snapshots": {path.name: sha256(path.read_bytes()) for path in (folder / "snapshots").glob("*.safetensors")},
    }  # fmt: skip


def tensors_digest(tensors: Mapping[str, Any]) -> str:
    """sha256 over names and bytes of all tensors."""
    return sha256(b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The names of the parts in which two outcomes differ; "" if they are equal."""
    return ", ".join(name for name in a if a[name] != b[name])


Module = Callable[[Scale], Row]


def merged(first: Row, *others: Row) -> Row:
    """Rows of one promise as one."""
    for other in others:
        first = dataclasses.replace(
            first, trials=first.trials + other.trials, failures=first.failures + other.failures,
            independent=first.independent + other.independent,
            lost=first.lost + other.lost, lowered="; ".join(filter(None, (first.lowered, other.lowered))),
            measured={**first.measured, **other.measured},
        )  # fmt: skip
    return first
