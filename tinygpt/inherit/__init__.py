"""Start from another model: `tinygpt train more.txt --from SOURCE` takes its shape, its tokenizer and its weights.

    SOURCE   a run of tinygpt (RUN, RUN@last, RUN@STEP), or
             a folder in Hugging Face's layout whose config.json says gpt2 or qwen3      hf.py, pieces.py

What is not exactly a shape or a tokenizer of ours is refused, and the sentence names the difference: nothing is
guessed. Weights are read from safetensors alone, so that nothing in SOURCE can run code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tinygpt import runs
from tinygpt.config import ModelConfig
from tinygpt.errors import PICKLE_SUFFIXES, UNSAFE, UserError
from tinygpt.folders import RUNS
from tinygpt.inherit import hf
from tinygpt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Inherited:
    """A model to start from, whole and in memory."""

    source: str  # as the user named it
    step: int | None  # of the run's checkpoint; None for a Hugging Face folder
    preset: str  # whose training settings fit the shape
    model: ModelConfig
    tokenizer: Tokenizer
    weights: dict[str, Tensor]  # by our names, fp32
    notices: list[str]  # what is worth knowing about the way in

    @property
    def name(self) -> str:
        """Source and step in words."""
        return self.source + ("" if self.step is None else f", step {self.step:,}")

    @property
    def facts(self) -> dict[str, Any]:
        """What config.json says of it, but for the digest of the weights."""
        return {"source": self.source, "step": self.step}


def inherit(reference: str) -> Inherited:
    """The model that SOURCE on the command line means.

    Raises UserError: exit 66 for a shape or tokenizer that is not ours, 65 for a damaged folder, 77 for one with
    weights as pickles, and whatever opening a run can raise.
    """
    for path in (RUNS / reference, Path(reference)):
        if (path / "config.json").is_file():
            if hf.is_folder(path):
                return Inherited(reference, None, *hf.read(path))
            break
        if path.is_dir() and (pickles := hf.pickles(path)):
            raise UserError(hf.refusal_of(path, pickles), UNSAFE)
        if path.is_file() and path.suffix.lower() not in PICKLE_SUFFIXES:
            raise UserError(f"--from {reference} is a file; name the folder that it is in.")
    run, model, loaded, notices = runs.load(reference)
    return Inherited(
        reference, loaded.step, run.config.preset, model.config, run.tokenizer, loaded.model, notices
    )  # fmt: skip
