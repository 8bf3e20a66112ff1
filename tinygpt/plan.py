"""What fits: from the text and the minutes to a shape and a number of steps, with a reason for each choice.

Two moments. `choose_shape` looks at the size of the text, before there is a tokenizer. `choose_steps` looks at the
speed measured on this machine, when model and tokens are there. What the user gave stays as given. After that the
run is deterministic: no clock decides anything any more.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tinygpt.config import SIZES, Config
from tinygpt.data import Windows
from tinygpt.distributed import Machine, cpu_cores
from tinygpt.errors import UserError
from tinygpt.loss import TrainingLoss
from tinygpt.model import TinyGPT
from tinygpt.optim import make_optimizer

DEFAULT_MINUTES = 3.0
TINY_TEXT_BYTES = 100_000  # below this the smallest size: anything larger recites the text
SMALL_TEXT_BYTES = 600_000  # below this a small vocabulary: rare pieces are seen too seldom (LOG.md)
SMALL_VOCABULARY = 1024
MOST_PASSES = 30  # over one text; to calibrate: with dropout 0.2 the best figure comes earlier
WARMUP = 0.1  # of the steps
EVALUATIONS = (4, 12)  # fewest and most in a run, the one at step 0 included
EVALUATION_SHARE = 0.08  # of the time, if that allows the fewest
SAMPLES = 4
SAMPLE_TOKENS = 60
FORWARD_SHARE = 1 / 3  # of a training step: the backward pass costs about twice the forward pass


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of minutes, steps, epochs; none is DEFAULT_MINUTES."""

    minutes: float | None = None
    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) > 1:
            raise UserError(f"--{' and --'.join(given)} exclude each other; give one of them.")
        for name, value in given.items():
            if not 0 < value < 1e9:
                raise UserError(f"--{name} {value:g} must be above 0 and below a billion.")
        if not given:
            object.__setattr__(self, "minutes", DEFAULT_MINUTES)


@dataclass(frozen=True)
class Speed:
    """Measured on this machine with this model."""

    step_s: float
    threads: int
    tokens_per_s: float


def choose_shape(preset: str, text_bytes: int, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Overrides for a small text, and why. Only `modern` and `gpt2` bend; `tutorial` stays the tutorial's."""
    if preset == "tutorial" or text_bytes >= SMALL_TEXT_BYTES:
        return {}, []
    if text_bytes < TINY_TEXT_BYTES and not given.keys() & {"n_embd", "n_heads", "n_kv_heads", "d_head", "d_ff"}:
        chosen = SIZES["pico"]
        reason = f"size pico: {text_bytes:,} bytes of text; a larger model would only recite them."
    else:
        chosen = {"vocab_size": SMALL_VOCABULARY}
        reason = f"vocab_size {SMALL_VOCABULARY}: in {text_bytes:,} bytes of text rarer pieces are hardly ever seen."
    chosen = {name: value for name, value in chosen.items() if name not in given}
    return (chosen, [reason]) if chosen else ({}, [])


def fit_block_size(config: Config, n_tokens: int, given: Mapping[str, Any]) -> tuple[int, list[str]]:
    """The block size that a text of `n_tokens` can fill, and a sentence if it had to shrink.

    Raises UserError (through Windows) where the user asked for a block size that the text cannot fill.
    """
    if "block_size" in given or n_tokens > config.model.block_size:
        return config.model.block_size, []
    fitting = max(8, 1 << ((n_tokens - 1).bit_length() - 1)) if n_tokens > 8 else 8
    return fitting, [f"block_size {config.model.block_size} -> {fitting}: the training text has {n_tokens} tokens."]


def measure(config: Config, windows: Windows, machine: Machine, seconds: float = 1.5) -> Speed:
    """Seconds per optimizer step of a throw-away model; on the CPU with 1, 2, 4, ... threads while that helps.

    The clock runs for about `seconds` per candidate after a warm-up step; the median step counts.
    """
    tokens = config.train.batch_size * config.model.block_size
    best: Speed | None = None
    for threads in thread_candidates(config, machine):
        torch.set_num_threads(threads)
        step_s = median_step(config, windows, machine, seconds)
        if best is not None and step_s > best.step_s:
            break
        best = Speed(step_s, threads, tokens / step_s)
    assert best is not None  # there is at least one candidate
    return best


def thread_candidates(config: Config, machine: Machine) -> list[int]:
    """Numbers of threads worth measuring: what was asked for, else powers of two up to all cores, and all of them."""
    cores = cpu_cores()
    if config.train.threads or machine.device.type != "cpu":
        return [config.train.threads or cores]
    return sorted({1 << i for i in range(cores.bit_length())} | {cores})


def median_step(config: Config, windows: Windows, machine: Machine, seconds: float) -> float:
    """Median seconds of one forward, backward and update, over `seconds` of them (at least 3)."""
    torch.manual_seed(0)
    model = TinyGPT(config.model).to(machine.device)
    loss_of = TrainingLoss(model, machine, config.train.fast)
    optimizer = make_optimizer(model, config.train, machine.bf16)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for micro_step in range(config.train.batch_size // config.train.micro_batch):
            inputs, targets = windows.batch(len(times) + micro_step, config.train.micro_batch)
            loss = loss_of(inputs.to(machine.device), targets.to(machine.device))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one warms up


def choose_steps(
    config: Config, budget: Budget, speed: Speed, windows: Windows, val_tokens: int, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """max_steps, dropout and the intervals that are not given, and why.

    minutes: steps = (seconds - evaluations) / step time, at most MOST_PASSES passes over the text.
    """
    epoch = windows.count / config.train.batch_size  # steps
    evaluation_s = val_tokens / speed.tokens_per_s * FORWARD_SHARE
    evaluations = EVALUATIONS[1]
    chosen: dict[str, Any] = {"threads": speed.threads}
    reasons = []
    if config.train.max_steps:
        steps = config.train.max_steps
    elif budget.steps:
        steps = int(budget.steps)
    elif budget.epochs:
        steps = math.ceil(budget.epochs * epoch)
    else:
        assert budget.minutes is not None  # Budget sees to it
        total_s = 60 * budget.minutes
        affordable = int(EVALUATION_SHARE * total_s / max(1e-9, evaluation_s))
        evaluations = min(max(affordable, EVALUATIONS[0]), EVALUATIONS[1])
        steps = max(1, int(max(0.5 * total_s, total_s - evaluations * evaluation_s) / speed.step_s))
        most = max(100, math.ceil(MOST_PASSES * epoch))
        if steps > most:
            reasons.append(
                f"max_steps {most}: {budget.minutes:g} minutes would be {steps / epoch:,.0f} passes over this text; "
                f"after {MOST_PASSES} a model mostly memorises."
            )
            steps = most
    passes = steps / epoch
    chosen["max_steps"] = steps
    if config.train.warmup_steps < 0:
        chosen["warmup_steps"] = math.ceil(WARMUP * steps)
    if "dropout" not in given and config.preset != "tutorial":
        chosen["dropout"] = dropout_for(passes)
        reasons.append(f"dropout {chosen['dropout']:g}: the text is read {passes:.1f} times.")
    every = max(1, math.ceil(steps / (evaluations - 1)))
    chosen["eval_every"] = config.train.eval_every or every
    chosen["save_every"] = config.train.save_every or chosen["eval_every"]
    chosen["sample_every"] = config.train.sample_every or every * max(1, evaluations // SAMPLES)
    chosen["log_every"] = given.get("log_every") or max(1, min(config.train.log_every, steps // 20))
    return {name: value for name, value in chosen.items() if value != given.get(name)}, reasons


def dropout_for(passes: float) -> float:
    """Dropout by how often the text is read: a repeated text is learnt by heart without it (LOG.md, third round)."""
    return 0.0 if passes < 6 else 0.1 if passes < 15 else 0.2


def expected_seconds(config: Config, speed: Speed, val_tokens: int) -> float:
    """Training, evaluations and samples of the whole run [s]."""
    evaluations = config.train.max_steps // config.train.eval_every + 2
    samples = config.train.max_steps // config.train.sample_every + 1
    evaluation_s = val_tokens / speed.tokens_per_s * FORWARD_SHARE
    sample_s = SAMPLE_TOKENS * 2e-3  # about 500 tokens a second, one at a time
    return config.train.max_steps * speed.step_s + evaluations * evaluation_s + samples * sample_s
