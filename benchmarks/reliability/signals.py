"""R06 signals: a run that is told to stop saves, leaves with the right code, and goes on as if nothing had been.

Some signals come from outside at a random time; others the command sends to itself, in a thread, so that they come in
the midst of an evaluation, a sample, a save, the set-up or a stage of the preparation. After each, the run is resumed
to its end and compared with one that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import ROOT
from benchmarks.reliability.common import (
    HANG_S,
    Row,
    Scale,
    command,
    differences,
    finish,
    one_sentence,
    outcome,
    small_run,
    start,
    texts,
)  # fmt: skip
from tinygpt import checkpoint
from tinygpt import train as training
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.doctor import examine_run
from tinygpt.errors import INTERRUPTED, TERMINATED, UserError
from tinygpt.records import METRICS, read

SETTINGS: dict[str, Any] = {"max_steps": 40, "eval_every": 10, "save_every": 10, "sample_every": 20}
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)
CODES = {TERM: TERMINATED, INT: INTERRUPTED, HUP: TERMINATED}
LIMIT_S = 5.0  # and one step: from the signal to the end of the process
MAX_TIME_S = 3.0
TOO_LATE = 5  # tries to send a signal before the run is done
ANY_TIME, PREPARATION, TERMINAL, NOHUP = "training", "preparation", "closed terminal", "nohup"
PLACES = {  # where the command sends a signal to itself: module, function, and the calls of it that will do
    "evaluation": ("tinygpt.train", "score", 4),  # the next is the last one of the run
    "sampling": ("tinygpt.train", "generate", 2),
    "saving": ("tinygpt.checkpoint", "write_durable", 16),  # four files each
    "set-up": ("tinygpt.train", "make_optimizer", 1),
}
STAGES = {  # of the preparation
    "reading": ("tinygpt.prepare", "read_corpus", 1),
    "tokenizer": ("tinygpt.prepare", "train_tokenizer", 1),
    "baselines": ("tinygpt.prepare", "compare_with", 1),
    "measuring": ("tinygpt.prepare", "measure", 1),
    "writing": ("tinygpt.runs", "write_tokens", 2),
}
TINY = (
    "--steps", "6", "n_layers=1", "n_embd=32", "n_heads=2", "block_size=32", "batch_size=4", "vocab_size=300",
    "device=cpu", "threads=1", "compiled=no", "precision=fp32",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """Signals, one after the other, and where they come."""

    numbers: tuple[signal.Signals, ...]
    where: str = ANY_TIME

    def __str__(self) -> str:
        return f"{' and '.join(number.name for number in self.numbers)} in {self.where}"

    @property
    def single(self) -> bool:
        return len(self.numbers) == 1


@dataclass
class Verdict:
    """What is wrong after a trial, and how long the process took to end [s]."""

    wrong: list[str]
    lost: bool = False
    seconds: float | None = None
    step_s: float = 0.0  # the longest one of the run


def row(scale: Scale) -> Row:
    """R06 of the table."""
    result, trials = Row("R06", "signals"), chosen(scale)
    (scale.folder / "story.txt").write_text("\n\n".join(texts()))
    reference = undisturbed(scale.folder / "undisturbed")
    with ThreadPoolExecutor(2) as pool:
        work = functools.partial(tried, scale, reference)
        verdicts = list(pool.map(work, itertools.count(), trials))
        timed = list(pool.map(functools.partial(time_up, scale.folder, reference), range(5 if scale.full else 0)))
    for number, (trial, verdict) in enumerate(zip(trials, verdicts, strict=True)):
        if scale.full and verdict.seconds is not None and verdict.seconds > LIMIT_S + verdict.step_s:
            verdict.wrong.append(f"it took {verdict.seconds:.1f} s to end, a step takes {verdict.step_s:.2f} s")
        result.check(not verdict.wrong, f"{trial} (trial {number}, seed {scale.seed}): {'; '.join(verdict.wrong)}")
        result.lost += verdict.lost
    for verdict in timed:
        result.check(not verdict.wrong, f"max_time_s={MAX_TIME_S:g}: {'; '.join(verdict.wrong)}")
        result.lost += verdict.lost
    for name, group in (("one signal", True), ("the second of two SIGINT", False)):
        seconds = [v.seconds for t, v in zip(trials, verdicts, strict=True) if t.single == group and v.seconds]
        if seconds:
            figures = f"median {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s"
            result.measured[f"from {name} to the end of the process"] = figures
    if hasattr(os, "getloadavg"):
        result.measured["busy at the end"] = f"{os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores"
    if not hasattr(os, "openpty"):
        result.measured["closed terminal"] = "not run: no terminals to open here"
    result.measured["max_time_s"] = f"{len(timed)} trials" if timed else "not run: only in full"
    result.lowered = f"max_time_s is {MAX_TIME_S:g} s instead of 60 s: the same code, sooner" if timed else ""
    return result


def controls(scale: Scale) -> dict[str, bool]:
    """Without the loop's handler a signal ends the command in the midst of its work, and what was logged is not saved.

    The signal comes in an evaluation: there the newest checkpoint is older than the step.
    """
    reference = undisturbed(scale.folder / "undisturbed")
    run = small_run(scale.folder / "runs" / "no-handler", **SETTINGS).folder
    code = "from benchmarks.reliability import signals\nsignals.take_handler_away()\n"
    verdict = stopped_by_itself(run, Trial((TERM,), "evaluation"), reference, random.Random(scale.seed), 2, code)
    return {"handler": bool(verdict.wrong)}


def tail(said: str) -> str:
    """The last words of a process, on one line."""
    return " ".join(said.split())[-300:]


def undisturbed(folder: Path) -> dict[str, Any]:
    """The outcome of a run that nobody stopped."""
    run = small_run(folder, **SETTINGS)
    assert training.train(training.set_up(run, choose_machine(run.config.train), Display(io.StringIO()))) == 0
    return outcome(folder)


def chosen(scale: Scale) -> list[Trial]:
    """In full 50 SIGTERM, 50 SIGINT, 20 double SIGINT and 10 SIGHUP; else one trial of each kind."""
    terminal = [Trial((HUP,), TERMINAL)] if hasattr(os, "openpty") else []
    if not scale.full:
        stage = random.Random(scale.seed).choice(list(STAGES))
        return [
            Trial((TERM,)), Trial((INT,), "evaluation"), Trial((TERM,), "saving"), Trial((INT, INT)),
            *terminal, Trial((TERM,), stage),
        ]  # fmt: skip
    places = ["evaluation"] * 6 + ["sampling"] * 3 + ["saving"] * 7 + ["set-up"] * 2 + [*STAGES] + [PREPARATION] * 7
    trials = [Trial((number,), where) for number in (TERM, INT) for where in places + [ANY_TIME] * 20]
    trials += [Trial((INT, INT), where) for where in ["evaluation"] * 4 + ["saving"] * 6 + [ANY_TIME] * 10]
    return trials + [Trial((HUP,))] * 3 + [Trial((HUP,), NOHUP)] * 3 + terminal * 4


def tried(scale: Scale, reference: dict[str, Any], number: int, trial: Trial) -> Verdict:
    """One trial in folders of its own."""
    draw, folder = random.Random(scale.seed * 1_000 + number), scale.folder
    if trial.where in STAGES or trial.where == PREPARATION:
        return stopped_preparing(folder, f"new-{number}", trial, draw)
    run = small_run(folder / "runs" / f"trial-{number}", **SETTINGS).folder
    if trial.where == NOHUP:
        return ignored(run, trial, reference, draw)
    if trial.where == TERMINAL:
        return terminal_closed(run, reference, draw)
    if trial.where in PLACES:
        return stopped_by_itself(run, trial, reference, draw, draw.randint(1, PLACES[trial.where][2]))
    return stopped_any_time(run, trial, reference, draw)


# --- while training --------------------------------------------------------------------------------------------------


def words_for(run: Path) -> tuple[str, ...]:
    """The command that begins a run that is there, or goes on with it."""
    return ("train", "--resume", "--quiet", "--run", run.name)


def stopped_any_time(run: Path, trial: Trial, reference: dict[str, Any], draw: random.Random) -> Verdict:
    """The signals come from outside, within a random step; a run that was done before they came is begun again."""
    for again in range(TOO_LATE):
        process = start(*words_for(run), cwd=run.parents[1])
        wait_for(process, functools.partial(has_step, run, draw.randrange(36)))
        time.sleep(draw.uniform(0, 0.05))
        sent = send(process.send_signal, trial.numbers, draw.uniform(0, 0.1))
        code, said = finish(process)
        seconds = time.time() - sent
        if code or checkpoint.load(run)[0].step < SETTINGS["max_steps"]:
            break
        run = small_run(run.with_name(f"{run.name}-{again}"), **SETTINGS).folder
    return judged(run, trial, code, said, reference, seconds)


def stopped_by_itself(
    run: Path, trial: Trial, reference: dict[str, Any], draw: random.Random, call: int, code: str = ""
) -> Verdict:
    """The signals come within one of the PLACES, in the given call of its function; code: run before the command."""
    report = run.with_name(f"{run.name}.sent")
    code += sending(trial, call, draw, report)
    exit_code, said = command(*words_for(run), cwd=run.parents[1], code=code)
    seconds = time.time() - float(report.read_text()) if report.exists() else None
    return judged(run, trial, exit_code, said, reference, seconds)


def judged(
    run: Path, trial: Trial, code: int, said: str, reference: dict[str, Any], seconds: float | None
) -> Verdict:  # fmt: skip
    """Exit code, words, newest checkpoint, doctor, and what comes of a resume."""
    wanted, wrong = CODES[trial.numbers[0]], []
    if code != wanted or "Traceback" in said:
        wrong.append(f"exit code {code}, not {wanted}: {tail(said)}")
    records = [record for record in read(run / METRICS) if record["kind"] == "train"]
    logged = records[-1]["step"] if records else 0
    try:
        loaded, rejected = checkpoint.load(run)
        name, step, usable = loaded.name, loaded.step, checkpoint.load(run, "best")[1] == rejected == []
    except UserError as error:  # none yet
        name, step, usable = None, 0, not checkpoint.step_folders(run / "checkpoints") and bool(error)
    if not usable:
        wrong.append("a checkpoint is damaged")
    if trial.single and (step != logged or (name is None and trial.where != "set-up")):
        wrong.append(f"the newest checkpoint is {name}, the last step logged {logged}")
    examined = examine_run(run)
    # Who leaves at once may leave a temporary folder, which the next start sweeps away, and LATEST one save behind.
    harmless = () if trial.single else ("left over", "LATEST names")
    problems = [problem for problem in examined["problems"] if not any(words in problem for words in harmless)]
    if (name and (problems or examined["exit_code"])) or examined["resume"] != name:
        wrong.append(f"the loader takes {name}, doctor {examined['resume']} and finds {problems}")
    exit_code, said = command(*words_for(run), cwd=run.parents[1])
    times = [0.0, *(record["time_s"] for record in records)]
    step_s = max((b - a for a, b in itertools.pairwise(times)), default=0.0)
    if exit_code:
        return Verdict([*wrong, f"--resume: exit code {exit_code}: {tail(said)}"], True, seconds, step_s)
    different = differences(reference, outcome(run))
    wrong += [f"after --resume the end differs in {different}"] if different else []
    return Verdict(wrong, bool(different), seconds, step_s)


def ignored(run: Path, trial: Trial, reference: dict[str, Any], draw: random.Random) -> Verdict:
    """Started as nohup does it, with the signal ignored: training goes on to its end."""
    code = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start(*words_for(run), cwd=run.parents[1], code=code)
    wait_for(process, functools.partial(has_step, run, draw.randrange(30)))
    send(process.send_signal, trial.numbers)
    exit_code, said = finish(process)
    if exit_code:
        return Verdict([f"under nohup: exit code {exit_code}: {tail(said)}"])
    different = differences(reference, outcome(run))
    return Verdict([f"under nohup the end differs in {different}"] if different else [], bool(different))


def terminal_closed(run: Path, reference: dict[str, Any], draw: random.Random) -> Verdict:
    """The command has a terminal of its own, and that goes away: SIGHUP comes from the kernel, and no word gets out."""
    master, slave = os.openpty()
    program = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from tinygpt.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", "--resume", "--run", run.name], cwd=run.parents[1], env=environment,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    enough = functools.partial(has_step, run, draw.randrange(30))

    def read_until() -> bool:
        if select.select([master], [], [], 0)[0]:
            with contextlib.suppress(OSError):
                os.read(master, 1 << 16)
        return enough()

    wait_for(process, read_until)
    sent = time.time()
    os.close(master)
    try:
        code = process.wait(HANG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return judged(run, Trial((HUP,), TERMINAL), code, "", reference, time.time() - sent)


def time_up(folder: Path, reference: dict[str, Any], number: int) -> Verdict:
    """A run with max_time_s: the first session is too slow for all its steps, the later ones are not."""
    run = small_run(folder / "runs" / f"time-{number}", **SETTINGS, max_time_s=MAX_TIME_S).folder
    slow = "from benchmarks.reliability import signals\nsignals.slow_down()"
    code, said = command(*words_for(run), cwd=folder, code=slow)
    wrong = []
    step, logged = checkpoint.load(run)[0].step, read(run / METRICS)[-1]["step"]
    if code or not 0 < step == logged < SETTINGS["max_steps"] or f"Stopped at step {step} and saved" not in said:
        wrong.append(f"exit code {code}, step {step} saved and {logged} logged: {tail(said)}")
    for _ in range(SETTINGS["max_steps"]):
        code, said = command(*words_for(run), cwd=folder)
        if code or checkpoint.load(run)[0].step == SETTINGS["max_steps"]:
            break
    different = differences(reference, outcome(run))
    if code or different:
        wrong.append(f"--resume: exit code {code}, the end differs in {different}: {tail(said)}")
    return Verdict(wrong, bool(different))


# --- while a new run is prepared -------------------------------------------------------------------------------------


def stopped_preparing(folder: Path, name: str, trial: Trial, draw: random.Random) -> Verdict:
    """`tinygpt train story.txt` is stopped before there is a run: nothing of it stays. One that is there goes on."""
    words, run, sent = ("train", "story.txt", "--run", name, *TINY), folder / "runs" / name, time.time()
    if trial.where in STAGES:
        report = folder / f"{name}.sent"
        code = sending(trial, draw.randint(1, STAGES[trial.where][2]), draw, report)
        exit_code, said = command(*words, cwd=folder, code=code)
        sent = float(report.read_text()) if report.exists() else 0.0
    else:
        process = start(*words, cwd=folder)
        wait_for(process, (run / ".lock").exists)
        time.sleep(draw.uniform(0, 4))
        sent = send(process.send_signal, trial.numbers)
        exit_code, said = finish(process)
    seconds, wrong, wanted = time.time() - sent, list[str](), CODES[trial.numbers[0]]
    made = (run / "config.json").exists()
    if made and exit_code == 0 and trial.where == PREPARATION and name.count("-again") < TOO_LATE:
        return stopped_preparing(folder, f"{name}-again", trial, draw)  # it was done before
    if exit_code != wanted or "Traceback" in said or not (made or one_sentence(said)):
        wrong.append(f"exit code {exit_code}, not {wanted}: {tail(said)}")
    left = [str(path.relative_to(run)) for path in run.rglob("*")]
    if not made and left:
        wrong.append(f"there remain {', '.join(left)}")
    if made:
        exit_code, said = command("train", "--resume", "--quiet", "--run", name, cwd=folder)
        if exit_code or examine_run(run)["problems"]:
            wrong.append(f"--resume: exit code {exit_code}, {examine_run(run)['problems']}: {tail(said)}")
    return Verdict(wrong, seconds=seconds)


# --- sending ---------------------------------------------------------------------------------------------------------


def send(
    kill: Callable[[int], object], numbers: Sequence[int], between_s: float = 0.0, report: Path | None = None
) -> float:
    """Send the signals one after the other; the time of the last one, which `report` gets too."""
    for i, number in enumerate(numbers):
        time.sleep(between_s * (i > 0))
        now = time.time()
        if report:
            report.write_text(str(now))
        kill(number)
    return now


def wait_for(process: subprocess.Popen[Any], ready: Callable[[], bool]) -> None:
    """Return when that is so, when the process has ended, or when it hangs."""
    until = time.monotonic() + HANG_S
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.003)


def has_step(run: Path, step: int) -> bool:
    """Whether the run has logged this step, or with 0 its first evaluation."""
    path = run / METRICS
    if not path.exists():
        return False
    return step == 0 or f'"kind": "train", "step": {step},' in path.read_text()


def sending(trial: Trial, call: int, draw: random.Random, report: Path) -> str:
    """The code that lets a command send these signals to itself."""
    arguments = (trial.where, call, [int(n) for n in trial.numbers], draw.uniform(0, 0.02), draw.uniform(0, 0.05))
    return f"from benchmarks.reliability import signals\nsignals.send_to_self(*{arguments!r}, {str(report)!r})"


# --- in the process of the command -----------------------------------------------------------------------------------


def send_to_self(where: str, call: int, numbers: list[int], after_s: float, between_s: float, report: str) -> None:
    """Send the signals so many seconds after the given call of a function begins."""
    module_name, name, _ = {**PLACES, **STAGES}[where]
    module, calls = importlib.import_module(module_name), itertools.count(1)
    really = getattr(module, name)

    def work() -> None:
        time.sleep(after_s)
        send(functools.partial(os.kill, os.getpid()), numbers, between_s, Path(report))

    def watched(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            threading.Thread(target=work, daemon=True).start()
        return really(*arguments, **named)

    setattr(module, name, watched)


def slow_down() -> None:
    """A tenth of a second more for each step."""
    really = training.gather_gradient

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.1)
        return really(*arguments)

    mock.patch.object(training, "gather_gradient", slowly).start()


def take_handler_away() -> None:
    """The loop hears of no signal."""

    @contextlib.contextmanager
    def deaf() -> Iterator[Any]:
        yield mock.Mock(code=0)

    mock.patch.object(training, "Signals", deaf).start()
