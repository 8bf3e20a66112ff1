"""What a person sees while a run trains: a live panel on a terminal, plain lines everywhere else. No torch, no threads.

safe_text, duration, compact     text and numbers fit for a terminal
time_left, Eta                   how long it will still take
sparkline, chart                 a curve in characters
Display                          sentences only (--quiet); PlainDisplay adds a line per record, LiveDisplay a panel
make_display                     picks one of the three
"""

from __future__ import annotations

import math
import os
import re
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Record = Mapping[str, Any]
Clock = Callable[[], float]

# C0 and C1 controls but newline and tab, line separators, direction overrides, lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ASCII = str.maketrans("─│└┤┄•◀·…✓▶━▁▂▃▄▅▆▇█", "-|`+-o<-.+>=..--==##")


def safe_text(text: str, *, lines: bool = True) -> str:
    """`text` with everything that could drive a terminal as a visible escape: ESC becomes the four characters \\x1b.

    lines=False escapes newline and tab too, for names and prompts that must stay on one line.
    """
    text = _UNSAFE.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\xff" else f"\\u{ord(match[0]):04x}", text
    )
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def encodable(text: str, encoding: str | None) -> str:
    """`text` as a stream with this encoding can show it: drawing characters become ASCII, unknown ones '?'."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def duration(seconds: float) -> str:
    """'48 s', '2 min 5 s', '1 h 03 min'."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def compact(number: float) -> str:
    """Three digits or so: '950', '12.3k', '1.24M'."""
    if number < 999.5:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f}k" if number < 999_950 else f"{number / 1e6:.2f}M"


def time_left(readings: Sequence[tuple[int, float]], max_steps: int, recent: int = 20) -> float | None:
    """Seconds until `max_steps`; None before the second reading.

        left = steps left * (seconds / steps over all readings) * (median recent step time / median step time)

    readings: (step, clock [s]) in order. The overall rate carries the pauses for evaluating and saving at their true
    share, and the quotient of medians follows a machine that got slower, without being moved by a single hiccup. What
    came before the first reading (compilation, first touch of memory) is not counted.
    """
    pairs = list(pairwise(readings))
    if not pairs:
        return None
    rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
    overall = (readings[-1][1] - readings[0][1]) / (readings[-1][0] - readings[0][0])
    usual = median(rates)
    drift = median(rates[-recent:]) / usual if usual > 0 else 1.0
    return max(0, max_steps - readings[-1][0]) * overall * drift


class Eta:
    """Clock readings of step completions, and the time left that follows; a step that goes back starts it anew."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, float]] = deque(maxlen=500)

    def add(self, step: int, now_s: float) -> None:
        if self._readings and step < self._readings[-1][0]:
            self._readings.clear()
        if not self._readings or step > self._readings[-1][0]:
            self._readings.append((step, now_s))

    def left_s(self, max_steps: int) -> float | None:
        return time_left(list(self._readings), max_steps)


def sparkline(values: Sequence[float], width: int) -> str:
    """Finite `values` as at most `width` block characters, lowest to highest; neighbours are averaged."""
    count = min(width, len(values))
    if count <= 0:
        return ""
    edges = [i * len(values) // count for i in range(count + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (mean - low) / span)) if span > 0 else 0] for mean in means)


def chart(points: Sequence[tuple[float, float]], width: int, height: int, marks: Mapping[str, float]) -> str:
    """A line chart of (step, bits per byte) with a dashed line per mark, `width` columns by `height` rows at most.

    All marks below the curve are drawn, and of those above its highest point the nearest only, so that the curve
    keeps its room. The smallest size is 36 by 5. Points and marks that are not finite are left out.
    """
    points = sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))
    if not points:
        return "no evaluation to draw yet"
    top = max(y for _, y in points)
    above = min((y for y in marks.values() if math.isfinite(y) and y > top), default=top)
    shown = {safe_text(name, lines=False)[:10]: y for name, y in marks.items() if math.isfinite(y) and y <= above}
    high = max(above, top)
    low = min([*shown.values(), *(y for _, y in points)])
    if high == low:
        high, low = high + 0.5, low - 0.5
    columns, rows = max(36, width) - 7 - 18, max(5, height) - 2  # 7: scale at the left, 18: labels at the right

    def row_of(y: float) -> int:
        return round((high - y) / (high - low) * (rows - 1))

    labels: dict[int, list[str]] = {row_of(points[-1][1]): [f"◀ {points[-1][1]:.2f}"]}
    grid = [[" "] * columns for _ in range(rows)]
    for name, y in sorted(shown.items(), key=lambda item: -item[1]):
        grid[row_of(y)] = ["┄"] * columns
        labels.setdefault(row_of(y), []).append(f"{name} {y:.2f}")
    heights = [row_of(y) for y in _interpolate(points, columns)]
    for column, (before, row) in enumerate(pairwise([heights[0], *heights])):
        for between in range(min(row, before) + 1, max(row, before)):
            grid[between][column] = "│"
        grid[row][column] = "•"
    lines = []
    for row, cells in enumerate(grid):
        scale = {0: f"{high:.2f}", rows - 1: f"{low:.2f}"}.get(row, "")
        label = ", ".join(labels.get(row, []))[:17]
        lines.append(f"{scale:>5} {'┤' if scale else '│'}{''.join(cells)} {label}".rstrip())
    first, last = f"{points[0][0]:,.0f}", f"{points[-1][0]:,.0f} steps"
    return "\n".join([*lines, f"{'':5} └{'─' * columns}", f"{'':7}{first}{last:>{max(0, columns - len(first))}}"])


def _interpolate(points: Sequence[tuple[float, float]], columns: int) -> list[float]:
    """The curve's height at `columns` equal distances from the first point to the last; one point gives one height."""
    start, span = points[0][0], points[-1][0] - points[0][0]
    if span == 0:
        return [points[-1][1]]
    heights, at = [], 0
    for column in range(columns):
        x = start + span * column / (columns - 1)
        while at < len(points) - 2 and points[at + 1][0] < x:
            at += 1
        (x0, y0), (x1, y1) = points[at], points[at + 1]
        heights.append(y0 + (y1 - y0) * (min(x, x1) - x0) / (x1 - x0) if x1 > x0 else y1)
    return heights


# ---- displays --------------------------------------------------------------------------------------------------


def _finite(record: Record, name: str) -> float | None:
    value = record.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _figure(value: float | None) -> str:
    return f"{value:5.3f}" if value is not None else "  nan"


def _rate(lr: float) -> str:
    return f"{lr:.5f}" if lr >= 1e-4 or lr == 0 else f"{lr:.1e}"  # 7 characters either way


def _title(record: Record) -> str:
    prompt = safe_text(str(record.get("prompt") or ""), lines=False)
    shown = prompt if len(prompt) <= 40 else prompt[:39] + "…"
    return f"sample at step {record['step']:,}" + (f', prompt "{shown}"' if shown else "")


class Display:
    """Sentences only: what `--quiet` shows, and what the other displays share.

    Every method may be called at any time and never stops the training: when the terminal goes away (OSError), the
    display falls silent; the logs have it all. Use it as a context manager, so that a Ctrl-C leaves a clean terminal.
    """

    def __init__(self, stream: IO[str], clock: Clock = time.monotonic) -> None:
        self._stream, self._clock, self._gone = stream, clock, False
        self._reset("", 0, {})

    def start(
        self, run_name: str, max_steps: int, baselines: Mapping[str, float], history: Iterable[Record] = ()
    ) -> None:
        """Begin. baselines: bits per byte by name. history: earlier records of a resumed run, for curves and bests."""
        self._reset(run_name, max_steps, baselines)
        for record in history:
            self._keep(str(record.get("kind", "sample")), record)
        self._open()

    def _reset(self, run_name: str, max_steps: int, baselines: Mapping[str, float]) -> None:
        self._name, self._max_steps = safe_text(run_name, lines=False), max_steps
        self._baselines = {safe_text(name, lines=False): value for name, value in baselines.items()}
        self._began_s, self._eta, self._step = self._clock(), Eta(), 0
        self._last: dict[str, Record] = {}
        self._losses: list[float] = []
        self._vals: list[float] = []
        self._best: tuple[float, int] | None = None

    def _keep(self, kind: str, record: Record) -> None:
        self._last[kind] = record
        if kind == "train":
            self._step = int(record["step"])
            if (loss := _finite(record, "loss")) is not None:
                self._losses.append(loss)
        if kind == "eval" and (val := _finite(record, "val_bpb")) is not None:
            self._vals.append(val)
            if self._best is None or val < self._best[0]:
                self._best = (val, int(record["step"]))

    def say(self, text: str) -> None:
        """A plain sentence."""
        self._print(safe_text(text))

    def train(self, record: Record) -> None:
        """A train record: loss, learning rate, speed."""
        self._keep("train", record)
        self._eta.add(self._step, self._clock())
        self._show("train", record)

    def eval(self, record: Record) -> None:
        """An eval record: bits per byte on unseen text."""
        self._keep("eval", record)
        self._show("eval", record)

    def sample(self, record: Record) -> None:
        """A text that the model wrote."""
        self._keep("sample", record)
        self._show("sample", record)

    def stop(self) -> None:
        """End; a second call does nothing."""

    def _open(self) -> None:
        pass

    def _show(self, kind: str, record: Record) -> None:
        pass

    def _print(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(encodable(text + "\n", getattr(self._stream, "encoding", None)))
            self._stream.flush()
        except OSError:
            self._gone = True

    def _times(self) -> tuple[str, str]:
        left_s = self._eta.left_s(self._max_steps)
        left = "time left: measuring" if left_s is None else f"{duration(left_s)} left"
        return f"{duration(self._clock() - self._began_s)} so far", "done" if self._step >= self._max_steps else left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class PlainDisplay(Display):
    """One line per record, for pipes, CI and notebooks."""

    def _open(self) -> None:
        self._print(f"Training {self._name} for {self._max_steps:,} steps. Lower is better, for both figures:")
        self._print("  loss  surprise per token of the training text (nats)")
        self._print("  val   cost of unseen text, in bits per byte" + ("; to compare:" if self._baselines else ""))
        for name, value in sorted(self._baselines.items(), key=lambda item: -item[1]):
            self._print(f"          {name:<8} {value:.3f}")

    def _show(self, kind: str, record: Record) -> None:
        total = f"{self._max_steps:,}"
        parts = [f"  step {record['step']:>{len(total)},}/{total}"]
        if kind == "train":
            parts.append(f"loss {_figure(_finite(record, 'loss'))}")
            if (lr := _finite(record, "lr")) is not None:
                parts.append(f"lr {_rate(lr)}")
            if (speed := _finite(record, "tokens_per_s")) is not None:
                parts.append(f"{compact(speed):>5} tokens/s")
            parts += self._times()
        elif kind == "eval":
            best = f"(best {self._best[0]:.3f} at step {self._best[1]:,})" if self._best else "(not a number)"
            best = "(best)" if record.get("best") else best
            parts.append(f"val  {_figure(_finite(record, 'val_bpb'))} bits/byte {best}")
            if (train := _finite(record, "train_bpb")) is not None:
                parts.append(f"train {train:.3f}")
        else:
            self._print(f"  --- {_title(record)} ".ljust(79, "-"))
            for line in safe_text(str(record["text"])).expandtabs(4).split("\n"):
                for piece in textwrap.wrap(line, 68, replace_whitespace=False) or [""]:
                    self._print(("      " + piece).rstrip())
            return
        self._print("   ".join(parts))


class LiveDisplay(Display):
    """A panel that is drawn in place; sentences scroll above it. Needs a UTF-8 terminal.

    Nothing runs beside the training: a record draws the panel, at most `PER_SECOND` times a second by `clock`.
    """

    PER_SECOND = 8
    MAX_WIDTH = 100  # longer lines of prose are hard to read
    SAMPLE_LINES = 8

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        from rich.live import Live

        super().__init__(console.file, clock)
        self._console, self._drawn_s = console, -math.inf
        self._live = Live(
            console=console,
            auto_refresh=False,
            get_renderable=self._frame,
            redirect_stdout=sys.stdout.isatty(),  # prints scroll above the panel; a pipe or a file keeps its own
            redirect_stderr=sys.stderr.isatty(),
        )

    def _open(self) -> None:
        self._guard(lambda: self._live.start(refresh=True))

    def stop(self) -> None:
        try:
            self._live.stop()  # also when the terminal is gone: it gives sys.stdout back
        except OSError:
            self._gone = True

    def _print(self, text: str) -> None:
        from rich.text import Text

        self._guard(lambda: self._console.print(Text(text)))

    def _show(self, kind: str, record: Record) -> None:
        now_s = self._clock()
        if now_s - self._drawn_s >= 1 / self.PER_SECOND:
            self._drawn_s = now_s
            self._guard(self._live.refresh)

    def _guard(self, action: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            action()
        except OSError:
            self._gone = True

    def _frame(self) -> RenderableType:
        """The panel for the terminal as it is now; blank lines, then the sample, give way on a small one."""
        from rich import box
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        width = min(self._console.width, self.MAX_WIDTH)
        inner, rows = width - 4, self._console.height - 3  # frame and padding; frame and the cursor's line
        blocks = [self._progress(inner, rows), self._curves(inner), self._ladder(inner, rows)]
        blocks = [block for block in blocks if block]
        spare = rows - sum(map(len, blocks))
        sample = self._sample(inner, min(self.SAMPLE_LINES, spare - 1)) if spare >= 2 else []
        if sample:
            blocks.append(sample)
        room = rows - sum(map(len, blocks))
        lines: list[Text] = []
        for number, block in enumerate(blocks):
            lines += ([Text("")] if number and room >= len(blocks) - 1 else []) + block
        title = Text(f"tinygpt · {self._name}", style="bold", overflow="ellipsis", no_wrap=True)
        return Panel(Group(*lines[: max(1, rows)]), title=title, title_align="left", box=box.ROUNDED, width=width)

    def _progress(self, inner: int, rows: int) -> list[Text]:
        from rich.text import Text

        share = min(1.0, self._step / max(1, self._max_steps))
        percent = f" {int(100 * share):3d} %"
        filled = int(share * (inner - len(percent)))
        bar = Text.assemble(("━" * filled, "green"), ("─" * (inner - len(percent) - filled), "dim"), (percent, "bold"))
        elapsed, left = self._times()
        train = self._last.get("train", {})
        parts = [f"step {self._step:,} of {self._max_steps:,}", elapsed, left]
        if (speed := _finite(train, "tokens_per_s")) is not None:
            parts.append(f"{compact(speed)} tokens/s")
        if rows > 12 and (lr := _finite(train, "lr")) is not None:
            parts.append(f"lr {_rate(lr)}")
        return [bar, *_flow([Text(part) for part in parts], inner)]

    def _curves(self, inner: int) -> list[Text]:
        """Two rows, loss and val: now, best, curve, and what the figure is if there is room for that."""
        from rich.text import Text

        best_loss = min(self._losses, default=None)
        best_val = self._best[0] if self._best else None
        rows = []
        for name, kind, key, best, values, meaning in (
            ("loss", "train", "loss", best_loss, self._losses, "nats per token, training text"),
            ("val ", "eval", "val_bpb", best_val, self._vals, "bits per byte, unseen text"),
        ):
            row = Text(f"{name} ", no_wrap=True)
            if kind not in self._last:
                rows.append(row.append("  waiting for the first figure", "dim"))
                continue
            now = _finite(self._last[kind], key)
            row.append(_figure(now), "bold cyan" if now is not None else "bold red")
            row.append(f"  best {_figure(best)}  ")
            room = inner - row.cell_len
            legend = room >= len(meaning) + 14
            row.append(sparkline(values, room - len(meaning) - 2 if legend else room), "cyan")
            if legend:
                row.append(" " * (inner - row.cell_len - len(meaning)) + meaning, "dim")
            rows.append(row)
        return rows

    def _ladder(self, inner: int, rows: int) -> list[Text]:
        """The baselines from easy to hard, with an arrow where the run stands."""
        from rich.text import Text

        now = _finite(self._last.get("eval", {}), "val_bpb")
        rungs = [
            (value, Text(f"{'✓ ' if now is not None and now < value else ''}{name} {value:.2f}"))
            for name, value in self._baselines.items()
        ]
        if now is not None and rungs:
            rungs.append((now, Text(f"▶ this run {now:.2f}", style="bold cyan")))
        rungs.sort(key=lambda rung: -rung[0])
        heading = "val on its way down (✓ already beaten)"
        return ([Text(heading, "dim")] if rungs and rows > 18 else []) + _flow([text for _, text in rungs], inner)

    def _sample(self, inner: int, count: int) -> list[Text]:
        from rich.text import Text

        if "sample" not in self._last:
            return []
        record = self._last["sample"]
        title = Text(_title(record), style="bold", no_wrap=True, overflow="ellipsis")
        text = Text(safe_text(str(record["text"])).strip("\n"), style="italic")
        lines = list(text.wrap(self._console, inner - 4, overflow="fold", tab_size=4))
        if len(lines) > count:
            lines = lines[:count]
            lines[-1].rstrip()
            lines[-1].append(" …")
        return [title, *(Text("  ").append_text(line) for line in lines)]


def _flow(parts: Sequence[Text], inner: int) -> list[Text]:
    """`parts` joined by dots, broken between parts where a line is full."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= inner:
            lines[-1].append(" · ", "dim").append_text(part)
        else:
            lines.append(part.copy())
    return lines


def make_display(
    stream: IO[str], *, terminal: bool | None = None, quiet: bool = False, clock: Clock = time.monotonic
) -> Display:
    """A panel on a real UTF-8 terminal, else plain lines; only sentences if `quiet`. `terminal` overrules the guess."""
    if quiet:
        return Display(stream, clock)
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
    if terminal is None:
        terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if not terminal or encoding not in ("utf8", "utf8sig"):
        return PlainDisplay(stream, clock)
    from rich.console import Console

    console = Console(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)
    return LiveDisplay(console, clock)
