"""One process at work on a run: its parts, its clock, and the way back to a checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tinygpt import checkpoint
from tinygpt.capture import Recorded
from tinygpt.checkpoint import Checkpoint, Progress
from tinygpt.config import Config
from tinygpt.data import Windows
from tinygpt.display import Display
from tinygpt.distributed import Machine
from tinygpt.errors import MISMATCH, UserError
from tinygpt.model import TinyGPT
from tinygpt.optim import Optimizer
from tinygpt.records import Log
from tinygpt.runs import Run

WRONG = 2e-3  # of the largest logit: fp32 sums in another order give 1e-5, a wrong operator 1e-2 and more
ORDER = ("seed", "batch_size")  # settings that decide which samples a step sees


@dataclass
class Session:
    """One process working on a run."""

    run: Run
    machine: Machine
    model: TinyGPT
    loss: torch.nn.Module  # of (inputs, targets) [nats/token]
    optimizer: Optimizer
    progress: Progress
    windows: Windows
    log: Log
    display: Display
    clock: Clock
    differentiate: Callable[[Tensor], Tensor] = field(init=False)  # train.py's, recorded on a GPU
    update: Callable[[Tensor], None] = field(init=False)
    failed_saves: int = 0  # in a row
    best_saved: tuple[float | None, int | None] = (None, None)  # best_bpb and best_step of the last checkpoint
    told: set[str] = field(default_factory=set)  # what need not be said again
    finished: bool = False  # the run has had all its steps, or has stopped early

    def forget_recordings(self) -> None:
        """To be called when weights, gradients or the optimizer's memory have got other places."""
        for work in (self.differentiate, self.update):
            if isinstance(work, Recorded):
                work.forget()

    def say_once(self, text: str) -> None:
        """Say it, unless it has been said."""
        if text not in self.told:
            self.told.add(text)
            self.display.say(text)

    def event(self, text: str, **fields: Any) -> None:
        """Say it and keep it in metrics.jsonl."""
        self.log.metric(kind="event", step=self.progress.step, text=text, **fields)
        self.display.say(text)


def newest(s: Session) -> tuple[Checkpoint, list[str]]:
    """The newest valid checkpoint, the same at all ranks, and what was rejected on the way."""
    loaded, rejected = checkpoint.load(s.run.folder, "last", s.run.digests)
    step = s.machine.ranks.tell(loaded.step)
    if step != loaded.step:  # a disk that this rank alone cannot read well
        loaded, _ = checkpoint.load(s.run.folder, str(step), s.run.digests)
    return loaded, rejected


def restore(s: Session, loaded: Checkpoint) -> None:
    """Weights, optimizer and progress as they were at a checkpoint."""
    checkpoint.load_model(s.model, loaded.model)
    checkpoint.load_optimizer(s.model, s.optimizer, loaded.optim)
    s.optimizer.swap()  # a checkpoint holds the means as the model
    if not s.optimizer.averages:  # turned off since
        s.optimizer.forget_means()
    s.forget_recordings()
    s.progress = loaded.progress
    s.best_saved = loaded.progress.best_bpb, loaded.progress.best_step


def settings_of(config: Config) -> dict[str, Any]:
    """Model and training settings by name."""
    return {**dataclasses.asdict(config.model), **dataclasses.asdict(config.train)}


def surroundings(machine: Machine) -> dict[str, Any]:
    """What else decides the last bits of every sum."""
    return {
        "torch": torch.__version__, "device": machine.device.type, "bf16": machine.bf16,
        "threads": torch.get_num_threads(), "ranks": machine.ranks.size,
    }  # fmt: skip


def changes_since(s: Session) -> tuple[str, str]:
    """What has changed since the checkpoint, of settings and of surroundings, "" for nothing; now is what counts.

    A config.json changed by hand is gone on with, as long as the model and the order of the samples stay what they
    were; else UserError (exit 66).
    """
    p, now = s.progress, settings_of(s.run.config)
    changed = {name: (p.settings.get(name), value) for name, value in now.items() if p.settings.get(name) != value}
    text = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in changed.items())
    model = {f.name for f in dataclasses.fields(s.run.config.model)}
    other_optimizer = "muon_lr" in changed and not all(changed["muon_lr"])
    if other_optimizer or not changed.keys().isdisjoint({*model, *ORDER}):
        raise UserError(
            f"config.json does not belong to the checkpoint of step {p.step:,}: {text}; restore the original file.",
            MISMATCH,
        )
    if "micro_batch" in changed:  # wins over what was found when the memory did not suffice
        p.micro_batch = 0
    here = surroundings(s.machine)
    others = [f"{name} was {p.made_with.get(name)}, is {value}" for name, value in here.items()
              if p.made_with.get(name) != value]  # fmt: skip
    p.settings, p.made_with = now, here
    return text, ", ".join(others)


def check_device(model: TinyGPT, machine: Machine, windows: Windows) -> None:
    """Refuse an accelerator that computes something else than the CPU: one batch through both, before step 1.

    Compares logits, not the loss: that is about ln V at the start, even without any attention. Raises UserError if
    one differs by more than WRONG of the largest in fp32.
    """
    if machine.device.type == "cpu":
        return
    inputs, _ = windows.batch(0, 1)
    still = copy.deepcopy(model).eval()  # without dropout, which differs between devices
    with torch.inference_mode():
        here = still(inputs)
        still.to(machine.device)
        there = still(inputs.to(machine.device)).cpu()
    off = ((there - here).abs().max() / here.abs().max()).item()
    if not off < WRONG:
        raise UserError(
            f"{machine.device.type} computes logits that are off by {off:.2%} from the CPU's (at most {WRONG:.1%} is "
            "rounding), so it cannot be trusted; use device=cpu, or another driver or torch version."
        )


class Clock:
    """Seconds of a run over all its sessions, and the pace of its steps with the pauses between them left out."""

    def __init__(self, earlier_s: float, step: int) -> None:
        self.started = time.perf_counter()
        self.began = self.started - earlier_s
        self.lap(step)

    def read(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began

    def session(self) -> float:
        """Seconds of this session."""
        return time.perf_counter() - self.started

    def lap(self, step: int) -> None:
        """Count the pace from here on."""
        self.since, self.step = time.perf_counter(), step

    def pace(self, step: int) -> float:
        """Steps per second since the last lap; begins a new one."""
        rate = (step - self.step) / max(1e-9, time.perf_counter() - self.since)
        self.lap(step)
        return rate
