"""How a text becomes tokens: every piece, where it stands, and the merges that built it; and what a text is made of.

No torch, unless a whole run is asked for: `corpus_stats` and `vocab_sweep` read its tokens.
`tokenize` gives plain data; `render` writes that data for a terminal.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from tinygpt import corpus as corpora
from tinygpt.corpus.documents import Documents
from tinygpt.corpus.files import Reader
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.folders import resolve, resolve_whole
from tinygpt.inspect.result import Result, public
from tinygpt.tokenizer import EOS, FIRST_MERGE, SPECIALS, Piece, Tokenizer, train_tokenizer

if TYPE_CHECKING:
    from tinygpt.runs import Run

SPACE, NEWLINE = "·", "¶"  # both in Latin-1, so that a cp1252 console shows them
_SHORT = {"\n": NEWLINE, " ": SPACE, "\t": r"\t", "\r": r"\r", "\\": r"\\"}
LEGEND = rf"{SPACE} space   {NEWLINE} new line   \t tab   \xNN a byte of a longer character, or a control character"
WIDTH = 110  # columns after which the merges of a piece go on in the next line
PIECE_WIDTH = 40  # a longer piece pushes its own line to the right, not the table

MOST_TEXT = 1_000_000  # bytes of a text that is handed in, and of a sample of the training text
MOST_TOKENS = 1 << 23  # of a run's text that are looked at
MOST_PIECES = 4_000  # of one reply
DEEPEST = 100  # levels of a tree in one reply: JSON readers have a limit
MOST_SIZES, LARGEST_VOCABULARY = 12, 1 << 16
EXAMPLE_CHARACTERS = 80
BETWEEN = "\n\n\n"  # two empty lines: see corpus.files
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class HasTokenizer(Protocol):
    """A loaded checkpoint or a run."""

    @property
    def tokenizer(self) -> Tokenizer: ...


def tokenizer_of(m: Tokenizer | HasTokenizer | str) -> Tokenizer:
    """The tokenizer itself, that of a checkpoint or run, or that of a RUN by name, whose weights are not read."""
    if isinstance(m, str):
        return Tokenizer.load(resolve(m)[0] / "tokenizer.json")
    return m if isinstance(m, Tokenizer) else m.tokenizer


def piece(tokenizer: Tokenizer, id: int) -> dict[str, Any]:
    """A token as every page shows it: its id, and its bytes made visible. UserError for an id that there is not."""
    data = tokenizer.token_bytes(id)
    return {"id": id, "shown": SPECIALS[id] if id < len(SPECIALS) else visible(data)}


@public
def tokenize(m: Tokenizer | HasTokenizer | str, text: str) -> Result:
    """Every token of `text` with its history, and the summary.

    m: a tokenizer, or anything with one; a RUN by name gives its tokenizer without reading its weights.
    pieces: id; text (U+FFFD for a part of a character); shown (see `visible`); part_of: the characters it touches, if
    it does not hold them whole, else ""; bytes (hex); start, end: byte offsets in the UTF-8 text; merges, in the order
    in which they were made: left, right (as shown) and rank (0 was learned first).
    """
    tokenizer = tokenizer_of(m)
    pieces = tokenizer.explain(text)
    owner = [i for i, character in enumerate(text) for _ in character.encode()]  # byte offset -> character
    return Result(
        truncated=_most_pieces(len(pieces)),
        text=text,
        tokenizer=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        pieces=[_plain(piece, text[owner[piece.start] : owner[piece.end - 1] + 1]) for piece in pieces[:MOST_PIECES]],
        summary=_summary(pieces, text),
    )


def _most_pieces(count: int) -> str | None:
    return f"The first {MOST_PIECES:,} of {count:,} pieces." if count > MOST_PIECES else None


@public
def replay(m: Tokenizer | HasTokenizer | str, text: str, upto: int) -> Result:
    """`text` after the merges of rank below `upto` alone: 0 leaves its bytes, `steps` gives the tokenizer's own tokens.

    steps: how many merges there are; count: tokens at this point; pieces: id, shown, bytes (hex), start, end (bytes
    of the UTF-8 text); next: the merge that changes this text next (left, right, rank), null if none does any more.
    A merge joins only what earlier ones made, so the first merges are a whole tokenizer. UserError for another `upto`.
    """
    tokenizer = tokenizer_of(m)
    steps = tokenizer.vocab_size - FIRST_MERGE
    if not 0 <= upto <= steps:
        raise UserError(f"upto={upto} must be between 0 and {steps}, the number of merges.")
    early = _first(tokenizer, upto)
    pieces, start = [], 0
    for id in early.encode(text):
        data = early.token_bytes(id)
        pieces.append({**piece(early, id), "bytes": data.hex(), "start": start, "end": start + len(data)})
        start += len(data)
    later = {merge for found in tokenizer.explain(text) for merge in found.merges if merge.rank >= upto}
    coming = min(later, key=lambda merge: merge.rank, default=None)
    return Result(
        truncated=_most_pieces(len(pieces)), text=text, upto=upto, steps=steps, count=len(pieces),
        pieces=pieces[:MOST_PIECES],
        next=coming and {"left": visible(coming.left), "right": visible(coming.right), "rank": coming.rank},
    )  # fmt: skip


@lru_cache(maxsize=64)  # a slider goes to and fro
def _first(tokenizer: Tokenizer, n: int) -> Tokenizer:
    return Tokenizer(tokenizer.merges[:n])


@public
def merge_tree(m: Tokenizer | HasTokenizer | str, token: int) -> Result:
    """How one token was built: shown, id, rank (of the merge that made it), and the same for its `left` and `right`.

    A byte and a special token have no rank, left or right (null). UserError for an id outside the vocabulary.
    """
    tokenizer = tokenizer_of(m)
    merges, ids = tokenizer.merges, {tokenizer.token_bytes(id): id for id in range(tokenizer.vocab_size)}
    cut = False

    def node(id: int, level: int = 1) -> dict[str, Any]:
        nonlocal cut
        shown, rank = piece(tokenizer, id), id - FIRST_MERGE if id >= FIRST_MERGE else None
        halves: list[Any] = [None, None]
        if rank is not None and level < DEEPEST:
            halves = [node(ids[half], level + 1) for half in merges[rank]]
        cut = cut or (rank is not None and level >= DEEPEST)
        return {**shown, "rank": rank, "left": halves[0], "right": halves[1]}

    tree = node(token)
    return Result(truncated=f"The tree ends at level {DEEPEST}." if cut else None, **tree)


@public
def vocab_sweep(run: Any, sizes: Sequence[int] = (259, 512, 1024, 2048, 4096, 8192), text: str | None = None) -> Result:
    """Bytes per token by size of the vocabulary: learnt from training text, counted on text that was held out.

    run: a `runs.Run`, or a RUN by name. text: another text, of which the last tenth is held out; else at most
    MOST_TEXT bytes of the run's training text, evenly chosen documents, and its validation text.
    rows, in the order of `sizes`: asked; vocab_size, which a small text cannot fill; tokens; bytes_per_token;
    pieces_example, the pieces of `example`. One tokenizer of the largest size is trained: the smaller are its first
    merges. UserError for sizes that cannot be, or where nothing is held out.
    """
    sizes = list(sizes)
    if not 0 < len(sizes) <= MOST_SIZES or not all(FIRST_MERGE <= size <= LARGEST_VOCABULARY for size in sizes):
        raise UserError(f"sizes must be 1 to {MOST_SIZES} numbers between {FIRST_MERGE} and {LARGEST_VOCABULARY}.")
    opened, rule = open_run(run), None
    if text is None:
        (train, rule), (val, _) = documents(opened, "train"), documents(opened, "val")
        if not val:
            raise UserError("the run kept no validation text to count on; give a text.")
        n_bytes = sum(len(document.encode()) for document in train)
        train = train[:: math.ceil(n_bytes / MOST_TEXT)] if n_bytes else train
    else:
        train, val = _in_two(_checked(text))
    largest = train_tokenizer(train, max(sizes))
    held_out = sum(len(document.encode()) for document in val)
    example, rows = next(filter(None, val))[:EXAMPLE_CHARACTERS], []
    for size in sizes:
        tokenizer = _first(largest, min(size, largest.vocab_size) - FIRST_MERGE)
        tokens = sum(len(tokenizer.encode(document)) for document in val)
        pieces = [piece(tokenizer, id)["shown"] for id in tokenizer.encode(example)]
        rows.append({"asked": size, "vocab_size": tokenizer.vocab_size, "tokens": tokens,
                     "bytes_per_token": held_out / tokens, "pieces_example": pieces})  # fmt: skip
    return Result(truncated=rule, rows=rows, example=example, bytes=held_out)


def _in_two(text: str) -> tuple[list[str], list[str]]:
    """The text but its last tenth, and that tenth, cut before a line or a word."""
    place = len(text) * 9 // 10
    place = max(text.rfind(end, 0, place) for end in ("\n", " ")) + 1 or place
    if not 0 < place < len(text):
        raise UserError("the text is too short to hold a part of it out; give at least a few sentences.", BAD_INPUT)
    return [text[:place]], [text[place:]]


def utf8(text: str) -> bytes:
    """Its bytes. UserError for a lone surrogate, which is half a character and has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"this is not text: character {error.start} is half of a character.", BAD_INPUT) from None


def _checked(text: str) -> str:
    """A text that was handed in. UserError if it is empty or longer than MOST_TEXT bytes."""
    if not text.strip():
        raise UserError("the text is empty; give at least a few sentences.", BAD_INPUT)
    n_bytes = len(utf8(text))
    if n_bytes > MOST_TEXT:
        raise UserError(f"the text has {n_bytes:,} bytes, and at most {MOST_TEXT:,} are taken here; give a part of it.")
    return text


@public
def corpus_stats(
    run: Any, text: str | None = None, split_seed: int | None = None, val_fraction: float | None = None
) -> Result:
    """What is in a text, and what its split would leak.

    run: a `runs.Run`, or a RUN by name: its own text and split, or `text` (or its own) split as it would be, by
    `split_seed` and `val_fraction`, which are otherwise those of the run.
    documents, bytes, characters; words (letters in a row) and distinct_words (without regard to case); top_words
    (word, count); kinds (kind of character, bytes, share), most bytes first; longest_document [bytes]; samples: the
    beginnings of the first, the middle and the last document. duplicates: different documents that stand twice or
    more, with duplicate_examples (text, times). leaks: validation documents of which another copy stands in the rest
    of the text. Training removes copies before it splits (duplicates_removed, known for the run's own text), so leaks
    tell what would become of this text without that. train_*, val_*: after it. split: "by document", "tail", "given"
    or "none", with split_reason.
    """
    opened, rule = open_run(run), None
    if (text, split_seed, val_fraction) == (None, None, None):
        (train, rule), (val, _) = documents(opened, "train"), documents(opened, "val")
        everything: Sequence[str] = [*train, *val]
        how, why = opened.corpus.get("split"), opened.corpus.get("split_reason")
    else:
        data = opened.config.data
        if text is None:
            (train, rule), (val, _) = documents(opened, "train"), documents(opened, "val")
            everything = Documents([*train, *val])
        else:
            everything = Documents()
            Reader("lf", "utf-8", io.BytesIO(utf8(_checked(text)))).read("-", everything)
        fraction = data.val_fraction if val_fraction is None else val_fraction
        split = corpora.split_documents(
            corpora.unique(everything),
            fraction,
            data.val_max_bytes,
            data.split_seed if split_seed is None else split_seed,
        )
        train, val, everything = list(split.train), list(split.val), list(everything)
        how, why = split.rule, split.reason
    return Result(
        truncated=rule, **_described(everything), **_copies(everything, val),
        duplicates_removed=opened.corpus.get("duplicates_removed") if text is None else None,
        train_documents=len(train), train_bytes=_bytes(train), val_documents=len(val), val_bytes=_bytes(val),
        split=how, split_reason=why,
    )  # fmt: skip


@public
def corpus_text(run: Any, most: int = 20_000) -> Result:
    """The beginning of a run's training text, to read and to edit: whole documents, at most `most` bytes of UTF-8.

    text: documents with two empty lines between them, which is how a text file is cut into documents again; a document
    that has two empty lines in itself becomes several. documents, bytes: of this text; of_documents, of_bytes: of the
    whole training text. UserError for `most` outside 1 to MOST_TEXT, or one that no document fits into.
    """
    if not 1 <= most <= MOST_TEXT:
        raise UserError(f"most={most} must be between 1 and {MOST_TEXT:,} bytes.")
    everything, rule = documents(open_run(run), "train")
    taken: list[str] = []
    n_bytes = 0
    for document in (document.strip("\n") for document in everything):
        added = len(document.encode()) + (len(BETWEEN) if taken else 0)
        if n_bytes + added > most:
            break
        taken.append(document)
        n_bytes += added
    if not taken:
        raise UserError(f"the first document has more than most={most:,} bytes; ask for more.")
    return Result(
        truncated=rule, text=BETWEEN.join(taken), documents=len(taken), bytes=n_bytes, of_documents=len(everything),
        of_bytes=_bytes(everything),
    )  # fmt: skip


def _bytes(documents: Iterable[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def _described(documents: Sequence[str]) -> dict[str, Any]:
    """What documents are made of."""
    words, characters = Counter[str](), Counter[str]()
    for document in documents:
        characters.update(document)
        words.update(word.lower() for word in _WORD.findall(document))
    kinds = Counter[str]()
    for character, count in characters.items():
        kinds[kind(character)] += count * len(character.encode())
    n_bytes, middle = kinds.total(), len(documents) // 2
    shown = [documents[i][:200] for i in sorted({0, middle, len(documents) - 1}) if documents]
    most = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:20]
    return {
        "documents": len(documents), "bytes": n_bytes, "characters": characters.total(), "words": words.total(),
        "distinct_words": len(words), "top_words": [{"word": word, "count": count} for word, count in most],
        "kinds": [
            {"kind": name, "bytes": count, "share": count / n_bytes}
            for name, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        ],
        "distinct_characters": len(characters),
        "longest_document": max((len(document.encode()) for document in documents), default=0), "samples": shown,
    }  # fmt: skip


def _copies(everything: Sequence[str], val: Sequence[str]) -> dict[str, Any]:
    """Copies in the whole text, and of the validation documents in the rest of it."""
    times = Counter(everything)
    rest = times.copy()
    rest.subtract(val)  # the place of each validation document itself
    twice = [(document, count) for document, count in times.items() if count > 1]
    return {
        "leaks": sum(rest[document] > 0 for document in val),
        "duplicates": len(twice),
        "duplicate_examples": [{"text": document[:200], "times": count} for document, count in twice[:5]],
    }


def open_run(run: Any) -> Run:
    """The run of a name or a path; a `Run` as it is."""
    from tinygpt import runs  # torch

    return run if isinstance(run, runs.Run) else runs.open_run(resolve_whole(run))[0]


@dataclass(frozen=True)
class Data:
    """A run as a key for what is remembered of its text: equal where tokens and tokenizer are."""

    tokenizer: str
    digest: str
    run: Run = field(compare=False, repr=False)

    @classmethod
    def of(cls, run: Run) -> Data:
        return cls(run.tokenizer.sha256, run.digests["data"], run)


def documents(run: Run, part: str) -> tuple[list[str], str | None]:
    """The training or validation documents of the first MOST_TOKENS tokens, and the rule if that is not all."""
    from tinygpt import runs  # torch

    ids = {"train": run.train_ids, "val": run.val_ids}[part]
    if len(ids) <= MOST_TOKENS:
        return runs.documents(run, part), None
    ends = (ids[:MOST_TOKENS] == EOS).nonzero()[0]
    some = ids[: int(ends[-1]) + 1 if len(ends) else 0]
    cut = replace(run, train_ids=some) if part == "train" else replace(run, val_ids=some)
    return runs.documents(cut, part), f"Of the text, the documents within the first {MOST_TOKENS:,} tokens."


@lru_cache(maxsize=4096)
def kind(character: str) -> str:
    """ "spaces", "digits", "punctuation", "symbols", "marks", "other", or "letters: Latin" with the script.

    Python has no script property; the first word of a letter's Unicode name is the script ("CYRILLIC SMALL LETTER A").
    """
    category = unicodedata.category(character)
    if character.isspace():
        return "spaces"
    if category.startswith("L"):
        script = unicodedata.name(character, "UNNAMED").split()[0]
        return "letters: " + (script if script == "CJK" else script.capitalize())
    return {"N": "digits", "P": "punctuation", "S": "symbols", "M": "marks"}.get(category[0], "other")


@lru_cache(maxsize=1 << 16)
def visible(data: bytes) -> str:
    r"""Bytes as text in which everything can be seen and nothing acts on the terminal.

    >>> visible(b" a\n\x1b[0m\xe2")
    '·a¶\\x1b[0m\\xe2'

    A byte that is no whole character is \xNN; control, format and unassigned characters, other white space, a mark
    at the start and the two signs themselves are \xNN, \uNNNN or \UNNNNNNNN.
    """
    shown = []
    for character in data.decode(errors="surrogateescape"):
        code = ord(character)
        if character in _SHORT:
            shown.append(_SHORT[character])
        elif 0xDC80 <= code <= 0xDCFF:  # surrogateescape's stand-in for the byte code - 0xDC00
            shown.append(f"\\x{code - 0xDC00:02x}")
        elif _acts(character) or (not shown and unicodedata.category(character).startswith("M")):
            shown.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        else:
            shown.append(character)
    return "".join(shown)


def render(data: Result) -> str:
    """The result of `tokenize` as a table in plain text: position, bytes, id, piece, and how merges built it."""
    if not data["pieces"]:
        return "No text, no tokens.\n"
    header = ("#", "bytes", "id", "piece")
    rows = [
        (str(i), f"{piece['start']}-{piece['end']}", str(piece["id"]), piece["shown"])
        for i, piece in enumerate(data["pieces"])
    ]
    widths = [max(map(_columns, column)) for column in zip(header, *rows, strict=True)]
    widths[-1] = min(widths[-1], PIECE_WIDTH)
    lines = [_row(header, widths) + "  built by (rank: left + right)"]
    indent = sum(widths) + 2 * len(widths)
    for row, piece in zip(rows, data["pieces"], strict=True):
        steps = [f"{merge['rank']}: {merge['left']} + {merge['right']}" for merge in piece["merges"]]
        if piece["part_of"]:
            steps.append(f"part of {piece['part_of']}")
        built = _wrapped(steps or ["a single byte"], WIDTH - indent)
        lines.append(f"{_row(row, widths)}  {built[0]}")
        lines.extend(" " * indent + line for line in built[1:])
    if data.truncated:
        lines.append(data.truncated)
    return "\n".join([*_render_summary(data["summary"]), "", *lines, "", LEGEND]) + "\n"


def _plain(piece: Piece, touched: str) -> dict[str, Any]:
    merges = [{"left": visible(left), "right": visible(right), "rank": rank} for left, right, rank in piece.merges]
    return {
        "id": piece.id,
        "text": piece.data.decode(errors="replace"),
        "shown": visible(piece.data),
        "part_of": "" if touched.encode() == piece.data else visible(touched.encode()),
        "bytes": piece.data.hex(),
        "start": piece.start,
        "end": piece.end,
        "merges": merges,
    }


def _summary(pieces: list[Piece], text: str) -> dict[str, Any]:
    """How well the vocabulary fits `text`.

    tokens, bytes, characters (code points); bytes_per_token and single_byte_share (tokens that no merge built), None
    for an empty text; kinds: bytes, tokens and bytes_per_token by kind of character (see `kind`), most bytes first. A
    token over several kinds is shared out between them by its bytes, so bytes and tokens add up to the totals.
    """
    kind_of_byte: list[str] = []
    for character in text:
        kind_of_byte.extend([kind(character)] * len(character.encode()))
    n_bytes = Counter(kind_of_byte)
    n_tokens = dict.fromkeys(n_bytes, 0.0)
    for piece in pieces:
        for position in range(piece.start, piece.end):
            n_tokens[kind_of_byte[position]] += 1 / len(piece.data)
    singles = sum(len(piece.data) == 1 for piece in pieces)
    return {
        "tokens": len(pieces),
        "bytes": len(kind_of_byte),
        "characters": len(text),
        "bytes_per_token": len(kind_of_byte) / len(pieces) if pieces else None,
        "single_byte_share": singles / len(pieces) if pieces else None,
        "kinds": [
            {"kind": name, "bytes": count, "tokens": n_tokens[name], "bytes_per_token": count / n_tokens[name]}
            for name, count in sorted(n_bytes.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


def _render_summary(data: dict[str, Any]) -> list[str]:
    totals = f"{_count(data['tokens'], 'token')} for {_count(data['bytes'], 'byte')}"
    rates = f"{data['bytes_per_token']:.2f} bytes per token, {data['single_byte_share']:.0%} single bytes"
    lines = [f"{totals}: {rates}"]
    if len(data["kinds"]) > 1:
        width = max(len(entry["kind"]) for entry in data["kinds"])
        for entry in data["kinds"]:
            rate = f"{entry['bytes_per_token']:5.2f} bytes per token"
            lines.append(f"  {entry['kind']:<{width}}  {rate}, {_count(entry['bytes'], 'byte')}")
    return lines


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _acts(character: str) -> bool:
    """Whether it could move the cursor, turn the direction of the text, or pass for one of our signs."""
    return unicodedata.category(character)[0] in "CZ" or character in (SPACE, NEWLINE)


def _columns(text: str) -> int:
    """Terminal columns: two for wide East Asian characters and emoji, none for marks."""
    return sum(
        0 if unicodedata.category(character) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _row(cells: Iterable[str], widths: list[int]) -> str:
    """Numbers to the right, the piece (the last cell) to the left."""
    *numbers, piece = ((" " * (width - _columns(cell)), cell) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([*(pad + cell for pad, cell in numbers), piece[1] + piece[0]])


def _wrapped(steps: list[str], width: int) -> list[str]:
    lines = [steps[0]]
    for step in steps[1:]:
        if _columns(lines[-1]) + 3 + _columns(step) <= width:
            lines[-1] += "   " + step
        else:
            lines.append(step)
    return lines
