"""From logits to the next token: filters (logits -> logits) and the draw. Every filter is a pure function.

Shapes: (B, V) logits of one position, V = vocab_size. A forbidden token gets -inf. The definitions are those of
Hugging Face's logits processors and are tested equal to them; bias, presence and frequency are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinygpt.errors import NON_FINITE, UserError

FORBIDDEN = -float("inf")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults are greedy. Raises UserError for a value out of range.

    temperature: 0 is greedy; below 1 sharper, above 1 flatter. top_k: keep the k likeliest (0: all). top_p: keep
    the likeliest until they sum to p. min_p: drop what is less likely than min_p times the likeliest.
    repetition_penalty: above 1 makes tokens of the context less likely (1: off). presence_penalty, frequency_penalty:
    taken off the logit of a token that was written, once or for each time; below 0 they invite it. logit_bias: what
    is added to the logit of a token id.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = {
            "temperature": (self.temperature == 0 or 1e-6 <= self.temperature <= 100, "0 (greedy), or 1e-06 to 100"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (all tokens)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (all tokens) and 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "between 0.01 and 100 (1 is off)"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "between -2 and 2 (0 is off)"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "between -2 and 2 (0 is off)"),
        }
        for name, (good, rule) in rules.items():
            if not good:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)} must be {rule}.")
        for id, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise UserError(f"logit-bias {bias} of token {id} must be between -100 and 100.")


def parse_bias(words: Iterable[str]) -> dict[int, float]:
    """{17: -100.0} from "17=-100". UserError for a word of another form."""
    found = {}
    for word in words:
        id, _, bias = word.partition("=")
        try:
            found[int(id)] = float(bias)
        except ValueError:
            raise UserError(f"logit-bias {word} must be ID=BIAS, as in 17=-100.") from None
    return found


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


def penalise_written(logits: Tensor, written: Tensor, presence: float, frequency: float) -> Tensor:
    """logit - presence [n > 0] - frequency n of a token that stands n times in `written` (B, T) (OpenAI's API)."""
    counts = torch.zeros_like(logits).scatter_add(-1, written, torch.ones(written.shape))  # (B, V)
    return logits - presence * (counts > 0) - frequency * counts


def add_bias(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """logit + bias of the tokens named. UserError for one that the vocabulary does not have."""
    for id in bias:
        if not 0 <= id < logits.shape[-1]:
            raise UserError(f"logit-bias names token {id}; the ids go from 0 to {logits.shape[-1] - 1}.")
    ids = torch.tensor(list(bias), dtype=torch.long)
    return logits.index_add(-1, ids, torch.tensor(list(bias.values())).expand(len(logits), -1))


def filter_logits(logits: Tensor, context: Tensor, s: Sampling, prompt: int = 0) -> Tensor:
    """All filters of `s`, of which the first four change the logits and the rest forbid: (B, V) -> (B, V).

    Bias, penalties, temperature, top-k, top-p, min-p: Hugging Face's order. The first `prompt` tokens of the context
    were not written by the model.
    """
    if s.logit_bias:
        logits = add_bias(logits, s.logit_bias)
    if s.repetition_penalty != 1:
        logits = penalise_repetition(logits, context, s.repetition_penalty)
    if s.presence_penalty or s.frequency_penalty:
        logits = penalise_written(logits, context[:, prompt:], s.presence_penalty, s.frequency_penalty)
    if s.temperature > 0:
        logits = apply_temperature(logits, s.temperature)
    if s.top_k:
        logits = keep_top_k(logits, s.top_k)
    if s.top_p < 1:
        logits = keep_top_p(logits, s.top_p)
    if s.min_p:
        logits = keep_min_p(logits, s.min_p)
    return logits


def draw(logits: Tensor, context: Tensor, s: Sampling, generator: torch.Generator, prompt: int = 0) -> Tensor:
    """The next token of each row (B,): the likeliest at temperature 0, else a draw from softmax(filtered logits).

    Computed on the CPU in fp32, so that one seed gives one text wherever the model runs. Raises UserError (exit 70)
    if a row holds NaN or +inf, or nothing but -inf.
    """
    logits = filter_logits(logits.float().cpu(), context.cpu(), s, prompt)
    if not logits.amax(-1).isfinite().all():  # amax is NaN if one of them is
        raise UserError(
            "the model's logits are not finite, so no token can be drawn; its training diverged: use an earlier "
            "checkpoint, RUN@STEP.", NON_FINITE,
        )  # fmt: skip
    if s.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def log_probabilities(logits: Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability [nats] of a token by the model alone, unfiltered, and of the `top` likeliest; (V,) logits."""
    chances = logits.float().cpu().log_softmax(-1)
    best = chances.topk(min(top, len(chances)))
    return chances[token].item(), list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
