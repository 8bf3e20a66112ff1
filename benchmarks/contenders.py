"""Who trains, and how one is asked: tinygpt by its own command line, every other as a peer (peers/protocol.py).

`set_up` lets tinygpt make the token file and settle the shape; from then on all contenders get the same ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, BenchmarkError, add_timeout, cores, describe_file, positive, say
from benchmarks.measured import TIMED_OUT, Finished, run
from tinygpt.config import PRESETS, make_config, parse_assignments

PEERS = {name: ROOT / "benchmarks" / "peers" / f"{script}.py" for name, script in (
    ("tutorial", "tutorial"), ("compiled", "compiled"), ("hf", "hf_trainer"), ("litgpt", "litgpt_pretrain"),
)}  # fmt: skip
DEFAULT = ["tinygpt", "tutorial", "hf", "litgpt"]
WARMUP_STEPS = 5  # not counted: allocation, caches, and compilers, which take longest for their first steps
NEVER = 10**9  # steps between things that are not wanted at all
COMMON_FIELDS = ("vocab_size", "n_embd", "n_heads", "n_layers", "block_size", "dropout")  # of every architecture
ANSWER = ("tokens_per_s", "step_s", "seconds")


@dataclass(frozen=True)
class Setting:
    """What all contenders of one benchmark share."""

    folder: Path  # for temporary files
    text: Path
    job: dict[str, Any]  # what peers are asked; see peers/protocol.py
    words: list[str]  # the user's field=value words for tinygpt
    preset: str
    timeout_s: float
    pythons: dict[str, str] = field(default_factory=dict)  # interpreter by peer; others get this one
    scripts: dict[str, Path] = field(default_factory=lambda: dict(PEERS))


# --- the command line ------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, contenders: Sequence[str], steps: int) -> None:
    """What every benchmark of training asks: who, on what, in which shape, for how long."""
    parser.add_argument("words", nargs="*", metavar="field=value", help="settings of tinygpt: n_embd=192 batch_size=16")
    parser.add_argument("--text", type=Path, help="text to train on (default: 1 MB of built-in tales)")
    parser.add_argument("--preset", default="modern", choices=list(PRESETS), help="the shape (default modern)")
    parser.add_argument(
        "--contenders", default=",".join(contenders),
        help="comma-separated, from tinygpt, tinygpt:PRESET (another architecture of the same widths), "
        f"{', '.join(PEERS)} (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--peer-script", type=Path, action="append", default=[], metavar="PATH",
        help="one more contender: a script that follows the protocol in peers/protocol.py",
    )  # fmt: skip
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH",
        help="interpreter of a peer that has an environment of its own: litgpt=PATH/bin/python",
    )  # fmt: skip
    parser.add_argument("--steps", type=positive, default=steps, help="steps of every run (default %(default)s)")
    parser.add_argument("--seconds", type=float, help="instead of --steps: train about this long")
    parser.add_argument("--threads", type=int, default=cores(), help="of everyone; 0: as each likes (default: all)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    add_timeout(parser)


def set_up(args: argparse.Namespace, folder: Path) -> tuple[Setting, list[str]]:
    """The setting and the names of the contenders. Lets tinygpt train one step, which leaves tokens and shape behind.

    BenchmarkError for what is missing or unknown, before anything is run.
    """
    names, scripts = contenders_of(args.contenders, args.peer_script)
    pythons = interpreters(args.python, scripts)
    shortest = WARMUP_STEPS + 1
    if args.seconds is None and args.steps < shortest:
        raise BenchmarkError(f"--steps {args.steps} is too short: the first {WARMUP_STEPS} do not count.")
    if args.seconds is not None and args.seconds <= 0:
        raise BenchmarkError(f"--seconds {args.seconds:g} must be above 0.")
    make_config(args.preset, parse_assignments(args.words))  # a wrong word is refused here
    text = existing(args.text) if args.text else default_text(folder, args.timeout)
    job = {
        "steps": None if args.seconds else args.steps, "seconds": args.seconds, "warmup_steps": WARMUP_STEPS,
        "threads": args.threads, "device": args.device, "seed": 0, "train_text": str(text), "val_text": None,
    }  # fmt: skip
    setting = Setting(folder, text, job, args.words, args.preset, args.timeout, pythons, scripts)
    say("making the token file with tinygpt ...")
    first = folder / "first"
    train_tinygpt(setting, first, args.preset, ["--steps", "1"], args.words)
    config = json.loads((run_folder(first) / "config.json").read_text())
    job |= {"shape": config["model"], "batch_size": config["train"]["batch_size"]}
    job |= {"block_size": config["model"]["block_size"], **plain_tokens(run_folder(first), folder)}
    return setting, names


def contenders_of(listed: str, peer_scripts: Sequence[Path]) -> tuple[list[str], dict[str, Path]]:
    """Names in order, and the script of every peer. BenchmarkError for an unknown name or a missing script."""
    scripts = {**PEERS, **{script.stem: existing(script).resolve() for script in peer_scripts}}
    names = [name.strip() for name in listed.split(",") if name.strip()] + [script.stem for script in peer_scripts]
    names = list(dict.fromkeys(names))
    for name in names:
        kind, _, preset = name.partition(":")
        if name not in scripts and (kind != "tinygpt" or (preset or "modern") not in PRESETS):
            known = ["tinygpt", *(f"tinygpt:{preset}" for preset in PRESETS), *scripts]
            raise BenchmarkError(f"there is no contender {name!r}; contenders are {', '.join(known)}.")
    if not names:
        raise BenchmarkError("there is no contender; name at least one.")
    return names, scripts


def interpreters(words: Sequence[str], scripts: Mapping[str, Path]) -> dict[str, str]:
    """{"litgpt": "PATH"} from ["litgpt=PATH"]; BenchmarkError if there is no such peer or interpreter."""
    found = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or name not in scripts:
            raise BenchmarkError(f"--python {word}: write NAME=PATH with a name from {', '.join(scripts)}.")
        place = shutil.which(path)
        if not place:
            raise BenchmarkError(f"--python {word}: there is no such interpreter.")
        found[name] = str(Path(place).absolute())  # not resolved: a link into its environment is what makes it one
    return found


def existing(path: Path) -> Path:
    """The path, absolute; BenchmarkError if no file is there."""
    if not path.is_file():
        raise BenchmarkError(f"there is no file {path}.")
    return path.absolute()


# --- running ---------------------------------------------------------------------------------------------------------


def environment(setting_folder: Path, device: str) -> dict[str, str]:
    """What every contender's process gets: this package, no settings of the user's, no network, no unasked GPU."""
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "XDG_CONFIG_HOME": str(setting_folder / ".config"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    if device == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
    return {**os.environ, **own}


def run_contender(setting: Setting, name: str, round_: int) -> dict[str, Any]:
    """One run of a contender: its answer, with `peak_rss_bytes`, `cpu_s` and `process_s` measured from outside."""
    if name in setting.scripts:
        return ask_peer(setting, name, {**setting.job, "seed": round_})
    return time_tinygpt(setting, name.partition(":")[2] or setting.preset, round_)


def ask_peer(setting: Setting, name: str, job: dict[str, Any]) -> dict[str, Any]:
    """A peer's answer to a job; BenchmarkError if it fails, hangs, or says something else."""
    folder = setting.folder / "peer"
    folder.mkdir(exist_ok=True)
    question = folder / "job.json"
    question.write_text(json.dumps(job))
    command = [setting.pythons.get(name, sys.executable), str(setting.scripts[name]), str(question)]
    finished = run(command, folder, environment(setting.folder, job["device"]), setting.timeout_s)
    return with_measures(check_answer(finished, setting.timeout_s), finished)


def check_answer(finished: Finished, timeout_s: float) -> dict[str, Any]:
    """The answer in the last line of a peer's output."""
    if finished.exit_code == TIMED_OUT:
        raise BenchmarkError(f"killed after {timeout_s:g} seconds without an answer.")
    lines = finished.out.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if isinstance(answer, dict) and "error" in answer:
        raise BenchmarkError(str(answer["error"]))
    if finished.exit_code:
        raise BenchmarkError(f"ended with exit code {finished.exit_code}: {last_line(finished)}")
    if not isinstance(answer, dict):
        raise BenchmarkError(f"answered no JSON object but {lines[-1][:80]!r}." if lines else "answered nothing.")
    for name in ANSWER:
        value = answer.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise BenchmarkError(f"answered {name}={value!r}, which is not a number above 0.")
    return answer


def with_measures(answer: dict[str, Any], finished: Finished) -> dict[str, Any]:
    """The answer with what was measured from outside."""
    outside = {"peak_rss_bytes": finished.peak_rss_bytes, "cpu_s": finished.cpu_s, "process_s": finished.seconds}
    return {**answer, **outside}


def last_line(finished: Finished) -> str:
    """The last thing that a process said, where an exception has its message."""
    lines = (finished.err.strip() or finished.out.strip()).splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def time_tinygpt(setting: Setting, preset: str, round_: int) -> dict[str, Any]:
    """tinygpt's own command on the shared text: same tokens, shape and batch; nothing but training in the loop."""
    job = setting.job
    shape = {name: job["shape"][name] for name in COMMON_FIELDS}
    never = dict.fromkeys(("eval_every", "save_every", "sample_every"), NEVER)
    given = parse_assignments(setting.words) if preset == setting.preset else {}
    settled = {**never, **given, **shape, "batch_size": job["batch_size"], "seed": round_, "device": job["device"]}
    if job["threads"]:
        settled["threads"] = job["threads"]
    length = ["--minutes", f"{job['seconds'] / 60:.6f}"] if job["seconds"] else ["--steps", str(job["steps"])]
    folder = setting.folder / f"tinygpt-{preset}-{round_}"
    finished = train_tinygpt(setting, folder, preset, length, [f"{name}={value}" for name, value in settled.items()])
    ours = run_folder(folder)
    if (ours / "data" / "train.tokens").read_bytes() != Path(job["tinygpt_tokens"]).read_bytes():
        raise BenchmarkError("trained on other tokens than the other contenders.")
    answer = pace(read_metrics(ours), job["batch_size"] * job["block_size"], snapshot_steps(ours))
    shutil.rmtree(folder)
    return with_measures(answer, finished)


def train_tinygpt(
    setting: Setting, folder: Path, preset: str, length: Sequence[str], words: Sequence[str], val: Path | None = None
) -> Finished:
    """`python -m tinygpt train` in a new folder; BenchmarkError with its last line if it fails."""
    folder.mkdir(parents=True)
    command = [
        sys.executable, "-m", "tinygpt", "train", str(setting.text), "--preset", preset, *length, "--run", "run",
        "--quiet", *(["--val", str(val)] if val else []), *words,
    ]  # fmt: skip
    finished = run(command, folder, environment(setting.folder, setting.job["device"]), setting.timeout_s)
    if finished.exit_code == TIMED_OUT:
        raise BenchmarkError(f"killed after {setting.timeout_s:g} seconds.")
    if finished.exit_code:
        raise BenchmarkError(f"ended with exit code {finished.exit_code}: {last_line(finished)}")
    return finished


def run_folder(folder: Path) -> Path:
    """The run that `train_tinygpt` made in this folder."""
    return folder / "runs" / "run"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def snapshot_steps(run: Path) -> set[int]:
    """Steps after which a run wrote its weights aside: many in the first steps, 13 in all however long the run is."""
    return {int("".join(filter(str.isdigit, path.name))) for path in (run / "snapshots").glob("*[0-9]*")}


def pace(metrics: Sequence[Mapping[str, Any]], tokens: int, saved: Collection[int] = ()) -> dict[str, float]:
    """tokens_per_s, step_s and seconds of the training steps after the warm-up, from a run's own records.

    tokens: of one step. A record's tokens_per_s is that of the steps since the record before it, so the mean of
    seconds per step is weighted with their number. Records with a step of `saved` in them are left out.
    """
    records = [record for record in metrics if record["kind"] == "train"]
    seconds, steps = 0.0, 0
    for earlier, later in itertools.pairwise(records):
        if earlier["step"] >= WARMUP_STEPS and not any(earlier["step"] <= step < later["step"] for step in saved):
            seconds += (later["step"] - earlier["step"]) * tokens / later["tokens_per_s"]
            steps += later["step"] - earlier["step"]
    if not steps:
        raise BenchmarkError("the run was too short: no record after the warm-up is without a save; give more --steps.")
    return {"tokens_per_s": steps * tokens / seconds, "step_s": seconds / steps, "seconds": seconds}


# --- the text and its tokens -----------------------------------------------------------------------------------------


def default_text(folder: Path, timeout_s: float, megabytes: int = 1) -> Path:
    """Built-in tales."""
    command = [sys.executable, "-m", "tinygpt", "corpus", "tales", "-o", "tales.txt", "--megabytes", str(megabytes)]
    finished = run(command, folder, environment(folder, "cpu"), timeout_s)
    if finished.exit_code:
        raise BenchmarkError(f"the built-in tales could not be written: {last_line(finished)}")
    return folder / "tales.txt"


def plain_tokens(run: Path, folder: Path) -> dict[str, Any]:
    """The token files of a run as .npy files, which any script can read; their places for the job."""
    from tinygpt.data import read_tokens
    from tinygpt.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(run / "tokenizer.json")
    places: dict[str, Any] = {"tinygpt_tokens": str(run / "data" / "train.tokens")}
    for part in ("train", "val"):
        ids = read_tokens(run / "data" / f"{part}.tokens", tokenizer)
        places[f"{part}_tokens"] = str(folder / f"{part}.npy")
        np.save(places[f"{part}_tokens"], ids)
        if part == "val":
            places["val_bytes"] = int(tokenizer.n_bytes()[ids].sum())
    return places


def settings_of(setting: Setting) -> dict[str, Any]:
    """What decides the figures, for the history: no paths, no seed."""
    wanted = ("shape", "batch_size", "steps", "seconds", "threads", "device")
    settled = {name: setting.job[name] for name in wanted}
    return {"text": describe_file(setting.text), "preset": setting.preset, "words": setting.words, **settled}
