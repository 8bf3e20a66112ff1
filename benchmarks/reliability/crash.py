"""R02: whatever ends a process in the middle of a save, the run goes on from a whole checkpoint and nothing is lost."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.reliability.common import (
    Row,
    Scale,
    command,
    differences,
    finish,
    merged,
    outcome,
    small_run,
    start,
)
from benchmarks.reliability.faults import POINTS, Disk, Watched
from tinygpt import checkpoint, doctor, storage
from tinygpt.config import TrainConfig
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.errors import UserError
from tinygpt.runs import open_run
from tinygpt.train import set_up, train

RESUME = ("train", "--resume", "--quiet", "--run")
CPU = TrainConfig(device="cpu", precision="fp32")
INTERVAL = 10  # steps between saves in small_run


def row(scale: Scale) -> Row:
    """All four ways."""
    title = "ended in or around a save: os._exit at F01-F14, SIGKILL, power cut by recorded operations"
    return merged(Row("R02", title), points(scale), kills(scale), power_cuts(scale), order_of_calls(scale))


class At(Display):
    """Shows nothing; acts at the record of one step."""

    def __init__(self, step: int | None, act: Callable[[], object]) -> None:
        super().__init__(io.StringIO())
        self.step, self.act = step, act

    def train(self, record: Mapping[str, Any]) -> None:
        if record["step"] == self.step:
            self.act()


def train_here(folder: Path, display: Display, resume: bool = False) -> None:
    """Train a run folder in this process, from step 0 or from its last checkpoint."""
    run = open_run(folder)[0]
    train(set_up(run, choose_machine(run.config.train), display, resume))


def trained(folder: Path, **settings: object) -> Path:
    """A small run, trained in this process to its end."""
    train_here(small_run(folder, **settings).folder, Display(io.StringIO()))
    return folder


def interrupted(folder: Path, step: int) -> None:
    """Train in this process until Ctrl-C at a step, which saves."""
    train_here(folder, At(step, lambda: signal.raise_signal(signal.SIGINT)))


def whole(row: Row, folder: Path, where: str, at_least: int) -> None:
    """A checkpoint is found, not too old; at most one leftover; doctor and loader agree."""
    try:
        found = checkpoint.load(folder)[0].step
    except UserError as error:
        row.lost += 1
        row.check(False, f"{where}: {error}")
        return
    row.check(found >= at_least, f"{where}: step {found} found, {at_least} was committed")
    row.check(len(checkpoint.leftovers(folder)) <= 1, f"{where}: {checkpoint.leftovers(folder)} left over")
    verdict = doctor.examine_run(folder)["resume"]
    row.check(verdict == checkpoint.folder_name(found), f"{where}: doctor says {verdict}, the loader took {found}")


# --- named points ----------------------------------------------------------------------------------------------------


def points(scale: Scale) -> Row:
    """os._exit at each point of the save of step 50, which prunes; then resumed to the end."""
    row = Row("", "")
    runs = scale.folder / "points" / "runs"
    expected = outcome(trained(runs / "whole"))
    begun = small_run(runs / "begun").folder
    interrupted(begun, 45)

    def one(point: str) -> None:
        name = point[:3]
        shutil.copytree(begun, runs / name)
        died = f"from benchmarks.reliability.faults import die_at\ndie_at({point!r}, 50)"
        code, said = command(*RESUME, name, cwd=runs.parent, code=died)
        if not row.check(code == 137, f"{point}: the process ended with {code}: {said[-200:]}"):
            return
        whole(row, runs / name, point, 50 if name >= "F10" else 40)
        if scale.full:
            command(*RESUME, name, cwd=runs.parent)
        ended.append(name)

    ended: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, POINTS))
    for name in ended:
        if not scale.full:
            train_here(runs / name, Display(io.StringIO()), resume=True)
        unlike = differences(expected, outcome(runs / name))
        row.lost += bool(unlike)
        row.check(not unlike, f"{name}: {unlike} differ from the undisturbed run's")
        row.check(not checkpoint.leftovers(runs / name), f"{name}: leftovers were not swept")
    row.independent = len(ended)
    row.measured["named points"] = f"{len(ended)} of {len(POINTS)}"
    return row


# --- SIGKILL ---------------------------------------------------------------------------------------------------------


def kills(scale: Scale) -> Row:
    """Chains of 10 SIGKILLs on one run each, six of them aimed into a save that a slow disk makes long."""
    chains, each = scale.pick(2, 20), 10
    row = Row("", "")
    runs = scale.folder / "kills" / "runs"
    steps = {"max_steps": 40 * each, "eval_every": 50, "sample_every": 10**6}
    expected = outcome(trained(runs / "whole", **steps))
    inside: list[bool] = []
    again: list[int] = []

    def chain(number: int) -> None:
        chance, folder = random.Random(scale.seed + number), runs / f"chain{number}"
        shutil.copytree(small_run(runs / f"new{number}", **steps).folder, folder)
        for turn in range(each):
            hit = killed(
                row, folder, chance, in_save=turn % 5 != 4 and turn != 0, where=f"chain {number}, kill {turn + 1}"
            )
            inside.append(hit[0])
            again.append(hit[1])
        code, said = command(*RESUME, folder.name, cwd=runs.parent)
        row.check(code == 0, f"chain {number} ended with {code}: {said[-200:]}")
        unlike = differences(expected, outcome(folder))
        row.lost += bool(unlike)
        row.check(
            not unlike, f"chain {number}: {unlike} differ from the undisturbed run's (seed {scale.seed + number})"
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(chain, range(chains)))
    row.independent = len(inside)
    row.measured["SIGKILLs"] = f"{len(inside)}, {sum(inside)} of them inside a save"
    row.measured["most work repeated"] = f"{max(again)} steps, saved every {INTERVAL}"
    row.check(max(again) <= INTERVAL, f"{max(again)} steps had to be done again")
    return row


def killed(row: Row, folder: Path, chance: random.Random, in_save: bool, where: str) -> tuple[bool, int]:
    """Resume, kill after a while; whether that was inside a save, and how many steps have to be done again."""
    before = newest(folder)
    slow = "from benchmarks.reliability.faults import slow_down\nslow_down(0.02)" if in_save else ""
    process = start(*RESUME, folder.name, cwd=folder.parents[1], code=slow)
    limit = time.monotonic() + 120
    while newest(folder) <= before and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)  # its first save of this session
    if in_save:  # the next one: the first may be over by now
        while not begun(folder) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.12))
    else:
        time.sleep(chance.uniform(0, 0.3))
    process.kill()
    code, said = finish(process)
    hit = bool(saving(folder))
    row.check(code == -9, f"{where}: the process had ended with {code} before: {said[-200:]}")
    whole(row, folder, where, max(before, 0))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [int(found[1]) for line in lines if (found := re.match(r'\{"kind": "train", "step": (\d+),', line))]
    return hit, max(steps, default=0) - newest(folder)


def newest(folder: Path) -> int:
    """Step of the newest checkpoint folder; -1 without one."""
    found = checkpoint.step_folders(folder / "checkpoints")
    return checkpoint.step_of(found[0]) if found else -1


def begun(folder: Path) -> bool:
    """Whether a save has begun that has no checkpoint to show yet."""
    return any(re.match(r"\.tmp-\d+-", path.name) for path in (folder / "checkpoints").glob(".tmp-*"))


def saving(folder: Path) -> list[Path]:
    """What is only there during a save."""
    return [path for path in checkpoint.leftovers(folder) if path.parent.name == "checkpoints"]


# --- power cuts ------------------------------------------------------------------------------------------------------


def power_cuts(scale: Scale) -> Row:
    """Saves whose operations are written down; every state that a power cut can leave is loaded."""
    row, states = Row("", ""), 0
    for save in range(scale.pick(1, 3)):
        trial, count = power_cut(scale.folder / f"power{save}", save)
        row, states = merged(row, trial), states + count
    row.independent = states
    row.measured["states after a power cut"] = f"{states}"
    return row


def power_cut(folder: Path, save: int, watched: type[Watched] = Watched) -> tuple[Row, int]:
    """One save on a tiny run with 4 checkpoints: the last or the new one is found whole in every state."""
    row, states = Row("", ""), 0
    steps = (40, 50, 60)[save]
    run = small_run(folder / "run", n_embd=16, n_layers=1, n_heads=2, vocab_size=512, max_steps=steps, start="random")
    session = set_up(run, choose_machine(CPU), Display(io.StringIO()))
    disk: list[Disk] = []
    real = checkpoint.save

    def recorded(*arguments: object) -> list[str]:
        if session.progress.step < steps:
            return real(*arguments)  # type: ignore[arg-type]
        disk.append(Disk(run.folder))
        storage.os = watched(disk[0].told)  # type: ignore[assignment]
        try:
            return real(*arguments)  # type: ignore[arg-type]
        finally:
            storage.os = os_itself  # type: ignore[attr-defined]

    os_itself = storage.os  # type: ignore[attr-defined]
    checkpoint.save = recorded  # type: ignore[assignment]
    try:
        train(session)
    finally:
        checkpoint.save = real
    commit = next(i for i, op in enumerate(disk[0].operations) if op[0] == "rename" and op[2].startswith(".tmp-"))
    for text, tree in disk[0].left_over():
        states += 1
        place = folder / "state"
        for path, data in tree.items():
            if data is None:
                (place / path).mkdir(parents=True, exist_ok=True)
            else:
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(data)
        try:
            loaded, rejected = checkpoint.load(place)
            after = int(text.split()[3].rstrip(",")) > commit + 1 and "0 of 0" in text
            good = not rejected and loaded.step in ((steps,) if after else (steps - INTERVAL, steps))
            row.check(good, f"save of step {steps}, {text}: step {loaded.step} found, {rejected}")
        except UserError as error:
            row.lost += 1
            row.check(False, f"save of step {steps}, {text}: {error}")
        shutil.rmtree(place)
    return row, states


# --- the order of the system calls -----------------------------------------------------------------------------------


def order_of_calls(scale: Scale) -> Row:
    """What the kernel was really asked for: every file fsynced, then its folder renamed, then the parent fsynced."""
    row = Row("", "")
    if not scale.full or not shutil.which("strace"):
        row.measured["order of system calls (strace)"] = "not run"
        return row
    runs = scale.folder / "calls" / "runs"
    small_run(runs / "x", max_steps=10)
    trace = scale.folder / "calls" / "trace"
    calls = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,rename,renameat,renameat2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*calls, sys.executable, "-m", "tinygpt", *RESUME, "x"], cwd=runs.parent, env=environment, capture_output=True,
        timeout=600, check=True,
    )  # fmt: skip
    found = []  # one word per call that matters, in the kernel's order
    for line in trace.read_text(errors="replace").splitlines():
        if synced := re.search(r"fsync\(\d+<([^>]*)>", line):
            path = Path(synced[1])
            found.append(path.name if path.parent.name.startswith(".tmp-") else re.sub(r"\d+", "N", path.name))
        elif "rename" in line and re.search(r"checkpoints/\.tmp-\d+-\d+\".*checkpoints/step-\d+\"", line):
            found.append("rename")
    order = [
        "model.safetensors",
        "optim.safetensors",
        "state.json",
        "MANIFEST.json",
        ".tmp-N-N",
        "rename",
        "checkpoints",
    ]
    saves = [i for i, name in enumerate(found) if name == "rename"]
    for i in saves:
        row.check(found[i - 5 : i + 2] == order, f"around a rename came {found[i - 5 : i + 2]}")
    row.check(len(saves) == 2, f"{len(saves)} renames of checkpoints were seen instead of 2")
    row.measured["order of system calls (strace)"] = f"{len(saves)} saves: {', '.join(order)}"
    return row


# --- controls --------------------------------------------------------------------------------------------------------


class NoSync(Watched):
    """A package that renames without fsync."""

    def fsync(self, descriptor: int) -> None:
        pass


def controls(scale: Scale) -> dict[str, bool]:
    """Without fsync a power cut leaves zeros under a checkpoint's name."""
    without, _ = power_cut(scale.folder / "control", 0, NoSync)
    return {"no fsync before the rename": bool(without.failures)}
