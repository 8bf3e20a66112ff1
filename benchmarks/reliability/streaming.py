"""R22, text in pieces: the pieces of a stream, joined, are the whole text, and no piece holds half of anything.

In process: every character, random ids that are often no UTF-8, and stop strings that reach over up to eight tokens,
written by a stub of a model that says the ids it is told. Over HTTP: the same requests streamed and not.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from unittest import mock

import torch

from benchmarks.reliability.common import Row, Scale, small_tokenizer, texts
from benchmarks.reliability.server import (
    CHAT,
    COMPLETIONS,
    Server,
    events,
    random_run,
    serving,
    streamed_text,
)  # fmt: skip
from tinygpt.inference import Continuation
from tinygpt.tokenizer import EOS, StreamDecoder, Tokenizer, train_tokenizer

SCALARS = 0x110000 - 2048
JOINED = ("👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "မြန်မာ", "e\u0301\u0308\u0323", "क्षि", "\u2028\u2029", "\x00", "<eos>", "\r\n")


def row(scale: Scale) -> Row:
    """R22 of the table: in full with vocabularies of 256 bytes to 8,192 pieces."""
    result, draw = (
        Row("R22", "streamed text: characters, random ids, stop strings over tokens"),
        random.Random(scale.seed),
    )
    tokenizers = {"512": small_tokenizer()}
    if scale.full:
        tokenizers["bytes only"] = Tokenizer([])
        tokenizers["8k"] = train_tokenizer(
            [*texts(), *texts(1), "".join(JOINED) * 9, *(chr(c) * 3 for c in range(9_999))], 8192
        )
    for name, tokenizer in tokenizers.items():
        characters(result, name, tokenizer, draw, scale)
        random_ids(result, name, tokenizer, draw, scale.pick(1_000, 10_000))
        stops(result, name, tokenizer, draw, scale.pick(100, 1_000))
    random_run(scale.folder, block_size=64)
    with serving(scale.folder) as server:
        over_http(result, server, draw, scale.pick(30, 200))
        server.check_sound(result, "streams")
    return result


def controls(scale: Scale) -> dict[str, bool]:
    """Every token decoded by itself: a character of several tokens is lost."""
    without, draw, tokenizer = Row("", ""), random.Random(scale.seed), small_tokenizer()
    alone = lambda self, id: self._tokenizer.decode([id])  # noqa: E731
    with mock.patch.object(StreamDecoder, "feed", alone):
        random_ids(without, "", tokenizer, draw, 100)
    return {"token-wise decoding": bool(without.failures)}


def written(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], Continuation]:
    """The pieces in which a model that says `ids` is shown, and the text that was written."""
    text = Continuation(tokenizer, [5], len(ids), stop=stop)
    pieces = []
    for id in ids:
        logits = torch.zeros(1, tokenizer.vocab_size)
        logits[0, id] = 1.0
        pieces.append(text.add(logits))
        if text.finished:
            break
    return pieces, text


def characters(result: Row, label: str, tokenizer: Tokenizer, draw: random.Random, scale: Scale) -> None:
    """Unicode scalar values: all in full, else 100,000; and what is made of several."""
    every = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    chosen = every if scale.full else draw.sample(every, 100_000)
    wrong = []
    for first in range(0, len(chosen), 500):
        text = "".join(map(chr, chosen[first : first + 500]))
        decoder = StreamDecoder(tokenizer)
        pieces = [decoder.feed(id) for id in tokenizer.encode(text)] + [decoder.finish()]
        if "".join(pieces) != text:
            wrong.append(f"{label}: characters from U+{ord(text[0]):04X}")
    result.trials += len(chosen)
    result.failures += wrong[:3]
    for text in JOINED:
        ids = tokenizer.encode(text)
        pieces, _ = written(tokenizer, ids)
        result.check("".join(pieces) == text, f"{label}: {text!r} in pieces is {pieces}")
        result.check(all(piece.encode().decode() == piece and "\ufffd" not in piece for piece in pieces), f"{pieces}")


def random_ids(result: Row, label: str, tokenizer: Tokenizer, draw: random.Random, count: int) -> None:
    """Any ids but the end, most of them no UTF-8."""
    for _ in range(count):
        likely = tokenizer.vocab_size if draw.random() < 0.5 else min(tokenizer.vocab_size, 259)
        ids = [id for id in (draw.randrange(likely) for _ in range(draw.randint(1, 30))) if id != EOS] or [9]
        pieces, text = written(tokenizer, ids)
        whole = tokenizer.decode(ids)
        result.check("".join(pieces) == whole and text.finished == "length", f"{label}: {ids} in pieces is {pieces}")


def stops(result: Row, label: str, tokenizer: Tokenizer, draw: random.Random, count: int) -> None:
    """A stop string that begins in one token and ends up to seven later: nothing of it is shown, all before it is."""
    source, spread = list(texts()), set[int]()
    for _ in range(count):
        text = draw.choice(source)[:80] + draw.choice(JOINED) + draw.choice(source)[:40]
        ids = tokenizer.encode(text)
        first = draw.randrange(max(1, len(text) - 20))
        stop = [text[first : first + draw.randint(1, 20)]]
        others = [draw.choice(source)[:9] for _ in range(draw.randint(0, 3))]
        stop += [word for word in others if word not in text]  # of two that overlap the one that ends first counts
        pieces, ended = written(tokenizer, ids, stop)
        place = min(place for place in map(text.find, stop) if place >= 0)
        told = f"{label}: {text!r} with stop {stop}: {pieces}"
        result.check("".join(pieces) == text[:place] and ended.finished == "stop", told)
        spread.add(len(tokenizer.encode(stop[0])))
    result.measured[f"stop strings ({label})"] = f"{count:,}, of {min(spread)} to {max(spread)} tokens"


def over_http(result: Row, server: Server, draw: random.Random, count: int) -> None:
    """One request streamed and not: equal texts, counts and ends."""
    for number in range(count):
        body = {
            "max_tokens": draw.randint(1, 50), "seed": number, "temperature": draw.choice((0, 0.7, 1.5)),
            "n": draw.choice((1, 1, 3)), "stop": draw.sample(["e", " t", "the", "\n", "ab"], draw.randint(0, 2)),
        }  # fmt: skip
        path = (COMPLETIONS, CHAT)[number % 2]
        prompt = draw.choice(("Once", "é", "", "👩‍👧"))
        body |= {"prompt": prompt} if path == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
        whole = server.ask("POST", path, body)
        stream = server.ask("POST", path, {**body, "stream": True, "stream_options": {"include_usage": True}})
        try:
            problem = different(whole.json, events(stream.body), body["stop"])
        except (ValueError, KeyError) as error:
            problem = f"{error!r}: {whole.body[:200]!r}, {stream.body[-200:]!r}"
        result.check(not problem, f"{json.dumps(body)}: {problem}")


def different(whole: dict, told: list[dict], stops: Iterable[str]) -> str:
    """In what a stream differs from the whole answer, or ""."""
    if len({(event["id"], event["created"], event["model"], event["object"]) for event in told}) != 1:
        return "id, time, model or kind changes within the stream"
    if told[-1]["choices"] != [] or any(event["usage"] is not None for event in told[:-1]):
        return "the counts are not in the last event alone"
    if told[-1]["usage"] != whole["usage"]:
        return f"counts {told[-1]['usage']}, whole {whole['usage']}"
    for choice in whole["choices"]:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        index, pieces = choice["index"], streamed_text(told, choice["index"])
        ends = [c["finish_reason"] for e in told for c in e["choices"] if c["index"] == index and c["finish_reason"]]
        if pieces != text or ends != [choice["finish_reason"]]:
            return f"choice {index} is {pieces!r}, {ends}; whole {text!r}, {choice['finish_reason']}"
        if any(stop in text for stop in stops):
            return f"a stop string is in {text!r}"
    return ""
