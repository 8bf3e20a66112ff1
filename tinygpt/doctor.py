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
from tinygpt.distributed import available_devices, choose_machine
from tinygpt.errors import UserError
from tinygpt.runs import open_run

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
    result: dict[str, Any] = {"run": folder.name, "checkpoints": [], "problems": []}
    try:
        run, notices = open_run(folder)
        result["problems"] += notices
    except UserError as error:
        return {**result, "problems": [str(error)], "exit_code": error.exit_code}
    for path in checkpoint.step_folders(folder / "checkpoints"):
        try:
            contents = checkpoint.verify(path)
            result["checkpoints"].append({"name": path.name, "bytes": sum(map(len, contents.values())), "valid": True})
        except (OSError, ValueError, KeyError, TypeError) as error:
            result["checkpoints"].append({"name": path.name, "valid": False, "reason": str(error)})
            result["problems"].append(f"{path.name}: {error}")
    exit_code = 0
    for purpose, which in (("resume", "last"), ("read", "best")):
        try:
            result[purpose] = checkpoint.load(folder, which, run.digests)[0].name
        except UserError as error:
            result[purpose], exit_code = None, error.exit_code
            if str(error) not in result["problems"]:  # mostly both are refused for one reason
                result["problems"].append(str(error))
    leftovers = [path.name for path in (folder / "checkpoints").glob(".*-*")]
    result["problems"] += [f"left over from an interrupted save: {name}" for name in leftovers]
    return {**result, "max_steps": run.config.train.max_steps, "exit_code": exit_code}


def doctor_text(result: dict[str, Any]) -> str:
    """Either examination as lines."""
    if "run" in result:
        lines = [f"Run {result['run']}"]
        for item in result["checkpoints"]:
            lines.append(f"  {item['name']}  " + ("whole" if item["valid"] else f"NOT USABLE: {item['reason']}"))
        lines += [f"  problem: {problem}" for problem in result["problems"]] or ["  no problems"]
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
