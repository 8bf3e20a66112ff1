"""A checkpoint, and what is inside it while it reads a prompt: named activations, edits of them, and their arithmetic.

`Recorder` is the one place that reaches into a running model. Without edits it only listens: the logits of a recorded
pass are those of any other, bit for bit. Names and shapes are those of the table `ACTIVATIONS` in model.py, and:

    stream                what enters block 0: embedding + positions (B T C)
    block.{i}.scores      q k^T / sqrt(K) of each head, before the mask
    block.{i}.masked      the same with -inf where a position may not look
    block.{i}.pattern     softmax of that: rows are queries, and sum to 1

Shapes: B sequences, T positions, C = n_embd, H = n_heads, G = n_kv_heads, K = d_head, V = vocab_size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import Tensor

from tinygpt import runs
from tinygpt.checkpoint import folder_name, weights_sha256
from tinygpt.config import ModelConfig, listing
from tinygpt.errors import UserError, did_you_mean
from tinygpt.inference import encode_prompt
from tinygpt.inspect.result import MOST_NUMBERS, Result, public
from tinygpt.inspect.tokens import piece
from tinygpt.model import ACTIVATIONS, TinyGPT
from tinygpt.runs import Run
from tinygpt.storage import stamps
from tinygpt.tokenizer import Tokenizer

WINDOWS, WINDOW_TOKENS = 32, 128  # of validation text: for means, labels and held-out loss
MOST_WINDOWS = 1_000
AT_ONCE = 8  # windows in one pass: their logits are in memory together
MOST_SHOWN = MOST_NUMBERS * 4 // 5  # numbers of one reply; the rest of its size is for tokens and names


@dataclass(frozen=True, eq=False)
class Model:
    """One checkpoint, loaded: what all functions here look at. The weights lie on the CPU and never change."""

    run: Run
    model: TinyGPT
    step: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.run.tokenizer

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def reference(self) -> str:
        """What `load` takes to give this again."""
        return f"{self.run.folder.as_posix()}@{self.step}"

    @cached_property
    def sha256(self) -> str:
        """Of the weights, as in a checkpoint's manifest."""
        return weights_sha256(self.model)

    @property
    def identity(self) -> dict[str, Any]:
        """What a reply says about its model."""
        return {"run": self.run.folder.name, "step": self.step, "sha256": self.sha256, "parts": "reference"}

    @cached_property
    def means(self) -> dict[str, Tensor]:
        """Mean of everything that an edit can replace, over all positions of the fixed windows: (channels,) each."""
        names = [name for name in names_of(self.config) if name == "embedding" or name.endswith((".heads", "forward"))]
        names += [f"block.{i}" for i in range(self.config.n_layers)]
        ids = windows(self)[:, :-1]
        parts = [record(self.model, ids[i : i + AT_ONCE], names) for i in range(0, len(ids), AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]).mean((0, 1)) for name in names}


def load(reference: str) -> Model:
    """The checkpoint of a RUN: "alice" (its best), "alice@last", "alice@2000" (a checkpoint or a snapshot), or a path.

    UserError as `runs.load`.
    """
    run, model, loaded, _ = runs.load(reference)
    return Model(run, model.requires_grad_(False), loaded.step)


def weights_stamp(folder: Path, which: str) -> Any:
    """What changes when the weights of a step, or what reads them, do."""
    step = folder_name(int(which)) if which.isdecimal() else ""
    weights = [folder / "checkpoints" / step / name for name in ("MANIFEST.json", "model.safetensors")]
    return stamps(folder / "config.json", folder / "tokenizer.json", folder / "data", *weights,
                  folder / "snapshots" / f"{step}.safetensors")  # fmt: skip


def windows(m: Model, count: int = WINDOWS) -> Tensor:
    """`count` windows of validation text from evenly spaced places: (count, L + 1) ids, the last one a target only.

    L = min(block_size, 128), or all of a shorter text. UserError for fewer than three tokens, or too many windows.
    """
    if count > MOST_WINDOWS:
        raise UserError(f"windows={count} must be at most {MOST_WINDOWS:,}.")
    ids = m.run.val_ids
    length = min(m.config.block_size, WINDOW_TOKENS, len(ids) - 1)
    if count < 1 or length < 2:
        raise UserError(f"{count} windows of {max(length, 0)} tokens of validation text; both must be more.")
    starts = np.linspace(0, len(ids) - length - 1, count).astype(np.int64)
    return torch.from_numpy(np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int64))


# --- tokens ----------------------------------------------------------------------------------------------------------


def encode(m: Model, prompt: str) -> Tensor:
    """(1, T) ids of a prompt, <bos> for an empty one. UserError if they do not fit into block_size."""
    ids = encode_prompt(m.tokenizer, prompt)
    if len(ids) > m.config.block_size:
        raise UserError(
            f"the prompt has {len(ids):,} tokens, and this model reads at most {m.config.block_size:,} (block_size); "
            f"leave out {len(ids) - m.config.block_size:,}."
        )
    return torch.tensor([ids])


def pieces(m: Model, ids: Tensor | Iterable[int]) -> list[dict[str, Any]]:
    """`tokens.piece` of each."""
    return [piece(m.tokenizer, int(id)) for id in (ids.flatten().tolist() if isinstance(ids, Tensor) else ids)]


def checked(name: str, value: int, size: int) -> int:
    """An index from 0 to size - 1; negative ones count from the end. UserError outside."""
    if not -size <= value < size:
        raise UserError(f"{name}={value} is outside 0 to {size - 1}.")
    return value % size


def shown_positions(T: int, numbers_each: int, name: str = "positions", taken: int = 0) -> tuple[int, str | None]:
    """First of the last positions that fit into one reply beside `taken` numbers, and the rule if some do not."""
    fitting = max(0, MOST_SHOWN - taken) // max(1, numbers_each)
    if not fitting:
        raise UserError(f"one position has {numbers_each:,} numbers, a reply at most {MOST_SHOWN:,}; ask for less.")
    if fitting >= T:
        return 0, None
    return T - fitting, f"the last {fitting} of {T} {name}: a reply holds about {MOST_SHOWN:,} numbers."


# --- edits: what is done to the model while it reads -----------------------------------------------------------------

OPS = {
    "head": ("zero", "mean", "patch_from"),
    "mlp": ("zero", "mean", "patch_from"),
    "resid": ("zero", "mean", "patch_from"),
    "scores": ("mask_off", "scale_off", "temperature", "freeze_pattern"),
}


@dataclass(frozen=True)
class Edit:
    """One edit. `None` in layer, index (a head) or pos means all of them.

    part: "head" (its output, before W_output), "mlp" (what the feed-forward adds), "resid" (the stream after a block;
    layer -1: the embedding) or "scores" (pos is then the query).
    op: "zero"; "mean" over the fixed validation windows; "patch_from", the value at the same place in `prompt`;
    for scores "mask_off", "scale_off" (no sqrt(K)), "temperature" (scores / value), "freeze_pattern" (the pattern
    of `prompt`; without one, that of the same prompt without edits).
    """

    part: Literal["head", "mlp", "resid", "scores"]
    op: str
    layer: int | None = None
    index: int | None = None
    pos: int | None = None
    value: float | None = None
    prompt: str | None = None

    def layers(self, config: ModelConfig) -> list[int]:
        return list(range(config.n_layers)) if self.layer is None else [self.layer]

    def name(self, layer: int) -> str:
        """The activation that it changes."""
        if layer < 0:
            return "embedding"
        return (
            f"block.{layer}" + {"head": ".heads", "mlp": ".feed_forward", "resid": "", "scores": ".pattern"}[self.part]
        )


Given = Sequence[Edit | Mapping[str, Any]]


def read_edits(config: ModelConfig, T: int, given: Given) -> list[Edit]:
    """Edits from dicts, each checked against the model and a prompt of T tokens. UserError for one that cannot be."""
    edits = []
    known = [field.name for field in dataclasses.fields(Edit)]
    for values in given:
        fields = dataclasses.asdict(values) if isinstance(values, Edit) else dict(values)
        if unknown := fields.keys() - set(known):
            name = min(unknown)
            raise UserError(f"an edit has no {name!r}{did_you_mean(name, known)}; it takes {listing(known)}.")
        try:
            edit = pydantic.TypeAdapter(Edit).validate_python(fields)
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            name = str(wrong["loc"][0])
            raise UserError(f"edit: {name}={fields.get(name)!r} is wrong: {wrong['msg'].lower()}.") from None
        if edit.op not in OPS[edit.part]:
            raise UserError(f"edit: part {edit.part!r} takes op {listing(OPS[edit.part])}, not {edit.op!r}.")
        if edit.layer is not None and not -(edit.part == "resid") <= edit.layer < config.n_layers:
            raise UserError(f"edit: layer={edit.layer} is outside 0 to {config.n_layers - 1}.")
        if edit.index is not None and edit.part not in ("head", "scores"):
            raise UserError(f"edit: index={edit.index} counts heads, which part {edit.part!r} has not; leave it out.")
        if edit.index is not None:
            checked("edit: index", edit.index, config.n_heads)
        if edit.pos is not None:
            checked("edit: pos", edit.pos, T)
        if edit.op == "temperature" and not (edit.value is not None and 0 < edit.value < math.inf):
            raise UserError(f"edit: temperature needs a value above 0, not {edit.value}.")
        if edit.op == "patch_from" and edit.prompt is None:
            raise UserError("edit: patch_from needs a prompt, the text to patch from.")
        edits.append(edit)
    return edits


Change = Callable[[Tensor], Tensor]  # of a module's output


@dataclass(frozen=True)
class LookEdit:
    """An edit of one layer's scores: which rows of (H, T), and what."""

    rows: tuple[slice, slice]
    op: str
    value: float = 1.0
    pattern: Tensor | None = None  # (H, T, T)


def one(index: int | None, size: int, width: int = 1) -> slice:
    """The slice of one index out of `size`, or of all."""
    return slice(None) if index is None else slice(index % size * width, (index % size + 1) * width)


def prepare(m: Model, ids: Tensor, given: Given) -> tuple[list[tuple[str, Change]], dict[int, list[LookEdit]]]:
    """Edits as changes of named activations and of the looks of layers, for prompts (B, T); others are read first."""
    T, c = ids.shape[1], m.config
    edits = read_edits(c, T, given)
    others: dict[str | None, dict[str, Tensor]] = {}
    for prompt in {edit.prompt for edit in edits if edit.op in ("patch_from", "freeze_pattern")}:
        other = ids if prompt is None else encode(m, prompt)
        if other.shape[1] != T:
            raise UserError(f"the other prompt has {other.shape[1]} tokens and this one {T}; they must be as many.")
        names = {edit.name(layer) for edit in edits if edit.prompt == prompt for layer in edit.layers(c)}
        others[prompt] = record(m.model, other, sorted(names))
    changes: list[tuple[str, Change]] = []
    looks: dict[int, list[LookEdit]] = {}
    for edit in edits:
        for layer in edit.layers(c):
            name, rows = edit.name(layer), one(edit.pos, T)
            there = others[edit.prompt][name] if edit.prompt in others else None
            if edit.part == "scores":
                pattern = there[0] if edit.op == "freeze_pattern" and there is not None and len(there) == 1 else there
                look = LookEdit((one(edit.index, c.n_heads), rows), edit.op, edit.value or 1.0, pattern)
                looks.setdefault(layer, []).append(look)
                continue
            columns = one(edit.index, c.n_heads, c.d_head)
            if edit.op == "patch_from" and there is not None:
                changes.append((name, replace(rows, columns, there[:, rows, columns])))
            else:
                changes.append((name, replace(rows, columns, m.means[name][columns] if edit.op == "mean" else 0.0)))
    return changes, looks


def replace(rows: slice, columns: slice, value: Tensor | float) -> Change:
    """A change that puts `value` at some positions and channels."""

    def change(output: Tensor) -> Tensor:
        output = output.clone()
        output[:, rows, columns] = value
        return output

    return change


def look_at(q: Tensor, k: Tensor, edits: Sequence[LookEdit] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, masked scores and pattern, (B, H, T, T) each, written out: what the fused operator keeps to itself.

        scores = q k^T / sqrt(K);   pattern = softmax(scores, -inf where key > query)

    q (B, H, T, K), k (B, G, T, K), both after norm and rotation.
    """
    H, T, K = q.shape[1:]
    scores = q @ k.repeat_interleave(H // k.shape[1], dim=1).transpose(2, 3) / math.sqrt(K)
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1).expand(H, T, T)
    for edit in edits:
        heads, queries = edit.rows
        if edit.op == "mask_off":
            hidden = hidden.clone()
            hidden[heads, queries] = False
        elif edit.op == "scale_off":
            scores[:, heads, queries] *= math.sqrt(K)
        elif edit.op == "temperature":
            scores[:, heads, queries] /= edit.value
    masked = scores.masked_fill(hidden, -math.inf)
    pattern = masked.softmax(-1)
    for edit in edits:
        if edit.pattern is not None:
            heads, queries = edit.rows
            pattern[:, heads, queries] = edit.pattern[..., heads, queries, :]
    return scores, masked, pattern


# --- the recorder ----------------------------------------------------------------------------------------------------

LOOKED = ("scores", "masked", "pattern")


def names_of(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """The table of activations for this model, blocks counted: name -> (module, shape); and `stream`."""
    table: dict[str, tuple[str, str]] = {}
    for template, (module, shape) in ACTIVATIONS.items():
        for i in range(config.n_layers) if "{i}" in template else [0]:
            table[template.format(i=i)] = (module.format(i=i), shape)
        if template == "embedding":
            table["stream"] = ("dropout", "B T C")
    order = ["embedding", "stream", *(n for i in range(config.n_layers) for n in table if n.startswith(f"block.{i}."))]
    order = [
        n for name in order for n in ([name, name.rpartition(".")[0]] if name.endswith(".feed_forward") else [name])
    ]
    return {name: table[name] for name in [*order, "final_norm", "logits"]}


class Recorder:
    """Within `with`, the model's passes are recorded, and edited; afterwards the model is as it was.

        with Recorder(model, ["block.0.query", "block.0.pattern"]) as recorded:
            logits = model(idx)
        recorded["block.0.query"]     (B, T, H*K), the very tensor that the pass computed

    changes: (name, function of the output), made in this order before anything is recorded. looks: edits of scores by
    layer; those layers compute attention explicitly, all others as ever.
    """

    def __init__(
        self, model: TinyGPT, names: Iterable[str] = (), changes: Sequence[tuple[str, Change]] = (),
        looks: Mapping[int, Sequence[LookEdit]] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.names, self.changes, self.looks = model, list(dict.fromkeys(names)), changes, looks or {}
        self.seen: dict[str, Tensor] = {}
        self.queries: dict[int, tuple[Tensor, Tensor]] = {}  # rotated q and k of a layer
        self.undo: list[Callable[[], None]] = []
        table = names_of(model.config)
        self.modules = {name: model.get_submodule(module) for name, (module, _) in table.items()}
        looked = [f"block.{i}.{what}" for i in range(model.config.n_layers) for what in LOOKED]
        for name in self.names:
            if name not in table and name not in looked:
                known = [*table, *looked]
                raise UserError(
                    f"there is no activation {name!r}{did_you_mean(name, known)}; see the names of forward."
                )

    def __enter__(self) -> Recorder:
        for name, change in self.changes:
            self._hook(name, lambda _module, _inputs, output, change=change: change(output))
        for name in self.names:
            if name in self.modules:
                self._hook(name, lambda _module, _inputs, output, name=name: self.seen.update({name: output}))
        layers = {int(name.split(".")[1]) for name in self.names if name not in self.modules}
        for layer in sorted(layers | self.looks.keys()):
            self._watch(layer)
        return self

    def __exit__(self, *_: object) -> None:
        while self.undo:
            self.undo.pop()()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.seen and name.endswith(LOOKED):
            layer = int(name.split(".")[1])
            looked = look_at(*self.queries[layer], self.looks.get(layer, ()))
            self.seen.update({f"block.{layer}.{what}": tensor for what, tensor in zip(LOOKED, looked, strict=True)})
        return self.seen[name]

    def _hook(self, name: str, function: Callable[..., Any]) -> None:
        self.undo.append(self.modules[name].register_forward_hook(function).remove)

    def _watch(self, layer: int) -> None:
        attention: Any = self.model.blocks[layer].attention
        usual, edits = attention.look, self.looks.get(layer, ())

        def look(q: Tensor, k: Tensor, v: Tensor, cache: object) -> Tensor:
            self.queries[layer] = q, k
            for what in LOOKED:
                self.seen.pop(f"block.{layer}.{what}", None)  # of an earlier pass
            if not edits:
                return usual(q, k, v, cache)
            pattern = self[f"block.{layer}.pattern"]
            return pattern @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)

        attention.look = look  # on this instance, over the method of its class
        self.undo.append(lambda: delattr(attention, "look"))


@torch.inference_mode()
def record(
    model: TinyGPT, ids: Tensor, names: Iterable[str] = (), changes: Sequence[tuple[str, Change]] = (),
    looks: Mapping[int, Sequence[LookEdit]] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """One pass over (B, T) ids: the named activations, and "logits"."""
    names = [*names]
    with Recorder(model, names, changes, looks) as recorded:
        logits = model(ids)
        return {**{name: recorded[name] for name in names}, "logits": logits}


def record_edited(m: Model, ids: Tensor, names: Iterable[str], edits: Given) -> dict[str, Tensor]:
    """`record` with edits."""
    return record(m.model, ids, names, *prepare(m, ids, edits))


# --- one prompt ------------------------------------------------------------------------------------------------------


@public
def forward(
    m: Model, prompt: str, names: Sequence[str] = (), edits: Sequence[dict[str, Any]] = (),
    position: int | None = None, stream_at: int | None = None,
) -> Result:  # fmt: skip
    """What stands in the model while it reads: the residual stream as a sum, and any activation by name.

    names: every activation with its axes, its shape, and the mean over positions of its L2 norm. added (part,
    position): norm of what the embedding, the positions, each attention and each feed-forward add to the stream, named
    in stream_parts; total (stage, position): norm of the stream after it, named in stages. With the norm before each
    part the stream is exactly the sum of what was added; with the norm after (norm_place), each sum is normalised.
    Each name in `names` comes as an array of that name, (position, channel) or (head, query, key), from first_position
    on; `position` asks for that one alone. stream_at: also what is added at that position, channel by channel, as
    added_at (part, channel), and the stream in the end, stream_at (channel). UserError for an unknown name, or more
    than a reply holds for one position.
    """
    ids, c = encode(m, prompt), m.config
    T = ids.shape[1]
    table = names_of(c)
    seen = record_edited(m, ids, [*table, *names], edits)
    sizes = {name: math.prod(seen[name].shape[1:]) // T for name in names}
    parts, added, stages, total = stream_of(m, seen)
    at = None if stream_at is None else checked("stream_at", stream_at, T)
    sums = {} if at is None else {"added_at": added[:, at].numpy(), "stream_at": total[-1, at].numpy()}
    taken = sum(array.size for array in sums.values())
    if position is None:
        first, rule = shown_positions(T, sum(sizes.values()), taken=taken)
        rows = slice(first, T)
    else:
        first, rule = checked("position", position, T), None
        rows = slice(first, first + 1)
        shown_positions(1, sum(sizes.values()))
    described: list[dict[str, Any]] = [
        {
            "name": name,
            "axes": ["position", "channel"],
            "shape": list(seen[name].shape[1:]),
            "norm": float(norm(seen[name]).mean()),
        }
        for name in table
    ]
    described += [
        {"name": f"block.{i}.{what}", "axes": ["head", "query", "key"], "shape": [c.n_heads, T, T], "norm": None}
        for i in range(c.n_layers) for what in LOOKED
    ]  # fmt: skip
    return Result(
        axes={
            "added": "part position", "total": "stage position",
            **({"added_at": "part channel", "stream_at": "channel"} if sums else {}),
            **{name: "position channel" if name in table else "head query key" for name in names},
        },
        truncated=rule, tokens=pieces(m, ids), names=described, stream_parts=parts, added=norm(added).numpy(),
        stages=stages, total=norm(total).numpy(), first_position=first,
        norm_place=m.config.norm_place, **sums,
        **{name: seen[name][0][..., rows, :].numpy() for name in names},
    )  # fmt: skip


def norm(x: Tensor) -> Tensor:
    """L2 norm over channels."""
    return x.norm(dim=-1)


def stream_of(m: Model, seen: Mapping[str, Tensor]) -> tuple[list[str], Tensor, list[str], Tensor]:
    """What is added to the stream (parts, T, C) and the stream after it (stages, T, C), each with its names."""
    parts, stages = {"embedding": seen["embedding"][0]}, {"embedding": seen["stream"][0]}
    if m.config.positions == "learned":
        positions: Any = m.model.positions
        parts["positions"] = positions.add(torch.zeros_like(seen["stream"]), 0)[0]
        stages = {"embedding + positions": seen["stream"][0]}
    for i in range(m.config.n_layers):
        for what, label in (("attention", "attention"), ("feed_forward", "feed-forward")):
            parts[f"block {i} {label}"] = seen[f"block.{i}.{what}"][0]
        stages[f"block {i} attention"] = middle(m, seen, i)[0]
        stages[f"block {i}"] = seen[f"block.{i}"][0]
    return list(parts), torch.stack([*parts.values()]), list(stages), torch.stack([*stages.values()])


def entering(i: int) -> str:
    """The name of the stream that block i reads."""
    return f"block.{i - 1}" if i else "stream"


def middle(m: Model, seen: Mapping[str, Tensor] | Recorder, i: int) -> Tensor:
    """The stream of block i between attention and feed-forward."""
    if m.config.norm_place == "after":
        return seen[f"block.{i}.input_norm"]
    return seen[entering(i)] + seen[f"block.{i}.attention"]
