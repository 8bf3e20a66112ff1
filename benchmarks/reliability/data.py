"""R04, odd data: 40 inputs, each with its outcome written down: it trains, or one sentence and an exit code.

What must hold: a text that had to be converted is converted to exactly the documents that it was made from, and said so
in a notice; a refusal comes before any step and leaves nothing under runs/; nobody waits for a pipe.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import os
import random
import shutil
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.measured import run
from benchmarks.reliability.common import (
    Row,
    Scale,
    command,
    environment,
    one_sentence,
    small_run,
    small_tokenizer,
    texts,
)
from tinygpt.corpus.files import LONGEST_CHARS
from tinygpt.data import HEADER_BYTES, MAGIC, read_tokens, write_tokens
from tinygpt.errors import BAD_INPUT, IO_ERROR, MISMATCH
from tinygpt.runs import documents, open_run
from tinygpt.storage import sha256

TINY = (
    "--steps", "1", "n_embd=32", "n_layers=1", "n_heads=2", "block_size=16", "vocab_size=300", "batch_size=2",
    "threads=1", "device=cpu", "precision=fp32", "compiled=no", "start=random",
)  # fmt: skip
LARGE_BYTES = (50 * 10**6, 2 * 10**9)  # the first to learn whether the machine would survive the second
MOST_RSS_BYTES = 600 * 10**6  # for a text of any size; 514 MB were measured on 2 GB, 450 of them without any text
LARGE_HANG_S = 3600.0

FRENCH = "Le café était fermé, mais l'élève a mangé une crêpe à la fenêtre. C'était déjà l'été, où les âmes rêvent."
QUOTED = "He said “I don’t know” — and left… It was the dog’s bone that cost £5."
EMOJI = "👩‍👩‍👧‍👦🇫🇷👍🏽从前有一个小女孩，她住在森林里。むかしむかし、おじいさん"
ANSI = "\x1b[31mred\x1b[0m and \x1b]0;a title\x07 moved \x1b[2J"
TYPED = "He typed <bos> and <eos> and <pad>, "

Make = Callable[[Path], str | None]  # writes what a case needs into its folder; a sentence if it cannot be tried here


class Case(NamedTuple):
    """An input and what must come of it."""

    what: str
    name: str  # of the file or folder under test
    content: bytes | Make
    code: int
    says: tuple[str, ...] = ()  # parts of what is said; of a case that trains: of its one notice
    documents: Sequence[str] = ()  # that a case must train on, where it trains
    words: tuple[str, ...] = ()  # instead of `train NAME` and the tiny model
    own_process: str | None = None  # what runs in it before the command; None: in this process


# --- making the inputs -----------------------------------------------------------------------------------------------


def numbered(text: str, count: int = 40) -> list[str]:
    """So many different documents with one text in each."""
    return [f"{text} {i}." for i in range(count)]


def as_text(parts: Sequence[str], encoding: str = "utf-8", ends: str = "\n") -> bytes:
    """The documents as one file, with two empty lines between them."""
    return "\n\n\n".join(parts).replace("\n", ends).encode(encoding)


def stories() -> list[str]:
    """40 small documents in ASCII with line ends inside."""
    return [f"{story[:200].strip()}\nThe end of tale {i}." for i, story in enumerate(texts()[:40])]


def pipe(path: Path) -> None:
    """A FIFO that nobody writes to."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def unreadable(folder: Path) -> str | None:
    """A file that may not be read; root may read all but the memory of a process at address 0."""
    if os.geteuid():
        (folder / "secret.txt").write_bytes(b"A secret.")
        (folder / "secret.txt").chmod(0)
    elif Path("/proc/self/mem").exists():
        (folder / "secret.txt").symlink_to("/proc/self/mem")
    else:
        return "skipped: root can read every file of this system"
    return None


def zipped(data: bytes) -> bytes:
    """A zip archive with one text in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", data)
    return file.getvalue()


def torn_parquet(folder: Path) -> str | None:
    """A table of which the last bytes are lost, and with them the description of its columns."""
    if importlib.util.find_spec("pyarrow") is None:
        return "skipped: pyarrow is not installed"
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": stories()}), file)
    (folder / "a.parquet").write_bytes(file.getvalue()[:-20])
    return None


def folder_of(**files: bytes) -> Make:
    """A folder `here` with these files."""

    def make(folder: Path) -> None:
        (folder / "here").mkdir()
        for name, data in files.items():
            (folder / "here" / name).write_bytes(data)

    return make


def spoilt(spoil: Callable[[Path], Any]) -> Make:
    """The run of all cases, with its training tokens spoilt."""

    def make(folder: Path) -> None:
        shutil.copytree(folder.parent / "base", folder / "runs" / "base")
        spoil(folder / "runs" / "base" / "data" / "train.tokens")

    return make


def one_byte_less(path: Path) -> None:
    """An odd number of bytes of two-byte tokens."""
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    """Nothing left but the name."""
    path.write_bytes(b"")


def foreign_id(path: Path) -> None:
    """A whole and sound token file but for one id that the vocabulary does not have."""
    ids = read_tokens(path, small_tokenizer()).copy()
    ids[7] = 60_000
    write_tokens(path, ids, small_tokenizer())


def huge_promise(path: Path) -> None:
    """A header that speaks of a petabyte of tokens."""
    data = path.read_bytes()
    header = json.loads(data[len(MAGIC) : HEADER_BYTES])
    header["count"] = 10**15 // 2
    path.write_bytes((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES) + data[HEADER_BYTES:])


def other_tokenizer(path: Path) -> None:
    """The same ids as another tokenizer of the same size would write them."""
    write_tokens(path, read_tokens(path, small_tokenizer()), small_tokenizer(1))


def tokens_case(what: str, spoil: Callable[[Path], Any], code: int, *says: str, **more: Any) -> Case:
    """A token file inside a run: `train --resume` must notice."""
    return Case(
        what,
        "train.tokens",
        spoilt(spoil),
        code,
        ("train.tokens", *says),
        (),
        ("train", "--resume", "--run", "base"),
        **more,
    )


VANISH = """
import os, sys
def vanish(event, arguments):
    if event == "open" and str(arguments[0]).endswith("fleeting.txt") and os.path.exists(arguments[0]):
        os.unlink(arguments[0])
sys.addaudithook(vanish)  # sees every way to open a file, before it is opened
"""


def cases(scale: Scale) -> list[Case]:
    """The table: what goes in, what must come out."""
    plain, long_bytes = stories(), scale.pick(5_000_000, 50_000_000)
    line = " ".join(" ".join(texts()).split())
    detected = ("it is not UTF-8", "encoding=cp1252")
    packed = gzip.compress(as_text(plain))
    latin, quoted = as_text(numbered(FRENCH), "latin-1"), as_text(numbered(QUOTED), "cp1252")
    # fmt: off
    return [
        # the token files of a run
        tokens_case("token file with an odd number of bytes", one_byte_less, BAD_INPUT, "promises"),
        tokens_case("token beyond the vocabulary", foreign_id, BAD_INPUT, "60000", "vocabulary ends at 511"),
        tokens_case("token file that is empty", emptied, BAD_INPUT, "not a usable token file"),
        tokens_case("token file that promises a petabyte", huge_promise, BAD_INPUT, "promises"),
        tokens_case("token file that is a pipe", pipe, BAD_INPUT, own_process=""),
        tokens_case("token file of another tokenizer", other_tokenizer, MISMATCH,
                    small_tokenizer().sha256[:12], small_tokenizer(1).sha256[:12]),
        # too little
        Case("empty file", "a.txt", b"", BAD_INPUT, ("a.txt is empty",)),
        Case("only line ends", "a.txt", b"\r\n" * 500, BAD_INPUT, ("a.txt holds no text",)),
        Case("one character", "a.txt", "é".encode(), BAD_INPUT, ("too short", "2 bytes")),
        Case("shorter than a window", "a.txt", b"The cat sat on the mat.", BAD_INPUT,
             ("block_size=64 needs", "use block_size="), words=("train", "a.txt", *TINY, "block_size=64")),
        # not text, or nobody knows which
        Case("NUL characters", "a.txt", b"ab\0c" * 500, BAD_INPUT, ("a.txt is not text", "offset 2")),
        Case("random bytes", "a.txt", random.Random(scale.seed).randbytes(20_000), BAD_INPUT, ("a.txt is not",)),
        Case("damaged UTF-8", "a.txt", as_text(numbered(FRENCH)) + b"\xc3", BAD_INPUT, ("damaged places", "offset")),
        Case("an encoding that no text tells", "a.txt", FRENCH.encode("cp437"), BAD_INPUT,
             ("is not UTF-8", "could not be detected", "encoding=")),
        # not a file, or not for us
        Case("pipe", "a.txt", lambda folder: pipe(folder / "a.txt"), BAD_INPUT, ("is a pipe",), own_process=""),
        Case("unreadable file", "secret.txt", unreadable, IO_ERROR, ("secret.txt cannot be read",)),
        Case("file that disappears while it is opened", "fleeting.txt", as_text(plain), IO_ERROR,
             ("fleeting.txt cannot be read",), own_process=VANISH),
        Case("empty folder", "here", folder_of(), BAD_INPUT, ("here holds no text file",)),
        Case("folder without a text", "here", folder_of(a=b"\0\1\2" * 50, b=b"\x89PNG\r\n\0"), BAD_INPUT,
             ("here holds no text file",)),
        # containers
        Case("gzip in gzip", "a.txt.gz.gz", gzip.compress(packed), BAD_INPUT, ("is gzip data",)),
        Case("torn gzip file", "a.txt.gz", packed[:-200], BAD_INPUT, ("no complete gzip file",)),
        Case("torn zip archive", "a.zip", zipped(as_text(plain))[:-200], BAD_INPUT, ("no readable zip archive",)),
        Case("jsonl with a torn line", "a.jsonl", b'{"text": "a"}\n{"text": "b', BAD_INPUT, ("a.jsonl, line 2",)),
        Case("jsonl with half a character", "a.jsonl", b'{"text": "a\\ud800b"}\n', BAD_INPUT, ("U+D800",)),
        Case("csv with a quote that does not close", "a.csv", b'text\n"one\ntwo', BAD_INPUT, ("is not CSV",)),
        Case("torn parquet table", "a.parquet", torn_parquet, BAD_INPUT, ("no readable parquet table",)),
        # converted, and said
        Case("byte order mark", "a.txt", as_text(plain, "utf-8-sig"), 0, ("byte order mark", "dropped"), plain),
        Case("CRLF", "a.txt", as_text(plain, ends="\r\n"), 0, ("CRLF", "read as LF"), plain),
        Case("UTF-16 LE, marked", "a.txt", b"\xff\xfe" + as_text(plain, "utf-16-le"), 0, ("read as utf-16",), plain),
        Case("UTF-16 BE, marked", "a.txt", b"\xfe\xff" + as_text(plain, "utf-16-be"), 0, ("read as utf-16",), plain),
        Case("UTF-16 LE, unmarked", "a.txt", as_text(plain, "utf-16-le"), 0, ("read as utf_16_le", *detected), plain),
        Case("UTF-16 BE, unmarked", "a.txt", as_text(plain, "utf-16-be"), 0, ("read as utf_16_be", *detected), plain),
        Case("latin-1", "a.txt", latin, 0, ("read as cp1252", *detected), numbered(FRENCH)),
        Case("cp1252", "a.txt", quoted, 0, ("read as cp1252", *detected), numbered(QUOTED)),
        # unusual, and text
        Case("one character repeated", "a.txt", b"a" * 1_000_000, 0),
        Case("one long line", "a.txt", (line * (long_bytes // len(line) + 1))[:long_bytes].encode(), 0,
             ("were cut",) if long_bytes > LONGEST_CHARS else ()),
        Case("20,000 tiny documents", "a.jsonl", "\n".join(f'"Tale {i}"' for i in range(20_000)).encode(), 0,
             documents=[f"Tale {i}" for i in range(20_000)]),
        Case("emoji and CJK only", "a.txt", as_text(numbered(EMOJI)), 0, documents=numbered(EMOJI)),
        Case("escape sequences", "a.txt", as_text(numbered(ANSI + FRENCH)), 0, documents=numbered(ANSI + FRENCH)),
        Case("special tokens typed", "a.txt", as_text(numbered(TYPED)), 0, documents=numbered(TYPED)),
    ]
    # fmt: on


# --- trying them -----------------------------------------------------------------------------------------------------


def row(scale: Scale) -> Row:
    """R04 of the table; in full also the text of 2 GB."""
    result = Row("R04", "odd data")
    small_run(scale.folder / "base")
    for number, case in enumerate(cases(scale)):
        began = time.perf_counter()
        skipped = attempt(case, scale.folder / f"case-{number}", result)
        if skipped:
            result.measured[case.what] = skipped
        elif case.what == "one long line":
            result.measured[f"long line of {len(case.content) / 1e6:.0f} MB"] = f"{time.perf_counter() - began:.1f} s"
        shutil.rmtree(scale.folder / f"case-{number}", ignore_errors=True)
    if scale.full:
        all(large(scale, size_bytes, result) for size_bytes in LARGE_BYTES)  # up to the first that takes too much
    return result


def attempt(case: Case, folder: Path, result: Row) -> str | None:
    """Try one case, and count it; a sentence instead if it cannot be tried here."""
    (folder / "runs").mkdir(parents=True)
    if callable(case.content):
        if skipped := case.content(folder):
            return skipped
    else:
        (folder / case.name).write_bytes(case.content)
    before = tree(folder / "runs")
    words = case.words or ("train", case.name, *TINY)
    if case.own_process is None:
        code, said = in_process(*words, cwd=folder)
    else:
        code, said = command(*words, cwd=folder, code=case.own_process)
    problem = wrong_end(case, code, said)
    if not problem:
        problem = left_behind(folder, before) if code else trained_wrong(case, folder, said)
    result.check(not problem, f"{case.what}: {problem}")
    return None


def wrong_end(case: Case, code: int, said: str) -> str:
    """What is wrong with exit code and words, or ""."""
    if code != case.code:
        return f"exit code {code} instead of {case.code}: {said.strip()[-300:]}"
    missing = [part for part in case.says if part not in said]
    if missing:
        return f"nothing is said of {missing[0]!r}: {said.strip()[-300:]}"
    if "\x1b" in said:
        return "an escape sequence of the text reaches the terminal"
    return "" if code == 0 or one_sentence(said) else f"no single sentence: {said.strip()[-300:]}"


def trained_wrong(case: Case, folder: Path, said: str) -> str:
    """What is wrong with a case that trained, or ""."""
    notices = [line for line in said.splitlines() if line.startswith("Note: ")]
    if len(notices) != bool(case.says) or not all(part in "".join(notices) for part in case.says):
        return f"its notices are {notices}"
    run, _ = open_run(folder / "runs" / "a")
    read = {*documents(run, "train"), *documents(run, "val")}
    if case.documents and read != set(case.documents):
        return f"it trains on another text, for example {sorted(read ^ set(case.documents))[0][:80]!r}"
    return "" if list((run.folder / "checkpoints").glob("step-00000001")) else "it ended without its checkpoint"


def left_behind(folder: Path, before: dict[str, str]) -> str:
    """What a refusal left under runs/ or changed there, or ""."""
    after = tree(folder / "runs")
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f"left behind or changed: {', '.join(changed)}" if changed else ""


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder with the digest of its bytes, but for what says who holds a run."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()) if path.is_file() else ""
        for path in folder.rglob("*")
        if path.name not in (".lock", ".owner.json")
    }


def in_process(*words: object, cwd: Path, stdin: bytes = b"") -> tuple[int, str]:
    """Exit code and words of `tinygpt WORDS` without a process of its own, which would load torch for 2 seconds.

    What escapes is what a user would see: the traceback and code 1. The speed is measured in as few steps as can be.
    """
    from tinygpt import cli, plan, prepare

    said = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    home = {"XDG_CONFIG_HOME": str(cwd / ".config"), "TINYGPT_CACHE": str(cwd / ".cache"), "COLUMNS": "200"}
    code: Any = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(mock.patch.dict(os.environ, home))
        stack.enter_context(mock.patch.object(sys, "argv", ["tinygpt", *map(str, words)]))
        stack.enter_context(mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")))
        for name in ("stdout", "stderr"):
            stack.enter_context(mock.patch.object(sys, name, said))
        quick = lambda config, machine, seconds: plan.measure(config, machine, 0.0)  # noqa: E731
        stack.enter_context(mock.patch.object(prepare, "measure", quick))
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        except Exception:
            code = 1
            traceback.print_exc(file=said)
    return int(code), said.buffer.getvalue().decode()


# --- a text that does not fit into memory ----------------------------------------------------------------------------


def large(scale: Scale, size_bytes: int, result: Row) -> bool:
    """Train on a text of `size_bytes`, no two documents of it equal: whether the memory stays below MOST_RSS_BYTES."""
    path = scale.folder / "large.txt"
    write_large(path, size_bytes)
    words = [sys.executable, "-m", "tinygpt", "train", path.name, *TINY]
    end = run(words, scale.folder, environment(), LARGE_HANG_S)
    path.unlink()
    size, taken = f"{size_bytes / 1e6:,.0f} MB of text", f"peak RSS {end.peak_rss_bytes / 1e6:,.0f} MB"
    result.measured[size] = f"{taken}, {end.seconds:,.0f} s"
    trained = result.check(end.exit_code == 0, f"{size}: exit code {end.exit_code}: {(end.out + end.err)[-300:]}")
    return (
        result.check(end.peak_rss_bytes < MOST_RSS_BYTES, f"{size}: {taken}, not {MOST_RSS_BYTES / 1e6:,.0f} MB")
        and trained
    )


def write_large(path: Path, size_bytes: int) -> None:
    """Tales again and again; a number before each makes every document a document of its own."""
    written = number = 0
    with path.open("wb") as file:
        while written < size_bytes:
            block = "".join(f"Tale {number + i}. {story}\n\n\n" for i, story in enumerate(texts()))
            number += len(texts())
            written += file.write(block.encode())
