"""Run folders from outside: their names, where they are, and who works on one. No torch, so that it is told at once.

    runs/<name>/.lock         held by the kernel for the process that trains; free again the moment that process is gone
    runs/<name>/.owner.json   who that is, for messages alone

`RUN` on the command line is a name under runs/ or a path, with @best (default), @last or @STEP behind it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import platformdirs

from tinygpt.errors import IO_ERROR, LOCKED, PICKLE_SUFFIXES, UNSAFE, UserError, did_you_mean
from tinygpt.storage import TEMPORARY, canonical, make_folder, read_json, remove, remove_if_possible, write_atomic

RUNS = Path(os.environ.get("TINYGPT_RUNS") or "runs")  # the studio's trainings write beside the runs that it shows
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no name for a file on Windows
LOCK, OWNER = ".lock", ".owner.json"
SHOWN = 8  # runs that a message lists
ASKING_S = 0.1  # for the lock: doctor holds it for an instant
NO_RUNS = "there are no runs here yet: start one with tinygpt train"
OWNER_S = 0.5  # that a message waits for the name of who has just taken the lock
WRITTEN_FIRST = (
    "corpus.json",
    "tokenizer.json",
    "data",
    "start.safetensors",
)  # then config.json, and from there on it is a run


# --- names -----------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name, or UserError if it could not be a folder under runs/ on every system."""
    if not NAME.fullmatch(name):
        rule = "must be 1-64 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        raise UserError(f"run name {name!r} {rule}.")
    if name.endswith("."):
        raise UserError(f"run name {name!r} ends with a dot, which Windows would drop; choose another.")
    if DEVICE_NAME.fullmatch(name):
        raise UserError(f"run name {name!r} is the name of a device on Windows; choose another.")
    return name


def names_like(wanted: str) -> Iterator[str]:
    """`wanted` made a valid name, then with -2, -3, ... behind it."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:50].strip("-._") or "run"
    base = f"run-{base}" if DEVICE_NAME.fullmatch(base) else base
    yield base
    yield from (f"{base}-{i}" for i in range(2, 10_000))


def free_name(wanted: str) -> str:
    """The first of `names_like` that nothing has."""
    return next(name for name in names_like(wanted) if not (RUNS / name).exists())


def refuse_existing(folder: Path) -> None:
    """UserError if there is a run, or anything else but what an interrupted preparation left, at this place."""
    if not folder.exists() and not folder.is_symlink():
        return
    relics = (LOCK, OWNER, *WRITTEN_FIRST)
    if not folder.is_dir() or any(p.name not in relics and not p.name.startswith(TEMPORARY) for p in folder.iterdir()):
        raise UserError(f"{folder} exists; go on with --resume --run {folder.name}, or choose another --run NAME.")


# --- places ----------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """$TINYGPT_CACHE, else the user's cache folder of this system (on Linux $XDG_CACHE_HOME/tinygpt)."""
    chosen = os.environ.get("TINYGPT_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("tinygpt", appauthor=False)


def newest() -> Path:
    """The run folder that was worked on last; UserError if there is none."""
    found = [p.parent for p in RUNS.glob("[!.]*/config.json")]
    if not found:
        raise UserError("there is no run to go on with under runs/; start one with tinygpt train.")
    return max(found, key=worked_on)


def worked_on(folder: Path) -> float:
    """When a run was worked on last [seconds since 1970]."""
    return max(p.stat().st_mtime for p in (folder, *folder.glob("metrics.jsonl")))


def resolve(reference: str, or_else: str = "") -> tuple[Path, str]:
    """The folder and the checkpoint ("best", "last" or a step) that a RUN on the command line means.

    UserError if there is none; `or_else` is said there too.
    """
    name, at, which = reference.rpartition("@")
    if not at or (Path(reference) / "config.json").is_file():  # a path may contain an @
        name, which = reference, "best"
    if which not in ("best", "last") and not which.isdecimal():
        raise UserError(f"{reference!r}: behind @ stands best, last or a step, not {which!r}.")
    for folder in (RUNS / name, Path(name)):
        if name and (folder / "config.json").is_file():
            return folder, which
    if Path(name).suffix.lower() in PICKLE_SUFFIXES:
        raise UserError(f"{name} may be a pickle, which can run code when opened; tinygpt reads run folders.", UNSAFE)
    if name and is_locked(RUNS / name):
        raise UserError(f"{RUNS / name} is still being prepared{owner(RUNS / name)}; wait for it.", LOCKED)
    folders = sorted((p.parent for p in RUNS.glob("[!.]*/config.json")), key=worked_on, reverse=True)
    known = [folder.name for folder in folders]
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    there = f"runs here: {', '.join(known[:SHOWN])}{more}" if known else NO_RUNS
    what = f"there is no run {name!r}{did_you_mean(name, known)}" if name else "the name of a run is missing"
    raise UserError(f"{what}; {there}{or_else}.")


def resolve_whole(reference: str) -> Path:
    """The folder of a RUN where no single checkpoint of it can be meant; UserError for RUN@STEP."""
    folder, which = resolve(reference)
    if which != "best" or reference.endswith("@best"):
        raise UserError(f"{reference!r}: this command looks at a whole run; leave out @{which}.")
    return folder


# --- one process a run -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run for this process; UserError (exit 73) if another process works on it.

    A folder that does not exist is made, and goes again if nothing was put into it. Exit 74 where the file system has
    no locks of the kernel's: one made of a file alone would outlive a process that is killed.
    """
    first = not folder.parent.exists()
    make_folder(folder)
    held = filelock.FileLock(folder / LOCK, timeout=ASKING_S)
    if hasattr(held, "fallback_to_soft"):  # later versions would make do with a file
        held = filelock.FileLock(folder / LOCK, timeout=ASKING_S, fallback_to_soft=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise UserError(f"{folder} is being trained by another process{owner(folder)}; wait for it or stop it.",
                        LOCKED) from None  # fmt: skip
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        raise UserError(f"the file system of {folder} has no locks; keep runs/ on a local disk.", IO_ERROR) from None
    try:
        about = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # a full disk: it is for messages alone
            write_atomic(folder / OWNER, canonical(about))
        yield
    finally:
        remove_if_possible(folder / OWNER)
        with contextlib.suppress(OSError):
            if [path.name for path in folder.iterdir()] == [LOCK]:
                remove(folder / LOCK)  # while it is held: nobody can have taken it
        held.release()
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty
            if first:
                folder.parent.rmdir()


def owner(folder: Path) -> str:
    """' (process 123 on host since ...)', or '' if that is not known.

    Whoever took the lock this moment writes it a moment later; until then it is missing, or names one that was killed.
    """
    until = time.monotonic() + OWNER_S
    while True:
        try:
            about = read_json(folder / OWNER)
            pid, host = int(about["pid"]), about["host"]
            if host != platform.node() or lives(pid):
                return f" (process {pid} on {host} since {about['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if time.monotonic() > until:
            return ""
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether a process of this computer has this number; on Windows nobody can be asked without harm: True."""
    try:
        if os.name != "nt":
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; not a number that a process can have
        pass
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process works on the run at this moment: tried by taking its lock for an instant."""
    if not (folder / LOCK).exists():
        return False
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except PermissionError:  # somebody else's run: nobody here can tell
        return False
