"""What the vectors of tokens and positions say: neighbours, a map whose axes stay, lengths, turning angles."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinygpt.checkpoint import steps_kept
from tinygpt.data import count_tokens
from tinygpt.errors import UserError
from tinygpt.folders import resolve
from tinygpt.inspect.corpora import Data
from tinygpt.inspect.result import Result, public
from tinygpt.inspect.tokens import piece
from tinygpt.inspect.trace import Model, load, weights_stamp
from tinygpt.model import LearnedPositions, RotaryPositions
from tinygpt.tokenizer import SPECIALS, Tokenizer

MOST_NEIGHBOURS, MOST_POINTS = 1_000, 5_000
MOST_POSITIONS = 64  # in one picture

Table = npt.NDArray[np.float64]  # (tokens, C)


def vectors(m: Model) -> Table:
    """The embedding, (V, C)."""
    return m.model.embedding.weight.numpy().astype(np.float64)


def counts(m: Model) -> npt.NDArray[np.int64]:
    """How often each token stands in the training text, (V,)."""
    return _counts(Data.of(m.run))


@lru_cache(maxsize=8)
def _counts(data: Data) -> npt.NDArray[np.int64]:
    return count_tokens(data.run.train_ids, data.run.tokenizer.vocab_size)


@public
def neighbours(m: Model, token: int, metric: Literal["cosine", "dot"] = "cosine", k: int = 10) -> Result:
    """The `k` tokens whose embedding vectors lie nearest to that of `token`, the nearest first.

        cosine = a . b / (|a| |b|),   dot = a . b

    token: id, shown; count: how often it stands in the training text; neighbours: id, shown, value, count. UserError
    for a token outside the vocabulary, or k below 1.
    """
    chosen = piece(m.tokenizer, token)
    if not 1 <= k <= MOST_NEIGHBOURS:
        raise UserError(f"k={k} must be between 1 and {MOST_NEIGHBOURS:,}.")
    table, times = vectors(m), counts(m)
    if metric == "cosine":
        table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    values = (table @ table[token]).astype(np.float32)
    nearest = [id for id in np.argsort(-values, kind="stable").tolist() if id != token][:k]
    rows = [{**piece(m.tokenizer, id), "value": float(values[id]), "count": int(times[id])} for id in nearest]
    return Result(token=chosen, metric=metric, count=int(times[token]), neighbours=rows)


@public
def projection(m: Model, basis: str | None = None, most: int = 400, also: Sequence[int] = ()) -> Result:
    """The embedding as a map: the first two principal components of one checkpoint, the same for every checkpoint.

        xy = (E - mean of the basis) . axes of the basis

    The axes come from the checkpoint `basis` (a reference, or "@STEP" of the same run; by default its last), so over
    the training the points move and the axes do not. The largest loading of each axis is positive. points: the `most`
    most frequent tokens and all single letters (see `described`), whose rows make the axes, then the tokens `also`; xy,
    a row for each; explained: share of this checkpoint's variance along each axis; basis: its reference. UserError for
    a basis with other tokens or another width.
    """
    ids = chosen_tokens(m, most)
    shown = with_others(m, ids, also)
    reference = basis or f"@{max(steps_kept(m.run.folder), default=m.step)}"
    reference = f"{m.run.folder.as_posix()}{reference}" if reference.startswith("@") else reference
    named = m if reference == m.reference else _loaded(reference)
    if named.tokenizer.sha256 != m.tokenizer.sha256 or named.config.n_embd != m.config.n_embd:
        raise UserError(f"basis {reference!r} has other tokens or another width; name a checkpoint of the same run.")
    table = vectors(named)[ids]
    middle = table.mean(axis=0)
    axes = principal_axes(table - middle)  # (2, C)
    moved = vectors(m)[shown]
    xy = (moved - middle) @ axes.T  # (N, 2)
    frequent, on_axes = moved[: len(ids)], xy[: len(ids)]
    total = ((frequent - frequent.mean(axis=0)) ** 2).sum()
    explained = (((on_axes - on_axes.mean(axis=0)) ** 2).sum(axis=0) / max(total, 1e-12)).astype(np.float32)
    return Result({"xy": "token axis"}, points=described(m, shown), xy=xy, explained=explained.tolist(),
                  basis=named.reference)  # fmt: skip


def _loaded(reference: str) -> Model:
    """A checkpoint by its reference; one that is named by its step is remembered, since a slider asks again."""
    folder, which = resolve(reference)
    return _remembered(reference, weights_stamp(folder, which)) if which.isdecimal() else load(reference)


@lru_cache(maxsize=2)
def _remembered(reference: str, stamp: tuple[Any, ...]) -> Model:
    return load(reference)


def principal_axes(centred: Table) -> Table:
    """The two directions along which the rows vary most, (2, C); of each the largest loading is positive."""
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return axes * np.sign(largest)[:, None]


@public
def norms(m: Model, most: int = 400, also: Sequence[int] = ()) -> Result:
    """Length of each token's vector (`norm`, L2), and what is left of its start, for the tokens of `projection`.

    start: cosine of the vector and the same token's at the first step that the run kept, `first_step`; 1: the same
    direction. points tell how often each token stands in the training text. tied: whether the head shares the table:
    if not, a token that the text does not have gets no gradient and keeps its direction; if so, every step pushes it
    away, for it is never the next token.
    """
    ids = with_others(m, chosen_tokens(m, most), also)
    first_step = min(steps_kept(m.run.folder), default=m.step)
    first = m if first_step == m.step else load(f"{m.run.folder.as_posix()}@{first_step}")
    rows, begun = vectors(m)[ids], vectors(first)[ids]
    lengths, begun_lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(begun, axis=1)
    start = (rows * begun).sum(axis=1) / np.maximum(lengths * begun_lengths, 1e-12)
    return Result({"norm": "token", "start": "token"}, points=described(m, ids), norm=lengths, start=start,
                  first_step=first_step, tied=m.config.tied)  # fmt: skip


def chosen_tokens(m: Model, most: int) -> list[int]:
    """The `most` most frequent tokens, ties by id, then the single letters a-z and A-Z that are not among them."""
    if not 1 <= most <= MOST_POINTS:
        raise UserError(f"most={most} must be between 1 and {MOST_POINTS:,}.")
    frequent = np.argsort(-counts(m), kind="stable")[:most].tolist()
    letters = [id for letter in string.ascii_letters for id in m.tokenizer.encode(letter)]
    return list(dict.fromkeys(frequent + letters))


def with_others(m: Model, ids: list[int], also: Sequence[int]) -> list[int]:
    """`ids`, then those of `also` that are not among them. UserError for one outside the vocabulary, or too many."""
    if len(also) > MOST_NEIGHBOURS:
        raise UserError(f"also has {len(also):,} tokens, and takes at most {MOST_NEIGHBOURS:,}.")
    for id in also:
        m.tokenizer.token_bytes(id)
    return list(dict.fromkeys([*ids, *also]))


def described(m: Model, ids: list[int]) -> list[dict[str, Any]]:
    """What a map may be coloured by: id, shown, case, digit, vowel, space, count of each token.

    case: "lower", "upper", "title" (the first letter is a capital, more follow), "mixed" or "none" (no letters); digit:
    whether there is one; vowel: whether the first letter is one of aeiou, null without a letter; space: whether it
    begins with one; count: how often it stands in the training text.
    """
    times = counts(m)
    return [{**piece(m.tokenizer, id), **_properties(m.tokenizer, id), "count": int(times[id])} for id in ids]


def _properties(tokenizer: Tokenizer, id: int) -> dict[str, Any]:
    text = tokenizer.token_bytes(id).decode(errors="replace") if id >= len(SPECIALS) else ""
    letters = [character for character in text if character.isalpha()]
    written = "".join("u" if letter.isupper() else "l" if letter.islower() else "" for letter in letters)
    case = (
        "none" if not written
        else "lower" if "u" not in written
        else "upper" if "l" not in written
        else "title" if "u" not in written[1:]
        else "mixed"
    )  # fmt: skip
    return {
        "case": case,
        "digit": any(character.isdigit() for character in text),
        "vowel": letters[0].lower() in "aeiou" if letters else None,
        "space": text.startswith(" "),
    }


@public
def positions(m: Model) -> Result:
    """How the model tells positions apart.

    kind "learned": similarity, the cosine of the vectors of two positions; with more than 64 positions the mean over
    blocks of `pooled` x `pooled`. kind "rotary": wavelength of each pair of dimensions, the positions after which it
    is back, 2 pi theta^(2j/d_head), and angle [radians] of each of the first 64 positions and each pair.
    """
    layer, size = m.model.positions, m.config.block_size
    if isinstance(layer, LearnedPositions):
        table = layer.table.weight.numpy().astype(np.float64)
        table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        k = math.ceil(size / MOST_POSITIONS)
        starts = np.arange(0, size, k)
        sums = np.add.reduceat(np.add.reduceat(table @ table.T, starts, axis=0), starts, axis=1)
        widths = np.diff(np.append(starts, size))
        rule = f"Each cell is the mean over {k} x {k} positions." if k > 1 else None
        return Result({"similarity": "position position"}, rule, kind="learned", block_size=size, pooled=k,
                      similarity=sums / np.outer(widths, widths))  # fmt: skip
    assert isinstance(layer, RotaryPositions)  # for the type checker: model.POSITIONS has these two
    pairs = np.arange(0, m.config.d_head, 2) / m.config.d_head
    frequency = m.config.rope_theta**-pairs  # radians per position
    shown = min(size, MOST_POSITIONS)
    rule = f"The angles of the first {shown} of {size} positions." if shown < size else None
    return Result({"wavelength": "pair", "angle": "position pair"}, rule, kind="rotary", block_size=size,
                  wavelength=2 * math.pi / frequency, angle=np.outer(np.arange(shown), frequency))  # fmt: skip
