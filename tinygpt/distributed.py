"""Where the computing happens: device, number format, threads. One process and one device is the plain case.

Several ranks (torchrun) are refused with a sentence for now; data order is already a pure function of
(step, rank, world), see data.py.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import torch

from tinygpt.config import TrainConfig
from tinygpt.errors import BAD_CONFIG, UserError


@dataclass(frozen=True)
class Machine:
    """The device and number format of a run, and one sentence that says why."""

    device: torch.device
    bf16: bool
    why: str

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 matrix products where `bf16` is set, else nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()


def available_devices() -> dict[str, str]:
    """Device type -> its name, the fastest first; the CPU is always there. A GPU that cannot add up is left out."""
    found = {}
    if torch.cuda.is_available() and works("cuda"):
        found["cuda"] = torch.cuda.get_device_name()
    if torch.backends.mps.is_available() and works("mps"):
        found["mps"] = "Apple GPU"
    cores = cpu_cores()
    found["cpu"] = f"{cores} core{'s' * (cores != 1)}"
    return found


def works(device: str) -> bool:
    """Whether the installed torch has code for this device: it may be too old for the GPU, or the GPU for it."""
    try:
        return bool(torch.ones(2, 2, device=device).matmul(torch.ones(2, 2, device=device)).sum().item() == 8)
    except RuntimeError:
        return False


def cpu_cores() -> int:
    """Cores this process may use; OMP_NUM_THREADS, if it begins with a number, is honoured."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_machine(config: TrainConfig) -> Machine:
    """The device asked for, or the fastest one there is; bf16 only where the hardware multiplies it natively.

    Raises UserError if the device or the format asked for is not there, or if this is one of several ranks.
    """
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UserError("training on several ranks is not built yet; start one process without torchrun.", BAD_CONFIG)
    found = available_devices()
    if config.device != "auto" and config.device not in found:
        raise UserError(f"device={config.device} is not on this machine; it has {', '.join(found)}.")
    kind = next(iter(found)) if config.device == "auto" else config.device
    native = kind == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    if config.precision == "bf16" and not native:
        raise UserError(f"precision=bf16 is not native on {kind} here; use precision=fp32.")
    bf16 = native and config.precision != "fp32"
    reason = "asked for" if config.device != "auto" else "the fastest here" if kind != "cpu" else "no GPU here"
    number_format = "bf16 products, native here" if bf16 else "fp32"
    return Machine(torch.device(kind), bf16, f"{kind} ({found[kind]}): {reason}; {number_format}.")
