"""R08: a loss that leaps is said, a good run is left alone, and after a rewind the samples never come again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import Row, Scale, differences, outcome, small_run
from benchmarks.reliability.crash import CPU, At, train_here
from tinygpt import checkpoint
from tinygpt import train as training
from tinygpt.data import Windows
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.records import METRICS, read
from tinygpt.train import set_up, train

QUIET = {"eval_every": 10**6, "save_every": 50, "sample_every": 10**6}
LEAP = 200  # the step from which the rate is 100 times too high


def row(scale: Scale) -> Row:
    """Spikes made by the learning rate, clean runs, and a rewind."""
    row = Row("R08", f"learning rate x 100 at step {LEAP}; clean runs; a rewind and a kill after it")
    seeds, steps = range(scale.pick(1, 5)), scale.pick(500, 2000)
    delays = []
    for seed in seeds:
        events = spikes(scale.folder / f"leap{seed}", seed, LEAP + 20, LEAP)
        if row.check(bool(events) and LEAP <= events[0] <= LEAP + 10, f"seed {seed}: spikes said at steps {events}"):
            delays.append(events[0] - LEAP)
        for start in ("auto", "random"):
            events = spikes(scale.folder / f"clean{seed}-{start}", seed, steps, start=start)
            row.check(not events, f"seed {seed}, start={start}: false alarms at steps {events}")
    row.measured["steps until it is said"] = f"at most {max(delays, default=-1)}"
    row.measured["clean runs without a word"] = f"{2 * len(seeds)} of {steps} steps"
    rewound(row, scale.folder / "rewind")
    return row


def spikes(folder: Path, seed: int, steps: int, leap: int | None = None, start: str = "auto") -> list[int]:
    """Steps at which a run says that something is far above the usual."""
    run = small_run(folder, seed=seed, max_steps=steps, start=start, **QUIET)
    with rate_leaping(leap):
        train_here(run.folder, Display(io.StringIO()))
    return [r["step"] for r in read(folder / METRICS) if r["kind"] == "event" and "far above" in r["text"]]


@contextmanager
def rate_leaping(step: int | None) -> Iterator[None]:
    """The learning rate 100 times too high from a step on."""
    schedule = training.schedule
    training.schedule = lambda at, config: schedule(at, config) * (100 if step is not None and at >= step else 1)
    try:
        yield
    finally:
        training.schedule = schedule


class Bad(Windows):
    """One batch has rubbish for targets, so that its loss is far above the usual; all batches are remembered."""

    bad, drawn = 130, list[int]()

    def share(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        self.drawn.append(step)
        return super().share(step, batch_size, rank, world)

    def cut(self, firsts: Any) -> Any:
        inputs, targets = super().cut(firsts)
        return (inputs, (targets * 0 + 7)) if self.drawn[-1] == self.bad else (inputs, targets)


def rewound(row: Row, folder: Path) -> None:
    """on_spike=rewind goes back, with half the rate and without the batch; killed after that, the end is the same."""
    ends = []
    for name, kill_at in (("whole", None), ("killed", 160)):
        run = small_run(folder / name, max_steps=200, on_spike="rewind", **QUIET)
        Bad.drawn.clear()
        windows, training.Windows = training.Windows, Bad  # type: ignore[misc]
        try:
            try:
                train(set_up(run, choose_machine(CPU), At(kill_at, kill)))
            except Killed:
                Bad.drawn.clear()
                train_here(run.folder, Display(io.StringIO()), resume=True)
        finally:
            training.Windows = windows  # type: ignore[misc]
        again = Bad.drawn[Bad.drawn.index(Bad.bad) + 1 :] if Bad.bad in Bad.drawn else Bad.drawn
        row.check(Bad.bad not in again, f"{name}: the skipped batch was drawn again")
        p = checkpoint.load(run.folder)[0].progress
        row.check((p.rewinds, p.rate, p.skipped) == (1, 0.5, [Bad.bad]), f"{name}: {p.rewinds}, {p.rate}, {p.skipped}")
        steps = [r["step"] for r in read(run.folder / METRICS) if r["kind"] == "train"]
        row.check(steps == list(range(1, 201)), f"{name}: a step is twice in the records, or missing")
        late = [r for r in read(run.folder / METRICS) if r["kind"] == "train" and r["step"] > 101]
        row.check(all(r.get("rewind") == 1 for r in late), f"{name}: records after the rewind do not carry its number")
        ends.append(outcome(run.folder))
    unlike = differences(*ends)
    row.check(not unlike, f"killed after a rewind and resumed: {unlike} differ")
    row.measured["a rewind, killed after it"] = (
        "ends as the one that was not killed" if not unlike else f"differs: {unlike}"
    )


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


def kill() -> None:
    raise Killed
