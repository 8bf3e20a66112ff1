"""The tokenizer of a Hugging Face folder, with its pieces renumbered into this project's order. No torch.

What is taken is byte-level BPE of GPT-2's kind: its split pattern, no normalizer, all 256 bytes, and merges that make
exactly its vocabulary, special tokens aside. Such a tokenizer is fixed by its merges, so it cuts every text into the
same pieces here; only their numbers differ, and with them the rows of embedding and head:

    row for id 0, 1, 2      what config.json names as bos, eos and pad; where one is missing, another of them
    row for id 3 ... 258    the bytes, in the order of BYTE_ORDER
    row for id 259 + r      what the merge of rank r makes

Everything else (other split patterns, normalizers, WordPiece, sentencepiece) would cut texts differently: refused.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.errors import BAD_INPUT, MISMATCH, UserError
from tinygpt.storage import parse_json, read_regular
from tinygpt.tokenizer import BYTE_ORDER, SPLIT_PATTERN, Tokenizer, from_symbols, to_symbols

FILE = "tokenizer.json"
MOST_BYTES = 50_000_000  # of such a file; GPT-2's has 1.4 million
MARKS = ("bos", "eos", "pad")
OTHER_FILES = {
    "tokenizer.model": "sentencepiece", "spiece.model": "sentencepiece", "sentencepiece.bpe.model": "sentencepiece",
    "vocab.txt": "WordPiece", "vocab.json": "only the older vocab.json: save it with transformers' fast tokenizer",
}  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """A tokenizer, the row of their embedding that each of its ids gets, and what has changed, "" for nothing."""

    tokenizer: Tokenizer
    rows: list[int]
    notice: str


class Different(ValueError):
    """What makes a tokenizer another kind than GPT-2's, in words."""


def read(folder: Path, config: Mapping[str, Any], n_rows: int) -> Pieces:
    """The tokenizer of a folder with this config.json and so many rows in its embedding.

    Raises UserError: exit 66 naming what is not GPT-2's kind, or a row that is not there; exit 65 for a damaged file.
    """
    path = folder / FILE
    if not path.exists():
        found = next((what for name, what in OTHER_FILES.items() if (folder / name).exists()), "no tokenizer")
        raise UserError(f"{folder} has no {FILE} ({found}); only byte-level BPE from that file can be used.", MISMATCH)
    try:
        document = parse_json(read_regular(path.resolve(), MOST_BYTES))
        pieces = own_or_renumbered(path, document, read_config(folder), config, n_rows)
    except Different as error:
        raise UserError(f"{path} is no byte-level BPE of GPT-2's kind: {error}.", MISMATCH) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", BAD_INPUT) from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}.", BAD_INPUT) from None
    if max(pieces.rows) >= n_rows:
        raise UserError(f"{path} has a piece of id {max(pieces.rows)}, but the model has {n_rows} rows.", MISMATCH)
    return pieces


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, {} if there is none."""
    path = folder / "tokenizer_config.json"
    found = parse_json(read_regular(path.resolve(), MOST_BYTES)) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def own_or_renumbered(
    path: Path, document: Any, beside: Mapping[str, Any], config: Mapping[str, Any], n_rows: int
) -> Pieces:
    """A tokenizer of ours as it is, another one renumbered."""
    try:
        own = Tokenizer.load(path.resolve())
    except UserError as error:
        if error.exit_code != MISMATCH:
            raise UserError(str(error).replace(str(path.resolve()), str(path)), error.exit_code) from None
    else:
        extra = n_rows - own.vocab_size
        left_out = f"{extra:,} rows of the embedding that no piece uses are left out." if extra > 0 else ""
        return Pieces(own, list(range(own.vocab_size)), left_out)
    special = special_tokens(document, beside)
    merges = list(merges_of(document["model"]))
    try:
        tokenizer = Tokenizer((from_symbols(left), from_symbols(right)) for left, right in merges)
    except KeyError as error:
        raise Different(f"a merge has {reprlib.repr(error.args[0])} in it, which stands for no byte") from None
    except ValueError as error:
        raise Different(str(error)) from None
    vocabulary = vocabulary_of(document["model"])
    names = [to_symbols(bytes([byte])) for byte in BYTE_ORDER] + ["".join(merge) for merge in merges]
    if lost := [name for name in names if name not in vocabulary]:
        raise Different(f"its vocabulary lacks {len(lost)} bytes or results of merges, such as {reprlib.repr(lost[0])}")
    foreign = vocabulary.keys() - set(names) - special.keys()
    if foreign:
        raise Different(f"no merge makes {len(foreign)} of its pieces, such as {reprlib.repr(min(foreign))}")
    marks = marks_of(path.with_name("config.json"), config, n_rows, named_tokens(beside, {**vocabulary, **special}))
    rows = [*marks.values(), *(vocabulary[name] for name in names)]
    called = {id: name for name, id in {**vocabulary, **special}.items()}
    said = ", ".join(f"<{mark}> is its {called.get(row, f'row {row}')}" for mark, row in marks.items())
    unused = n_rows - len(set(rows))
    left_out = f"rows of the embedding that no piece uses are left out: {unused:,}"
    return Pieces(
        tokenizer, rows,
        f"Its {tokenizer.vocab_size - len(marks):,} pieces are the same and get other numbers here; {said}; "
        f"{left_out}.",
    )  # fmt: skip


def special_tokens(document: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, int]:
    """The special tokens by name; Different for whatever would cut a text in another way than GPT-2's tokenizer."""
    model, splitter = document["model"], document.get("pre_tokenizer") or {}
    if model["type"] != "BPE":
        raise Different(f"it is {model['type']}")
    if document.get("normalizer"):
        raise Different(f"its normalizer is {kind_of(document['normalizer'])}, and here texts stay as they are")
    if kind_of(splitter) != "ByteLevel":
        raise Different(f"it splits by {kind_of(splitter)}, not by GPT-2's pattern {SPLIT_PATTERN[:20]}... alone")
    if splitter.get("add_prefix_space", True) or beside.get("add_prefix_space"):
        raise Different("add_prefix_space puts a space before each text")
    if not splitter.get("use_regex", True):
        raise Different("use_regex is false: it does not split texts at all")
    for name in ("dropout", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise Different(f"{name} is {reprlib.repr(model[name])}")
    if document.get("decoder") and kind_of(document["decoder"]) != "ByteLevel":
        raise Different(f"its decoder is {kind_of(document['decoder'])}")
    added = document.get("added_tokens") or []
    if cut := [token["content"] for token in added if not token["special"]]:
        raise Different(f"{reprlib.repr(cut[0])} is cut out of texts before they are split, and is no special token")
    return {str(token["content"]): whole(token["id"]) for token in added}


def kind_of(part: Any) -> str:
    """The type of a part of the pipeline, with its pattern and its own parts: Sequence(Split 'x', ByteLevel)."""
    if not part:
        return "nothing"
    inside = [kind_of(p) for p in part.get("pretokenizers") or part.get("normalizers") or part.get("decoders") or ()]
    pattern = part.get("pattern")
    said = f" {reprlib.repr(next(iter(pattern.values())))}" if isinstance(pattern, dict) and pattern else ""
    return f"{part.get('type')}{said}" + (f"({', '.join(inside)})" if inside else "")


def merges_of(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges in their order; both spellings, "a b" and ["a", "b"]."""
    for pair in model["merges"]:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        yield left, right


def vocabulary_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id; ValueError if two have one id."""
    vocabulary = {str(name): whole(id) for name, id in model["vocab"].items()}
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("two pieces have one id")
    return vocabulary


def whole(id: Any) -> int:
    """An id, or ValueError."""
    if isinstance(id, bool) or not isinstance(id, int) or id < 0:
        raise ValueError(f"{reprlib.repr(id)} is no id")
    return id


def named_tokens(beside: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int | None]:
    """Ids of bos, eos and pad, as tokenizer_config.json names them; None for what the tokenizer does not have."""
    named = {}
    for mark in MARKS:
        token = beside.get(f"{mark}_token")
        name = token.get("content") if isinstance(token, dict) else token
        named[mark] = ids.get(name) if isinstance(name, str) else None
    return named


def marks_of(
    path: Path, config: Mapping[str, Any], n_rows: int, by_tokenizer: Mapping[str, int | None]
) -> dict[str, int]:
    """Rows of bos, eos and pad, as config.json names them; bos and eos stand in for each other, eos for pad.

    Where it names neither bos nor eos that the model has, it is as the tokenizer says: transformers writes GPT-2's
    50256 for models of every size. UserError (exit 66) if that says nothing either; `path` is config.json's.
    """
    named: dict[str, int | None] = {}
    for mark in MARKS:
        id = config.get(f"{mark}_token_id")
        id = id[0] if isinstance(id, list) and id else id  # several ends of a text: the first
        named[mark] = id if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < n_rows else None
    if named["bos"] is None and named["eos"] is None:
        named = {mark: id if named[mark] is None else named[mark] for mark, id in by_tokenizer.items()}
    bos, eos = (named[a] if named[a] is not None else named[b] for a, b in (("bos", "eos"), ("eos", "bos")))
    if bos is None or eos is None:
        given = " and ".join(f"{mark}_token_id {config.get(f'{mark}_token_id')}" for mark in ("bos", "eos"))
        raise UserError(
            f"{path} names no mark between texts that the model has: {given}, of {n_rows:,} rows; write the ids of "
            "the tokens that begin and end a text there.",
            MISMATCH,
        )
    return {"bos": bos, "eos": eos, "pad": named["pad"] if named["pad"] is not None else eos}
