"""Checkpoints that are whole or not there: written beside, checked by digest, renamed into place.

    checkpoints/step-00000500/{model.safetensors, optim.safetensors, state.json, MANIFEST.json}
    checkpoints/LATEST  BEST         names of folders; hints for people, the loader verifies what it takes
    snapshots/step-00000500.safetensors   weights alone, for looking back over the training

MANIFEST.json is written last and holds size and sha256 of every file, so a checkpoint with a valid manifest is
complete. Only safetensors and JSON are read: no file here can run code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tinygpt.errors import MISMATCH, NO_CHECKPOINT, UserError
from tinygpt.model import TinyGPT
from tinygpt.storage import canonical, fsync_folder, sha256, write_atomic, write_durable

FORMAT_VERSION = 1
KEEP = 3  # newest checkpoints kept beside the best one


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, its files read into memory."""

    name: str
    step: int
    model: dict[str, Tensor]
    optim: dict[str, Tensor]
    state: dict[str, Any]


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


# --- writing ---------------------------------------------------------------------------------------------------------


def save(
    run: Path, step: int, model: TinyGPT, optimizer: torch.optim.Optimizer, state: dict[str, Any],
    digests: dict[str, str], best: bool,
) -> Path:  # fmt: skip
    """Write the checkpoint of `step`, point LATEST (and BEST) at it, and prune old ones. OSError if the disk fails.

    state: everything that is not a tensor; digests: of tokenizer and data, compared when the run goes on.
    """
    folder = run / "checkpoints"
    target, temporary = folder / folder_name(step), folder / f".tmp-{step}-{os.getpid()}"
    files = {
        "model.safetensors": safetensors.torch.save(named_tensors(model)),
        "optim.safetensors": safetensors.torch.save(optimizer_tensors(model, optimizer)),
        "state.json": canonical({"step": step, **state}),
    }
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "step": step, "digests": digests,
        "files": {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()},
    }  # fmt: skip
    manifest["sha256"] = sha256(canonical(manifest))
    former: Path | None = None  # of this very step, from a session that stopped here
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_durable(temporary / name, data)
        write_durable(temporary / "MANIFEST.json", canonical(manifest))
        fsync_folder(temporary)
        if target.exists():
            former = set_aside(target)
        temporary.rename(target)
        fsync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if former and not target.exists():
            former.rename(target)
        raise
    if former:
        shutil.rmtree(former)
    write_atomic(folder / "LATEST", f"{target.name}\n".encode())
    if best:
        write_atomic(folder / "BEST", f"{target.name}\n".encode())
    prune(folder)
    return target


def save_snapshot(run: Path, step: int, model: TinyGPT) -> None:
    """The weights of `step` alone; never pruned."""
    data = safetensors.torch.save(named_tensors(model), {"step": str(step)})
    write_atomic(run / "snapshots" / f"{folder_name(step)}.safetensors", data)


def prune(folder: Path) -> None:
    """Keep the newest KEEP checkpoints and the best one."""
    keep = {path.name for path in step_folders(folder)[:KEEP]} | {read_pointer(folder, "BEST")}
    for path in step_folders(folder):
        if path.name not in keep:
            shutil.rmtree(set_aside(path))


def set_aside(path: Path) -> Path:
    """Rename before deleting: a half-deleted checkpoint never bears a checkpoint's name."""
    return path.rename(path.with_name(f".del-{path.name}-{os.getpid()}"))


# --- reading ---------------------------------------------------------------------------------------------------------


def step_folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if re.fullmatch(r"step-\d{8,}", p.name)), reverse=True)


def read_pointer(folder: Path, name: str) -> str | None:
    """The folder name in LATEST or BEST, or None."""
    path = folder / name
    return path.read_text(errors="replace").strip() if path.is_file() else None


def verify(path: Path) -> dict[str, bytes]:
    """The bytes of all files of one checkpoint folder, checked against its manifest; ValueError says what is wrong."""
    manifest_bytes = (path / "MANIFEST.json").read_bytes()
    manifest = json.loads(manifest_bytes)
    if not isinstance(manifest, dict) or canonical(manifest) != manifest_bytes:
        raise ValueError("MANIFEST.json is damaged")
    claimed = manifest.pop("sha256", None)
    if sha256(canonical(manifest)) != claimed:
        raise ValueError("MANIFEST.json is damaged")
    if manifest["format_version"] != FORMAT_VERSION:
        raise ValueError(f"it has format version {manifest['format_version']}, this tinygpt reads {FORMAT_VERSION}")
    if folder_name(manifest["step"]) != path.name:
        raise ValueError(f"its manifest belongs to step {manifest['step']}")
    contents = {"MANIFEST.json": manifest_bytes}
    for name in ("model.safetensors", "optim.safetensors", "state.json"):
        file, expected = path / name, manifest["files"][name]
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise ValueError(f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}")
        contents[name] = file.read_bytes()
        if sha256(contents[name]) != expected["sha256"]:
            raise ValueError(f"{name} is damaged (its sha256 differs)")
    return contents


def load(run: Path, which: str = "last", digests: dict[str, str] | None = None) -> tuple[Checkpoint, list[str]]:
    """A valid checkpoint of a run, and what was rejected on the way, one sentence each.

    which: "last" (the newest valid one), "best" (the lowest validation loss, else the newest) or a step number.
    Raises UserError: exit 72 if none is valid, exit 66 with both digests if it belongs to other data or tokenizer.
    """
    folder, rejected = run / "checkpoints", []
    paths = step_folders(folder)
    if which == "best":
        paths.sort(key=lambda path: path.name != read_pointer(folder, "BEST"))  # stable: the best, then newest first
    elif which != "last":
        paths = [path for path in paths if path.name == folder_name(int(which))]
    for path in paths:
        try:
            contents = verify(path)
            checkpoint = Checkpoint(
                path.name,
                int(path.name.removeprefix("step-")),
                safetensors.torch.load(contents["model.safetensors"]),
                safetensors.torch.load(contents["optim.safetensors"]),
                json.loads(contents["state.json"]),
            )
            stored = json.loads(contents["MANIFEST.json"])["digests"]
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            rejected.append(f"{path.name} is not usable: {error}.")
            continue
        for name, digest in (digests or {}).items():
            if stored.get(name) != digest:
                raise UserError(
                    f"{path.name} was made with {name} {str(stored.get(name))[:12]}, but the run holds "
                    f"{name} {digest[:12]}; restore the original file.", MISMATCH,
                )  # fmt: skip
        return checkpoint, rejected
    there = ", ".join(p.name.removeprefix("step-").lstrip("0") or "0" for p in step_folders(folder)) or "none"
    wanted = "valid checkpoint" if which in ("last", "best") else f"checkpoint of step {which}"
    raise UserError(" ".join([f"{run} has no {wanted} (steps there: {there}).", *rejected]), NO_CHECKPOINT)


def sweep(run: Path) -> None:
    """Remove what an interrupted save left behind; only for the process that holds the run."""
    for path in (run / "checkpoints").glob(".*-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:  # of LATEST or BEST
            path.unlink(missing_ok=True)


# --- tensors by name -------------------------------------------------------------------------------------------------


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


def optimizer_tensors(model: TinyGPT, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as {"exp_avg.blocks.0...": tensor}; empty before the first step."""
    return {
        f"{key}.{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(model: TinyGPT, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer back what `optimizer_tensors` took out."""
    parameters = dict(model.named_parameters())
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        # AdamW keeps its step counter beside the weights where it is fused, on the CPU elsewhere.
        beside = key != "step" or bool(optimizer.defaults.get("fused"))
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device if beside else "cpu")
