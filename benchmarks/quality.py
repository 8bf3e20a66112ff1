"""Time to quality: seconds until a text that was never trained on costs at most so many bits per byte.

    python -m benchmarks.quality --text tinystories.txt --target-bpb 1.55 --minutes 0.25 0.5 1 2 --repeats 3

Trained is on the first 90 % of the characters; the last 10 % are the validation text, scored whole. Start and end are
those of the process, so starting Python, reading, making the tokenizer are included on both sides.

tutorial  its own recipe: vocabulary 8,000, 6 layers of width 128, batches of 32 x 128, AdamW 3e-4, at most 10 epochs.
          It is evaluated after each epoch and stops at the first that reaches the target; its clock stands still
          while it is evaluated.
tinygpt   `tinygpt train TEXT --val VAL --minutes M` for each M in turn, the smallest first, until the last validation
          of a run reaches the target. That run counts, with everything in it: probing, baselines, evaluations,
          samples, checkpoints, closing report. `training alone` is the training loop of that run, evaluations included.

The runs alternate, each round with another seed. A ratio above 1 is how many times sooner tinygpt is there.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.common import (
    BenchmarkError,
    Figure,
    add_timeout,
    alternate,
    cores,
    describe_file,
    figures,
    parser,
    plain_errors,
    ratios,
    record,
    report,
    say,
    summary,
)
from tinygpt.config import make_config, model_config, parse_assignments

TRAINING_SHARE = 0.9  # of the characters
TUTORIAL = {"epochs": 10, "batch_size": 32, "block_size": 128, "shape": model_config}
BUDGETS = [0.25, 0.5, 1.0, 2.0, 4.0]  # minutes
Run = dict[str, Any]


def split(text: Path, folder: Path) -> tuple[Path, Path]:
    """Two files: the first 90 % of the characters of a UTF-8 text, and the rest."""
    try:
        content = text.read_bytes().decode()
    except UnicodeDecodeError:
        raise BenchmarkError(f"{text.name} is not UTF-8.") from None
    cut = int(TRAINING_SHARE * len(content))
    places = folder / "train.txt", folder / "val.txt"
    for place, part in zip(places, (content[:cut], content[cut:]), strict=True):
        if not part.strip():
            raise BenchmarkError(f"{text.name} is too short to be split.")
        place.write_bytes(part.encode())
    return places


def run_tutorial(setting: contenders.Setting, job: dict[str, Any], seed: int) -> Run:
    """The tutorial's script until the target; seconds of its process without its evaluations."""
    answer = contenders.ask_peer(setting, "tutorial", {**job, "seed": seed})
    best = min(bpb for _, bpb in answer["curve"])
    return {
        "seed": seed, "reached": best <= job["target_bpb"], "seconds": answer["process_s"] - answer["evaluation_s"],
        "training_s": answer["seconds"], "evaluation_s": answer["evaluation_s"], "bpb": best, "curve": answer["curve"],
    }  # fmt: skip


def run_tinygpt(setting: contenders.Setting, val: Path, budgets: Sequence[float], target_bpb: float, seed: int) -> Run:
    """tinygpt with one budget after the other until the target; the last attempt counts, all are listed."""
    attempts: list[Run] = []
    for minutes in budgets:
        folder = setting.folder / "attempt"
        words = [*setting.words, f"seed={seed}", f"device={setting.job['device']}"]
        if setting.job["threads"]:
            words.append(f"threads={setting.job['threads']}")
        length = ["--minutes", str(minutes)]
        finished = contenders.train_tinygpt(setting, folder, setting.preset, length, words, val)
        metrics = contenders.read_metrics(contenders.run_folder(folder))
        shutil.rmtree(folder)
        bpb = [entry["val_bpb"] for entry in metrics if entry["kind"] == "eval"][-1]
        training_s = max(entry["time_s"] for entry in metrics if "time_s" in entry)
        attempts.append({"minutes": minutes, "bpb": bpb, "seconds": finished.seconds, "training_s": training_s})
        say(f"  {minutes:g} min: {bpb:.3f} bits per byte, {finished.seconds:.0f} s in all")
        if bpb <= target_bpb:
            break
    return {"seed": seed, "reached": bpb <= target_bpb, **attempts[-1], "attempts": attempts}


def figures_of(results: Mapping[str, Sequence[Run]]) -> list[Figure]:
    """Times of the runs that reached the target; ratios only if every run of both did, or as `at least`."""
    times = {name: [run["seconds"] for run in runs if run["reached"]] for name, runs in results.items()}
    found = figures("time to quality", "s", {name: own for name, own in times.items() if own})
    ours, theirs = results.get("tinygpt", []), results.get("tutorial", [])
    reached = [run for run in ours if run["reached"]]
    if reached:
        found += figures("training alone", "s", {"tinygpt": [run["training_s"] for run in reached]})
        found += figures("smallest budget that reached it", "min", {"tinygpt": [run["minutes"] for run in reached]})
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=False) if b["reached"]]
    if pairs:
        sooner = ratios([a["seconds"] for a, _ in pairs], [b["seconds"] for _, b in pairs])
        bound = "" if all(a["reached"] for a, _ in pairs) else "at least, "
        name = f"{bound}tutorial / tinygpt"
        found.append({"name": name, "quantity": "ratio of times", "unit": "x", **summary(sooner)})
    return found


def not_reached(results: Mapping[str, Sequence[Run]], target_bpb: float) -> dict[str, str]:
    """A sentence per contender whose runs did not all reach the target."""
    sentences = {}
    for name, runs in results.items():
        missed = [run for run in runs if not run["reached"]]
        if missed:
            best = ", ".join(f"{run['bpb']:.3f} after {run['seconds']:.0f} s" for run in missed)
            sentences[name] = f"{len(missed)} of {len(runs)} runs did not reach {target_bpb:g} bits per byte: {best}."
    return sentences


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", metavar="field=value", help="settings of tinygpt")
    options.add_argument("--text", type=Path, required=True)
    options.add_argument("--target-bpb", type=float, required=True, help="bits per byte of the validation text")
    options.add_argument("--minutes", type=float, nargs="+", default=BUDGETS, help="budgets of tinygpt, to be tried")
    options.add_argument("--contenders", default="tutorial,tinygpt", help="both (default), or one of them")
    options.add_argument("--preset", default="modern", help="of tinygpt (default modern)")
    options.add_argument("--epochs", type=int, default=TUTORIAL["epochs"], help="of the tutorial, at most (default 10)")
    options.add_argument("--threads", type=int, default=cores(), help="of both; 0: as each likes (default: all)")
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    add_timeout(options)
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        folder, text = Path(temporary), contenders.existing(args.text)
        if min(args.minutes) <= 0 or args.epochs < 1 or args.target_bpb <= 0:
            raise BenchmarkError("--minutes, --epochs and --target-bpb must be above 0.")
        make_config(args.preset, parse_assignments(args.words))  # a wrong word is refused here
        train, val = split(text, folder)
        job = {
            **TUTORIAL, "epochs": args.epochs, "target_bpb": args.target_bpb, "train_text": str(train),
            "val_text": str(val), "val_bytes": val.stat().st_size, "train_tokens": None, "val_tokens": None,
            "steps": None, "seconds": None, "warmup_steps": 0, "threads": args.threads, "device": args.device,
        }  # fmt: skip
        setting = contenders.Setting(folder, train, job, args.words, args.preset, args.timeout)
        budgets = sorted(args.minutes)
        known: dict[str, Callable[[int], Run]] = {
            "tutorial": functools.partial(run_tutorial, setting, job),
            "tinygpt": functools.partial(run_tinygpt, setting, val, budgets, args.target_bpb),
        }
        names = [name.strip() for name in args.contenders.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise BenchmarkError(f"there is no contender {unknown[0]!r}; contenders are {', '.join(known)}.")
        results, errors = alternate({name: known[name] for name in names}, args.repeats, say)
        errors |= not_reached(results, args.target_bpb)
        settings = {
            "text": describe_file(text), "target_bpb": args.target_bpb, "minutes": budgets, "epochs": args.epochs,
            "preset": args.preset, "words": args.words, "threads": args.threads, "device": args.device,
        }  # fmt: skip
        report(record("quality", settings, figures_of(results), errors, runs=results), args.history)


if __name__ == "__main__":
    main()
