"""Any result as plain text: figures, tables, and arrays as grids labelled by their axes. What it shows is rounded."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

WIDTH = 110  # columns
MOST_ROWS, MOST_GRIDS, MOST_TREE = 40, 8, 60
CELL = 14  # columns of a text in a table or above a grid
# Where the labels of an axis stand in a result: the first of these fields that has one for each place.
LABELS = {
    "query": ("tokens",), "key": ("tokens",), "position": ("tokens", "tokens_clean"), "token": ("points", "tokens"),
    "layer": ("rows", "layers"), "step": ("steps",), "part": ("parts", "stream_parts"), "stage": ("stages",),
}  # fmt: skip


def render(result: Any) -> str:
    """A `Result` as lines of at most about WIDTH columns; what does not fit is counted, and is in the JSON."""
    lines: list[str] = []
    figures = {name: value for name, value in result.items() if simple(value)}
    if figures:
        width = max(map(len, figures))
        for name, value in figures.items():
            first, *more = textwrap.wrap(text_of(value), WIDTH - width - 2, replace_whitespace=False) or [""]
            lines += [f"{name:<{width}}  {first}", *(" " * (width + 2) + line for line in more)]
    for name, value in result.items():
        if name not in figures and not is_label(name, result):
            lines += ["", f"{name}{axes_of(name, result)}", *block(name, value, result)]
    if result.truncated:
        lines += ["", f"Left out: {result.truncated}."]
    return "\n".join([*lines, "", f"Python: {result.python}"]).strip("\n")


def is_label(name: str, result: Any) -> bool:
    """Whether the field only labels the axes of the arrays that are shown."""
    axes = {axis for names in result.arrays.values() for axis in names}
    return any(name == label_field(axis, result) for axis in axes) and name != "tokens" and texts(result[name])


def texts(value: Any) -> bool:
    return all(isinstance(item, str | int) for item in value)


def axes_of(name: str, result: Any) -> str:
    return f"  ({' x '.join(result.arrays[name])})" if name in result.arrays else ""


def block(name: str, value: Any, result: Any) -> list[str]:
    """One field that is more than a figure, indented."""
    if isinstance(value, np.ndarray):
        return indented(array(name, value, result))
    if isinstance(value, Mapping):
        return tree(value) if branches(value) else indented(mapping(value))
    if not value:
        return ["  none"]
    if all(isinstance(item, Mapping) for item in value):
        if all(is_piece(item) for item in value):
            return indented(textwrap.wrap("  ".join(piece(item) for item in value), WIDTH - 2))
        if any(branches(item) for item in value):
            return [line for item in value for line in tree(item)]
        return indented(table(value))
    if all(isinstance(item, list) and item and is_piece(item[0]) for item in value):  # texts by layer and position
        labels = labels_of("layer", len(value), result), labels_of("position", len(value[0]), result)
        return indented(grid([[piece(item) for item in row] for row in value], *labels))
    if all(simple(item) for item in value):
        words = "  ".join(text_of(item) for item in value)
        return indented(textwrap.wrap(words, WIDTH - 2, max_lines=20, placeholder=" ..."))
    return indented([text_of(item) for item in value[:MOST_ROWS]])


# --- figures ---------------------------------------------------------------------------------------------------------


def simple(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | np.generic) or (
        isinstance(value, Mapping) and is_piece(value)
    )  # fmt: skip


def is_piece(value: Any) -> bool:
    """Whether it is no more than a token: its id and how it is shown."""
    return isinstance(value, Mapping) and {"id", "shown"} >= set(value) and "shown" in value


def piece(value: Mapping[str, Any]) -> str:
    return str(value["shown"])


def text_of(value: Any) -> str:
    """A figure, a text or a small list in few characters."""
    if isinstance(value, Mapping):
        return piece(value) if "shown" in value else ", ".join(f"{k} {text_of(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(text_of(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float | np.floating):
        return number(float(value))
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def number(value: float) -> str:
    """Four significant digits.

    >>> [number(x) for x in (0.0, 1.0, 0.123456, 123456.0, 1.5e-7, float("nan"))]
    ['0', '1', '0.1235', '123,456', '1.5e-07', '-']
    """
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def clip(text: str, width: int = CELL) -> str:
    text = text.replace("\n", "¶")
    return text if len(text) <= width else text[: width - 1] + "…"


def indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


# --- tables ----------------------------------------------------------------------------------------------------------


def mapping(value: Mapping[str, Any]) -> list[str]:
    width = max((len(str(name)) for name in value), default=0)
    return [f"{name!s:<{width}}  {clip(text_of(item), WIDTH - width - 4)}" for name, item in value.items()]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dicts as rows: numbers to the right, texts to the left, long texts below their row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    long = [n for n in names if any(len(text_of(row.get(n, ""))) > 3 * CELL for row in rows)]
    names = [name for name in names if name not in long]
    cells = [[clip(text_of(row[n]) if n in row else "", 3 * CELL) for n in names] for row in rows[:MOST_ROWS]]
    right = [all(isinstance(row.get(n), int | float | type(None)) for row in rows) for n in names]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    while sum(widths) + 2 * len(widths) > WIDTH and max(widths) > CELL:  # the widest gives way
        widest = widths.index(max(widths))
        widths[widest] -= 1
    line = lambda row: "  ".join(  # noqa: E731
        clip(c, w).rjust(w) if r else clip(c, w).ljust(w) for c, w, r in zip(row, widths, right, strict=True)
    ).rstrip()
    lines = [line(names)] if names else []
    for row, source in zip(cells, rows, strict=False):
        lines += [line(row)] if names else []
        for name in long:
            said = text_of(source.get(name, ""))
            lines += textwrap.wrap(f"{name}: {said}", WIDTH - 6, initial_indent="    ", subsequent_indent="      ",
                                   max_lines=6, placeholder=" ...")  # fmt: skip
    return [*lines, *more(len(rows) - MOST_ROWS, "rows")]


def more(count: int, what: str) -> list[str]:
    return [f"... and {count:,} more {what} (all with --json)"] if count > 0 else []


# --- trees -----------------------------------------------------------------------------------------------------------


def branches(value: Any) -> bool:
    return isinstance(value, Mapping) and ("children" in value or {"left", "right"} <= set(value)) and "shown" in value


def tree(value: Mapping[str, Any]) -> list[str]:
    """A node a line, what is below it indented."""
    lines = [line for _, line in zip(range(MOST_TREE + 1), nodes(value, 1), strict=False)]
    return lines if len(lines) <= MOST_TREE else [*lines[:MOST_TREE], "  ... (all with --json)"]


def nodes(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    rest = {k: v for k, v in value.items() if k not in ("children", "left", "right", "shown") and v is not None}
    yield f"{'  ' * depth}{value['shown']}  {', '.join(f'{k} {text_of(v)}' for k, v in rest.items())}".rstrip()
    for below in [*(value.get("children") or ()), value.get("left"), value.get("right")]:
        if isinstance(below, Mapping):
            yield from nodes(below, depth + 1)


# --- arrays ----------------------------------------------------------------------------------------------------------


def label_field(axis: str, result: Any) -> str | None:
    """The field with the labels of an axis, where there is one of the right length for some array."""
    shapes = [zip(axes, result[name].shape, strict=True) for name, axes in result.arrays.items()]
    sizes = {size for shape in shapes for a, size in shape if a == axis}
    for name in LABELS.get(axis, ()):
        if isinstance(result.get(name), list) and (len(result[name]) in sizes or not sizes):
            return name
    return None


def labels_of(axis: str, size: int, result: Any) -> list[str]:
    """The labels of an axis of that size: its numbers where nothing else is known."""
    for name in LABELS.get(axis, ()):
        found = result.get(name)
        if isinstance(found, list) and len(found) == size:
            return [
                str(f.get("shown", f.get("name", i))) if isinstance(f, Mapping) else str(f) for i, f in enumerate(found)
            ]
    return [str(i) for i in range(size)]


def array(name: str, values: np.ndarray, result: Any) -> list[str]:
    """One grid; for more than two axes one for each place of the first ones."""
    axes = result.arrays[name]
    if values.ndim == 0:
        return [text_of(values.item())]
    labels = [labels_of(axis, size, result) for axis, size in zip(axes, values.shape, strict=True)]
    if values.ndim == 1:
        rows = [{axes[0]: label, name: value} for label, value in zip(labels[0], values.tolist(), strict=True)]
        return table(rows)
    places = list(product(*(range(size) for size in values.shape[:-2])))
    lines: list[str] = []
    for place in places[:MOST_GRIDS]:
        if place:
            lines += [
                "",
                ", ".join(f"{axis} {labels[i][at]}" for i, (axis, at) in enumerate(zip(axes, place, strict=False))),
            ]
        lines += grid(compactly(values[place]), labels[-2], labels[-1])
    return [*(lines[1:] if places and places[0] else lines), *more(len(places) - MOST_GRIDS, "grids")]


def compactly(values: np.ndarray) -> list[list[str]]:
    """Two decimals where that says something, else significant digits; a dot for what is 0 or was masked."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    plain = values.dtype.kind != "f" or 0.1 <= largest < 1000

    def cell(value: Any) -> str:
        if isinstance(value, float) and (not math.isfinite(value) or value == 0):
            return "·"
        return str(value) if not isinstance(value, float) else f"{value:.2f}" if plain else f"{value:.3g}"

    return [[cell(value) for value in row] for row in values.tolist()]


def grid(cells: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Cells below their columns' labels; as many columns as fit, in bands below each other."""
    cells, columns = [[clip(c, 10) for c in row] for row in cells], [clip(c, 8) for c in columns]
    beside = max((len(clip(row)) for row in rows), default=0)
    width = max((len(text) for text in [*columns, *(c for row in cells for c in row)]), default=1)
    fit = max(1, (WIDTH - 2 - beside) // (width + 1))
    lines: list[str] = []
    for first in range(0, len(columns), fit):
        upto = slice(first, first + fit)
        lines += [""] if first else []
        lines.append(" " * beside + "".join(f" {c:>{width}}" for c in columns[upto]))
        for label, row in list(zip(rows, cells, strict=True))[:MOST_ROWS]:
            lines.append(f"{clip(label):>{beside}}" + "".join(f" {c:>{width}}" for c in row[upto]))
        lines += more(len(rows) - MOST_ROWS, "rows")
        if first + fit >= 3 * fit and first + fit < len(columns):
            return [*lines, *more(len(columns) - first - fit, "columns")]
    return lines
