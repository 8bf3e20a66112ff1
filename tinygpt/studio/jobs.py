"""Trainings that a page starts: `tinygpt train` in a process of its own, which outlives the page and the studio.

    RUNS_DIR/.studio/job.json     the jobs, newest last: what another studio knows of them; job.lock while one reads it
    RUNS_DIR/.studio/<id>.log     what the process said
    RUNS_DIR/.studio/<id>*.jsonl, <id>.txt   its text, until it has ended; the run keeps its own tokens

One at a time, and QUOTA_BYTES for all runs that were made here. A job of another studio, be it an earlier one or one
that shows the same folder now, is alive if its process holds the lock of its run; only such a process is sent a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import filelock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import tinygpt
from tinygpt import runs
from tinygpt.config import DEFAULT_PRESET, ModelConfig, make_config, parse_assignments, user_defaults
from tinygpt.corpus import tales
from tinygpt.errors import UserError
from tinygpt.folders import OWNER, check_name, is_locked, lives, names_like
from tinygpt.plan import Budget
from tinygpt.runs import Run
from tinygpt.storage import canonical, make_folder, read_json, remove_if_possible, write_atomic
from tinygpt.studio.answers import Folder, told
from tinygpt.web import ApiError

QUOTA_BYTES = 2 << 30  # of runs made here, with their logs and texts
TEXT_BYTES = 1_000_000
WATCH_S = 5.0  # between two looks at the size of what is made
LOCKING_S = 20.0  # that a process may take until it holds its run
KEPT = 20  # jobs that are remembered
SAID_BYTES = 2000  # of the log, for the page
TALES = "tales.txt"
# Of a run's settings, what its fork finds out for itself: what this machine is best at, and what follows from others.
MACHINE = ("micro_batch", "threads", "compiled", "device", "max_time_s")
DERIVED = ("n_kv_heads", "d_head", "d_ff")
PLANNED = ("max_steps", "eval_every", "save_every", "sample_every", "warmup_steps")  # with another length: anew
SPLIT = ("val_fraction", "val_max_bytes", "split_seed", "encoding")  # its fork has the same split, given as two files


class Asked(BaseModel):
    """Body of POST /api/jobs. The text comes from exactly one of text, corpus and run."""

    model_config = ConfigDict(strict=True, extra="forbid")

    kind: Literal["train"]
    text: Annotated[str, Field(min_length=1)] | None = None
    corpus: Literal["tales"] | None = None
    run: str | None = None
    name: str | None = None
    preset: str | None = None
    minutes: Annotated[float, Field(gt=0, le=24 * 60, allow_inf_nan=False)] | None = None
    steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    settings: Annotated[dict[str, str | int | float | bool], Field(max_length=100)] = {}


@dataclass
class Job:
    """One training, as job.json keeps it."""

    id: str
    run: str
    words: list[str]  # of the command
    began: float  # seconds since 1970
    pid: int
    parent: str | None = None  # the run that it forks
    state: str = "running"  # then stopping, ended
    code: int | None = None  # its exit code; None while it runs, and where nobody saw its end
    message: str = ""  # why it ended, if that is worth saying


class Jobs:
    """The trainings of one folder of runs."""

    def __init__(self, root: Path, quota_bytes: int = QUOTA_BYTES) -> None:
        self.root, self.place, self.quota_bytes = root, root / ".studio", quota_bytes
        self.lock = threading.RLock()  # requests come from several threads
        self.process: subprocess.Popen[bytes] | None = None  # of a job that this studio has started
        self.file_lock = filelock.FileLock(self.place / "job.lock")
        self.jobs, self.made = self.remembered()

    # --- what there is ---

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """For one thread of one studio at a time, with what job.json says by now: others may show the same folder."""
        with self.lock, self.file_lock if self.place.is_dir() else contextlib.nullcontext():
            self.jobs, self.made = self.remembered()
            self.refresh()
            yield

    def own(self, job: Job) -> subprocess.Popen[bytes] | None:
        """Its process, if this studio has started it."""
        return self.process if self.process is not None and self.process.pid == job.pid else None

    def remembered(self) -> tuple[list[Job], list[str]]:
        """Jobs, and names of all runs made here, from job.json; none if it is not there or is damaged."""
        try:
            stored = read_json(self.place / "job.json")
            return [Job(**job) for job in stored["jobs"]], [check_name(name) for name in stored["made"]]
        except (OSError, ValueError, KeyError, TypeError):
            return [], []

    def remember(self) -> None:
        stored = {"jobs": [dataclasses.asdict(job) for job in self.jobs[-KEPT:]], "made": self.made}
        write_atomic(self.place / "job.json", canonical(stored))

    def current(self) -> dict[str, Any] | None:
        """The job that runs, or ran last, for a page."""
        with self.alone():
            return self.told(self.jobs[-1]) if self.jobs else None

    def listing(self) -> dict[str, Any]:
        """All that are remembered, the last first, and the disk that is used."""
        with self.alone():
            jobs = [self.told(job) for job in reversed(self.jobs)]
            return {"job": jobs[0] if jobs else None, "jobs": jobs, "bytes": self.used(), "quota": self.quota_bytes}

    def told(self, job: Job) -> dict[str, Any]:
        """A job for a page, with the last lines that it said."""
        fields = dataclasses.asdict(job)
        return {name: value for name, value in fields.items() if name not in ("words", "pid")} | {
            "kind": "train", "command": " ".join(["tinygpt", *job.words]), "said": self.said(job),
        }  # fmt: skip

    def said(self, job: Job) -> list[str]:
        """The last lines of its log; of a line that was written over, what stood there last."""
        try:
            with (self.place / f"{job.id}.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - SAID_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n") if line.strip()][-8:]

    def refresh(self) -> None:
        """Notice the end of the job that runs."""
        job = self.jobs[-1] if self.jobs else None
        if job is None or (job.state == "ended" and not self.own(job)) or self.alive(job):
            return
        job.state = "ended"
        if process := self.own(job):
            job.code, self.process = process.returncode, None
        if not job.message and job.code not in (None, 0, 143, -signal.SIGTERM):
            sentences = [line for line in self.said(job) if line.startswith("tinygpt: ")]
            job.message = (sentences or self.said(job) or [f"it ended with code {job.code}"])[-1][:500]
        for path in self.place.glob(f"{job.id}*"):
            if path.suffix in (".jsonl", ".txt"):
                remove_if_possible(path)
        self.remember()

    def alive(self, job: Job) -> bool:
        """Whether its process works."""
        if process := self.own(job):
            return process.poll() is None
        return self.holds(job) or (time.time() - job.began < LOCKING_S and lives(job.pid))

    def holds(self, job: Job) -> bool:
        """Whether the process of the job, and no other of the same number, holds the lock of the run."""
        folder = self.root / job.run
        try:
            owner = read_json(folder / OWNER)
            return (owner["pid"], owner["host"]) == (job.pid, platform.node()) and is_locked(folder)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def used(self) -> int:
        """Bytes of all runs made here and of what stands beside them."""
        total = 0
        for folder in (self.place, *(self.root / name for name in self.made)):
            for path in folder.rglob("*"):
                with contextlib.suppress(OSError):  # deleted meanwhile
                    total += path.lstat().st_size
        return total

    # --- start and stop ---

    def start(self, given: dict[str, Any]) -> dict[str, Any]:
        """Start what is asked for. ApiError: 400 for what cannot be, 404 for no such run, 409 if one runs already."""
        asked = read_asked(given)
        with self.alone():
            self.refuse_another()
        id = secrets.token_hex(6)
        name, words, files = told(lambda: self.plan(asked, id))
        make_folder(self.place)
        with self.alone():
            self.refuse_another()  # that began meanwhile
            for file, data in files.items():
                write_atomic(self.place / file, data)
            job = Job(id, name, words, time.time(), 0, asked.run)
            with (self.place / f"{id}.log").open("wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "tinygpt", *words], cwd=self.place, env=self.environment(),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **own_session(),
                )  # fmt: skip
            job.pid = self.process.pid
            self.jobs, self.made = [*self.jobs, job], [*self.made, name]
            self.remember()
            return self.told(job)

    def refuse_another(self) -> None:
        """ApiError (409) while a job runs, or if there is no room for another."""
        if self.jobs and self.jobs[-1].state != "ended":
            raise ApiError(409, f"{self.jobs[-1].run} is being trained; wait for it, or stop it.")
        if self.used() >= self.quota_bytes:
            raise ApiError(
                409, f"the runs that were made here take {self.used() / 1e9:.1f} GB of the "
                f"{self.quota_bytes / 1e9:.1f} GB they may have; delete some of {self.root}.",
            )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Where the process finds this package, and where its run goes."""
        package = str(Path(tinygpt.__file__).parents[1])
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": paths, "TINYGPT_RUNS": str(self.root.resolve()), "PYTHONUNBUFFERED": "1"}

    def plan(self, asked: Asked, id: str) -> tuple[str, list[str], dict[str, bytes]]:
        """Name of the run, words of the command, and the files that it reads. UserError for what cannot be."""
        changed = parse_assignments([f"{name}={as_word(value)}" for name, value in asked.settings.items()])
        Budget(asked.minutes, asked.steps, None)
        length = ["--minutes", f"{asked.minutes:g}"] if asked.minutes else []
        length += ["--steps", str(asked.steps)] if asked.steps else []
        if length and "max_steps" in changed:
            raise UserError("max_steps excludes minutes and steps; give one of them.")
        preset, settings, files = asked.preset or DEFAULT_PRESET, changed, dict[str, bytes]()
        if asked.run is not None:
            parent = runs.open_run(Folder(self.root).run(asked.run))[0]
            preset = asked.preset or parent.config.preset
            settings = {**settings_of(parent, bool(length) or "max_steps" in changed), **changed}
            files = {f"{id}-{part}.jsonl": documents(parent, part) for part in ("train", "val")}
            sources = [f"{id}-train.jsonl", *(["--val", f"{id}-val.jsonl"] if files[f"{id}-val.jsonl"] else [])]
            if not files[f"{id}-val.jsonl"]:
                settings["val_fraction"] = "0"
        elif asked.text is not None:
            files, sources = {f"{id}.txt": asked.text.encode()}, [f"{id}.txt"]
        else:
            sources = [TALES]
        make_config(preset, {**user_defaults(), **settings})
        name = self.name_for(asked)
        if asked.corpus and not (self.place / TALES).exists():
            tales.write(self.place / TALES)
        assigned = [f"{field}={value}" for field, value in settings.items()]
        words = ["train", *sources, *assigned, *length, "--preset", preset, "--run", name, "--quiet"]
        return name, words, files

    def name_for(self, asked: Asked) -> str:
        """The name that was asked for, or the first free one. UserError for one that is taken or cannot be."""
        if asked.name is not None:
            if (self.root / check_name(asked.name)).exists():
                raise UserError(f"there is a run {asked.name} already; choose another name.")
            return asked.name
        wanted = re.sub(r"-\d+$", "", asked.run) if asked.run else "tales" if asked.corpus else "text"
        return next(name for name in names_like(wanted) if not (self.root / name).exists())

    def stop(self, id: str) -> dict[str, Any]:
        """Ask a job to save and end. ApiError: 404 if there is none, 409 if it has ended or cannot be told apart."""
        with self.alone():
            job = next((job for job in self.jobs if job.id == id), None)
            if job is None:
                raise ApiError(404, f"there is no job {id[:100]!r}.")
            if job.state == "ended":
                raise ApiError(409, f"the training of {job.run} has ended already.")
            self.end(job)
            return self.told(job)

    def end(self, job: Job, message: str = "") -> None:
        """Send the signal upon which a training saves and ends."""
        number = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
        if process := self.own(job):  # a child that nobody has waited for keeps its number
            process.send_signal(number)
        elif self.holds(job):
            os.kill(job.pid, number)
        else:
            raise ApiError(409, f"{job.run} is still being prepared by an earlier studio's job; stop it in a moment.")
        job.state, job.message = "stopping", message or job.message
        self.remember()

    async def watch(self) -> None:
        """Look after the job from time to time: notice its end, and stop it beyond the quota."""
        while True:
            await asyncio.sleep(WATCH_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """One look."""
        with self.alone():
            job = self.jobs[-1] if self.jobs else None
            if job and job.state == "running" and self.used() > self.quota_bytes:
                with contextlib.suppress(ApiError):  # not yet: at the next look
                    self.end(job, f"Stopped and saved: the runs that were made here take more than "
                                  f"{self.quota_bytes / 1e9:.1f} GB.")  # fmt: skip


def read_asked(given: dict[str, Any]) -> Asked:
    """The request. ApiError (400) with one sentence for what it cannot be."""
    try:
        asked = Asked.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][:2])[:100]
        raise ApiError(400, f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from None
    if sum(value is not None for value in (asked.text, asked.corpus, asked.run)) != 1:
        raise ApiError(400, "a job needs exactly one of text, corpus and run.")
    if asked.text is not None and len(asked.text.encode(errors="replace")) > TEXT_BYTES:
        raise ApiError(413, f"the text has more than {TEXT_BYTES:,} bytes; train on it with tinygpt train FILE.")
    return asked


def settings_of(run: Run, other_length: bool) -> dict[str, str]:
    """The settings of a run, for the command that forks it."""
    m, t, d = (dataclasses.asdict(section) for section in (run.config.model, run.config.train, run.config.data))
    free = ModelConfig(**{**m, **dict.fromkeys(DERIVED, 0)})
    without = {name for name in DERIVED if m[name] == getattr(free, name)}
    without |= {*MACHINE, *SPLIT, *(PLANNED if other_length else ())}
    return {name: as_word(value) for name, value in {**m, **t, **d}.items() if name not in without}


def as_word(value: Any) -> str:
    """A setting as on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def documents(run: Run, part: str) -> bytes:
    """The documents of a run as .jsonl; b"" if there are none."""
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in runs.documents(run, part))


def own_session() -> dict[str, Any]:
    """For Popen: what ends the studio, or the terminal, does not reach the process."""
    if os.name == "nt":
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    return {"start_new_session": True}
