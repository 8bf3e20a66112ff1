"""Ideas about training that are not in the product, as patches of it, so that each can be tried again.

    python -m benchmarks.grid --text tinystories.txt --arm "" --arm idea=documents

LOG.md has the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from tinygpt import loss, train
from tinygpt.data import Windows
from tinygpt.model import TinyGPT
from tinygpt.tokenizer import BOS

CAP = 30.0  # of a logit
SHORT, SHORT_UNTIL = 4, 0.3  # windows cut into so many parts, during this share of the steps


@contextmanager
def soft_cap() -> Iterator[None]:
    """Logits pressed below CAP by CAP tanh(x / CAP); the loss as the formula says."""
    forward = TinyGPT.forward

    def capped(model: TinyGPT, *arguments: Any) -> torch.Tensor:
        return CAP * torch.tanh(forward(model, *arguments).float() / CAP)

    def plain(self: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with self.machine.autocast():
            return F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    with mock.patch.object(TinyGPT, "forward", capped), mock.patch.object(loss.TrainingLoss, "forward", plain):
        yield


@contextmanager
def short_first() -> Iterator[None]:
    """The windows of the first steps are cut into SHORT parts each: the same tokens, a shorter context."""
    gather, cut, state = train.gather_gradient, Windows.cut, {"short": True}

    def gathered(s: Any) -> tuple[float, float]:
        short = s.progress.step < SHORT_UNTIL * s.run.config.train.max_steps
        if short != state["short"]:
            state["short"] = short
            s.forget_recordings()
        return gather(s)

    def parts(self: Windows, firsts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        width = self.block_size // SHORT if state["short"] else self.block_size
        return tuple(x.reshape(-1, width) for x in cut(self, firsts))

    with (
        mock.patch.object(train, "gather_gradient", gathered), mock.patch.object(Windows, "cut", parts),
    ):  # fmt: skip
        yield


@contextmanager
def documents() -> Iterator[None]:
    """Every window begins where a document begins, the last one before the place that was drawn."""
    starts = Windows.starts

    def aligned(self: Windows, samples: Any) -> Any:
        drawn = starts(self, samples)
        begins = np.flatnonzero(np.asarray(self.ids[: len(self.ids) - self.block_size]) == BOS)
        return begins[np.maximum(np.searchsorted(begins, drawn, side="right") - 1, 0)].astype(np.uint64)

    with mock.patch.object(Windows, "starts", aligned):
        yield


@contextmanager
def zero_outputs() -> Iterator[None]:
    """The matrices that write into the residual stream begin at 0 (with start=random; counted weights do anyway)."""
    initialise = TinyGPT.initialise

    @torch.no_grad()
    def zeroed(self: TinyGPT) -> None:
        initialise(self)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                parameter.zero_()

    with mock.patch.object(TinyGPT, "initialise", zeroed):
        yield


IDEAS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "": nullcontext, "soft_cap": soft_cap, "short_first": short_first, "documents": documents,
    "zero_outputs": zero_outputs,
}  # fmt: skip
