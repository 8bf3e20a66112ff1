"""Memory: the largest resident memory of a training process, as the operating system counted it.

    python -m benchmarks.memory --minutes 0.2
    python -m benchmarks.memory --contenders tinygpt,hf,tutorial --text sherlock.txt n_embd=192

`tinygpt` is the whole default command (`tinygpt train TEXT --minutes M`): tokenizer, baselines, probing, training,
evaluation, report. A peer trains --steps steps at the shape and batch that tinygpt came to; its tokens are ready.
Start-up alone, `python -c "import torch"`, is measured beside them. Rounds alternate; the ratio is to tinygpt.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.common import BenchmarkError, alternate, figures, parser, plain_errors, record, report, say
from benchmarks.measured import run

MIB = 1 << 20
TORCH = "import torch"


def measure(setting: contenders.Setting, minutes: float, name: str, round_: int) -> dict[str, Any]:
    """One process of a contender, from outside."""
    if name == TORCH:
        command = [sys.executable, "-c", TORCH]
        environment = contenders.environment(setting.folder, setting.job["device"])
        return contenders.with_measures({}, run(command, setting.folder, environment, setting.timeout_s))
    if name in setting.scripts:
        return contenders.run_contender(setting, name, round_)
    preset = name.partition(":")[2] or setting.preset
    folder = setting.folder / f"tinygpt-{preset}-{round_}"
    words = [*setting.words, f"seed={round_}", f"device={setting.job['device']}"]
    finished = contenders.train_tinygpt(setting, folder, preset, ["--minutes", str(minutes)], words)
    return contenders.with_measures({}, finished)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    contenders.add_options(options, ["tinygpt", "hf", "tutorial"], steps=10)
    options.add_argument("--minutes", type=float, default=0.2, help="of tinygpt's training (default %(default)s)")
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        if args.minutes <= 0:
            raise BenchmarkError(f"--minutes {args.minutes:g} must be above 0.")
        setting, names = contenders.set_up(args, Path(temporary))
        runs = {name: functools.partial(measure, setting, args.minutes, name) for name in [*names, TORCH]}
        results, errors = alternate(runs, args.repeats, say)
        peaks = {name: [answer["peak_rss_bytes"] / MIB for answer in found] for name, found in results.items()}
        found = figures("peak resident memory", "MiB", peaks, "tinygpt")
        settings = {**contenders.settings_of(setting), "minutes": args.minutes}
        report(record("memory", settings, found, errors, runs=results), args.history)


if __name__ == "__main__":
    main()
