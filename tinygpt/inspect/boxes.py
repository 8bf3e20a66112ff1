"""The map of the model: every box that a token passes, with its numbers, its work and its memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tinygpt.config import ModelConfig
from tinygpt.inspect.result import Result, public
from tinygpt.inspect.trace import Model, names_of
from tinygpt.model import TinyGPT


@public
def architecture(
    m: Model, n_embd: int | None = None, n_layers: int | None = None, vocab_size: int | None = None,
    block_size: int | None = None,
) -> Result:  # fmt: skip
    """The boxes that a token passes, in order: shape, weights, parameters, work and memory of each.

    n_embd, n_layers, vocab_size, block_size redraw the counts for such a model, without weights: d_head and d_ff are
    derived anew when n_embd changes, and n_heads stays if it divides, else becomes the nearest number that does.
    parameters: numbers that are trained; they add up to `parameter_count`, a tied head counting 0. flops: of matrix
    products for one token that sees block_size positions, 2 for a multiplication and its addition. memory_bytes: the
    named activations of the box for one sequence of block_size, 4 bytes each.
    UserError for a size outside the ranges of the configuration.
    """
    changed = {"n_embd": n_embd, "n_layers": n_layers, "vocab_size": vocab_size, "block_size": block_size}
    fields = {name: value for name, value in changed.items() if value is not None}
    model = redrawn(m.config, fields) if fields else m.model
    c, boxes = model.config, _boxes(model)
    total = model.parameter_count()
    return Result(
        boxes=boxes,
        parameters=total,
        tied=c.tied,
        embedding_share=model.embedding.weight.numel() / total,
        flops_per_token=sum(box["flops"] for box in boxes),
        config=dataclasses.asdict(c),
    )


def redrawn(config: ModelConfig, fields: Mapping[str, int]) -> TinyGPT:
    """A model of other sizes without memory for its weights."""
    values = {**dataclasses.asdict(config), **fields}
    if values["n_embd"] != config.n_embd:
        width, even = values["n_embd"], 2 if config.positions == "rotary" else 1
        fitting = [h for h in range(1, 65) if width > 0 and width % h == 0 and width // h % even == 0]
        heads = min(fitting or [config.n_heads], key=lambda h: (abs(h - config.n_heads), h))
        grouped = config.n_heads // config.n_kv_heads
        values |= {"n_heads": heads, "n_kv_heads": heads // grouped if heads % grouped == 0 else 0}
        values |= {"d_head": 0, "d_ff": 0}
    shape = ModelConfig(**values)
    with torch.device("meta"):
        return TinyGPT(shape)


def _boxes(model: TinyGPT) -> list[dict[str, Any]]:
    c, T = model.config, model.config.block_size
    sizes = {
        "B": 1, "T": T, "C": c.n_embd, "F": c.d_ff, "V": c.vocab_size, "H*K": c.n_heads * c.d_head,
        "G*K": c.n_kv_heads * c.d_head,
    }  # fmt: skip
    table, counted, boxes = names_of(c), set[int](), list[dict[str, Any]]()

    def add(
        name: str, label: str, group: str, kind: str, page: str, module: nn.Module, formula: str, kept: Sequence[str],
        products: int = 0,
    ) -> None:  # fmt: skip
        weights = dict(module.named_parameters())
        own = {id(p): p.numel() for p in weights.values() if id(p) not in counted}
        counted.update(own)
        numbers = [math.prod(sizes[letter] for letter in table[a][1].split()) if a else T * c.n_embd for a in kept]
        letters = table[name][1] if name in table else "B T C"
        boxes.append({
            "name": name, "label": label, "group": group, "kind": kind, "page": page,
            "shape": f"{letters} = {' x '.join(str(sizes[letter]) for letter in letters.split())}",
            "parameters": sum(own.values()),
            "weights": [{"name": weight, "shape": list(p.shape)} for weight, p in weights.items()],
            "flops": 2 * products, "memory_bytes": 4 * sum(numbers), "formula": formula, "part": "reference",
        })  # fmt: skip

    norm = "(x - mean) / std * weight + bias" if c.norm == "layernorm" else "x / rms(x) * weight"
    norm = norm if c.bias else norm.removesuffix(" + bias")
    bias = " + b" if c.bias else ""
    look = "softmax(q k^T / sqrt(K), no later positions) v; q, k, v = W x" + bias + "; heads joined, times W_output"
    look += ("; q and k normalised" if c.qk_norm else "") + ("; q and k turned" if c.positions == "rotary" else "")
    act = {"swiglu": "silu(W_gate x) * (W_up x)", "gelu": f"gelu(W_up x{bias})", "gelu_tanh": f"gelu(W_up x{bias})"}
    learned = c.positions == "learned"
    where = "x + table[position]" if learned else "q and k turn by position * theta^(-2j/K); no numbers to learn"
    add("embedding", "Token embedding", "input", "embedding", "embeddings", model.embedding, "table[id]", ["embedding"])
    positions = model.positions
    add("position", "Positions", "input", "positions", "embeddings", positions, where, ["stream"] if learned else [])
    blocks: Any = model.blocks
    for i, block in enumerate(blocks):
        p, group = f"block.{i}", f"block {i}"
        attended = [f"{p}.{a}" for a in ("query", "key", "value", "heads", "attention")]
        parts: list[tuple[Any, ...]] = [
            (f"{p}.input_norm", f"Norm {i}a", group, "norm", "forward", block.norm_1, norm, [f"{p}.input_norm"]),
            (f"{p}.attention", f"Attention {i}", group, "attention", "attention", block.attention, look, attended,
             matrices(block.attention) + 2 * c.n_heads * c.d_head * T),
            (f"{p}.norm_2", f"Norm {i}b", group, "norm", "forward", block.norm_2, norm, [""]),
            (f"{p}.feed_forward", f"Feed-forward {i}", group, "feed_forward", "forward", block.feed_forward,
             f"W_down {act[c.feed_forward]}{bias}", [f"{p}.hidden", f"{p}.feed_forward"], matrices(block.feed_forward)),
        ]  # fmt: skip
        for part in (0, 1, 2, 3) if c.norm_place == "before" else (1, 0, 3, 2):
            add(*parts[part])
    add("final_norm", "Final norm", "output", "norm", "lens", model.norm, norm, ["final_norm"])
    shared = "W x, W being the embedding table" if c.tied else "W x"
    add("logits", "Head", "output", "head", "generate", model.head, shared, ["logits"], model.head.weight.numel())
    return boxes


def matrices(module: nn.Module) -> int:
    """Numbers in the matrices of a module: multiplications for each position."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 2)
