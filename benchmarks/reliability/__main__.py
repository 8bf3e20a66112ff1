"""Try the promises and write docs/reliability.md; `python -m benchmarks.reliability --help`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import benchmarks.reliability
from benchmarks.common import ROOT, commit, machine, say
from benchmarks.reliability import ELSEWHERE, ROWS
from benchmarks.reliability.common import Scale

PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# How reliable is a run?

Every line was tried with the real thing: real processes and kills, real damaged files, a real full disk. *checks* are
single things that had to hold, *trials* independent repetitions; the bound is the failure rate that is excluded with
95 % confidence when none of n trials failed (3/n). *Control*: the same trials with one guard taken out of the package,
which have to fail.
"""


def main() -> None:
    """Run the rows that are asked for."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:  # in the background, under nohup: the trials would ignore it too
            signal.signal(number, handler)
    parser = argparse.ArgumentParser(
        description=benchmarks.reliability.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--short", action="store_true", help="as the tests do; nothing is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    if "GPU" in args.row and not torch.cuda.is_available():
        say("GPU: left out, there is none here; its line stays.")
        args.row.remove("GPU")
    book = args.out.with_suffix(".json")
    stored: dict[str, Any] = json.loads(book.read_text()) if book.exists() else {}
    bad, at = [], commit()  # before the page itself changes
    for id in args.row:
        line = run(id, full=not args.short, seed=args.seed) | {"commit": at}
        print(json.dumps(line, indent=1, ensure_ascii=False), flush=True)
        bad += [id] if line["failures"] or not all(line["controls"].values()) else []
        if not args.short:
            stored[id] = line
            book.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            args.out.write_text(page(stored), encoding="utf-8")
    say(f"{len(args.row) - len(bad)} of {len(args.row)} rows hold" + (f"; not: {', '.join(bad)}" if bad else ""))
    raise SystemExit(bool(bad))


def run(id: str, full: bool, seed: int) -> dict[str, Any]:
    """One row with its controls, as plain data."""
    torch.set_num_threads(1)
    module = importlib.import_module(f"benchmarks.reliability.{ROWS[id]}")
    say(f"{id}: {(module.__doc__ or '').splitlines()[0]}")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = module.row(Scale(full, Path(folder), seed))
    with tempfile.TemporaryDirectory() as folder:
        controls = module.controls(Scale(False, Path(folder), seed)) if hasattr(module, "controls") else {}
    return {
        **dataclasses.asdict(found), "controls": controls, "seconds": round(time.perf_counter() - began), "seed": seed,
        "date": time.strftime("%Y-%m-%d"), "machine": machine(),
    }  # fmt: skip


def page(stored: dict[str, Any]) -> str:
    """docs/reliability.md from the stored rows."""
    lines = [HEAD, "| | tried | checks | trials | failed | lost | bound | control | minutes |", "|---" * 9 + "|"]
    details = []
    for id in sorted({*ROWS, *ELSEWHERE}):
        if id not in stored:
            lines.append(f"| {id} | {ELSEWHERE.get(id, 'not run')} | | | | | | | |")
            continue
        row = stored[id]
        trials = row["independent"] or row["trials"]
        bound = f"{3 / trials:.2%}" if trials and not row["failures"] else ""
        control = "; ".join(f"{name}: {'noticed' if seen else 'NOT noticed'}" for name, seen in row["controls"].items())
        lines.append(
            f"| {id} | {row['what']} | {row['trials']:,} | {trials:,} | {len(row['failures'])} | {row['lost']} "
            f"| {bound} | {control} | {row['seconds'] / 60:.1f} |"
        )
        details += ["", f"## {id}", "", *(f"- {name}: {value}" for name, value in row["measured"].items())]
        details += [f"- smaller than asked for: {row['lowered']}"] if row["lowered"] else []
        details += [f"- FAILED: {sentence}" for sentence in row["failures"][:20]]
        m = row["machine"]
        where = f"{m['cpu']}, {m['cores']} cores, Python {m['python']}, torch {m['torch']}"
        details += ["", f"{row['date']}, commit {row['commit']}, seed {row['seed']}; {where}."]
    command = shlex.join(["python", "-m", "benchmarks.reliability"])
    return "\n".join([*lines, *details, "", f"Made by `{command}`; not edited by hand.", ""])


if __name__ == "__main__":
    sys.exit(main())
