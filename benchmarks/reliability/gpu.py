"""GPU: what R01, R09 and R24 promise, on CUDA: resume and repetition bit for bit, and memory that really runs out."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.common import Row, Scale, command, differences, outcome, small_run
from benchmarks.reliability.crash import RESUME, interrupted, train_here
from benchmarks.reliability.outofmemory import losses
from benchmarks.reliability.resume import COMBINATIONS
from tinygpt import checkpoint
from tinygpt.capture import Recorded
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.train import set_up, train

CUDA: dict[str, Any] = {"device": "cuda", "max_steps": 40, "save_every": 10, "eval_every": 20, "sample_every": 20}
LARGE: dict[str, Any] = {
    "device": "cuda", "batch_size": 1024, "block_size": 128, "max_steps": 6, "save_every": 6, "eval_every": 6,
    "sample_every": 6, "dropout": 0.0, "precision": "fp32",
}  # fmt: skip
LIMITS = (1 << 30, 3 << 29, 2 << 30)  # bytes of GPU memory that a process may take


def row(scale: Scale) -> Row:
    """Stopped and resumed, repeated, and without memory."""
    row = Row("GPU", "on CUDA: stopped and resumed, repeated (deterministic=true); memory that runs out")
    same(row, scale.folder)
    for number, limit in enumerate(LIMITS):
        without_memory(row, scale.folder / f"memory{number}", limit)
    row.measured["device"] = torch.cuda.get_device_name()
    return row


def same(row: Row, folder: Path) -> None:
    """Every combination of R01, in bf16: twice the same run, and one stopped at step 17 is that run."""
    equal = 0
    for number, (dropout, parts, muon_lr) in enumerate(COMBINATIONS):
        settings = {
            "dropout": dropout, "micro_batch": 4 // parts, "muon_lr": muon_lr, "precision": "bf16",
            "deterministic": True, **CUDA,
        }  # fmt: skip
        where = f"dropout, parts, Muon's rate {COMBINATIONS[number]}"
        ends = []
        for name in ("one", "two", "stopped"):
            run = small_run(folder / "runs" / f"{name}{number}", **settings)
            if name == "stopped":
                interrupted(run.folder, 17)
                if number == 0:  # gone on with in another process
                    code, said = command(*RESUME, run.folder.name, cwd=folder)
                    row.check(code == 0, f"{where}: exit code {code}: {said[-200:]}")
                else:
                    train_here(run.folder, Display(io.StringIO()), resume=True)
            else:
                session = set_up(run, choose_machine(run.config.train), Display(io.StringIO()))
                train(session)
                recorded = isinstance(session.update, Recorded) and session.update.graph is not None
                row.check(recorded, f"{where}: the steps were not recorded")
            ends.append(outcome(run.folder))
        for name, end in zip(("repeated", "resumed"), ends[1:], strict=True):
            unlike = differences(ends[0], end)
            row.lost += bool(unlike)
            equal += row.check(not unlike, f"{where}: {unlike} differ when {name}")
    row.measured["repeated, and stopped and resumed, bit for bit"] = f"{equal} of {2 * len(COMBINATIONS)}"


@contextmanager
def memory_of(limit: int) -> Iterator[None]:
    """So many bytes of the GPU for this process, as PyTorch counts them."""
    gc.collect()  # of the runs before: a session and its recordings know each other
    torch._C._cuda_clearCublasWorkspaces()  # 32 MB for each stream that ever multiplied: 1 GiB after 16 sessions
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def without_memory(row: Row, folder: Path, limit: int) -> None:
    """A batch that does not fit at once: halved until it does, and the losses are those of a run that began so."""
    said = io.StringIO()
    small_run(folder / "halved", **LARGE)
    with memory_of(limit):
        train_here(folder / "halved", Display(said))
    found = checkpoint.load(folder / "halved")[0].progress.micro_batch
    row.check(0 < found < LARGE["batch_size"], f"{limit} bytes: micro_batch {found}; it said {said.getvalue()[-300:]}")
    small_run(folder / "small", **{**LARGE, "micro_batch": found or LARGE["batch_size"]})
    train_here(folder / "small", Display(io.StringIO()))
    apart = max(abs(a - b) for a, b in zip(losses(folder / "small"), losses(folder / "halved"), strict=True))
    row.check(apart < 1e-5, f"{limit} bytes: losses are {apart:.1e} from those of a run begun with {found}")
    row.measured[f"in {limit / 2**30:g} GiB"] = f"{found} of {LARGE['batch_size']} sequences at a time"
