"""Attention heads: what each position looks at, and what kind of head that makes.

Shapes: B sequences, T positions, H = n_heads; patterns are (..., query, key).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt.errors import UserError
from tinygpt.inspect.result import MOST_NUMBERS, Result, public
from tinygpt.inspect.trace import (
    AT_ONCE,
    LOOKED,
    MOST_SHOWN,
    WINDOWS,
    Model,
    checked,
    encode,
    load,
    pieces,
    record,
    record_edited,
    shown_positions,
    windows,
)
from tinygpt.model import TinyGPT
from tinygpt.tokenizer import BOS, SPECIALS

WHOLE_POSITIONS, POOLED = 64, 32  # patterns of all heads: whole up to so many positions, else at most so many squares
MOST_BESIDE = MOST_NUMBERS // 8  # of the patterns of all heads that stand beside one head
PATTERNS = "layer head query key"
LEAST_SCORE, OVER_START = 0.4, 2.0  # of a label; times the head's own score at step 0
KINDS = ("previous", "first", "current", "same", "induction")
REPEATED, SEED = 64, 0  # random ids that are repeated for the induction score, at most
RULE = (
    f"A head is called by its highest score that is at least {LEAST_SCORE} and at least {OVER_START:g} times the "
    "head's own score at step 0; otherwise it is mixed."
)
NO_START = " This run has no weights of step 0, so the second condition is left out."


@public
def attention(
    m: Model, prompt: str, layer: int | None = None, head: int | None = None, edits: Sequence[dict[str, Any]] = (),
    all_heads: bool = False,
) -> Result:  # fmt: skip
    """What each position looks at.

        scores = q k^T / sqrt(K);   masked = scores, -inf where key > query;   pattern = softmax(masked)

    With layer and head: these three, (query, key), from first_query on. Else `pattern` (layer, head, query, key) of all
    heads in `layers` and `heads`; beyond 64 tokens the largest value of each square of `pooled` x `pooled`.
    all_heads: one layer and head as above, and beside them `patterns` (layer, head, query, key) of all, pooled to at
    most 32 x 32: what a page needs at every key, in one pass. UserError for a layer or head that is not there, or
    all_heads without both.
    """
    ids, c = encode(m, prompt), m.config
    T = ids.shape[1]
    layers = list(range(c.n_layers)) if layer is None else [checked("layer", layer, c.n_layers)]
    heads = list(range(c.n_heads)) if head is None else [checked("head", head, c.n_heads)]
    if layer is not None and head is not None:
        names = [f"block.{i}.pattern" for i in range(c.n_layers)] if all_heads else []
        seen = record_edited(m, ids, [f"block.{layers[0]}.{what}" for what in LOOKED] + names, edits)
        first, rule = shown_positions(T, len(LOOKED) * T, "queries")
        shown = {what: seen[f"block.{layers[0]}.{what}"][0, heads[0], first:] for what in LOOKED}
        axes, more = dict.fromkeys(LOOKED, "query key"), {}
        if all_heads:
            side = side_of(c.n_layers * c.n_heads, T, POOLED, MOST_BESIDE)
            shown["patterns"], axes["patterns"] = pooled(torch.cat([seen[name] for name in names]), side), PATTERNS
            more = {"pooled": side}
            rule = " ".join(words for words in (rule, side_rule(side, "patterns: ")) if words) or None
        arrays = {name: array.numpy() for name, array in shown.items()}
        return Result(axes=axes, truncated=rule, tokens=pieces(m, ids), first_query=first, **more, **arrays)
    if all_heads:
        raise UserError("all_heads stands beside one layer and head; give both, or leave it out.")
    seen = record_edited(m, ids, [f"block.{i}.pattern" for i in layers], edits)
    pattern = torch.cat([seen[f"block.{i}.pattern"][:, heads] for i in layers])  # (layers, heads, T, T)
    side = side_of(len(layers) * len(heads), T, POOLED if T > WHOLE_POSITIONS else T, MOST_SHOWN)
    return Result(
        axes={"pattern": PATTERNS}, truncated=side_rule(side), tokens=pieces(m, ids), layers=layers, heads=heads,
        pooled=side, pattern=pooled(pattern, side).numpy(),
    )  # fmt: skip


def side_of(heads: int, T: int, squares: int, most: int) -> int:
    """Side of the squares that T x T patterns are pooled in: at most `squares` in a row, and `most` numbers in all."""
    side = -(-T // squares)
    while heads * (-(-T // side)) ** 2 > most and side < T:
        side += 1
    return side


def side_rule(side: int, what: str = "") -> str | None:
    return f"{what}each value is the largest of a square of {side} x {side} tokens." if side > 1 else None


def pooled(pattern: Tensor, side: int) -> Tensor:
    """The largest value of each side x side square; those at the right and lower edge may be smaller."""
    return F.max_pool2d(pattern, side, ceil_mode=True) if side > 1 else pattern


@public
def head_labels(m: Model, windows: int = WINDOWS) -> Result:
    """What each head does, by five scores: means of its pattern A[query i, key j] over fixed validation windows.

        previous   A[i, i-1]                       first   A[i, 0], i >= 2             current   A[i, i]
        same       mass on earlier copies of token i, where there are any
        induction  A[i, i-L+1] over the second copy in <bos> r r, r = L random ids with a fixed seed

    A label is given to a score of at least 0.4 that is also twice the head's own score at step 0; otherwise "mixed".
    score: of the label, or the highest of a mixed head; at_start: the same score at step 0, None if the run has no
    weights of step 0; same is None where no window repeats a token. length: tokens of a window.
    """
    scores, length = head_scores(m, windows)
    start = m if m.step == 0 else at_start(m)
    before = scores if start is m else head_scores(start, windows)[0] if start else None
    labels = []
    for layer in range(m.config.n_layers):
        for head in range(m.config.n_heads):
            own = {kind: _number(scores[kind][layer, head]) for kind in KINDS}
            then = {kind: _number(before[kind][layer, head]) for kind in KINDS} if before else None
            labels.append({"layer": layer, "head": head, **label_of(own, then), "scores": own})
    return Result(labels=labels, rule=RULE + (NO_START if before is None else ""), windows=windows, length=length)


def _number(x: Tensor) -> float | None:
    return None if x.isnan() else float(x)


def at_start(m: Model) -> Model | None:
    """The same run at step 0, if its weights are still there."""
    try:
        return load(f"{m.run.folder.as_posix()}@0")
    except UserError:
        return None


def label_of(scores: dict[str, float | None], start: dict[str, float | None] | None) -> dict[str, Any]:
    """label, score and at_start of a head with these scores, and those at step 0 if they are known."""
    found = {kind: score for kind, score in scores.items() if score is not None}
    then = start or {}
    fitting = [k for k, x in found.items() if x >= LEAST_SCORE and x >= OVER_START * (then.get(k) or 0.0)]
    kind = max(fitting or found, key=lambda k: found[k])
    return {"label": kind if fitting else "mixed", "score": found[kind], "at_start": then.get(kind)}


def head_scores(m: Model, count: int) -> tuple[dict[str, Tensor], int]:
    """The five scores of every head, (layers, heads) each, and the length of the windows."""
    ids = windows(m, count)[:, :-1]
    length = min(REPEATED, (m.config.block_size - 1) // 2)
    generator = torch.Generator().manual_seed(SEED)
    r = torch.randint(len(SPECIALS), m.config.vocab_size, (count, length), generator=generator)
    copies = torch.cat((torch.full((count, 1), BOS), r, r), dim=1)
    found = [mean_of([summed(*batch) for batch in patterns(m.model, ids)])]
    found.append(mean_of([{"induction": induction(pattern, length)} for pattern, _ in patterns(m.model, copies)]))
    return found[0] | found[1], ids.shape[1]


def patterns(model: TinyGPT, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Patterns (layers, B, H, T, T) with their ids (B, T), for so many of the sequences at once as fit into memory."""
    names = [f"block.{i}.pattern" for i in range(model.config.n_layers)]
    for batch in ids.split(AT_ONCE):
        seen = record(model, batch, names)
        yield torch.stack([seen[name] for name in names]), batch


Sum = tuple[Tensor, int]  # of values of each head, and how many values


def summed(pattern: Tensor, ids: Tensor) -> dict[str, Sum]:
    """previous, first, current and same of patterns (..., B, H, T, T) of (B, T) ids: sums over B and T, (..., H)."""
    B, T = ids.shape
    copies = (ids[:, :, None] == ids[:, None, :]).tril(-1)  # (B, query, key)
    return {
        "previous": (pattern.diagonal(-1, -2, -1).sum((-3, -1)), B * (T - 1)),
        "first": (pattern[..., 2:, 0].sum((-3, -1)), B * max(0, T - 2)),
        "current": (pattern.diagonal(0, -2, -1).sum((-3, -1)), B * T),
        "same": ((pattern * copies[:, None]).sum((-4, -2, -1)), int(copies.any(-1).sum())),
    }


def induction(pattern: Tensor, length: int) -> Sum:
    """A[i, i-L+1] of patterns (..., B, H, T, T) over the second copy in <bos> r r, which begins at L + 1."""
    found = pattern.diagonal(1 - length, -2, -1)[..., 2:]  # of queries L + 1 to 2 L
    return found.sum((-3, -1)), pattern.shape[-4] * length


def mean_of(parts: Sequence[dict[str, Sum]]) -> dict[str, Tensor]:
    """Means over several sums; NaN of none."""
    kinds = parts[0]
    return {kind: sum(part[kind][0] for part in parts) / torch.tensor(sum(p[kind][1] for p in parts)) for kind in kinds}
