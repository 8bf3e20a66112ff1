"""Several GPUs: tokens a second of 1, 2, ... ranks on the same global batch, and what part of the machine that is.

    python -m benchmarks.scaling --ranks 1,2
    python -m benchmarks.scaling --ranks 1,2 --device cpu --steps 12 n_embd=128 n_layers=4 block_size=256 batch_size=16

Every rank trains as `torchrun ... -m tinygpt train` does (the session and the steps of train.py; nothing is validated
or saved), by default in GPT-2's shape of 124 M parameters, 512 sequences of 1,024 tokens a step, on made-up tokens.
Rounds alternate. Efficiency is tokens/s over the ranks times those of one. The share of the machine counts, for each
token, 6 operations for each number of a matrix and 12 n_layers n_embd block_size for attention (Chowdhery et al. 2022,
"PaLM", appendix B), over the rate of a large matrix product in the same format, measured by every rank just before.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import (
    BenchmarkError,
    add_timeout,
    alternate,
    figures,
    parser,
    plain_errors,
    positive,
    ratios,
    record,
    report,
    say,
)
from benchmarks.contenders import environment, last_line
from benchmarks.measured import run as run_process

GPT2_124M = {
    "n_embd": 768, "n_heads": 12, "n_layers": 12, "block_size": 1024, "vocab_size": 50257, "batch_size": 512,
    "micro_batch": 32,
}  # fmt: skip
WARM_UP = 3  # steps that do not count: compilers, libraries that try out their kernels
PRODUCT = {"cuda": 8192, "cpu": 2048}  # rows and columns of the matrices whose product is the machine's rate


# --- one rank --------------------------------------------------------------------------------------------------------


def work(folder: Path, steps: int) -> None:
    """In a process of torchrun's: train `steps` steps of the run in `folder`; the first rank prints the answer."""
    import torch

    from tinygpt.display import Display
    from tinygpt.distributed import choose_machine, join
    from tinygpt.optim import schedule
    from tinygpt.runs import open_run
    from tinygpt.train import gather_gradient, set_up

    run = open_run(folder)[0]
    with join() as ranks:
        machine = choose_machine(run.config.train, ranks)
        rate = matrix_rate(machine)
        s = set_up(run, machine, Display(io.StringIO()))
        times, losses = [], []
        for step in range(steps):
            began = time.perf_counter()
            loss, grad_norm = gather_gradient(s)  # waits for the device
            s.optimizer.set_rate(schedule(step, run.config.train))
            s.update(torch.tensor(grad_norm))
            s.progress.step += 1
            times.append(time.perf_counter() - began)
            losses.append(loss)
        memory = torch.cuda.max_memory_allocated() if machine.device.type == "cuda" else 0
        slowest = ranks.reduced([-rate], torch.distributed.ReduceOp.MAX)[0] if ranks.size > 1 else -rate
        if ranks.first:
            tokens = run.config.train.batch_size * run.config.model.block_size
            answer = {
                "tokens_per_s": tokens / statistics.median(times[WARM_UP:]), "matrix_flop_per_s": -slowest,
                "losses": losses, "memory_bytes": memory, "device": machine.why,
            }  # fmt: skip
            print(json.dumps(answer), flush=True)
    os._exit(0)  # as the command line ends: torch's threads between ranks can crash Python's tidying up


def matrix_rate(machine: Any) -> float:
    """Operations a second of a large square product in the format of the training."""
    import torch

    size = PRODUCT[machine.device.type]
    number_format = torch.bfloat16 if machine.bf16 else torch.float32
    a, b = (torch.randn(size, size, device=machine.device).to(number_format) for _ in range(2))
    wait = torch.cuda.synchronize if machine.device.type == "cuda" else lambda: None
    times = []
    for _ in range(8):
        wait()
        began = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[2:])


# --- all of them -----------------------------------------------------------------------------------------------------


def make_run(folder: Path, fields: dict[str, Any], preset: str) -> Any:
    """A run on made-up tokens, which nobody could learn anything from."""
    import numpy as np

    from benchmarks.generation import make_tokenizer
    from tinygpt.config import make_config
    from tinygpt.runs import create

    never = dict.fromkeys(("eval_every", "save_every", "sample_every"), 10**9)
    config = make_config(preset, {**never, "max_steps": 10**6, "warmup_steps": 10, "dropout": 0.0, **fields})
    n_tokens = max(1 << 20, 3 * config.model.block_size)
    ids = np.random.default_rng(0).integers(3, config.model.vocab_size, n_tokens).astype(np.uint16)
    tokenizer = make_tokenizer(config.model.vocab_size)
    return create(folder, config, tokenizer, {"train": {}, "val": {}}, {"baselines": {}, "floor": None}, ids, ids[:0])


def measure(folder: Path, ranks: int, steps: int, device: str, timeout_s: float, _: int) -> dict[str, Any]:
    """The answer of the first of so many ranks."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", "--",
        "benchmarks.scaling", "--work", str(folder), "--steps", str(steps),
    ]  # fmt: skip
    own = {"GOMP_SPINCOUNT": "1000"}  # as the command line has it
    finished = run_process(command, folder.parent, {**environment(folder.parent, device), **own}, timeout_s)
    answers = [line for line in finished.out.splitlines() if line.startswith('{"tokens_per_s"')]
    if finished.exit_code or not answers:
        raise BenchmarkError(f"{ranks} ranks ended with exit code {finished.exit_code}: {last_line(finished)}")
    answer: dict[str, Any] = json.loads(answers[-1])
    return answer


def flop_per_token(model: Any) -> float:
    """Operations of forward and backward for one token."""
    from tinygpt.plan import matrix_parameters

    return 6.0 * matrix_parameters(model) + 12.0 * model.n_layers * model.n_heads * model.d_head * model.block_size


def numbers(text: str) -> list[int]:
    """[1, 2] from "1,2"."""
    return [positive(word) for word in text.split(",")]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, or be one rank of it."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", metavar="field=value", help="another shape or batch")
    options.add_argument("--ranks", type=numbers, default=[1, 2], help="comma-separated (default 1,2)")
    options.add_argument("--preset", default="gpt2")
    options.add_argument("--steps", type=positive, default=12, help=f"the first {WARM_UP} do not count (default 12)")
    options.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    add_timeout(options)
    args = options.parse_intermixed_args(arguments)
    if args.work:
        return work(args.work, args.steps)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        from tinygpt.config import parse_assignments

        if args.steps <= WARM_UP:
            raise BenchmarkError(f"--steps {args.steps} is too short: the first {WARM_UP} do not count.")
        compiled = {"compiled": "yes"} if args.device == "cuda" else {}
        fields = {**GPT2_124M, **compiled, **parse_assignments(args.words), "device": args.device}
        run = make_run(Path(temporary) / "run", fields, args.preset)
        runs = {f"{n} rank{'s' * (n > 1)}": n for n in args.ranks}
        started = {
            name: lambda round_, n=n: measure(run.folder, n, args.steps, args.device, args.timeout, round_)
            for name, n in runs.items()
        }
        results, errors = alternate(started, args.repeats, say)
        first = next(iter(runs))
        speeds = {name: [answer["tokens_per_s"] for answer in answers] for name, answers in results.items()}
        found = figures("training speed", "tokens/s", speeds, first)
        if runs[first] == 1 and first in speeds:
            others = {name: ratios(own, speeds[first]) for name, own in speeds.items() if name != first}
            percent = {name: [100 * times / runs[name] for times in own] for name, own in others.items()}
            found += figures("efficiency", "%", percent)
        rates = {name: [answer["matrix_flop_per_s"] for answer in answers] for name, answers in results.items()}
        operations = 100 * flop_per_token(run.config.model)
        share = {
            name: [
                operations * speed / runs[name] / rate for speed, rate in zip(speeds[name], rates[name], strict=True)
            ]
            for name in results
        }
        found += figures("share of the measured matrix rate", "%", share)
        tera = {name: [rate / 1e12 for rate in own] for name, own in rates.items()}
        found += figures("matrix product, each rank", "TFLOP/s", tera)
        report(record("scaling", {"preset": args.preset, **fields, "steps": args.steps}, found, errors, runs=results),
               args.history)  # fmt: skip


if __name__ == "__main__":
    main()
