"""What can go wrong while a run trains, and what is done then; train.py stays the page about what goes right.

save           a checkpoint, or a warning and another try at the next interval; after three in vain the run ends
refuse_step    a loss or gradient that is not finite never reaches the weights (on_nonfinite: skip, stop, rewind)
note_spike     a loss or gradient norm far above the usual is said (on_spike: warn, rewind)
rewind         back to the last checkpoint, with half the learning rate and without the batches that did it
within_memory  half the micro-batch, when the memory does not suffice; the batch stays what it was
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from tinygpt import checkpoint
from tinygpt.errors import IO_ERROR, NON_FINITE, OUT_OF_MEMORY, UserError, exit_code_of
from tinygpt.records import SAMPLES
from tinygpt.session import Session, newest, restore
from tinygpt.storage import canonical, write_atomic

REFUSED_IN_A_ROW = 3  # steps whose loss or gradient is not finite before skipping them is given up
FAILED_SAVES = 3  # in a row
NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
MOST_REWINDS = 5
MOST_HALVINGS = 5  # of the micro-batch, in one step
# Standard deviations above the usual that are a spike, and how much it must be at least (LOG.md). The norm counts by
# its logarithm, so 2 is seven times the usual: its deviation can be so small that a factor of 2.5 is thirty of it.
SPIKE = {"loss": (4.5, 0.0), "gradient norm": (20.0, 2.0)}
MEMORY = 50  # steps that count as usual
Result = TypeVar("Result")


# --- the disk --------------------------------------------------------------------------------------------------------


def save(s: Session, last: bool) -> None:
    """A checkpoint of this step, written by the first rank; it is the best one if the validation just made was.

    What the disk refuses is said and tried again at the next interval. Raises UserError (exit 74) when three in a row
    fail, or the `last` one, or the very first: there would be nothing to come back to.
    """
    p, ranks = s.progress, s.machine.ranks
    if ranks.tell(write_checkpoint(s, last) if ranks.first else None):
        s.best_saved = p.best_bpb, p.best_step
    else:  # a best that is not on the disk must not keep a later one from being it
        p.best_bpb, p.best_step = s.best_saved


def write_checkpoint(s: Session, last: bool) -> bool:
    """Whether it was written; see `save`."""
    p = s.progress
    try:
        s.log.sync()
        p.time_s, p.logs = s.clock.read(), s.log.sizes()
        with s.optimizer.averaged():
            damaged = checkpoint.save(s.run.folder, s.model, s.optimizer, p, s.run.digests)
        s.failed_saves = 0
    except OSError as error:
        s.failed_saves += 1
        text = f"Step {p.step:,} could not be saved: {error.strerror or error}"
        kept = [checkpoint.step_of(path) for path in checkpoint.step_folders(s.run.folder / "checkpoints")]
        if last or not kept or s.failed_saves >= FAILED_SAVES:
            there = f"the newest checkpoint is that of step {kept[0]:,}" if kept else "there is no checkpoint yet"
            first = "Make room and go on" if error.errno in NO_ROOM else "When that is mended, go on"
            raise UserError(
                f"{text}; {there}. {first}: tinygpt train --resume --run {s.run.folder.name}", IO_ERROR
            ) from None
        s.event(f"{text}; training goes on, and the next save is tried as usual.")
        return False
    for sentence in damaged:
        s.say_once(sentence)
    s.clock.lap(p.step)
    return True


def save_snapshot(s: Session) -> None:
    """The weights of this step, for looking back; without room it is left out, said so."""
    try:
        with s.optimizer.averaged():
            checkpoint.save_snapshot(s.run.folder, s.progress.step, s.model)
    except OSError as error:
        s.event(f"The snapshot of step {s.progress.step:,} is left out: {error.strerror or error}.")
    s.clock.lap(s.progress.step)


# --- loss and gradient -----------------------------------------------------------------------------------------------


def refuse_step(s: Session, loss: float, grad_norm: float) -> bool:
    """A step that is not finite never touches the weights: say so, and do what on_nonfinite asks.

    Returns whether the run went back to a checkpoint. Raises UserError (exit 70), the weights before it saved, if it
    is given up: at once with "stop", after three such steps in a row with "skip".
    """
    p, config = s.progress, s.run.config.train
    p.refused += 1
    norms = {name: q.grad.norm().item() for name, q in s.model.named_parameters() if q.grad is not None}
    sick = [name for name, norm in norms.items() if not math.isfinite(norm)]
    # On the way back the last layer comes first, and poisons those before it; if all are sick, the loss was.
    where = f", first in {sick[-1]}" if 0 < len(sick) < len(norms) else ""
    text = f"step {p.step:,} refused: loss {loss:g}, gradient norm {grad_norm:g}{where}"
    s.event(f"{text}; if that goes on, lower rates help.", loss=loss, grad_norm=grad_norm)
    s.machine.ranks.alone(write_report, s, loss, grad_norm, norms)
    if config.on_nonfinite != "stop" and p.refused < REFUSED_IN_A_ROW:
        return False
    many = f"; {p.refused} in a row" if p.refused > 1 else ""
    if config.on_nonfinite == "rewind":
        if p.rewinds >= MOST_REWINDS:
            raise UserError(
                f"{text}{many}; after going back {MOST_REWINDS} times training stopped. The text or the model has "
                "another problem than the rate: look at the samples and layers in nonfinite.json.",
                NON_FINITE,
            )
        rewind(s, text + many, [p.batch_of(p.step - i) for i in range(p.refused)])
        return True
    p.refused = 0
    save(s, last=True)
    raise UserError(
        f"{text}{many}, so training stopped; the weights saved are the last good ones. Try lower rates in a new run: "
        f"lr={config.lr / 10:g} muon_lr={config.muon_lr / 10:g}, or on_nonfinite=rewind.",
        NON_FINITE,
    )


def write_report(s: Session, loss: float, grad_norm: float, norms: dict[str, float]) -> None:
    """nonfinite.json: which step, which samples, the gradient's norm in every layer; text where it is no number."""
    p, batch_size = s.progress, s.run.config.train.batch_size
    first = p.batch * batch_size
    report: dict[str, Any] = {
        "step": p.step, "batch": p.batch, "samples": list(range(first, first + batch_size)), "loss": loss,
        "grad_norm": grad_norm, "grad_norms": norms, "refused_in_a_row": p.refused, "rate": p.rate,
    }  # fmt: skip
    try:
        write_atomic(s.run.folder / "nonfinite.json", canonical(spelt(report)))
    except OSError as error:
        s.display.say(f"nonfinite.json could not be written: {error.strerror}.")


def spelt(value: Any) -> Any:
    """`value` with "nan", "inf" and "-inf" where JSON has no number."""
    if isinstance(value, dict):
        return {name: spelt(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def note_spike(s: Session, loss: float, grad_norm: float) -> bool:
    """Compare with the usual, before the update: say what is far above it, and with on_spike=rewind go back.

    Returns whether the run went back to a checkpoint.
    """
    p = s.progress
    usual = p.usual.get("loss, mean", loss), math.exp(p.usual.get("gradient norm, mean", 0.0))
    far = far_above(p.usual, {"loss": loss, "gradient norm": math.log(max(grad_norm, 1e-30))})
    if not far or p.step < p.usual.get("silent until", 0):
        return False
    p.usual["silent until"] = p.step + MEMORY
    text = f"step {p.step:,}: {' and '.join(far)} far above the usual (loss {loss:.3f}, gradient norm {grad_norm:.3g})"
    figures = zip(SPIKE, (loss, grad_norm), usual, strict=True)
    spikes = [{"step": p.step, "what": w, "value": v, "usual": u} for w, v, u in figures if w in far]
    if s.run.config.train.on_spike == "rewind" and p.rewinds < MOST_REWINDS:
        rewind(s, text, [p.batch], spikes=spikes)
        return True
    s.event(f"{text}; if the loss does not come back, a lower learning rate helps, or on_spike=rewind.", spikes=spikes)
    return False


def far_above(usual: dict[str, float], figures: dict[str, float]) -> list[str]:
    """The names of the figures that are so far above their moving mean as SPIKE says; updates mean and variance.

    `usual` holds both per figure, over about MEMORY steps, and is quiet before it has seen as many. A figure that is
    far above enters as the border itself: one of them changes little, and a new level becomes usual in time.
    """
    seen = usual["steps"] = usual.get("steps", 0) + 1
    share = 1 / min(seen, MEMORY)
    far = []
    for name, value in figures.items():
        mean, variance = usual.get(f"{name}, mean", value), usual.get(f"{name}, variance", 0.0)
        deviations, least = SPIKE[name]
        border = mean + max(deviations * math.sqrt(variance), least)
        if seen > MEMORY and value > border:
            far.append(name)
            value = border
        usual[f"{name}, mean"] = mean + share * (value - mean)
        usual[f"{name}, variance"] = (1 - share) * (variance + share * (value - mean) ** 2)
    return far


def rewind(s: Session, why: str, batches: Sequence[int], **fields: Any) -> None:
    """Back to the last valid checkpoint, with half the learning rate, and never again these batches; `fields`: of the
    event that tells it.
    """
    before = s.progress
    loaded, rejected = newest(s)
    restore(s, loaded)
    p = s.progress
    s.log.cut({SAMPLES: p.logs[SAMPLES]}, [SAMPLES])  # the records of those steps stay: they tell why
    p.settings, p.made_with = before.settings, before.made_with
    p.rewinds, p.rate, p.micro_batch = before.rewinds + 1, before.rate / 2, before.micro_batch
    p.skipped = sorted({*before.skipped, *(batch for batch in batches if batch >= p.batch)})
    p.refused = 0
    p.time_s = s.clock.read()
    s.log.also = {"rewind": p.rewinds}
    for sentence in rejected:
        s.display.say(sentence)
    s.event(
        f"{why}; back to step {p.step:,} with {p.rate:g} of the learning rate, without the batches that did it.",
        back_to=p.step, **fields,
    )  # fmt: skip
    s.clock.lap(p.step)


# --- memory ----------------------------------------------------------------------------------------------------------


def within_memory(s: Session, gather: Callable[[Session], Result]) -> Result:
    """gather(s), with half the micro-batch as long as the memory does not suffice: the batch and its samples stay.

    Raises UserError (exit 71) when halving does not help, and with several ranks, which must all do the same.
    """
    config, ranks = s.run.config.train, s.machine.ranks
    halvings = 0
    while True:
        try:
            return gather(s)
        except (RuntimeError, MemoryError) as error:
            if exit_code_of(error) != OUT_OF_MEMORY:
                raise
        p, share = s.progress, config.batch_size // ranks.size
        now = ranks.micro_batch(config, p.micro_batch)
        smaller = max((m for m in range(1, now // 2 + 1) if share % m == 0), default=0)
        if not smaller or halvings == MOST_HALVINGS or ranks.size > 1:
            less = f"set micro_batch={smaller} in config.json and go on with --resume, or " if smaller else ""
            raise UserError(
                f"step {p.step:,} does not fit into memory, {now} sequences at a time; {less}start a smaller model.",
                OUT_OF_MEMORY,
            )
        halvings += 1
        p.micro_batch = smaller
        s.optimizer.zero_grad()
        s.forget_recordings()
        if s.machine.device.type == "cuda":
            torch.cuda.empty_cache()
        s.event(f"Out of memory at step {p.step:,}: {smaller} sequences at a time instead of {now}, the same batch.")
