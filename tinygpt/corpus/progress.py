"""How far a download is: one line that rewrites itself on a terminal, a line every 10 % everywhere else."""

from __future__ import annotations

from typing import IO, Any, Self

MEGABYTE = 1_000_000


class ProgressLine:
    """Called with (bytes done, bytes in all or None); `say` writes a sentence between. Use it in a with statement."""

    def __init__(self, name: str, stream: IO[str]) -> None:
        self.name, self.stream = name, stream
        self._live = stream.isatty()
        self._shown = ""  # what stands in the open line of the terminal
        self._mark = 0  # tenths, or megabytes where the size is not known

    def __call__(self, done: int, total: int | None) -> None:
        text = f"{self.name}: {done / MEGABYTE:.1f} MB"
        if total:
            text = f"{self.name}: {100 * done // total} %, {done / MEGABYTE:.1f} of {total / MEGABYTE:.1f} MB"
        if self._live and text != self._shown:
            self._write("\r" + text.ljust(len(self._shown)))
            self._shown = text
        mark = 10 * done // total if total else done // MEGABYTE
        if not self._live and mark != self._mark:
            self._write(text + "\n")
            self._mark = mark

    def say(self, sentence: str) -> None:
        """A sentence on a line of its own."""
        self._end_line()
        self._write(f"Note: {sentence}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._end_line()

    def _end_line(self) -> None:
        if self._shown:
            self._write("\n")
            self._shown = ""

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
