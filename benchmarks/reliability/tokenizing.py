"""R23 tokenizer round trip: text comes back as it was, and two other programs cut it as we do.

The other programs read our tokenizer.json: `tiktoken`, given the merges in it, and Hugging Face's `tokenizers`, whose
file it is. Where a string or a list of ids fails, it is in the sentence.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from benchmarks.common import ROOT, version
from benchmarks.reliability.common import HANG_S, Row, Scale, texts
from tinygpt.corpus import tales
from tinygpt.errors import UserError
from tinygpt.tokenizer import BOS, EOS, SPECIALS, StreamDecoder, Tokenizer, train_tokenizer

SCALARS = 0x110000 - 2048  # every code point but the surrogates
VOCAB_SIZE = 2048
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # as tiktoken spells it
NAMED = 3  # failures of one kind that are told; the rest is counted
Encode = Callable[[str], Sequence[int]]


def row(scale: Scale) -> Row:
    """Texts to ids and back, ids to bytes, the same ids as elsewhere, the same merges however they are learnt."""
    found = Row("R23", "tokenizer round trip")
    draw = random.Random(scale.seed)
    languages = [mixture(draw, 300) for _ in range(300)]  # with many pairs that are equally frequent
    source = [*texts(), *languages]
    tokenizer, path = train_tokenizer(source, VOCAB_SIZE), scale.folder / "tokenizer.json"
    tokenizer.save(path)
    elsewhere = others(path, found)
    for kind, strings, compared in batches(scale, draw):
        round_trips(found, tokenizer, kind, strings, elsewhere if compared else {})
    ids_to_bytes(found, tokenizer, path, draw, scale.pick(1_000, 10_000))
    documents(found, tokenizer)
    half_characters(found, tokenizer)
    trainings(found, scale, source, path)
    found.measured["exports, the lessons' BPE"] = "not run: not there yet"
    return found


def tally(found: Row, what: str, wrong: Sequence[str], trials: int) -> None:
    """Count many trials of one kind, and tell the first failures."""
    found.trials += trials
    found.failures += [f"{what}: {sentence}" for sentence in wrong[:NAMED]]
    if len(wrong) > NAMED:
        found.failures.append(f"{what}: {len(wrong) - NAMED:,} more")


# --- text to ids and back --------------------------------------------------------------------------------------------


def round_trips(
    found: Row, tokenizer: Tokenizer, kind: str, strings: Iterable[str], elsewhere: dict[str, Encode]
) -> None:
    """Every string comes back, without a special token, and has the same ids elsewhere."""
    wrong: dict[str, list[str]] = {name: [] for name in ("", *elsewhere)}
    trials = n_bytes = 0
    for text in strings:
        trials += 1
        ids = tokenizer.encode(text)
        n_bytes += len(text.encode())
        if tokenizer.decode(ids) != text or tokenizer.decode_bytes(ids) != text.encode():
            wrong[""].append(f"{text[:80]!r} comes back as {tokenizer.decode(ids)[:80]!r}")
        elif min(ids, default=len(SPECIALS)) < len(SPECIALS):
            wrong[""].append(f"{text[:80]!r} has a special token")
        for name, encode in elsewhere.items():
            if list(encode(text)) != ids:
                wrong[name].append(f"{text[:80]!r} has other ids than in {name}")
    for sentences in wrong.values():
        tally(found, kind, sentences, trials)
    found.measured[kind] = f"{trials:,} ({n_bytes / 1e6:.1f} MB), each beside {', '.join(elsewhere) or 'nothing'}"


def others(path: Path, found: Row) -> dict[str, Encode]:
    """By program, its encoding with the tokenizer in our file; one that is not installed is told."""
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    elsewhere: dict[str, Encode] = {f"tokenizers {tokenizers.__version__}": lambda text: theirs.encode(text).ids}
    try:
        import tiktoken
    except ImportError:
        found.measured["tiktoken"] = "NOT RUN: it is not installed"
        return elsewhere
    encoding = tiktoken.Encoding("ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks(path), special_tokens={})
    return {**elsewhere, f"tiktoken {version('tiktoken')}": encoding.encode_ordinary}


def ranks(path: Path) -> dict[bytes, int]:
    """id by bytes, read from the file in another way than the package reads it: GPT-2's own table of visible bytes."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    vocabulary = json.loads(path.read_bytes())["model"]["vocab"]
    return {bytes(byte_of[c] for c in name): id for name, id in vocabulary.items() if name not in SPECIALS}


# --- what is encoded -------------------------------------------------------------------------------------------------

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz", "THE the a of ,.!?'\"", "éüßñøåçœ", "абвгдеж", "我你他是的了", "0123456789٣४",
    " \t\n\r\v\f\u00a0\u3000\u2028\u200b", "<>|=-+*/\\{}[]()#@", "👩‍👧🎉🏳️‍🌈🇩🇪\u0301\u0308\ufe0f\u200d",
    "'s't're've'm'll'd 'S", "\0\x01\x1b\x7f\x85\x1c\x1f", "ကြောင်မြန်မာ", "한국어", "עברית العربية",
)  # fmt: skip
LOOK_ALIKES = (
    *SPECIALS, "<bos", "bos>", "<|endoftext|>", "<|im_start|>", "</s>", "<BOS>", " <eos> ", "<<pad>>", "[UNK]", "Ġ",
)  # fmt: skip


def batches(scale: Scale, draw: random.Random) -> Iterator[tuple[str, Iterable[str], bool]]:
    """Kinds of strings, and whether other programs get them, too."""
    first = [chr(i) for i in range(256)]
    yield "pairs of the first 256 characters", (a + b for a in first for b in first), True
    n = scale.pick(20_000, SCALARS)
    yield "Unicode scalar values", (chr(i) for i in stratified(n, draw)), True
    yield "Unicode scalar values between letters", (f"a{chr(i)}b {chr(i)}" for i in stratified(n, draw)), scale.full
    yield "random strings", (mixture(draw, draw.randint(0, 60)) for _ in range(scale.pick(2_000, 100_000))), True
    yield "strings of 10 KB", (mixture(draw, 6_000) for _ in range(scale.pick(10, 1_000))), True
    n = scale.pick(1_000, 50_000)
    yield "strings with looks of special tokens", (look_alikes(draw) for _ in range(n)), True
    n = scale.pick(200_000, 5_000_000)
    yield "long texts", [tales.text(n, scale.seed + 1).decode(), "\n\n".join(texts()) * scale.pick(1, 5)], True
    yield "long runs of one character", [letter * scale.pick(10_000, 1_000_000) for letter in ("a", " ", "é")], False


def stratified(count: int, draw: random.Random) -> Iterator[int]:
    """`count` code points, one from each of as many equal parts of Unicode; with SCALARS all of them."""
    for i in range(count):
        point = draw.randrange(i * SCALARS // count, (i + 1) * SCALARS // count)
        yield point if point < 0xD800 else point + 2048


def mixture(draw: random.Random, length: int) -> str:
    """Words of one alphabet or another, and now and then any character of Unicode."""
    parts: list[str] = []
    while length > 0:
        n = min(length, draw.randint(1, 9))
        strange = draw.random() < 0.1
        parts += map(chr, stratified(n, draw)) if strange else draw.choices(draw.choice(ALPHABETS), k=n)
        length -= n
    return "".join(parts)


def look_alikes(draw: random.Random) -> str:
    """Spelt special tokens, ours and those of others, among words."""
    return "".join(draw.choice((mixture(draw, 4), draw.choice(LOOK_ALIKES))) for _ in range(draw.randint(1, 9)))


# --- ids to bytes ----------------------------------------------------------------------------------------------------


def ids_to_bytes(found: Row, tokenizer: Tokenizer, path: Path, draw: random.Random, count: int) -> None:
    """Random ids, mostly no UTF-8: the bytes of each id in our file, in `decode_bytes`, `decode` and a stream."""
    spelt = {id: data for data, id in ranks(path).items()}
    wrong = []
    for _ in range(count):
        ids = draw.choices(range(tokenizer.vocab_size), k=draw.randint(0, 40))
        data = b"".join(spelt.get(id, b"") for id in ids)
        stream = StreamDecoder(tokenizer)
        streamed = "".join([*map(stream.feed, ids), stream.finish()])
        if tokenizer.decode_bytes(ids) != data:
            wrong.append(f"{ids} give {tokenizer.decode_bytes(ids)!r}, not {data!r}")
        elif not tokenizer.decode(ids) == streamed == data.decode(errors="replace"):
            wrong.append(f"{ids} give {tokenizer.decode(ids)!r}, as a stream {streamed!r}")
    tally(found, "random ids", wrong, count)
    found.measured["random id sequences"] = f"{count:,}"


def documents(found: Row, tokenizer: Tokenizer) -> None:
    """Documents stand between <bos> and <eos>, each with the ids that it has alone."""
    some = [*texts()[:50], "", " ", "<bos><eos>", "🎉"]
    whole = [id for text in some for id in (BOS, *tokenizer.encode(text), EOS)]
    found.check(tokenizer.encode_documents(some).tolist() == whole, "encode_documents gives other ids than encode")


def half_characters(found: Row, tokenizer: Tokenizer) -> None:
    """Every lone surrogate is refused with a sentence, wherever it stands and whoever is given it."""
    wrong = []
    for point in range(0xD800, 0xE000):
        text = ("{}", "a{}", "{} b", "\U0001f389{}")[point % 4].format(chr(point))
        calls: list[tuple[Callable[[Any], object], object]] = [
            (tokenizer.encode, text), (tokenizer.encode_documents, ["a", text]), (train_tokenizer, [text]),
        ]  # fmt: skip
        for call, argument in calls:
            name = call.__name__
            try:
                call(argument)
                wrong.append(f"{name} takes {text!a}")
            except UserError as error:
                if f"U+{point:04X}" not in str(error):
                    wrong.append(f"{name} says of {text!a}: {error}")
            except Exception as error:
                wrong.append(f"{name}({text!a}) raises {type(error).__name__}: {error}")
    tally(found, "lone surrogates", wrong, 3 * 2048)


# --- training --------------------------------------------------------------------------------------------------------

LEARN = """
import json, sys
from pathlib import Path
from tinygpt.tokenizer import train_tokenizer
train_tokenizer(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2])).save(Path(sys.argv[3]))
"""


def trainings(found: Row, scale: Scale, source: list[str], path: Path) -> None:
    """The file is the same, byte for byte, in new processes with any number of threads and any hash seed."""
    kept = scale.folder / "texts.json"
    kept.write_text(json.dumps(source), encoding="utf-8")
    every = [(threads, seed) for threads in (1, 2, 8) for seed in ("0", "1", "4242")]
    tried = every if scale.full else [every[0], every[-1]]
    for threads, seed in tried:
        target = scale.folder / f"learnt-{threads}-{seed}.json"
        environment = {
            **os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
            "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        words = [sys.executable, "-c", LEARN, str(kept), str(VOCAB_SIZE), str(target)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
        same = done.returncode == 0 and target.read_bytes() == path.read_bytes()
        why = done.stderr.strip()[-200:] or "other bytes than in this process"
        found.check(same, f"training with {threads} threads, hash seed {seed}: {why}")
    names = "; ".join(f"{threads} threads, hash seed {seed}" for threads, seed in tried)
    found.measured["trainings in new processes"] = f"{len(tried)}: {names}"
