"""The studio in a real browser: how soon a page is drawn after a key, and pictures of all pages.

    python -m benchmarks.pages --row keystroke
    python -m benchmarks.pages --screenshots docs/studio [--runs FOLDER]

keystroke     A model of 10 million parameters, with the weights of one training step, and a prompt of about 128 tokens.
              --keys keys are typed into the prompt of each page, each when the one before has been drawn and a moment
              has passed; after every tenth the typing rests, so that what stands lower on the page is asked for, too.
              Measured in the page: from the input event to the frame after everything in the pane has been drawn.
screenshots   Pages of FOLDER's runs `stories` and `recited`, or of such runs that are trained now (8 minutes), at 1280
              and 360 px, light and dark, as small PNGs.

Needs Chromium (TINYGPT_BROWSER, or on the path) and `pip install playwright`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks import contenders
from benchmarks.browser import browser_path, chromium
from benchmarks.common import (
    BenchmarkError,
    add_timeout,
    cores,
    figures,
    parser,
    plain_errors,
    positive,
    record,
    report,
    say,
)
from benchmarks.reliability.studio import StudioServer, studio

SHAPE = ["n_embd=320", "n_heads=5", "n_layers=6", "block_size=256", "vocab_size=4096"]  # 10 million
PROMPT_TOKENS = 128
PAGES = {"Attention": "attention", "Lens": "lens", "Forward pass": "forward", "Generate": "generate"}
PAUSE_MS, REST_MS, REST_EVERY = 150, 700, 10
DRAWN_MS = 20_000  # nothing takes as long
COMMON_COLOURS = 128  # of 256 in a picture

# One value for each key, once it has been drawn: from the event to the frame that shows it.
CLOCK = """() => {
  window.times = [];
  let pressed = null;
  addEventListener("input", (event) => { pressed ??= event.timeStamp; }, true);
  addEventListener("drawn", (event) => {
    if (pressed === null || event.detail !== "pane") return;
    const from = pressed;
    pressed = null;
    requestAnimationFrame(() => requestAnimationFrame((now) => window.times.push(now - from)));
  });
}"""


@contextlib.contextmanager
def opened(folder: Path, runs: Path | None = None) -> Iterator[tuple[StudioServer, Any]]:
    """A studio over folder/runs, or `runs`, with all cores, and a browser."""
    path = browser_path()
    if path is None:
        raise BenchmarkError("there is no Chromium; install one, or set TINYGPT_BROWSER to its path.")
    if importlib.util.find_spec("playwright") is None:
        raise BenchmarkError("pip install playwright: it drives the browser.")
    with studio(folder, runs=runs, threads=cores()) as server, chromium(path) as browser:
        yield server, browser


# --- from a key to the picture ---------------------------------------------------------------------------------------


def keystrokes(keys: int, timeout_s: float, history: Path) -> None:
    """Type on four pages, and report p50 and p95 of each and of all."""
    from tinygpt import runs

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = contenders.default_text(folder, timeout_s, 4)
        setting = contenders.Setting(folder, text, {"device": "cpu", "threads": None}, SHAPE, "modern", timeout_s)
        say("one step of training: 10 million parameters ...")
        contenders.train_tinygpt(setting, folder / "made", "modern", ["--steps", "1"], SHAPE)
        run, model, *_ = runs.load(str(contenders.run_folder(folder / "made")))
        tokenizer = run.tokenizer
        tale = text.read_text()
        prompt = tokenizer.decode(tokenizer.encode(tale)[: PROMPT_TOKENS - keys // 8])  # the middle key makes it 128
        typed = tale[len(prompt) : len(prompt) + keys].replace("\n", " ")
        values: dict[str, list[float]] = {}
        with opened(folder / "made") as (server, browser):
            for name, page in PAGES.items():
                say(f"{name}: {keys} keys ...")
                values[name] = type_into(browser, f"{server.url}/{page}", prompt, typed)
        values["all"] = [ms for one in values.values() for ms in one]
        found = figures("key to picture", "ms", values)
        tail = {name: [sorted(ms)[int(0.95 * (len(ms) - 1))]] for name, ms in values.items()}
        found += figures("key to picture, 95 %", "ms", tail)
        lengths = [len(tokenizer.encode(prompt)), len(tokenizer.encode(prompt + typed))]
        settings = {"keys": keys, "parameters": model.parameter_count(), "prompt_tokens": lengths}
        report(record("studio keystroke", settings, found, {}), history)


def type_into(browser: Any, url: str, prompt: str, typed: str) -> list[float]:
    """Milliseconds of each key."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        page.goto(f"{url}?{urlencode({'prompt': prompt, 'predict': 'off'})}")
        page.wait_for_selector("main figure:visible")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(2 * REST_MS)
        page.evaluate(CLOCK)
        page.locator("[data-prompt]").first.focus()
        page.keyboard.press("Control+End")
        for i, sign in enumerate(typed):
            page.keyboard.insert_text(sign) if not sign.isascii() else page.keyboard.type(sign)
            for _ in range(DRAWN_MS // 10):
                if page.evaluate("window.times.length") > i:
                    break
                page.wait_for_timeout(10)
            else:
                raise BenchmarkError(f"{url} had not drawn key {i + 1} after {DRAWN_MS / 1000:g} seconds.")
            page.wait_for_timeout(REST_MS if i % REST_EVERY == REST_EVERY - 1 else PAUSE_MS)
        wrong = page.locator("main .error").all_inner_texts()
        if wrong:
            raise BenchmarkError(f"{url} said: {wrong[0]}")
        times: list[float] = page.evaluate("window.times")
        return times
    finally:
        context.close()


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shot:
    """One picture: its name, the page with its address, and how large it may be."""

    name: str
    page: str
    given: dict[str, Any] = field(default_factory=dict)
    height: int = 1300  # pixels of the page from its top, or from `start`
    start: str | None = None  # the first words of the figure that it begins with
    widths: tuple[str, ...] = ("light",)  # light, dark: 1280 px; narrow: 360 px


PROMPT = "Once upon a time there was a kind girl called {}. Everybody liked"  # and the answer is the name


def shots(server: StudioServer) -> list[Shot]:
    """Every page, with something worth looking at on it."""
    prompt, other = PROMPT.format("Julia"), PROMPT.format("Tom")
    looks = server.ask("GET", f"/api/models/stories@best/attention?{urlencode({'prompt': prompt})}").json["data"]
    name = next(i for i, token in enumerate(looks["tokens"]) if "Jul" in token["shown"])
    heads = [(rows[-1][name], i, j) for i, layer in enumerate(looks["pattern"]) for j, rows in enumerate(layer)]
    _, layer, head = max(heads)  # looks most from the end at the name, which comes next
    here = {"layer": layer, "head": head, "prompt": prompt}
    steps = next(run for run in server.ask("GET", "/api/runs").json["runs"] if run["name"] == "recited")["steps"]
    last = {"run": "recited", "step": steps[-1]["step"], "prompt": "Once upon a time"}
    everywhere = ("light", "dark", "narrow")
    return [
        Shot("home", "", {"prompt": "The old fox smiled"}, 1150, widths=everywhere),
        Shot("data", "data", {}, 1200),
        Shot("tokenizer", "tokenizer", {"prompt": "Zoë saw 1,234 grasshoppers!", "piece": 11, "upto": 150}, 1200),
        Shot("embeddings", "embeddings", {"find": "rabbit"}, 1250, widths=("light", "dark")),
        Shot("forward", "forward", {"prompt": prompt}, 1250),
        Shot("attention", "attention", here, 1450, widths=everywhere),
        Shot("attention-mask", "attention", {**here, "edits": [{"part": "scores", "op": "mask_off"}]}, 1500),
        Shot("lens", "lens", {"prompt": prompt}, 1250, widths=("light", "dark")),
        Shot("patching", "lens", {"prompt": prompt, "other": other}, 800, "Which places carry it"),
        Shot("generate", "generate", {"prompt": "Once upon a time", "predict": "off", "temperature": 0.8,
                                      "written": 40, "at": 13}, 1350, widths=("light", "narrow")),
        Shot("memorisation", "memorisation", last, 1500),
        Shot("training", "training", {}, 1550, widths=everywhere),
        Shot("compare", "compare", {"runs": ["stories", "recited"], "prompt": "Once upon a time"}, 1500),
    ]  # fmt: skip


def screenshots(target: Path, runs: Path | None, timeout_s: float) -> None:
    """All pictures, as PNGs of few colours. BenchmarkError for a page that says an error."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        if runs is None:
            train_for_pictures(folder, timeout_s)
        server, browser = stack.enter_context(opened(folder, runs.resolve() if runs else None))
        target.mkdir(parents=True, exist_ok=True)
        total = 0
        for shot in shots(server):
            for width in shot.widths:
                name = shot.name if width == "light" else f"{shot.name}-{width}"
                total += take(browser, server, shot, width, target / f"{name}.png")
        say(f"{total / 1e6:.2f} MB in {target}.")


def train_for_pictures(folder: Path, timeout_s: float) -> None:
    """`stories`, six minutes on the built-in tales, and `recited`, far too long on 20 KB of them."""
    small = contenders.default_text(folder, timeout_s, 1).read_text()[:20_000].rpartition("\n\n")[0]
    (folder / "small.txt").write_text(small)
    for words in (["--minutes", "6", "--run", "stories"],
                  ["small.txt", "--steps", "900", "--run", "recited", "dropout=0"]):  # fmt: skip
        say(f"training {words[-1] if words[-1] == 'stories' else 'recited'} ...")
        command = [sys.executable, "-m", "tinygpt", "train", *words, "--quiet"]
        finished = contenders.run(command, folder, contenders.environment(folder, "cpu"), timeout_s)
        if finished.exit_code:
            raise BenchmarkError(f"the training ended with exit code {finished.exit_code}.")


def take(browser: Any, server: StudioServer, shot: Shot, width: str, path: Path) -> int:
    """One picture; its bytes."""
    narrow = width == "narrow"
    context = browser.new_context(
        viewport={"width": 360, "height": 760} if narrow else {"width": 1280, "height": 900},
        color_scheme="dark" if width == "dark" else "light", reduced_motion="reduce",
    )  # fmt: skip
    try:
        page = context.new_page()
        page.goto(f"{server.url}/#token={server.token}")  # with the token of this start
        given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in shot.given.items()}
        page.goto(f"{server.url}/{shot.page}?{urlencode({'run': 'stories', **given})}")
        page.wait_for_selector("main h1")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(2500)  # what stands lower comes a moment later
        page.wait_for_load_state("networkidle")
        for loading in page.locator("text=/Checkpoint \\d+ of \\d+/").all():
            loading.wait_for(state="detached", timeout=120_000)
        page.wait_for_selector("[aria-busy]", state="detached")
        wrong = page.locator("main .error").all_inner_texts()
        if wrong:
            raise BenchmarkError(f"{shot.name} says: {wrong[0]}")
        top = 0.0
        if shot.start:
            box = page.locator("figure", has_text=shot.start).first.bounding_box()
            top = box["y"] - 70
        tall = page.evaluate("document.documentElement.scrollHeight")
        height = min(tall - top, 1100 if narrow else shot.height)
        page.evaluate("document.getElementById('header').style.setProperty('position', 'static')")
        clip = {"x": 0, "y": top, "width": 360 if narrow else 1280, "height": height}
        page.screenshot(path=path, full_page=True, clip=clip)
    finally:
        context.close()
    return squeeze(path)


def squeeze(path: Path) -> int:
    """Write a PNG again with 256 colours: the most common as they are, the others as the nearest of few; its bytes."""
    try:
        from PIL import Image
    except ImportError:
        raise BenchmarkError("pip install pillow: it makes the pictures small.") from None
    with Image.open(path) as opened_picture:
        picture = opened_picture.convert("RGB")
    counted = picture.getcolors(picture.width * picture.height)
    common = [colour for _, colour in sorted(counted, reverse=True)[:COMMON_COLOURS]]
    rare = picture.quantize(256 - len(common), Image.Quantize.MAXCOVERAGE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(value for colour in common for value in colour), *rare])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    return path.stat().st_size


# --- the command -----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--row", choices=["keystroke"], help="what is measured")
    options.add_argument("--keys", type=positive, default=50, help="typed on each of 4 pages (default %(default)s)")
    options.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write pictures of all pages there")
    options.add_argument("--runs", type=Path, metavar="FOLDER", help="for the pictures: runs `stories` and `recited`")
    add_timeout(options)
    args = options.parse_args(arguments)
    with plain_errors():
        if args.row:
            keystrokes(args.keys, args.timeout, args.history)
        if args.screenshots:
            screenshots(args.screenshots, args.runs, args.timeout)
        if not (args.row or args.screenshots):
            raise BenchmarkError("choose --row keystroke or --screenshots FOLDER.")


if __name__ == "__main__":
    main()
