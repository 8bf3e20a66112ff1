"""What is exported: a run, its weights, and prompts to compare with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import torch

from tinygpt import runs
from tinygpt.config import ModelConfig
from tinygpt.inference import Decoder
from tinygpt.model import TinyGPT
from tinygpt.runs import Run
from tinygpt.tokenizer import BOS, EOS, SPECIALS

PROMPTS = 32
NEW_TOKENS = 32  # of the greedy texts that are compared


@dataclass(frozen=True)
class Source:
    """A run, its model (CPU, evaluation mode), the step of its checkpoint, and prompts from the validation text."""

    run: Run
    model: TinyGPT
    step: int
    prompts: list[list[int]]  # token ids; up to 32 prompts, each at most block_size // 2 long, beginning with <bos>

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.folder.resolve().name


def source(reference: str) -> tuple[Source, list[str]]:
    """The run that RUN on the command line means, ready to be exported, and notices."""
    run, model, loaded, notices = runs.load(reference)
    return Source(run, model, loaded.step, prompts_of(run)), notices


def prompts_of(run: Run) -> list[list[int]]:
    """Up to 32 prompts from all over the validation text (else the training text), from <bos> alone to block_size // 2.

    They have no special token but <bos> at the beginning, as a prompt that somebody types.
    """
    ids = (run.val_ids if len(run.val_ids) > 1 else run.train_ids).tolist()
    longest = run.config.model.block_size // 2
    prompts = []
    for i in range(PROMPTS):
        start, length = i * len(ids) // PROMPTS, 1 + i * (longest - 1) // (PROMPTS - 1)
        cut = [id for id in ids[start : start + length] if id >= len(SPECIALS)]
        prompts.append((BOS, *cut[: length - 1]))
    return [list(prompt) for prompt in dict.fromkeys(prompts)]  # a short text gives some of them twice


def room(config: ModelConfig, prompt: list[int]) -> int:
    """Tokens of a greedy text after the prompt."""
    return min(NEW_TOKENS, config.block_size - len(prompt))


def greedy(model: TinyGPT, prompt: list[int]) -> list[int]:
    """The likeliest tokens after the prompt, as tinygpt writes them, up to <eos>."""
    ids, decoder = torch.tensor([prompt]), Decoder(model)  # (1, T)
    for _ in range(room(model.config, prompt)):
        ids = torch.cat((ids, decoder.logits(ids).argmax(-1, keepdim=True)), dim=1)
        if ids[0, -1] == EOS:
            break
    return ids[0, len(prompt) :].tolist()


def python_command(code: str) -> str:
    """`python -c CODE` for a shell: in double quotes, which cmd.exe takes too, unless something in it needs others."""
    return f"python -c {shlex.quote(code)}" if set(code) & set('"$`\\!') else f'python -c "{code}"'
