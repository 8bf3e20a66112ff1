"""What all benchmarks share: alternating runs, statistics, the machine, the history file, a table.

A figure is a dict: name (of the contender), quantity, unit, values (one per round), median, low, high; `ratio` holds
the same of the quotients with the baseline, pair by pair. One benchmark is one line of the history file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tinygpt.errors import USAGE, UserError

ROOT = Path(__file__).parents[1]
HISTORY = ROOT / "benchmarks" / "history.jsonl"
Result = TypeVar("Result")
Figure = dict[str, Any]


class BenchmarkError(UserError):
    """Why something could not be measured, in one sentence."""


# --- running and counting --------------------------------------------------------------------------------------------


def alternate(
    contenders: Mapping[str, Callable[[int], Result]], repeats: int, say: Callable[[str], None]
) -> tuple[dict[str, list[Result]], dict[str, str]]:
    """Run A B C A B C ..., so that a machine that gets slower or busier does so for all of them.

    contenders: by name, a function of the round (0, 1, ...). Returns the results by name, one per round, and by
    name the sentence of those that failed with a BenchmarkError; they are left out of later rounds.
    """
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    errors: dict[str, str] = {}
    for round_ in range(repeats):
        for name, run in contenders.items():
            if name in errors:
                continue
            say(f"round {round_ + 1} of {repeats}: {name} ...")
            try:
                results[name].append(run(round_))
            except BenchmarkError as error:
                errors[name] = str(error)
                say(f"  {name}: {error}")
    return {name: found for name, found in results.items() if found}, errors


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest of the values, and the values."""
    return {"values": list(values), "median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(values: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Quotients of the runs of one round: what the machine did to both of them cancels out."""
    return [value / other for value, other in zip(values, baseline, strict=False)]


def figures(
    quantity: str, unit: str, values: Mapping[str, Sequence[float]], baseline: str | None = None
) -> list[Figure]:
    """A figure per contender, each with its ratio to the baseline if that has values."""
    found = []
    for name, own in values.items():
        figure = {"name": name, "quantity": quantity, "unit": unit, **summary(own)}
        if baseline is not None and baseline in values and name != baseline:
            figure["ratio"] = {"to": baseline, **summary(ratios(own, values[baseline]))}
        found.append(figure)
    return found


# --- where and when --------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The hardware and software that the figures belong to."""
    return {
        "cpu": cpu_model(), "cores": cores(), "load_1min": round(os.getloadavg()[0], 2), "gpu": gpu_model(),
        "os": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "torch": version("torch"),
    }  # fmt: skip


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The name of the processor, as the system knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or "unknown"


def gpu_model() -> str | None:
    """The first GPU by NVIDIA's own tool, or None."""
    names = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines()[0] if names else None


def version(package: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of this repository; with `+changes` behind it if files differ from it."""
    name = output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = output_of("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{name or 'unknown'}{'+changes' if changed else ''}"


def output_of(*command: str) -> str:
    """What a command prints, without the last line end; "" if it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def describe_file(path: Path) -> dict[str, Any]:
    """Name, size [bytes] and digest of a file: what it was, not where it lay."""
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()[:16]}


# --- what comes out --------------------------------------------------------------------------------------------------


def record(
    benchmark: str, settings: Mapping[str, Any], found: Sequence[Figure], errors: Mapping[str, str], **more: Any
) -> dict[str, Any]:
    """One line of the history."""
    return {
        "benchmark": benchmark, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(),
        "machine": machine(), "settings": dict(settings), "figures": list(found), "errors": dict(errors), **more,
    }  # fmt: skip


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line to the history file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_history(path: Path) -> list[dict[str, Any]]:
    """All lines of a history file; BenchmarkError that names the first one that is not a record."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror}.") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not {"benchmark", "date", "commit", "figures"} <= entry.keys():
            raise BenchmarkError(f"{path}, line {number} is not a record of a benchmark.")
        records.append(entry)
    return records


def report(line: Mapping[str, Any], history: Path) -> None:
    """Print the table of a record and append it to the history. BenchmarkError if nothing was measured."""
    if not line["figures"]:
        raise BenchmarkError("nothing could be measured: " + "; ".join(f"{k}: {v}" for k, v in line["errors"].items()))
    print(table(line))
    append(history, line)


def table(line: Mapping[str, Any]) -> str:
    """A record for people: one row per figure, then what failed, then where it was measured."""
    rows = [("", "", "median", "min - max", "ratio (min - max)", "runs")]
    for f in line["figures"]:
        spread = f"{number(f['low'])} - {number(f['high'])}"
        ratio, to = "", f.get("ratio")
        if to:
            ratio = f"{number(to['median'])} x {to['to']} ({number(to['low'])} - {number(to['high'])})"
        quantity = f"{f['quantity']} [{f['unit']}]"
        rows.append((quantity, f["name"], number(f["median"]), spread, ratio, str(len(f["values"]))))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (True, True, False, False, True, False)
    text = ["  ".join(c.ljust(w) if go else c.rjust(w) for c, w, go in zip(r, widths, left, strict=True)) for r in rows]
    text += [f"{name}: {sentence}" for name, sentence in line["errors"].items()]
    m = line["machine"]
    where = ", ".join(filter(None, [m["cpu"], f"{m['cores']} cores", m["gpu"], f"torch {m['torch']}"]))
    text.append(f"{line['benchmark']}, {line['date'][:10]}, commit {line['commit']}; {where}; load {m['load_1min']}")
    return "\n".join(row.rstrip() for row in text)


def number(value: float) -> str:
    """Three significant digits, and all of those before the point: 12,345  123  12.3  0.123."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- the command line ------------------------------------------------------------------------------------------------


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; `text` is the docstring of its module."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=positive, default=3, help="rounds (default 3)")
    made.add_argument("--history", type=Path, default=HISTORY, help="file that gets one JSON line")
    return made


def add_timeout(made: argparse.ArgumentParser) -> None:
    """The option of a benchmark whose contenders are processes."""
    made.add_argument("--timeout", type=float, default=3600.0, help="seconds after which a process is killed")


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def counts(text: str) -> list[int]:
    """Whole numbers above 0 with commas between them."""
    return [positive(word.strip()) for word in text.split(",")]


def say(sentence: str) -> None:
    """What is going on, on standard error: standard output is for the result."""
    print(sentence, file=sys.stderr, flush=True)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """A UserError inside becomes one sentence on standard error and exit code 2."""
    try:
        yield
    except UserError as error:
        say(f"benchmarks: {error}")
        raise SystemExit(USAGE) from None
    except KeyboardInterrupt:
        say("benchmarks: interrupted; nothing was written to the history.")
        raise SystemExit(130) from None
