"""The one kernel of our own for GPUs: scores in, loss and gradient out, in one pass over the memory."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LARGEST_ROW = 65_536  # scores that one block of GPU threads can hold


def loss_and_gradient(scores: Tensor, targets: Tensor, V: int) -> Tensor | None:
    """Cross-entropy of each row [nats], (N,), while its scores become their gradient softmax(scores) - onehot.

    Of `scores` the first V columns count; what stands behind them is neither read nor written. One pass over them in
    their own format, sums in fp32. None where this machine has no such kernel: without triton, which comes with PyTorch
    for CUDA on Linux, or for rows beyond LARGEST_ROW.
    """
    if scores.device.type != "cuda" or V > LARGEST_ROW or (kernel := row_kernel()) is None:
        return None
    nats = torch.empty(len(scores), device=scores.device, dtype=torch.float32)
    width = 1 << (V - 1).bit_length()
    warps = min(32, max(1, width // 512))
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
        columns = tl.arange(0, BLOCK)
        x = tl.load(scores + row * stride + columns, mask=columns < V, other=-float("inf")).to(tl.float32)
        right = columns == tl.load(targets + row)
        top = tl.max(x)
        powers = tl.exp(x - top)
        total = tl.sum(powers)
        tl.store(nats + row, tl.log(total) + top - tl.sum(tl.where(right, x, 0.0)))
        tl.store(scores + row * stride + columns, powers / total - tl.where(right, 1.0, 0.0), mask=columns < V)

    return triton.jit(kernel)
