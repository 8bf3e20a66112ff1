"""Text to token ids and back, without losing a byte: byte-level BPE by the `tokenizers` library.

A text is cut into pieces by GPT-2's split pattern (a word with the space before it, digits, punctuation, white space).
Each piece starts as its UTF-8 bytes, and the learned merges join neighbours, the earliest learned merge first. All 256
bytes are tokens, so nothing is unknown and `decode(encode(text)) == text` for every text.

    id 0, 1, 2    <bos>, <eos>, <pad>: marks around documents, never the result of encoding a text
    id 3 ... 258  the 256 bytes, in the order of BYTE_ORDER
    id 259 + r    the token made by the merge of rank r

So the merges are the whole tokenizer; everything else here follows from them.
Sources: Sennrich et al. 2016, arXiv:1508.07909 (BPE); Radford et al. 2019 (GPT-2: bytes and the split pattern).
"""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from tinygpt.errors import BAD_INPUT, IO_ERROR, MISMATCH, PICKLE_SUFFIXES, UNSAFE, UserError
from tinygpt.storage import canonical, read_regular, sha256, write_atomic

BOS, EOS, PAD = 0, 1, 2
SPECIALS = ("<bos>", "<eos>", "<pad>")
_SPECIAL_SPELLINGS = tuple(name.encode() for name in SPECIALS)  # a merged token of this name would hide the special one
SPLIT_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel(use_regex)

# JSON holds text, not bytes, so GPT-2 writes each byte as one visible character: itself where Latin-1 has a visible
# one, and U+0100, U+0101, ... for the other 68 (a space is "Ġ"). The library orders the symbols by code point.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_ORDER = _VISIBLE + tuple(byte for byte in range(256) if byte not in _VISIBLE)
_SYMBOL = {byte: chr(byte if i < len(_VISIBLE) else 0x100 + i - len(_VISIBLE)) for i, byte in enumerate(BYTE_ORDER)}
_BYTE = {symbol: byte for byte, symbol in _SYMBOL.items()}

FIRST_MERGE = len(SPECIALS) + len(BYTE_ORDER)  # 259, the id of the first merged token and the smallest vocabulary
MAX_VOCAB_SIZE = 1 << 20  # the trainer reserves memory for what is asked
MIN_FREQUENCY = 2  # a pair seen once is not learned

SECTION_CHARS = 1 << 16  # long documents are encoded in sections of about this length
SLICE_CHARS = 1 << 18  # sections handed to the library at once; about 100 bytes of its memory per token
LONG_RUN = 256  # training cuts longer runs: the library's trainer is quadratic in the length of one word

_SECTION_END = re.compile(r"(?<=\w)(?=[ \n])")  # no piece of the split pattern reaches across such a place
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{LONG_RUN + 1},}}|(?<!\s)\s{{{LONG_RUN + 1},}}")

# What a tokenizer.json must say besides vocabulary and merges; a key that is not here is free.
_PLAIN = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
_OFF = dict.fromkeys(("continuing_subword_prefix", "dropout", "end_of_word_suffix", "unk_token"))
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_KIND: dict[str, Any] = {
    "added_tokens": [{"id": id, "content": name, "special": True, **_PLAIN} for id, name in enumerate(SPECIALS)],
    "normalizer": None,
    "pre_tokenizer": _BYTE_LEVEL,
    "post_processor": None,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "byte_fallback": False, "fuse_unk": False, "ignore_merges": False, **_OFF},
}


class Merge(NamedTuple):
    """One step of BPE: `left` and `right` become one token, of id FIRST_MERGE + rank."""

    left: bytes
    right: bytes
    rank: int


class Piece(NamedTuple):
    """One token of a text: text.encode()[start:end] == data; `merges` built it from single bytes, in this order."""

    id: int
    data: bytes
    start: int
    end: int
    merges: tuple[Merge, ...]


class Tokenizer:
    """A trained tokenizer, fixed by its merges. Made by `train_tokenizer` or `Tokenizer.load`."""

    def __init__(self, merges: Iterable[tuple[bytes, bytes]]) -> None:
        """ValueError if a merge uses a token that no earlier one made, or makes one that is there already."""
        self._ranks: dict[tuple[bytes, bytes], int] = {}
        self._bytes = [b""] * len(SPECIALS) + [bytes([byte]) for byte in BYTE_ORDER]
        known = set(self._bytes[len(SPECIALS) :])
        for rank, (left, right) in enumerate(merges):
            token = left + right
            if left not in known or right not in known or token in known or token in _SPECIAL_SPELLINGS:
                raise ValueError(f"merge {rank} does not follow from the merges before it")
            self._ranks[left, right] = rank
            self._bytes.append(token)
            known.add(token)
        self.vocab_size = len(self._bytes)
        self._histories: dict[int, tuple[Merge, ...]] = {}
        # The library is told of no special token, so that typed "<bos>" cannot become one.
        pairs = [(to_symbols(left), to_symbols(right)) for left, right in self._ranks]
        self._engine = _engine(tokenizers.models.BPE(vocab=self._vocabulary(), merges=pairs))

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs, in the order of their ranks; the first n of them are a tokenizer too."""
        return list(self._ranks)

    @cached_property
    def sha256(self) -> str:
        """Digest over vocabulary bytes, merges, split pattern and special tokens: what decides which ids a text gets.

        It does not depend on how a file is laid out. Equal digests mean that model, data and tokenizer belong together.
        """
        identity = {
            "merges": [[left.hex(), right.hex()] for left, right in self._ranks],
            "special_tokens": list(SPECIALS),
            "split_pattern": SPLIT_PATTERN,
            "vocabulary": [data.hex() for data in self._bytes],
        }
        return sha256(canonical(identity))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without <bos> or <eos>; typed special tokens are ordinary text.

        UserError (a ValueError) for a lone surrogate, which is half a character and has no UTF-8 form.
        """
        _require_text(text)
        encodings = self._engine.encode_batch_fast(list(_sections(text)), add_special_tokens=False)
        return [id for encoding in encodings for id in encoding.ids]

    def encode_documents(self, documents: Iterable[str]) -> npt.NDArray[np.int32]:
        """<bos> text <eos> of every document in one flat array; memory beyond the array stays bounded."""
        return np.concatenate([np.empty(0, dtype=np.int32), *self.encode_in_parts(documents)])

    def encode_in_parts(self, documents: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """What `encode_documents` gives, in arrays of about SLICE_CHARS characters each."""
        _refuse_one_string(documents)
        begun = False
        for batch in _slices(documents):
            ids = array("i")
            encodings = self._engine.encode_batch_fast([section for _, section in batch], add_special_tokens=False)
            for (first, _), encoding in zip(batch, encodings, strict=True):
                if first:
                    ids.extend((EOS, BOS) if begun else (BOS,))
                    begun = True
                ids.extend(encoding.ids)
            yield np.array(ids, dtype=np.int32)
        if begun:
            yield np.array([EOS], dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids: special tokens give "", bytes that are not UTF-8 give U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of any ids; UserError for an id outside the vocabulary."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, b"" for the special ones."""
        if not 0 <= id < self.vocab_size:
            raise UserError(f"token id {id} is outside this vocabulary, which has 0 to {self.vocab_size - 1}")
        return self._bytes[id]

    def n_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes per id (vocab_size,), 0 for special tokens: the denominator of bits per byte."""
        return np.array([len(data) for data in self._bytes], dtype=np.int64)

    def explain(self, text: str) -> list[Piece]:
        """Show the work: every token of `text`, where it stands, and the merges that built it.

        A token's merges depend on its own bytes only: BPE always does the merge of lowest rank, then the leftmost, and
        what happened inside a finished token never reached over its edge. So each token is built again by itself.
        """
        pieces, start = [], 0
        for id in self.encode(text):
            data = self._bytes[id]
            pieces.append(Piece(id, data, start, start + len(data), self._history(id)))
            start += len(data)
        return pieces

    def save(self, path: Path) -> None:
        """Write tokenizer.json as Hugging Face `tokenizers` reads it; equal tokenizers give equal bytes. Atomic."""
        pairs = [[to_symbols(left), to_symbols(right)] for left, right in self._ranks]
        model = {**_KIND["model"], "vocab": self._vocabulary(), "merges": pairs}
        rest = {"version": "1.0", "truncation": None, "padding": None, "decoder": _BYTE_LEVEL, "model": model}
        write_atomic(path, canonical({**_KIND, **rest}))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """The tokenizer in a tokenizer.json written by `save`, also after the library has written it again.

        UserError with exit code 66 for a tokenizer of another kind, 65 for a damaged file, 77 for a pickle, 74 for
        a file that cannot be read.
        """
        document = _read(path)
        if difference := _difference(_KIND, document):
            raise _other_kind(path, difference)
        model = document["model"]
        try:
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            tokenizer = cls((from_symbols(left), from_symbols(right)) for left, right in pairs)
            ours, theirs = tokenizer._vocabulary(), dict(model["vocab"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: vocabulary or merges are wrong ({error}).", BAD_INPUT) from None
        if any(theirs.get(name) != id for name, id in ours.items() if id < FIRST_MERGE):
            raise _other_kind(path, f"ids 0 to {FIRST_MERGE - 1} are not the special tokens and the 256 bytes in order")
        if ours != theirs:
            raise UserError(f"{path} is damaged: its vocabulary is not the one that its merges make", BAD_INPUT)
        return tokenizer

    def _vocabulary(self) -> dict[str, int]:
        names = [*SPECIALS, *map(to_symbols, self._bytes[len(SPECIALS) :])]
        return {name: id for id, name in enumerate(names)}

    def _history(self, id: int) -> tuple[Merge, ...]:
        if id not in self._histories:
            parts = [bytes([byte]) for byte in self._bytes[id]]
            steps = []
            while len(parts) > 1:
                rank, i = min((self._ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in self._ranks)
                steps.append(Merge(parts[i], parts[i + 1], rank))
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            self._histories[id] = tuple(steps)
        return self._histories[id]


class StreamDecoder:
    """Text from ids one at a time, never half a character: a tail that is not complete is held back.

    The chunks of all `feed`s and the final `finish` joined equal `tokenizer.decode` of all ids, for every id sequence.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id: int) -> str:
        """The characters that this id completes, often "" in the middle of one."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def finish(self) -> str:
        """What was held back, as U+FFFD; the decoder is then as new."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(documents: Iterable[str], vocab_size: int = 2048) -> Tokenizer:
    """Learn the merges from texts: again and again, the most frequent neighbouring pair becomes one token.

    vocab_size is an upper limit: a small text runs out of pairs seen at least twice. Ties go to the pair with the
    smaller ids, so the result does not depend on threads or hash seeds. UserError outside 259 ... 1,048,576.
    """
    _refuse_one_string(documents)
    if not FIRST_MERGE <= vocab_size <= MAX_VOCAB_SIZE:
        limits = f"{FIRST_MERGE} (3 special tokens and 256 bytes) to {MAX_VOCAB_SIZE}"
        raise UserError(f"vocab_size {vocab_size} is not possible: choose {limits}")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        show_progress=False,
        special_tokens=list(SPECIALS),
        initial_alphabet=list(_BYTE),
    )
    engine = _engine(tokenizers.models.BPE())
    engine.train_from_iterator(_training_texts(documents), trainer)
    merges = json.loads(engine.to_str())["model"]["merges"]
    return Tokenizer((from_symbols(left), from_symbols(right)) for left, right in merges)


def _engine(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return engine


def to_symbols(data: bytes) -> str:
    return "".join(_SYMBOL[byte] for byte in data)


def from_symbols(symbols: str) -> bytes:
    return bytes(_BYTE[symbol] for symbol in symbols)


def _require_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}, half of a character"
        raise UserError(f"this is not text: character {error.start} is {half}", BAD_INPUT) from None


def _refuse_one_string(documents: Iterable[str]) -> None:
    if isinstance(documents, str):
        raise TypeError("documents is one string, which would count every character as a document: pass [text]")


def _sections(text: str) -> Iterator[str]:
    """`text` in sections whose ids, joined, are the ids of the text."""
    start = 0
    while len(text) - start > SECTION_CHARS and (end := _SECTION_END.search(text, start + SECTION_CHARS)):
        yield text[start : end.start()]
        start = end.start()
    yield text[start:]


def _slices(documents: Iterable[str]) -> Iterator[list[tuple[bool, str]]]:
    """Sections of all documents, each with "starts a document", in lists of about SLICE_CHARS."""
    batch: list[tuple[bool, str]] = []
    size = 0
    for document in documents:
        _require_text(document)
        for i, section in enumerate(_sections(document)):
            batch.append((i == 0, section))
            size += len(section) + 1  # the 1 bounds a list of empty documents
            if size >= SLICE_CHARS:
                yield batch
                batch, size = [], 0
    yield batch


def _training_texts(documents: Iterable[str]) -> Iterator[str]:
    for batch in _slices(documents):
        for _, section in batch:
            start = 0
            for run in _LONG_RUN.finditer(section):
                yield section[start : run.start()]
                yield from (run[0][i : i + LONG_RUN] for i in range(0, len(run[0]), LONG_RUN))
                start = run.end()
            yield section[start:]


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", IO_ERROR) from None
    if path.suffix.lower() in PICKLE_SUFFIXES or data.startswith((b"\x80", b"PK\x03\x04")):
        raise UserError(f"{path} is a pickle, which can run code when it is opened: give a tokenizer.json.", UNSAFE)
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise UserError(f"{path} holds no tokenizer: it is not a JSON object with a model.", BAD_INPUT)
    return document


def _difference(wanted: Any, found: Any, name: str = "it") -> str:
    """Where `found` is not `wanted`, in words, or ""; null, false, "" and a missing key all mean "off"."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return next(filter(None, (_difference(value, found.get(key), key) for key, value in wanted.items())), "")
    same = (found or None) == (wanted or None)
    return "" if same else f"{name} is {reprlib.repr(found)}, not {reprlib.repr(wanted)}"


def _other_kind(path: Path, why: str) -> UserError:
    return UserError(f"{path} is a tokenizer of another kind ({why}); tinygpt train makes its own.", MISMATCH)
