"""Checkpoints that are whole or not there: written beside, checked by digest, renamed into place.

    checkpoints/step-00000500/{model.safetensors, optim.safetensors, state.json, MANIFEST.json}
    checkpoints/LATEST  BEST         names of folders; hints for people, the loader does not look at them
    snapshots/step-00000500.safetensors   weights alone, for looking back over the training
    start.safetensors                     the weights that a run begins with, if they come from another model

MANIFEST.json is written last and holds size and sha256 of every file, so a checkpoint with a valid manifest is
complete. Only safetensors and JSON are read: no file here can run code.

A save in its order; docs/reliability.md says how each point of it was tried:
1. make .tmp-STEP-PID; write and fsync model, optim, state, then the manifest; fsync the folder
2. rename it to step-STEP and fsync checkpoints/: from here on the checkpoint exists
3. replace LATEST and BEST; rename what is too old to .del-..., and delete that
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import tinygpt
from tinygpt.errors import MISMATCH, NO_CHECKPOINT, NON_FINITE, UserError
from tinygpt.model import TinyGPT
from tinygpt.optim import Optimizer
from tinygpt.storage import (
    DOOMED,
    TEMPORARY,
    canonical,
    check_room,
    fsync_folder,
    make_folder,
    parse_json,
    read_regular,
    remove,
    remove_if_possible,
    rename,
    sha256,
    write_atomic,
    write_durable,
)

FORMAT_VERSION = 2
KEEP = 3  # newest checkpoints kept beside the best one
FILES = ("model.safetensors", "optim.safetensors", "state.json")
START = "start.safetensors"
MANIFEST_BYTES = 1 << 16  # it has about 1,000
KINDS: dict[str, Any] = {  # of the fields in state.json
    "int": int, "float": (int, float), "int | None": (int, type(None)), "float | None": (int, float, type(None)),
    "list": list, "dict": dict,
}  # fmt: skip


@dataclass
class Progress:
    """Everything about a run that is neither a tensor nor fixed before step 0; stored in state.json.

    No generator states: whatever is random depends on (seed, step), and the samples on `batch`.
    """

    step: int = 0
    best_bpb: float | None = None
    best_step: int | None = None
    since_best: int = 0  # validations
    looked_step: int = -1
    train_loss: float | None = None  # smoothed
    refused: int = 0  # steps in a row
    rewinds: int = 0
    rate: float = 1.0  # all learning rates times this; halved by a rewind
    skipped: list[int] = field(default_factory=list)  # numbers of batches that are never drawn again
    usual: dict[str, float] = field(default_factory=dict)  # what guards.py knows of loss and gradient norm
    micro_batch: int = 0  # sequences per forward/backward; 0: as in the settings
    time_s: float = 0.0
    logs: dict[str, int] = field(default_factory=dict)  # bytes in each log when this was saved
    settings: dict[str, Any] = field(default_factory=dict)  # model and training settings up to here
    made_with: dict[str, Any] = field(default_factory=dict)  # versions, device, threads, ranks

    @property
    def batch(self) -> int:
        """Number of the next batch."""
        return self.batch_of(self.step)

    def batch_of(self, step: int) -> int:
        """Number of the batch of a step: the step's own, and one more for each skipped batch on the way there."""
        number = step
        for skipped in sorted(self.skipped):
            number += number >= skipped
        return number

    @classmethod
    def from_state(cls, state: Any) -> Progress:
        """The stored progress; ValueError unless it has exactly these fields, each of its type."""
        kinds = {f.name: str(f.type).partition("[")[0] for f in dataclasses.fields(cls)}
        wrong = kinds.keys() ^ (state.keys() if isinstance(state, dict) else set())
        if wrong:
            raise ValueError(f"state.json has not exactly the fields it needs: see {', '.join(sorted(wrong))}")
        for name, kind in kinds.items():
            if not isinstance(state[name], KINDS[kind]) or isinstance(state[name], bool):
                raise ValueError(f"state.json: {name} is {state[name]!r}")
        return cls(**state)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, its files read into memory."""

    name: str
    step: int
    model: dict[str, Tensor]
    optim: dict[str, Tensor]
    progress: Progress


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


# --- writing ---------------------------------------------------------------------------------------------------------


def save(run: Path, model: TinyGPT, optimizer: Optimizer, progress: Progress, digests: dict[str, str]) -> list[str]:
    """Write the checkpoint of `progress.step`, point LATEST (and BEST) at it, prune old ones; what was found damaged.

    digests: of tokenizer and data, compared when the run goes on. Raises OSError if the disk is full or fails, and
    UserError (exit 70) if a weight is not finite; the checkpoints there stay as they are.
    """
    folder, step = run / "checkpoints", progress.step
    target, temporary = folder / folder_name(step), folder / f"{TEMPORARY}{step}-{os.getpid()}"
    weights = named_tensors(model)
    sick = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if sick:
        raise UserError(f"step {step:,}: {sick[0]} is not finite, so it is not saved.", NON_FINITE)
    files = {
        "model.safetensors": safetensors.torch.save(weights),
        "optim.safetensors": safetensors.torch.save(optimizer_tensors(model, optimizer)),
        "state.json": canonical(dataclasses.asdict(progress)),
    }
    unjudged = step > 0 and (progress.best_step, progress.since_best) == (0, 0)  # validated was only the start
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "tinygpt": tinygpt.__version__, "step": step, "digests": digests,
        "best_bpb": progress.best_bpb if progress.best_step == step else None,
        "unjudged": unjudged,
        "files": {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()},
    }  # fmt: skip
    manifest["sha256"] = sha256(canonical(manifest))
    files["MANIFEST.json"] = canonical(manifest)  # last
    make_folder(folder)
    if target.exists() and is_same(target, manifest):  # saved by the session that stopped here
        return prune(folder)
    check_room(folder, sum(map(len, files.values())), f"the checkpoint of step {step:,}")
    former: Path | None = None  # of this very step, but other
    try:
        make_folder(temporary)
        for name, data in files.items():
            write_durable(temporary / name, data)
        fsync_folder(temporary)
        if target.exists():
            former = set_aside(target)
        rename(temporary, target)
        fsync_folder(folder)
    except BaseException:
        remove_if_possible(temporary)
        if former and not target.exists():
            rename(former, target)
        raise
    if former:
        remove_if_possible(former)
    with contextlib.suppress(OSError):  # hints: the checkpoint is there without them
        write_atomic(folder / "LATEST", f"{target.name}\n".encode())
        best = in_order(folder, "best")[0].name
        if best != read_pointer(folder, "BEST"):
            write_atomic(folder / "BEST", f"{best}\n".encode())
    return prune(folder)


def is_same(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether a valid checkpoint with these very weights, figures and digests is there; its state leads on alike."""
    try:
        there, _ = verify(path)
    except (OSError, ValueError):
        return False
    tensors = ("model.safetensors", "optim.safetensors")
    return all(there[key] == manifest[key] for key in ("best_bpb", "digests")) and all(
        there["files"][name] == manifest["files"][name] for name in tensors
    )


def save_snapshot(run: Path, step: int, model: TinyGPT) -> None:
    """The weights of `step` alone; never pruned."""
    data = safetensors.torch.save(named_tensors(model), {"step": str(step)})
    check_room(run, len(data), f"the snapshot of step {step:,}")
    write_atomic(run / "snapshots" / f"{folder_name(step)}.safetensors", data)


def load_snapshot(run: Path, step: int) -> Checkpoint | None:
    """The weights of a snapshot, as a checkpoint without an optimizer; None if there is none of this step.

    UserError (exit 72) if it is damaged.
    """
    path = run / "snapshots" / f"{folder_name(step)}.safetensors"
    if not path.exists():
        return None
    try:
        with naming(path.name):
            tensors = safetensors.torch.load(read_regular(path))
    except ValueError as error:
        raise UserError(f"{run}: {error}.", NO_CHECKPOINT) from None
    return Checkpoint(path.stem, step, tensors, {}, Progress(step=step))


def save_start(run: Path, tensors: dict[str, Tensor]) -> str:
    """Write the weights that a run begins with; their digest, for config.json."""
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    check_room(run, len(data), "the weights to start from")
    write_atomic(run / START, data)
    return sha256(data)


def load_start(run: Path, digest: str) -> dict[str, Tensor]:
    """The weights that `save_start` wrote; UserError (exit 72) unless they are those."""
    try:
        with naming(START):
            data = read_regular(run / START)
            if sha256(data) != digest:
                raise ValueError("it is damaged (its sha256 differs)")
            return safetensors.torch.load(data)
    except ValueError as error:
        raise UserError(f"{run} cannot start: {error}; restore it, or start a new run.", NO_CHECKPOINT) from None


def steps_kept(run: Path) -> list[int]:
    """Steps whose weights can be looked at, in order: checkpoints and snapshots."""
    snapshots = [path.stem for path in (run / "snapshots").glob("step-*.safetensors")]
    found = [step_of(path) for path in step_folders(run / "checkpoints")]
    return sorted({*found, *(int(name.removeprefix("step-")) for name in snapshots if name[5:].isdecimal())})


def room_for_run(parameters: int, snapshots: int) -> int:
    """Bytes that a run takes on the disk at most, all its checkpoints and snapshots together: fp32 numbers.

    A checkpoint has weights, their mean and at most two moments of each; one more is being written beside those kept.
    """
    return 4 * parameters * (4 * (KEEP + 2) + snapshots)


def prune(folder: Path) -> list[str]:
    """Keep the newest KEEP checkpoints that are valid and the best one; a sentence for each that is seen to be damaged.

    Each is read and verified before an older one goes: what the disk has spoilt does not count as kept.
    """
    said = []

    @functools.cache
    def damage(path: Path) -> bool:
        try:
            verify(path)
            return False
        except (OSError, ValueError) as error:
            said.append(f"{path.name} is damaged and does not count: {error}.")
            return True

    paths = step_folders(folder)
    kept = list(itertools.islice((path for path in paths if not damage(path)), KEEP))
    older = paths[paths.index(kept[-1]) + 1 :] if len(kept) == KEEP else []
    best = next((path for path in in_order(folder, "best") if not damage(path)), None) if older else None
    for path in older:
        if path != best:
            try:
                remove(set_aside(path))
            except OSError as error:  # Windows: somebody reads it
                said.append(f"{path.name} is no longer needed, but cannot be removed: {error.strerror}.")
    return said


def set_aside(path: Path) -> Path:
    """Rename before deleting: a half-deleted checkpoint never bears a checkpoint's name."""
    doomed = path.with_name(f"{DOOMED}{path.name}-{os.getpid()}")
    if doomed.exists():  # of an earlier try
        remove(doomed)
    rename(path, doomed)
    return doomed


# --- reading ---------------------------------------------------------------------------------------------------------


def step_folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=lambda path: (step_of(path), path.name), reverse=True)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def in_order(folder: Path, which: str) -> list[Path]:
    """Checkpoint folders in the order in which `load` tries them.

    The start is the best only against weights that were validated: a run that was stopped before is better than that.
    """
    paths = step_folders(folder)
    if which == "last":
        return paths
    if which != "best":
        return [path for path in paths if step_of(path) == int(which)]

    def said(path: Path) -> dict[str, Any]:
        try:
            return read_manifest(path)
        except (OSError, ValueError):
            return {}

    manifests = {path: said(path) for path in paths}
    unjudged = next(filter(None, manifests.values()), {}).get("unjudged")  # by the newest

    def score(path: Path) -> float:
        bpb = None if unjudged and step_of(path) == 0 else manifests[path].get("best_bpb")
        return float(bpb) if isinstance(bpb, (int, float)) else float("inf")

    return sorted(paths, key=score)  # stable: those that never were the best come last, newest first


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder; ValueError unless it is whole and belongs here."""
    with naming("MANIFEST.json"):
        data = read_regular(path / "MANIFEST.json", MANIFEST_BYTES)
        manifest = parse_json(data)
        if not isinstance(manifest, dict) or canonical(manifest) != data:
            raise ValueError("MANIFEST.json is damaged")
    claimed = manifest.pop("sha256", None)
    if sha256(canonical(manifest)) != claimed:
        raise ValueError("MANIFEST.json is damaged")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"it has format version {version}, this tinygpt reads {FORMAT_VERSION}")
    if not isinstance(manifest.get("step"), int) or folder_name(manifest["step"]) != path.name:
        raise ValueError(f"its manifest belongs to step {manifest.get('step')}")
    if not isinstance(manifest.get("digests"), dict):
        raise ValueError("its manifest has no digests of tokenizer and data")
    return manifest


def verify(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and bytes of all files of one checkpoint folder, checked; ValueError says what is wrong."""
    manifest = read_manifest(path)
    contents = {}
    for name in FILES:
        try:
            size, digest = (manifest["files"][name][key] for key in ("bytes", "sha256"))
        except (KeyError, TypeError):
            raise ValueError(f"its manifest does not describe {name}") from None
        with naming(name):
            there = (path / name).stat().st_size
            if there != size:
                raise ValueError(f"{name} has {there} bytes instead of {size}")
            contents[name] = read_regular(path / name)
        if sha256(contents[name]) != digest:
            raise ValueError(f"{name} is damaged (its sha256 differs)")
    return manifest, contents


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Whatever is wrong with a file becomes a ValueError with its name."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise ValueError(reason if name in reason else f"{name}: {reason}") from None


def read(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """One checkpoint folder and the digests in its manifest; ValueError names what is damaged, and why."""
    manifest, contents = verify(path)
    with naming("model.safetensors"):
        model = safetensors.torch.load(contents["model.safetensors"])
    with naming("optim.safetensors"):
        optim = safetensors.torch.load(contents["optim.safetensors"])
    with naming("state.json"):
        progress = Progress.from_state(parse_json(contents["state.json"]))
        if progress.step != step_of(path):
            raise ValueError(f"its state.json belongs to step {progress.step}")
    return Checkpoint(path.name, step_of(path), model, optim, progress), manifest["digests"]


def load(run: Path, which: str = "last", digests: dict[str, str] | None = None) -> tuple[Checkpoint, list[str]]:
    """A valid checkpoint of a run, and what was rejected on the way, one sentence each.

    which: "last" (the newest valid one), "best" (the lowest validation loss, else the newest) or a step number, which
    may be that of a snapshot: its weights alone.
    Raises UserError: exit 72 if none is valid, exit 66 with both digests if it belongs to other data or tokenizer.
    """
    folder, rejected = run / "checkpoints", dict[str, str]()
    tries = in_order(folder, which)
    if which.isdecimal() and not tries and (snapshot := load_snapshot(run, int(which))):
        return snapshot, []
    while tries:
        path = tries.pop(0)
        try:
            checkpoint, stored = read(path)
        except ValueError as error:
            if not path.exists():  # pruned by the process that trains, while this one was reading: look again
                tries = [other for other in in_order(folder, which) if other.name not in rejected]
                continue
            rejected[path.name] = f"{path.name} is not usable: {error}."
            continue
        for name, digest in (digests or {}).items():
            if stored.get(name) != digest:
                raise UserError(
                    f"{path.name} was made with {name} {str(stored.get(name))[:12]}, but the run holds "
                    f"{name} {digest[:12]}; restore the original file.", MISMATCH,
                )  # fmt: skip
        return checkpoint, list(rejected.values())
    there = ", ".join(map(str, steps_kept(run))) or "none"
    wanted = "valid checkpoint" if which in ("last", "best") else f"checkpoint of step {which}"
    raise UserError(" ".join([f"{run} has no {wanted} (steps there: {there}).", *rejected.values()]), NO_CHECKPOINT)


def read_pointer(folder: Path, name: str) -> str | None:
    """The folder name in LATEST or BEST, or None."""
    path = folder / name
    return path.read_text(errors="replace").strip() if path.is_file() else None


def lost_pointers(run: Path) -> dict[str, str]:
    """Pointer -> the checkpoint that it names and that is not there: somebody, or something, has removed it."""
    folder = run / "checkpoints"
    named = {name: read_pointer(folder, name) for name in ("LATEST", "BEST")}
    return {name: found for name, found in named.items() if found and not (folder / found).is_dir()}


def leftovers(run: Path) -> list[Path]:
    """What an interrupted save, deletion or preparation left behind."""
    places = (run, run / "checkpoints", run / "snapshots", run / "data")
    return sorted(path for place in places for begin in (TEMPORARY, DOOMED) for path in place.glob(f"{begin}*"))


def sweep(run: Path) -> list[Path]:
    """Remove the leftovers, and return them; only for the process that holds the run.

    A checkpoint that was whole and set aside, when its successor of the same step did not come, gets its name back.
    """
    removed = []
    for path in leftovers(run):
        name = re.match(rf"{re.escape(DOOMED)}(step-\d+)-", path.name)
        if name and (path / "MANIFEST.json").exists() and not path.with_name(name[1]).exists():
            rename(path, path.with_name(name[1]))
        else:
            remove_if_possible(path)
            removed.append(path)
    return removed


# --- tensors by name -------------------------------------------------------------------------------------------------


def weights_sha256(model: TinyGPT) -> str:
    """Of the weights: the sha256 of the model.safetensors that a checkpoint of them has."""
    return sha256(safetensors.torch.save(named_tensors(model)))


def named_tensors(model: TinyGPT) -> dict[str, Tensor]:
    """Every parameter once, on the CPU, by name."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


def load_model(model: TinyGPT, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into the model; UserError (exit 66) unless names and shapes agree exactly."""
    parameters = dict(model.named_parameters())
    for name in parameters.keys() | tensors.keys():
        ours, theirs = parameters.get(name), tensors.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [tuple(t.shape) if t is not None else "absent" for t in (ours, theirs)]
            raise UserError(f"weights do not fit the model: {name} is {shapes[0]} here, {shapes[1]} there.", MISMATCH)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def optimizer_tensors(model: TinyGPT, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as {"exp_avg.blocks.0...": tensor}; empty before the first step."""
    return {
        f"{key}.{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(model: TinyGPT, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer back what `optimizer_tensors` took out; UserError (exit 66) if it is of another model."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if name not in parameters or (key != "step" and tensor.shape != parameters[name].shape):
            raise UserError(f"the optimizer's {full_name} does not fit the model.", MISMATCH)
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)
