"""How a text becomes tokens: every piece, where it stands, and the merges that built it. No torch.

`tokenize` gives plain data; `render` writes that data for a terminal.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

from tinygpt.errors import UserError
from tinygpt.folders import resolve
from tinygpt.inspect.result import Result, public
from tinygpt.tokenizer import FIRST_MERGE, SPECIALS, Piece, Tokenizer

SPACE, NEWLINE = "·", "¶"  # both in Latin-1, so that a cp1252 console shows them
_SHORT = {"\n": NEWLINE, " ": SPACE, "\t": r"\t", "\r": r"\r", "\\": r"\\"}
LEGEND = rf"{SPACE} space   {NEWLINE} new line   \t tab   \xNN a byte of a longer character, or a control character"
WIDTH = 110  # columns after which the merges of a piece go on in the next line
PIECE_WIDTH = 40  # a longer piece pushes its own line to the right, not the table

MOST_PIECES = 4_000  # of one reply
DEEPEST = 100  # levels of a tree in one reply: JSON readers have a limit


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
    early = first_merges(tokenizer, upto)
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
def first_merges(tokenizer: Tokenizer, n: int) -> Tokenizer:
    """The tokenizer of the first n merges alone."""
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


@lru_cache(maxsize=4096)
def kind(character: str) -> str:
    """ "spaces", "digits", "punctuation", "symbols", "marks", "other", or "letters: Latin" with the script.

    Python has no script property; the first word of a letter's Unicode name is the script ("CYRILLIC SMALL LETTER A").
    """
    category = unicodedata.category(character)
    if character.isspace():
        return "spaces"
    if category.startswith("L"):
        script = "Latin" if character in "ªº" else unicodedata.name(character, "UNNAMED").split()[0]  # FEMININE ORDINAL
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
