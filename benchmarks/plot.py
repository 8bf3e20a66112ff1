"""The history as a picture: a panel per benchmark and quantity, a point per run of the benchmark, a line per name.

    python -m benchmarks.plot --out history.png
    python -m benchmarks.plot --benchmark training --last 20

A point is the median over rounds, its bar goes from the lowest to the highest. Points of different settings or
machines stand in one panel; a change of either is a dashed line. Needs matplotlib: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from benchmarks.common import HISTORY, BenchmarkError, plain_errors, positive, read_history

MARKERS = "osD^vP*X"
Panel = list[dict[str, Any]]  # the records that have a figure of this benchmark and quantity


def panels(records: list[dict[str, Any]]) -> dict[tuple[str, str, str], Panel]:
    """Records by (benchmark, quantity, unit), in the order in which these first occur."""
    found: dict[tuple[str, str, str], Panel] = {}
    for entry in records:
        for key in dict.fromkeys((entry["benchmark"], f["quantity"], f["unit"]) for f in entry["figures"]):
            found.setdefault(key, []).append(entry)
    return found


def circumstances(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What must be equal for two points to be comparable: settings and hardware."""
    m = entry.get("machine", {})
    return entry.get("settings"), m.get("cpu"), m.get("cores"), m.get("gpu")


def draw(axes: Any, key: tuple[str, str, str], entries: Panel, looks: dict[str, int]) -> None:
    """One panel. looks: the number of the colour and marker that a name has in all panels."""
    benchmark, quantity, unit = key
    here = [[f for f in entry["figures"] if (f["quantity"], f["unit"]) == (quantity, unit)] for entry in entries]
    changes = [x for x in range(1, len(entries)) if circumstances(entries[x]) != circumstances(entries[x - 1])]
    names = list(dict.fromkeys(f["name"] for found in here for f in found))
    for i, name in enumerate(names):
        look = {"color": f"C{looks[name] % 10}", "marker": MARKERS[looks[name] % len(MARKERS)], "label": name}
        shift = 0.08 * (i - (len(names) - 1) / 2)  # so that bars of one run do not hide each other
        for first, end in itertools.pairwise([0, *changes, len(entries)]):  # no line joins what is not comparable
            points = [(x + shift, f) for x in range(first, end) for f in here[x] if f["name"] == name]
            middle = [f["median"] for _, f in points]
            bars = [[f["median"] - f["low"] for _, f in points], [f["high"] - f["median"] for _, f in points]]
            if points:
                axes.errorbar([x for x, _ in points], middle, yerr=bars, markersize=5, linewidth=1, capsize=3, **look)
                look["label"] = "_"  # one entry of the legend is enough
    for x in changes:
        axes.axvline(x - 0.5, color="grey", linestyle="--", linewidth=0.8)
    axes.set_title(f"{benchmark}: {quantity}", fontsize=10, loc="left")
    axes.set_ylabel(f"[{unit}]")
    axes.set_xlabel("date and commit of the measurement")
    axes.set_xticks(range(len(entries)), [f"{e['date'][:10]}\n{e['commit']}" for e in entries], fontsize=7)
    axes.set_xlim(-0.5, len(entries) - 0.5)
    axes.set_ylim(
        0, 1.1 * max(f["high"] for e in entries for f in e["figures"] if (f["quantity"], f["unit"]) == key[1:])
    )
    axes.yaxis.set_major_formatter("{x:,.5g}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def plot(records: list[dict[str, Any]], out: Path) -> None:
    """Draw the records into a PNG file. BenchmarkError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise BenchmarkError("matplotlib is not installed: pip install -e '.[bench]'") from None
    found = panels(records)
    widest = max(len(entries) for entries in found.values())
    looks = {name: i for i, name in enumerate(dict.fromkeys(f["name"] for e in records for f in e["figures"]))}
    columns = 2 if widest <= 8 and len(found) > 1 else 1
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(min(24.0, columns * (5.0 + 0.9 * widest)), 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes, (key, entries) in zip(grid, found.items(), strict=False):
        draw(axes, key, entries, looks)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    figure.savefig(out, dpi=150, format="png")


def main(arguments: list[str] | None = None) -> None:
    """Draw the history."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--history", type=Path, default=HISTORY, help="file with one JSON line per measurement")
    options.add_argument("--out", type=Path, default=Path("history.png"))
    options.add_argument("--benchmark", help="only this one: training, quality, generation or memory")
    options.add_argument("--last", type=positive, default=30, help="measurements of each benchmark (default 30)")
    args = options.parse_args(arguments)
    with plain_errors():
        records = read_history(args.history)
        names = dict.fromkeys(entry["benchmark"] for entry in records)
        if args.benchmark:
            names = {name: None for name in names if name == args.benchmark}
        kept = [e for name in names for e in [e for e in records if e["benchmark"] == name][-args.last :]]
        if not any(entry["figures"] for entry in kept):
            raise BenchmarkError(f"{args.history} holds no figures{f' of {args.benchmark}' * bool(args.benchmark)}.")
        plot(kept, args.out)
        print(f"Wrote {args.out}.")


if __name__ == "__main__":
    main()
