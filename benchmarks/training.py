"""Training speed: tokens a second of several programs at the same shape and batch on the same token file.

    python -m benchmarks.training --text sherlock.txt --repeats 5
    python -m benchmarks.training --contenders tinygpt,hf --baseline hf n_embd=192 n_layers=6 batch_size=16
    python -m benchmarks.training --preset tutorial --contenders tinygpt,tutorial
    python -m benchmarks.training --python litgpt=PATH/bin/python --peer-script my_script.py

Runs alternate (A B C A B C ...), each in a process of its own; a figure is the median over rounds with min and max,
and the ratio to the baseline is taken round by round. Timed are the steps after the first five: tokens of these
steps over their seconds, with each program's own data loading and logging, without start-up, evaluation and saving.

Contenders: `tinygpt` by its own command line, with whatever it chooses that is not the shape; `tinygpt:PRESET` the
same with another architecture of the same widths; `tutorial` the tutorial's plain script; `compiled` a GPT-2-style
script with torch.compile; `hf` Hugging Face's Trainer; `litgpt` its pretrain. The latter two need the shape of
--preset modern. A peer is asked by a JSON file and answers with one JSON line, as benchmarks/peers/protocol.py says;
--peer-script runs any script that does the same.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from benchmarks import contenders
from benchmarks.common import BenchmarkError, alternate, figures, parser, plain_errors, record, report, say


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    contenders.add_options(options, contenders.DEFAULT, steps=100)
    options.add_argument("--baseline", help="contender that ratios are taken to (default: tutorial, else the first)")
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        names, _ = contenders.contenders_of(args.contenders, args.peer_script)
        baseline = args.baseline or ("tutorial" if "tutorial" in names else names[0])
        if baseline not in names:
            raise BenchmarkError(f"the baseline {baseline!r} is not among the contenders {', '.join(names)}.")
        setting, names = contenders.set_up(args, Path(temporary))
        runs = {name: functools.partial(contenders.run_contender, setting, name) for name in names}
        results, errors = alternate(runs, args.repeats, say)
        speeds = {name: [answer["tokens_per_s"] for answer in found] for name, found in results.items()}
        found = figures("training speed", "tokens/s", speeds, baseline)
        report(record("training", contenders.settings_of(setting), found, errors, runs=results), args.history)


if __name__ == "__main__":
    main()
