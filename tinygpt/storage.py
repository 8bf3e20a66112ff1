"""All writing of files that must survive: durable, atomic, with digests. No torch.

write_durable  a new file whose bytes are on the disk when it returns; the caller renames
write_atomic   a temporary name beside the target, write_durable, rename, fsync of the folder
append         one line at the end of a log, whole or not at all
cut            a file back to a size that it had
canonical      the one JSON spelling of a value (sorted keys), so that equal values are equal bytes

Every change to a file goes through `os` in this module and nowhere else in the package's run folders, so that a test
can put a recorder, a full disk or a sudden death in its place and see every operation in its order.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

BINARY = getattr(os, "O_BINARY", 0)  # Windows would turn line ends otherwise
TEMPORARY, DOOMED = ".tmp-", ".del-"  # how names begin of what is not whole yet, and of what is being deleted


def sha256(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON bytes with sorted keys, indented for readers, one final newline; NaN and infinity are refused."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def parse_json(data: bytes) -> Any:
    """The value in UTF-8 JSON bytes; ValueError if they are not that, or nested so deeply that Python gives up."""
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in a UTF-8 JSON file; ValueError if it is not one."""
    return parse_json(read_regular(path))


def stamps(*paths: Path) -> tuple[Any, ...]:
    """What changes when one of the files does."""

    def stamp(path: Path) -> tuple[int, ...]:
        try:
            about = path.stat()
        except OSError:
            return ()
        return (about.st_mtime_ns, about.st_size, about.st_ino)

    return tuple(map(stamp, paths))


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file to read; OSError for a link, a pipe or a device.

    A pipe under a file's name would make its reader wait for ever, and a link can lead anywhere.
    """
    if path.is_symlink():
        raise OSError(errno.EINVAL, "a link, not a file", str(path))
    descriptor = os.open(path, os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_regular(path: Path, most_bytes: int | None = None) -> bytes:
    """The bytes of a regular file, read once; OSError if it is none, ValueError beyond `most_bytes`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most_bytes is not None and size > most_bytes:
            raise ValueError(f"{path.name} has {size:,} bytes, more than the {most_bytes:,} it can have")
        return file.read()


# --- writing ---------------------------------------------------------------------------------------------------------


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a short write is followed by another, and the one that the disk has no room for raises."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_durable(path: Path, data: bytes) -> None:
    """Write a new file and fsync it; the caller renames."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, 0o666)
    try:
        write_all(descriptor, data)
        fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old bytes or the new ones, never a mixture."""
    make_folder(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        write_durable(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(path.parent)


def append(path: Path, line: bytes) -> None:
    """Add one line in one write, so that a kill leaves whole lines and at most one torn last line.

    OSError if the disk is full; then no part of the line remains.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY, 0o666)
    try:
        written = os.write(descriptor, line)
        if written < len(line):  # a full disk takes the first bytes only: leave none, or the next line joins them
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def cut(path: Path, size: int) -> None:
    """Shorten a file to `size` bytes."""
    os.truncate(path, size)


# --- folders ---------------------------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each with its name on the disk."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    fsync_folder(path.parent)


def rename(path: Path, target: Path) -> None:
    """Give a file or folder another name in the same folder; durable after `fsync_folder` of that."""
    os.rename(path, target)


def remove(path: Path) -> None:
    """Delete a file, or a folder with everything in it; what has a name that means something is renamed before."""
    if path.is_dir() and not path.is_symlink():
        for inside in sorted(path.iterdir()):
            remove(inside)
        os.rmdir(path)
    else:
        os.unlink(path)


def remove_if_possible(path: Path) -> None:
    """Delete what is there, and leave what cannot be deleted: on the way out of an error, or a relic of one."""
    with contextlib.suppress(OSError):
        remove(path)


def fsync(descriptor: int) -> None:
    """Return when the disk has it; macOS must be asked in its own way, else only the drive's cache has it."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not every volume has it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def fsync_file(path: Path) -> None:
    """What was written to the file survives a power cut from here on."""
    descriptor = os.open(path, os.O_RDWR | BINARY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable; Windows and some mounted file systems have no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


# --- room ------------------------------------------------------------------------------------------------------------


def check_room(folder: Path, need_bytes: int, what: str) -> None:
    """OSError (ENOSPC) that says need and room, if the disk of `folder` has no `need_bytes` left for `what`."""
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        text = f"no room for {what}: it needs {megabytes(need_bytes)}, and {megabytes(free)} are free"
        raise OSError(errno.ENOSPC, text, str(folder))


def megabytes(count: int) -> str:
    """'12.3 MB'."""
    return f"{count / 1e6:,.1f} MB"
