"""The ladder: from the tutorial's model to `modern`, one change at a time, on the same number of tokens.

    python -m benchmarks.ladder --text tinystories.txt --text sherlock.txt --tokens 5e5 --seeds 3 --workers 2

writes docs/ladder.md and docs/ladder.jsonl (one line per training; what stands there already is not run again). Every
rung keeps the changes of the rungs above it. The validation text is the last tenth of each text's characters.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.grid import run_one
from benchmarks.quality import split

# name, settings that change, what it does. AdamW's rate is the tutorial's until the rung that raises it.
RUNGS: list[tuple[str, dict[str, Any], str]] = [
    ("tutorial", {}, "six post-norm layers, learned positions, GELU, AdamW at a constant 3e-4, 32 x 128 tokens a step"),
    ("small batches", {"batch_size": 8}, "four times as many steps for the same tokens"),
    ("norm before", {"norm_place": "before"}, "the residual stream itself is never normalised"),
    (
        "a higher rate that falls",
        {"lr": 2e-3, "warmup_share": 0.1, "decay": 0.5, "grad_clip": 1.0, "beta2": 0.98, "weight_decay": 0.1},
        "2e-3 after a warm-up, falling to 0 over the last half, gradients clipped",
    ),
    ("rotary positions", {"positions": "rotary"}, "the distance of two tokens instead of their places"),
    ("SwiGLU", {"feed_forward": "swiglu"}, "one half of the feed-forward decides how much of the other passes"),
    ("RMSNorm, no biases", {"norm": "rmsnorm", "bias": False}, "fewer numbers that do nothing"),
    ("QK-norm", {"qk_norm": True}, "scores that cannot run away"),
    (
        "Muon",
        {"muon_lr": 0.01, "muon_decay": 0.1, "lr": 0.01},
        "orthogonal updates for the blocks' matrices, a higher rate for the rest",
    ),
    ("four layers, block 256", {"n_layers": 4, "block_size": 256}, "fewer layers, a longer context"),
    ("vocabulary 4,096", {"vocab_size": 4096}, "shorter pieces, each seen more often"),
    ("weight decay 0.5", {"weight_decay": 0.5}, "embedding and head are pulled to zero harder"),
    ("counted first weights", {"start": "pairs"}, "embedding and head begin as a factorised table of token pairs"),
    ("a mean of the last weights", {"average": 0.2}, "what is kept is a moving mean over a fifth of the steps"),
]


def rungs() -> list[tuple[str, dict[str, Any], str]]:
    """Name, all settings so far, what the rung does."""
    settings: dict[str, Any] = {"preset": "tutorial", "start": "random", "warmup_share": 0.0}
    result = []
    for name, changes, meaning in RUNGS:
        settings = {**settings, **changes}
        result.append((name, settings, meaning))
    return result


def speed(settings: dict[str, Any]) -> float:
    """Training tokens per second of a rung, alone on the machine."""
    from tinygpt.config import make_config
    from tinygpt.distributed import choose_machine
    from tinygpt.plan import measure

    config = make_config("tutorial", {k: v for k, v in settings.items() if k not in ("preset", "warmup_share")})
    return measure(config, choose_machine(config.train), 6.0).tokens_per_s


def main() -> None:
    """Train what is not there yet, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--tokens", type=float, default=5e5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page-only", action="store_true", help="train nothing: write the page of what is there")
    parser.add_argument("--out", default="docs/ladder.md")
    args = parser.parse_args()
    page = Path(args.out)
    book = page.with_suffix(".jsonl")
    done = [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        texts = {}
        for text in map(Path, args.text):
            place = Path(folder) / text.stem
            place.mkdir()
            texts[text.stem] = [path.rename(place / f"{text.stem}-{path.name}") for path in split(text, place)]
        jobs = [
            {"arm": name, "settings": dict(settings), "text": str(train), "val": str(val), "seed": seed,
             "tokens": args.tokens, "device": args.device, "evaluations": 1, "threads": 1}
            for name, settings, _ in rungs() for train, val in texts.values() for seed in range(args.seeds)
        ]  # fmt: skip
        todo = [job for job in jobs if not any(same(job, line) for line in done) and not args.page_only]
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            for result in pool.imap_unordered(run_one, todo):
                result.pop("val")
                done.append(result)
                with book.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(f"{result['arm']:<28}{result['text']:<20} seed {result['seed']}  {result['bpb']:.4f}", flush=True)
    speeds = {name: speed(settings) for name, settings, _ in rungs()}  # on this machine, wherever they were trained
    page.write_text(write(args, [line for line in done if line["tokens"] == args.tokens], list(texts), speeds))
    print(f"wrote {page}")


def same(job: dict[str, Any], line: dict[str, Any]) -> bool:
    """Whether a stored line is this job's, on whatever device."""
    text = Path(job["text"]).name == line["text"]
    return text and all(job[name] == line[name] for name in ("arm", "settings", "seed", "tokens"))


def write(args: argparse.Namespace, lines: list[dict[str, Any]], texts: list[str], speeds: dict[str, float]) -> str:
    """The page."""
    import platform

    import torch

    from tinygpt.distributed import cpu_cores

    head = "| rung | " + " | ".join(texts) + " | parameters | tokens/s | what changes |"
    rows = [head, "|---" * (len(texts) + 4) + "|"]
    before: dict[str, float] = {}
    for name, settings, meaning in rungs():
        mine = [line for line in lines if line["arm"] == name and line["settings"] == settings]
        if not all(any(line["text"] == f"{text}-train.txt" for line in mine) for text in texts):
            rows.append(f"| {name} | " + "not trained yet | " * (len(texts) + 2) + f"{meaning} |")
            continue
        cells = []
        for text in texts:
            found = [line["bpb"] for line in mine if line["text"] == f"{text}-train.txt"]
            mean = statistics.mean(found)
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            change = f" ({(mean / before[text] - 1) * 100:+.1f} %)" if text in before else ""
            cells.append(f"{mean:.3f} ± {spread:.3f}{change}")
            before[text] = mean
        rows.append(f"| {name} | {' | '.join(cells)} | {mine[0]['parameters'] / 1e6:.2f} M "
                    f"| {speeds[name] / 1e3:,.1f} k | {meaning} |")  # fmt: skip
    words = [Path(word).name if word.endswith(".txt") else word for word in sys.argv[1:]]
    command = shlex.join(["python", "-m", "benchmarks.ladder", *words])
    return f"""# The ladder: what actually helps

From the tutorial's model to this project's default, one change at a time. Every rung keeps the changes above it and
is trained on the same {args.tokens:,.0f} tokens; the figure is bits per byte of unseen text (lower is better), mean ±
standard deviation over {args.seeds} seeds, and the change against the rung above. The order matters: a change that does
little here might do more elsewhere, and the rungs are not re-tuned one by one.

{chr(10).join(rows)}

tokens/s: training, alone on the machine: {cpu_cores()} {platform.machine()} cores, torch {torch.__version__}.
Trained on {", ".join(sorted({str(line["device"]) for line in lines}))}. Made by `{command}`
on {datetime.date.today()}. The validation text is the last tenth of each text's characters; the single figures are in
[ladder.jsonl](ladder.jsonl).
"""


if __name__ == "__main__":
    main()
