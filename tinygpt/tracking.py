"""The curves elsewhere: TensorBoard, Weights & Biases and trackio, each imported only if it is asked for. No torch.

metrics.jsonl stays the source. A sink is given the train and eval records that the log writes, each once: what it has
been given stands in runs/<name>/SINK.told, so a resume repeats nothing, and a sink that is asked for later gets what
came before. A sink never stops a training: it fails once, that is said, and it is left out from there on.

    tensorboard   runs/<name>/tensorboard/        tensorboard --logdir runs
    wandb         runs/<name>/wandb/              offline, unless WANDB_MODE says otherwise; later: wandb sync FOLDER
    trackio       its own folder (TRACKIO_DIR)    trackio show --project tinygpt
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError
from tinygpt.records import METRICS, Log, read
from tinygpt.storage import append, read_regular, sha256

PROJECT = "tinygpt"
KINDS = ("train", "eval")  # of the records that are passed on
NO_CURVES = ("kind", "step", "best", "rewind")


@dataclass(frozen=True)
class Sink:
    """Where figures go: `give` takes them with their step, `end` writes out what waits."""

    give: Callable[[int, Mapping[str, float]], object]
    end: Callable[[], object]


def tensorboard(folder: Path, settings: Mapping[str, Any]) -> Sink:
    """Event files, written by the tensorboard package alone: PyTorch's writer takes seconds to import."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder / "tensorboard"))

    def give(step: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    return Sink(give, writer.close)


def wandb(folder: Path, settings: Mapping[str, Any]) -> Sink:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise; a resumed run goes on under the same id."""
    import wandb as package

    mode: Any = os.environ.get("WANDB_MODE", "offline")
    quiet = package.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
    )
    created = f"{folder.name} {settings.get('created', '')}"
    run = package.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name, id=sha256(created.encode())[:16],
        dir=str(folder), mode=mode, config=dict(settings), settings=quiet,
        resume=None if mode == "offline" else "allow",
    )  # fmt: skip
    run.define_metric("*", step_metric="step")  # not their own counter, which must never go back

    def give(step: int, figures: Mapping[str, float]) -> None:
        run.log({"step": step, **figures})

    return Sink(give, run.finish)


def trackio(folder: Path, settings: Mapping[str, Any]) -> Sink:
    """A run of trackio, on this computer unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise."""
    asked = [name for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if os.environ.get(name)]
    with offline_hub(not asked):
        import trackio as package

        run = package.init(
            project=PROJECT, name=folder.name, config=dict(settings), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
    # Not run.finish, after which trackio finishes it once more when Python ends, and says so.
    return Sink(lambda step, figures: run.log(dict(figures), step=step), package.finish)


SINKS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "tensorboard": tensorboard, "wandb": wandb, "trackio": trackio,
}  # fmt: skip


@contextlib.contextmanager
def offline_hub(wanted: bool) -> Iterator[None]:
    """While trackio is loaded nobody asks huggingface.co who the user is; it reads the variable when it is imported."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop("HF_HUB_OFFLINE")
            os.environ.update({"HF_HUB_OFFLINE": before} if before is not None else {})


def refuse_missing(names: Sequence[str]) -> None:
    """UserError if the package of a sink is not installed; nothing is imported for that."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--{missing[0]} needs the package {missing[0]}: pip install 'tinygpt[track]'.")


@contextlib.contextmanager
def tracking(names: Sequence[str], log: Log, settings: Mapping[str, Any], say: Callable[[str], None]) -> Iterator[None]:
    """Pass on to these sinks what `log` writes from here on, and first what they lack of what it has written."""
    if not names:
        yield
        return
    keepers = [Keeper(name, log.folder, settings, say) for name in names]
    past = read(log.folder / METRICS)
    for keeper in keepers:
        for record in past:
            keeper.hear(record)
        log.listeners.append(keeper.hear)
    try:
        yield
    finally:
        for keeper in keepers:
            log.listeners.remove(keeper.hear)
            keeper.end()


class Keeper:
    """One sink of one run: what it has been given, and that it may fail."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.path = folder / f"{name}.told"
        self.told = set(read_regular(self.path).decode().splitlines()) if self.path.exists() else set[str]()
        self.sink: Sink | None = self.tried(lambda: SINKS[name](folder, settings))

    def hear(self, record: Mapping[str, Any]) -> None:
        """Give it a record, unless it has it; written down before, so that a kill loses some rather than doubles one.

        Those are what the sink had not yet written itself: trackio does so every half second.
        """
        if record.get("kind") not in KINDS or self.sink is None:
            return
        sink, step, key = self.sink, record["step"], f"{record['kind']} {record['step']} {record.get('rewind', 0)}"
        if key in self.told:
            return
        self.told.add(key)

        def give() -> None:
            append(self.path, f"{key}\n".encode())
            sink.give(step, figures(record))

        self.tried(give)

    def end(self) -> None:
        """Let it write out what waits."""
        if self.sink is not None:
            self.tried(self.sink.end)

    def tried(self, work: Callable[[], Any]) -> Any:
        """Its result; what it raises is said, and the sink left out from there on. What it prints is not shown."""
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return work()
        except Exception as error:
            self.sink = None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.say(f"{self.name} gets no more records ({reason}); training goes on, and metrics.jsonl has them all.")
        return None


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """What a curve can be drawn of, as train/loss, eval/val_bpb, ...: the finite numbers of a record."""
    numbers = {
        f"{record['kind']}/{name}": float(value)
        for name, value in record.items()
        if name not in NO_CURVES and isinstance(value, int | float)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
