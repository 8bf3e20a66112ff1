"""The plan against a small grid: is what it chose good, and does it take as long as it said?

    python -m benchmarks.planner --text tinystories.txt --text sherlock.txt --minutes 3
    python -m benchmarks.planner --text sherlock.txt --minutes 0.25 1 3 --no-grid --repeats 3

For every text and budget `tinygpt train TEXT --minutes M` runs as it is, then once for each --arm with its settings in
the place of the plan's; the plan still fills what an arm leaves open. All are whole processes, one after the other.
Trained is on the first 90 % of the characters (all of the built-in tales: `--text tales`), validated on the rest.

excess          bits per byte of the plan over the best of plan and arms [%]; 0 means that no arm is better
time            seconds of the training over what the plan expected
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.common import (
    BenchmarkError,
    Figure,
    add_timeout,
    describe_file,
    figures,
    parser,
    plain_errors,
    record,
    report,
    say,
)
from benchmarks.quality import split
from tinygpt.config import make_config, parse_assignments

TALES = "tales"  # as the command writes them, split by document
# Smaller, wider, more or less dropout, other steps, the head tied or not: one or two things each.
ARMS = (
    "n_embd=64 n_heads=2 n_layers=4", "n_embd=128 n_heads=4 n_layers=4", "n_embd=192 n_heads=6 n_layers=6",
    "dropout=0", "dropout=0.1", "dropout=0.2", "batch_size=4", "batch_size=16", "tied=true", "tied=false",
)  # fmt: skip
CHOSEN = ("n_embd", "n_layers", "vocab_size", "tied", "dropout", "batch_size", "weight_decay", "max_steps", "compiled")
Run = dict[str, Any]


def train(setting: contenders.Setting, val: Path | None, minutes: float, words: list[str], seed: int) -> Run:
    """One training: what was expected, what came."""
    folder = setting.folder / "attempt"
    own = [*setting.words, *words, f"seed={seed}", f"device={setting.job['device']}"]
    try:
        finished = contenders.train_tinygpt(setting, folder, setting.preset, ["--minutes", str(minutes)], own, val)
        run = contenders.run_folder(folder)
        config, metrics = json.loads((run / "config.json").read_text()), contenders.read_metrics(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    curve = [(entry["step"], entry["val_bpb"]) for entry in metrics if entry["kind"] == "eval"]
    settings = {**config["model"], **config["train"]}
    return {
        "words": " ".join(words), "seed": seed, "minutes": minutes, "bpb": curve[-1][1], "curve": curve,
        "best_bpb": min(bpb for _, bpb in curve), "expected_bpb": config["expected_bpb"], "process_s": finished.seconds,
        "expected_s": config["expected_s"], "training_s": max(m["time_s"] for m in metrics if "time_s" in m),
        "chosen": {name: settings[name] for name in CHOSEN}, "reasons": config["reasons"],
        "peak_rss_bytes": finished.peak_rss_bytes, "expected_memory_bytes": config["expected_memory_bytes"],
    }  # fmt: skip


def told(run: Run) -> str:
    """A run in one line."""
    chosen = " ".join(f"{name}={value}" for name, value in run["chosen"].items())
    return (
        f"  {run['words'] or 'the plan':<34} {run['bpb']:.4f} bits per byte, {run['training_s']:.0f} s of training "
        f"where {run['expected_s']:.0f} were expected, {run['process_s']:.0f} s in all ({chosen})"
    )


def excess(runs: list[Run]) -> float:
    """By how many per cent the plan, the first of them, is above the best."""
    return 100 * (runs[0]["bpb"] / min(run["bpb"] for run in runs) - 1)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.set_defaults(repeats=1)
    options.add_argument("words", nargs="*", metavar="field=value", help="settings of all runs")
    options.add_argument("--text", type=Path, action="append", required=True, help=f"a file, or {TALES}")
    options.add_argument("--minutes", type=float, nargs="+", default=[3.0], help="budgets (default 3)")
    options.add_argument("--arm", action="append", help="settings of one more run; default: " + "; ".join(ARMS))
    options.add_argument("--no-grid", action="store_true", help="the plan alone: time, memory and bits per byte")
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--preset", default="modern")
    add_timeout(options)
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        arms = [] if args.no_grid else args.arm or ARMS
        for words in [args.words, *(arm.split() for arm in arms)]:
            make_config(args.preset, parse_assignments(words))  # a wrong word is refused here
        if min(args.minutes) <= 0:
            raise BenchmarkError("--minutes must be above 0.")
        job = {"device": args.device, "threads": None}
        found: list[Figure] = []
        all_runs: list[Run] = []
        described = {}
        for text in args.text:
            folder = Path(temporary) / text.stem
            folder.mkdir()
            given = (
                contenders.default_text(folder, args.timeout, 4) if str(text) == TALES else contenders.existing(text)
            )
            described[text.stem] = describe_file(given)
            source, val = (given, None) if str(text) == TALES else split(given, folder)
            setting = contenders.Setting(folder, source, job, args.words, args.preset, args.timeout)
            for minutes in args.minutes:
                rounds: list[list[Run]] = []
                for seed in range(args.repeats):
                    say(f"{text.stem}, {minutes:g} minutes, seed {seed}:")
                    runs: list[Run] = []
                    for words in [[], *(arm.split() for arm in arms)]:
                        runs.append({"text": text.stem, **train(setting, val, minutes, words, seed)})
                        say(told(runs[-1]))
                    rounds.append(runs)
                    all_runs += runs
                name = f"{text.stem}, {minutes:g} min"
                found += figures("the plan's cost of unseen text", "bits/byte", {name: [r[0]["bpb"] for r in rounds]})
                if arms:
                    found += figures("above the best of the grid", "%", {name: [excess(r) for r in rounds]})
                ratio = [run["training_s"] / run["expected_s"] for runs in rounds for run in runs]
                found += figures("real time / expected", "x", {name: ratio})
        settings = {"texts": described, "minutes": args.minutes, "arms": list(arms), "device": args.device,
                    "preset": args.preset, "words": args.words}  # fmt: skip
        report(record("planner", settings, found, {}, runs=all_runs), args.history)


if __name__ == "__main__":
    main()
