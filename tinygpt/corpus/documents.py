"""Documents outside memory: a text of gigabytes is read, split, sampled and encoded one document at a time.

Of each document, memory holds two numbers (12 bytes): where it stands in a temporary file, and how long it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from tinygpt.errors import IO_ERROR, UserError

IN_MEMORY_BYTES = 1 << 24  # what is smaller is not worth a file
BUFFER_BYTES = 1 << 17  # read at once, one document after the other


class Scratch(tempfile.SpooledTemporaryFile[bytes]):
    """A temporary file without a name, in memory up to IN_MEMORY_BYTES; where no room is left, a UserError (74)."""

    def __init__(self) -> None:
        # /tmp is memory on many systems, and memory is what is to be saved
        self.place = os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else None)
        super().__init__(IN_MEMORY_BYTES, dir=self.place, buffering=BUFFER_BYTES)

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        with self._telling():
            return super().write(data)

    def seek(self, *place: int) -> int:
        """Go to a place, with everything written before it."""
        with self._telling():
            return super().seek(*place)

    def __del__(self) -> None:
        self.close()  # it lives as long as the last one who reads it

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = self.place or tempfile.gettempdir()
            raise UserError(
                f"a temporary file for the text cannot be written in {place}: {error.strerror}; free some space, or "
                "set TMPDIR to another folder.",
                IO_ERROR,
            ) from None


class Documents(Sequence[str]):
    """Texts in their order, compared like a list. What is chosen from them shares their file."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._file = Scratch()
        self._starts, self._sizes = array("q"), array("I")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a document at the end."""
        data = text.encode()
        self._starts.append(self._file.seek(0, os.SEEK_END))
        self._sizes.append(self._file.write(data))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """UTF-8 bytes of each document."""
        return np.array(self._sizes, dtype=np.int64)

    def keys(self, prefix: str = "") -> npt.NDArray[np.uint64]:
        """The first 64 bits of sha256(prefix + document) of each: two different ones share them in 5 of 10^20 cases."""
        start = hashlib.sha256(prefix.encode())
        keys = array("Q")
        for data in self._contents():
            digest = start.copy()
            digest.update(data)
            keys.append(int.from_bytes(digest.digest()[:8], "big"))
        return np.frombuffer(keys, dtype=np.uint64)

    def chosen(self, indices: npt.NDArray[np.int64]) -> Documents:
        """The documents with these numbers, in this order."""
        result = Documents.__new__(Documents)
        result._file = self._file
        result._starts, result._sizes = array("q"), array("I")
        result._starts.frombytes(np.asarray(self._starts)[indices].view(np.uint8).data)
        result._sizes.frombytes(np.asarray(self._sizes)[indices].view(np.uint8).data)
        return result

    def _contents(self) -> Iterator[bytes]:
        for start, size in zip(self._starts, self._sizes, strict=True):
            self._file.seek(start)  # each time: somebody else may read in between
            yield self._file.read(size)

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self._contents())

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Documents: ...
    def __getitem__(self, i: int | slice) -> str | Documents:
        if isinstance(i, slice):
            return self.chosen(np.arange(len(self))[i])
        self._file.seek(self._starts[i])
        return self._file.read(self._sizes[i]).decode()

    def __eq__(self, other: object) -> bool:
        same_length = isinstance(other, Sequence) and len(self) == len(other)
        return same_length and all(mine == theirs for mine, theirs in zip(self, other, strict=True))  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]
