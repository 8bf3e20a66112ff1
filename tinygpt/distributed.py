"""Where the computing happens: device, number format, threads, and the ranks that share one run.

One process and one device is the plain case. With torchrun there are several processes, the ranks: each has the whole
model and its share of every batch (data.py), and their gradients are averaged, so that all make the same update. The
first rank alone prints, writes and decides; whatever all must agree on is reduced, so that they stay in step.

    with join() as ranks:                  meet the others; leave together, also after errors
        ranks.tell(message)                what the first rank found out, at every rank
        ranks.alone(work)                  the first rank works, the others wait
        ranks.mean(a, b), ranks.largest(c) figures and flags that are then equal at all ranks
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from tinygpt.config import TrainConfig, listing
from tinygpt.errors import BAD_CONFIG, INTERRUPTED, OUT_OF_MEMORY, RANK_LOST, TERMINATED, UserError, exit_code_of

TIMEOUT = timedelta(seconds=60)  # between ranks that work side by side
PATIENCE = timedelta(days=7)  # while the first rank works alone; one that dies is noticed at once all the same
LINGER = timedelta(seconds=3)  # of a rank that keeps the others' meeting place, after an error
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|wait timeout", re.IGNORECASE)


met_others = False  # whether this process has been one of several ranks


# --- ranks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together, seen from one of them; a process by itself is rank 0 of 1.

    Words and figures travel over gloo, also where the gradients travel over nccl.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this computer
    local_size: int = 1
    patient: Any = None  # process group in which the others wait for the first rank

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints, writes and decides."""
        return self.rank == 0

    def tell(self, message: Any = None) -> Any:
        """The first rank's `message` (JSON), at every rank; the others wait for it, however long that takes."""
        if self.size == 1:
            return message
        text = json.dumps(message if self.first else None).encode()
        length = torch.tensor([len(text)])
        self.broadcast(length)
        data = torch.tensor(list(text) if self.first else [0] * int(length), dtype=torch.uint8)
        self.broadcast(data)
        return json.loads(bytes(data.tolist()))

    def broadcast(self, tensor: torch.Tensor) -> None:
        """The first rank's tensor at every rank: these wait for it with patience, it waits for them only so long."""
        work = dist.broadcast(tensor, 0, group=self.patient, async_op=True)
        work.wait(TIMEOUT if self.first else PATIENCE)

    def alone(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do work(*arguments) on the first rank alone; the others wait until it is done."""
        if self.first:
            work(*arguments)
        self.tell()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum over the ranks of each value, equal at all of them."""
        return self.reduced(values, dist.ReduceOp.SUM) if self.size > 1 else list(values)

    def mean(self, *values: float) -> list[float]:
        """The mean over the ranks of each value, equal at all of them."""
        return [total / self.size for total in self.total(values)]

    def largest(self, value: int) -> int:
        """The largest value that a rank has."""
        return int(self.reduced([value], dist.ReduceOp.MAX)[0]) if self.size > 1 else value

    def reduced(self, values: Sequence[float], how: Any) -> list[float]:
        """Each value reduced over the ranks; fp64 on the CPU."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, how)
        return tensor.tolist()

    def averaging(self, loss: nn.Module) -> nn.Module:
        """The loss, with gradients averaged over the ranks; all parameters become the first rank's."""
        if self.size == 1:
            return loss
        parallel = DistributedDataParallel(loss)
        parallel.broadcast_buffers = False  # they never change; torch 2.13 warns of this as an argument
        return parallel

    def micro_batch(self, config: TrainConfig, most: int = 0) -> int:
        """Sequences per forward/backward of a rank: `most`, else the setting, or the next divisor of its share."""
        share = config.batch_size // self.size
        return max(m for m in range(1, (most or config.micro_batch) + 1) if share % m == 0)

    def check_share(self, config: TrainConfig) -> None:
        """Raise UserError (exit 78) if the batch cannot be shared equally; it names what could be."""
        if config.batch_size % self.size:
            below = config.batch_size // self.size * self.size
            batches = [b for b in (below, below + self.size) if b]
            sizes = [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]
            near = sorted(sorted(sizes, key=lambda n: abs(n - self.size))[:3])
            raise UserError(
                f"batch_size={config.batch_size} cannot be shared equally by {self.size} ranks; batch_size can be "
                f"{listing(batches)} with these, or the number of ranks {listing(near)}.",
                BAD_CONFIG,
            )

    def device(self, kind: str) -> torch.device:
        """This rank's own device of a kind: on CUDA one GPU for each rank of this computer."""
        if self.size == 1 or kind != "cuda":
            return torch.device(kind)
        torch.cuda.set_device(self.local_rank)
        return torch.device(kind, self.local_rank)


ALONE = Ranks()


def keeping_back(loss: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """For forward and backward of one micro-step: the ranks average their gradients in the last one only."""
    return contextlib.nullcontext() if last or not isinstance(loss, DistributedDataParallel) else loss.no_sync()


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """Meet the other ranks that torchrun started, and leave together; by itself without WORLD_SIZE, or with 1.

    When one rank fails, all end: the first to fail raises its error, the others follow it with SystemExit of its exit
    code and say nothing. A rank that dies or hangs is a UserError (exit 75). Exit 78 if the environment is incomplete.
    """
    rank, size, local_rank, local_size = ranks_in_environment()
    if size == 1:
        yield ALONE
        return
    global met_others
    met_others = True
    store, ranks = None, None
    try:
        store = next(rendezvous("env://", timeout=TIMEOUT))[0]
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        ranks = Ranks(rank, size, local_rank, local_size, dist.new_group(timeout=PATIENCE, backend="gloo"))
        yield ranks
        ranks.tell()  # the first rank has finished its report
        ranks.largest(0)
        dist.destroy_process_group()
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, for the death of another: it is ending already
        lost = isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or LOST.search(str(error)))
        first, code = blame(store, rank, RANK_LOST if lost else exit_code_of(error))
        if ranks is not None:
            object.__setattr__(ranks, "patient", None)  # connections close with the last mention of their group
        if dist.is_initialized():  # so those who wait for this rank notice; a rank that hangs would hold it up for ever
            leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
            leaving.start()
            leaving.join(LINGER.total_seconds())
        if store is not None and rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            with contextlib.suppress(RuntimeError):  # the store goes with this process
                store.wait([f"failed-{other}" for other in range(1, size)], LINGER)
        if not first:
            raise SystemExit(code) from None
        if not lost:
            raise
        if ranks is None:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(f"the {size} ranks did not find each other at {where}.", RANK_LOST) from None
        raise UserError(
            f"rank {rank} of {size} stopped, because another rank ended or has not answered for "
            f"{TIMEOUT.total_seconds():g} s; a run that had begun goes on from its last checkpoint with --resume.",
            RANK_LOST,
        ) from None


def blame(store: Any, rank: int, code: int) -> tuple[bool, int]:
    """Whether this rank was the first to fail, and the exit code of the one that was."""
    try:
        culprit, culprits_code = store.compare_set("failed", "", f"{rank} {code}").decode().split()
        store.set(f"failed-{rank}", "1")
    except (RuntimeError, AttributeError):  # the store has gone with the first rank, or was never there
        return True, code
    return int(culprit) == rank, int(culprits_code)


def ranks_in_environment() -> tuple[int, int, int, int]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE as torchrun sets them; (0, 1, 0, 1) without it.

    Raises UserError (exit 78) if some are missing or are not numbers that fit together.
    """
    given = {name: os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    if given["WORLD_SIZE"] in ("", "1"):
        return 0, 1, 0, 1
    missing = [name for name, value in given.items() if not value]
    wrong = [name for name in ("WORLD_SIZE", "RANK", "MASTER_PORT") if not given[name].isdecimal()]
    if missing or wrong or not int(given["RANK"]) < int(given["WORLD_SIZE"]):
        seen = listing(f"{name}={value}" for name, value in given.items())
        raise UserError(
            f"several ranks need WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT, and here they are {seen}; start with "
            "torchrun --standalone --nproc_per_node=2 -m tinygpt train, or without WORLD_SIZE.",
            BAD_CONFIG,
        )
    rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
    return rank, size, int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))


class Signals:
    """Ctrl-C, SIGTERM, SIGHUP set `code`, and the loop stops at the next step; a second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.code = 0
        self.codes = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
        for name in ("SIGHUP", "SIGBREAK"):  # the terminal was closed; Ctrl-Break on Windows
            if hasattr(signal, name):
                self.codes[getattr(signal, name)] = TERMINATED

    def __enter__(self) -> Signals:
        heard = [
            number for number in self.codes if signal.getsignal(number) is not signal.SIG_IGN
        ]  # nohup, sh -c '... &'
        self.before = {number: signal.signal(number, self.handle) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, _frame: object) -> None:
        if self.code and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = self.codes[signal.Signals(number)]
        with contextlib.suppress(OSError, AttributeError, ValueError):  # whoever sees nothing presses again
            if number == signal.SIGINT and sys.stderr.isatty():
                print("\nStopping: the run is saved first. Ctrl-C again leaves at once.", file=sys.stderr)


# --- the machine of one rank -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """The device and number format of a run, one sentence that says why, and the ranks that share the work."""

    device: torch.device
    bf16: bool
    why: str
    ranks: Ranks = ALONE

    def seed(self, number: int) -> None:
        """Seed what dropout draws from (`torch.manual_seed` goes to every kind of device: 0.2 ms a step)."""
        torch.default_generator.manual_seed(number)
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(number)

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
    """Whether the installed torch has code for this device: it may be too old for the GPU, or the GPU for it.

    One whose memory is full works: who asks for more there is told so.
    """
    try:
        return bool(torch.ones(2, 2, device=device).matmul(torch.ones(2, 2, device=device)).sum().item() == 8)
    except RuntimeError as error:
        return exit_code_of(error) == OUT_OF_MEMORY


def cpu_cores() -> int:
    """Cores this process may use; OMP_NUM_THREADS, if it begins with a number, is honoured.

    Ranks on one computer have an equal share each. torchrun sets OMP_NUM_THREADS=1 where nobody has: that is no wish.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    by_torchrun = asked == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    if asked.isdecimal() and int(asked) > 0 and not by_torchrun:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks_in_environment()[3])


def use_threads(asked: int, machine: Machine, resumed: bool) -> None:
    """Compute with `asked` CPU threads (0: as it is), in a run that several ranks resume with their share at most."""
    if asked and machine.device.type == "cpu":
        torch.set_num_threads(min(asked, cpu_cores()) if resumed and machine.ranks.size > 1 else asked)


def use_determinism(asked: bool) -> None:
    """Only kernels that give the same bits in every run, or any; on a CPU they all do."""
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what NVIDIA's documentation demands for it
    if asked != torch.are_deterministic_algorithms_enabled():  # the call alone loads PyTorch's compiler, 2 s
        torch.use_deterministic_algorithms(asked)


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


def choose_machine(config: TrainConfig, ranks: Ranks = ALONE) -> Machine:
    """The device asked for, or the fastest one there is; bf16 only where the hardware multiplies it natively.

    Raises UserError if the device or the format asked for is not there, or not for so many ranks.
    """
    ranks.check_share(config)
    found = available_devices()
    if config.device != "auto" and config.device not in found:
        raise UserError(f"device={config.device} is not on this machine; it has {', '.join(found)}.")
    kind = next(iter(found)) if config.device == "auto" else config.device
    if kind == "cuda" and ranks.size > 1 and torch.cuda.device_count() < ranks.local_size:
        raise UserError(
            f"{ranks.local_size} ranks on this computer need as many GPUs, and it has {torch.cuda.device_count()}; "
            f"use --nproc_per_node={torch.cuda.device_count()}, or device=cpu.",
            BAD_CONFIG,
        )
    bf16 = config.precision != "fp32" and (config.precision == "bf16" or bf16_is_fast(kind))
    if bf16 and kind != "cpu" and not bf16_is_fast(kind):
        raise UserError(f"precision=bf16 is not native on {kind} here; use precision=fp32.")
    reason = "asked for" if config.device != "auto" else "the fastest here" if kind != "cpu" else "no GPU here"
    number_format = (
        ("bf16 products, " + ("asked for" if config.precision == "bf16" else "native here")) if bf16 else "fp32"
    )
    like_this = f"; {ranks.size} ranks, each with one of these" if ranks.size > 1 else ""
    return Machine(ranks.device(kind), bf16, f"{kind} ({found[kind]}): {reason}; {number_format}{like_this}.", ranks)
