"""R07: a loss or gradient that is not finite never reaches the weights, and all ranks act alike."""

from __future__ import annotations

import io
import itertools
import json
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.common import Row, Scale, finish, small_run, start, tensors_digest
from benchmarks.reliability.crash import CPU
from tinygpt import checkpoint
from tinygpt import train as training
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.errors import NON_FINITE, UserError
from tinygpt.loss import TrainingLoss
from tinygpt.records import METRICS, read
from tinygpt.session import Session
from tinygpt.train import set_up, train

Gather = Callable[[Session], tuple[float, float]]
SETTINGS = {"max_steps": 40, "save_every": 5, "eval_every": 20, "sample_every": 40}
STEPS, KINDS, MODES = (1, 10, 37), ("loss NaN", "loss inf", "gradient NaN"), ("skip", "stop", "rewind")


def row(scale: Scale) -> Row:
    """Every place and kind of fault in every mode, on one rank and on several."""
    row = Row("R07", "NaN and Inf in the loss or one gradient at steps 1, 10, 37, on one rank and on one of several")
    cases = list(itertools.product(STEPS, KINDS, MODES))
    if not scale.full:
        cases = [(10, "loss NaN", mode) for mode in MODES] + [(1, "loss inf", "skip"), (37, "gradient NaN", "stop"),
                                                             (37, "gradient NaN", "rewind")]  # fmt: skip
    for number, (step, kind, mode) in enumerate(cases):
        one_rank(row, scale.folder / "one" / "runs" / str(number), step, kind, mode)
    groups = [(2, "skip")] if not scale.full else list(itertools.product((2, 4), MODES))
    for size, mode in groups:
        several_ranks(row, scale.folder / f"{size}-{mode}", size, mode)
    row.independent = 2 * len(cases) + len(groups)
    row.measured["faults on one rank"] = f"{2 * len(cases)}"
    row.measured["faults on one of 2 or 4 ranks"] = f"{len(groups)}"
    return row


@contextmanager
def faults(session: Session, kind: str, batches: set[int]) -> Iterator[list[str]]:
    """The batches of these numbers are bad, whenever they are drawn; yields a digest of the state at each step."""
    forward, gather = TrainingLoss.forward, training.gather_gradient
    digests: list[str] = []

    def spoilt(loss: TrainingLoss, inputs: Any, targets: Any) -> Any:
        value = forward(loss, inputs, targets)
        if session.progress.batch not in batches:
            return value
        if kind == "gradient NaN":
            weight = session.model.blocks[1].feed_forward.down.weight
            return value + Poison.apply(weight)
        return value * (math.nan if kind == "loss NaN" else math.inf)

    def noted(s: Session) -> tuple[float, float]:
        digests.append(state_digest(s))
        return gather(s)

    TrainingLoss.forward, training.gather_gradient = spoilt, noted  # type: ignore[method-assign]
    try:
        yield digests
    finally:
        TrainingLoss.forward, training.gather_gradient = forward, gather  # type: ignore[method-assign]


class Poison(torch.autograd.Function):
    """0 forward, NaN in one element backward: a finite loss with a gradient that is not."""

    @staticmethod
    def forward(context: Any, weight: Any) -> Any:
        context.save_for_backward(weight)
        return weight.new_zeros(())

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:  # type: ignore[override]
        (weight,) = context.saved_tensors
        bad = torch.zeros_like(weight)
        bad[0, 0] = math.nan
        return bad


def state_digest(s: Session) -> str:
    """sha256 over weights and optimizer."""
    optim = checkpoint.optimizer_tensors(s.model, s.optimizer)
    return tensors_digest(checkpoint.named_tensors(s.model)) + tensors_digest(optim)


def one_rank(row: Row, folder: Path, step: int, kind: str, mode: str) -> None:
    """One fault, then three in a row, in one mode."""
    for many in (1, 3):
        where = f"{kind} at step {step}, {many} in a row, on_nonfinite={mode}"
        run = small_run(folder.with_name(f"{folder.name}-{many}"), on_nonfinite=mode, **SETTINGS)
        session = set_up(run, choose_machine(CPU), Display(io.StringIO()))
        bad = set(range(step, step + many))
        with faults(session, kind, bad) as digests:
            try:
                code = train(session)
            except UserError as error:
                code = error.exit_code
        first = step  # steps are counted from 0, so this is the call of the first bad one
        row.check(digests[first] != digests[first - 1], f"{where}: the step before changed nothing")
        after = digests[first + 1] if len(digests) > first + 1 else state_digest(session)
        row.check(after == digests[first], f"{where}: the bad step changed the weights or the optimizer")
        gives_up = mode == "stop" or (mode == "skip" and many == 3)
        row.check(code == (NON_FINITE if gives_up else 0), f"{where}: exit code {code}")
        report = json.loads((run.folder / "nonfinite.json").read_bytes())
        expected = step if mode == "stop" else step + many - 1
        complete = report["step"] == expected and len(report["samples"]) == 4 and len(report["grad_norms"]) > 20
        row.check(complete, f"{where}: nonfinite.json says {report['step']}")
        found = read(run.folder / METRICS)
        events = [r for r in found if r["kind"] == "event" and "refused" in r["text"]]
        row.check(bool(events) and events[0]["step"] == step, f"{where}: metrics.jsonl does not tell it")
        loaded, _ = checkpoint.load(run.folder)
        if gives_up:
            row.check(loaded.step <= expected, f"{where}: step {loaded.step} was saved after the bad one")
        if mode == "rewind" and many == 3:
            p = loaded.progress
            row.check(p.skipped == sorted(bad) and p.rate == 0.5 and p.rewinds == 1, f"{where}: {p}")
            steps = [r["step"] for r in found if r["kind"] == "train"]
            row.check(steps == list(range(1, 41)), f"{where}: steps recorded are {steps}")
        finite = all(t.isfinite().all() for t in [*loaded.model.values(), *loaded.optim.values()])
        row.check(finite, f"{where}: the newest checkpoint is not finite")


# --- several ranks ---------------------------------------------------------------------------------------------------

ONE_BAD_RANK = """
import math, os
from tinygpt.loss import TrainingLoss
forward, calls = TrainingLoss.forward, []
def spoilt(loss, inputs, targets):
    calls.append(1)
    bad = int(os.environ["RANK"]) == 1 and len(calls) in ({calls})
    return forward(loss, inputs, targets) * (math.nan if bad else 1)
TrainingLoss.forward = spoilt
"""


def several_ranks(row: Row, folder: Path, size: int, mode: str) -> None:
    """Three bad losses in a row on the second rank alone: all ranks refuse the same steps."""
    where = f"{size} ranks, on_nonfinite={mode}"
    run = small_run(folder / "runs" / "x", on_nonfinite=mode, **{**SETTINGS, "max_steps": 20}, dropout=0.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    code = ONE_BAD_RANK.format(calls="11, 12, 13")
    ranks = [
        start("train", "--resume", "--quiet", "--run", "x", cwd=folder, code=code,
              more_environment={**shared, "MASTER_PORT": f"{port}", "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]  # fmt: skip
    ended = [finish(rank) for rank in ranks]
    wanted = 0 if mode == "rewind" else NON_FINITE
    row.check(all(code == wanted for code, _ in ended), f"{where}: {[(code, said[-200:]) for code, said in ended]}")
    told = [r for r in read(run.folder / METRICS) if r["kind"] == "event" and "back_to" not in r]
    events = [r["step"] for r in told if "refused" in r["text"]]
    row.check(events == ([10] if mode == "stop" else [10, 11, 12]), f"{where}: steps {events} were refused")
    loaded, _ = checkpoint.load(run.folder)
    row.check(all(t.isfinite().all() for t in loaded.model.values()), f"{where}: the newest checkpoint is not finite")
    if mode == "rewind":
        row.check(loaded.progress.skipped == [10, 11, 12], f"{where}: {loaded.progress.skipped} were skipped")


# --- controls --------------------------------------------------------------------------------------------------------


def controls(scale: Scale) -> dict[str, bool]:
    """Checked after the update instead of before it: the weights are spoilt, and the trials see it."""
    gather = training.gather_gradient

    def late(s: Session) -> tuple[float, float]:
        figures = gather(s)
        if not all(map(math.isfinite, figures)):
            s.optimizer.step()
        return figures

    without = Row("", "")
    training.gather_gradient = late  # type: ignore[assignment]
    try:
        one_rank(without, scale.folder / "late" / "0", 10, "gradient NaN", "skip")
    finally:
        training.gather_gradient = gather
    return {"checked after the update": any("changed the weights" in sentence for sentence in without.failures)}
