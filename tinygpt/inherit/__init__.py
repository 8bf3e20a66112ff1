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
from tinygpt.folders import RUNS, is_locked, resolve
from tinygpt.inherit import hf
from tinygpt.tokenizer import Tokenizer

NOT_DOWNLOADED = "; --from downloads nothing: save a model to a folder with save_pretrained, and name that"
ELSEWHERE = {".gguf": "a GGUF file", ".onnx": "an ONNX file"}  # formats that models leave in and do not come back from


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
    places = (RUNS / reference, Path(reference)) if reference else ()
    for path in places:
        if (path / "config.json").is_file():
            if hf.is_folder(path):
                return Inherited(reference, None, *hf.read(path))
            break
    else:
        for path in places:
            if path.is_dir() and (pickles := hf.pickles(path)):
                raise UserError(hf.refusal_of(path, pickles), UNSAFE)
            is_file = path.is_file() and path.suffix.lower() not in PICKLE_SUFFIXES
            if is_file or (path.is_dir() and not is_locked(path)):
                raise UserError(f"--from {reference} {no_model(path)}.")
        resolve(reference, NOT_DOWNLOADED)
    run, model, loaded, notices = runs.load(reference)
    return Inherited(
        reference, loaded.step, run.config.preset, model.config, run.tokenizer, loaded.model, notices
    )  # fmt: skip


def no_model(path: Path) -> str:
    """Why nothing can be started from this file, or from this folder without a config.json, and from what instead."""
    inside = [path] if path.is_file() else path.iterdir()
    if kinds := sorted(ELSEWHERE[file.suffix.lower()] for file in inside if file.suffix.lower() in ELSEWHERE):
        where = "is" if path.is_file() else "holds"
        return f"{where} {kinds[0]}, from which nothing can be started; name its run, or the hf export of that"
    if path.is_file():
        return "is a file; name the folder that it is in"
    if path.parent.name == "checkpoints" and (step := path.name.removeprefix("step-")).isdecimal():
        run = path.parent.parent
        return f"is a checkpoint of a run; write {run.name if run.parent == RUNS else run}@{int(step)}"
    return "has no config.json; name a run, or a folder that save_pretrained wrote"
