"""R11 two processes: of those who start on one run exactly one works on it, and readers never see half a checkpoint.

Groups of four start at once, on a run that is there and on a new one. Whoever has the run waits for a word of the
trial before it goes on, so that no timing decides who was there; an audit hook in every process writes down what it
changes. Holders are killed, and the next one has to find the lock free. At last one process saves as fast as it can,
and eight readers load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.reliability.common import HANG_S, Row, Scale, command, finish, one_sentence, small_run, start, texts
from benchmarks.reliability.signals import TINY, tail
from tinygpt import checkpoint
from tinygpt.doctor import examine_run
from tinygpt.errors import LOCKED, USAGE, UserError
from tinygpt.folders import LOCK, lock
from tinygpt.runs import open_run

AT_ONCE = 4
LEAVES_S = 1.0  # a process that finds the run held, from its start to its end
SETTINGS = {"n_embd": 32, "n_layers": 2, "max_steps": 4, "eval_every": 4, "save_every": 4, "sample_every": 4}
READERS, SAVE_EVERY_S = 8, 0.05

# Before the command, without torch: what the process changes under runs/, one line each, and a stop once it holds the
# run. "won" says that it does; it goes on when there is "go".
PRELUDE = """
import contextlib, os, sys, time

journal = os.open({journal!r} + str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")

def hook(event, arguments):
    if event in changes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & writing):
        if isinstance(arguments[0], (str, os.PathLike)) and {name!r} in os.fspath(arguments[0]).split(os.sep):
            os.write(journal, (event + " " + os.path.basename(os.fspath(arguments[0])) + chr(10)).encode())

sys.addaudithook(hook)
import tinygpt.cli
really = tinygpt.cli.claim

@contextlib.contextmanager
def claim(*arguments):
    with really(*arguments) as folder:
        os.close(os.open({won!r} + str(os.getpid()), os.O_WRONLY | os.O_CREAT))
        while not os.path.exists({go!r}):
            time.sleep(0.002)
        yield folder

tinygpt.cli.claim = claim
"""
NO_LOCK = "import contextlib, tinygpt.folders; tinygpt.folders.lock = contextlib.nullcontext\n"
HOLDER = "import sys, time; from pathlib import Path; from tinygpt.folders import lock\nwith lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(1000)"  # noqa: E501


def row(scale: Scale) -> Row:
    """R11 of the table."""
    result = Row("R11", "two processes")
    (scale.folder / "story.txt").write_text("\n\n".join(texts()))
    seconds = list[float]()
    for number in range(scale.pick(2, 25)):
        group = Group(scale.folder, f"group-{number}", new=number % 2 == 1)
        for wrong in (group.started(), group.ended(kill=number % 4 < 2)):
            result.check(not wrong, f"{group.name}, {group.kind}: {'; '.join(wrong)}")
        seconds += group.seconds
    longest = f"median {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s of {len(seconds)}"
    result.measured[f"from start to end of a process that finds the run held, {AT_ONCE} at once"] = longest
    if scale.full:
        alone = [refused_alone(scale.folder, number) for number in range(10)]
        for problem, took in alone:
            result.check(not problem and took < LEAVES_S, f"one that finds the run held: {took:.2f} s {problem}")
        times = [took for _, took in alone]
        alone_s = f"median {statistics.median(times):.2f} s, at most {max(times):.2f} s of {len(times)}"
        result.measured["the same, one at a time"] = alone_s
    killed_holders(result, scale)
    storm(result, scale)
    return result


def controls(scale: Scale) -> dict[str, bool]:
    """Without the lock all of a group work on the run."""
    group = Group(scale.folder, "no-lock", new=False, before=NO_LOCK)
    wrong = group.started()
    group.end_all()
    return {"lock": bool(wrong) and len(group.winners) > 1}


# --- starts at once --------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Processes that start at once on one run, which is there already or new."""

    folder: Path
    name: str
    new: bool
    before: str = ""  # code that runs in each of them before anything else
    processes: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)  # from the start of each loser to its end
    winners: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    @property
    def kind(self) -> str:
        return "a new run" if self.new else "a run that is there"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def words(self) -> tuple[str, ...]:
        if self.new and not (self.run / "config.json").exists():
            return ("train", "story.txt", "--quiet", "--run", self.name, *TINY)
        return ("train", "--resume", "--quiet", "--run", self.name)

    def start(self, many: int) -> list[subprocess.Popen[str]]:
        """So many more of them."""
        home = self.folder / f"{self.name}.notes"
        home.mkdir(exist_ok=True)
        paths = {name: str(home / name) for name in ("journal", "won", "go")}
        code = self.before + PRELUDE.format(name=self.name, **paths)
        began = [start(*self.words, cwd=self.folder, code=code) for _ in range(many)]
        self.processes += began
        return began

    def noted(self, what: str, process: subprocess.Popen[str]) -> Path:
        """What a process has written about itself."""
        return self.folder / f"{self.name}.notes" / f"{what}{process.pid}"

    def started(self) -> list[str]:
        """Start them; what is wrong once each has the run or has left."""
        if not self.new:
            small_run(self.run, **SETTINGS)
        before = {} if self.new else files(self.run)
        wrong = self.compete()
        if not self.new and files(self.run) != before:
            wrong.append("the run was changed before anybody worked on it")
        return wrong

    def compete(self) -> list[str]:
        """Start so many at once; what is wrong with who has the run then, and with those who have left."""
        began = time.perf_counter()
        processes = self.start(AT_ONCE)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            words = list(pool.map(lambda process: self.outcome_of(process, began), processes))
        self.winners = [process for process, said in zip(processes, words, strict=True) if said is None]
        wrong = [f"{len(self.winners)} have the run"] if len(self.winners) != 1 else []
        for process, said in zip(processes, words, strict=True):
            if said is not None:
                wrong += self.wrong_loser(process, said)
        return wrong

    def outcome_of(self, process: subprocess.Popen[str], began: float) -> str | None:
        """The words of a process that has left, or None for one that has the run."""
        until = time.monotonic() + HANG_S
        while process.poll() is None and time.monotonic() < until:
            if self.noted("won", process).exists():
                return None
            time.sleep(0.002)
        self.seconds.append(time.perf_counter() - began)
        return finish(process)[1]

    def wrong_loser(self, process: subprocess.Popen[str], said: str) -> list[str]:
        """What is wrong with one that has not got the run."""
        wrong = []
        if process.returncode != LOCKED or not one_sentence(said) or said.count("\n") != 1:
            wrong.append(f"exit code {process.returncode}, not {LOCKED}: {tail(said)}")
        elif self.winners and f"(process {self.winners[0].pid} on " not in said:
            wrong.append(f"the holder, {self.winners[0].pid}, is not named: {tail(said)}")
        touched = set(self.noted("journal", process).read_text().splitlines())
        allowed = {f"open {LOCK}", f"os.mkdir {self.name}"}  # filelock tries to make the folder, which changes nothing
        if touched - allowed:
            wrong.append(f"a process that was refused did {', '.join(sorted(touched - allowed))}")
        return wrong

    def ended(self, kill: bool) -> list[str]:
        """What is wrong when the winner goes on to the end; kill: when it dies, and those who start after it."""
        wrong = list[str]()
        if kill and self.winners:
            self.winners[0].kill()
            finish(self.winners[0])
            wrong = [f"after a kill: {sentence}" for sentence in self.compete()]
        if not self.winners:
            self.end_all()
            return [*wrong, "nobody goes on"]
        holder = self.winners[0]
        (self.folder / f"{self.name}.notes" / "go").touch()
        code, said = finish(holder)
        self.end_all()
        if code:
            wrong.append(f"who has the run ends with exit code {code}: {tail(said)}")
        examined = examine_run(self.run)
        if examined["problems"] or examined["exit_code"] or examined["locked"]:
            wrong.append(f"at the end doctor finds {examined['problems']}, locked {examined['locked']}")
        if self.new:  # a name that is taken is refused in another way
            code, said = command("train", "story.txt", "--run", self.name, cwd=self.folder)
            if code != USAGE or not one_sentence(said) or " exists; " not in said:
                wrong.append(f"begun again: exit code {code}, not {USAGE}: {tail(said)}")
        return wrong

    def end_all(self) -> None:
        """None of the processes goes on."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                finish(process)


def files(run: Path) -> dict[str, bytes]:
    """Everything in a run but the lock and its owner."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name[0] != "."}


def refused_alone(folder: Path, number: int) -> tuple[str, float]:
    """What is wrong with the refusal of a run that this process holds, and how long it took [s]."""
    run = folder / "runs" / f"held-{number}"
    small_run(run, **SETTINGS)
    with lock(run):
        began = time.perf_counter()
        code, said = command("train", "--resume", "--run", run.name, cwd=folder)
        took = time.perf_counter() - began
    right = code == LOCKED and one_sentence(said) and f"(process {os.getpid()} on " in said
    return "" if right else f"exit code {code}: {tail(said)}", took


# --- holders that are killed -----------------------------------------------------------------------------------------


def killed_holders(result: Row, scale: Scale) -> None:
    """A process that holds a lock is killed; the next one has it at once, and is named as its owner."""
    seconds = []
    for number in range(scale.pick(2, 50)):
        folder = scale.folder / f"killed-{number}"
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout and holder.stdout.readline() == "held\n"
        refused = contextlib.suppress(UserError)
        with refused, lock(folder):
            result.failures.append(f"kill {number}: two processes hold {folder.name}")
        holder.kill()
        holder.communicate()
        began = time.perf_counter()
        try:
            with lock(folder):
                seconds.append(time.perf_counter() - began)
                wrong = "" if (folder / ".owner.json").exists() else "nobody is written down as its owner"
        except UserError as error:
            wrong = str(error)
        result.check(not wrong, f"kill {number}: the lock is not free: {wrong}")
    if seconds:
        figure = f"median {1000 * statistics.median(seconds):.0f} ms, at most {1000 * max(seconds):.0f} ms"
        result.measured["from the death of a holder to the lock of the next one"] = figure


# --- one writer, eight readers ---------------------------------------------------------------------------------------


def storm(result: Row, scale: Scale) -> None:
    """Readers load "best", "last" and the oldest while a process saves and prunes; every tensor tells its step."""
    seconds = 60 if scale.full else 5
    run = small_run(scale.folder / "storm", **SETTINGS).folder
    digests, failures, over = open_run(run)[0].digests, list[str](), threading.Event()
    code = f"from benchmarks.reliability import processes\nprocesses.save_for_ever({str(run)!r}, {scale.seed})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert writer.stdout
    if (first := writer.stdout.readline()) != "saved\n":
        failures.append(f"the writer says {first}")
        over.set()

    def read() -> int:
        reads, newest = 0, 0
        for which in itertools.cycle(("best", "last", "oldest")):
            if over.is_set():
                break
            wanted = which if which != "oldest" else oldest(run)  # which is the next to be pruned
            try:
                loaded, rejected = checkpoint.load(run, wanted, digests)
                values = values_in(loaded)
                if rejected or values != {loaded.step}:
                    failures.append(f"{which} is {loaded.name} with {values}, rejected {rejected}")
                if which == "last" and loaded.step < newest:
                    failures.append(f"last is {loaded.name} after step {newest}")
                newest = loaded.step if which == "last" else newest
            except Exception as error:  # each counts, but that the oldest has gone meanwhile
                if which != "oldest" or "not usable" in str(error) or not isinstance(error, UserError):
                    failures.append(f"{which}: {type(error).__name__}: {error}")
            reads += 1
        return reads

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read) for _ in range(READERS)]
        over.wait(seconds)
        alive = writer.poll() is None
        over.set()
        reads = [reader.result() for reader in readers]
    writer.kill()
    said = writer.communicate()[0]
    result.check(alive, f"storm: the writer ended: {tail(said)}")
    saves = said.count("saved\n")
    result.check(not failures, f"storm: {len(failures)} of {sum(reads)} reads; {'; '.join(failures[:5])}")
    wrong = f"{len(failures)} of them not whole or failed" if failures else "0 torn, 0 not usable, 0 exceptions"
    result.measured[f"{READERS} readers, {seconds} s"] = f"{sum(reads):,} reads against {saves:,} saves, {wrong}"
    if not failures:
        shutil.rmtree(run)


def oldest(run: Path) -> str:
    """The step of the oldest checkpoint."""
    return str(checkpoint.step_of(checkpoint.step_folders(run / "checkpoints")[-1]))


def values_in(loaded: checkpoint.Checkpoint) -> set[float]:
    """The numbers in its tensors, and its step: one number, if all its files were made by one save."""
    ends = [t for tensor in (*loaded.model.values(), *loaded.optim.values()) for t in tensor.aminmax()]
    return {float(loaded.progress.step), *(float(value) for value in ends)}


def save_for_ever(folder: str, seed: int) -> None:
    """In a process of its own: a save every 50 ms, or as fast as the disk can; all numbers of step n are n."""
    import torch

    from tinygpt.checkpoint import Progress
    from tinygpt.model import TinyGPT
    from tinygpt.optim import Optimizer

    run, draw = open_run(Path(folder))[0], random.Random(seed)
    model = TinyGPT(run.config.model)
    optimizer = Optimizer([])
    best, best_step = 9.0, 0
    for step in itertools.count(1):
        began = time.perf_counter()
        if draw.random() < 0.3:
            best, best_step = best * 0.99, step
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(step)
                optimizer.state[parameter] = {"exp_avg": torch.full_like(parameter, step)}
        progress = Progress(step=step, best_bpb=best, best_step=best_step)
        if damaged := checkpoint.save(run.folder, model, optimizer, progress, run.digests):
            raise RuntimeError(f"pruning finds: {damaged}")
        print("saved", flush=True)
        time.sleep(max(0.0, SAVE_EVERY_S - (time.perf_counter() - began)))
