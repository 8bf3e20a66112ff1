"""All writing of files that must survive: atomic, with digests. No torch.

write_atomic   a temporary name beside the target, fsync, rename, fsync of the folder
canonical      the one JSON spelling of a value (sorted keys), so that equal values are equal bytes
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def sha256(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON bytes with sorted keys, indented for readers, one final newline; NaN and infinity are refused."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_json(path: Path) -> Any:
    """The value in a UTF-8 JSON file; ValueError if it is not one."""
    try:
        return json.loads(path.read_bytes().decode())
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, data: bytes) -> None:
    """Write a new file and fsync it; the caller renames."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old bytes or the new ones, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        write_durable(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
