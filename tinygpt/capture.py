"""Work on a GPU recorded once and played again and again (CUDA graphs).

A small model keeps a GPU busy for a microsecond or two per kernel, and Python needs five to start one. A recording
starts all of them at once, with the same kernels on the same memory, so the numbers are those of the plain call.
tests/exactness/test_fast.py holds both against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 2  # true calls before the recording: libraries choose their kernels, optimizers make their memory


class Recorded:
    """A function of tensors that is recorded at its third call with the same ones and played from then on.

    It may read and change tensors that stay where they are (weights, gradients, optimizer memory), and must not look at
    any value on the CPU. Random numbers are those of the plain call: the recording asks the generator of its device.
    What it returns is overwritten by the next call. `forget` after anything it uses has moved.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.function = function
        self.stream = torch.cuda.Stream(device)
        self.forget()

    def forget(self) -> None:
        """Begin anew with plain calls."""
        self.calls = 0
        self.graph: Any = None
        self.places: tuple[Tensor, ...] = ()
        self.result: Any = None

    def __call__(self, *tensors: Tensor) -> Any:
        """What function(*tensors) returns; tensors on the CPU are sent to the device."""
        if self.graph is None:
            self.places = tuple(t.to(self.stream.device, copy=True) for t in tensors)
            if self.calls < WARM_UPS:
                self.calls += 1
                return self.aside(self.function)
            self.graph = torch.cuda.CUDAGraph()
            self.aside(self.record)
        for place, tensor in zip(self.places, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.result

    def record(self, *places: Tensor) -> None:
        """Write the kernels down; nothing is computed yet."""
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.result = self.function(*places)

    def aside(self, work: Callable[..., Any]) -> Any:
        """work(*places) on a stream of its own, as recording demands of everything that is going to be recorded."""
        now = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            result = work(*self.places)
        now.wait_stream(self.stream)
        return result
