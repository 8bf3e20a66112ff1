"""How large the weights of each layer are and how far one update moves them: what healthy and sick training look like.

At a few steps, beside evaluations and snapshots, one line of metrics.jsonl:

    {"kind": "health", "step", "weight_norm": {layer: norm}, "update_norm": {layer: norm}}

`step` counts the update; both norms are L2 norms over all matrices and biases of a layer, of the weights before it and
of what it added. The gains of norms are left out: they begin at 1 and would hide everything else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tinygpt.errors import OUT_OF_MEMORY, exit_code_of
from tinygpt.model import TinyGPT
from tinygpt.plan import SNAPSHOTS
from tinygpt.session import Session


@functools.cache
def snapshot_steps(max_steps: int) -> frozenset[int]:
    """Step 0 and SNAPSHOTS log-spaced steps up to the last: early training changes fastest."""
    return frozenset({0}) | {round(max_steps ** (i / SNAPSHOTS)) for i in range(1, SNAPSHOTS + 1)}


def layers_of(model: TinyGPT) -> dict[str, list[Tensor]]:
    """The matrices and biases of each layer, by its name; a table of positions belongs to the embedding.

    "embedding", "block 0 attention", "block 0 feed-forward", ..., and "head" where it is not the embedding itself.
    """
    parts: dict[str, list[nn.Module]] = {"embedding": [model.embedding, model.positions]}
    for i, block in enumerate(model.blocks):
        parts[f"block {i} attention"] = [block.get_submodule("attention")]
        parts[f"block {i} feed-forward"] = [block.get_submodule("feed_forward")]
    if not model.config.tied:
        parts["head"] = [model.head]
    layers: dict[str, list[Tensor]] = {}
    for name, modules in parts.items():
        inner = [module for part in modules for module in part.modules()]
        found = [module for module in inner if isinstance(module, (nn.Linear, nn.Embedding))]
        layers[name] = [p.detach() for module in found for p in module.parameters(recurse=False)]
    return layers


@contextlib.contextmanager
def watched(s: Session) -> Iterator[None]:
    """Around one update: at the steps named above, write down what it did. It changes no weight.

    The first rank alone measures, as all have the same weights. Where the memory does not suffice for a second copy of
    the weights, the record is left out, said once.
    """
    config, step = s.run.config.train, s.progress.step + 1
    due = step == 1 or step % config.eval_every == 0 or step in snapshot_steps(config.max_steps)
    if not (due and s.machine.ranks.first):
        yield
        return
    try:
        layers = layers_of(s.model)
        before = {name: [p.clone() for p in tensors] for name, tensors in layers.items()}
        weight_norm = norms(before)
    except (RuntimeError, MemoryError) as error:
        if exit_code_of(error) != OUT_OF_MEMORY:
            raise
        s.say_once("The memory does not suffice to measure what updates do: health records are left out.")
        yield
        return
    yield
    for name, tensors in before.items():
        torch._foreach_sub_(tensors, layers[name])
    s.log.metric(kind="health", step=step, weight_norm=weight_norm, update_norm=norms(before))


def norms(layers: dict[str, list[Tensor]]) -> dict[str, float]:
    """The L2 norm over all tensors of each layer; one wait for a GPU."""
    found = torch.stack([torch.stack(torch._foreach_norm(tensors)).norm() for tensors in layers.values()])
    return dict(zip(layers, found.tolist(), strict=True))
