"""One page about one run, for keeping and for passing on: report.html, and loss.png beside it.

The page stands alone: one file, no script, nothing from the network, light and dark. Whatever comes from a text, a
model or a folder's name goes through `text`, so that none of it is ever markup. The figures are those of
tinygpt.inspect.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import tinygpt
import tinygpt.inspect as ti
from tinygpt.config import to_dict
from tinygpt.data import total_bytes
from tinygpt.display import compact, duration
from tinygpt.errors import IO_ERROR, UserError
from tinygpt.inspect import dynamics, png
from tinygpt.inspect.tokens import visible
from tinygpt.records import METRICS, read, verdict
from tinygpt.report import MEANING, opening
from tinygpt.runs import Run
from tinygpt.storage import write_atomic

PAGE, PICTURE = "report.html", "loss.png"
MOST_POINTS = 300  # of a line: more are averaged
MOST_SAMPLES, SAMPLE_CHARACTERS = 12, 1_500
PIECES_OF, PROMPT_TOKENS = 420, 16  # characters of text in pieces; tokens of the prompt whose attention is drawn
MOST_HEADS = 100
SHADES = 10  # of a pattern


# --- writing ---------------------------------------------------------------------------------------------------------


def write_report(run: Run, out: Path | None = None) -> list[str]:
    """Write the page, and the picture beside the run's own; what was written and what is missing, in sentences.

    With `out`, the page alone, there. UserError: exit 2 if that is a folder, exit 74 if it cannot be written.
    """
    if out is not None and out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / run.folder.name}.html.")
    target = out or run.folder / PAGE
    try:
        write_atomic(target, page(run).encode())
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}.", IO_ERROR) from None
    said = [f"Wrote {target}: a page about this run."]
    if out is None:
        if png.installed():
            picture = png.curves([("", read(run.folder / METRICS))], run.marks)
            png.save(picture, run.folder / PICTURE)
        else:
            said.append(f"{PICTURE} is left out: {png.NEEDED}.")
    return said


def write_at_end(run: Run) -> list[str]:
    """The same when a training ends: what goes wrong here is no error of the run, so it is only said."""
    try:
        return write_report(run)
    except Exception as error:
        return [f"Note: {PAGE} could not be written: {error}"]


# --- the page --------------------------------------------------------------------------------------------------------


def page(run: Run) -> str:
    """The whole page."""
    records = read(run.folder / METRICS)
    shades = "".join(f".a{i}{{fill:var(--accent);opacity:{((i + 0.5) / SHADES) ** 0.8:.2f}}}" for i in range(SHADES))
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8").replace("\n", "") + shades
    best = min((r for r in records if r["kind"] == "eval" and r["val_bpb"] is not None),
               key=lambda r: r["val_bpb"], default=None)  # fmt: skip
    name = text(run.folder.name)
    inside = model_sections(run)
    body = [
        f"<header><p class=over>tinygpt · one run</p><h1>{name}</h1><p class=lead>{lead(run)}</p></header>",
        tiles(run, records, best),
        section("What came out", judgement(run, records, best)),
        section("Learning", learning(run, records)),
        section("What it wrote while it trained", samples(run)),
        section("How the tokenizer cuts the text", tokenizer(run)),
        section("What its heads look at", inside),
        section("Every setting", settings(run)),
        f"<footer>tinygpt {text(tinygpt.__version__)} · {text(run.facts.get('created', ''))} · "
        f"<code>{text(run.facts.get('command', ''))}</code></footer>",
    ]
    head = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'><meta name=color-scheme content='light dark'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{name}: a run of tinygpt</title><style>{style}</style></head>"
    )
    return f"{head}<body><main>{''.join(body)}</main></body></html>\n"


def text(value: Any) -> str:
    """Anything as text of the page; what would be markup is shown as it stands."""
    return html.escape(str(value))


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def python(line: str) -> str:
    """The line that gives the figures above it again."""
    return f"<details><summary>Python</summary><pre>import tinygpt.inspect as ti\n{text(line)}</pre></details>"


def lead(run: Run) -> str:
    m = run.config.model
    shape = f"{m.n_layers} layers of {m.n_heads} heads, width {m.n_embd}, context {m.block_size} tokens"
    return f"Preset {text(run.config.preset)}: {shape}, vocabulary {m.vocab_size:,}."


def tiles(run: Run, records: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> str:
    """The figures that one wants first."""
    trained = [r for r in records if r["kind"] == "train"]
    steps, most = (trained[-1]["step"] if trained else 0), run.config.train.max_steps
    time_s = max((r["time_s"] for r in records if "time_s" in r), default=0.0)
    told = [
        ("bits per byte", f"{best['val_bpb']:.3f}" if best else "–",
         f"of unseen text, step {best['step']:,}" if best else "no validation text"),
        ("parameters", compact(run.facts.get("parameters") or 0), f"preset {run.config.preset}"),
        ("steps", f"{steps:,}", "all of them" if steps >= most else f"of {most:,}"),
        ("tokens read", compact(trained[-1]["tokens"] if trained else 0), f"{compact(len(run.train_ids))} in the text"),
        ("time", duration(time_s), str(run.facts.get("machine", "")).split(":")[0]),
    ]  # fmt: skip
    cells = [f"<div><dt>{text(n)}</dt><dd>{text(v)}</dd><small>{text(s)}</small></div>" for n, v, s in told]
    return f"<dl class=tiles>{''.join(cells)}</dl>"


def judgement(run: Run, records: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> str:
    """Sentences, and the ladder of simpler models as bars."""
    if best is None:
        return "<p>There was no validation text, so nobody can say how good it is on text it has not seen.</p>"
    evals = [r for r in records if r["kind"] == "eval"]
    said = "".join(f"<p>{text(s)}</p>" for s in verdict(evals, run.facts["baselines"], run.facts["floor"]))
    rows = [(bpb, name, MEANING.get(name, "")) for name, bpb in run.marks.items()] + [
        (best["val_bpb"], "this model", "")
    ]
    most = max(bpb for bpb, _, _ in rows)
    lines = [
        f"<tr{' class=own' if name == 'this model' else ''}><th scope=row>{text(name)}</th><td>{bpb:.3f}</td>"
        f"<td class=bar><i style='width:{100 * bpb / most:.1f}%'></i><span>{text(meaning)}</span></td></tr>"
        for bpb, name, meaning in sorted(rows, reverse=True)
    ]
    head = "<caption>Bits per byte of unseen text: lower is better</caption>"
    return f"{said}<table class=ladder>{head}<tbody>{''.join(lines)}</tbody></table>"


# --- curves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One curve of a chart."""

    name: str
    points: list[tuple[float, float]]
    colour: int = 0
    dots: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over steps, with lines across at the height of the marks and dots where something happened."""

    title: str
    unit: str
    lines: list[Line]
    marks: Mapping[str, float] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)  # step, what
    log: bool = False
    small: bool = False

    @property
    def width(self) -> int:
        return 420 if self.small else 860

    @property
    def height(self) -> int:
        return 190 if self.small else 260


def learning(run: Run, records: Sequence[Mapping[str, Any]]) -> str:
    """The curves of the training."""
    found = dynamics.curve(run)
    loss = Line("training text", pairs(found["train"], "bpb"))
    seen = Line("unseen text", pairs(found["val"], "bpb"), 1, dots=True)
    if not loss.points and not seen.points:
        return "<p>Nothing was recorded yet.</p>"
    health = dynamics.health(run)
    events = [(s["step"], f"{s['what']} at step {s['step']:,}") for s in health["spikes"]]
    trained = [r for r in records if r["kind"] == "train"]
    own = [
        [(r["step"], r[name]) for r in trained if r[name] is not None] for name in ("lr", "grad_norm", "tokens_per_s")
    ]
    shares = [
        [(s, float(v)) for s, v in zip(health["steps"], column, strict=True) if math.isfinite(v) and v > 0]
        for column in health["update_ratio"].T
    ]
    ratio = [  # attention and feed-forward of a block have one colour
        Line(layer, share, (i + 1) // 2, dashed=layer.endswith("feed-forward"))
        for i, (layer, share) in enumerate(zip(health["layers"], shares, strict=True))
    ]
    charts = [
        Chart("Learning rate", "", [Line("learning rate", own[0])], small=True),
        Chart("Norm of the gradient", "", [Line("gradient norm", own[1])], events=events, small=True),
        Chart("One update, as a share of the weights", "", ratio, log=True, small=True),
        Chart("Tokens a second", "", [Line("tokens a second", own[2])], small=True),
    ]
    below = "".join(figure(chart) for chart in charts if any(line.points for line in chart.lines))
    nats = math.log(2) * len_bytes(run)
    main = figure(Chart("Cost of the text", "bits per byte", [loss, seen], run.marks, events))
    return (
        f"{main}<p class=note>1 bit per byte is a loss of {nats:.2f} nats per token here. The training text is scored "
        f"while the model learns from it.</p><div class=pair>{below}</div>{python(f'ti.compare([{run_name(run)!r}])')}"
    )


def run_name(run: Run) -> str:
    return run.folder.as_posix()


def len_bytes(run: Run) -> float:
    """Bytes of a training token."""
    train = total_bytes(run.train_ids, run.tokenizer.n_bytes())
    return train / len(run.train_ids)


def pairs(columns: Mapping[str, list[Any]], name: str) -> list[tuple[float, float]]:
    return [(s, v) for s, v in zip(columns["step"], columns[name], strict=True) if v is not None and math.isfinite(v)]


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS, each the mean of its neighbours."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), max(1, size))]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def figure(chart: Chart) -> str:
    """A chart as inline SVG with its legend and, for those who do not see it, its ends in words."""
    lines = [replace(line, points=thinned(line.points)) for line in chart.lines if line.points]
    legend = "".join(
        f"<li><i class='c{line.colour % 8}{' dash' * line.dashed}'></i>{text(line.name)}</li>" for line in lines
    )
    several = f"<ul class=legend>{legend}</ul>" if len(lines) > 1 else ""
    said = "; ".join(
        f"{line.name}: {short(line.points[0][1])} at step {line.points[0][0]:,}, {short(line.points[-1][1])} at step "
        f"{line.points[-1][0]:,}" for line in lines
    )  # fmt: skip
    unit = f" <small>{text(chart.unit)}</small>" if chart.unit else ""
    return (
        f"<figure><figcaption>{text(chart.title)}{unit}</figcaption>{several}<div class=scroll>"
        f"<svg viewBox='0 0 {chart.width} {chart.height}' role=img aria-label='{text(said)}'"
        f" style='min-width:{min(520, chart.width)}px'>{drawing(chart, lines)}</svg></div></figure>"
    )


def drawing(chart: Chart, lines: Sequence[Line]) -> str:
    """Grid, marks, curves and events."""
    left, right, top, bottom = 54, 12 + 74 * bool(chart.marks), 10, 26
    width, height = chart.width - left - right, chart.height - top - bottom
    ys = [y for line in lines for _, y in line.points]
    last = max(x for line in lines for x, _ in line.points) or 1
    shape = (lambda v: math.log10(v)) if chart.log else (lambda v: v)
    reach = max(ys)
    marks = {name: bpb for name, bpb in chart.marks.items() if bpb <= reach * 1.02}
    low, high = (shape(min(ys)), shape(reach)) if chart.log else (0.0, reach)
    low, high = (low - 0.1, high + 0.1) if chart.log or high == low else (low, high * 1.04)
    x_of = lambda x: left + width * x / last  # noqa: E731
    y_of = lambda y: top + height * (high - shape(y)) / (high - low)  # noqa: E731
    across = lambda kind, y: f"<path class={kind} d='M{left} {y:.1f}h{width}'/>"  # noqa: E731
    parts: list[str] = []
    for y in ticks(low, high, chart.log):
        parts.append(across("g", y_of(y)) + f"<text class=y x={left - 6} y={y_of(y) + 4:.1f}>{short(y)}</text>")
    for x in ticks(0, last):
        parts.append(f"<text class=x x={x_of(x):.1f} y={chart.height - 8}>{short(x)}</text>")
    places: list[float] = []
    for name, bpb in sorted(marks.items(), key=lambda item: -item[1]):
        at = max(y_of(bpb) + 4, places[-1] + 13 if places else 0)  # labels that would cover each other move down
        places.append(at)
        label = f"<text class=t x={left + width + 6} y={at:.1f}>{text(name)} {bpb:.2f}</text>"
        parts.append(across("m", y_of(bpb)) + label)
    for line in lines:
        drawn = [(x_of(x), y_of(y)) for x, y in line.points]
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn)
        parts.append(f"<path class='l s{line.colour % 8}{' dash' * line.dashed}' d='{d}'/>")
        if line.dots or len(drawn) == 1:
            parts += [f"<circle class=s{line.colour % 8} cx={x:.1f} cy={y:.1f} r=3.5 />" for x, y in drawn]
    for step, what in chart.events:
        parts.append(
            f"<path class=e d='M{x_of(min(step, last)):.1f} {top}v{height}'><title>{text(what)}</title></path>"
        )
    return "".join(parts)


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Four or five round numbers between them; `log`: powers of ten, low and high being their logarithms."""
    if log:
        found = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
        return found if len(found) > 1 else [10**low * 1.26, 10 ** ((low + high) / 2), 10**high / 1.26]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A figure on an axis."""
    return compact(value) if abs(value) >= 10_000 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# --- texts -----------------------------------------------------------------------------------------------------------


def samples(run: Run) -> str:
    """What the model wrote by step, some of many."""
    drawn = dynamics.records(run)["samples"]
    if not drawn:
        return ""
    chosen = sorted({round(i * (len(drawn) - 1) / (MOST_SAMPLES - 1)) for i in range(MOST_SAMPLES)})
    items = []
    for one in (drawn[i] for i in chosen):
        flags = [(name, one[name]) for name in ("grammatical", "consistent", "new") if name in one]
        badges = "".join(f"<b class={'yes' if v else 'no'}>{'' if v else 'not '}{n}</b>" for n, v in flags)
        written = text(one["prompt"] + one["text"][:SAMPLE_CHARACTERS])
        items.append(f"<li><h3>step {one['step']:,} {badges}</h3><blockquote>{written}</blockquote></li>")
    return f"<ol class=samples>{''.join(items)}</ol>"


def tokenizer(run: Run) -> str:
    """A piece of unseen text, or else of training text, in pieces."""
    ids = run.val_ids if len(run.val_ids) > 1 else run.train_ids
    some = run.tokenizer.decode(ids[1:400].tolist())[:PIECES_OF]
    found = run.tokenizer.explain(some)
    spans = "".join(
        f"<span class=p{i % 4} title='{p.id}'>{text(visible(p.data))}</span><wbr>" for i, p in enumerate(found)
    )
    n_bytes = sum(len(p.data) for p in found)
    told = f"{len(found):,} pieces for {n_bytes:,} bytes: {n_bytes / max(1, len(found)):.2f} bytes each."
    return f"<p>{told} · is a space, ¶ a new line.</p><p class=pieces>{spans}</p>"


# --- the model -------------------------------------------------------------------------------------------------------


def model_sections(run: Run) -> str:
    """The patterns of all heads on the opening of the unseen text; a sentence if there are no weights to look at."""
    try:
        m = ti.load(run.folder.as_posix())
    except UserError as error:
        return f"<p>{text(error)}</p>"
    prompt = opening(run, 40)
    while len(m.tokenizer.encode(prompt)) > min(PROMPT_TOKENS, m.config.block_size):
        prompt = prompt.rpartition(" ")[0] or prompt[: len(prompt) // 2]  # one endless word
    result = ti.attention(m, prompt)
    pattern, pieces = np.asarray(result["pattern"]), [str(piece["shown"]) for piece in result["tokens"]]
    layers, heads = pattern.shape[:2]
    sharpest = max(np.ndindex(layers, heads), key=lambda at: sharpness(pattern[at]))
    rows = []
    for layer in range(min(layers, max(1, MOST_HEADS // heads))):
        drawn = "".join(
            f"<figure><svg viewBox='0 0 {len(pieces)} {len(pieces)}' role=img aria-label='layer {layer}, head {head}: "
            f"{text(looks_at(pattern[layer, head], pieces))}'>{squares(pattern[layer, head])}</svg>"
            f"<figcaption>head {head}</figcaption></figure>"
            for head in range(heads)
        )
        rows.append(f"<div class=layer><h3>layer {layer}</h3><div class=heads>{drawn}</div></div>")
    layer, head = sharpest
    return (
        f"<p>For each token (a row), how much of its attention goes to itself and to those before it (columns); the "
        f"prompt is <q>{text(prompt)}</q>. Step {m.step:,}.</p><div class=scroll>{''.join(rows)}</div>"
        f"<p class=note>The sharpest of them, layer {layer}, head {head}, by its tokens:</p>"
        f"<div class=scroll>{labelled(pattern[sharpest], pieces)}</div>{python(result.python)}"
    )


def sharpness(pattern: np.ndarray) -> float:
    """Mean of each row's largest share, the first two rows left out, which have little choice."""
    return float(pattern[2:].max(axis=1).mean()) if len(pattern) > 2 else 0.0


def looks_at(pattern: np.ndarray, pieces: Sequence[str]) -> str:
    """The strongest look of a head in words."""
    if len(pattern) < 2:
        return "one token alone"
    query, key = divmod(int(pattern[1:].argmax()), len(pattern))  # the first row has no choice
    return f"strongest from {pieces[query + 1]} to {pieces[key]}, {pattern[query + 1, key]:.2f}"


def squares(pattern: np.ndarray, size: int = 1, left: int = 0, top: int = 0) -> str:
    """The lower triangle in shades: one path for each shade, which keeps the page small."""
    shade = np.minimum((pattern * SHADES).astype(int), SHADES - 1)
    parts = [f"<path class=w d='{triangle(len(pattern), size, left, top)}'/>"]
    for level in range(SHADES):
        cells = [(q, k) for q, k in zip(*np.nonzero(shade == level), strict=True) if k <= q and pattern[q, k] > 0.02]
        if cells:
            d = "".join(f"M{left + k * size} {top + q * size}h{size}v{size}h-{size}z" for q, k in cells)
            parts.append(f"<path class=a{level} d='{d}'/>")
    return "".join(parts)


def triangle(n: int, size: int, left: int, top: int) -> str:
    """The places that a token can see at all."""
    return "".join(f"M{left} {top + q * size}h{(q + 1) * size}v{size}h-{(q + 1) * size}z" for q in range(n))


def labelled(pattern: np.ndarray, pieces: Sequence[str]) -> str:
    """One pattern with its tokens at the sides."""
    size, left, n = 26, 92, len(pieces)
    top = left
    parts = [squares(pattern, size, left, top)]
    for i, piece in enumerate(pieces):
        word = text(piece[:12])
        middle = i * size + size // 2
        parts.append(f"<text class=y x={left - 6} y={top + middle + 4}>{word}</text>")
        parts.append(f"<text class=v transform='translate({left + middle + 4},{top - 6}) rotate(-90)'>{word}</text>")
        for k in range(i + 1):
            if pattern[i, k] >= 0.1:
                dark = " class=on" if pattern[i, k] >= 0.5 else ""
                parts.append(
                    f"<text{dark} text-anchor=middle font-size=9 x={left + k * size + size // 2} y={top + middle + 3}>"
                    f"{100 * pattern[i, k]:.0f}</text>"
                )
    side = left + n * size + 8
    head = f"<svg class=big viewBox='0 0 {side} {side}' style='width:{side}px' role=img aria-label='shares in percent'>"
    return f"{head}{''.join(parts)}</svg>"


# --- settings --------------------------------------------------------------------------------------------------------


def settings(run: Run) -> str:
    """All settings by section, why the planner chose them, the text and the versions."""
    stored = to_dict(run.config)
    blocks = [(name, stored[name]) for name in ("model", "train", "data")]
    about = {name: part.get("bytes") for name, part in run.corpus.items() if isinstance(part, dict) and "bytes" in part}
    sources = {s["name"]: f"{s['bytes']:,} bytes, sha256 {s['sha256'][:12]}…" for s in run.corpus.get("sources", ())}
    blocks += [("text [bytes]", about), ("sources", sources), ("versions", run.facts.get("versions", {}))]
    tables = "".join(
        f"<details{' open' if i == 0 else ''}><summary>{text(title)}</summary><table class=kv><tbody>"
        + "".join(f"<tr><th scope=row>{text(n)}</th><td>{text(plain(v))}</td></tr>" for n, v in values.items())
        + "</tbody></table></details>"
        for i, (title, values) in enumerate(blocks) if values
    )  # fmt: skip
    why = "".join(f"<li>{text(reason)}</li>" for reason in run.facts.get("reasons", ()))
    return tables + (f"<details><summary>why</summary><ul>{why}</ul></details>" if why else "")


def plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)
