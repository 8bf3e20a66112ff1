"""Training, on one page: guess the next token, measure how wrong the guess is, move every weight a little.

`train` is the loop, in causal order: look, save, gather the gradient, refuse what is not finite, set the learning
rate, update, record. Whatever is random in a step depends on (seed, step, rank) alone, so n steps equal k steps, a
stop and n - k steps, bit for bit. With several ranks (distributed.py) each runs this loop on its share of the batch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tinygpt import checkpoint
from tinygpt.capture import Recorded
from tinygpt.checkpoint import Progress
from tinygpt.config import TEMPERATURE
from tinygpt.data import Windows, total_bytes
from tinygpt.display import Display
from tinygpt.distributed import Machine, Signals, keep_freed_memory, keeping_back, use_determinism, use_threads
from tinygpt.errors import NO_CHECKPOINT, UserError
from tinygpt.evaluate import score
from tinygpt.guards import note_spike, refuse_step, save, save_snapshot, within_memory
from tinygpt.health import snapshot_steps, watched
from tinygpt.inference import generate
from tinygpt.loss import TrainingLoss
from tinygpt.model import TinyGPT
from tinygpt.optim import gradients_of, make_optimizer, newest_share, schedule
from tinygpt.plan import SAMPLE_TOKENS, SNAPSHOTS
from tinygpt.records import METRICS, Log, NoLog
from tinygpt.runs import Run, at_step_0, first_weights, steps_recorded
from tinygpt.session import Clock, Session, changes_since, check_device, newest, restore, settings_of, surroundings
from tinygpt.storage import check_room

RANKS_APART = 2_654_435_761  # 2^32 / golden ratio: seeds of ranks, of which the CPU uses 32 bits, stay far apart
TIME_UP = 1  # beside the exit codes of signals: stopped because of max_time_s


def set_up(run: Run, machine: Machine, display: Display, resume: bool = False) -> Session:
    """Start at step 0, or go on from the newest valid checkpoint and say so."""
    config, ranks = run.config.train, machine.ranks
    use_threads(config.threads, machine, resume)
    use_determinism(config.deterministic)
    keep_freed_memory()
    ranks.alone(checkpoint.sweep, run.folder)
    torch.manual_seed(config.seed)
    model = TinyGPT(run.config.model)
    windows = Windows(run.train_ids, run.config.model.block_size, config.seed)
    check_device(model, machine, windows)
    model.to(machine.device)
    windows = windows.moved_to(machine.device)
    optimizer = make_optimizer(model, config, machine.bf16)
    progress = Progress(settings=settings_of(run.config), made_with=surroundings(machine))
    log = (Log if ranks.first else NoLog)(run.folder, display.say)
    s = Session(run, machine, model, model, optimizer, progress, windows, log, display, Clock(0.0, 0))
    s.differentiate, s.update = partial(differentiate, s), partial(update, s)
    if config.fast and windows.on_device is not None and ranks.size == 1:
        s.differentiate, s.update = Recorded(s.differentiate, machine.device), Recorded(s.update, machine.device)
    if ranks.tell(resume and bool(checkpoint.step_folders(run.folder / "checkpoints"))):
        go_on(s)
    else:
        first_weights(run, model)
        if resume:
            if steps_recorded(run) or checkpoint.lost_pointers(run.folder):
                there = f"{run.folder} has records of {steps_recorded(run):,} steps, but no checkpoint"
                raise UserError(f"{there}; restore its checkpoints folder, or start a new run.", NO_CHECKPOINT)
            log.cut({})  # what was recorded before the first checkpoint comes again
            display.say("No checkpoint yet: starting at step 0.")
        need = checkpoint.room_for_run(model.parameter_count(), SNAPSHOTS + 1)
        ranks.alone(check_room, run.folder, need, "the checkpoints of this run")
    s.loss = ranks.averaging(TrainingLoss(model, machine, config.fast, config.compiled == "yes"))
    return s


def go_on(s: Session) -> None:
    """Go on from the newest valid checkpoint, and say from which, what is lost, and what has changed since."""
    loaded, rejected = newest(s)
    try:
        again = max(0, steps_recorded(s.run) - loaded.step)
    except UserError:  # torn by a power cut; what the checkpoint counts on had reached the disk
        again = 0
        rejected.append(f"The end of {METRICS} is damaged; what was recorded after the checkpoint is cut off.")
    restore(s, loaded)
    p = s.progress
    settings, others = changes_since(s)
    lost = f" At least {again:,} step{'s' * (again != 1)} after it must be done again." if again else ""
    gone = [f"{name} names {found}, which is gone." for name, found in checkpoint.lost_pointers(s.run.folder).items()]
    for sentence in [*rejected, *gone, *s.log.cut(p.logs), f"Going on from step {p.step:,}.{lost}"]:
        s.display.say(sentence)
    if settings:
        s.event(f"Settings changed at step {p.step:,}: {settings}.")
    if others:
        s.display.say(f"Not bit-equal from here on to a run that was never stopped: {others}.")
    if p.rewinds:
        s.log.also = {"rewind": p.rewinds}
    s.clock = Clock(p.time_s, p.step)


def train(s: Session) -> int:
    """Run the loop to max_steps, to early stopping, to max_time_s or to a signal; returns the exit code (0, 130, 143).

    Raises UserError: exit 70 when loss or gradient is not finite and on_nonfinite says to stop; 71 when the memory
    does not suffice; 74 when checkpoints cannot be written. The weights saved are then the last good ones.
    """
    config, ranks = s.run.config.train, s.machine.ranks
    with Signals() as signals:
        while True:
            p = s.progress
            time_up = 0 < config.max_time_s <= s.clock.session()
            stop = ranks.largest(signals.code or TIME_UP * time_up)  # heard by one rank, it stops all at this step
            if not stop:
                s.finished = look(s, p.step >= config.max_steps or stop_early(s))
            if p.step in snapshot_steps(config.max_steps):
                ranks.alone(save_snapshot, s)
            due = p.step == p.best_step or p.step % config.save_every == 0
            if s.finished or stop or (due and not p.refused):  # amid refused steps the weights may be sick already
                save(s, last=bool(s.finished or stop))
            if s.finished or stop:
                return 0 if s.finished or stop == TIME_UP else stop

            loss, grad_norm = within_memory(s, gather_gradient)
            share = schedule(p.step, config) * p.rate
            finite = math.isfinite(loss) and math.isfinite(grad_norm)
            if note_spike(s, loss, grad_norm) if finite else refuse_step(s, loss, grad_norm):
                continue  # the run went back to a checkpoint
            if finite:
                s.optimizer.set_rate(share, newest_share(p.step, config))
                with watched(s):
                    s.update(torch.tensor(grad_norm))
                p.refused = 0
                p.train_loss = loss if p.train_loss is None else 0.9 * p.train_loss + 0.1 * loss
            p.step += 1
            if p.step % config.log_every == 0 or p.step == config.max_steps:
                write_record(s, loss, share * config.lr, grad_norm)


def gather_gradient(s: Session) -> tuple[float, float]:
    """Loss [nats/token] and gradient norm of the next step; leaves the gradient in the parameters.

    Both are averaged over the ranks, so they are equal at all of them.
    """
    config, p, ranks = s.run.config.train, s.progress, s.machine.ranks
    firsts = s.windows.share(p.batch, config.batch_size, ranks.rank, ranks.size)  # (B,)
    s.machine.seed(config.seed * 1_000_003 + p.step + RANKS_APART * ranks.rank)  # for dropout
    loss, grad_norm = ranks.mean(*s.differentiate(firsts).tolist())
    return loss, grad_norm


def differentiate(s: Session, firsts: Tensor) -> Tensor:
    """Loss and gradient norm, (2,), of the windows that begin at `firsts`; leaves the gradient in the parameters.

    Each micro-step sees an equal share of the batch and its loss is divided by their number, so the gradient is
    that of the whole batch whatever the micro-batch; ranks average theirs.
    """
    inputs, targets = s.windows.cut(firsts)  # (B, T) each
    micro_steps = len(inputs) // s.machine.ranks.micro_batch(s.run.config.train, s.progress.micro_batch)
    s.optimizer.zero_grad()
    total = torch.zeros((), device=s.machine.device)
    for i, (x, y) in enumerate(zip(inputs.chunk(micro_steps), targets.chunk(micro_steps), strict=True), 1):
        with keeping_back(s.loss, i == micro_steps):
            loss = s.loss(x.to(s.machine.device), y.to(s.machine.device)) / micro_steps
            loss.backward()
        total += loss.detach()
    return torch.stack((total, torch.nn.utils.get_total_norm(gradients_of(s.model.parameters()))))


def update(s: Session, grad_norm: Tensor) -> None:
    """Move every weight by its gradient, of which at most the norm `grad_clip` is left."""
    if limit := s.run.config.train.grad_clip:
        torch.nn.utils.clip_grads_with_norm_(s.model.parameters(), limit, grad_norm)
    s.optimizer.step()


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
        with s.optimizer.averaged():
            s.machine.ranks.alone(write_sample, s)
    p.looked_step = p.step
    return finished


def validate(s: Session) -> None:
    """Score the whole validation text and remember the best figure.

    The mean of the weights is what counts, unless it lags behind them: then it is set to them.
    """
    p, judge = s.progress, partial(score, s.model, s.run.tokenizer, s.run.val_ids, s.machine)
    with s.optimizer.averaged():
        result = judge()
    if s.optimizer.has_means() and (newest := judge()).nats < result.nats:
        s.optimizer.restart_means()
        result = newest
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
        s.display.say(at_step_0(s.run, result.loss))
    s.clock.lap(p.step)


def write_sample(s: Session) -> None:
    """Let the model begin a document, and keep what it wrote."""
    p, seed = s.progress, s.run.config.train.seed + s.progress.step
    try:
        text = generate(s.model, s.run.tokenizer, "", SAMPLE_TOKENS, seed=seed, engine="plain", temperature=TEMPERATURE)
    except UserError as error:  # logits that are not finite: the loop's own check will tell what to do
        text = f"(no sample: {error})"
    sample = {"step": p.step, "prompt": "", "text": text, "seed": seed, "temperature": TEMPERATURE}
    s.log.sample(**sample)
    s.display.sample(sample)
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
