"""One cell of an activation, with its arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.config import listing
from tinygpt.errors import UserError
from tinygpt.inspect.result import Result, public
from tinygpt.inspect.tokens import piece
from tinygpt.inspect.trace import (
    LOOKED,
    LookEdit,
    Model,
    Recorder,
    checked,
    encode,
    entering,
    middle,
    names_of,
    prepare,
)

MOST_TERMS = 400  # of one cell's sum; the smaller ones are added up

Terms = list[tuple[str, float, float]]  # label, a, b of each product


@public
def explain(m: Model, prompt: str, name: str, index: Sequence[int], edits: Sequence[dict[str, Any]] = ()) -> Result:
    """One cell of an activation as the sum that it is: value = f(bias + sum of a * b), in numbers.

    index: [position, channel], for scores, masked and pattern [head, query, key]. terms: label, a, b, product, largest
    magnitude first, at most 400, the rest added up as "others". sum: of bias and products; value: what the pass
    computed; formula: how they belong together. A masked cell has no value. UserError for an unknown name or cell.
    """
    ids, c = encode(m, prompt), m.config
    patterns = [f"block.{i}.pattern" for i in range(c.n_layers)]  # computed only where a cell needs them
    changes, looks = prepare(m, ids, edits)
    with torch.inference_mode(), Recorder(m.model, [*names_of(c), *patterns, name], changes, looks) as seen:
        m.model(ids)
    cells = seen[name][0]
    if len(index) != cells.dim():
        axes = "[head, query, key]" if cells.dim() == 3 else "[position, channel]"
        raise UserError(f"index={list(index)} has {len(index)} numbers; a cell of {name} is {axes}.")
    place = [checked(f"index {i}", i, size) for i, size in zip(index, cells.shape, strict=True)]
    value = float(cells[tuple(place)])
    shown = [piece(m.tokenizer, int(id))["shown"] for id in ids[0]]
    terms, bias, formula, function = _cell(m, seen, name, place, shown, looks)
    products = sorted(((label, a, b, a * b) for label, a, b in terms), key=lambda term: -abs(term[3]))
    total = bias + sum(product for *_, product in products)
    if not math.isinf(value) and abs(function(total) - value) > 1e-3 * max(1.0, abs(value)):
        formula += "; an edit replaced it"
    lines = [{"label": label, "a": a, "b": b, "product": product} for label, a, b, product in products[:MOST_TERMS]]
    if rest := products[MOST_TERMS:]:
        lines.append({"label": "others", "a": None, "b": None, "product": sum(product for *_, product in rest)})
    told = "hidden" if math.isinf(value) else f"{value:.5g}"
    return Result(
        truncated=f"{len(rest)} small terms are added up as others." if rest else None,
        name=name, index=place, value=None if math.isinf(value) else value,
        formula=f"{name}[{listing(place)}] = {formula} = {told}", terms=lines, bias=bias, sum=total,
    )  # fmt: skip


def _same(x: float) -> float:
    return x


def _cell(
    m: Model,
    seen: Recorder,
    name: str,
    place: Sequence[int],
    shown: Sequence[str],
    looks: Mapping[int, Sequence[LookEdit]],
) -> tuple[Terms, float, str, Callable[[float], float]]:
    """Terms and bias of a cell, its formula in words and numbers, and what is applied to the sum."""
    t, j = place[-2], place[-1]
    model: Any = m.model
    vector = lambda source: seen[source][0, t].double()  # noqa: E731
    before = m.config.norm_place == "before"
    if name == "embedding":
        return [(f"table[{shown[t]}, {j}]", float(vector(name)[j]), 1.0)], 0.0, f"row {shown[t]!r} of the table", _same
    if name == "stream":
        terms = [("embedding", float(vector("embedding")[j]), 1.0)]
        if m.config.positions == "learned":
            terms.append((f"positions[{t}, {j}]", float(model.positions.table.weight[t, j]), 1.0))
        return terms, 0.0, " + ".join(label for label, *_ in terms), _same
    if name == "final_norm":
        return _normalised(model.norm, vector(entering(m.config.n_layers)), j)
    if name == "logits":
        return _linear(model.head, vector("final_norm"), j, "final_norm", "head")
    _, number, *rest = name.split(".")
    i = int(number)
    block, what = model.blocks[i], rest[0] if rest else ""
    stream = entering(i)
    if what == "input_norm":
        x = vector(stream) if before else (seen[stream] + seen[f"block.{i}.attention"])[0, t].double()
        return _normalised(block.norm_1, x, j)
    read = f"block.{i}.input_norm" if before else stream  # what attention reads
    if what in ("query", "key", "value"):
        return _linear(block.attention.get_submodule(what), vector(read), j, read, f"W_{what}")
    if what == "heads":
        h, K = j // m.config.d_head, m.config.d_head
        g = h // (m.config.n_heads // m.config.n_kv_heads)
        values, pattern = seen[f"block.{i}.value"][0, :, g * K + j % K], seen[f"block.{i}.pattern"][0, h, t]
        terms = [(f"{s} {shown[s]}", float(a), float(b)) for s, (a, b) in enumerate(zip(pattern, values, strict=True))]
        return (
            terms,
            0.0,
            f"sum over positions of pattern[head {h}, {t}, position] * value[position, {g * K + j % K}]",
            _same,
        )
    if what == "attention":
        return _linear(block.attention.output, vector(f"block.{i}.heads"), j, f"block.{i}.heads", "W_output")
    mid = middle(m, seen, i)[0, t]
    if what == "hidden":
        x = (block.norm_2(mid) if before else mid).double()
        label = f"block.{i}.norm_2" if before else f"block.{i}.input_norm"
        if m.config.feed_forward == "swiglu":
            gate, up = (float(linear.weight[j].double() @ x + (0 if linear.bias is None else linear.bias[j].double()))
                        for linear in (block.feed_forward.gate, block.feed_forward.up))  # fmt: skip
            open_ = float(F.silu(torch.tensor(gate, dtype=torch.float64)))
            words = f"silu({gate:.5g}) * {up:.5g}, with gate = W_gate x and up = W_up x"
            return [("silu(gate) * up", open_, up)], 0.0, words, _same
        act = block.feed_forward.hidden
        terms, bias, words, _ = _linear(block.feed_forward.up, x, j, label, "W_up")
        return terms, bias, f"gelu({words})", lambda total: float(act(torch.tensor(total, dtype=torch.float64)))
    if what == "feed_forward":
        return _linear(block.feed_forward.down, vector(f"block.{i}.hidden"), j, f"block.{i}.hidden", "W_down")
    if what in LOOKED:
        return _looked(m, seen, i, what, place, shown, looks)
    if before:
        adds = [stream, f"block.{i}.attention", f"block.{i}.feed_forward"]
        return [(add, float(vector(add)[j]), 1.0) for add in adds], 0.0, " + ".join(adds), _same
    return _normalised(block.norm_2, (mid + seen[f"block.{i}.feed_forward"][0, t]).double(), j)


def _linear(
    linear: Any, x: Tensor, j: int, source: str, called: str
) -> tuple[Terms, float, str, Callable[[float], float]]:
    weights = linear.weight[j].double().tolist()
    terms = [(f"{source}[{i}]", a, b) for i, (a, b) in enumerate(zip(x.tolist(), weights, strict=True))]
    bias = 0.0 if linear.bias is None else float(linear.bias[j])
    words = f"sum over i of {source}[i] * {called}[{j}, i]" + (f" + bias {bias:.5g}" if linear.bias is not None else "")
    return terms, bias, words, _same


def _normalised(module: Any, x: Tensor, j: int) -> tuple[Terms, float, str, Callable[[float], float]]:
    weight = float(module.weight[j])
    if isinstance(module, nn.LayerNorm):
        mean, std = float(x.mean()), float((x.var(correction=0) + module.eps).sqrt())
        bias = 0.0 if module.bias is None else float(module.bias[j])
        words = f"({float(x[j]):.5g} - mean {mean:.5g}) / std {std:.5g} * weight {weight:.5g} + bias {bias:.5g}"
        return [("(x - mean) / std * weight", (float(x[j]) - mean) / std, weight)], bias, words, _same
    rms = float((x.pow(2).mean() + module.eps).sqrt())
    words = f"{float(x[j]):.5g} / rms {rms:.5g} * weight {weight:.5g}"
    return [("x / rms * weight", float(x[j]) / rms, weight)], 0.0, words, _same


def _looked(
    m: Model, seen: Recorder, i: int, what: str, place: Sequence[int], shown: Sequence[str],
    looks: Mapping[int, Sequence[LookEdit]],
) -> tuple[Terms, float, str, Callable[[float], float]]:  # fmt: skip
    h, t, s = place
    pair = f"query {t} {shown[t]!r}, key {s} {shown[s]!r}"
    if what == "pattern":
        masked = seen[f"block.{i}.masked"][0, h, t].double()
        own = (masked - masked.max()).exp()
        words = f"exp(score - largest) / their sum over {int((own > 0).sum())} keys; {pair}"
        return [("exp(score - largest) / sum", float(own[s]), float(1 / own.sum()))], 0.0, words, _same
    q, k = seen.queries[i]
    K, g = m.config.d_head, h // (m.config.n_heads // m.config.n_kv_heads)
    scale = 1 / math.sqrt(K)
    for edit in looks.get(i, ()):
        reached = torch.zeros(m.config.n_heads, len(shown), dtype=torch.bool)
        reached[edit.rows] = True
        if bool(reached[h, t]):
            scale *= {"scale_off": math.sqrt(K), "temperature": 1 / edit.value}.get(edit.op, 1.0)
    terms = [
        (f"q[{n}] * k[{n}]", float(a), float(b) * scale)
        for n, (a, b) in enumerate(zip(q[0, h, t], k[0, g, s], strict=True))
    ]
    words = f"sum over {K} channels of q * k * {scale:.5g} (1 / sqrt({K}) unless edited); {pair}"
    return terms, 0.0, words, _same
