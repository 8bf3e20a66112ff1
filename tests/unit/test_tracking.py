"""Sinks around a training: asked for or not imported, missing or refused, failing or left out; the real ones stand in
tests/reference/test_tracking.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment, inside, story_text, tinygpt

from tinygpt import tracking
from tinygpt.errors import UserError
from tinygpt.records import Log, read
from tinygpt.tracking import Sink, figures, refuse_missing

TINY = ("n_layers=1", "n_embd=16", "n_heads=2", "block_size=16", "vocab_size=300", "threads=1", "device=cpu",
        "precision=fp32", "compiled=no", "log_every=1", "save_every=2", "eval_every=2", "--quiet")  # fmt: skip


@pytest.fixture
def sink(monkeypatch, tmp_path):
    """A sink called tensorboard that remembers; `fail` makes it raise at that record."""
    taken = {"given": [], "ended": 0, "fail": None, "settings": None}

    def give(step, values):
        if taken["fail"] == len(taken["given"]):
            raise RuntimeError("no such host\nand a second line")
        taken["given"].append((step, dict(values)))

    def make(folder, settings):
        taken["settings"] = settings
        return Sink(give, lambda: taken.update(ended=taken["ended"] + 1))

    monkeypatch.setitem(tracking.SINKS, "tensorboard", make)
    monkeypatch.setattr(tracking, "refuse_missing", lambda names: None)
    with inside(tmp_path):
        Path("a.txt").write_text(story_text())
        yield taken


def steps(taken):
    return [(step, min(values).partition("/")[0]) for step, values in taken["given"]]


def test_it_is_given_what_the_log_holds(sink):
    assert tinygpt("train", "a.txt", "--steps", 4, "--tensorboard", *TINY).code == 0
    records = [r for r in read("runs/a/metrics.jsonl") if r["kind"] in tracking.KINDS]
    assert steps(sink) == [(r["step"], r["kind"]) for r in records] and sink["ended"] == 1
    assert [values for _, values in sink["given"]] == [figures(r) for r in records]
    assert sink["settings"]["model"]["n_embd"] == 16 and sink["settings"]["parameters"]


def test_on_resume_no_record_comes_twice(sink):
    tinygpt("train", "a.txt", "--steps", 6, "--tensorboard", *TINY)
    once = steps(sink)
    for doomed in ("step-00000006", "step-00000004"):  # as if it had been killed after step 3
        shutil.rmtree(Path("runs/a/checkpoints", doomed))
    for pointer in ("LATEST", "BEST"):
        Path("runs/a/checkpoints", pointer).unlink()
    assert tinygpt("train", "--resume", "--run", "a", "--quiet", "--tensorboard").code == 0
    assert steps(sink) == once and len(set(once)) == len(once) == 6 + 4


def test_one_that_fails_is_said_once_and_left_out(sink):
    sink["fail"] = 3
    done = tinygpt("train", "a.txt", "--steps", 4, "--tensorboard", *TINY)
    assert done.code == 0 and len(sink["given"]) == 3
    said = [line for line in done.out.splitlines() if "gets no more records" in line]
    assert said == [
        "tensorboard gets no more records (no such host); training goes on, and metrics.jsonl has them all."
    ]
    assert [r["step"] for r in read("runs/a/metrics.jsonl") if r["kind"] == "train"] == [1, 2, 3, 4]


def test_one_that_cannot_begin_is_said_and_left_out(sink, monkeypatch):
    def broken(folder, settings):
        raise OSError("disk full")

    monkeypatch.setitem(tracking.SINKS, "tensorboard", broken)
    done = tinygpt("train", "a.txt", "--steps", 1, "--tensorboard", *TINY)
    assert done.code == 0 and "tensorboard gets no more records (disk full)" in done.out


@pytest.mark.parametrize("name", tracking.SINKS)
def test_one_that_is_not_installed_names_the_extra_before_anything_starts(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    with inside(tmp_path):
        done = tinygpt("train", f"--{name}")
        assert done.code == 2 and list(tmp_path.iterdir()) == []
    assert done.err == f"tinygpt: --{name} needs the package {name}: pip install 'tinygpt[track]'.\n"
    with pytest.raises(UserError):
        refuse_missing([name])


def test_unasked_nothing_is_imported(tmp_path):
    code = f"""import sys
from tinygpt.cli import app
Path = __import__("pathlib").Path
Path("a.txt").write_text({story_text()!r})
try:
    app(["train", "a.txt", "--steps", "1", *{list(TINY)!r}])
except SystemExit:
    pass
print(sorted({{"tensorboard", "wandb", "trackio"}} & set(sys.modules)))"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_figures_are_finite_numbers_of_curves():
    record = {"kind": "train", "step": 3, "loss": 1.5, "lr": 1e-3, "grad_norm": float("inf"), "best": True, "rewind": 1}
    assert figures(record) == {"train/loss": 1.5, "train/lr": 1e-3}
    assert figures({"kind": "eval", "step": 0, "val_bpb": 2.0, "train_loss": None}) == {"eval/val_bpb": 2.0}


def test_a_log_without_listeners_is_as_it_was(tmp_path):
    log, heard = Log(tmp_path), []
    log.metric(kind="train", step=1)
    log.listeners.append(heard.append)
    log.also = {"rewind": 2}
    log.metric(kind="train", step=2)
    assert heard == [{"kind": "train", "step": 2, "rewind": 2}] == read(tmp_path / "metrics.jsonl")[1:]
