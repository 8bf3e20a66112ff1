"""A checkpoint, and what is inside it while it reads a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tinygpt import runs
from tinygpt.checkpoint import weights_sha256
from tinygpt.config import ModelConfig
from tinygpt.model import TinyGPT
from tinygpt.runs import Run
from tinygpt.tokenizer import Tokenizer


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


def load(reference: str) -> Model:
    """The checkpoint of a RUN: "alice" (its best), "alice@last", "alice@2000" (a checkpoint or a snapshot), or a path.

    UserError as `runs.load`.
    """
    run, model, loaded, _ = runs.load(reference)
    return Model(run, model.requires_grad_(False), loaded.step)
