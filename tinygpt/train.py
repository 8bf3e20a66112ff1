"""Training, on one page: guess the next token, measure how wrong the guess is, move every weight a little.

`train` is the loop, in causal order: look, save, gather the gradient, refuse what is not finite, set the learning
rate, update, record. Whatever is random in a step depends on (seed, step, rank) alone, so n steps equal k steps, a
stop and n - k steps, bit for bit. With several ranks (distributed.py) each runs this loop on its share of the batch.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from tinygpt import checkpoint
from tinygpt.config import TEMPERATURE
from tinygpt.data import Windows, total_bytes
from tinygpt.display import Display
from tinygpt.distributed import Machine, Signals, keep_freed_memory, keeping_back, use_threads
from tinygpt.errors import MISMATCH, NON_FINITE, UserError
from tinygpt.evaluate import score
from tinygpt.inference import generate
from tinygpt.loss import TrainingLoss
from tinygpt.model import TinyGPT
from tinygpt.optim import make_optimizer, schedule, set_rate
from tinygpt.plan import SAMPLE_TOKENS
from tinygpt.records import METRICS, SAMPLES, Log, NoLog
from tinygpt.runs import Run
from tinygpt.start import start_from_pairs, starts_from_pairs

REFUSED_IN_A_ROW = 3  # steps whose loss or gradient is not finite before the run gives up
SNAPSHOTS = 12  # log-spaced, beside step 0
RANKS_APART = 2_654_435_761  # 2^32 / golden ratio: seeds of ranks, of which the CPU uses 32 bits, stay far apart
WRONG = 2e-3  # of the largest logit: fp32 sums in another order give 1e-5, a wrong operator 1e-2 and more


@dataclass
class Progress:
    """Everything about a run that is neither a tensor nor fixed before step 0; stored in state.json."""

    step: int = 0
    best_bpb: float | None = None
    best_step: int | None = None
    since_best: int = 0  # validations
    looked_step: int = -1
    train_loss: float | None = None  # smoothed
    refused: int = 0  # steps in a row
    time_s: float = 0.0
    logs: dict[str, int] = field(default_factory=dict)  # bytes in each log when this was saved

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """The stored progress; UserError (exit 66) unless it has exactly these fields."""
        wrong = state.keys() ^ {f.name for f in dataclasses.fields(cls)}
        if wrong:
            raise UserError(f"state.json is of another version of tinygpt: see {', '.join(sorted(wrong))}.", MISMATCH)
        return cls(**state)


@dataclass
class Session:
    """One process working on a run."""

    run: Run
    machine: Machine
    model: TinyGPT
    loss: torch.nn.Module  # of (inputs, targets) [nats/token]
    optimizer: torch.optim.Optimizer
    progress: Progress
    windows: Windows
    log: Log
    display: Display
    clock: Clock


def set_up(run: Run, machine: Machine, display: Display, resume: bool = False) -> Session:
    """Start at step 0, or go on from the newest valid checkpoint and say so."""
    config, ranks = run.config.train, machine.ranks
    use_threads(config.threads, machine, resume)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    model = TinyGPT(run.config.model)
    windows = Windows(run.train_ids, run.config.model.block_size, config.seed)
    check_device(model, machine, windows)
    model.to(machine.device)
    optimizer = make_optimizer(model, config, machine.bf16)
    log, progress = (Log if ranks.first else NoLog)(run.folder), Progress()
    if not (resume and checkpoint.step_folders(run.folder / "checkpoints")):
        if starts_from_pairs(run.config.model, config.start):
            start_from_pairs(model, run.train_ids)
        if resume:
            log.cut({METRICS: 0, SAMPLES: 0})  # what was recorded before the first checkpoint comes again
            display.say("No checkpoint yet: starting at step 0.")
    else:
        loaded, rejected = checkpoint.load(run.folder, "last", run.digests)
        checkpoint.load_model(model, loaded.model)
        checkpoint.load_optimizer(model, optimizer, loaded.optim)
        progress = Progress.from_state(loaded.state)
        for sentence in [*rejected, *log.cut(progress.logs), f"Going on from step {progress.step:,}."]:
            display.say(sentence)
    ranks.alone(checkpoint.sweep, run.folder)
    loss = ranks.averaging(TrainingLoss(model, machine, config.fast, config.compiled == "yes"))
    clock = Clock(progress.time_s, progress.step)
    return Session(run, machine, model, loss, optimizer, progress, windows, log, display, clock)


def train(s: Session) -> int:
    """Run the loop to max_steps, to early stopping or to a signal; returns the exit code (0, 130 or 143).

    Raises UserError (exit 70) when loss or gradient is not finite three steps in a row; the weights are the last
    good ones and saved.
    """
    config, p, ranks = s.run.config.train, s.progress, s.machine.ranks
    with Signals() as signals:
        while True:
            stop = ranks.largest(signals.code)  # a signal to one rank stops all of them at this step
            finished = p.step >= config.max_steps or stop_early(s)
            if not stop:
                finished = look(s, finished)
            if p.step in snapshot_steps(config.max_steps):
                ranks.alone(checkpoint.save_snapshot, s.run.folder, p.step, s.model)
            if finished or stop or p.step == p.best_step or p.step % config.save_every == 0:
                ranks.alone(save, s)
            if finished or stop:
                return 0 if finished else stop

            loss, grad_norm = gather_gradient(s)
            share = schedule(p.step, config)
            if math.isfinite(loss) and math.isfinite(grad_norm):
                set_rate(s.optimizer, share)
                s.optimizer.step()
                p.refused = 0
                p.train_loss = loss if p.train_loss is None else 0.9 * p.train_loss + 0.1 * loss
            else:
                refuse_step(s, loss, grad_norm)
            p.step += 1
            if p.step % config.log_every == 0 or p.step == config.max_steps:
                write_record(s, loss, share * config.lr, grad_norm)


def gather_gradient(s: Session) -> tuple[float, float]:
    """Loss [nats/token] and gradient norm of the next step; leaves the (clipped) gradient in the parameters.

    Each micro-step sees an equal share of the batch and its loss is divided by their number, so the gradient is
    that of the whole batch whatever the micro-batch; ranks average theirs. Loss and norm are equal at all ranks.
    """
    config, p, ranks = s.run.config.train, s.progress, s.machine.ranks
    inputs, targets = s.windows.batch(p.step, config.batch_size, ranks.rank, ranks.size)  # (B, T) each
    micro_steps = len(inputs) // ranks.micro_batch(config)
    torch.manual_seed(config.seed * 1_000_003 + p.step + RANKS_APART * ranks.rank)  # for dropout
    s.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=s.machine.device)
    for i, (x, y) in enumerate(zip(inputs.chunk(micro_steps), targets.chunk(micro_steps), strict=True), 1):
        with keeping_back(s.loss, i == micro_steps):
            loss = s.loss(x.to(s.machine.device), y.to(s.machine.device)) / micro_steps
            loss.backward()
        total += loss.detach()
    gradients = [q.grad for q in s.model.parameters() if q.grad is not None]
    mean_loss, grad_norm = ranks.mean(total.item(), torch.nn.utils.get_total_norm(gradients).item())
    if config.grad_clip and math.isfinite(grad_norm):  # else clipping would spread NaN over all of them
        torch.nn.utils.clip_grads_with_norm_(s.model.parameters(), config.grad_clip, torch.tensor(grad_norm))
    return mean_loss, grad_norm


def refuse_step(s: Session, loss: float, grad_norm: float) -> None:
    """A step that is not finite never touches the weights: say so, and after three in a row give up."""
    p, config = s.progress, s.run.config.train
    p.refused += 1
    sick = [name for name, q in s.model.named_parameters() if q.grad is not None and not q.grad.isfinite().all()]
    where = f", first in {sick[0]}" if sick else ""
    text = f"step {p.step:,} refused: loss {loss:g}, gradient norm {grad_norm:g}{where}"
    s.log.metric(kind="event", step=p.step, text=text, loss=loss, grad_norm=grad_norm)
    s.display.say(text)
    if p.refused >= REFUSED_IN_A_ROW:
        p.refused = 0
        s.machine.ranks.alone(save, s)
        raise UserError(
            f"{text}; {REFUSED_IN_A_ROW} in a row, so training stopped; the weights saved are the last good ones. "
            f"Try lower rates in a new run: lr={config.lr / 10:g} muon_lr={config.muon_lr / 10:g}.",
            NON_FINITE,
        )


def look(s: Session, finished: bool) -> bool:
    """Validate and let the model write, each at its interval and at the end; nothing here changes the weights.

    Returns whether the run ends here: it was finished, or this validation was one too many without a new best.
    """
    config, p = s.run.config.train, s.progress
    if p.looked_step == p.step:  # resumed at a step that was looked at before the stop
        return finished
    if (finished or p.step % config.eval_every == 0) and len(s.run.val_ids) > 1:
        validate(s)
        finished = finished or stop_early(s)
    if finished or p.step % config.sample_every == 0:
        s.machine.ranks.alone(write_sample, s)
    p.looked_step = p.step
    return finished


def validate(s: Session) -> None:
    """Score the whole validation text and remember the best figure."""
    p, result = s.progress, score(s.model, s.run.tokenizer, s.run.val_ids, s.machine)
    best = math.isfinite(result.bpb) and (p.best_bpb is None or result.bpb < p.best_bpb)
    p.since_best = 0 if best else p.since_best + 1
    if best:
        p.best_bpb, p.best_step = result.bpb, p.step
    record: dict[str, Any] = {
        "kind": "eval", "step": p.step, "val_loss": result.loss, "val_bpb": result.bpb, "best": best,
        "train_loss": p.train_loss, "train_bpb": p.train_loss and p.train_loss * bits_per_nat(s),
        "time_s": s.clock.read(),
    }  # fmt: skip
    s.log.metric(**record)
    s.display.eval(record)
    if p.step == 0:
        nothing = math.log(s.run.config.model.vocab_size)
        known = starts_from_pairs(s.run.config.model, s.run.config.train.start) * " (it starts from counted pairs)"
        s.display.say(
            f"Untrained, the loss is {result.loss:.2f} nats per token{known}; knowing nothing, ln V, is {nothing:.2f}."
        )
    s.clock.lap(p.step)


def write_sample(s: Session) -> None:
    """Let the model begin a document, and keep what it wrote."""
    p, seed = s.progress, s.run.config.train.seed + s.progress.step
    try:
        text = generate(s.model, s.run.tokenizer, "", SAMPLE_TOKENS, seed=seed, temperature=TEMPERATURE)
    except UserError as error:  # logits that are not finite: the loop's own check will tell what to do
        text = f"(no sample: {error})"
    sample = {"step": p.step, "prompt": "", "text": text, "seed": seed, "temperature": TEMPERATURE}
    s.log.sample(**sample)
    s.display.sample(sample)
    s.clock.lap(p.step)


def save(s: Session) -> None:
    """A checkpoint of this step; it is the best one if the validation just made was."""
    p = s.progress
    p.time_s, p.logs = s.clock.read(), s.log.sizes()
    s.log.sync()
    best = p.best_step == p.step or p.best_step is None
    checkpoint.save(s.run.folder, p.step, s.model, s.optimizer, dataclasses.asdict(p), s.run.digests, best)
    s.clock.lap(p.step)


def stop_early(s: Session) -> bool:
    """Whether the last `patience` validations all missed the best figure."""
    return 0 < s.run.config.train.patience <= s.progress.since_best


def write_record(s: Session, loss: float, lr: float, grad_norm: float) -> None:
    """One line of metrics.jsonl and one of the display."""
    config, p = s.run.config, s.progress
    tokens = config.train.batch_size * config.model.block_size  # a step
    record: dict[str, Any] = {
        "kind": "train", "step": p.step, "loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens": p.step * tokens,
        "tokens_per_s": s.clock.pace(p.step) * tokens, "time_s": s.clock.read(),
    }  # fmt: skip
    s.log.metric(**record)
    s.display.train(record)


def bits_per_nat(s: Session) -> float:
    """Bits per byte of a training loss of 1 nat per token: the tokens of the training text over its bytes."""
    return len(s.run.train_ids) / total_bytes(s.run.train_ids, s.run.tokenizer.n_bytes()) / math.log(2)


def snapshot_steps(max_steps: int) -> set[int]:
    """Step 0 and SNAPSHOTS log-spaced steps up to the last: early training changes fastest."""
    return {0} | {round(max_steps ** (i / SNAPSHOTS)) for i in range(1, SNAPSHOTS + 1)}


def check_device(model: TinyGPT, machine: Machine, windows: Windows) -> None:
    """Refuse an accelerator that computes something else than the CPU: one batch through both, before step 1.

    Compares logits, not the loss: that is about ln V at the start, even without any attention. Raises UserError if
    one differs by more than WRONG of the largest in fp32.
    """
    if machine.device.type == "cpu":
        return
    inputs, _ = windows.batch(0, 1)
    still = copy.deepcopy(model).eval()  # without dropout, which differs between devices
    with torch.inference_mode():
        here = still(inputs)
        still.to(machine.device)
        there = still(inputs.to(machine.device)).cpu()
    off = ((there - here).abs().max() / here.abs().max()).item()
    if not off < WRONG:
        raise UserError(
            f"{machine.device.type} computes logits that are off by {off:.2%} from the CPU's (at most {WRONG:.1%} is "
            "rounding), so it cannot be trusted; use device=cpu, or another driver or torch version."
        )


class Clock:
    """Seconds of a run over all its sessions, and the pace of its steps with the pauses between them left out."""

    def __init__(self, earlier_s: float, step: int) -> None:
        self.began = time.perf_counter() - earlier_s
        self.lap(step)

    def read(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began

    def lap(self, step: int) -> None:
        """Count the pace from here on."""
        self.since, self.step = time.perf_counter(), step

    def pace(self, step: int) -> float:
        """Steps per second since the last lap; begins a new one."""
        rate = (step - self.step) / max(1e-9, time.perf_counter() - self.since)
        self.lap(step)
        return rate
