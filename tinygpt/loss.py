"""How wrong the guesses are: the loss in two lines, and the same number faster.

`next_token_loss` is the definition. `TrainingLoss` is what training calls: with `fast` it never holds the scores of all
positions at once, and with `compiled` its blocks run as machine code made for this shape. tests/exactness/test_fast.py
holds the two against each other.

Shapes: B sequences, T positions, N = B * T, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.distributed import Machine
from tinygpt.kernels import loss_and_gradient
from tinygpt.model import CausalAttention, LayerCache, NoCache, TinyGPT

# Scores that are in memory together: what the caches hold, 4 MB of fp32 on a CPU; on a GPU 256 MB of bf16, so that
# the gradient of a large head is not added up too often.
SCORES_AT_ONCE, SCORES_ON_GPU = 1 << 20, 1 << 27
ROWS_ALIGNED = 64


def next_token_loss(model: TinyGPT, inputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the next token [nats], mean or sum over the (B, T) positions; computed in fp32."""
    logits = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)


def rows_added(V: int, device: torch.device) -> int:
    """To make V a multiple of ROWS_ALIGNED on a GPU: it multiplies slowly where rows of scores begin just anywhere."""
    return -V % ROWS_ALIGNED if device.type == "cuda" else 0


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softmax(features @ weight^T) against targets, some rows at a time.

    features (N, C), weight (V, C), targets (N,). The gradients are made on the way forward, while the scores are there:

        d loss / d scores = (softmax(scores) - onehot(targets)) / N

    Rows of zeros may stand below the weight (`rows_added`): their scores are 0 and count for nothing, and so are the
    gradients in their place.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        total = features.new_zeros((), dtype=torch.float32)
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight)
        V = len(weight)
        matrix = F.pad(weight.to(features.dtype), (0, 0, 0, rows_added(V, weight.device)))
        for x, t, d_x in zip(features.split(rows), targets.split(rows), d_features.split(rows), strict=True):
            d_scores = x @ matrix.T  # (rows, V and zeros), the scores themselves as yet
            nats = loss_and_gradient(d_scores, t, V)
            if nats is None:
                scores = d_scores[:, :V]
                chances = scores.softmax(1, dtype=torch.float32)
                # exp(score) / sum is a chance, so the largest of both tell the sum: no second round of powers
                log_sums = scores.amax(1).float() - chances.amax(1).log()  # (rows,)
                nats = log_sums - scores.gather(1, t[:, None])[:, 0].float()
                chances[torch.arange(len(t), device=t.device), t] -= 1
                scores.copy_(chances)
            total += nats.sum()
            torch.mm(d_scores, matrix, out=d_x)
            d_weight += (d_scores.T @ x)[:V]
        ctx.save_for_backward(d_features, d_weight)
        ctx.n = len(targets)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_features, d_weight = ctx.saved_tensors
        share = gradients[0] / ctx.n
        return d_features * share.to(d_features.dtype), d_weight * share, None, None


class AttentionByFormula(CausalAttention):
    """CausalAttention as its formula stands, in the format of v: on a CPU with bf16 faster than PyTorch's kernels.

    Its formula guards the softmax against rows without any position, which a causal mask does not have (LOG.md).
    """

    def look(self, q: Tensor, k: Tensor, v: Tensor, cache: NoCache | LayerCache) -> Tensor:
        sharing = q.shape[1] // k.shape[1]  # query heads to a key/value head
        k, v = (x if sharing == 1 else x.repeat_interleave(sharing, dim=1) for x in (k, v))
        scores = (q * self.d_head**-0.5).to(v.dtype) @ k.to(v.dtype).mT  # (B, H, T, S)
        T, S = scores.shape[-2:]
        if T == S:
            scores = scores + torch.full((T, S), -torch.inf, dtype=v.dtype).triu(1)
        return scores.softmax(-1) @ v  # (B, H, T, K)


def attend(model: TinyGPT, kind: type[CausalAttention]) -> type[CausalAttention]:
    """Let all layers attend this way; returns how they did before."""
    before = kind
    for module in model.modules():
        if isinstance(module, CausalAttention):
            before, module.__class__ = type(module), kind
    return before


@contextlib.contextmanager
def by_formula(model: TinyGPT, machine: Machine) -> Iterator[None]:
    """The model attends by the formula if it computes in bf16 on a CPU, and afterwards as before."""
    if not (machine.bf16 and machine.device.type == "cpu"):
        yield
        return
    before = attend(model, AttentionByFormula)
    try:
        yield
    finally:
        attend(model, before)


class TrainingLoss(nn.Module):
    """loss(inputs, targets) of a model on a machine [nats/token], a scalar with a gradient."""

    def __init__(self, model: TinyGPT, machine: Machine, fast: bool = True, compiled: bool = False) -> None:
        super().__init__()
        self.model, self.machine, self.fast = model, machine, fast
        if fast and machine.bf16 and machine.device.type == "cpu":
            attend(model, AttentionByFormula)
        # Block by block: one compilation serves them all. In a list of its own, so that the model itself stays plain.
        self.blocks = [torch.compile(block) for block in model.blocks] if compiled else list(model.blocks)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(B, T) ids and the ids that follow them -> their mean cross-entropy."""
        with self.machine.autocast():
            if not self.fast:
                return next_token_loss(self.model, inputs, targets)
            features = self.features(inputs).flatten(0, 1)  # (N, C)
            features = features.to(
                torch.get_autocast_dtype(features.device.type) if self.machine.bf16 else features.dtype
            )
            scores = SCORES_AT_ONCE if features.device.type == "cpu" else SCORES_ON_GPU
            rows = max(1, scores // self.model.config.vocab_size)
            return LinearCrossEntropy.apply(features, self.model.head.weight, targets.flatten(), rows)

    def features(self, inputs: Tensor) -> Tensor:
        """What the model hands to its head, `TinyGPT.features` with the blocks of this loss."""
        model, nothing = self.model, NoCache()
        if inputs.device.type == "cuda":  # the gradient of this lookup needs no sorting of the ids
            x = model.embedding.weight.index_select(0, inputs.flatten()).view(*inputs.shape, -1)
        else:
            x = model.embedding(inputs)
        x = model.dropout(model.positions.add(x, 0))  # (B, T, C)
        for block in self.blocks:
            x = block(x, model.positions, 0, nothing)
        return model.norm(x)
