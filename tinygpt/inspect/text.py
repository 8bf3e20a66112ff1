"""What a model makes of a text: the next token, a continuation, what each token costs, and what was copied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinygpt.config import TEMPERATURE
from tinygpt.corpus import tales
from tinygpt.data import Ids, scoring_windows
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.evaluate import bits_per_byte, generate_documents
from tinygpt.inference import Continuation, check_request, choose_decoder, reading, window_start
from tinygpt.inspect.corpora import MOST_TOKENS, Data, documents, utf8
from tinygpt.inspect.result import Result, public
from tinygpt.inspect.tokens import piece
from tinygpt.inspect.trace import Model, encode, pieces
from tinygpt.model import NoCache
from tinygpt.sampling import Sampling, filter_logits
from tinygpt.tokenizer import BOS, EOS

MOST_ROWS = 2_000  # of `next_token`
MOST_NEW_TOKENS = 2_000
MOST_BRANCHES = 400  # nodes of a tree
MOST_SCORED = 4_096  # tokens of `surprisal`
MOST_TALES = 200
SHORTEST, LONGEST_TEXT = 4, 50_000  # bytes: of a run that counts as copied, at least; of a text that is looked through
MOST_SPANS = 1_000
# What stands before each document of the training and of the validation text: no UTF-8 text holds these bytes, and they
# differ, so no run of bytes reaches across.
BEFORE_TRAIN, BEFORE_VAL = b"\xff", b"\xfe"

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
_Run = tuple[int, int, int]  # start, end, first place in the training text [bytes]


@torch.inference_mode()
def last_logits(m: Model, ids: Tensor) -> Tensor:
    """(B, V) logits of the tokens after (B, T) ids, of which the model sees the last block_size."""
    visible = ids[:, window_start(ids.shape[1], m.config.block_size) :]
    with reading(m.model):
        return m.model.head(m.model.features(visible, NoCache())[:, -1])


def drawn_from(logits: Tensor, context: Tensor, sampling: Sampling, prompt: int) -> Tensor:
    """(V,) probabilities that the next token is drawn from, as `sampling.draw` does: at temperature 0 all on one."""
    filtered = filter_logits(logits.float().cpu(), context, sampling, prompt)[0]
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(filtered.argmax(-1), len(filtered)).float()
    return filtered.softmax(-1)


def entropy(probabilities: Tensor) -> float:
    """- sum p ln p [nats]."""
    return float(torch.special.entr(probabilities.double()).sum())


# --- the next token --------------------------------------------------------------------------------------------------


@public
def next_token(
    m: Model, prompt: str, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
    repetition_penalty: float = 1.0, most: int = 40,
) -> Result:  # fmt: skip
    """Probabilities of the next token, as the model gives them and as the sliders (`Sampling`) leave them.

    rows: the `most` tokens that are likeliest before or after, each with id, shown, probability (the model's own) and
    drawn (what is drawn from), by probability; others: what lies beyond the rows, before and after, so that the bars
    of each sum to 1; kept: tokens that can still be drawn; entropy [nats] before and after; tokens: the prompt.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    if not 1 <= most <= MOST_ROWS:
        raise UserError(f"most={most} must be between 1 and {MOST_ROWS:,}.")
    ids = encode(m, prompt)[0].tolist()
    context = torch.tensor([ids])
    logits = last_logits(m, context)
    before, after = logits[0].float().softmax(-1), drawn_from(logits, context, sampling, len(ids))
    either = torch.maximum(before, after)
    chosen = either.argsort(descending=True, stable=True)[:most]
    chosen = chosen[before[chosen].argsort(descending=True, stable=True)]
    beyond = torch.ones(len(before), dtype=torch.bool)
    beyond[chosen] = False
    return Result(
        tokens=pieces(m, ids),
        rows=[
            {**piece(m.tokenizer, id), "probability": own, "drawn": drawn}
            for id, own, drawn in zip(chosen.tolist(), before[chosen].tolist(), after[chosen].tolist(), strict=True)
        ],
        kept=int((after > 0).sum()),
        entropy={"before": entropy(before), "after": entropy(after)},
        others={"before": float(before[beyond].double().sum()), "after": float(after[beyond].double().sum())},
    )


# --- continuations ---------------------------------------------------------------------------------------------------


def writing(
    m: Model, prompt: str, max_new_tokens: int = 60, temperature: float = TEMPERATURE, top_k: int = 0,
    top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0, seed: int = 0, stop: Sequence[str] = (),
) -> tuple[Continuation, Iterator[dict[str, Any]]]:  # fmt: skip
    """The continuation that `generate` gives, and its steps as they come; UserError before the first of them.

    A step: id, shown; text (what may be shown with it, often nothing); probability (the model's own), drawn (what it
    was drawn with) and rank (0: the model's first choice). <eos> is a step too. The text is that of inference.stream
    with the same settings.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_request(max_new_tokens, stop)
    if max_new_tokens > MOST_NEW_TOKENS:
        raise UserError(f"max-new-tokens {max_new_tokens} must be at most {MOST_NEW_TOKENS:,} here.")
    ids = encode(m, prompt)[0].tolist()
    continuation = Continuation(m.tokenizer, ids, max_new_tokens, sampling, seed=seed, stop=stop)
    return continuation, _steps(m, continuation)


def _steps(m: Model, continuation: Continuation) -> Iterator[dict[str, Any]]:
    decoder = choose_decoder(m.model)
    with reading(m.model):
        while not continuation.finished:
            context = continuation.ids
            logits = decoder.logits(context)
            text = continuation.add(logits)
            grown = continuation.ids.shape[1] > context.shape[1]
            id = int(continuation.ids[0, -1]) if grown else EOS
            own = logits[0].float().cpu().softmax(-1)
            drawn = drawn_from(logits, context, continuation.sampling, continuation.prompt)
            yield {
                **piece(m.tokenizer, id), "text": text, "probability": float(own[id]), "drawn": float(drawn[id]),
                "rank": int((own > own[id]).sum()),
            }  # fmt: skip


@public
def generate(
    m: Model, prompt: str, max_new_tokens: int = 60, temperature: float = TEMPERATURE, top_k: int = 0,
    top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0, seed: int = 0, stop: list[str] = [],  # noqa: B006
) -> Result:  # fmt: skip
    """A continuation: exactly the text of `tinygpt generate` with the same settings.

    text: without the prompt; steps: see `writing`; finish_reason: "stop" (<eos> or a stop string) or "length";
    tokens: the prompt.
    """
    continuation, steps = writing(
        m, prompt, max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop
    )
    taken = list(steps)
    return Result(
        tokens=pieces(m, continuation.ids[0, : continuation.prompt].tolist()), text="".join(s["text"] for s in taken),
        steps=taken, finish_reason=continuation.finished,
    )  # fmt: skip


@public
def tree(m: Model, prompt: str, width: int = 3, depth: int = 3) -> Result:
    """The likeliest continuations as a tree: of every token the `width` likeliest after it, `depth` tokens deep.

    id, shown (the last token of the prompt), probability, joint and children, of which each is such a node again.
    probability: after what stands before it; joint: of the whole branch from the prompt on. Nothing follows <eos>.
    """
    nodes = sum(width**level for level in range(1, depth + 1)) if 0 < width <= 20 and 0 < depth <= 20 else 0
    if not 0 < nodes <= MOST_BRANCHES:
        raise UserError(f"width={width} and depth={depth} must be 1 or more, and give at most {MOST_BRANCHES} tokens.")
    ids = encode(m, prompt)[0].tolist()
    root: dict[str, Any] = {**piece(m.tokenizer, ids[-1]), "probability": 1.0, "joint": 1.0, "children": []}
    level = [(root, ids)]
    for _ in range(depth):
        if not level:
            break
        chances = last_logits(m, torch.tensor([path for _, path in level])).float().softmax(-1)  # (B, V)
        best = chances.topk(min(width, chances.shape[-1]))
        after: list[tuple[dict[str, Any], list[int]]] = []
        for (node, path), tokens, values in zip(level, best.indices.tolist(), best.values.tolist(), strict=True):
            for token, value in zip(tokens, values, strict=True):
                child = {**piece(m.tokenizer, token), "probability": value, "joint": node["joint"] * value,
                         "children": []}  # fmt: skip
                node["children"].append(child)
                if token != EOS:
                    after.append((child, [*path, token]))
        level = after
    return Result(tokens=pieces(m, ids), **root)


# --- what a text costs -----------------------------------------------------------------------------------------------


@public
@torch.inference_mode()
def surprisal(m: Model, text: str) -> Result:
    """What each token of `text` costs, after <bos> and what stands before it in its window, as `tinygpt eval` scores.

        nats = -ln p(token | before),   bits = nats / ln 2

    tokens: id, shown, probability, nats, bits, rank (0: the model's first choice), top (id, shown, probability of its
    first choice). bits_per_byte, nats_per_token; nats, bytes, scored (tokens) in all. Long texts: the first 4,096
    tokens. UserError for an empty text.
    """
    ids = m.tokenizer.encode(text)
    if not ids:
        raise UserError("the text is empty; give at least one character.", BAD_INPUT)
    rule = f"The first {MOST_SCORED:,} of {len(ids):,} tokens." if len(ids) > MOST_SCORED else None
    row = torch.tensor([[BOS, *ids[:MOST_SCORED]]])
    tokens: list[dict[str, Any]] = []
    with reading(m.model):
        for start, end in scoring_windows(row[0].numpy(), m.config.block_size):
            chances = m.model(row[:, start:end])[0].float().log_softmax(-1)  # (T, V)
            targets = row[0, start + 1 : end + 1]
            own = chances.gather(-1, targets[:, None])  # (T, 1)
            best = chances.max(-1)
            columns = (targets, own[:, 0], (chances > own).sum(-1), best.indices, best.values.exp())
            for id, log_p, rank, top, p in zip(*(column.tolist() for column in columns), strict=True):
                tokens.append({
                    **piece(m.tokenizer, id), "probability": math.exp(log_p), "nats": -log_p,
                    "bits": -log_p / math.log(2), "rank": rank, "top": {**piece(m.tokenizer, top), "probability": p},
                })  # fmt: skip
    nats, n_bytes = math.fsum(t["nats"] for t in tokens), len(m.tokenizer.decode_bytes(t["id"] for t in tokens))
    return Result(
        truncated=rule, tokens=tokens, nats=nats, bytes=n_bytes, scored=len(tokens),
        bits_per_byte=bits_per_byte(nats, n_bytes), nats_per_token=nats / len(tokens),
    )  # fmt: skip


@public
def cache_meter(m: Model, prompt: str, max_new_tokens: int = 60) -> Result:
    """Work and memory of writing `max_new_tokens` tokens, with the key/value cache and without.

    cached, uncached (step): positions that the model computes for each new token: with the cache one, without it the
    whole context; when the text outgrows block_size the window slides, and the cache is filled afresh. Their sums:
    cached_total, uncached_total. cache_bytes (step): keys and values remembered then,
    2 n_layers n_kv_heads d_head 4 bytes a position; cache_bytes_full: of block_size positions.
    """
    if not 1 <= max_new_tokens <= MOST_NEW_TOKENS:
        raise UserError(f"max-new-tokens {max_new_tokens} must be between 1 and {MOST_NEW_TOKENS:,}.")
    ids, c = encode(m, prompt)[0].tolist(), m.config
    lengths = np.arange(len(ids), len(ids) + max_new_tokens)  # of the text before each pass
    starts = np.array([window_start(int(length), c.block_size) for length in lengths])
    seen = lengths - starts
    refilled = np.append(True, starts[1:] != starts[:-1])
    cached = np.where(refilled, seen, 1)
    a_position = 2 * c.n_layers * c.n_kv_heads * c.d_head * 4
    axes = dict.fromkeys(("cached", "uncached", "cache_bytes"), "step")
    return Result(
        axes, tokens=pieces(m, ids), block_size=c.block_size, cached=cached, uncached=seen,
        cache_bytes=seen * a_position, cached_total=int(cached.sum()), uncached_total=int(seen.sum()),
        cache_bytes_full=a_position * c.block_size,
    )  # fmt: skip


# --- copying ---------------------------------------------------------------------------------------------------------


@public
def memorised(m: Model, text: str, shortest: int = 20) -> Result:
    """What of `text` also stands in the training text: its longest runs of bytes, of at least `shortest` bytes.

    A run consists of whole characters, lies in one document, and cannot be made longer at either end. spans, in order:
    start, end (characters of `text`); text, bytes: the run; document: number of the first training document that holds
    it. Where runs overlap, the longer has the place, and start and end of the shorter tell what is left of it, while
    its text and bytes are still those of the whole run. share: of the bytes that lie in a run; longest: bytes of the
    longest run; bytes: of the text. held_out: the same three for the beginning of the validation text, as many bytes
    (null if there is none): without it ordinary phrases would look like copying. The model is not asked; its run is.
    """
    if not SHORTEST <= shortest <= LONGEST_TEXT:
        raise UserError(f"shortest={shortest} must be between {SHORTEST} and {LONGEST_TEXT:,} bytes.")
    data = utf8(text)
    if len(data) > LONGEST_TEXT:
        raise UserError(f"the text has {len(data):,} bytes, and at most {LONGEST_TEXT:,} are looked through.")
    run = Data.of(m.run)
    known, held_out = _known(run), _beginning(_held_out(run), len(data))
    hashes = _hashes_of(run, shortest)
    runs = copied_runs(data, known.text, shortest, hashes)
    character = np.append(0, np.cumsum(_begins(np.frombuffer(data, np.uint8))))  # byte offset -> characters before it
    spans: list[dict[str, Any]] = []
    for first, last, (start, end, place) in _side_by_side(runs, len(data)):
        spans.append({
            "start": int(character[first]), "end": int(character[last]), "bytes": end - start,
            "text": data[start:end].decode(), "document": int(np.searchsorted(known.starts, place, "right")) - 1,
        })  # fmt: skip
    rule = f"The {MOST_SPANS:,} longest of {len(spans):,} spans." if len(spans) > MOST_SPANS else None
    spans = sorted(sorted(spans, key=lambda span: -span["bytes"])[:MOST_SPANS], key=lambda span: span["start"])
    rules = [known.rule, rule]
    other = copied_runs(held_out, known.text, shortest, hashes)
    return Result(
        truncated=" ".join(filter(None, rules)) or None, spans=spans, shortest=shortest, **_measure(data, runs),
        held_out=_measure(held_out, other) if held_out else None,
    )  # fmt: skip


def _side_by_side(runs: Sequence[_Run], length: int) -> list[tuple[int, int, _Run]]:
    """(start, end) that is left of each run when the longest takes its place first, in order; none without any."""
    free, placed = np.ones(length, dtype=bool), []
    for run in sorted(runs, key=lambda run: run[0] - run[1]):
        left = np.flatnonzero(free[run[0] : run[1]])  # in one piece, since no run lies in another
        if len(left):
            placed.append((run[0] + int(left[0]), run[0] + int(left[-1]) + 1, run))
            free[run[0] : run[1]] = False
    return sorted(placed)


def _measure(data: bytes, runs: Sequence[_Run]) -> dict[str, Any]:
    """share, longest and bytes of a text with these copied runs."""
    marked = copied = longest = 0
    for start, end, _ in runs:
        copied += end - max(start, marked)
        longest, marked = max(longest, end - start), end
    n_bytes = len(data) - data.count(BEFORE_VAL)
    return {"share": copied / n_bytes if n_bytes else 0.0, "longest": longest, "bytes": n_bytes}


@dataclass(frozen=True)
class _Known:
    """The training text in one piece, BEFORE_TRAIN before each document and at the end."""

    text: Bytes
    starts: npt.NDArray[np.int64]  # of the documents, that byte included
    rule: str | None


@lru_cache(maxsize=2)
def _known(data: Data) -> _Known:
    ids = data.run.train_ids
    rule = f"The first {MOST_TOKENS:,} tokens of the training text are known here." if len(ids) > MOST_TOKENS else None
    text = np.frombuffer(_joined(data, ids[:MOST_TOKENS], BEFORE_TRAIN) + BEFORE_TRAIN, np.uint8)
    return _Known(text, np.flatnonzero(text == BEFORE_TRAIN[0])[:-1], rule)


@lru_cache(maxsize=2)
def _held_out(data: Data) -> bytes:
    return _joined(data, data.run.val_ids[:MOST_TOKENS], BEFORE_VAL)[1:]


def _joined(data: Data, ids: Ids, before: bytes) -> bytes:
    """The bytes of the documents with `before` before each."""
    read = data.run.tokenizer
    table = [before if id == BOS else read.token_bytes(id) for id in range(read.vocab_size)]
    return b"".join([table[id] for id in ids.tolist()])


def _beginning(data: bytes, length: int) -> bytes:
    """At most `length` bytes from the beginning, whole characters."""
    while 0 < length < len(data) and data[length] & 0xC0 == 0x80:
        length -= 1
    return data[:length]


def _begins(data: Bytes) -> npt.NDArray[np.bool_]:
    """Which bytes of a UTF-8 text begin a character."""
    return (data & 0xC0) != 0x80


@lru_cache(maxsize=2)
def _hashes_of(data: Data, length: int) -> Hashes:
    return window_hashes(_known(data).text, length)


def window_hashes(data: Bytes, length: int) -> Hashes:
    """A number for each run of `length` bytes, equal for equal runs: sum over i of (byte_i + 1) B^(length-1-i).

    Modulo 2^64. Made by doubling: a run of a + b bytes is one of a bytes, times B^b, plus the one of b bytes after it.
    """
    if len(data) < length:
        return np.empty(0, np.uint64)
    base = 0x9E3779B97F4A7C15  # odd, so that nothing is lost by multiplying

    def join(first: Hashes, a: int, second: Hashes, b: int) -> Hashes:
        count = len(data) - a - b + 1
        return first[:count] * np.uint64(pow(base, b, 1 << 64)) + second[a : a + count]

    single = data.astype(np.uint64) + np.uint64(1)
    found, size = single, 1
    for bit in bin(length)[3:]:
        found, size = join(found, size, found, size), 2 * size
        if bit == "1":
            found, size = join(found, size, single, 1), size + 1
    return found


def copied_runs(data: bytes, known: Bytes, shortest: int, hashes: Hashes) -> list[_Run]:
    """(start, end, first place in `known`) of the longest runs of whole characters of `data` that stand in `known`.

    Each has at least `shortest` bytes and lies in no other; they are in order, and so are their ends. `known` begins
    and ends with a byte that `data` does not hold; hashes: its `window_hashes` of length `shortest`.

    The windows of `data` are looked up by their hashes. Beginning with the first window that is there, the run is made
    longer to the left and to the right, with all the places where it stands; the next run begins with the window that
    ends one byte behind it, so that no byte is tried for every window that holds it.
    """
    text = np.frombuffer(data, np.uint8)
    places = _places(window_hashes(text, shortest), hashes)
    runs: list[_Run] = []
    end = shortest
    while end <= len(text):
        start = end - shortest
        at = places.get(start, np.empty(0, np.int64))
        for i in range(shortest):  # two runs may share a number
            at = at[known[at + i] == text[start + i]]
        if not len(at):
            end += 1
            continue
        while start > 0 and len(earlier := at[known[at - 1] == text[start - 1]]):
            at, start = earlier - 1, start - 1
        while end < len(text) and len(longer := at[known[at + end - start] == text[end]]):
            at, end = longer, end + 1
        runs.append((start, end, int(at[0])))
        end += 1
    return _whole_characters(runs, data, known, shortest)


def _places(wanted: Hashes, hashes: Hashes) -> dict[int, npt.NDArray[np.int64]]:
    """Where each of the `wanted` stands among `hashes`, in order, by its own place; without those that do not."""
    kinds, kind_of = np.unique(wanted, return_inverse=True)
    if not len(kinds) or not len(hashes):
        return {}
    high = np.uint64(44)  # 20 bits choose nearly all that matter, much faster than a search for each
    maybe = np.zeros(1 << 20, dtype=bool)
    maybe[kinds >> high] = True
    there = np.flatnonzero(maybe[hashes >> high])
    kind = np.minimum(np.searchsorted(kinds, hashes[there]), len(kinds) - 1)
    same = kinds[kind] == hashes[there]
    there, kind = there[same], kind[same]
    order = np.argsort(kind, kind="stable")
    groups = np.split(there[order], np.searchsorted(kind[order], np.arange(1, len(kinds))))
    return {i: groups[k] for i, k in enumerate(kind_of.tolist()) if len(groups[k])}


def _whole_characters(runs: list[_Run], data: bytes, known: Bytes, shortest: int) -> list[_Run]:
    """The runs without parts of characters at their ends; without those that became too short or lie in another."""
    begins, kept = np.append(_begins(np.frombuffer(data, np.uint8)), True), list[_Run]()
    searched = b"" if begins.all() else known.tobytes()
    for start, end, place in runs:
        first, last = start, end
        while first < last and not begins[first]:
            first += 1
        while last > first and not begins[last]:
            last -= 1
        if last - first < shortest or (kept and last <= kept[-1][1]):
            continue
        if kept and kept[-1][0] == first:  # the one before lies in this one
            kept.pop()
        if (first, last) != (start, end):  # it may stand earlier than with what was cut off
            place = searched.find(data[first:last])
        kept.append((first, last, place))
    return kept


# --- tales -----------------------------------------------------------------------------------------------------------


@public
def tales_quality(m: Model, count: int = 20) -> Result:
    """Of `count` tales that the model writes: the shares that are grammatical, consistent and new, as `tinygpt eval`.

    n; grammatical, consistent, new; grammatical_to, consistent_to: mean share of a tale before its first slip; reasons,
    as sentences; tales: text, grammatical, consistent, reason of each. UserError if the run is not of tales.
    """
    if not m.run.facts["floor"]:
        raise UserError(f"{m.run.folder.name} was not trained on built-in tales, so its stories cannot be judged.")
    if not 1 <= count <= MOST_TALES:
        raise UserError(f"count={count} must be between 1 and {MOST_TALES}.")
    texts = generate_documents(m.model, m.tokenizer, count, max_new_tokens=1000, temperature=TEMPERATURE)
    told, verdicts = tales.score(texts, documents(m.run, "train")[0]), [tales.parse(text) for text in texts]
    return Result(
        n=told.n, grammatical=told.grammatical, consistent=told.consistent, new=told.new,
        grammatical_to=told.grammatical_to, consistent_to=told.consistent_to,
        reasons=[reason for _, reason in told.failures],
        tales=[
            {"text": text, "grammatical": v.grammatical, "consistent": v.consistent, "reason": v.reason}
            for text, v in zip(texts, verdicts, strict=True)
        ],
    )  # fmt: skip
