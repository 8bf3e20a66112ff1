"""The model in C: many times as fast on one text as PyTorch, which on a small model spends its time between operations.

    NativeModel    rows of tokens through native.c, with keys and values of several texts: one call can read the prompt
                   of one text and write on in others, and no text can tell that it has neighbours
    NativeDecoder  one growing text, as inference.Decoder
    library        native.c, compiled by this machine's C compiler at first use (about a second) and then kept

The file is kept in the user's cache folder under a name that stands for its source, the flags, the compiler and the
processor. Whatever is missing is told by `NativeUnavailable`; everything works without, slower.

Shapes: V = vocab_size, C = n_embd, H = n_heads, G = n_kv_heads, K = d_head, F = d_ff.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tinygpt.config import ModelConfig, listing
from tinygpt.errors import UserError, did_you_mean
from tinygpt.folders import cache_folder

SOURCE = Path(__file__).with_name("native.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
FOR_THIS_PROCESSOR = (("-march=native",), ())  # the second where a compiler refuses the first
COMPILING_S = 120  # a compiler that takes longer hangs
ENGINES = ("auto", "native", "plain")
PANEL, ALIGNED = 64, 16  # columns of a panel; a piece of the weights begins at a multiple of so many numbers
# The fields of a Shape in C: those of ModelConfig that are sizes, then what stands for its axes.
SIZES = ("vocab_size", "n_embd", "n_heads", "n_kv_heads", "n_layers", "block_size", "d_head", "d_ff")
CHOICES = ("feed_forward", "rotary", "rmsnorm", "norm_before", "qk_norm")
FEED_FORWARDS = ("gelu", "gelu_tanh", "swiglu")


class NativeUnavailable(UserError):
    """Why the model cannot be computed in C here, in one sentence."""


# --- compiling -------------------------------------------------------------------------------------------------------


class Shape(ctypes.Structure):
    """The shape of the model, as native.c knows it."""

    _fields_ = [(name, ctypes.c_int) for name in (*SIZES, *CHOICES)]


def library() -> ctypes.CDLL:
    """native.c as machine code; NativeUnavailable where that cannot be had, which is tried once a process."""
    found = try_library()
    if isinstance(found, str):
        raise NativeUnavailable(found)
    return found


@functools.cache
def try_library() -> ctypes.CDLL | str:
    """The library, or the sentence that says why there is none."""
    try:
        loaded = load(find_compiler())
    except NativeUnavailable as error:
        return str(error)
    numbers = ctypes.POINTER(ctypes.c_int)
    loaded.scratch_size.argtypes, loaded.scratch_size.restype = [ctypes.POINTER(Shape)], ctypes.c_long
    loaded.cache_size.argtypes = [ctypes.POINTER(Shape), ctypes.c_int, ctypes.c_int]
    loaded.cache_size.restype = ctypes.c_long
    loaded.forward.argtypes = [
        ctypes.POINTER(Shape), *[ctypes.c_void_p] * 4, ctypes.c_int, *[numbers] * 3, ctypes.c_int, numbers,
        *[ctypes.c_void_p] * 2,
    ]  # fmt: skip
    loaded.forward.restype = None
    return loaded


def find_compiler() -> str:
    """The path of a C compiler; NativeUnavailable if there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise NativeUnavailable(f"there is no C compiler here (looked for {listing(COMPILERS)}).")


def load(compiler: str) -> ctypes.CDLL:
    """The compiled file from the cache folder, made if it is not there.

    A damaged one is made anew. Where nothing can be kept or loaded from there (read-only, noexec), it is made in a
    folder of its own, which goes as soon as it is loaded.
    """
    name = f"native-{fingerprint(compiler)}.so"
    kept = cache_folder() / "native" / name
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists():
            with contextlib.suppress(OSError):
                return ctypes.CDLL(str(kept))
        compile_to(kept, compiler)
        return ctypes.CDLL(str(kept))
    try:
        with tempfile.TemporaryDirectory(prefix="tinygpt-", ignore_cleanup_errors=True) as folder:
            compile_to(Path(folder) / name, compiler)
            return ctypes.CDLL(str(Path(folder) / name))
    except OSError as error:
        raise NativeUnavailable(f"the compiled model cannot be stored or loaded: {error}.") from None


def compile_to(target: Path, compiler: str) -> None:
    """Compile into a temporary file, which then takes its place: another process sees all of it or nothing.

    NativeUnavailable if the compiler fails, OSError if nothing can be written there.
    """
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        said = ""
        for processor in FOR_THIS_PROCESSOR:
            command = [compiler, *FLAGS, *processor, "-o", temporary, str(SOURCE), "-lm"]
            done = run(command)
            if done.returncode == 0:
                Path(temporary).replace(target)
                return
            said = said or (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
        raise NativeUnavailable(f"{compiler} could not compile the model: {said.splitlines()[0]}")
    finally:
        Path(temporary).unlink(missing_ok=True)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the compiler; NativeUnavailable if it does not start or does not end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILING_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"{command[0]} does not work: {error}.") from None


def fingerprint(compiler: str) -> str:
    """A name for what decides the machine code: source, flags, compiler, and the processor that -march=native means."""
    about = [SOURCE.read_text(), *FLAGS, *map(str, FOR_THIS_PROCESSOR), compiler, run([compiler, "--version"]).stdout]
    return hashlib.sha256("\n".join([*about, *processor()]).encode()).hexdigest()[:20]


def processor() -> Iterator[str]:
    """What the system says of its processor: kind, and on Linux model and abilities."""
    yield from (platform.system(), platform.machine(), platform.processor())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return
    for wanted in ("model name", "flags", "Features", "CPU part"):
        yield next((line for line in lines if line.startswith(wanted)), "")


# --- the model -------------------------------------------------------------------------------------------------------


class NativeModel:
    """Rows of tokens through the model in C; keeps keys and values of `n_slots` texts.

    A row is a token at a position of the text in a slot. It leaves its keys and values there, and sees what the
    slot has up to its own position; whoever reuses a slot begins at position 0. The logits of a row are the same to
    the last bit whatever other rows are in the call, and however a text is cut into calls.

    Copies the weights of a TinyGPT (as fp32, in the order in which native.c reads them): what the model learns later
    is not known here. NativeUnavailable where there is no C compiler, or for a model of another build. Calls from
    several threads wait for each other; other threads of Python run meanwhile.
    """

    def __init__(self, model: nn.Module, n_slots: int = 1) -> None:
        if n_slots < 1:
            raise ValueError(f"n_slots={n_slots} must be 1 or more.")
        self.config, self.n_slots = cast(ModelConfig, model.config), n_slots
        c = self.config
        self.library, self.lock = library(), threading.Lock()
        self.shape = Shape(
            *(getattr(c, name) for name in SIZES), FEED_FORWARDS.index(c.feed_forward),
            c.positions == "rotary", c.norm == "rmsnorm", c.norm_place == "before", c.qk_norm,
        )  # fmt: skip
        try:
            self.weights = in_order([piece.detach() for piece in pieces(model, c)])
        except AttributeError as error:
            raise NativeUnavailable(f"the model is not built as TinyGPT: {error}.") from None
        self.keys, self.values = (
            torch.zeros(self.library.cache_size(self.shape, n_slots, of_values)) for of_values in (0, 1)
        )
        self.scratch = torch.zeros(self.library.scratch_size(self.shape))

    def logits(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """(len(wanted), V) logits, fp32, of the rows whose numbers are in `wanted`.

        Row r is tokens[r] at positions[r] of the text in slots[r]; rows of one slot come in ascending position.
        ValueError for lists of unequal length, for numbers out of range, and for rows in another order.
        """
        c, n, asked = self.config, len(tokens), len(wanted)
        if not n == len(positions) == len(slots):
            raise ValueError(f"{n} tokens, {len(positions)} positions and {len(slots)} slots are not one row each.")
        check_range("token", tokens, c.vocab_size)
        check_range("position", positions, c.block_size)
        check_range("slot", slots, self.n_slots)
        check_range("wanted row", wanted, n)
        check_order(positions, slots)
        features = torch.empty(asked * up_to(c.n_embd, PANEL))
        found = torch.empty(asked, up_to(c.vocab_size, PANEL))
        rows = [(ctypes.c_int * len(numbers))(*numbers) for numbers in (tokens, positions, slots, wanted)]
        with self.lock:
            self.library.forward(
                self.shape, self.weights.data_ptr(), self.keys.data_ptr(), self.values.data_ptr(),
                self.scratch.data_ptr(), n, *rows[:3], asked, rows[3], features.data_ptr(), found.data_ptr(),
            )  # fmt: skip
        return found[:, : c.vocab_size]


def check_range(name: str, numbers: Sequence[int], end: int) -> None:
    """ValueError for the first number that is not in 0 .. end - 1: C would read memory that is not its own."""
    if numbers and not (min(numbers) >= 0 and max(numbers) < end):
        wrong = next(number for number in numbers if not 0 <= number < end)
        raise ValueError(f"{name} {wrong} is outside 0 to {end - 1}.")


def check_order(positions: Sequence[int], slots: Sequence[int]) -> None:
    """ValueError where a row stands behind a later one of its slot, which would see its keys or not as it happens."""
    last: dict[int, int] = {}
    for position, slot in zip(positions, slots, strict=True):
        if position <= last.get(slot, -1):
            raise ValueError(f"position {position} of slot {slot} comes after {last[slot]} in one call.")
        last[slot] = position


def up_to(n: int, multiple: int) -> int:
    """n, or the next multiple above it."""
    return -(-n // multiple) * multiple


def pieces(model: nn.Module, c: ModelConfig) -> Iterator[Tensor]:
    """The weights in the order in which native.c takes them; AttributeError if the model lacks one."""
    get = model.get_parameter
    none = torch.zeros(0)

    def norm(name: str) -> Iterator[Tensor]:
        has_bias = c.norm == "layernorm" and c.bias
        yield get(f"{name}.weight")
        yield get(f"{name}.bias") if has_bias else torch.zeros(c.n_embd)

    def linear(*names: str) -> Iterator[Tensor]:
        """Several layers that read the same, as one."""
        weight = torch.cat([get(f"{name}.weight") for name in names])  # (outputs, inputs)
        yield panels(weight)
        bias = torch.cat([get(f"{name}.bias") for name in names]) if c.bias else torch.zeros(len(weight))
        yield nn.functional.pad(bias, (0, -len(bias) % PANEL))

    yield get("embedding.weight")
    yield get("positions.table.weight") if c.positions == "learned" else none
    for table in ("cos", "sin"):
        yield model.get_buffer(f"positions.{table}") if c.positions == "rotary" else none
    for i in range(c.n_layers):
        attention, feed_forward = f"blocks.{i}.attention", f"blocks.{i}.feed_forward"
        yield from norm(f"blocks.{i}.norm_1")
        yield from linear(*(f"{attention}.{name}" for name in ("query", "key", "value")))
        for name in ("query", "key"):
            yield get(f"{attention}.{name}_norm.weight") if c.qk_norm else torch.ones(c.d_head)
        yield from linear(f"{attention}.output")
        yield from norm(f"blocks.{i}.norm_2")
        if c.feed_forward == "swiglu":  # each half begins a panel
            halves = [list(linear(f"{feed_forward}.{name}")) for name in ("gate", "up")]
            yield from (torch.cat([half[part] for half in halves]) for part in (0, 1))
        else:
            yield from linear(f"{feed_forward}.up")
        yield from linear(f"{feed_forward}.down")
    yield from norm("norm")
    yield panels(get("head.weight"))


def panels(weight: Tensor) -> Tensor:
    """(outputs, inputs) as native.c reads it, in panels of 64 outputs: (outputs / 64, inputs, 64)."""
    outputs, inputs = weight.shape
    if missing := -outputs % PANEL:
        weight = nn.functional.pad(weight, (0, 0, 0, missing))
    return weight.view(-1, PANEL, inputs).transpose(1, 2)


def in_order(parts: Sequence[Tensor]) -> Tensor:
    """All parts in one row, each beginning at a multiple of ALIGNED; nobody reads what is between them."""
    row = torch.empty(sum(up_to(part.numel(), ALIGNED) for part in parts))
    begin = 0
    for part in parts:
        row[begin : begin + part.numel()].view(part.shape).copy_(part)
        begin += up_to(part.numel(), ALIGNED)
    return row


# --- one text --------------------------------------------------------------------------------------------------------


class NativeDecoder:
    """Logits for the tokens after some texts, as inference.Decoder; only what the last call did not have is computed.

    model: with a slot for each text. window_start: (length of a text, block_size) -> the first token still seen.
    """

    def __init__(self, model: NativeModel, window_start: Callable[[int, int], int]) -> None:
        self.model, self.window_start = model, window_start
        # of each text the tokens whose keys and values are in the cache, from position 0
        self.known: list[list[int]] = [[] for _ in range(model.n_slots)]

    def logits(self, ids: Tensor) -> Tensor:
        """(B, T) ids of the whole texts so far -> (B, V) logits of their next tokens."""
        visible = ids[:, self.window_start(ids.shape[1], self.model.config.block_size) :].tolist()
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        ends: list[int] = []
        for slot, text in enumerate(visible):
            first = first_unknown(text, self.known[slot])
            tokens += text[first:]
            positions += range(first, len(text))
            slots += [slot] * (len(text) - first)
            ends.append(len(tokens) - 1)
        found = self.model.logits(tokens, positions, slots, ends)
        self.known = visible + self.known[len(visible) :]
        return found


def first_unknown(text: list[int], known: list[int]) -> int:
    """The first position of a text that has to be computed, which its last one always is."""
    last = len(text) - 1
    if text[:last] == known:
        return last
    pairs = zip(text[:last], known, strict=False)
    return next((i for i, (token, other) in enumerate(pairs) if token != other), min(last, len(known)))


def choose_native(
    model: nn.Module, engine: str, n_slots: int = 1, say: Callable[[str], Any] = lambda _: None
) -> NativeModel | None:
    """The NativeModel that `engine` asks for, or None for the plain path.

    auto: where the model is in fp32 on the CPU; `say` hears in one sentence why it is not to be had. native:
    NativeUnavailable where it is not. UserError for an engine that there is not.
    """
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is not one of {listing(ENGINES)}{did_you_mean(engine, ENGINES)}.")
    weight = next(model.parameters())
    if engine == "plain" or (engine == "auto" and (weight.device.type, weight.dtype) != ("cpu", torch.float32)):
        return None
    if weight.device.type != "cpu":
        raise NativeUnavailable(f"the native engine computes on the CPU, and the model is on {weight.device.type}.")
    try:
        return NativeModel(model, n_slots)
    except NativeUnavailable as error:
        if engine == "native":
            raise
        say(f"writing without the native engine, which is faster: {error}")
        return None
