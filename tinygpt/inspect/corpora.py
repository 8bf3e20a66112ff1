"""What a text is made of: its documents, words and copies, how it is split, and what a vocabulary makes of it."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinygpt import corpus, runs
from tinygpt.corpus.documents import Documents
from tinygpt.corpus.files import Reader
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.folders import resolve_whole
from tinygpt.inspect.result import Result, public
from tinygpt.inspect.tokens import first_merges, kind, piece
from tinygpt.runs import Run
from tinygpt.tokenizer import EOS, FIRST_MERGE, train_tokenizer

MOST_TEXT = 1_000_000  # bytes of a text that is handed in, and of a sample of the training text
MOST_TOKENS = 1 << 23  # of a run's text that are looked at
MOST_SIZES, LARGEST_VOCABULARY = 12, 1 << 16
EXAMPLE_CHARACTERS = 80
BETWEEN = "\n\n\n"  # two empty lines: see corpus.files
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


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
        tokenizer = first_merges(largest, min(size, largest.vocab_size) - FIRST_MERGE)
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
        split = corpus.split_documents(
            corpus.unique(everything),
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
    return run if isinstance(run, Run) else runs.open_run(resolve_whole(run))[0]


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
    ids = {"train": run.train_ids, "val": run.val_ids}[part]
    if len(ids) <= MOST_TOKENS:
        return runs.documents(run, part), None
    ends = (ids[:MOST_TOKENS] == EOS).nonzero()[0]
    some = ids[: int(ends[-1]) + 1 if len(ends) else 0]
    cut = replace(run, train_ids=some) if part == "train" else replace(run, val_ids=some)
    return runs.documents(cut, part), f"Of the text, the documents within the first {MOST_TOKENS:,} tokens."
