"""`tinygpt doctor`: what this machine offers and what is in a run folder, as plain data."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

import tinygpt
from tinygpt import checkpoint
from tinygpt.config import TrainConfig
from tinygpt.display import safe_text
from tinygpt.distributed import available_devices, choose_machine
from tinygpt.errors import UserError
from tinygpt.folders import is_locked, lock, owner
from tinygpt.model import TinyGPT
from tinygpt.runs import Run, first_weights, open_run, steps_recorded

OPTIONAL = {"pyarrow": "reading .parquet"}


def examine_machine() -> dict[str, Any]:
    """Versions, devices with the choice and its reason, threads, free disk, optional packages."""
    machine = choose_machine(TrainConfig())
    return {
        "tinygpt": tinygpt.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "devices": available_devices(),
        "device": machine.device.type,
        "bf16": machine.bf16,
        "why": machine.why,
        "cpus": os.cpu_count(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "optional": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
    }


def examine_run(folder: Path) -> dict[str, Any]:
    """Every checkpoint verified, and what a resume and a reader would do; verdicts come from the loader itself."""
    result: dict[str, Any] = {"run": folder.name, "checkpoints": [], "problems": [], "locked": is_locked(folder)}
    result["owner"] = owner(folder).strip(" ()") if result["locked"] else ""
    try:
        run, notices = open_run(folder)
        result["problems"] += notices
    except UserError as error:
        return {**result, "problems": [str(error)], "exit_code": error.exit_code}
    paths = checkpoint.step_folders(folder / "checkpoints")
    for path in paths:
        try:
            checkpoint.read(path)
            size = sum(file.stat().st_size for file in path.iterdir())
            result["checkpoints"].append({"name": path.name, "bytes": size, "valid": True})
        except (OSError, ValueError) as error:
            if not path.exists():  # pruned by the process that trains
                continue
            reason = str(error)
            result["checkpoints"].append({"name": path.name, "valid": False, "reason": reason})
            result["problems"].append(f"{path.name}: {reason}")
    exit_code = 0
    result |= {"resume": None, "read": None, "begun": begun(run)}
    for purpose, which in (("resume", "last"), ("read", "best")) if result["begun"] else ():
        try:
            found, _ = checkpoint.load(folder, which, run.digests)
            checkpoint.load_model(TinyGPT(run.config.model), found.model)  # weights of another shape are refused
            result[purpose] = found.name
        except UserError as error:
            exit_code = error.exit_code
            if str(error) not in result["problems"]:  # mostly both are refused for one reason
                result["problems"].append(str(error))
    for pointer, wanted in (("LATEST", result["resume"]), ("BEST", result["read"])):
        said = checkpoint.read_pointer(folder / "checkpoints", pointer)
        if wanted and said != wanted:
            result["problems"].append(
                f"{pointer} names {said}, but the loader takes {wanted}: the name is only a hint."
            )
    if not result["locked"]:  # a save may be going on otherwise
        relics = [str(path.relative_to(folder)) for path in checkpoint.leftovers(folder)]
        result["problems"] += [f"left over from an interrupted save: {name} (--repair removes it)" for name in relics]
    try:
        if run.origin:
            first_weights(run, TinyGPT(run.config.model))
    except UserError as error:
        result["problems"].append(str(error))
        exit_code = exit_code if result["begun"] else error.exit_code  # only a run without a checkpoint needs them
    return {**result, "max_steps": run.config.train.max_steps, "began_with": run.began_with, "exit_code": exit_code}


def begun(run: Run) -> bool:
    """Whether there is, or was, a checkpoint to go on from; a resume starts at step 0 otherwise."""
    there = checkpoint.step_folders(run.folder / "checkpoints") or checkpoint.lost_pointers(run.folder)
    try:
        return bool(there or steps_recorded(run))
    except UserError:  # the end of the log is damaged
        return True


def repair_run(folder: Path) -> list[str]:
    """Remove what interrupted saves and deletions left, and nothing else; UserError (exit 73) while the run is held."""
    with lock(folder):
        return [str(path.relative_to(folder)) for path in checkpoint.sweep(folder)]


def doctor_text(result: dict[str, Any]) -> str:
    """Either examination as lines."""
    if "run" in result:
        lines = [f"Run {result['run']}" + (f", being trained by {result['owner']}" if result["locked"] else "")]
        for item in result["checkpoints"]:
            lines.append(f"  {item['name']}  " + ("whole" if item["valid"] else f"NOT USABLE: {item['reason']}"))
        lines += [f"  removed {name}" for name in result.get("removed", [])]
        lines += [f"  problem: {problem}" for problem in result["problems"]] or ["  no problems"]
        if result.get("began_with"):
            lines.append(f"  began with the weights of {safe_text(result['began_with'])}")
        if result.get("begun") is False:
            lines.append(f"  no checkpoint yet: a resume starts at step 0 of {result['max_steps']:,}")
        if result.get("resume"):
            lines.append(f"  a resume goes on from {result['resume']} of {result['max_steps']:,} steps; "
                         f"generate reads {result['read']}")  # fmt: skip
        return "\n".join(lines)
    lines = [
        f"tinygpt {result['tinygpt']}, Python {result['python']}, torch {result['torch']}, {result['system']}",
        f"  device   {result['why']}",
        *(f"  found    {kind}: {name}" for kind, name in result["devices"].items()),
        f"  disk     {result['free_disk_bytes'] / 1e9:.1f} GB free here",
    ]
    for name, there in result["optional"].items():
        lines.append(f"  {name:<13}{'installed' if there else 'not installed'}: {OPTIONAL[name]}")
    return "\n".join(lines)
