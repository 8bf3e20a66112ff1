"""A result as a picture by matplotlib: heat maps labelled by tokens, bars, points, lines. Dark on white.

One perceptually even scale for amounts (viridis, light for little), a diverging one with its middle at 0 where the
sign counts (RdBu).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.errors import IO_ERROR, UserError
from tinygpt.inspect.show import labels_of

INK, LINES = "#1f2328", ("#0b5cad", "#b3541e", "#2e7d4f", "#7a4fa3", "#946b00", "#00767a")
MOST_PANELS, MOST_LABELS, MOST_BARS = 64, 48, 60
NEEDED = "matplotlib is not installed here; pip install matplotlib"


def installed() -> bool:
    """Whether matplotlib is there; a machine that only trains can do without."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(result: Any, path: Path) -> None:
    """Draw a `Result` into a PNG file. UserError where it has nothing to draw, or the file cannot be written."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--png {path} must end with .png.")
    if not installed():
        raise UserError(f"{NEEDED}, or use --json.")
    save(figure_of(result), path)


def save(figure: Any, path: Path) -> None:
    """Write a figure. UserError (exit 74) if the file cannot be written."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a sign that the font lacks is drawn as a box
            figure.savefig(path, format="png", dpi=150, facecolor="white", bbox_inches="tight")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.", IO_ERROR) from None


def new_figure(width: float, height: float) -> Any:
    """An empty figure, without pyplot, which would keep it for ever and look for a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_of(result: Any) -> Any:
    """The picture that suits what is in the result: its arrays, else figures over steps, else its first table."""
    for drawn in (arrays, over_steps, bars):
        figure = drawn(result)
        if figure is not None:
            figure.suptitle(plain(f"{result.function}   {result.python}"), fontsize=9, color=INK, parse_math=False)
            return figure
    raise UserError(f"{result.function} has nothing to draw; leave out --png for text.")


def plain(text: str) -> str:
    """A text as matplotlib can draw it on one line; a dollar sign is no formula."""
    return text.replace("\n", "¶")[:140].replace("$", r"\$")


# --- arrays ----------------------------------------------------------------------------------------------------------


def arrays(result: Any) -> Any:
    """Points for a map, lines over steps, else every array as heat maps or bars, one below the other."""
    found = {name: result[name] for name in result.arrays if result[name].size and result[name].ndim >= 1}
    if not found:
        return None
    if "xy" in found:
        return points(result, found["xy"])
    figures = [panels(name, values, result) for name, values in found.items()]
    count = sum(len(p) for p in figures)
    columns = max(1, min(4, math.isqrt(count - 1) + 1)) if any(len(p) > 1 for p in figures) else 1
    rows = sum(-(-len(p) // columns) for p in figures)
    size = 3.2 if columns > 1 else 7.5
    figure = new_figure(size * columns, min(60.0, (3.0 if columns > 1 else 4.5) * rows))
    place = 0
    for group in figures:
        for title, values, axes, labels in group:
            place += 1
            one(figure.add_subplot(rows, columns, place), title, values, axes, labels)
        place = -(-place // columns) * columns  # the next array begins a row
    return figure


def panels(name: str, values: np.ndarray, result: Any) -> list[tuple[str, np.ndarray, Sequence[str], list[list[str]]]]:
    """(title, values, axes, labels) of each picture that an array takes."""
    axes = result.arrays[name]
    labels = [labels_of(axis, size, result) for axis, size in zip(axes, values.shape, strict=True)]
    if values.ndim <= 2:
        return [(name, values, axes, labels)]
    found = []
    for place in list(np.ndindex(values.shape[:-2]))[:MOST_PANELS]:
        where = ", ".join(f"{axis} {labels[i][at]}" for i, (axis, at) in enumerate(zip(axes, place, strict=False)))
        found.append((f"{name}: {where}", values[place], axes[-2:], labels[-2:]))
    return found


def one(axis: Any, title: str, values: np.ndarray, axes: Sequence[str], labels: list[list[str]]) -> None:
    """One array of one or two axes into one picture."""
    shown = values.astype(float)
    shown[~np.isfinite(shown)] = np.nan
    axis.set_title(plain(title), fontsize=9, color=INK)
    axis.tick_params(labelsize=7, colors=INK)
    if axes[0] == "step":
        x = [float(label) for label in labels[0]]
        curves = shown[:, None] if shown.ndim == 1 else shown
        for i, column in enumerate(curves.T):
            label = plain(labels[1][i]) if shown.ndim == 2 else title
            axis.plot(x, column, color=LINES[i % 6], ls=("-", "--", ":")[i // 6 % 3], lw=1.4, marker=".", label=label)
        logarithmic(axis, x, curves)
        if shown.ndim == 2:
            axis.legend(fontsize=7, frameon=False, ncols=2)
        axis.set_xlabel("step", fontsize=8, color=INK)
    elif shown.ndim == 1:
        horizontal(axis, labels[0], shown.tolist(), axes[0])
    else:
        signed = bool(np.nanmin(shown, initial=0.0) < 0 < np.nanmax(shown, initial=0.0))
        most = float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
        scale = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if signed else {"cmap": "viridis_r"}
        image = axis.imshow(shown, aspect="auto", interpolation="nearest", **scale)
        axis.figure.colorbar(image, ax=axis, fraction=0.046).ax.tick_params(labelsize=6)
        for ticks, names, turn in ((axis.set_xticks, labels[1], 90), (axis.set_yticks, labels[0], 0)):
            every = -(-len(names) // MOST_LABELS)
            ticks(range(0, len(names), every), [plain(n)[:12] for n in names[::every]], fontsize=6, rotation=turn)
        axis.set_xlabel(axes[1], fontsize=8, color=INK)
        axis.set_ylabel(axes[0], fontsize=8, color=INK)


def logarithmic(axis: Any, x: Sequence[float], curves: np.ndarray) -> None:
    """Log axes where steps, or values, go over more than a factor of thirty."""
    if len(x) > 2 and x[-1] > 30 * max(1.0, x[0]):
        axis.set_xscale("symlog", linthresh=1)
    finite = curves[np.isfinite(curves)]
    if finite.size and finite.min() > 0 and finite.max() > 30 * finite.min():
        axis.set_yscale("log")
    axis.grid(True, color="#d8dee4", lw=0.6)


def points(result: Any, xy: np.ndarray) -> Any:
    """A map of tokens: each its own text."""
    figure = new_figure(9, 8)
    axis = figure.add_subplot()
    axis.scatter(xy[:, 0], xy[:, 1], s=4, color=LINES[0], alpha=0.5)
    axis_name = result.arrays["xy"][0]
    for label, (x, y) in list(zip(labels_of(axis_name, len(xy), result), xy.tolist(), strict=True))[:400]:
        axis.annotate(plain(label), (x, y), fontsize=6, color=INK, xytext=(2, 2), textcoords="offset points")
    axis.tick_params(labelsize=7, colors=INK)
    return figure


# --- figures and tables ----------------------------------------------------------------------------------------------


def over_steps(result: Any) -> Any:
    """Lines: what a run recorded, or a number of each step."""
    if "records" in result:
        return curves([("", list(result["records"]))], result.get("marks", {}))
    if "curves" in result:
        return curves([(c["run"], recorded(c)) for c in result["curves"]], {})
    if "steps" not in result or "values" not in result:
        return None
    values = result["values"]
    named = values if values and isinstance(values[0], Mapping) else [{"value": v} for v in values]
    names = [
        n for n, v in (named[0] if named else {}).items() if isinstance(v, int | float) and not isinstance(v, bool)
    ]
    changing = [n for n in names if len({v[n] for v in named}) > 1] or names
    if not changing:
        return None
    figure = new_figure(8, 4.5)
    axis = figure.add_subplot()
    for i, name in enumerate(changing):
        axis.plot(result["steps"], [v[name] for v in named], marker=".", color=LINES[i % 6], label=name)
    logarithmic(axis, [float(s) for s in result["steps"]], np.empty(0))
    axis.legend(fontsize=8, frameon=False)
    axis.set_xlabel("step")
    return figure


def recorded(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A curve of `compare` as records."""
    train, val = curve["train"], curve["val"]
    losses = [{"kind": "train", "step": s, "loss": v} for s, v in zip(train["step"], train["loss"], strict=True)]
    return losses + [{"kind": "eval", "step": s, "val_bpb": v} for s, v in zip(val["step"], val["bpb"], strict=True)]


def curves(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], marks: Mapping[str, float]) -> Any:
    """Training loss [nats/token] above, validation [bits/byte] with what to hold it against below."""
    figure = new_figure(8, 6.5)
    above, below = figure.subplots(2, 1, sharex=True)
    for i, (name, records) in enumerate(runs):
        for axis, kind, field in ((above, "train", "loss"), (below, "eval", "val_bpb")):
            found = [(r["step"], r[field]) for r in records if r["kind"] == kind and r[field] is not None]
            if found:
                marker = "." if kind == "eval" or len(found) == 1 else ""
                axis.plot(
                    *zip(*found, strict=True), color=LINES[i % 6], lw=1.4, marker=marker, label=plain(name) or None
                )
    for name, value in marks.items():
        if name != "uniform":
            below.axhline(value, color="#57606a", lw=0.9, ls="--")
            below.annotate(f"{name} {value:.3f}", (0.995, value), xycoords=("axes fraction", "data"), ha="right",
                           va="bottom", fontsize=7, color="#57606a")  # fmt: skip
    above.set_ylabel("training loss [nats/token]", fontsize=8)
    below.set_ylabel("validation [bits/byte]", fontsize=8)
    below.set_xlabel("step", fontsize=8)
    for axis in (above, below):
        axis.grid(True, color="#d8dee4", lw=0.6)
        axis.tick_params(labelsize=7, colors=INK)
    if len(runs) > 1:
        above.legend(fontsize=8, frameon=False)
    return figure


def bars(result: Any) -> Any:
    """The first table with a text and a number in each row, as bars; the likeliest number is meant by its name."""
    wanted = ("probability", "value", "share", "nats", "score", "val_bpb", "bytes_per_token", "parameters", "product")
    for rows in result.values():
        if not (isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)):
            continue
        text = next((n for n in ("shown", "label", "name", "vocab_size", "step", "piece") if n in rows[0]), None)
        number = next((n for n in wanted if any(isinstance(row.get(n), int | float) for row in rows)), None)
        if text and number:
            figure = new_figure(7, max(2.0, 0.22 * min(len(rows), MOST_BARS) + 0.8))
            figures = [row[number] if isinstance(row.get(number), int | float) else math.nan for row in rows]
            horizontal(figure.add_subplot(), [str(row[text]) for row in rows], figures, number)
            return figure
    return None


def horizontal(axis: Any, labels: Sequence[str], values: Sequence[float], name: str) -> None:
    """Bars to the right, the first on top; negative ones in another colour."""
    labels, values = labels[:MOST_BARS], values[:MOST_BARS]
    colours = [LINES[1] if value < 0 else LINES[0] for value in values]
    axis.barh(range(len(values)), values, color=colours)
    axis.set_yticks(range(len(values)), [plain(label)[:24] for label in labels], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(name, fontsize=8, color=INK)
    axis.grid(True, axis="x", color="#d8dee4", lw=0.6)
