"""Where the computing happens: device, number format, threads. One process and one device is the plain case.

Several ranks (torchrun) are refused with a sentence for now; data order is already a pure function of
(step, rank, world), see data.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

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
        context = contextlib.ExitStack()
        if self.bf16:
            context.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
        if self.bf16 and self.device.type == "cpu":
            # torch's blockwise attention is slower in bf16 than in fp32 on CPUs; the formula as it stands is 2.6 times
            # faster (LOG.md), but only if it may also add up in bf16.
            torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # in spite of its name for every device
            context.enter_context(sdpa_kernel(SDPBackend.MATH))
        return context


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


def bf16_is_fast(device: str) -> bool:
    """Whether the hardware multiplies bf16 natively: by its generation on CUDA, by trying it out on the CPU (10 ms)."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return device == "cpu" and 1.5 * product_s(torch.bfloat16) < product_s(torch.float32)


def product_s(number_format: torch.dtype, size: int = 512) -> float:
    """Seconds of a square matrix product on the CPU, the best of five."""
    matrix = torch.ones(size, size, dtype=number_format)
    times = []
    for _ in range(6):  # the first one warms up
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return min(times[1:])


def keep_freed_memory() -> None:
    """Let the process reuse the large blocks it frees, instead of giving them back to the system at every step.

    glibc maps each block above some size anew, and the system clears it page by page: 12 % of a training step (LOG.md).
    Nothing happens where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):  # no C library to load, or one without mallopt
        mallopt = ctypes.CDLL(None).mallopt
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value it takes
        mallopt(M_TRIM_THRESHOLD, 512 << 20)


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
    bf16 = config.precision != "fp32" and (config.precision == "bf16" or bf16_is_fast(kind))
    if bf16 and kind != "cpu" and not bf16_is_fast(kind):
        raise UserError(f"precision=bf16 is not native on {kind} here; use precision=fp32.")
    reason = "asked for" if config.device != "auto" else "the fastest here" if kind != "cpu" else "no GPU here"
    number_format = (
        ("bf16 products, " + ("asked for" if config.precision == "bf16" else "native here")) if bf16 else "fp32"
    )
    return Machine(torch.device(kind), bf16, f"{kind} ({found[kind]}): {reason}; {number_format}.")
