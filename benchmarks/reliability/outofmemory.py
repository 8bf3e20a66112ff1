"""R09: when the memory does not suffice the micro-batch is halved and the batch stays; the estimate said it before."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.reliability.common import Row, Scale, small_run
from benchmarks.reliability.crash import train_here
from tinygpt import checkpoint
from tinygpt.corpus import tales
from tinygpt.display import Display
from tinygpt.errors import OUT_OF_MEMORY, UserError
from tinygpt.loss import TrainingLoss
from tinygpt.records import METRICS, read

BATCH: dict[str, Any] = {
    "batch_size": 128, "block_size": 16, "max_steps": 3, "save_every": 3, "eval_every": 3, "sample_every": 3,
    "dropout": 0.0,
}  # fmt: skip
SHAPE = {"n_embd": 128, "n_layers": 4, "n_heads": 4, "block_size": 256, "vocab_size": 1024, "batch_size": 8}
SHAPES: dict[str, dict[str, Any]] = {  # whose estimate is held against the memory that the process really took
    "as it is": {}, "batch 64": {"batch_size": 64}, "wide": {"n_embd": 256}, "deep": {"n_layers": 12},
    "vocabulary 4096": {"vocab_size": 4096}, "fp32": {"precision": "fp32", "batch_size": 32},
}  # fmt: skip


def row(scale: Scale) -> Row:
    """Simulated errors, other errors, too many, and the estimate."""
    row = Row("R09", "simulated errors until 8 of 128 sequences are computed at a time; others; the estimate")
    fits(row, scale.folder)
    too_much(row, scale.folder)
    others(row, scale.folder)
    if scale.full:
        estimates(row, scale.folder)
    return row


@contextmanager
def memory_for(sequences: int, message: str = "CUDA out of memory. Tried to allocate 2.00 GiB") -> Iterator[list[int]]:
    """A machine that can compute so many sequences at a time; yields how many were tried."""
    forward, tried = TrainingLoss.forward, list[int]()

    def limited(loss: TrainingLoss, inputs: Any, targets: Any) -> Any:
        tried.append(len(inputs))
        if len(inputs) > sequences:
            raise RuntimeError(message)
        return forward(loss, inputs, targets)

    TrainingLoss.forward = limited  # type: ignore[method-assign]
    try:
        yield tried
    finally:
        TrainingLoss.forward = forward  # type: ignore[method-assign]


def losses(folder: Path) -> list[float]:
    return [r["loss"] for r in read(folder / METRICS) if r["kind"] == "train"]


def fits(row: Row, folder: Path) -> None:
    """128, 64, 32, 16, 8: then it goes on, as a run that began with 8."""
    small_run(folder / "eight", **BATCH, micro_batch=8)
    train_here(folder / "eight", Display(io.StringIO()))
    small_run(folder / "halved", **BATCH)
    said = io.StringIO()
    with memory_for(8) as tried:
        train_here(folder / "halved", Display(said))
    row.check(tried[:5] == [128, 64, 32, 16, 8], f"tried {tried[:6]} sequences at a time")
    row.check(set(tried[5:]) == {8}, f"after that it tried {set(tried[5:])}")
    row.check(said.getvalue().count("Out of memory at step 0") == 4, f"it said: {said.getvalue()[-400:]}")
    apart = max(abs(a - b) for a, b in zip(losses(folder / "eight"), losses(folder / "halved"), strict=True))
    row.check(apart < 1e-6, f"losses are {apart:.1e} from those of a run begun with 8")
    row.measured["loss apart from a run begun with 8"] = f"{apart:.1e}"
    row.check(checkpoint.load(folder / "halved")[0].progress.micro_batch == 8, "the checkpoint does not know of it")


def too_much(row: Row, folder: Path) -> None:
    """At most five halvings, then exit 71 with the setting to use; the checkpoint of step 0 is there."""
    for batch_size, wanted in ((128, [128, 64, 32, 16, 8, 4]), (2, [2, 1])):
        run = small_run(folder / f"never{batch_size}", **{**BATCH, "batch_size": batch_size})
        with memory_for(0) as tried:
            try:
                train_here(run.folder, Display(io.StringIO()))
                row.check(False, f"batch {batch_size}: training went on")
            except UserError as error:
                fix = "micro_batch=2 in config.json" if batch_size == 128 else "start a smaller model"
                row.check(error.exit_code == OUT_OF_MEMORY and fix in str(error), f"{batch_size}: {error}")
        row.check(tried == wanted, f"batch {batch_size}: tried {tried}")
        row.check(checkpoint.load(run.folder)[0].step == 0, f"batch {batch_size}: no checkpoint of step 0")


def others(row: Row, folder: Path) -> None:
    """An error that is not about memory is not hidden by trying again."""
    small_run(folder / "other", **BATCH)
    with memory_for(8, "mat1 and mat2 shapes cannot be multiplied") as tried:
        try:
            train_here(folder / "other", Display(io.StringIO()))
            row.check(False, "an error of shapes was swallowed")
        except RuntimeError as error:
            row.check("shapes" in str(error) and tried == [128], f"{error}, after {tried}")


PEAK = """
import resource, sys
from tinygpt.cli import main
try:
    main()
except SystemExit:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def estimates(row: Row, folder: Path) -> None:
    """The memory that the plan expects against the peak of the process."""
    text, ratios = folder / "tales.txt", {}
    tales.write(text, 1_000_000)
    for name, changes in SHAPES.items():
        words = [f"{field}={value}" for field, value in {**SHAPE, **changes}.items()]
        run = name.replace(" ", "-")
        command = [sys.executable, "-c", PEAK, "train", str(text), "--run", run, "--steps", "20", "--quiet",
                   "device=cpu", "compiled=no", *words]  # fmt: skip
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                              text=True, timeout=900)  # fmt: skip
        peak = int(done.stdout.splitlines()[-1])
        stored = json.loads((folder / "runs" / run / "config.json").read_text())
        ratios[name] = stored["expected_memory_bytes"] / peak
        row.check(0.75 <= ratios[name] <= 1.25, f"{name}: the estimate is {ratios[name]:.2f} of {peak / 1e6:.0f} MB")
    row.measured["estimate / real peak memory"] = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
