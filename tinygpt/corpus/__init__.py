"""Your text as documents, split into training and validation, with a report of what was read.

    load = read (files.py) + remove exact duplicates + split + report

The split does not depend on the order of the files: documents are taken for validation in the order of
sha256(seed, document). Where whole documents cannot come near the wanted size (few or very long ones), the
last part of the text is the validation text instead. Documents and training text keep the file order.
Memory holds one document at a time (documents.py) and a few numbers about each.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tinygpt.config import DataConfig
from tinygpt.corpus.documents import Documents
from tinygpt.corpus.files import RULES, Reader, Source, shown
from tinygpt.errors import BAD_INPUT, USAGE, UserError, did_you_mean

MIN_TRAIN_BYTES = 200  # less leaves nothing to learn from, so nothing is set aside
MIN_DOCUMENTS = 20  # fewer make too coarse a split
MAX_SHARE = 0.05  # of the bytes in one document; more makes too coarse a split
NEAR = 0.95  # of the wanted validation bytes are enough
FAR = 0.5  # of the wanted validation bytes; when whole documents give less, they do not fit
NEWLINES = ("lf", "keep")
_LINE = re.compile("[^\n]+")
_DOUBLE_ENCODED = re.compile("â(?:€|\x80)[\x80-\xff™œ˜“”]")  # UTF-8 for ’ “ ” … – read as cp1252 or latin-1

Sizes = npt.NDArray[np.int64]  # bytes of each document


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and to validate with."""

    train: Documents
    val: Documents
    report: dict[str, Any]  # plain JSON, written to corpus.json
    notices: list[str]  # sentences for the user


@dataclass
class Split:
    """Which documents are learnt from and which are held out, by what rule and why."""

    train: Documents
    val: Documents
    rule: str  # "by document", "tail", "given" or "none"
    reason: str
    leaked: int = 0
    notices: list[str] = field(default_factory=list)


def load(
    sources: Sequence[str | Path],
    *,
    val: str | Path | None = None,
    val_fraction: float = DataConfig.val_fraction,
    val_max_bytes: int = DataConfig.val_max_bytes,
    seed: int = 0,
    newlines: str = DataConfig.newlines,
    encoding: str | None = None,
    stdin: BinaryIO | None = None,
) -> Corpus:
    """Read `sources` (files, folders, archives, '-') as documents and set validation text aside.

        wanted = min(val_fraction * bytes, val_max_bytes)

    Validation comes from the file `val` when it is given; otherwise it is at most `wanted` bytes of whole
    documents, or the tail of the text, cut at the last line start before (so up to a tenth longer).
    newlines: "lf", or "keep" for CRLF as it stands; encoding: of all files, instead of detecting it.
    Raises UserError: 2 for a missing file or a wrong argument, 65 for text that cannot be used, 74 for an
    unreadable file, 77 for a pickle.
    """
    _check_arguments(sources, val, val_fraction, val_max_bytes, newlines)
    reader = Reader(newlines, encoding, stdin)
    everything, val_documents = Documents(), Documents()
    read = [source for name in sources for source in reader.read(name, everything)]
    documents = unique(everything)
    duplicates = len(everything) - len(documents)
    del everything
    if not documents:
        raise UserError(f"{_names(sources)} holds no text, only empty lines; give at least a few sentences.", BAD_INPUT)
    val_read = reader.read(val, val_documents) if val is not None else []
    if val is not None:
        split = _given(documents, unique(val_documents), shown(val))
    else:
        split = split_documents(documents, val_fraction, val_max_bytes, seed)
    del documents
    report = _report(read, val_read, split, duplicates)
    notices = reader.notices() + _notices(report, duplicates) + split.notices
    report["notices"] = notices
    return Corpus(split.train, split.val, report, notices)


def documents_digest(documents: Sequence[str]) -> str:
    """sha256 hex over the documents, each after its length in bytes, so that no two lists give the same bytes."""
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def report_text(report: dict[str, Any]) -> str:
    """The report as a table to read."""
    lines = [f"{'file':<44}{'kind':<9}{'encoding':<12}{'bytes':>14}"]
    lines += [f"{s['name']:<44}{s['kind']:<9}{s['encoding']:<12}{s['bytes']:>14,}" for s in report["sources"]]
    rows = {
        "documents": f"{report['documents']:,}",
        "text": f"{counted(report['bytes'], 'byte')}, {counted(report['characters'], 'character')}, "
        f"{report['distinct_characters']:,} different, {report['non_ascii_share']:.2%} beyond ASCII",
        "longest line": counted(report["longest_line"], "character"),
        "removed": f"{counted(report['duplicates_removed'], 'duplicate')}, "
        f"{counted(report['empty_removed'], 'empty document')}",
        "documents end": report["document_rule"],
        "split": f"{report['split']} ({report['split_reason']})",
        **{part: _part_text(report[part]) for part in ("train", "val")},
    }
    lines += ["", *(f"{label:<15}{value}" for label, value in rows.items())]
    return "\n".join([*lines, "", *(f"note: {notice}" for notice in report["notices"])]).rstrip() + "\n"


def counted(number: int, noun: str) -> str:
    """'1 byte', '2,000 bytes'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _part_text(part: dict[str, Any]) -> str:
    return f"{counted(part['documents'], 'document')}, {counted(part['bytes'], 'byte')}, sha256 {part['sha256'][:12]}"


def _names(sources: Sequence[str | Path]) -> str:
    return shown(sources[0]) if len(sources) == 1 else f"none of the {len(sources)} files"


def _check_arguments(
    sources: Sequence[str | Path], val: str | Path | None, val_fraction: float, val_max_bytes: int, newlines: str
) -> None:
    if isinstance(sources, (str, Path)) or not sources:
        raise UserError("no text is named; give at least one file, folder, or - for standard input.", USAGE)
    if not 0 <= val_fraction <= 0.5:
        usual = f"{DataConfig.val_fraction} is usual"
        raise UserError(f"val_fraction is {val_fraction}, it must lie between 0 and 0.5; {usual}.", USAGE)
    if val_max_bytes < 0:
        usual = f"{DataConfig.val_max_bytes} is usual"
        raise UserError(f"val_max_bytes is {val_max_bytes}, it must not be negative; {usual}.", USAGE)
    if newlines not in NEWLINES:
        raise UserError(f"newlines is '{newlines}'{did_you_mean(newlines, NEWLINES)}, it must be lf or keep.", USAGE)
    if [str(source) for source in [*sources, val]].count("-") > 1:
        raise UserError("standard input (-) is named twice, but it can be read only once; name a file.", USAGE)


def unique(documents: Documents) -> Documents:
    """The first of equal documents, in order."""
    keys = np.sort(documents.keys())
    if not (keys[1:] == keys[:-1]).any():  # mostly; which ones are equal takes four times the memory to find
        return documents
    return documents.chosen(np.sort(np.unique(documents.keys(), return_index=True)[1]))


def _given(documents: Documents, val: Documents, name: str) -> Split:
    if not val:
        raise UserError(f"the validation text {name} holds no text; give a file with a few sentences.", BAD_INPUT)
    train = documents.chosen(np.flatnonzero(~np.isin(documents.keys(), val.keys())))
    if not train:
        raise UserError(f"every training document stands in the validation text {name}; give another one.", BAD_INPUT)
    leaked = len(documents) - len(train)
    notice = f"removed {counted(leaked, 'training document')} found in the validation text {name} too."
    return Split(train, val, "given", f"the validation text is {name}", leaked, [notice] if leaked else [])


def split_documents(documents: Documents, fraction: float, max_bytes: int, seed: int) -> Split:
    """Set validation text aside, as `load` says; documents must differ from each other."""
    sizes = documents.sizes
    total = int(sizes.sum())
    wanted = min(int(fraction * total), max_bytes)
    if wanted == 0 and (fraction == 0 or max_bytes == 0):
        return Split(documents, Documents(), "none", "no validation text was asked for")
    if total - wanted >= MIN_TRAIN_BYTES:
        why_not = _too_coarse(sizes, total)
        held_out = np.zeros(len(sizes), dtype=bool)
        if not why_not:
            held_out[_by_document(documents, sizes, wanted, seed)] = True
        if sizes[held_out].sum() >= FAR * wanted:
            train, val = (documents.chosen(np.flatnonzero(which)) for which in (~held_out, held_out))
            return Split(train, val, "by document", f"{len(documents):,} documents, chosen by sha256 with seed {seed}")
        train, val = _tail(documents, sizes, wanted)
        reason = why_not or f"the documents are too long to make up {wanted:,} bytes"
        if train and val:
            return Split(train, val, "tail", f"the last part of the text, because {reason}")
    reason = f"the text has {counted(total, 'byte')}, and at least {MIN_TRAIN_BYTES} must remain for training"
    notice = (
        f"no validation text was set aside: {reason}; over-fitting stays invisible, so give more text or --val FILE."
    )
    return Split(documents, Documents(), "none", reason, notices=[notice])


def _too_coarse(sizes: Sizes, total: int) -> str:
    if len(sizes) < MIN_DOCUMENTS:
        return f"it has fewer than {MIN_DOCUMENTS} documents ({len(sizes)})"
    if sizes.max() > MAX_SHARE * total:
        return f"one document is {sizes.max() / total:.0%} of the text"
    return ""


def _by_document(documents: Documents, sizes: Sizes, wanted: int, seed: int) -> list[int]:
    """Which documents to hold out: in the order of their hash, passing over those that no longer fit."""
    held_out: list[int] = []
    size = 0
    for i in np.argsort(documents.keys(f"{seed}\n")):
        if size >= NEAR * wanted:
            break
        if size + sizes[i] <= wanted:
            held_out.append(i)
            size += sizes[i]
    return held_out


def _tail(documents: Documents, sizes: Sizes, wanted: int) -> tuple[Documents, Documents]:
    """The last documents whole, as far as they fit into `wanted` bytes, and the end of the one before."""
    first, room = len(documents), wanted
    while first > 0 and sizes[first - 1] <= room:
        first -= 1
        room -= int(sizes[first])
    head, end = _cut(documents[first - 1].encode(), room, slack=wanted // 10)
    train, val = documents[: first - 1], documents[:0]
    for part, into in ((head, train), (end, val)):
        if part.strip():
            into.append(part)
    for document in documents[first:]:
        val.append(document)
    return train, val


def _cut(data: bytes, room: int, slack: int) -> tuple[str, str]:
    """A document in two, the second part about `room` bytes long.

    The cut lies at the last line start before that place, else at the last word start, else at a character;
    lines and words are looked for within `slack` bytes, so that one long line does not move everything.
    """
    place = len(data) - room
    while 0 < place < len(data) and data[place] & 0xC0 == 0x80:  # inside a character
        place += 1
    lowest = max(0, place - slack)
    for separator in (b"\n", b"\r", b" "):
        found = data.rfind(separator, lowest, place)
        if found >= 0:
            place = found + 1
            break
    return data[:place].decode().strip("\r\n"), data[place:].decode().strip("\r\n")


def _part(documents: Documents) -> dict[str, Any]:
    size = int(documents.sizes.sum())
    return {"documents": len(documents), "bytes": size, "sha256": documents_digest(documents)}


def _entry(source: Source) -> dict[str, Any]:
    return {key: getattr(source, key) for key in ("name", "kind", "bytes", "sha256", "encoding")}


def _report(read: list[Source], val_read: list[Source], split: Split, duplicates: int) -> dict[str, Any]:
    """What was read, as plain JSON; the figures are those of the training and validation text together."""
    characters = ascii_characters = longest_line = mojibake = 0
    distinct: set[str] = set()
    known = b""  # those of `distinct` that are ASCII
    for document in chain(split.train, split.val):
        characters += len(document)
        ascii_characters += len(document) if document.isascii() else len(document.encode("ascii", "ignore"))
        longest_line = max(longest_line, *(line.end() - line.start() for line in _LINE.finditer(document)))
        if other := document.encode().translate(None, known).decode():  # looking at each character would take minutes
            distinct.update(other)
            known = "".join(filter(str.isascii, distinct)).encode()
        mojibake += len(_DOUBLE_ENCODED.findall(document)) if "â" in document else 0
    train, val = _part(split.train), _part(split.val)
    return {
        "sources": [_entry(source) for source in read],
        "val_sources": [_entry(source) for source in val_read],
        "documents": train["documents"] + val["documents"],
        "characters": characters,
        "bytes": train["bytes"] + val["bytes"],
        "duplicates_removed": duplicates,
        "empty_removed": sum(source.empty for source in read),
        "longest_line": longest_line,
        "non_ascii_share": (characters - ascii_characters) / characters,
        "distinct_characters": len(distinct),
        "mojibake": mojibake,
        "document_rule": "; ".join(dict.fromkeys(RULES[source.rule] for source in read)),
        "split": split.rule,
        "split_reason": split.reason,
        "train": train,
        "val": val,
        "leaked_documents": split.leaked,
        "notices": [],
    }


def _notices(report: dict[str, Any], duplicates: int) -> list[str]:
    notices = []
    if duplicates:
        notices.append(f"removed {counted(duplicates, 'repeated document')}; one copy of each stays.")
    if report["empty_removed"]:
        notices.append(f"removed {counted(report['empty_removed'], 'empty document')}.")
    if report["mojibake"]:
        marks = counted(report["mojibake"], "double-encoded mark")
        notices.append(f"the text holds {marks} such as 'â€™', as its source does.")
    return notices
