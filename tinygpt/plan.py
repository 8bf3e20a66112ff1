"""What fits: from the text and the minutes to a shape and a number of steps, with a reason for each choice.

Two moments. `choose_shape` looks at the size of the text, before there is a tokenizer. `choose_steps` looks at the
speed measured on this machine, when model and tokens are there. What the user gave stays as given. After that the
run is deterministic: no clock decides anything any more.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tinygpt.capture import WARM_UPS, Recorded
from tinygpt.config import SIZES, Config, ModelConfig, make_config
from tinygpt.data import Windows
from tinygpt.distributed import Machine, cpu_cores, keep_freed_memory
from tinygpt.errors import UserError
from tinygpt.loss import TrainingLoss
from tinygpt.model import TinyGPT
from tinygpt.optim import make_optimizer

DEFAULT_MINUTES = 3.0
# Bytes of text below which the smallest size learns best, with so many pieces: rarer ones are hardly ever seen (LOG.md)
SMALL_TEXT_BYTES, VOCABULARIES = 500_000, {50_000: 512, 170_000: 1024, 500_000: 2048}
# A larger text of less than so many bytes for each minute of a CPU, and than so many in all, is read often: 2,048 too
OFTEN_READ_BYTES, GPU_MINUTES = (200_000, 1_200_000), 30.0  # a minute of a GPU is worth so many of a CPU
TOKENS_PER_PARAMETER = 1.2  # read by a model before a larger one is better, over the numbers in that one's matrices
LARGER_REPETITION = 32.0  # above which a larger model is no better: text is what lacks (LOG.md)
FEWEST_STEPS = 200  # of a larger batch, which has more tokens a second (LOG.md)
NUMBERS_PER_TOKEN = 6.5  # in the matrices of a model, for each token of a text whose passes are its `repetition`
MOST_REPETITION = 50.0  # that much still helped a megabyte of stories, but no longer 100 kB of them or plays (LOG.md)
TIED_FROM = 5.0  # repetition
DROPOUTS = {5.0: 0.05, 12.0: 0.1, 30.0: 0.2}  # from this repetition on
DECAY, DECAYS = 0.2, (0.1, 2.0)  # of embedding and head, times repetition, within these
BATCHES = (4, 8)
WIDTHS = {"n_embd", "n_heads", "n_kv_heads", "n_layers", "d_head", "d_ff"}
WARMUP = 0.02  # of the steps
EVALUATIONS = (2, 12)  # fewest and most in a run, the one at step 0 included
EVALUATION_SHARE = 0.1  # of the time for validations and their checkpoints, about; at 12 s they took half of it
SAMPLES = 4
SNAPSHOTS = 12  # of the weights, log-spaced, beside step 0
WRITTEN_BYTES_PER_S = 250e6  # with digests, and those kept read back, on a local disk
GPU_START_S = 1.5  # the first steps: kernels are loaded and the step is recorded
SAMPLE_TOKENS = 60
CALIBRATION_SHARE = 0.05  # of the minutes, but at most:
CALIBRATION_S = 4.0  # of the 8 that a plan may take at most
COMPILE_S = 25.0  # of the first time on a machine
COMPILED_SAVES = 0.25  # of a step, about
# expected_bits_per_byte: share of the pairs' cost after a million tokens, its fall, passes that are worth something
TEXT_SHARE, TALES_SHARE, WORTHY_PASSES = (0.80, 0.055), (0.16, 0.6), 8.0
FROM_RATE = 0.3  # of the usual rates, for weights that come from another model (LOG.md)
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


def choose_shape(
    preset: str, text_bytes: int, minutes: float, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Overrides for a text that is small, or small for the minutes of a CPU that it is read, and why.

    Only `modern` and `gpt2` bend; `tutorial` stays the tutorial's.
    """
    a_minute, at_most = OFTEN_READ_BYTES
    small, often = text_bytes < SMALL_TEXT_BYTES, text_bytes < min(a_minute * minutes, at_most)
    if preset == "tutorial" or not (small or often):
        return {}, []
    most = max(VOCABULARIES.values())
    pieces = next((count for limit, count in VOCABULARIES.items() if text_bytes < limit), most)
    chosen, reasons = {"vocab_size": pieces}, []
    if small and not given.keys() & WIDTHS - {"n_layers"}:
        chosen = {**SIZES["pico"], "vocab_size": pieces}
        reasons = [f"size pico: {text_bytes:,} bytes of text; a larger model learns them by heart sooner."]
    if "vocab_size" not in given:
        why = "hardly ever seen" if small else "learnt by heart in this time"
        reasons.append(f"vocab_size {pieces}: in {text_bytes:,} bytes of text rarer pieces are {why}.")
    chosen = {name: value for name, value in chosen.items() if name not in given}
    return (chosen, reasons) if chosen else ({}, [])


def choose_rates(config: Config, source: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Lower rates for weights that come from `source`, and why: they have less far to go (LOG.md)."""
    usual = {"lr": config.train.lr, "muon_lr": config.train.muon_lr}
    chosen = {name: rate * FROM_RATE for name, rate in usual.items() if name not in given and rate}
    said = " ".join(f"{name} {rate:g}" for name, rate in chosen.items())
    reasons = [f"{said}: {FROM_RATE:g} of the usual, because {source} has learnt something already."] if chosen else []
    return chosen, reasons


def choose_size(
    config: Config, budget: Budget, speed: Speed, windows: Windows, given: Mapping[str, Any], ranks: int = 1
) -> tuple[dict[str, Any], list[str]]:
    """Width, layers and batch for what can be read in the budget, and why; `speed` is that of `config`.

    The largest size that still reads TOKENS_PER_PARAMETER tokens for each of its parameters, within LARGER_REPETITION.
    Then a batch that makes FEWEST_STEPS steps of them, within BATCHES, and a tied head where the text is repeated much.
    """
    if config.preset == "tutorial":
        return {}, []
    affordable = affordable_tokens(config, budget, speed, windows)
    unique, numbers = windows.count * config.model.block_size, matrix_parameters(config.model)
    chosen: dict[str, Any] = {}
    reasons = []
    tokens = min(affordable, unique * most_passes(unique, numbers)) if budget.minutes else affordable
    by_clock = budget.minutes and not config.train.max_steps  # whoever counts steps or passes means the known shape
    if by_clock and not given.keys() & WIDTHS and config.model.n_embd == make_config(config.preset).model.n_embd:
        for name in ("micro", "mini", "small"):
            size = {field: SIZES[name][field] for field in ("n_embd", "n_heads", "n_layers")}
            derived = {"n_kv_heads": 0, "d_head": 0, "d_ff": 0}
            larger = ModelConfig(**{**dataclasses.asdict(config.model), **size, **derived})
            more = matrix_parameters(larger)
            read = affordable * matrix_parameters(config.model) / more
            if read < TOKENS_PER_PARAMETER * more or repetition(read / unique, unique, more) > LARGER_REPETITION:
                break
            chosen, tokens, numbers = {**size, **derived}, read, more
            reasons = [f"size {name}: about {read / 1e6:.1f} M tokens can be read, enough for "
                       f"{more / 1e6:.1f} M numbers."]  # fmt: skip
    if not (given.keys() & {"batch_size", "micro_batch", "max_steps"} or budget.steps):  # steps are of the known batch
        fitting = int(tokens / config.model.block_size / FEWEST_STEPS)
        batch = min(max(1 << max(0, fitting.bit_length() - 1), BATCHES[0]), BATCHES[1])
        chosen["batch_size"] = math.ceil(batch / ranks) * ranks
    repeated = repetition(tokens / unique, unique, numbers)
    if repeated >= TIED_FROM and "tied" not in given and config.train.start != "pairs" and not config.model.tied:
        chosen["tied"] = True
        reasons.append(
            f"tied yes: read about {tokens / unique:.0f} times, the text would be learnt by heart by a head of its own."
        )
    return {name: value for name, value in chosen.items() if name not in given}, reasons


def affordable_tokens(config: Config, budget: Budget, speed: Speed, windows: Windows) -> float:
    """Tokens that the budget pays for with this model."""
    step = config.train.batch_size * config.model.block_size
    if config.train.max_steps or budget.steps:
        return step * float(config.train.max_steps or budget.steps or 0)
    if budget.epochs:
        return budget.epochs * windows.count * config.model.block_size
    return 60 * float(budget.minutes or DEFAULT_MINUTES) * speed.tokens_per_s


def matrix_parameters(model: ModelConfig) -> int:
    """Numbers of the matrices that every token is multiplied with: blocks and head."""
    attention = 2 * model.n_embd * model.d_head * (model.n_heads + model.n_kv_heads)
    feed_forward = (3 if model.feed_forward == "swiglu" else 2) * model.n_embd * model.d_ff
    return model.n_layers * (attention + feed_forward) + model.n_embd * model.vocab_size


def parameter_count(model: ModelConfig) -> int:
    """Trainable numbers, as `TinyGPT.parameter_count` finds them, without making a model."""
    m = model
    norm = m.n_embd * (2 if m.norm == "layernorm" and m.bias else 1)
    heads = m.d_head * (m.n_heads + 2 * m.n_kv_heads)
    biases = m.bias * (heads + m.d_ff * (2 if m.feed_forward == "swiglu" else 1) + 2 * m.n_embd)
    tables = m.n_embd * (m.vocab_size * (not m.tied) + m.block_size * (m.positions == "learned"))
    return matrix_parameters(m) + tables + m.n_layers * (2 * norm + 2 * m.d_head * m.qk_norm + biases) + norm


def validation_s(config: Config, speed: Speed, val_tokens: int) -> float:
    """Seconds that a validation takes: the weights are scored, and their mean if there is one."""
    return val_tokens / speed.tokens_per_s * FORWARD_SHARE * (2 if config.train.average else 1)


def checkpoint_s(config: Config) -> float:
    """Seconds that a checkpoint takes: weights, their mean and two tensors of the optimizer, fp32."""
    return 16 * parameter_count(config.model) / WRITTEN_BYTES_PER_S


def fit_block_size(config: Config, n_tokens: int, given: Mapping[str, Any]) -> tuple[int, list[str]]:
    """The block size that a text of `n_tokens` can fill, and a sentence if it had to shrink.

    Raises UserError (through Windows) where the user asked for a block size that the text cannot fill.
    """
    if "block_size" in given or n_tokens > config.model.block_size:
        return config.model.block_size, []
    fitting = max(8, 1 << ((n_tokens - 1).bit_length() - 1)) if n_tokens > 8 else 8
    return fitting, [f"block_size {config.model.block_size} -> {fitting}: the training text has {n_tokens} tokens."]


def measure(config: Config, machine: Machine, seconds: float = CALIBRATION_S) -> Speed:
    """Seconds per optimizer step of a throw-away model on made-up tokens, within about `seconds`.

    On the CPU with all threads, then with half as many, and so on while that helps: with other work on the machine
    fewer threads can be several times faster. A GPU takes a sixteenth of the time: one step is like the other.
    """
    best: Speed | None = None
    candidates = thread_candidates(config, machine)
    for threads in candidates:
        torch.set_num_threads(threads)
        step_s = median_step(config, machine, seconds / (len(candidates) if machine.device.type == "cpu" else 16))
        if best is not None and step_s > best.step_s:
            break
        best = Speed(step_s, threads, config.train.batch_size * config.model.block_size / step_s)
    assert best is not None  # there is at least one candidate
    torch.set_num_threads(best.threads)
    return best


def thread_candidates(config: Config, machine: Machine) -> list[int]:
    """Numbers of threads worth measuring: what was asked for, else all cores and powers of two below, most first."""
    cores = cpu_cores()
    if config.train.threads or machine.device.type != "cpu":
        return [config.train.threads or cores]
    return sorted({1 << i for i in range(cores.bit_length())} | {cores}, reverse=True)


def median_step(config: Config, machine: Machine, seconds: float, compiled: bool = False) -> float:
    """Median seconds of one forward, backward and update, over `seconds` of them (at least 3)."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = TinyGPT(config.model).to(machine.device)
    loss_of = TrainingLoss(model, machine, config.train.fast, compiled)
    optimizer = make_optimizer(model, config.train, machine.bf16)
    shape = (config.train.micro_batch, config.model.block_size)
    tokens = torch.randint(config.model.vocab_size, shape, device=machine.device)

    def step() -> torch.Tensor:
        for _ in range(config.train.batch_size // config.train.micro_batch):
            loss: torch.Tensor = loss_of(tokens, tokens)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    take_step = Recorded(step, machine.device) if machine.device.type == "cuda" and config.train.fast else step
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < (6 if isinstance(take_step, Recorded) else 4) or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        take_step().item()  # waits for the device
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UPS + 1 :] if isinstance(take_step, Recorded) else times[1:])


def compiled_speed(config: Config, machine: Machine, speed: Speed, seconds: float) -> tuple[Speed | None, str]:
    """The speed of compiled blocks where finding that out can pay within `seconds` of training, and a sentence.

    Compiling takes COMPILE_S or so the first time (torch keeps the result for the next run), and a third of a step or
    less is saved: short runs do not even try. None where the plain blocks stay.
    """
    if config.train.compiled == "no":
        return None, ""
    wanted = config.train.compiled == "yes"
    if not wanted and (machine.device.type == "mps" or COMPILED_SAVES * seconds < COMPILE_S):
        return None, ""
    if machine.device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        if wanted:
            raise UserError("compiled=yes needs a C++ compiler (g++ or clang++) on this machine; use compiled=no.")
        return None, "compiled no: there is no C++ compiler here; with one, training would be faster by about a third."
    began = time.perf_counter()
    try:
        step_s = median_step(config, machine, 1.0, compiled=True)
    except Exception as error:  # torch's compiler fails in many ways, none of them the user's fault
        if wanted:
            raise UserError(
                f"compiled=yes: torch could not compile the blocks: {first_line(error)}; use compiled=no."
            ) from error
        return None, f"compiled no: torch could not compile the blocks here ({first_line(error)})."
    compile_s = time.perf_counter() - began
    figures = (
        f"{step_s * 1e3:,.0f} ms a step instead of {speed.step_s * 1e3:,.0f}, after {compile_s:.0f} s of compiling"
    )
    if not wanted and step_s > 0.97 * speed.step_s:
        return None, f"compiled no: {figures}."
    return Speed(step_s, speed.threads, speed.tokens_per_s * speed.step_s / step_s), f"compiled yes: {figures}."


def first_line(error: Exception) -> str:
    """The first line of an error's message, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far [bytes]: of the process on the CPU (0 where the system does not tell), else on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def expected_memory_bytes(config: Config, machine: Machine, parameters: int) -> int:
    """Largest memory of the run [bytes]: what the measured steps took, and the copies that a checkpoint makes.

    A checkpoint holds weights, their mean and two optimizer tensors as bytes before they are written.
    """
    return peak_memory_bytes(machine.device) + (16 * parameters if machine.device.type == "cpu" else 0)


def choose_steps(
    config: Config, budget: Budget, speed: Speed, windows: Windows, val_tokens: int, given: Mapping[str, Any],
    spent_s: float = 0.0,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """max_steps, dropout and the intervals that are not given, and why.

    minutes: steps = (seconds - spent_s - evaluations) / step time, within MOST_REPETITION; what was spent on preparing
    takes at most half of the minutes. A short run is looked at and saved less often.
    """
    unique, numbers = windows.count * config.model.block_size, matrix_parameters(config.model)
    epoch = windows.count / config.train.batch_size  # steps
    evaluation_s = validation_s(config, speed, val_tokens) + checkpoint_s(config)
    chosen: dict[str, Any] = {"threads": speed.threads}
    reasons = []
    minutes = budget.minutes or 0.0
    steps = config.train.max_steps or int(budget.steps or 0) or math.ceil((budget.epochs or 0.0) * epoch)
    total_s = steps * speed.step_s if steps else max(30 * minutes, 60 * minutes - spent_s)
    fewest = max(EVALUATIONS[0], config.train.patience + 1)
    affordable = math.ceil(EVALUATION_SHARE * total_s / max(1e-9, evaluation_s))
    evaluations = max(min(affordable, EVALUATIONS[1]), fewest)
    if not steps:
        steps = max(1, int(max(0.5 * total_s, total_s - evaluations * evaluation_s) / speed.step_s))
        passes = most_passes(unique, numbers)
        most = max(100, math.ceil(passes * epoch))
        if steps > most:
            reasons.append(
                f"max_steps {most}: {minutes:g} minutes would be {steps / epoch:,.0f} passes over this text; "
                f"after {passes:.0f} a model of this size mostly memorises."
            )
            steps = most
    passes = steps / epoch
    chosen["max_steps"] = steps
    if config.train.warmup_steps < 0:
        chosen["warmup_steps"] = math.ceil(WARMUP * steps)
    repeated = repetition(passes, unique, numbers)
    if "dropout" not in given and config.preset != "tutorial":
        chosen["dropout"] = dropout_for(repeated)
        reasons.append(
            f"dropout {chosen['dropout']:g}: {passes:.1f} passes of {numbers / 1e6:.1f} M numbers over this text."
        )
    if "weight_decay" not in given and config.preset != "tutorial":
        chosen["weight_decay"] = decay_for(repeated)
        reasons.append(
            f"weight_decay {chosen['weight_decay']:g}: the more passes and numbers for a text, the more is forgotten."
        )
    every = max(1, math.ceil(steps / (evaluations - 1)))
    chosen["eval_every"] = config.train.eval_every or every
    chosen["save_every"] = config.train.save_every or chosen["eval_every"]
    chosen["sample_every"] = config.train.sample_every or every * max(1, evaluations // SAMPLES)
    chosen["log_every"] = given.get("log_every") or max(1, min(config.train.log_every, steps // 20))
    return {name: value for name, value in chosen.items() if value != given.get(name)}, reasons


def repetition(passes: float, unique_tokens: float, numbers: float) -> float:
    """How much a text invites a model to learn it by heart: the passes over it, and the room there is for that.

        passes * numbers / (NUMBERS_PER_TOKEN * unique_tokens)

    numbers: of the model's matrices (`matrix_parameters`). A text twice as long, read as often, leaves half the room.
    """
    return passes * numbers / (NUMBERS_PER_TOKEN * unique_tokens)


def most_passes(unique_tokens: float, numbers: float) -> float:
    """Passes that bring MOST_REPETITION."""
    return MOST_REPETITION / repetition(1.0, unique_tokens, numbers)


def dropout_for(repeated: float) -> float:
    """Dropout by repetition; little of it, since decay and a tied head do most of the work (LOG.md)."""
    return max((share for limit, share in DROPOUTS.items() if repeated >= limit), default=0.0)


def decay_for(repeated: float) -> float:
    """Weight decay of embedding and head by repetition: they are what learns a text by heart (LOG.md)."""
    low, high = DECAYS
    return round(min(max(DECAY * repeated, low), high), 2)


def expected_seconds(config: Config, speed: Speed, val_tokens: int, device: str = "cpu") -> float:
    """Training, evaluations, samples, checkpoints and snapshots of the whole run [s]."""
    evaluations = config.train.max_steps // config.train.eval_every + 2
    samples = config.train.max_steps // config.train.sample_every + 1
    evaluation_s = validation_s(config, speed, val_tokens)
    sample_s = SAMPLE_TOKENS * 2e-3  # about 500 tokens a second, one at a time
    saves = config.train.max_steps // config.train.save_every + 1
    written_s = checkpoint_s(config) * (saves + SNAPSHOTS / 4)  # a snapshot is weights alone
    beside_s = written_s + (GPU_START_S if device == "cuda" else 0.0)
    return config.train.max_steps * speed.step_s + evaluations * evaluation_s + samples * sample_s + beside_s


def expected_bits_per_byte(
    baselines: Mapping[str, float], floor: float | None, config: Config, windows: Windows
) -> float | None:
    """What the run will cost unseen text, roughly [bits/byte]: a share of what pairs of tokens cost, above the floor.

        share = a * (worth / 1e6)^-b,   worth = unique R (1 - exp(-passes / R)),   R = WORTHY_PASSES

    worth: tokens read, a repeated text counting less each time (Muennighoff et al. 2023). a and b are fitted to this
    project's own runs on three texts (LOG.md); one of them is 13 % off, and so can yours be. The built-in tales, known
    by their floor, are learnt much further. None without a validation text, and for `tutorial`.
    """
    if "bigram" not in baselines or config.preset == "tutorial":
        return None
    unique = windows.count * config.model.block_size
    passes = config.train.max_steps * config.train.batch_size / windows.count
    worth = unique * WORTHY_PASSES * (1 - math.exp(-passes / WORTHY_PASSES))
    at_a_million, fall = TEXT_SHARE if floor is None else TALES_SHARE
    share = min(1.2, at_a_million * (worth / 1e6) ** -fall)
    return (floor or 0.0) + share * (baselines["bigram"] - (floor or 0.0))
