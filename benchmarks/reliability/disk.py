"""R05 disk full: a save that finds no room harms nothing, is tried again, and the run ends as if nothing had been.

Each trial is a run of the command whose disk is full during some of its saves and has room again after them, in one
of four ways: writes to one file fail after a share of its bytes (ENOSPC, put in the place of storage.py's `os`), no
file may grow beyond a size (RLIMIT_FSIZE: EFBIG), the disk says that it has too little room, or another file fills a
file system of 8 MiB (tmpfs). Whatever the command gives up with exit 74 goes on with --resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import random
import re
import shutil
import subprocess
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.reliability.common import Row, Scale, command, differences, one_sentence, outcome, small_run, texts
from benchmarks.reliability.signals import tail
from tinygpt import checkpoint, guards, storage
from tinygpt import train as training
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.doctor import examine_run
from tinygpt.errors import IO_ERROR, UserError
from tinygpt.session import Session
from tinygpt.storage import sha256

# So small that all its checkpoints and snapshots fit into 8 MiB; its saves, numbered from 1, are of steps 0, 4, ... 24.
SETTINGS: dict[str, Any] = {
    "n_embd": 32, "n_layers": 2, "max_steps": 24, "save_every": 4, "eval_every": 8, "sample_every": 12,
    "start": "random",
}  # fmt: skip
SAVES, IN_A_ROW = 7, 3  # the command gives up after so many failed saves in a row
TMPFS_BYTES = 8 << 20
METRICS = "metrics.jsonl"
FILES = ("model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json", METRICS)
NEED_AND_ROOM = r"no room for the checkpoint[s\w ,]*: it needs [\d.,]+ MB, and [\d.,]+ MB are free"
NO_SPACE, TOO_LARGE = os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG)
REASONS = {  # what the sentence about a failed save has (regular expressions)
    "write": NO_SPACE,
    "limit": f"{TOO_LARGE}|{NO_SPACE}",  # of a line of a log that is half written
    "room": NEED_AND_ROOM,
    "tmpfs": f"{NEED_AND_ROOM}|{NO_SPACE}",  # where the log's lines that wait find no room either
}


@dataclass(frozen=True)
class Fault:
    """A disk that is full from one save of a run to another one."""

    how: str  # write, limit, room or tmpfs
    file: str = ""  # whose writing fails, where it is one file's
    share: float = 0.0  # of its bytes that still find room; with tmpfs and no file, of a megabyte
    first: int = 3  # save that fails; 0: full from the start of the command
    last: int = 3

    def __str__(self) -> str:
        where = f" {self.share:.0%} of {self.file or 'a megabyte'}" if self.file or self.share else ""
        return f"{self.how}{where}, saves {self.first} to {self.last}"

    @property
    def between(self) -> bool:
        """Whether the disk is full before the first save that fails already, and not only during it."""
        return self.first == 0 or self.file == METRICS or (self.how == "tmpfs" and not self.file)

    @property
    def little(self) -> bool:
        """Whether the disk has room for the logs, but for no checkpoint."""
        return self.how == "tmpfs" and not self.file and self.share > 0

    @property
    def gives_up(self) -> bool:
        """Whether the command has to end with exit 74."""
        return self.last == SAVES or self.last - self.first + 1 >= IN_A_ROW or self.first <= 1

    @property
    def failing(self) -> list[int]:
        """The saves that fail: the first of a run ends it at once, and a pointer that cannot be written fails none."""
        last = 1 if self.first == 1 else self.last
        return list(range(self.first, last + 1)) if self.first and self.file != "LATEST" else []


def row(scale: Scale) -> Row:
    """R05 of the table."""
    result = Row("R05", "disk full")
    run = small_run(scale.folder / "undisturbed", **SETTINGS)
    assert training.train(training.set_up(run, choose_machine(run.config.train), Display(io.StringIO()))) == 0
    reference = outcome(run.folder)
    mounted = can_mount(scale.folder) if scale.full else "not run: only in full"
    faults = chosen(scale, with_tmpfs=not mounted)
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(functools.partial(tried, scale.folder, reference), range(len(faults)), faults))
    for fault, (wrong, lost) in zip(faults, verdicts, strict=True):
        result.check(not wrong, f"{fault} (seed {scale.seed}): {'; '.join(wrong)}")
        result.lost += lost
    if not mounted:
        problem = new_run_without_room(scale.folder)
        result.check(not problem, f"a new run on a full tmpfs: {problem}")
    on_tmpfs = sum(fault.how == "tmpfs" for fault in faults)
    result.measured["trials on a file system of 8 MiB (tmpfs)"] = mounted or f"{on_tmpfs + 1}"
    result.measured["saves that failed"] = f"{sum(len(f.failing) for f in faults)}"
    result.lowered = "the model has a quarter of the weights of the fixture, so that a run fits into 8 MiB"
    return result


def chosen(scale: Scale, with_tmpfs: bool) -> list[Fault]:
    """In full every file at every share and all ways of giving up; else one failure of each kind."""
    if not scale.full:
        draw = random.Random(scale.seed)
        return [
            Fault("limit", FILES[0], 0.5, last=5), Fault("room", first=SAVES, last=SAVES),
            Fault("write", draw.choice(FILES[:4]), draw.choice((0.01, 0.5, 0.99))), Fault("write", METRICS, 0.5),
        ]  # fmt: skip
    faults = [Fault("write", file, share) for file in FILES for share in (0.01, 0.5, 0.99)]
    faults += [Fault("write", "LATEST", 0.5), Fault("write", FILES[0], 0.5, last=4)]
    faults += [Fault("write", file, 0.5, last=5) for file in FILES]
    faults += [Fault("write", file, 0.5, first=SAVES, last=SAVES) for file in (FILES[3], METRICS)]
    faults += [Fault("write", FILES[0], 0.5, first=1, last=last) for last in (1, 3)]
    faults += [Fault("limit", FILES[0], 0.01), Fault("limit", FILES[1], 0.99), Fault("limit", METRICS, 0.5)]
    faults += [Fault("limit", FILES[0], 0.5, last=5)]
    faults += [Fault("room"), Fault("room", last=5), Fault("room", first=SAVES, last=SAVES), Fault("room", first=0)]
    if with_tmpfs:
        faults += [Fault("tmpfs"), Fault("tmpfs", share=0.1), Fault("tmpfs", share=0.1, last=5), Fault("tmpfs", last=5)]
        faults += [Fault("tmpfs", share=0.1, first=SAVES, last=SAVES)]
        faults += [Fault("tmpfs", file, 0.5) for file in FILES[:2]] + [Fault("tmpfs", FILES[1], 0.5, last=5)]
    return faults


# --- a trial ---------------------------------------------------------------------------------------------------------


def tried(folder: Path, reference: dict[str, Any], number: int, fault: Fault) -> tuple[list[str], bool]:
    """What is wrong after a run with this fault, and whether the run could not be brought to its end."""
    home = folder / f"trial-{number}"
    with tmpfs(home) if fault.how == "tmpfs" else contextlib.nullcontext():
        run, report = small_run(home / "runs" / "x", **SETTINGS).folder, folder / f"trial-{number}.json"
        code, said = command(
            "train", "--resume", "--quiet", "--run", run.name, cwd=home,
            code=f"from benchmarks.reliability import disk\ndisk.watch({dataclasses.asdict(fault)}, {str(report)!r})",
        )  # fmt: skip
        notes = json.loads(report.read_text()) if report.exists() else []
        wrong = wrong_words(fault, code, said, [note["step"] for note in notes if note["failed"]])
        wrong += [sentence for note in notes for sentence in note["wrong"]]
        failed = [number for number, note in enumerate(notes, 1) if note["failed"]]
        if failed != fault.failing:
            wrong.append(f"the saves {failed} failed")
        if left := checkpoint.leftovers(run):
            wrong.append(f"there remain {', '.join(path.name for path in left)}")
        if code:
            code, later = command("train", "--resume", "--quiet", "--run", run.name, cwd=home)
            said += later
            if code:
                return [*wrong, f"--resume with room again: exit code {code}: {tail(later)}"], True
        examined = examine_run(run)
        if examined["problems"] or examined["exit_code"]:
            wrong.append(f"at the end doctor finds: {examined['problems']}")
        different = differences_but_for_snapshots(reference, outcome(run), said)
        return [*wrong, *([f"the end differs in {different}"] if different else [])], bool(different)


def wrong_words(fault: Fault, code: int, said: str, failed: Sequence[int]) -> list[str]:
    """What is wrong with exit code and sentences; failed: the steps that could not be saved."""
    wrong, reason = [], f"({REASONS['room' if fault.little else fault.how]})"
    wanted = IO_ERROR if fault.gives_up else 0
    if code != wanted:
        wrong.append(f"exit code {code}, not {wanted}: {tail(said)}")
    if fault.gives_up and not (one_sentence(said) and re.search(reason, said.strip().splitlines()[-1])):
        wrong.append(f"it does not end with a sentence that has the reason: {tail(said)}")
    if fault.gives_up and fault.first:
        kept = f"the newest checkpoint is that of step {4 * (fault.first - 2)};"
        if (kept if fault.first > 1 else "there is no checkpoint yet") not in said.replace(". Make", ";"):
            wrong.append(f"it does not say what is kept: {tail(said)}")
    for step in failed[: -1 if fault.gives_up else None]:
        if not re.search(rf"Step {step} could not be saved: .*{reason}.*; training goes on", said):
            wrong.append(f"no sentence about step {step} and its reason: {tail(said)}")
    return wrong


def differences_but_for_snapshots(reference: dict[str, Any], ended: dict[str, Any], said: str) -> str:
    """`differences`; a snapshot that is missing counts unless it was said to be left out."""
    missing = {name for name in reference["snapshots"] if name not in ended["snapshots"]}
    told = {name for name in missing if f"The snapshot of step {int(name[5:13])} is left out" in said}
    snapshots = {name: digest for name, digest in reference["snapshots"].items() if name not in told}
    return differences({**reference, "snapshots": snapshots}, ended)


def new_run_without_room(folder: Path) -> str:
    """What is wrong when a run is begun where there is room for a few pages only, or ""."""
    home = folder / "new"
    with tmpfs(home):
        (home / "story.txt").write_text("\n\n".join(texts()))
        with filled(home, 5 * 4096):
            code, said = command("train", "story.txt", "--run", "x", "--steps", 4, "n_layers=1", "n_embd=32", cwd=home)
        left = [path.name for path in home.rglob("*") if path.name not in ("story.txt", "runs")]
        right = code == IO_ERROR and one_sentence(said) and not left
        return "" if right else f"exit code {code}, left behind {left}: {tail(said)}"


# --- in the process of the command -----------------------------------------------------------------------------------


def watch(fields: dict[str, Any], report: str) -> None:
    """Make the disk full as the Fault of these `fields` says, and write to `report` how each save ended."""
    fault, really = Fault(**fields), guards.save
    notes: list[dict[str, Any]] = []
    full = contextlib.ExitStack()

    def save(s: Session, last: bool) -> None:
        number, before = len(notes) + 1, contents(s.run.folder)
        if number == fault.first and not fault.between:
            full.enter_context(full_disk(fault, s.run.folder))
        try:
            really(s, last)
        finally:
            failed = s.failed_saves > 0
            wrong = wrong_after_failure(s.run.folder, before, fault) if failed else []
            if number == fault.last:
                full.close()
            notes.append({"step": s.progress.step, "failed": failed, "wrong": wrong})
            Path(report).write_text(json.dumps(notes))
        if number == fault.first - 1 and fault.between:
            full.enter_context(full_disk(fault, s.run.folder))

    mock.patch.object(training, "save", save).start()
    if fault.first == 0:
        full.enter_context(full_disk(fault, Path.cwd()))


def contents(run: Path) -> dict[str, str]:
    """The digest of every file under checkpoints/."""
    files = sorted(path for path in (run / "checkpoints").rglob("*") if path.is_file())
    return {str(path.relative_to(run)): sha256(path.read_bytes()) for path in files}


def wrong_after_failure(run: Path, before: dict[str, str], fault: Fault) -> list[str]:
    """What a failed save has damaged or left behind, and whether doctor disagrees with the loader."""
    after, wrong = contents(run), []
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    if changed:
        wrong.append(f"a failed save changed {', '.join(changed)}")
    if left := checkpoint.leftovers(run):
        wrong.append(f"a failed save left {', '.join(path.name for path in left)}")
    try:
        loads = checkpoint.load(run)[0].name
    except UserError:
        loads = None
    examined = examine_run(run)
    problems = examined["problems"] if loads and fault.file != "LATEST" else []
    if examined["resume"] != loads or problems:
        wrong.append(f"the loader takes {loads}, doctor says {examined['resume']} and finds {problems}")
    return wrong


@contextlib.contextmanager
def full_disk(fault: Fault, run: Path) -> Iterator[None]:
    """The disk as this fault has it."""
    if fault.how == "limit":
        newest = checkpoint.step_folders(run / "checkpoints")[0]
        size = (newest / fault.file).stat().st_size * fault.share if fault.file != METRICS else 0
        grown = (run / METRICS).stat().st_size + 100 * fault.share  # in the midst of a line
        with size_limit(int(size or grown)):
            yield
    elif fault.how == "room":
        usage = types.SimpleNamespace(total=0, used=0, free=12_345)
        with mock.patch.object(shutil, "disk_usage", lambda _: usage):
            yield
    elif fault.how == "tmpfs" and not fault.file:
        with filled(Path.cwd(), int(fault.share * (1 << 20))):
            yield
    else:
        with contextlib.ExitStack() as taken:
            disk = Filling(fault, taken) if fault.how == "tmpfs" else FullDisk(fault)
            with mock.patch.object(storage, "os", disk):
                yield


@contextlib.contextmanager
def size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    import resource  # which Windows has not

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullDisk:
    """`os` for storage.py: of what is written to one file a share finds room, and nothing after it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.there: set[int] = set()  # descriptors of that file, nothing written yet
        self.full: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self.there.discard(descriptor)
        self.full.discard(descriptor)
        if self.fault.file in path.name:
            self.there.add(descriptor)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        if descriptor in self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if descriptor not in self.there:
            return os.write(descriptor, data)
        return self.write_share(descriptor, data)

    def write_share(self, descriptor: int, data: Any) -> int:
        """The bytes that find room; the next ones do not."""
        self.full.add(descriptor)
        return os.write(descriptor, data[: max(1, int(self.fault.share * len(data)))])


class Filling(FullDisk):
    """The same with a real disk: when that file is written, another one takes the room but for the share."""

    def __init__(self, fault: Fault, taken: contextlib.ExitStack) -> None:
        super().__init__(fault)
        self.taken = taken

    def write_share(self, descriptor: int, data: Any) -> int:
        self.there.clear()
        self.taken.enter_context(filled(Path.cwd(), int(self.fault.share * len(data))))
        return os.write(descriptor, data)


# --- a disk of 8 MiB -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def filled(folder: Path, but_for: int = 0) -> Iterator[None]:
    """The disk of `folder` without room, but for some bytes, as long as this lasts."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - but_for))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """A file system of its own at `folder`; CalledProcessError or OSError where that is not allowed."""
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True, text=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(folder: Path) -> str:
    """Why there can be no tmpfs here, or ""."""
    try:
        with tmpfs(folder / "mounted"):
            return ""
    except (subprocess.CalledProcessError, OSError) as error:
        return f"not run: {getattr(error, 'stderr', None) or error}".strip()
