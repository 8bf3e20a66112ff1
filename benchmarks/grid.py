"""Compare settings: every arm on every text with every seed, the same tokens for all; a table and one JSON line each.

    python -m benchmarks.grid --text tales.txt --text sherlock.txt --tokens 2e6 --seeds 3 \\
        --arm "lr=1e-3" --arm "lr=2e-3" --arm "lr=2e-3 batch_size=8"

An arm is a list of field=value words on top of --base; `preset=NAME`, `warmup_share=S` and `idea=NAME` (ideas.py) are
allowed among them. Dropout and weight decay that no word names are the plan's. The
figure is bits per byte of the last validation, mean and standard deviation over seeds. The split is the same for all.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import cores
from tinygpt.config import make_config, parse_assignments


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Train one arm on one text with one seed in a temporary folder; returns the job with its figures."""
    import torch

    from benchmarks.ideas import IDEAS
    from tinygpt import corpus as corpora
    from tinygpt.data import Windows
    from tinygpt.display import make_display
    from tinygpt.distributed import choose_machine
    from tinygpt.plan import WARMUP, decay_for, dropout_for, matrix_parameters, repetition
    from tinygpt.prepare import read_corpus
    from tinygpt.runs import create
    from tinygpt.tokenizer import train_tokenizer
    from tinygpt.train import set_up, train

    torch.set_num_threads(job["threads"])  # of tokenizer, first weights and all else, also beside a GPU
    settings = {
        "threads": job["threads"],
        **job["settings"],
        "seed": job["seed"],
        "device": job["device"],
        "patience": 0,
    }
    preset = settings.pop("preset", "modern")
    idea = IDEAS[settings.pop("idea", "")]
    warmup = float(settings.pop("warmup_share", WARMUP))  # of the steps
    config = make_config(preset, settings)
    corpus: corpora.Corpus = read_corpus([job["text"]], config.data, job["val"])
    tokenizer = train_tokenizer(corpus.train, config.model.vocab_size)
    train_ids, val_ids = tokenizer.encode_documents(corpus.train), tokenizer.encode_documents(corpus.val)
    steps = max(1, round(job["tokens"] / (config.train.batch_size * config.model.block_size)))
    windows = Windows(train_ids, config.model.block_size, 0).count
    passes = steps * config.train.batch_size / windows
    repeated = repetition(passes, windows * config.model.block_size, matrix_parameters(config.model))
    planned = {"dropout": dropout_for(repeated), "weight_decay": decay_for(repeated)} if preset != "tutorial" else {}
    settled = {
        **planned,
        "warmup_steps": round(warmup * steps), **settings, "vocab_size": tokenizer.vocab_size, "max_steps": steps,
        "eval_every": max(1, steps // job["evaluations"]), "save_every": steps, "sample_every": 10**9,
        "log_every": steps,
    }  # fmt: skip
    config = make_config(preset, settled)
    with tempfile.TemporaryDirectory() as folder:
        facts = {"baselines": {}, "floor": None, "parameters": 0}
        run = create(Path(folder) / "run", config, tokenizer, corpus.report, facts, train_ids, val_ids)
        began = time.perf_counter()
        with idea():
            session = set_up(run, choose_machine(config.train), make_display(io.StringIO(), quiet=True))
            train(session)
        seconds = time.perf_counter() - began
        evals = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    curve = [(r["step"], r["val_bpb"]) for r in evals if r["kind"] == "eval"]
    return {
        **job, "text": Path(job["text"]).name, "steps": steps, "passes": round(passes, 2), "bpb": curve[-1][1],
        "best": min(v for _, v in curve), "curve": curve, "parameters": session.model.parameter_count(),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--val", action="append", default=[], help="validation text of each --text")
    parser.add_argument("--tokens", type=float, default=2e6, help="training tokens of every arm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", default="", help="field=value words for all arms")
    parser.add_argument("--arm", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=1)
    parser.add_argument("--out", help="file to which one JSON line per training is appended")
    args = parser.parse_args()
    vals = args.val or [None] * len(args.text)
    jobs = [
        {"arm": arm or "(base)", "settings": parse_assignments(f"{args.base} {arm}".split()), "text": text, "val": val,
         "seed": seed, "tokens": args.tokens, "device": args.device, "evaluations": args.evaluations,
         "threads": max(1, cores() // args.workers)}
        for arm in args.arm or [""] for text, val in zip(args.text, vals, strict=True) for seed in range(args.seeds)
    ]  # fmt: skip
    results = []
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for result in pool.imap(run_one, jobs):
            results.append(result)
            if args.out:
                with Path(args.out).open("a") as file:
                    file.write(json.dumps(result) + "\n")
    texts = [Path(text).name for text in args.text]
    print(
        f"{'bits per byte after ' + format(args.tokens, '.3g') + ' tokens':<46}"
        + "".join(f"{t[:20]:>22}" for t in texts)
    )
    for arm in dict.fromkeys(r["arm"] for r in results):
        cells = []
        for text in texts:
            found = [r["bpb"] for r in results if r["arm"] == arm and r["text"] == text]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            cells.append(f"{statistics.mean(found):.4f} ± {spread:.4f}")
        mine = [r for r in results if r["arm"] == arm]
        seconds = statistics.median(r["seconds"] for r in mine)
        row = "".join(f"{cell:>22}" for cell in cells)
        print(f"{arm:<46}{row}  {mine[0]['parameters'] / 1e6:.2f}M  {seconds:.0f} s")


if __name__ == "__main__":
    main()
