"""Where the answer comes from: read the stream at every layer, share the logit out, edit the model and look again.

Shapes: B sequences, T positions, C = n_embd, H = n_heads, K = d_head, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.errors import UserError
from tinygpt.inspect.result import Result, public
from tinygpt.inspect.tokens import piece
from tinygpt.inspect.trace import (
    AT_ONCE,
    Change,
    Model,
    checked,
    encode,
    entering,
    middle,
    names_of,
    pieces,
    record,
    record_edited,
    shown_positions,
    windows,
)

NUMBERS_OF_TOP = 4  # that the id and the text of a token weigh in a reply, about
TOP = 10  # tokens shown before and after an edit
MOST_GRID_TOKENS = 64  # of a prompt in `patch_grid`: it costs layers x tokens passes
GRID_AT_ONCE = 1024  # tokens of `patch_grid` in one pass: all of their logits are in memory together
SMALLEST_DIFFERENCE = 1e-4  # of two logits, of which a share can be restored


@public
def lens(m: Model, prompt: str, target: int | None = None, edits: Sequence[dict[str, Any]] = ()) -> Result:
    """The answer as each layer would give it: final norm and unembedding applied to the stream after each block.

    rows: "embedding", "block 0", ...; the last row is the model's output. top (layer, position): likeliest token, and
    its probability. targets: per position the token that stands next, for the last one the model's own likeliest, or
    everywhere `target`; target_probability and rank (0: the likeliest) say how each layer sees it. Positions begin at
    first_position. Source: nostalgebraist 2020, "interpreting GPT: the logit lens". UserError for an id outside the
    vocabulary.
    """
    ids, c = encode(m, prompt), m.config
    T = ids.shape[1]
    if target is not None and not 0 <= target < c.vocab_size:
        raise UserError(f"target={target} is outside 0 to {c.vocab_size - 1}, the ids of this vocabulary.")
    streams = [entering(i) for i in range(c.n_layers + 1)]
    seen = record_edited(m, ids, streams, edits)
    first, rule = shown_positions(T, len(streams) * (3 + NUMBERS_OF_TOP))
    with torch.inference_mode():
        logits = [unembedded(m, seen[name]) for name in streams[:-1]]
        rows = torch.stack([x[0, first:] for x in (*logits, seen["logits"])])  # (layers + 1, positions, V)
        if target is None:
            wanted = torch.cat((ids[0, 1:], seen["logits"][0, -1:].argmax(-1)))[first:]
        else:
            wanted = torch.full((T - first,), target)
        log_total = rows.logsumexp(-1)
        best, top = rows.max(-1)
        aimed = rows.gather(-1, wanted.expand(len(rows), -1)[..., None])  # (layers + 1, positions, 1)
        rank = (rows > aimed).sum(-1)
    return Result(
        axes=dict.fromkeys(("probability", "target_probability", "rank"), "layer position"), truncated=rule,
        tokens=pieces(m, ids), rows=["embedding", *(f"block {i}" for i in range(c.n_layers))],
        top=[pieces(m, row) for row in top], probability=(best - log_total).exp().numpy(),
        target_probability=(aimed[..., 0] - log_total).exp().numpy(), rank=rank.numpy(), targets=pieces(m, wanted),
        first_position=first,
    )  # fmt: skip


def unembedded(m: Model, stream: Tensor) -> Tensor:
    """What the model would answer if this stream were its last: (B, T, C) -> (B, T, V)."""
    return m.model.head(m.model.norm(stream))


# --- who wrote the logit ---------------------------------------------------------------------------------------------


@public
def attribution(
    m: Model, prompt: str, token: int | None = None, other: int | None = None, position: int = -1,
    difference: bool = True,
) -> Result:  # fmt: skip
    """Who wrote the logit: shares of the embedding, each head, each feed-forward and the biases, which sum to it.

    Each normalisation is frozen at its scale in this pass; then everything from a part to the logit is linear, for norm
    before and after alike. A direct effect: what a part does through later parts counts as theirs.
    difference: of token and other, by default the two likeliest; else the logit of token alone. share (part): summed up
    in `sum`, beside `logit`, which the model gave.
    UserError for a position or an id that is not there.
    """
    ids, V = encode(m, prompt), m.config.vocab_size
    at = checked("position", position, ids.shape[1])
    for name, id in (("token", token), ("other", other)):
        if id is not None and not 0 <= id < V:
            raise UserError(f"{name}={id} is outside 0 to {V - 1}, the ids of this vocabulary.")
    if other is not None and not difference:
        raise UserError(f"other={other} belongs to a difference; leave it out, or set difference to true.")
    seen = record(m.model, ids, names_of(m.config))
    logits = seen["logits"][0, at]
    likeliest = [int(id) for id in logits.topk(3).indices]
    token = next(id for id in likeliest if id != other) if token is None else token
    direction = m.model.head.weight[token].double()
    logit = float(logits[token])
    if difference:
        other = next(id for id in likeliest if id != token) if other is None else other
        direction = direction - m.model.head.weight[other].double()
        logit -= float(logits[other])
    names, vectors = parts_of_stream(m, seen, at)
    share = vectors @ direction
    told = lambda id: {**piece(m.tokenizer, id), "logit": float(logits[id])}  # noqa: E731
    return Result(
        axes={"share": "part"}, parts=names, share=share.numpy(), token=told(token),
        other=None if other is None else told(other), logit=logit, sum=float(share.sum()), position=at,
        difference=difference, tokens=pieces(m, ids),
    )  # fmt: skip


def parts_of_stream(m: Model, seen: dict[str, Tensor], t: int) -> tuple[list[dict[str, Any]], Tensor]:
    """What the head reads at position t, as a sum: the names of its parts, and (parts, C) in fp64."""
    c, model = m.config, m.model
    blocks: Any = model.blocks
    positions: Any = model.positions
    names: list[dict[str, Any]] = []
    vectors = torch.empty(0, c.n_embd, dtype=torch.float64)

    def add(kind: str, name: str, vector: Tensor, layer: int | None = None, head: int | None = None) -> None:
        nonlocal vectors
        names.append({"name": name, "kind": kind, "layer": layer, "head": head})
        vectors = torch.cat((vectors, vector.double()[None]))

    def normalise(norm: Any, x: Tensor, name: str, layer: int | None = None) -> None:
        nonlocal vectors
        vectors = frozen(norm, x.double(), vectors)
        if getattr(norm, "bias", None) is not None:
            add("bias", name, norm.bias, layer)

    add("embedding", "embedding", seen["embedding"][0, t])
    if c.positions == "learned":
        add("positions", "positions", positions.table.weight[t])
    for i, block in enumerate(blocks):
        output = block.attention.output
        heads = seen[f"block.{i}.heads"][0, t].double().view(c.n_heads, c.d_head)
        for h, head in enumerate(heads):
            columns = output.weight[:, h * c.d_head : (h + 1) * c.d_head].double()
            add("head", f"block {i} head {h}", columns @ head, i, h)
        if output.bias is not None:
            add("bias", f"block {i} attention bias", output.bias, i)
        if c.norm_place == "after":
            summed = (seen[entering(i)] + seen[f"block.{i}.attention"])[0, t]
            normalise(block.norm_1, summed, f"block {i} first norm's bias", i)
        add("feed_forward", f"block {i} feed-forward", seen[f"block.{i}.feed_forward"][0, t], i)
        if c.norm_place == "after":
            summed = (middle(m, seen, i) + seen[f"block.{i}.feed_forward"])[0, t]
            normalise(block.norm_2, summed, f"block {i} second norm's bias", i)
    normalise(model.norm, seen[entering(c.n_layers)][0, t], "final norm's bias")
    return names, vectors


def frozen(norm: Any, x: Tensor, vectors: Tensor) -> Tensor:
    """A normalisation as the linear map that it is when its scale stays that of x (C,): (parts, C) -> (parts, C).

    LayerNorm: (v - mean(v)) / std(x) * weight, its bias apart. RMSNorm: v / rms(x) * weight.
    """
    if isinstance(norm, nn.LayerNorm):
        scale = (x.var(correction=0) + norm.eps).rsqrt()
        return (vectors - vectors.mean(-1, keepdim=True)) * scale * norm.weight.double()
    return vectors * (x.pow(2).mean() + norm.eps).rsqrt() * norm.weight.double()


# --- what an edit does -----------------------------------------------------------------------------------------------


@public
def intervene(m: Model, prompt: str, edits: Sequence[dict[str, Any]], held_out: bool = False) -> Result:
    """What edits do to the next token: the likeliest before and after, and how far every position moved.

    moved (position): KL divergence of the answer after from the answer before [nats]. changed_tokens: positions whose
    likeliest token is another one. predicted_before and predicted_after (position): the likeliest next token at each
    position, with its probability. held_out: loss_before and loss_after [nats per token] on the fixed windows of
    validation text, else None. UserError as of `Edit`, or for held_out with an edit that needs a second prompt.
    """
    ids = encode(m, prompt)
    before = record(m.model, ids)["logits"][0].log_softmax(-1)  # (T, V)
    after = record_edited(m, ids, [], edits)["logits"][0].log_softmax(-1)
    tops = before.argmax(-1), after.argmax(-1)
    changed = [
        {"position": t, "before": piece(m.tokenizer, int(tops[0][t])), "after": piece(m.tokenizer, int(tops[1][t]))}
        for t in (tops[0] != tops[1]).nonzero()[:, 0].tolist()
    ]
    losses: tuple[float | None, float | None] = (None, None)
    if held_out:
        if needing := [edit["op"] for edit in edits if edit.get("prompt") is not None]:
            raise UserError(f"{needing[0]} needs a second prompt, which held-out text has not; set held_out to false.")
        losses = held_out_loss(m, ()), held_out_loss(m, edits)
    return Result(
        axes={"moved": "position"}, tokens=pieces(m, ids), before=_likeliest(m, before[-1]),
        after=_likeliest(m, after[-1]), moved=(before.exp() * (before - after)).sum(-1).clamp(min=0).numpy(),
        changed_tokens=changed, predicted_before=_best(m, before), predicted_after=_best(m, after),
        loss_before=losses[0], loss_after=losses[1],
    )  # fmt: skip


def _best(m: Model, log_probabilities: Tensor) -> list[dict[str, Any]]:
    values, tokens = log_probabilities.max(-1)
    chances = zip(tokens.tolist(), values.exp().tolist(), strict=True)
    return [{**piece(m.tokenizer, id), "probability": chance} for id, chance in chances]


def _likeliest(m: Model, log_probabilities: Tensor) -> list[dict[str, Any]]:
    values, tokens = log_probabilities.topk(min(TOP, len(log_probabilities)))
    chances = zip(tokens.tolist(), values.exp().tolist(), strict=True)
    return [{**piece(m.tokenizer, id), "probability": chance} for id, chance in chances]


def held_out_loss(m: Model, edits: Sequence[dict[str, Any]]) -> float:
    """Nats per token on the fixed windows of validation text."""
    total = 0.0
    ids = windows(m)
    for batch in ids.split(AT_ONCE):
        logits = record_edited(m, batch[:, :-1], [], edits)["logits"]
        total += float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return total / ids[:, 1:].numel()


# --- patching --------------------------------------------------------------------------------------------------------


@public
def patch_grid(
    m: Model, clean: str, other: str, target: int | None = None, part: Literal["resid", "head", "mlp"] = "resid"
) -> Result:
    """What each place contributes: the model reads `other`, and one place at a time gets its value from `clean`.

        effect = (d(patched) - d(other)) / (d(clean) - d(other)),   d = logit(target) - logit(foil) at the last position

    1: this place alone brings the answer of clean; 0: it does nothing. target: by default the likeliest token after
    clean; foil: that after other. part "resid": effect (layer, position) of the stream, from the embedding on, as
    `rows` name them; "mlp": of what each feed-forward adds; "head": effect (layer, head) of each head at all positions.
    UserError for prompts of different lengths or beyond 64 tokens, or where both prompts have the same answer.
    """
    c = m.config
    ids, others = encode(m, clean), encode(m, other)
    T = ids.shape[1]
    if others.shape[1] != T:
        raise UserError(f"clean has {T} tokens and other {others.shape[1]}; they must be as many: reword one.")
    if T > MOST_GRID_TOKENS:
        raise UserError(f"the prompts have {T} tokens; a patch grid takes at most {MOST_GRID_TOKENS}: shorten both.")
    if target is not None and not 0 <= target < c.vocab_size:
        raise UserError(f"target={target} is outside 0 to {c.vocab_size - 1}, the ids of this vocabulary.")
    template = {"resid": "block.{i}", "mlp": "block.{i}.feed_forward", "head": "block.{i}.heads"}[part]
    names = [template.format(i=i) for i in range(c.n_layers)]
    rows = [name.partition(".feed")[0].partition(".heads")[0].replace(".", " ") for name in names]
    if part == "resid":
        names, rows = ["embedding", *names], ["embedding", *rows]
    seen = record(m.model, ids, names)
    away = record(m.model, others)["logits"][0, -1]
    here = seen["logits"][0, -1]
    goal, foil = int(here.argmax()) if target is None else target, int(away.argmax())
    if goal == foil:
        better = int((here - away).argmax())
        raise UserError(
            f"{piece(m.tokenizer, foil)['shown']!r} is the target and the answer to other too; give another target, "
            f"such as {better} ({piece(m.tokenizer, better)['shown']!r}), which clean favours most."
        )
    full = float((here[goal] - here[foil]) - (away[goal] - away[foil]))
    if abs(full) < SMALLEST_DIFFERENCE:
        raise UserError("clean and other differ in nothing that the model answers; change one of them.")
    # Positions before the first token that differs have equal values: to patch them changes nothing.
    first = 0 if part == "head" else int((ids != others)[0].nonzero()[0])
    columns = c.n_heads if part == "head" else T
    effect = torch.zeros(len(names), columns)
    for row, name in enumerate(names):
        for places in torch.arange(first, columns).split(max(1, GRID_AT_ONCE // T)):
            change = _one_each(seen[name], places, c.d_head if part == "head" else 0)
            logits = record(m.model, others.expand(len(places), T), [], [(name, change)])["logits"][:, -1]
            effect[row, places] = (logits[:, goal] - logits[:, foil] - (away[goal] - away[foil])) / full
    return Result(
        axes={"effect": "layer head" if part == "head" else "layer position"}, tokens_clean=pieces(m, ids),
        tokens_other=pieces(m, others), rows=rows, effect=effect.numpy(),
        target=piece(m.tokenizer, goal), foil=piece(m.tokenizer, foil),
    )  # fmt: skip


def _one_each(clean: Tensor, places: Tensor, width: int) -> Change:
    """A change of a batch: each sequence gets one place of `clean` (1, T, C), a position or a head of that width."""

    def change(output: Tensor) -> Tensor:
        output = output.clone()
        for b, place in enumerate(places.tolist()):
            part = (slice(None), slice(place * width, (place + 1) * width)) if width else (place,)
            output[(b, *part)] = clean[(0, *part)]
        return output

    return change
