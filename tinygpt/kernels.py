"""The one kernel of our own for GPUs: scores in, loss and gradient out, without anything else in memory."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LARGEST_BLOCK = 8192  # scores of a row that are in the registers of one program together; 65,536 are 6 times slower


def loss_and_gradient(scores: Tensor, targets: Tensor, V: int) -> Tensor | None:
    """Cross-entropy of each row [nats], (N,), while its scores become their gradient softmax(scores) - onehot.

    Of `scores` the first V columns count; what stands behind them is neither read nor written. They stay in their own
    format, the sums are fp32. None where this machine has no such kernel: without triton, which comes with PyTorch for
    CUDA on Linux.
    """
    if scores.device.type != "cuda" or (kernel := row_kernel()) is None:
        return None
    nats = torch.empty(len(scores), device=scores.device, dtype=torch.float32)
    width = min(LARGEST_BLOCK, 1 << (V - 1).bit_length())
    warps = max(1, width // 512)
    kernel[(len(scores),)](scores, targets, nats, V, scores.stride(0), BLOCK=width, num_warps=warps)
    return nats


@functools.cache
def row_kernel() -> Any:
    """The kernel of `loss_and_gradient`, one program a row; None without triton."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    def kernel(scores, targets, nats, V, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        scores += row * stride
        target = tl.load(targets + row)
        top, total = -float("inf"), 0.0  # the largest score so far, and the sum of exp(score - top)
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(scores + columns, mask=columns < V, other=-float("inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(x))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher))
            top = higher
        log_sum = top + tl.log(total)
        tl.store(nats + row, log_sum - tl.load(scores + target).to(tl.float32))
        tl.debug_barrier()  # the score of the target is read before its gradient stands in its place
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(scores + columns, mask=columns < V).to(tl.float32)
            gradient = tl.exp(x - log_sum) - tl.where(columns == target, 1.0, 0.0)
            tl.store(scores + columns, gradient, mask=columns < V)

    return triton.jit(kernel)
