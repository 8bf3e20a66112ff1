"""Files to documents: one rule per kind of file, and every refusal is one sentence.

What a document is:

    text     .txt, .md, standard input and every other name: a line that is exactly `<|endoftext|>` ends a
             document; in a text without such a line, two or more empty lines in a row do
    jsonl    one line: a JSON string, or an object with the field text (else content, story, body, document)
    csv      one row: the column text (else content, story, body, document, else the only column)
    parquet  one row, the same columns as csv

A .gz file is what its inner name says; a .zip file or a folder gives its files one by one, sorted by path.
Documents lose the empty lines around them (only line ends; leading spaces stay); empty ones are dropped.
Up to IN_MEMORY_BYTES a text is read in memory. A longer one that is UTF-8 is read in blocks, and of its documents those
beyond LONGEST_CHARS are cut; a longer one in another encoding is converted in memory, up to MAX_CONVERTED_BYTES.
MAX_BYTES bounds what one source may unpack to.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

from tinygpt.corpus.documents import IN_MEMORY_BYTES, Documents, Scratch
from tinygpt.corpus.encodings import MARK_DROPPED, decode, not_utf8, refuse_binary
from tinygpt.errors import BAD_INPUT, IO_ERROR, PICKLE_SUFFIXES, UNSAFE, USAGE, UserError, did_you_mean

MAX_BYTES = 4 * 2**30  # of one source, unpacked: a small archive can hold terabytes of zeros
MAX_CONVERTED_BYTES = 2**30  # of a text that is not UTF-8; converting it takes several times as much memory
LONGEST_CHARS = IN_MEMORY_BYTES  # of one document
BLOCK_BYTES = 1 << 19  # read at once; also characters
ROWS = 1024  # of a parquet table in memory at once
MARK = "<|endoftext|>"
COLUMNS = ("text", "content", "story", "body", "document")
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".md": "text"}
MODEL_FILES = ("config.json", "tokenizer.json")  # a folder with both of them is a run, or a Hugging Face model

RULES = {
    "marks": f"text: a line that is exactly {MARK} ends a document",
    "empty lines": f"text without {MARK} lines: two or more empty lines in a row end a document",
    "jsonl": "jsonl: one line is one document",
    "csv": "csv: one row is one document",
    "parquet": "parquet: one row is one document",
}
_LINE_END = r"(?>\r\n|\r|\n)"  # atomic, so that \r\n never counts as two
_MARK_LINE = re.compile(r"(?<![^\r\n])<\|endoftext\|>(?![^\r\n])")
_EMPTY_LINES = re.compile(_LINE_END + "{3,}")


@dataclass
class Source:
    """What the report says about one file that was read."""

    name: str  # as the user typed it, inside a folder or archive with the path in it
    kind: str
    bytes: int
    sha256: str  # of the file as it lies there; inside an archive, of the unpacked file
    encoding: str = "utf-8"
    rule: str = ""  # a key of RULES
    empty: int = 0  # documents that held nothing


@dataclass
class Reader:
    """How to read, and what was changed on the way: sentence -> names of the files it holds for."""

    newlines: str = "lf"
    encoding: str | None = None
    stdin: BinaryIO | None = None
    changes: dict[str, dict[str, None]] = field(default_factory=dict)  # the inner one is an ordered set

    def read(self, source: str | Path, into: Documents) -> list[Source]:
        """Add the documents behind one name from the command line; UserError (2, 65, 74, 77) when there is no text."""
        if str(source) == "-":
            stream = self.stdin if self.stdin is not None else sys.stdin.buffer
            return [self._parse(_spooled(stream, "standard input"), "standard input", "text", into)]
        path, name = Path(source), shown(source)
        mode = _mode(path, name)
        try:
            if stat.S_ISDIR(mode):
                return self._members(_folder_files(path, name, self.note), name, "folder", into)
            with _open(path, name, mode) as file:
                if path.suffix.lower() == ".zip":
                    return self._members(_zip_files(file, name, self.note), name, "zip archive", into)
                return [self._parse(file, name, path.name, into)]
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}; check its permissions.", IO_ERROR) from None

    def note(self, sentence: str, name: str) -> None:
        """Remember that `sentence` holds for the file `name`."""
        self.changes.setdefault(sentence, {})[name] = None

    def notices(self) -> list[str]:
        """One sentence per change, with at most three names."""
        return [f"{_listed(list(names))}: {sentence}." for sentence, names in self.changes.items()]

    def _members(self, members: Iterable[tuple[str, BinaryIO]], name: str, what: str, into: Documents) -> list[Source]:
        """The text files among the files of a folder or archive; the others are counted in a notice."""
        sources = []
        for member, file in members:
            head = file.read(4096)
            file.seek(0)
            if not head:
                self.note("skipped, empty", member)
            elif _looks_like_text(member, head):
                sources.append(self._parse(file, member, member, into))
            else:
                self.note("skipped, no text", member)
        if not sources:
            raise UserError(f"the {what} {name} holds no text file; tinygpt reads {', '.join(KINDS)}.", BAD_INPUT)
        return sources

    def _parse(self, file: BinaryIO, name: str, file_name: str, into: Documents) -> Source:
        digest = hashlib.sha256()
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
        source = Source(name, "text", file.tell(), digest.hexdigest())
        file.seek(0)
        if file_name.lower().endswith(".gz"):
            file, file_name = _gunzip(file, name), file_name[:-3]
        if not file.read(1):
            raise UserError(f"{name} is empty; give a file with at least a few sentences.", BAD_INPUT)
        suffix = PurePosixPath(file_name).suffix.lower()
        _refuse_code(suffix, name)
        source.kind = KINDS.get(suffix, "text")
        if source.kind == "parquet":
            source.rule, source.encoding = "parquet", "binary"
            self._keep(_parquet_rows(file, name, self.note), source, into)
        else:
            stream, codec = self._as_utf8(file, name, source)
            stream.seek(0)
            newline = "\n" if source.kind == "jsonl" else ""  # "" takes CR for a line end too, and keeps what it was
            # JSON and some codecs can hold half a character; _valid says so
            with io.TextIOWrapper(stream, codec, "surrogatepass", newline) as text:
                found, source.rule = self._split(text, source.kind, name)
                self._keep(found, source, into)
        return source

    def _keep(self, found: Iterator[str], source: Source, into: Documents) -> None:
        for number, document in enumerate(found, start=1):
            document = self._line_ends(document, source.name).strip("\r\n")
            if document.strip():
                into.append(_valid(document, source.name, number))
            else:
                source.empty += 1

    def _as_utf8(self, file: BinaryIO, name: str, source: Source) -> tuple[BinaryIO, str]:
        """The text as a stream of UTF-8, and the codec to read it with: a long text itself if it is UTF-8."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > IN_MEMORY_BYTES:
            why = not_utf8(file, name) if self.encoding is None else f"encoding={self.encoding} is asked for"
            file.seek(0)
            if not why:
                if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                    self.note(MARK_DROPPED, name)
                return file, "utf-8-sig"
            if size > MAX_CONVERTED_BYTES:
                raise UserError(
                    f"{name} is not plain UTF-8 ({why}), and only up to {MAX_CONVERTED_BYTES:,} bytes are converted; "
                    "save it as UTF-8.",
                    BAD_INPUT,
                )
        text, source.encoding, changes = decode(file.read(), name, self.encoding)
        for change in changes:
            self.note(change, name)
        return io.BytesIO(text.encode("utf-8", "surrogatepass")), "utf-8"

    def _split(self, text: TextIO, kind: str, name: str) -> tuple[Iterator[str], str]:
        if kind == "jsonl":
            return _json_lines(text, name), "jsonl"
        if kind == "csv":
            return _csv_rows(text, name, self.note), "csv"
        marked = any(MARK in block and _MARK_LINE.search(block) for block in _blocks(text))
        text.seek(0)
        rule, separator = ("marks", _MARK_LINE) if marked else ("empty lines", _EMPTY_LINES)
        return self._pieces(text, separator, name), rule

    def _pieces(self, text: TextIO, separator: re.Pattern[str], name: str) -> Iterator[str]:
        """What `separator.split` gives for the whole text, but for a last piece of nothing behind a mark."""
        parts: list[str] = []  # of the piece that is not complete yet
        for block in _blocks(text):
            first, *others = separator.split(block)
            if parts and sum(map(len, parts)) + len(first) > LONGEST_CHARS:
                cut = "were cut, at the end of a line if they had any"
                self.note(f"documents of more than {LONGEST_CHARS:,} characters {cut}", name)
                yield "".join(parts)
                parts = []
            parts.append(first)
            for piece in others:
                yield "".join(parts)
                parts = [piece]
        if text.newlines not in (None, "\n"):  # also where they only stood between documents
            self._line_ends("\r", name)
        last = "".join(parts)
        if last.strip() or separator is _EMPTY_LINES:
            yield last

    def _line_ends(self, text: str, name: str) -> str:
        if self.newlines == "keep" or "\r" not in text:
            return text
        self.note(
            "CRLF or CR line ends were read as LF; newlines=keep keeps them (tinygpt corpus: --newlines keep)", name
        )
        return text.replace("\r\n", "\n").replace("\r", "\n")


def _blocks(text: TextIO) -> Iterator[str]:
    """The text without line ends around it, in blocks that end before a line end.

    So no mark is cut in two, and no row of empty lines. Of LONGEST_CHARS line ends in a row the last few remain.
    """
    started, line_ends = False, ""
    while block := text.read(BLOCK_BYTES):
        block = line_ends + block + text.readline(LONGEST_CHARS)
        whole = block.rstrip("\r\n")
        line_ends = block[len(whole) :]
        if whole:
            yield whole if started else whole.lstrip("\r\n")
            started = True
        elif len(line_ends) > LONGEST_CHARS:
            line_ends = line_ends[-6:]


def shown(name: str | Path) -> str:
    """A name that is safe to print and to store: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names):,} files (first {names[0]})"


def _mode(path: Path, name: str) -> int:
    """The file's type bits; missing names get a suggestion."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        from tinygpt.corpus.named import NAMES

        if name in NAMES:
            message = f"there is no file {name}; 'tinygpt corpus {name} -o {name}.txt' writes it."
            raise UserError(message, USAGE) from None
        raise UserError(f"there is no file {name}{_siblings(path)}.", USAGE) from None
    except ValueError as error:  # a NUL character inside the name
        raise UserError(f"{name} is no file name ({error}); give the path of a text file.", USAGE) from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; give the path of a text file.", IO_ERROR) from None


def _siblings(path: Path) -> str:
    try:
        near = did_you_mean(path.name, (shown(sibling.name) for sibling in path.parent.iterdir()))
    except OSError:
        return f"; there is no folder {shown(path.parent)} either"
    return near or f"; the folder {shown(path.parent)} has nothing of a similar name"


def _open(path: Path, name: str, mode: int) -> BinaryIO:
    if not stat.S_ISREG(mode):
        raise UserError(f"{name} is a pipe or a device, not a file; use - to read standard input.", BAD_INPUT)
    _refuse_code(path.suffix.lower(), name)
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(name)
    return path.open("rb")


def _refuse_code(suffix: str, name: str) -> None:
    if suffix in PICKLE_SUFFIXES:
        message = f"{name} is a pickle or a model file ({suffix}), which could run code; tinygpt reads only text here."
        raise UserError(message, UNSAFE)


def _too_large(name: str) -> UserError:
    return UserError(f"{name} holds more than {MAX_BYTES:,} bytes, the most that is read; split it.", BAD_INPUT)


def _spooled(stream: Any, name: str, limit: int | None = None) -> BinaryIO:
    """Everything in `stream` as a file to go to and fro in, or UserError 65 if it is more than `limit` (MAX_BYTES)."""
    file = Scratch()
    left = MAX_BYTES if limit is None else limit
    while block := stream.read(BLOCK_BYTES):
        left -= file.write(block)
        if left < 0:
            raise _too_large(name)
    file.seek(0)
    return file  # type: ignore[return-value]  # it has all that is used of one


def _gunzip(file: BinaryIO, name: str) -> BinaryIO:
    try:
        return _spooled(gzip.GzipFile(fileobj=file), name)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} is no complete gzip file ({error}); fetch or pack it again.", BAD_INPUT) from None


def _zip_files(packed: BinaryIO, name: str, note: Any) -> Iterator[tuple[str, BinaryIO]]:
    """(name, contents) of each file in the archive; nothing is written, so the names in it can do no harm."""
    left = MAX_BYTES
    try:
        with zipfile.ZipFile(packed) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                parts = PurePosixPath(entry.filename).parts
                member = f"{name}/{shown(entry.filename)}"
                if entry.is_dir() or "__MACOSX" in parts:
                    continue
                if any(part.startswith(".") and part != ".." for part in parts):
                    note("skipped, hidden", member)
                    continue
                with archive.open(entry) as file, _spooled(file, name, left) as content:
                    left -= content.seek(0, os.SEEK_END)
                    content.seek(0)
                    yield member, content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} is no readable zip archive ({shown(str(error))}); pack it again.", BAD_INPUT) from None


def _folder_files(folder: Path, name: str, note: Any) -> Iterator[tuple[str, BinaryIO]]:
    """(name, contents) of each plain file below `folder`, sorted by path, but for runs and links that lead out."""
    left, inside = MAX_BYTES, folder.resolve()
    for path in sorted(_walk(folder, name, note)):
        relative = path.relative_to(folder)
        member = shown((Path(name) / relative).as_posix())
        if any(part.startswith(".") for part in relative.parts):
            note("skipped, hidden", member)
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            note("skipped, a link that leads out of the folder", member)
            continue
        if not path.is_file():
            note("skipped, no plain file", member)
            continue
        if path.suffix.lower() in PICKLE_SUFFIXES:  # not even opened
            note("skipped, no text", member)
            continue
        try:
            file = path.open("rb")
        except OSError as error:
            raise UserError(f"{member} cannot be read: {error.strerror}; check its permissions.", IO_ERROR) from None
        with file:
            left -= path.stat().st_size
            if left < 0:
                raise _too_large(name)
            yield member, file


def _walk(folder: Path, name: str, note: Any) -> Iterator[Path]:
    """Files and links below `folder`; models are passed over, or a second training in a folder would read the first."""

    def fail(error: OSError) -> None:
        raise UserError(f"the folder {name} cannot be read: {error.strerror}; check its permissions.", IO_ERROR)

    for parent, folders, names in os.walk(folder, onerror=fail):
        if set(MODEL_FILES) <= set(names):
            if Path(parent) == folder:
                raise UserError(
                    f"{name} is a model, not text; name a text (tinygpt train TEXT --from {name} starts from a model).",
                    BAD_INPUT,
                )
            folders.clear()
            note("skipped, a model", shown((Path(name) / Path(parent).relative_to(folder)).as_posix()))
            continue
        links = [entry for entry in folders if (Path(parent) / entry).is_symlink()]
        folders[:] = sorted(entry for entry in folders if not entry.startswith(".") and entry not in links)
        yield from (Path(parent) / entry for entry in names + links)


def _looks_like_text(name: str, head: bytes) -> bool:
    """Whether a file of a folder or archive that begins so is worth reading; a known text ending always is."""
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    if suffix in KINDS:
        return True
    if suffix in PICKLE_SUFFIXES or name.lower().endswith((".gz", ".zip")):
        return False
    try:
        refuse_binary(head, name)
    except UserError:
        return False
    return b"\0" not in head


def _column(names: Iterable[str], name: str, what: str) -> str:
    """The text column by the rule in the module docstring, without regard to case; '' when there is none."""
    known = list(names)
    by_folded = {str(column).strip().casefold(): column for column in reversed(known)}
    for wanted in COLUMNS:
        if wanted in by_folded:
            return by_folded[wanted]
    have = ", ".join(shown(column)[:40] for column in known[:20]) or "none"
    raise UserError(f"{name} has no {what} called {', '.join(COLUMNS)}; it has: {have}; rename one.", BAD_INPUT)


def _only_or_named(columns: list[str], name: str, note: Any) -> str:
    if len(columns) == 1 and columns[0].strip().casefold() not in COLUMNS:
        note(f"its only column, '{shown(columns[0])[:40]}', is taken as the text", name)
        return columns[0]
    return _column(columns, name, "column")


def _json_lines(text: TextIO, name: str) -> Iterator[str]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}); repair or remove it.", BAD_INPUT) from None
        if isinstance(value, dict):
            value = value[_column(value, where, "field")]
        yield _string(value, where)


def _csv_rows(text: TextIO, name: str, note: Any) -> Iterator[str]:
    limit = csv.field_size_limit(2**31 - 1)  # the largest that every platform takes; a story may be long
    try:
        delimiter = _delimiter(next(dropwhile(lambda line: not line.strip("\r\n"), text), ""))
        text.seek(0)
        rows = csv.DictReader(text, delimiter=delimiter, strict=True)
        column = _only_or_named(list(rows.fieldnames or []), name, note)
        for row in rows:
            if None in row:
                message = f"{name}, line {rows.line_num} has more fields than the first line; quote the text."
                raise UserError(message, BAD_INPUT)
            yield row[column] or ""
    except csv.Error as error:
        raise UserError(f"{name}, line {rows.line_num} is not CSV ({error}); repair it.", BAD_INPUT) from None
    finally:
        csv.field_size_limit(limit)


def _delimiter(first_line: str) -> str:
    """The comma, or ; or tab where only that one gives the first line a text column."""
    for delimiter in ",;\t":
        if any(cell.strip(' "\r\n').casefold() in COLUMNS for cell in first_line.split(delimiter)):
            return delimiter
    return ","


def _parquet_rows(file: BinaryIO, name: str, note: Any) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{name} is a parquet table, which needs one more package: pip install pyarrow.") from None
    try:
        table = pyarrow.parquet.ParquetFile(file)
        column = _only_or_named(table.schema_arrow.names, name, note)
        groups = range(table.metadata.num_row_groups)
        if sum(table.metadata.row_group(group).total_byte_size for group in groups) > MAX_BYTES:
            raise UserError(f"{name} unpacks to more than {MAX_BYTES:,} bytes; split it.", BAD_INPUT)
        batches = table.iter_batches(ROWS, columns=[column])
        values = (value for batch in batches for value in batch[column].to_pylist())
        for number, value in enumerate(values, start=1):
            yield "" if value is None else _string(value, f"{name}, row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is no readable parquet table ({shown(str(error))[:100]}).", BAD_INPUT) from None


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"{where} holds {type(value).__name__} where the text should be; it must be a string.", BAD_INPUT
        )
    return value


def _valid(document: str, name: str, number: int) -> str:
    """The document, unless it holds half a surrogate pair, which no UTF-8 file can (JSON escapes can)."""
    try:
        document.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(document[error.start]):04X}"
        raise UserError(f"{name}, document {number} holds {code}, half a character; remove it.", BAD_INPUT) from None
    return document
