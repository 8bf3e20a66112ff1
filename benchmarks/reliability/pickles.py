"""R12, files that run code when they are unpickled: 20 of them, given to every command that opens anything.

Each would make a canary file. What must hold: the canary never appears, and each command ends with one sentence and a
documented exit code, or takes the file for the text that it also is. Each file is first unpickled here, to see that it
is armed. That the package has no call that could unpickle is the other half of R12: tests/project/test_no_pickle.py
reads it from the syntax trees.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import safetensors.torch
import torch

from benchmarks.reliability.common import Row, Scale, command, one_sentence, small_run, texts
from benchmarks.reliability.data import TINY, in_process
from tinygpt import errors
from tinygpt.data import HEADER_BYTES, MAGIC
from tinygpt.storage import canonical, sha256

DOCUMENTED = (
    0, errors.USAGE, errors.BAD_INPUT, errors.MISMATCH, errors.NO_CHECKPOINT, errors.IO_ERROR, errors.UNSAFE,
    errors.BAD_CONFIG,
)  # fmt: skip
HUB = "from pathlib import Path\n\ndef entry():\n    Path({canary!r}).touch()\n"

# The file as a word of the command: {file}, and {folder} with nothing but the file in it; `fit` is a sound run.
AS_ARGUMENT = {
    "train FILE": ("train", "{file}", *TINY),
    "train FOLDER": ("train", "{folder}", *TINY),
    "train --val FILE": ("train", "good.txt", "--val", "{file}", *TINY),
    "train --config FILE": ("train", "good.txt", "--config", "{file}", *TINY),
    "train --resume --run FILE": ("train", "--resume", "--run", "{file}"),
    "train -": ("train", "-", *TINY),
    "plan FILE": ("plan", "{file}", *TINY),
    "corpus FILE": ("corpus", "{file}"),
    "generate FILE": ("generate", "{file}"),
    "generate RUN -": ("generate", "fit", "-", "--max-new-tokens", "2"),
    "eval FILE": ("eval", "{file}", "--device", "cpu"),
    "eval RUN FILE": ("eval", "fit", "{file}", "--device", "cpu"),
    "compare FILE RUN": ("compare", "{file}", "fit"),
    "doctor FILE": ("doctor", "{file}"),
    "inspect tokens FILE": ("inspect", "tokens", "{file}", "Once"),
}
# The file in its place inside the run `hostile`.
IN_A_RUN = {
    "generate": ("generate", "hostile", "--max-new-tokens", "2"),
    "train --resume": ("train", "--resume", "--run", "hostile"),
    "eval": ("eval", "hostile", "--device", "cpu"),
    "doctor": ("doctor", "hostile"),
    "compare": ("compare", "hostile", "fit"),
    "inspect tokens": ("inspect", "tokens", "hostile", "Once"),
}
STEP = "checkpoints/step-00000001"


class Hostile(NamedTuple):
    """A file that runs code when `unpickle` gets its bytes."""

    name: str
    place: str  # in a run folder
    data: bytes
    unpickle: Callable[[bytes], Any]
    code: int  # exit code of `train FILE`
    inside: int  # exit code of `generate` with the file in its place


class Call:
    """An object whose pickle is a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


# --- the files -------------------------------------------------------------------------------------------------------


def hostile_files(canary: Path) -> list[Hostile]:
    """The 20, each of which makes `canary` when it is unpickled."""
    path, bad, unsafe = str(canary), errors.BAD_INPUT, errors.UNSAFE
    setting, invalid = errors.BAD_CONFIG, errors.NO_CHECKPOINT
    shell = Call(os.system, f"touch '{path}'")
    run = Call(exec, f"open({path!r}, 'w').close()")
    value = Call(eval, f"__import__('pathlib').Path({path!r}).touch()")
    method = Call(canary.touch)
    nested = {"state": [({"weights": (1, [shell])}, 2)]}
    hub = Call(functools.partial(torch.hub.load, source="local"), str(hub_folder(canary)), "entry")
    loads = pickle.loads
    # fmt: off
    return [
        # pickles as they are, under names that promise something else; protocol 0 is ASCII, so it is a text, too
        Hostile("story.txt", "metrics.jsonl", pickle.dumps(shell, 0), loads, 0, 0),
        Hostile("notes.md", "samples.jsonl", pickle.dumps(run, 1), loads, bad, 0),
        Hostile("table.csv", "data/train.tokens", pickle.dumps(value, 2), loads, bad, bad),
        Hostile("lines.jsonl", "data/val.tokens", pickle.dumps(nested, 3), loads, bad, bad),
        Hostile("model.safetensors", f"{STEP}/model.safetensors", pickle.dumps(shell, 4), loads, bad, invalid),
        Hostile("optim.safetensors", f"{STEP}/optim.safetensors", pickle.dumps(nested, 5), loads, bad, invalid),
        Hostile("state.json", f"{STEP}/state.json", pickle.dumps(run, 4), loads, bad, invalid),
        Hostile("MANIFEST.json", f"{STEP}/MANIFEST.json", pickle.dumps(value, 0), loads, 0, invalid),
        Hostile("tokenizer.json", "tokenizer.json", pickle.dumps(method, 5), loads, bad, unsafe),
        Hostile("config.json", "config.json", pickle.dumps(run, 0), loads, 0, setting),
        Hostile("settings.toml", "corpus.json", pickle.dumps(shell, 0), loads, 0, setting),
        Hostile("hub.ckpt", "checkpoints/LATEST", pickle.dumps(hub, 4), loads, unsafe, 0),
        Hostile("model.joblib", "checkpoints/BEST", pickle.dumps(nested, 4), loads, unsafe, 0),
        # pickles inside of something
        Hostile("model.pt", f"{STEP}/model.safetensors", torch_file(nested), torch_load, unsafe, invalid),
        Hostile("model.bin", f"{STEP}/optim.safetensors", torch_file(value), torch_load, unsafe, invalid),
        Hostile("old.pth", f"{STEP}/state.json", torch_file(shell, zipped=False), torch_load, unsafe, invalid),
        Hostile("array.npy", "data/train.tokens", numpy_file(np.save, run), numpy_load, bad, bad),
        Hostile("arrays.npz", "tokenizer.json", numpy_file(np.savez, shell), numpy_load, bad, unsafe),
        Hostile("story.gz", "config.json", gzip.compress(pickle.dumps(value, 4)),
                lambda data: loads(gzip.decompress(data)), bad, setting),
        Hostile("train.tokens", "data/train.tokens", MAGIC.ljust(HEADER_BYTES) + pickle.dumps(shell, 4),
                lambda data: loads(data[HEADER_BYTES:]), bad, bad),
    ]
    # fmt: on


def hub_folder(canary: Path) -> Path:
    """A folder as torch.hub loads it: Python that is run."""
    folder = canary.with_name("hub")
    folder.mkdir(exist_ok=True)
    (folder / "hubconf.py").write_text(HUB.format(canary=str(canary)))
    return folder


def torch_file(value: Any, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def torch_load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def numpy_file(save: Callable[..., Any], value: Any) -> bytes:
    """An array of Python objects."""
    array, file = np.empty(1, dtype=object), io.BytesIO()
    array[0] = value
    save(file, array)
    return file.getvalue()


def numpy_load(data: bytes) -> Any:
    loaded = np.load(io.BytesIO(data), allow_pickle=True)
    return loaded["arr_0"] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded


# --- the trials ------------------------------------------------------------------------------------------------------


def row(scale: Scale) -> Row:
    """R12 of the table: in short each file to three commands, in full each to all, and some in their own processes."""
    result, canary, files = Row("R12", "files with pickles in them"), *set_up(scale.folder)
    harmless = [file.name for file in files if not is_armed(file, canary)]
    if harmless:
        raise RuntimeError(f"these would do nothing anyway: {', '.join(harmless)}")
    for number, file in enumerate(files):
        given, (first, *others) = list(AS_ARGUMENT), IN_A_RUN
        inside = [first, *(others if scale.full else [others[number % len(others)]])]
        for label in given if scale.full else given[:1]:
            as_argument(label, file, canary, result)
        for label in inside:
            in_a_run(label, file, canary, result)
    if scale.full:
        by_name = {file.name: file for file in files}
        for name, label in (("model.pt", "generate"), ("state.json", "train --resume"), ("arrays.npz", "eval")):
            in_a_run(label, by_name[name], canary, result, try_it=command)
        as_argument("train FILE", by_name["array.npy"], canary, result, try_it=command)
    result.measured["hostile files"] = f"{len(files)}, each of which makes the canary when it is unpickled"
    result.measured["calls in the package"] = "read by tests/project/test_no_pickle.py"
    return result


def controls(scale: Scale) -> dict[str, bool]:
    """With a loader that unpickles, the same trials make the canary: whether they noticed, by the guard taken away."""
    canary, files = set_up(scale.folder / "controls")
    by_name = {file.name: file for file in files}
    noticed = {}
    for guard, module, name, file in (
        ("tensors are read as safetensors", safetensors.torch, "load", by_name["model.safetensors"]),
        ("settings are read as JSON", json, "loads", by_name["config.json"]),
    ):
        with mock.patch.object(module, name, careless(getattr(module, name))):
            result = Row("R12", guard)
            in_a_run("generate", file, canary, result)
        noticed[guard] = any("canary" in failure for failure in result.failures)
    return noticed


def careless(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load`, but what it refuses is unpickled."""

    def loading(data: bytes | str, **options: Any) -> Any:
        try:
            return load(data, **options)
        except Exception:
            return pickle.loads(data.encode() if isinstance(data, str) else data)

    return loading


def set_up(folder: Path) -> tuple[Path, list[Hostile]]:
    """A sound run `fit` with one checkpoint, a good text, and the canary with the files that would make it."""
    folder.mkdir(exist_ok=True)
    (folder / "good.txt").write_text("\n\n\n".join(texts()[:5]))
    small_run(folder / "runs" / "fit", max_steps=1)
    code, said = in_process("train", "--resume", "--run", "fit", cwd=folder)
    if code:
        raise RuntimeError(f"no run to spoil: {said}")
    shutil.rmtree(folder / "runs" / "fit" / "checkpoints" / "step-00000000")
    return folder / "canary", hostile_files(folder / "canary")


def is_armed(file: Hostile, canary: Path) -> bool:
    """Whether unpickling the file makes the canary."""
    file.unpickle(file.data)
    return sings(canary)


def sings(canary: Path) -> bool:
    """Whether the canary is there; then it is taken away for the next."""
    there = canary.exists()
    canary.unlink(missing_ok=True)
    return there


def as_argument(label: str, file: Hostile, canary: Path, result: Row, try_it: Callable[..., Any] = in_process) -> None:
    """Name the file on the command line, or pour it into standard input."""
    home = canary.parent
    (home / "given").mkdir()
    (home / "given" / file.name).write_bytes(file.data)
    words = [word.format(file=f"given/{file.name}", folder="given") for word in AS_ARGUMENT[label]]
    poured = {"stdin": file.data} if "-" in words else {}
    code, said = try_it(*words, cwd=home, **poured)
    wanted = (file.code,) if label == "train FILE" else DOCUMENTED
    judge(f"{label} with {file.name}", code, said, wanted, canary, result)
    shutil.rmtree(home / "given")
    for run in (home / "runs").iterdir():  # what was trained on the text that the file also is
        if run.name != "fit":
            shutil.rmtree(run)


def in_a_run(label: str, file: Hostile, canary: Path, result: Row, try_it: Callable[..., Any] = in_process) -> None:
    """Put the file into its place in a run that is sound otherwise."""
    run = canary.parent / "runs" / "hostile"
    shutil.copytree(run.with_name("fit"), run)
    (run / file.place).write_bytes(file.data)
    if file.place.startswith(STEP) and not file.place.endswith("MANIFEST.json"):
        seal(run / STEP, Path(file.place).name)
    code, said = try_it(*IN_A_RUN[label], cwd=canary.parent)
    wanted = (file.inside,) if label == "generate" else DOCUMENTED
    judge(f"{label} with {file.name} as {file.place}", code, said, wanted, canary, result)
    shutil.rmtree(run)


def seal(folder: Path, name: str) -> None:
    """Make the manifest agree with the file put in, as somebody would who means harm: a digest is no signature."""
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    data = (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data)}
    del manifest["sha256"]
    manifest["sha256"] = sha256(canonical(manifest))
    (folder / "MANIFEST.json").write_bytes(canonical(manifest))


def judge(what: str, code: int, said: str, wanted: tuple[int, ...], canary: Path, result: Row) -> None:
    """Count a trial: no canary, a code that was to be expected, and no more than a sentence for an error."""
    tail = said.strip()[-300:]
    if sings(canary):
        problem = "the canary was made: the file was unpickled"
    elif code not in wanted:
        problem = f"exit code {code}, not one of {wanted}: {tail}"
    elif "Traceback" in said or (code and not what.startswith("doctor") and not one_sentence(said)):
        problem = f"no single sentence: {tail}"
    else:
        problem = ""
    result.check(not problem, f"{what}: {problem}")
