"""What stands in the way of a save: a sudden death at a named point, a slow disk; and a disk that forgets.

`Watched` takes the place of the module `os` in tinygpt/storage.py, through which every change to a run's files goes. It
tells each operation before it happens; whoever is told can write it down, or end the process.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tinygpt import storage

Told = Callable[[str, Path, Any], None]


class Watched:
    """`os`, with told(operation, path, more) before each create, write, fsync, mkdir, rename, unlink and rmdir.

    more: the bytes of a write, the new path of a rename, else None.
    """

    def __init__(self, told: Told) -> None:
        self.told, self.paths = told, dict[int, Path]()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not Path(path).exists():
            self.told("create", Path(path), None)
        descriptor = os.open(path, flags, mode)
        self.paths[descriptor] = Path(path)
        return descriptor

    def write(self, descriptor: int, data: bytes) -> int:
        self.told("write", self.paths[descriptor], bytes(data))
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self.told("fsync", self.paths[descriptor], None)
        os.fsync(descriptor)

    def mkdir(self, path: Path) -> None:
        self.told("mkdir", Path(path), None)
        os.mkdir(path)

    def rename(self, path: Path, target: Path) -> None:
        self.told("rename", Path(path), Path(target))
        os.rename(path, target)

    replace = rename

    def unlink(self, path: Path) -> None:
        self.told("unlink", Path(path), None)
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        self.told("rmdir", Path(path), None)
        os.rmdir(path)


# --- sudden death ----------------------------------------------------------------------------------------------------

# Where a save can end: before the first such operation on such a path of that step, or half-way through a write.
POINTS = {
    "F01 before the folder": ("mkdir", r"\.tmp-\d+-\d+"),
    "F02 half of the model": ("half", r"model\.safetensors"),
    "F03 after the model": ("create", r"optim\.safetensors"),
    "F04 half of the optimizer": ("half", r"optim\.safetensors"),
    "F05 after the optimizer": ("create", r"state\.json"),
    "F06 half of the state": ("half", r"state\.json"),
    "F07 half of the manifest": ("half", r"MANIFEST\.json"),
    "F08 after the manifest": ("fsync", r"\.tmp-\d+-\d+"),
    "F09 before the rename": ("rename", r"\.tmp-\d+-\d+"),
    "F10 after the rename": ("fsync", r"checkpoints"),
    "F11 after the commit": ("create", r"\.tmp-LATEST.*"),
    "F12 before LATEST is replaced": ("rename", r"\.tmp-LATEST.*"),
    "F13 before pruning": ("rename", r"step-\d+"),
    "F14 half pruned": ("second unlink", r".*"),
}


def die_at(point: str, step: int) -> None:
    """End this process, as a kill would, at a point of the save of `step`."""
    operation, pattern = POINTS[point]
    seen = {"saving": False, "unlinks": 0}

    def told(found: str, path: Path, more: Any) -> None:
        saving = re.match(rf"\.tmp-{step}-\d+$", path.name)
        seen["saving"] = seen["saving"] or bool(saving and found == "mkdir")
        seen["unlinks"] += found == "unlink" and path.parent.name.startswith(storage.DOOMED)
        if not seen["saving"] or (operation == "fsync" and path.name == "checkpoints" and not committed(path, step)):
            return
        wanted = {"half": "write", "second unlink": "unlink"}.get(operation, operation)
        if (
            found != wanted
            or not re.fullmatch(pattern, path.name)
            or (operation == "second unlink" and seen["unlinks"] < 2)
        ):
            return
        if operation == "half":
            path.write_bytes(more[: len(more) // 2])
        os._exit(137)

    storage.os = Watched(told)  # type: ignore[assignment]


def committed(folder: Path, step: int) -> bool:
    return (folder / f"step-{step:08d}").exists()


def slow_down(seconds: float) -> None:
    """Let every fsync take longer, so that a save is something that can be hit."""

    def told(found: str, _path: Path, _more: Any) -> None:
        if found == "fsync":
            time.sleep(seconds)

    storage.os = Watched(told)  # type: ignore[assignment]


# --- a disk that forgets ---------------------------------------------------------------------------------------------


class Disk:
    """Recorded operations as a disk sees them, and what can be left of them after a power cut.

    Folders and files are numbers, so that a name can be lost while what it named is there. What a file's fsync has not
    reached may be there, gone, or zeros; of the changes of names that the fsync of their folder has not reached, any
    first part may have happened.
    """

    def __init__(self, root: Path) -> None:
        """A tree that is on the disk whole."""
        self.root, self.numbers = root, {root: 0}
        self.folders: dict[int, dict[str, int]] = {0: {}}
        self.files: dict[int, bytes] = {}
        for path in sorted(root.rglob("*")):
            number = self.numbers[path] = len(self.numbers)
            self.folders[self.numbers[path.parent]][path.name] = number
            if path.is_dir():
                self.folders[number] = {}
            else:
                self.files[number] = path.read_bytes()
        self.operations: list[tuple[Any, ...]] = []

    def told(self, operation: str, path: Path, more: Any) -> None:
        """Write an operation down; the argument of `Watched`."""
        above = self.numbers[path.parent]
        if operation in ("create", "mkdir"):
            number = self.numbers[path] = max(self.numbers.values()) + 1
            self.operations.append(("name", above, path.name, number, operation == "mkdir"))
        elif operation == "write":
            self.operations.append(("data", self.numbers[path], more))
        elif operation == "fsync":
            self.operations.append(("sync", self.numbers[path]))
        elif operation == "rename":
            moved = {old: number for old, number in self.numbers.items() if old == path or path in old.parents}
            self.numbers = {old: number for old, number in self.numbers.items() if old not in moved}
            self.numbers |= {more / old.relative_to(path): number for old, number in moved.items()}
            self.operations.append(("rename", above, path.name, more.name))
        else:  # unlink, rmdir
            del self.numbers[path]
            self.operations.append(("gone", above, path.name))

    def left_over(self) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """Every state: its description, and its tree as {path: bytes, or None for a folder}."""
        for end in range(len(self.operations) + 1):
            done = self.operations[:end]
            pending = [
                i
                for i, op in enumerate(done)
                if op[0] in ("name", "rename", "gone") and ("sync", op[1]) not in done[i:]
            ]
            for kept in range(len(pending) + 1):
                happened = [op for i, op in enumerate(done) if i not in pending[kept:]]
                for unsynced in ("kept", "dropped", "zeroed"):
                    text = f"cut after operation {end}, {kept} of {len(pending)} unsynced names kept, data {unsynced}"
                    yield text, self.tree(happened, unsynced)

    def tree(self, happened: list[tuple[Any, ...]], unsynced: str) -> dict[str, bytes | None]:
        """What is reachable from the root after these operations."""
        folders = {number: dict(names) for number, names in self.folders.items()}
        files = dict(self.files)
        for i, op in enumerate(happened):
            if op[0] == "name":
                folders[op[1]][op[2]] = op[3]
                if op[4]:
                    folders[op[3]] = {}
                else:
                    files.setdefault(op[3], b"")
            elif op[0] == "data":
                synced = ("sync", op[1]) in happened[i:]
                there = op[2] if synced or unsynced == "kept" else bytes(len(op[2])) if unsynced == "zeroed" else b""
                files[op[1]] = files.get(op[1], b"") + there
            elif op[0] == "rename" and op[2] in folders[op[1]]:
                folders[op[1]][op[3]] = folders[op[1]].pop(op[2])
            elif op[0] == "gone":
                folders[op[1]].pop(op[2], None)
        return dict(self.walk(folders, files, 0, ""))

    def walk(
        self, folders: dict[int, dict[str, int]], files: dict[int, bytes], number: int, above: str
    ) -> Iterator[tuple[str, bytes | None]]:
        """Paths below a folder."""
        for name, inside in folders[number].items():
            yield (above + name, None) if inside in folders else (above + name, files.get(inside, b""))
            if inside in folders:
                yield from self.walk(folders, files, inside, f"{above}{name}/")
