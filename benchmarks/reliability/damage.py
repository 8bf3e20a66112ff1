"""R03 damaged checkpoint: every damage is noticed, named, and costs no more than the way back to the checkpoint before.

The newest checkpoint of a small run is damaged, one way per trial; then the loader and `tinygpt doctor` are asked, and
the bytes are put back. A hostile file comes with a manifest that agrees with it, as another program would write it:
there the digests cannot help.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import ROOT
from benchmarks.reliability.common import HANG_S, Row, Scale, small_run
from tinygpt import checkpoint, doctor
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.errors import NO_CHECKPOINT, UserError
from tinygpt.runs import open_run
from tinygpt.storage import canonical, sha256
from tinygpt.train import set_up, train

MODEL, OPTIM, STATE, MANIFEST = FILES = ("model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json")
STEPS = (NEWEST, BEFORE, _) = ("step-00000030", "step-00000020", "step-00000010")
LOAD_S = 30.0  # hang guard: a trial takes 0.05 s
HUGE = 512 << 20  # [bytes]
SPARE = 64 << 20  # [bytes] that reading may take beside three times the size of the checkpoint


@dataclass(frozen=True)
class Damage:
    """One way to damage the checkpoints of a run."""

    what: str
    do: Callable[[Path], object]  # gets the folder `checkpoints`
    names: str = ""  # what the sentence must say, beside the checkpoint: a file, or a version
    damaged: tuple[str, ...] = (NEWEST,)  # folders that must be refused


def row(scale: Scale) -> Row:
    """All damages of this scale, and in full the memory that reading a hostile checkpoint takes."""
    found = Row("R03", "damaged checkpoint")
    run = trained_run(scale.folder / "run")
    tried(found, run, chosen(scale))
    measured_memory(found, run, full=scale.full)
    return found


def controls(scale: Scale) -> dict[str, bool]:
    """Without digests a flipped weight goes unnoticed."""
    run, draw, found = trained_run(scale.folder / "no-digest"), random.Random(scale.seed), Row("R03", "no digest")
    with mock.patch.object(checkpoint, "sha256", lambda _: Anything()):
        tried(found, run, [flip(name, draw) for name in (MODEL, OPTIM) * 5])
    return {"digest": bool(found.failures)}


class Anything(str):
    """A digest that equals every other."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def trained_run(folder: Path) -> Path:
    """A run with the checkpoints STEPS, the newest of which is the best."""
    run = small_run(folder, max_steps=30, start="random")
    assert train(set_up(run, choose_machine(run.config.train), Display(io.StringIO()))) == 0
    assert [path.name for path in checkpoint.step_folders(folder / "checkpoints")] == list(STEPS)
    assert checkpoint.load(folder, "best")[0].name == NEWEST
    return folder


# --- trials ----------------------------------------------------------------------------------------------------------


def tried(found: Row, run: Path, damages: Sequence[Damage]) -> None:
    """Do every damage in turn, ask loader and doctor, put the bytes back, and count."""
    folder, whole = run / "checkpoints", run.with_name(f"{run.name}-whole")
    shutil.copytree(folder, whole)
    refused, slowest = 0, 0.0
    for damage in damages:
        damage.do(folder)
        began = time.perf_counter()
        wrong, lost = judged(run, damage)
        slowest = max(slowest, time.perf_counter() - began)
        found.check(not wrong, f"{damage.what}: {'; '.join(wrong)}")
        found.lost += lost
        refused += bool(damage.damaged) and not wrong
        put_back(folder, whole, damage.damaged)
    there = sum(bool(damage.damaged) for damage in damages)
    found.measured["damages noticed, named and got over"] = f"{refused:,} of {there:,}"
    found.measured["slowest verdict of loader and doctor"] = f"{slowest:.2f} s"


def put_back(folder: Path, whole: Path, damaged: Sequence[str]) -> None:
    """The damaged checkpoints and the pointers as they were; what is new goes."""
    for path in folder.iterdir():
        if path.is_dir() and (path.name in damaged or not (whole / path.name).exists()):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    for original in whole.iterdir():
        if original.is_file():
            shutil.copy(original, folder)
        elif not (folder / original.name).exists():
            shutil.copytree(original, folder / original.name)


def judged(run: Path, damage: Damage) -> tuple[list[str], bool]:
    """What is wrong with the verdicts of loader and doctor, and whether the checkpoint to go on from was lost."""
    valid = [path.name for path in checkpoint.step_folders(run / "checkpoints") if path.name not in damage.damaged]
    there = [path.name for path in checkpoint.step_folders(run / "checkpoints")]
    first_refused = list(itertools.takewhile(lambda name: name in damage.damaged, there))
    try:
        verdicts = guarded(run, partial(ask, run, there))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"[:200]], True
    (used, exit_code, sentences), best, loadable, doctors = verdicts
    wrong = []
    if used != (valid[0] if valid else None):
        wrong.append(f"{used} is used, not {valid[0] if valid else None}")
    if not valid and exit_code != NO_CHECKPOINT:
        wrong.append(f"exit code {exit_code}, not {NO_CHECKPOINT}")
    for name in first_refused:
        said = [sentence for sentence in sentences if name in sentence]
        if not any(tells(sentence, damage.names) for sentence in said):
            wrong.append(f"of {name} is said: {said or 'nothing'}, which does not name {damage.names} and a reason")
    if used and len(sentences) != len(first_refused):
        wrong.append(f"{len(sentences)} sentences for {len(first_refused)} refused checkpoints")
    if (best in valid) != bool(valid):
        wrong.append(f"{best} is read as the best, valid are {valid}")
    if loadable != valid:
        wrong.append(f"the loader takes {loadable}, valid are {valid}")
    found_valid = [item["name"] for item in doctors["checkpoints"] if item["valid"]]
    if (found_valid, doctors["resume"], doctors["read"]) != (loadable, used, best):
        named = f"{found_valid}, resume {doctors['resume']}, read {doctors['read']}"
        wrong.append(f"doctor finds {named}; the loader {loadable}, resume {used}, read {best}")
    if doctors["exit_code"] != exit_code:
        wrong.append(f"doctor has exit code {doctors['exit_code']}, the loader {exit_code}")
    return wrong, bool(valid) and used != valid[0]


def tells(sentence: str, names: str) -> bool:
    """Whether a sentence names what is damaged and gives a reason in words, on one line."""
    names, sentence = names.lower().removesuffix(".json"), sentence.lower()  # MANIFEST.json is also "its manifest"
    words = re.findall(r"[a-z]{2,}", sentence.replace(names, ""))  # "step-... is not usable" are four
    return names in sentence and len(words) >= 6 and sentence.isprintable()


def ask(run: Path, there: list[str]) -> tuple[tuple[Any, int, list[str]], Any, list[str], dict[str, Any]]:
    """What the loader says of the newest and the best, which checkpoints it takes by step, and what doctor says."""
    load = partial(loaded, run, open_run(run)[0].digests)
    loadable = [name for name in there if load(str(int(name.removeprefix("step-"))))[0] == name]
    return load("last"), load("best")[0], loadable, doctor.examine_run(run)


def loaded(run: Path, digests: dict[str, str], which: str) -> tuple[str | None, int, list[str]]:
    """Name, exit code and sentences of what the loader takes."""
    try:
        taken, rejected = checkpoint.load(run, which, digests)
    except UserError as error:
        return None, error.exit_code, [str(error)]
    return taken.name, 0, rejected


def guarded(run: Path, asked: Callable[[], Any]) -> Any:
    """The result of `asked`, or its exception; TimeoutError if it hangs.

    A thread that reads a pipe cannot be ended from outside, so the pipe is ended: its reader then finds it empty.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(asked())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LOAD_S)
    if not thread.is_alive():
        if errors:
            raise errors[0]
        return results[0]
    for _ in range(20):  # loader and doctor may open it several times
        for path in (run / "checkpoints").rglob("*"):
            if path.is_fifo():
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        thread.join(0.1)
    raise TimeoutError(f"hangs for more than {LOAD_S:.0f} s")


# --- damages ---------------------------------------------------------------------------------------------------------


def chosen(scale: Scale) -> list[Damage]:
    """In full every damage; else a hundred of all kinds."""
    draw = random.Random(scale.seed)
    cuts = [truncation(name, i) for name in FILES for i in range(65)]
    some_files = [files for n in range(1, 5) for files in itertools.combinations(FILES, n)]
    pairs = [[(f"{a}/{name}", f"{b}/{name}") for name in files] for files in some_files for a, b in two_of(STEPS)]
    pairs += [[(f"{step}/{a}", f"{step}/{b}")] for step in STEPS for a, b in two_of(FILES)]
    swaps = [swap(*pair) for pair in pairs]
    strange, hostile = list(others()), list(forged())
    if scale.full:
        flips = [flip(name, draw) for name in FILES for _ in range(250)]
        return cuts + flips + draw.sample(swaps, 50) + hostile + strange
    some = draw.sample(cuts, 16) + draw.sample(swaps, 6) + draw.sample(hostile, 20) + strange
    return some + [flip(FILES[i % 4], draw) for i in range(100 - len(some))]


def truncation(name: str, i: int) -> Damage:
    """A file cut to i/64 of its size; the 65th cut takes its last byte."""

    def cut(folder: Path) -> None:
        path = folder / NEWEST / name
        size = path.stat().st_size
        os.truncate(path, size * i // 64 if i < 64 else size - 1)

    return Damage(f"{name} cut to {i}/64" if i < 64 else f"{name} without its last byte", cut, name)


def flip(name: str, draw: random.Random) -> Damage:
    """One byte, anywhere, becomes another one."""
    share, change = draw.random(), draw.choice([1 << draw.randrange(8), draw.randrange(1, 256)])

    def change_byte(folder: Path) -> None:
        path = folder / NEWEST / name
        data = bytearray(path.read_bytes())
        data[int(share * len(data))] ^= change
        path.write_bytes(data)

    return Damage(f"{name}, byte at {share:.6f} of its size xor {change}", change_byte, name)


def two_of(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every pair."""
    return itertools.combinations(names, 2)


def swap(*pairs: tuple[str, str]) -> Damage:
    """Files "step/name" exchanged, two by two."""

    def exchange(folder: Path) -> None:
        for pair in pairs:
            a, b = (folder / name for name in pair)
            of_a, of_b = a.read_bytes(), b.read_bytes()
            a.write_bytes(of_b)
            b.write_bytes(of_a)

    steps, names = zip(*(name.split("/") for pair in pairs for name in pair), strict=True)
    noticed = next(name for name in (MANIFEST, *FILES) if name in names)  # the loader reads them in this order
    return Damage(" and ".join(f"{a} <-> {b}" for a, b in pairs), exchange, noticed, tuple(sorted(set(steps))))


def others() -> Iterator[Damage]:
    """What else happens to files and folders."""
    for name in FILES:
        yield Damage(f"{name} with 0 bytes", partial(replace, name=name, data=b"", agree=False), name)
        yield Damage(f"{name} is missing", partial(take_away, name=name), name)
        yield Damage(f"{name} is a folder", partial(take_away, name=name, instead=Path.mkdir), name)
        if hasattr(os, "mkfifo"):
            yield Damage(f"{name} is a pipe", partial(take_away, name=name, instead=os.mkfifo), name)
            yield Damage(f"{name} is a link to its own bytes", partial(link, name=name), name)
    for name in (STATE, MANIFEST):
        deep = b"[" * 200_000 + b"]" * 200_000
        yield Damage(f"{name} is deeply nested", partial(replace, name=name, data=deep, agree=name != MANIFEST), name)
        yield Damage(f"{name} has half a gigabyte", partial(swell, name=name), name)
    for target in ("step-00000040", "step-00000029", "step-000000030"):
        yield Damage(f"renamed {target}", partial(rename, target=target), "30", (target,))
        yield Damage(f"with a copy called {target}", partial(copy, target=target), "30", (target,))
    yield Damage("a file instead of the folder", partial(take_away, name="", instead=Path.touch))
    yield Damage("an empty folder", partial(take_away, name="", instead=Path.mkdir), MANIFEST)
    yield Damage("the two newest without weights", partial(lose, names=STEPS[:2]), MODEL, STEPS[:2])
    yield Damage("all without weights", partial(lose, names=STEPS), MODEL, STEPS)
    for pointer in ("LATEST", "BEST"):  # which are hints: nothing is damaged
        for words in (b"", b"step-00000099\n", b"../../x\n", b"\xff\0" * 9):
            yield Damage(f"{pointer} says {words!r}", partial(point, name=pointer, data=words), damaged=())


def take_away(folder: Path, name: str, instead: Callable[[Path], object] | None = None) -> None:
    """A file less, or with the name "" the whole checkpoint, and something else in its place."""
    path = folder / NEWEST / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if instead:
        instead(path)


def link(folder: Path, name: str) -> None:
    """A link under the name of a file, to a file with the right bytes."""
    path = folder / NEWEST / name
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def swell(folder: Path, name: str) -> None:
    """A file grown by zeros, which take no room on the disk."""
    os.truncate(folder / NEWEST / name, HUGE)


def rename(folder: Path, target: str) -> None:
    """The newest checkpoint under another name."""
    (folder / NEWEST).rename(folder / target)


def copy(folder: Path, target: str) -> None:
    """The newest checkpoint twice."""
    shutil.copytree(folder / NEWEST, folder / target)


def lose(folder: Path, names: Sequence[str]) -> None:
    """Several checkpoints without their weights."""
    for name in names:
        (folder / name / MODEL).unlink()


def point(folder: Path, name: str, data: bytes) -> None:
    """A pointer with other words in it."""
    (folder / name).write_bytes(data)


# --- damages with a manifest that agrees -----------------------------------------------------------------------------


def replace(folder: Path, name: str, data: bytes, agree: bool = True) -> None:
    """Other bytes in a file; agree: with size and digest in the manifest."""
    path = folder / NEWEST / name
    path.write_bytes(data)
    if agree:
        edit_manifest(folder, lambda m: m["files"][name].update(bytes=len(data), sha256=sha256(data)))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """A changed manifest that is consistent in itself."""
    path = folder / NEWEST / MANIFEST
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    edit(manifest)
    manifest["sha256"] = sha256(canonical(manifest))
    path.write_bytes(canonical(manifest))


def forged() -> Iterator[Damage]:
    """Hostile tensor files, states and manifests, each consistent with its digests."""
    for name in (MODEL, OPTIM):
        for what, data in hostile_tensors().items():
            yield Damage(f"{name}, {what}", partial(replace, name=name, data=data), name)
    states = {"no JSON": b"{", "a list": b"[]\n", "null": b"null\n", "not UTF-8": b"\xff\xfe{}", "empty": b""}
    for what, data in states.items():
        yield Damage(f"{STATE}, {what}", partial(replace, name=STATE, data=data), STATE)
    yield Damage(f"{STATE}, of another step", lambda f: replace(f, STATE, (f / BEFORE / STATE).read_bytes()), STATE)
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
        "of format 1000": ("1000", lambda m: m.update(format_version=1000)),
        "of no format": ("version", lambda m: m.pop("format_version")),
        "no files": (MANIFEST, lambda m: m.pop("files")),
        "files is a list": (MANIFEST, lambda m: m.update(files=[1])),
        "a file without facts": (MANIFEST, lambda m: m["files"].update({MODEL: None})),
        "a file without digest": (MANIFEST, lambda m: m["files"][MODEL].pop("sha256")),
        "a size as text": (MODEL, lambda m: m["files"][MODEL].update(bytes=str(m["files"][MODEL]["bytes"]))),
        "a file of 2^80 bytes": (MODEL, lambda m: m["files"][MODEL].update(bytes=1 << 80)),
        "no step": (MANIFEST, lambda m: m.pop("step")),
        "the step as text": (MANIFEST, lambda m: m.update(step="30")),
        "step 10^4000": (MANIFEST, lambda m: m.update(step=10**4000)),
        "no digests": (MANIFEST, lambda m: m.pop("digests")),
        "digests is a list": (MANIFEST, lambda m: m.update(digests=[])),
    }
    for what, (names, change) in changes.items():
        yield Damage(f"{MANIFEST}, {what}", partial(edit_manifest, edit=change), names)


def hostile_tensors() -> dict[str, bytes]:
    """Files that say safetensors and are not, by what is wrong with them."""
    f32 = lambda begin, end, *shape: {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}  # noqa: E731
    headers: dict[str, dict[str, Any]] = {
        "overlapping": {"a": f32(0, 8, 2), "b": f32(4, 12, 2)},
        "a negative offset": {"a": f32(-8, 8, 4)},
        "beyond the file": {"a": f32(0, 1 << 40, 1 << 38)},
        "a huge shape": {"a": f32(0, 16, 1 << 40)},
        "a shape beyond 64 bits": {"a": f32(0, 16, 1 << 33, 1 << 33)},
        "nothing, in a shape beyond 64 bits": {"a": f32(0, 0, 0, 1 << 62, 8), "b": f32(0, 16, 4)},
        "a negative shape": {"a": f32(0, 16, -4)},
        "a gap": {"a": f32(0, 4, 1), "b": f32(12, 16, 1)},
        "ends before it begins": {"a": f32(16, 0, 4)},
        "bytes behind the last tensor": {"a": f32(0, 8, 2)},
        "offsets with a fraction": {"a": f32(0, 16.5, 4)},
        "an unknown type": {"a": {**f32(0, 16, 4), "dtype": "F1"}},
        "no offsets": {"a": {"dtype": "F32", "shape": [4]}},
    }
    files = {what: tensor_file(json.dumps(header).encode()) for what, header in headers.items()}
    good = json.dumps({"a": f32(0, 16, 4)}).encode()
    return files | {
        "a header of 4 GB": tensor_file(good, 4 << 30),
        "a header of 2^63 bytes": tensor_file(good, 1 << 63),
        "a header of 99 MB": tensor_file(good, 99_000_000),
        "a header longer than the file": tensor_file(good, len(good) + 17),
        "a header of 0 bytes": tensor_file(b""),
        "a header that is no JSON": tensor_file(good[:-1]),
        "a header that is not UTF-8": tensor_file(b'{"\xff":1}'),
        "a nested header": tensor_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "one name twice": tensor_file(good[:-1] + b', "a": ' + json.dumps(f32(4, 16, 3)).encode() + b"}"),
        "no header": b"1234567",
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    }


def tensor_file(header: bytes, claimed: int | None = None) -> bytes:
    """A safetensors file of 16 bytes of data; claimed: the length that it gives its header."""
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + bytes(16)


# --- memory ----------------------------------------------------------------------------------------------------------

GROWTH = """
import sys
from pathlib import Path
from tinygpt import checkpoint, doctor

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before, run = peak(), Path(sys.argv[1])
taken, rejected = checkpoint.load(run)
doctor.examine_run(run)
print(peak() - before)
"""


def measured_memory(found: Row, run: Path, full: bool) -> None:
    """How much memory the loader and doctor take beyond what they have, in a process of its own per file."""
    limit = 3 * sum(path.stat().st_size for path in (run / "checkpoints" / NEWEST).iterdir()) + SPARE
    quantity = f"memory to read a hostile checkpoint (limit {limit / 1e6:.0f} MB)"
    if not full or not Path("/proc/self/clear_refs").exists():
        found.measured[quantity] = "not run: only in full" if not full else "not run: needs Linux"
        return
    folder, whole = run / "checkpoints", run.with_name(f"{run.name}-whole")
    greedy = [d for d in [*others(), *forged()] if re.search(r"gigabyte|header of|huge|beyond|nested|2\^80", d.what)]
    most = 0
    for damage in greedy:
        damage.do(folder)
        words = [sys.executable, "-c", GROWTH, str(run)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
        growth = int(done.stdout) if done.returncode == 0 else None
        said = f"{growth / 1e6:.0f} MB" if growth is not None else done.stderr.strip().splitlines()[-1]
        found.check(growth is not None and growth < limit, f"{damage.what}: memory grows by {said}")
        most = max(most, growth or 0)
        put_back(folder, whole, damage.damaged)
    found.measured[quantity] = f"{most / 1e6:.0f} MB at most in {len(greedy)} trials"
