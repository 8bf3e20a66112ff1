"""The page about a run: one file that stands alone, in which nothing from a text is ever markup."""

import html.parser
import json
import re
import shutil
import sys

import pytest
from command_line import TINY, inside, refused, story_text, tinygpt

import tinygpt.inspect as ti
from tinygpt import report_page
from tinygpt.inspect import png
from tinygpt.records import Log
from tinygpt.runs import open_run

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;"


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    return open_run(tmp_path / "runs" / "mine")[0]


@pytest.fixture(scope="module")
def page(trained):
    return report_page.page(open_run(trained)[0])


def test_it_stands_alone_and_is_small(page):
    """No script, no address, no file: whoever gets it sees all of it, without a network."""
    assert len(page.encode()) < 1_000_000
    found = Reader(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in found.tags}
    assert not {name for _, attrs in found.tags for name in attrs if name in ("src", "href") or name.startswith("on")}
    assert not re.search(r"https?:|url\(|@import", page)
    assert "default-src 'none'" in page and "prefers-color-scheme:dark" in page


def test_it_has_every_part(page, trained):
    run, text = open_run(trained)[0], Reader(page).text
    for title in (
        "What came out",
        "Learning",
        "What it wrote",
        "How the tokenizer",
        "What its heads look at",
        "Every setting",
    ):
        assert title in text
    records = ti.records(run)["records"]
    best = min(r["val_bpb"] for r in records if r["kind"] == "eval")
    assert f"{best:.3f}" in text and "unigram" in text and "bigram" in text
    assert f"{run.facts['parameters']:,}"[:2] in text and "learning rate" in page and "gradient norm" in page
    assert all(f"step {s['step']:,}" in text and s["text"][:20] in text for s in ti.records(run)["samples"])
    assert text.count("head 3") >= run.config.model.n_layers
    for name in ("n_embd", "weight_decay", "val_fraction"):
        assert name in text


def test_the_curve_is_the_records(page, trained):
    """The last point of the loss and of the validation stand where their figures say."""
    run = open_run(trained)[0]
    curve = report_page.dynamics.curve(run)
    path = re.search(r"<path class='l s0' d='M([^']+)'", page)[1].split("L")
    assert len(path) == len(curve["train"]["step"]) <= report_page.MOST_POINTS
    ys = [float(point.split()[1]) for point in path]
    values = curve["train"]["bpb"]
    slope = (ys[-1] - ys[0]) / (values[-1] - values[0])
    assert slope < 0 and len(set(values)) > 3
    assert all(y == pytest.approx(ys[0] + slope * (v - values[0]), abs=0.2) for y, v in zip(ys, values, strict=True))


def test_the_patterns_are_those_of_the_function(page, trained):
    line = re.search(r"ti\.attention\(.*\)", html.unescape(page))[0]
    result = eval(line, {"ti": ti})
    layers, heads, T, _ = result["pattern"].shape
    drawn = re.findall(r"aria-label='layer (\d+), head (\d+): strongest from (.*?) to (.*?), ([\d.]+)'", page)
    assert len(drawn) == layers * heads and T <= report_page.PROMPT_TOKENS
    layer, head, _, _, share = drawn[-1]
    assert float(share) == pytest.approx(float(result["pattern"][int(layer), int(head), 1:].max()), abs=0.01)


@pytest.mark.parametrize("value", [0.0, 0.019, 0.5, 1.0])
def test_a_square_has_the_shade_of_its_share(value):
    import numpy as np

    drawn = report_page.squares(np.array([[value, 0.7], [1.0, 0.0]]))
    shades = dict(re.findall(r"<path class=a(\d) d='([^']*)'", drawn))
    level = min(int(value * report_page.SHADES), report_page.SHADES - 1)
    assert ("M0 0h1v1h-1z" in shades.get(str(level), "")) == (value > 0.02)
    assert "M0 1h1v1h-1z" in shades[str(report_page.SHADES - 1)]
    assert "M1 0h1v1" not in drawn  # above the diagonal


def test_script_strings_stay_text(copied, tmp_path, monkeypatch):
    """In the corpus, a sample, a prompt, the command, an event, a source's name and the name of the run."""
    folder = tmp_path / "runs" / SCRIPT.replace("/", "_")
    shutil.copytree(copied.folder, folder)
    stored = json.loads((folder / "config.json").read_text())
    stored |= {"command": SCRIPT, "reasons": [SCRIPT], "machine": SCRIPT, "versions": {SCRIPT: SCRIPT}}
    (folder / "config.json").write_text(json.dumps(stored))
    corpus = json.loads((folder / "corpus.json").read_text())
    corpus["sources"] = [{"name": SCRIPT, "bytes": 1, "sha256": SCRIPT}]
    (folder / "corpus.json").write_text(json.dumps(corpus))
    log = Log(folder)
    log.sample(step=61, prompt=SCRIPT, text=SCRIPT, seed=0, temperature=1.0)
    log.metric(kind="event", step=61, text=SCRIPT, spikes=[{"step": 61, "what": SCRIPT, "value": 1.0, "usual": 1.0}])
    run = open_run(folder)[0]
    monkeypatch.setattr(report_page, "opening", lambda *_: SCRIPT)
    ids = run.tokenizer.encode_documents([SCRIPT * 5])
    hostile = type(run)(**{**vars(run), "val_ids": ids})
    page = report_page.page(hostile)
    found = Reader(page)
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert found.text.count(SCRIPT) >= 5  # and all of it can be read
    clean = Reader(report_page.page(copied))
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in clean.tags}


def test_the_command_writes_page_and_picture(copied):
    outcome = tinygpt("report", "mine")
    assert outcome.code == 0 and "Wrote runs/mine/report.html" in outcome.out, outcome.err
    assert (copied.folder / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (copied.folder / "loss.png").unlink()
    assert tinygpt("report", "mine", "--out", "mine.html").code == 0
    assert not (copied.folder / "loss.png").exists()
    assert (copied.folder.parent.parent / "mine.html").read_text() == (copied.folder / "report.html").read_text()
    refusal = tinygpt("report", "mine", "--out", "runs")
    assert refusal.code == 2 and "runs is a folder; name a file, such as runs/mine.html." in refusal.err
    refusal = tinygpt("report", "mine", "--out", "mine.html/mine.html")
    assert refusal.code == 74 and "mine.html/mine.html cannot be written" in refusal.err
    assert tinygpt("report", "mine@last").code == 2


def test_without_matplotlib_the_page_is_written_and_a_sentence_says_what_is_missing(copied, monkeypatch):
    monkeypatch.setattr(png.importlib.util, "find_spec", lambda name: None)
    said = report_page.write_report(copied)
    assert (copied.folder / "report.html").exists() and not (copied.folder / "loss.png").exists()
    assert said[1] == "loss.png is left out: matplotlib is not installed here; pip install matplotlib."
    refused(2, "matplotlib is not installed", png.draw, ti.health(copied), copied.folder / "x.png")


def test_a_training_ends_with_its_page(tmp_path):
    with inside(tmp_path):
        (tmp_path / "own.txt").write_text(story_text())
        outcome = tinygpt("train", "own.txt", "--steps", "3", "--run", "own", "--quiet", *TINY)
        assert outcome.code == 0 and "Wrote runs/own/report.html" in outcome.out
        assert (tmp_path / "runs/own/report.html").exists() and (tmp_path / "runs/own/loss.png").exists()


def test_a_page_that_cannot_be_written_is_no_error_of_the_run(tmp_path, monkeypatch):
    def broken(run):
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(report_page, "page", broken)
    with inside(tmp_path):
        (tmp_path / "own.txt").write_text(story_text())
        outcome = tinygpt("train", "own.txt", "--steps", "3", "--run", "own", "--quiet", *TINY)
        assert outcome.code == 0 and "report.html could not be written: the moon is full" in outcome.out


def test_a_training_without_a_package_that_only_its_page_needs_ends_with_a_sentence(tmp_path):
    """Pins: a run of hours that ends with a traceback where somebody has installed PyTorch and little else."""
    import subprocess

    (tmp_path / "own.txt").write_text(story_text())
    words = ["tinygpt", "train", "own.txt", "--steps", "3", "--run", "own", "--quiet", *TINY]
    code = f"import sys; sys.modules['orjson'] = None; sys.argv = {words}; from tinygpt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Note: report.html is left out, since orjson is not installed." in done.stdout


def test_training_starts_without_what_only_the_end_needs():
    """Pins: matplotlib and the functions of inspect loaded before the first step."""
    import subprocess

    modules = "tinygpt.train, tinygpt.prepare, tinygpt.report"
    code = f"import {modules}, sys\nprint(sorted({{'matplotlib', 'tinygpt.inspect.dynamics'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_run_at_its_beginning_has_a_page_too(run):
    page = report_page.page(run)
    assert "Nothing was recorded yet" in page and "no validation text" in page and "n_embd" in page
    assert "checkpoint" in Reader(page).text.partition("What its heads look at")[2].partition("Every setting")[0]


def test_ticks_are_round_and_inside():
    assert report_page.ticks(0, 1) == [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
    assert report_page.ticks(0, 470) == [0, 100, 200, 300, 400]
    assert report_page.ticks(-3, -0.5, log=True) == [0.001, 0.01, 0.1]
    for high in (0.003, 7.0, 1e6):
        assert 3 <= len(report_page.ticks(0, high)) <= 6
