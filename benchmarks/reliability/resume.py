"""R01: a run that was stopped, killed and resumed in new processes is the run that was not, bit for bit."""

from __future__ import annotations

import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import Row, Scale, command, differences, outcome, small_run
from benchmarks.reliability.crash import RESUME, interrupted, newest, trained
from tinygpt import checkpoint
from tinygpt.records import METRICS, read
from tinygpt.storage import canonical, sha256

HUNDRED = {"max_steps": 100, "save_every": 25, "eval_every": 50, "sample_every": 50}
# dropout 0 or 0.1, gradients in one part or four, AdamW alone or Muon for the matrices in the blocks
COMBINATIONS = list(itertools.product((0.0, 0.1), (1, 4), (0.0, 0.01)))


def row(scale: Scale) -> Row:
    """Every combination stopped at every save point; a chain of kills; state.json with a field less."""
    title = "trained, stopped, resumed in new processes; killed again and again; a field of the state removed"
    row = Row("R01", title)
    combinations(row, scale)
    chain(row, scale)
    missing_fields(row, scale)
    return row


def combinations(row: Row, scale: Scale) -> None:
    """Stopped by a signal at a step, and gone on with in another process."""
    runs = scale.folder / "runs"
    points = (1, 7, 50, 99) if scale.full else (7,)
    expected, trials = {}, []
    for number, (dropout, parts, muon_lr) in enumerate(COMBINATIONS):
        settings = {"dropout": dropout, "micro_batch": 4 // parts, "muon_lr": muon_lr, **HUNDRED}
        expected[number] = outcome(trained(runs / f"whole{number}", **settings))
        for point in points:
            folder = small_run(runs / f"c{number}-{point}", **settings).folder
            if not scale.full:  # in this process, to save time
                interrupted(folder, point)
            trials.append((number, point, folder))

    def one(trial: tuple[int, int, Path]) -> bool:
        number, point, folder = trial
        where = f"dropout, parts, Muon's rate {COMBINATIONS[number]}, stopped at step {point}"
        if scale.full:
            code, said = command(*RESUME, folder.name, cwd=runs.parent, code=signal_at(point, "SIGINT"))
            row.check(code == 130, f"{where}: exit code {code}: {said[-200:]}")
        code, said = command(*RESUME, folder.name, cwd=runs.parent)
        unlike = differences(expected[number], outcome(folder))
        row.lost += bool(unlike)
        steps = [r["step"] for r in read(folder / METRICS) if r["kind"] == "train"]
        row.check(steps == list(range(1, HUNDRED["max_steps"] + 1)), f"{where}: a step twice or missing")
        return row.check(code == 0 and not unlike, f"{where}: exit code {code}, {unlike} differ: {said[-200:]}")

    with ThreadPoolExecutor(2) as pool:
        equal = list(pool.map(one, trials))
    row.independent += len(equal)
    row.measured["resumed bit for bit"] = f"{sum(equal)} of {len(equal)} combinations"


def signal_at(step: int, name: str) -> str:
    """Code for a process that gets a signal at a step's record."""
    return (
        "import os, signal\nfrom tinygpt.display import Display\n"
        f"Display.train = lambda _, r: r['step'] == {step} and os.kill(os.getpid(), signal.{name})"
    )


def chain(row: Row, scale: Scale) -> None:
    """One run of many short sessions, each ended by SIGKILL: its curve is the undisturbed one's."""
    kills, runs = scale.pick(5, 20), scale.folder / "chain" / "runs"
    settings = {"max_steps": 15 * kills, "eval_every": 50, "sample_every": 50}
    expected = outcome(trained(runs / "whole", **settings))
    small_run(runs / "x", **settings)
    chance, losses = random.Random(scale.seed), dict[int, set[float]]()
    for kill in range(kills):
        begin = newest(runs / "x")
        code, _ = command(*RESUME, "x", cwd=runs.parent, code=signal_at(begin + chance.randint(12, 15), "SIGKILL"))
        row.check(code == -9, f"kill {kill + 1}: the process ended with {code}")
        for record in read(runs / "x" / METRICS):
            if record["kind"] == "train":
                losses.setdefault(record["step"], set()).add(record["loss"])
    code, said = command(*RESUME, "x", cwd=runs.parent)
    unlike = differences(expected, outcome(runs / "x"))
    row.lost += bool(unlike)
    row.check(code == 0 and not unlike, f"after {kills} kills: {code}, {unlike} differ: {said[-200:]}")
    row.check(
        all(len(found) == 1 for found in losses.values()), f"a step done again had another loss (seed {scale.seed})"
    )
    row.independent += kills
    row.measured["curve and weights of a run killed"] = f"{kills} times equal the undisturbed run's"


def missing_fields(row: Row, scale: Scale) -> None:
    """Each field of state.json left out in turn, with a manifest that fits: the checkpoint before is taken."""
    folder = trained(scale.folder / "fields", max_steps=20, start="random", n_layers=1, n_embd=16, n_heads=2)
    newest, before = checkpoint.step_folders(folder / "checkpoints")[:2]
    whole = {path: path.read_bytes() for path in newest.iterdir()}
    state = json.loads(whole[newest / "state.json"])
    for name in state:
        seal(newest, {field: value for field, value in state.items() if field != name})
        loaded, rejected = checkpoint.load(folder)
        good = loaded.name == before.name and len(rejected) == 1 and name in rejected[0]
        row.check(good, f"state.json without {name}: {loaded.name} taken, {rejected}")
    for path, data in whole.items():
        path.write_bytes(data)
    row.check(checkpoint.load(folder)[0].name == newest.name, "with all fields it is not taken")
    row.measured["fields of the state"] = f"{len(state)}, none may be missing; no generator state is stored"


def seal(folder: Path, state: dict[str, Any]) -> None:
    """state.json and a manifest that agree with each other."""
    data = canonical(state)
    (folder / "state.json").write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    del manifest["sha256"]
    manifest["files"]["state.json"] = {"bytes": len(data), "sha256": sha256(data)}
    (folder / "MANIFEST.json").write_bytes(canonical({**manifest, "sha256": sha256(canonical(manifest))}))
