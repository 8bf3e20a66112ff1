"""Runs by name, and what the functions of `tinygpt.inspect` say of them: computed in one thread, kept while it holds.

A name never becomes a path: it has the form of a run's name, stands directly in the folder of the runs, and is no link;
a run with a link inside that leads out of the folder does not exist here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import tinygpt.inspect as ti
from tinygpt import checkpoint, records, runs
from tinygpt.config import from_stored
from tinygpt.errors import NO_CHECKPOINT, UserError, did_you_mean
from tinygpt.folders import check_name, is_locked
from tinygpt.inspect import dynamics, text, trace
from tinygpt.inspect.result import Result, arguments_of
from tinygpt.start import starts_from_pairs
from tinygpt.storage import read_json, stamps
from tinygpt.web import ApiError

MOST_FORWARDS = 4  # running and waiting
MOST_READERS = 16  # the same, of functions that only read records
MODELS_KEPT = 4
REPLIES_BYTES = 64 << 20  # of replies that are kept
READERS = ("records", "checkpoints")  # functions that compute nothing: they do not wait for those that do
LOWEST = 19  # niceness
OPENING_WORDS = 10  # of the prompt that the pages begin with
T = TypeVar("T")


class Worker:
    """One thread that gives way to a training; at most `most` pieces of work run and wait, the next one gets a 429.

    On Linux the thread, and those that torch starts from it, have the lowest priority; elsewhere that of the process.
    """

    def __init__(self, most: int) -> None:
        self.most, self.busy, self.counting = most, 0, threading.Lock()
        self.pool = ThreadPoolExecutor(1, initializer=step_back)

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The result to come; cancelling it takes back what has not begun. ApiError (429) if too much waits."""
        with self.counting:
            if self.busy >= self.most:
                raise ApiError(429, f"{self.most} answers are being computed or wait; ask again in a moment.")
            self.busy += 1
        future = self.pool.submit(work)
        future.add_done_callback(self.done)
        return asyncio.wrap_future(future)

    def done(self, _: Future[Any]) -> None:
        with self.counting:
            self.busy -= 1


def step_back() -> None:
    """The lowest priority for this thread; its threads inherit it."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)


class Replies:
    """The bytes of replies by what they depend on, the least used ones forgotten beyond a size."""

    def __init__(self, most_bytes: int = REPLIES_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self.kept: OrderedDict[Any, bytes] = OrderedDict()

    def get(self, key: Any) -> bytes | None:
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def put(self, key: Any, reply: bytes) -> None:
        self.bytes += len(reply) - len(self.kept.pop(key, b""))
        self.kept[key] = reply
        while self.bytes > self.most_bytes:
            self.bytes -= len(self.kept.popitem(last=False)[1])


# --- runs by name ----------------------------------------------------------------------------------------------------


class Folder:
    """The folder of all runs. `root` as it was given: references in replies begin with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cards: dict[str, tuple[Any, dict[str, Any]]] = {}

    def names(self) -> list[str]:
        """Of the runs, those worked on last first."""
        if not self.root.is_dir():
            return []
        found = [path for path in self.root.iterdir() if is_name(path.name) and is_run(path) and not leads_out(path)]

        def changed(path: Path) -> float:
            written = stamps(path, path / "config.json", path / records.METRICS)
            return float(max((stamp[0] for stamp in written if stamp), default=0))

        return [path.name for path in sorted(found, key=changed, reverse=True)]

    def run(self, name: str) -> Path:
        """The folder of a run. ApiError (404) if there is none of that name."""
        path = self.root / name if is_name(name) else None
        if path is None or not is_run(path) or leads_out(path):
            known = self.names()
            there = f"runs here: {', '.join(known[:20])}" if known else "there are no runs here yet: train one"
            raise ApiError(404, f"there is no run {name[:100]!r}{did_you_mean(name[:100], known)}; {there}.")
        return path

    def card(self, name: str) -> dict[str, Any]:
        """What a list of runs says about one; read anew when its files have changed."""
        folder = self.root / name
        state = stamps(folder / "config.json", folder / records.METRICS, folder / "checkpoints", folder / "snapshots")
        if self.cards.get(name, (None, {}))[0] != state:
            self.cards[name] = (state, card_of(folder))
        return {**self.cards[name][1], "training": is_locked(folder)}


def is_name(name: str) -> bool:
    """Whether it has the form of a run's name."""
    try:
        return check_name(name) == name
    except UserError:
        return False


def is_run(path: Path) -> bool:
    """Whether there is a run folder at this place, itself and not behind a link."""
    return not path.is_symlink() and (path / "config.json").is_file()


def leads_out(path: Path) -> bool:
    """Whether a link in a run folder leads out of it."""
    inside = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            place = Path(folder, name)
            if place.is_symlink() and not place.resolve().is_relative_to(inside):
                return True
    return False


def card_of(folder: Path) -> dict[str, Any]:
    """Name, shape, figures and kept steps of a run, from its small files alone."""
    stored = read_json(folder / "config.json")
    written = records.read(folder / records.METRICS)
    steps = dynamics.kept(folder, written)
    figures = [r["val_bpb"] for r in written if r.get("kind") == "eval" and r.get("val_bpb")]
    told = [r.get("step", 0) for r in written if r.get("kind") != "event"]
    step = max([*told, *(entry["step"] for entry in steps)], default=0)  # a run that is stopped saves without a record
    model = stored["model"]
    config, _ = from_stored(stored)
    counted = starts_from_pairs(config.model, config.train.start)
    start = "another model" if stored.get("from") else "pairs" if counted else "random"
    return {
        "name": folder.name, "preset": stored["preset"], "parameters": stored["parameters"], "step": step,
        "max_steps": stored["train"]["max_steps"], "val_bpb": min(figures, default=None),
        "finished": dynamics.is_finished(config.train, written), "tales": bool(stored["floor"]),
        "start": start,
        **{name: model[name] for name in ("vocab_size", "n_embd", "n_layers", "n_heads", "block_size")},
        "opening": opening_of(folder, stamps(folder / "config.json")),
        "steps": steps,
    }  # fmt: skip


@lru_cache(maxsize=1000)  # runs
def opening_of(folder: Path, stamp: tuple[Any, ...]) -> str:
    """A prompt to begin with: the first words of the run's unseen text; it fits in any tokens."""
    try:
        run = runs.open_run(folder)[0]
    except UserError:  # damaged: the pages say how, and any prompt does
        return ""
    words = " ".join(runs.first_words(run)[:OPENING_WORDS])
    return words.encode()[: min(80, run.config.model.block_size)].decode(errors="ignore")


# --- functions -------------------------------------------------------------------------------------------------------


class Answers:
    """Replies of the functions, by name of the run and the function."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.replies = folder, Replies()
        self.forwards, self.readers = Worker(MOST_FORWARDS), Worker(MOST_READERS)
        self.models: OrderedDict[str, tuple[Any, Any]] = OrderedDict()  # reference -> stamps, Model; of one thread

    def find(self, name: str, subject: str) -> Callable[..., Result]:
        """A function by its name. ApiError (404) where there is none of it for this subject ("m", "run", "runs")."""
        fitting = [known for known, (_, takes, _) in ti.FUNCTIONS.items() if takes == subject]
        if name not in fitting:
            of = {"m": "a checkpoint", "run": "a run", "runs": "several runs"}[subject]
            raise ApiError(
                404, f"there is no function {name[:100]!r} of {of}{did_you_mean(name[:100], fitting)}; "
                f"there are {', '.join(fitting)}.",
            )  # fmt: skip
        found: Callable[..., Result] = getattr(ti, name)
        return found

    def of_model(self, reference: str, name: str, given: Mapping[str, Any]) -> tuple[Any, Callable[[], bytes]]:
        """What the reply of a function of RUN@STEP depends on, and how to compute it."""
        exact, stamp = self.weights(reference)
        function = self.find(name, "m")
        arguments = told(lambda: arguments_of(function, given))
        steps = checkpoint.steps_kept(Path(exact.rpartition("@")[0]))  # some compare with the first or the last
        key = (name, exact, stamp, *steps[:1], *steps[-1:], written(arguments))
        return key, lambda: function(self.load(exact, stamp), **arguments).to_json()

    def writing(self, reference: str, given: Mapping[str, Any]) -> Callable[[], Iterator[dict[str, Any]]]:
        """What gives the steps of `ti.generate` one by one, in the thread that computes."""
        exact, stamp = self.weights(reference)
        arguments = told(lambda: arguments_of(self.find("generate", "m"), given))
        return lambda: text.writing(self.load(exact, stamp), **arguments)[1]

    def weights(self, reference: str) -> tuple[str, Any]:
        """RUN@STEP as `ti.load` takes it, by its number where it has one, and what changes when its files do."""
        name, _, which = reference.rpartition("@")
        folder = self.folder.run(name)
        if not re.fullmatch(r"best|last|[0-9]{1,9}", which):
            raise ApiError(404, f"{reference[:100]!r}: behind @ stands best, last or a step.")
        if not which.isdecimal():  # the same model as by its number, if it is whole
            paths = checkpoint.in_order(folder / "checkpoints", which)
            which = str(checkpoint.step_of(paths[0])) if paths else which
        elif int(which) not in checkpoint.steps_kept(folder):
            there = ", ".join(map(str, checkpoint.steps_kept(folder))) or "none"
            raise ApiError(404, f"run {name} has no weights of step {int(which)}; steps there: {there}.")
        exact = f"{folder.as_posix()}@{int(which) if which.isdecimal() else which}"
        return exact, trace.weights_stamp(folder, which)

    def load(self, exact: str, stamp: Any) -> Any:
        """The checkpoint, one of those kept or from its files; for the thread that computes alone."""
        kept = self.models.pop(exact, (None, None))
        model = kept[1] if kept[0] == stamp else ti.load(exact)
        self.models[exact] = (stamp, model)
        while len(self.models) > MODELS_KEPT:
            self.models.popitem(last=False)
        return model

    def of_run(self, name: str, function_name: str, given: Mapping[str, Any]) -> tuple[Any, Callable[[], bytes]]:
        """The same for a function of a whole run."""
        folder, function = self.folder.run(name), self.find(function_name, "run")
        arguments = told(lambda: arguments_of(function, given))
        key = (function_name, folder, run_stamp(folder), written(arguments))
        return key, lambda: function(runs.open_run(folder)[0], **arguments).to_json()

    def of_runs(self, name: str, given: Mapping[str, Any]) -> tuple[Any, Callable[[], bytes]]:
        """The same for a function of several runs, given by their names in `runs`."""
        function, names = self.find(name, "runs"), given.get("runs")
        if isinstance(names, str):
            try:
                names = json.loads(names)
            except (ValueError, RecursionError):
                names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ApiError(400, 'runs must be a JSON list of names, as in ["a", "b"].')
        folders = [self.folder.run(name) for name in names]
        arguments = told(lambda: arguments_of(function, {k: v for k, v in given.items() if k != "runs"}))
        key = (name, *folders, *map(run_stamp, folders), written(arguments))
        return key, lambda: function([folder.as_posix() for folder in folders], **arguments).to_json()


def told(work: Callable[[], T]) -> T:
    """The result; what a user can cause becomes an ApiError with the same sentence."""
    try:
        return work()
    except (UserError, UnicodeError) as error:
        missing = getattr(error, "exit_code", 0) == NO_CHECKPOINT
        raise ApiError(404 if missing else 400, f"{str(error).rstrip('.')}.") from None
    except OSError as error:  # removed, or replaced, while it was being read
        raise ApiError(404, f"a file of the run cannot be read: {error.strerror or error}.") from None


def written(arguments: Mapping[str, Any]) -> str:
    """Arguments as text, the same for the same ones."""
    return json.dumps(arguments, sort_keys=True, default=str)


def run_stamp(folder: Path) -> Any:
    """What changes when a run goes on."""
    logs = (folder / "config.json", folder / records.METRICS, folder / records.SAMPLES)
    kept = sorted((folder / "checkpoints").glob("step-*/MANIFEST.json"))
    return stamps(*logs, *kept, folder / "checkpoints", folder / "snapshots"), is_locked(folder)
