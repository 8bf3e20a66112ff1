"""From logits to the next token: filters (logits -> logits) and the draw. Every filter is a pure function.

Shapes: (B, V) logits of one position, V = vocab_size. A forbidden token gets -inf. The definitions are those of
Hugging Face's logits processors and are tested equal to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tinygpt.errors import NON_FINITE, UserError

FORBIDDEN = -float("inf")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults are greedy. Raises UserError for a value out of range.

    temperature: 0 is greedy; below 1 sharper, above 1 flatter. top_k: keep the k likeliest (0: all). top_p: keep
    the likeliest until they sum to p. min_p: drop what is less likely than min_p times the likeliest.
    repetition_penalty: above 1 makes tokens of the context less likely (1: off).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        rules = {
            "temperature": (self.temperature == 0 or 1e-6 <= self.temperature <= 100, "0 (greedy), or 1e-06 to 100"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (all tokens)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (all tokens) and 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "between 0.01 and 100 (1 is off)"),
        }
        for name, (good, rule) in rules.items():
            if not good:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)} must be {rule}.")


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature."""
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits of each row; ties with the k-th stay (Fan et al. 2018)."""
    smallest = torch.topk(logits, min(k, logits.shape[-1])).values[..., -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest, FORBIDDEN)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of likeliest tokens whose probabilities sum to at least p (Holtzman et al. 2020)."""
    ascending, order = torch.sort(logits)  # (B, V)
    below = torch.cumsum(ascending.softmax(-1), -1) <= 1 - p  # the tail that may go
    below[..., -1] = False  # the likeliest token always stays
    return logits.masked_fill(below.scatter(-1, order, below), FORBIDDEN)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Tokens at least p times as likely as the likeliest one (Nguyen et al. 2024)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), FORBIDDEN)


def penalise_repetition(logits: Tensor, context: Tensor, penalty: float) -> Tensor:
    """Logits of tokens in `context` (B, T): positive ones / penalty, negative ones * penalty (Keskar et al. 2019)."""
    seen = logits.gather(-1, context)  # (B, T)
    return logits.scatter(-1, context, torch.where(seen < 0, seen * penalty, seen / penalty))


def filter_logits(logits: Tensor, context: Tensor, s: Sampling) -> Tensor:
    """All filters of `s` in Hugging Face's order: penalty, temperature, top-k, top-p, min-p. (B, V) -> (B, V)."""
    if s.repetition_penalty != 1:
        logits = penalise_repetition(logits, context, s.repetition_penalty)
    if s.temperature > 0:
        logits = apply_temperature(logits, s.temperature)
    if s.top_k:
        logits = keep_top_k(logits, s.top_k)
    if s.top_p < 1:
        logits = keep_top_p(logits, s.top_p)
    if s.min_p:
        logits = keep_min_p(logits, s.min_p)
    return logits


def draw(logits: Tensor, context: Tensor, s: Sampling, generator: torch.Generator) -> Tensor:
    """The next token of each row (B,): the likeliest at temperature 0, else a draw from softmax(filtered logits).

    Computed on the CPU in fp32, so that one seed gives one text wherever the model runs. Raises UserError (exit 70)
    if a row holds NaN or +inf, or nothing but -inf.
    """
    logits = filter_logits(logits.float().cpu(), context.cpu(), s)
    if not logits.amax(-1).isfinite().all():  # amax is NaN if one of them is
        raise UserError(
            "the model's logits are not finite, so no token can be drawn; its training diverged: use an earlier "
            "checkpoint, RUN@STEP.", NON_FINITE,
        )  # fmt: skip
    if s.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
