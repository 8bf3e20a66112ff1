"""A run is the same run: stopped anywhere and resumed it ends bit for bit where the undisturbed one ends."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tinygpt import checkpoint
from tinygpt import train as training
from tinygpt.display import Display
from tinygpt.records import read
from tinygpt.runs import open_run
from tinygpt.storage import sha256
from tinygpt.train import gather_gradient, set_up, train

HARD = {"dropout": 0.2, "batch_size": 4, "micro_batch": 2}  # everything random and everything summed in parts


class Watcher(Display):
    """Does something at the record of one step, in the middle of the loop."""

    def __init__(self, step, action):
        super().__init__(io.StringIO())
        self.step, self.action = step, action

    def train(self, record):
        if record["step"] == self.step:
            self.action()


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


def kill():
    raise Killed


def outcome(folder):
    """What must not differ: weights, optimizer, books, records without their times."""
    loaded, rejected = checkpoint.load(folder)
    assert rejected == []
    timeless = lambda r: {k: v for k, v in r.items() if k not in ("time_s", "tokens_per_s")}  # noqa: E731
    state = {k: v for k, v in vars(loaded.progress).items() if k not in ("time_s", "logs")}
    return {
        "model": loaded.model, "optim": loaded.optim, "state": state,
        "metrics": [timeless(r) for r in read(folder / "metrics.jsonl")], "samples": read(folder / "samples.jsonl"),
        "best": (folder / "checkpoints" / "BEST").read_text(),
        "snapshots": {p.name: sha256(p.read_bytes()) for p in (folder / "snapshots").iterdir()},
    }  # fmt: skip


def same(a, b):
    for part in ("model", "optim"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    for part in ("state", "metrics", "samples", "best", "snapshots"):
        assert a[part] == b[part], part


@pytest.fixture(scope="module")
def undisturbed(make_run, machine, tmp_path_factory):
    """Outcome of the whole run, per preset; made once, because nothing in it may depend on anything else."""
    done = {}

    def get(preset):
        if preset not in done:
            torch.set_num_threads(1)
            run = make_run(tmp_path_factory.mktemp(preset) / "run", preset, **HARD)
            assert train(set_up(run, machine, Display(io.StringIO()))) == 0
            done[preset] = outcome(run.folder)
            assert [r["step"] for r in done[preset]["metrics"] if r["kind"] == "train"] == list(range(1, 13))
        return done[preset]

    return get


def resumed(folder, machine):
    run, _ = open_run(folder)
    session = set_up(run, machine, Display(io.StringIO()), resume=True)
    return train(session), session


@pytest.mark.parametrize("preset", ["tutorial", "gpt2", "modern"])
def test_two_runs_are_one(make_run, machine, tmp_path, undisturbed, preset):
    run = make_run(tmp_path / "run", preset, **HARD)
    train(set_up(run, machine, Display(io.StringIO())))
    same(outcome(run.folder), undisturbed(preset))


@pytest.mark.parametrize("preset", ["tutorial", "modern"])
@pytest.mark.parametrize("stop_at", [1, 4, 5, 11, 12])
def test_ctrl_c_and_resume(make_run, machine, tmp_path, undisturbed, preset, stop_at):
    """At a step with a validation, without one, at the first, at the last but one and at the last."""
    run = make_run(tmp_path / "run", preset, **HARD)
    session = set_up(run, machine, Watcher(stop_at, lambda: signal.raise_signal(signal.SIGINT)))
    assert train(session) == 130 and session.progress.step == stop_at
    assert checkpoint.load(run.folder)[0].step == stop_at
    code, session = resumed(run.folder, machine)
    assert code == 0 and session.progress.step == 12
    same(outcome(run.folder), undisturbed(preset))


def test_a_mean_that_is_turned_off_is_forgotten(make_run, machine, tmp_path):
    """What is saved then are the weights, not a mean that no longer moves."""
    run = make_run(tmp_path / "run", **HARD)
    train(set_up(run, machine, Watcher(5, lambda: signal.raise_signal(signal.SIGINT))))
    stored = json.loads((run.folder / "config.json").read_text())
    stored["train"]["average"] = 0.0
    (run.folder / "config.json").write_text(json.dumps(stored))
    _, session = resumed(run.folder, machine)
    saved = checkpoint.load(run.folder)[0]
    assert not session.optimizer.has_means() and not any("mean" in name for name in saved.optim)
    for name, weight in session.model.state_dict().items():
        assert torch.equal(saved.model[name], weight)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 9, 12])
def test_a_kill_and_resume(make_run, machine, tmp_path, undisturbed, stop_at):
    """From the last checkpoint; records after it are cut and made again, none twice and none missing."""
    run = make_run(tmp_path / "run", **HARD)
    with pytest.raises(Killed):
        train(set_up(run, machine, Watcher(stop_at, kill)))
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "st')  # and the last line is torn
    code, _ = resumed(run.folder, machine)
    assert code == 0
    same(outcome(run.folder), undisturbed("modern"))


def test_a_kill_before_the_first_checkpoint(make_run, machine, tmp_path, undisturbed, monkeypatch):
    """The validation at step 0 is already recorded then, and must not be there twice."""
    run = make_run(tmp_path / "run", **HARD)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save", lambda *_, **__: kill())
        with pytest.raises(Killed):
            train(set_up(run, machine, Display(io.StringIO())))
    assert [r["kind"] for r in read(run.folder / "metrics.jsonl")] == ["eval"]
    code, _ = resumed(run.folder, machine)
    assert code == 0
    same(outcome(run.folder), undisturbed("modern"))


def test_many_stops(make_run, machine, tmp_path, undisturbed):
    run = make_run(tmp_path / "run", **HARD)
    train(set_up(run, machine, Watcher(2, lambda: signal.raise_signal(signal.SIGTERM))))
    for stop_at, code in ((3, 130), (7, 143), (8, 130)):
        number = {130: signal.SIGINT, 143: signal.SIGTERM}[code]
        watcher = Watcher(stop_at, lambda number=number: signal.raise_signal(number))
        assert train(set_up(run, machine, watcher, resume=True)) == code
    assert resumed(run.folder, machine)[0] == 0
    same(outcome(run.folder), undisturbed("modern"))


def test_a_damaged_newest_checkpoint_costs_time_alone(make_run, machine, tmp_path, undisturbed):
    """The one before is taken, said so, and the end is the same."""
    run = make_run(tmp_path / "run", **HARD)
    with pytest.raises(Killed):
        train(set_up(run, machine, Watcher(10, kill)))
    path = run.folder / "checkpoints" / "step-00000008" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    said = Display(io.StringIO())
    session = set_up(run, machine, said, resume=True)
    assert session.progress.step == 4 and "step-00000008 is not usable" in said._stream.getvalue()
    assert train(session) == 0
    same(outcome(run.folder), undisturbed("modern"))


def test_resuming_a_finished_run_changes_nothing(make_run, machine, tmp_path, undisturbed):
    run = make_run(tmp_path / "run", **HARD)
    train(set_up(run, machine, Display(io.StringIO())))
    assert resumed(run.folder, machine)[0] == 0
    same(outcome(run.folder), undisturbed("modern"))


def test_a_second_ctrl_c_leaves_at_once(make_run, machine, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(set_up(make_run(tmp_path / "run"), machine, Watcher(5, twice)))
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.load(tmp_path / "run")[0].step == 4


def test_another_seed_is_another_run(make_run, machine, tmp_path, undisturbed):
    """Or the equalities above could come from a seed that decides nothing."""
    run = make_run(tmp_path / "run", seed=1, **HARD)
    train(set_up(run, machine, Display(io.StringIO())))
    other, first = outcome(run.folder), undisturbed("modern")
    assert not torch.equal(other["model"]["embedding.weight"], first["model"]["embedding.weight"])
    assert other["metrics"] != first["metrics"]


@pytest.mark.parametrize("preset", ["tutorial", "gpt2", "modern"])
def test_the_micro_batch_changes_neither_loss_nor_gradient(make_run, machine, tmp_path, preset):
    """A sum in parts is the same sum: forgetting to divide would make the gradient micro_steps times as large."""
    found = {}
    for micro_batch in (8, 4, 2, 1):
        run = make_run(tmp_path / str(micro_batch), preset, batch_size=8, micro_batch=micro_batch, grad_clip=0.0)
        session = set_up(run, machine, Display(io.StringIO()))
        loss, norm = gather_gradient(session)
        found[micro_batch] = loss, norm, [p.grad for p in session.model.parameters()]
    loss, norm, gradients = found[8]
    for other_loss, other_norm, others in list(found.values())[1:]:
        assert other_loss == pytest.approx(loss, rel=1e-6)  # about 10 roundings of fp32
        assert other_norm == pytest.approx(norm, rel=1e-5)
        for a, b in zip(gradients, others, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# --- the real command and real signals -------------------------------------------------------------------------------


def command(*words, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "tinygpt", *map(str, words)], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(process, metrics, steps):
    """Until so many train records stand in the log; the run would end by itself long after."""
    for _ in range(1200):
        if process.poll() is not None:
            pytest.fail(f"ended too early:\n{process.stdout.read()}")
        if metrics.exists() and metrics.read_bytes().count(b'"kind": "train"') >= steps:
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail("no record within a minute")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_the_command_survives_ctrl_c_and_sigkill(tmp_path, texts, machine):
    """`tinygpt train` interrupted, resumed, killed and resumed equals an undisturbed run of the same folder."""
    (tmp_path / "story.txt").write_text("\n\n".join(texts), encoding="utf-8")
    settings = [
        "n_embd=32", "n_layers=2", "n_heads=4", "block_size=32", "vocab_size=320", "batch_size=4", "micro_batch=2",
        "dropout=0.1", "threads=1", "device=cpu", "precision=fp32", "log_every=1", "save_every=40", "eval_every=100",
    ]  # fmt: skip
    folder = tmp_path / "runs" / "x"
    first = command("train", "story.txt", "--steps", 400, "--run", "x", *settings, folder=tmp_path)
    wait_for(first, folder / "metrics.jsonl", 50)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "tinygpt train --resume --run x" in said and "Traceback" not in said
    stopped = checkpoint.load(folder)[0].step
    assert 50 <= stopped < 400

    second = command("train", "--resume", "--run", "x", folder=tmp_path)
    wait_for(second, folder / "metrics.jsonl", stopped + 60)
    second.kill()
    second.communicate(timeout=60)
    assert stopped <= checkpoint.load(folder)[0].step < 400

    third = command("train", "--resume", "--run", "x", folder=tmp_path)
    said, _ = third.communicate(timeout=120)
    assert third.returncode == 0, said
    steps = [r["step"] for r in read(folder / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, 401))

    twin = tmp_path / "runs" / "twin"
    shutil.copytree(folder / "data", twin / "data")
    for name in ("config.json", "corpus.json", "tokenizer.json"):
        shutil.copy(folder / name, twin / name)
    assert train(set_up(open_run(twin)[0], machine, Display(io.StringIO()))) == 0
    same(outcome(folder), outcome(twin))
