"""Several ranks are one run: the same samples, losses and weights as one process, one end for all, nothing lost.

Real processes over gloo. Most are started by hand with torchrun's environment variables, so that each one's words and
exit code can be looked at; one test goes through torchrun itself.
"""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tinygpt import checkpoint, distributed
from tinygpt.config import PRESETS, TrainConfig
from tinygpt.data import Windows
from tinygpt.display import Display
from tinygpt.distributed import Ranks
from tinygpt.errors import UserError
from tinygpt.prepare import prepare
from tinygpt.records import read
from tinygpt.runs import open_run
from tinygpt.train import set_up, train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals for one process")

STEPS = 50
FEWER = 6
ALIKE = {
    "batch_size": 8, "dropout": 0.0, "max_steps": FEWER, "eval_every": 25, "save_every": STEPS, "sample_every": STEPS,
}  # fmt: skip
JOBS = {
    **{preset: {"preset": preset, **ALIKE, "max_steps": STEPS if preset == "modern" else FEWER} for preset in PRESETS},
    "in parts": {"preset": "modern", **ALIKE, "micro_batch": 1},  # 4 micro-steps of 2 ranks, 2 of 4
    "dropout": {"preset": "modern", **ALIKE, "dropout": 0.2},
}
COMMAND = ["-m", "tinygpt"]
IMPATIENT = [
    "-c", "import datetime; from tinygpt import cli, distributed; "
    "distributed.TIMEOUT = distributed.LINGER = datetime.timedelta(seconds=3); cli.main()",
]  # fmt: skip
# Trains run folders one after the other, and writes down what this rank saw.
WORKER = """
import io, json, os, sys
from pathlib import Path
import torch
from tinygpt import train as training
from tinygpt.data import Windows
from tinygpt.display import Display
from tinygpt.distributed import Machine, join
from tinygpt.runs import open_run
from tinygpt.storage import sha256

class Watcher(Display):
    def train(self, record):
        seen["losses"].append(record["loss"])
        seen["seeds"].append(torch.initial_seed())
        parameters = b"".join(p.detach().numpy().tobytes() for p in session.model.parameters())
        seen["parameters"].append(sha256(parameters))

class Spy(Windows):
    def share(self, *arguments):
        firsts = super().share(*arguments)
        seen["samples"].append(firsts.tolist())
        return firsts

class Elsewhere(training.TinyGPT):  # starts with weights of its own
    def __init__(self, config):
        super().__init__(config)
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(1 + ranks.rank)

training.Windows, training.TinyGPT = Spy, Elsewhere
with join() as ranks:
    for folder in map(Path, sys.argv[1:]):
        seen = {"losses": [], "seeds": [], "parameters": [], "samples": []}
        machine = Machine(torch.device("cpu"), False, "", ranks)
        session = training.set_up(open_run(folder)[0], machine, Watcher(io.StringIO()))
        assert training.train(session) == 0
        (folder / f"seen-{ranks.rank}.json").write_text(json.dumps(seen))
os._exit(0)  # as the command does
"""


def start(size, words, folder):
    """`size` ranks as torchrun would start them, each with its own pipes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "XDG_CONFIG_HOME": str(folder / ".config"),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=folder, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes, seconds=60):
    """(exit code, standard output, standard error) of each; a rank that hangs is killed and fails the test."""
    ended = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            ended.append((process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return ended


def wait_for(process, folder, steps):
    """Until so many train records stand in the log of a run that would go on long after."""
    metrics = folder / "metrics.jsonl"
    for _ in range(1200):
        if process.poll() is not None:
            pytest.fail(f"ended too early:\n{process.communicate()}")
        if metrics.exists() and metrics.read_bytes().count(b'"kind": "train"') >= steps:
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail("no record within a minute")


def sentences(ended):
    """Everything that the ranks wrote on standard error."""
    return [line for _, _, err in ended for line in err.splitlines()]


def one_sentence(ended, phrase):
    (sentence,) = sentences(ended)
    assert sentence.startswith("tinygpt: ") and phrase in sentence


# --- R25: the same run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs(make_run, tmp_path_factory):
    """jobs(size): a folder with a run per job, trained by so many ranks; made once."""
    done = {}

    def get(size):
        if size not in done:
            torch.set_num_threads(1)
            base = tmp_path_factory.mktemp(f"ranks-{size}")
            names = [name for name in JOBS if size < 4 or name not in ("tutorial", "gpt2")]  # 4 ranks take their time
            folders = [make_run(base / name, **JOBS[name]).folder for name in names]
            ended = finish(start(size, ["-c", WORKER, *folders], base)) if size > 1 else [one_rank(base, folders)]
            assert [code for code, _, _ in ended] == [0] * size, sentences(ended)
            done[size] = base
        return done[size]

    return get


def one_rank(base, folders):
    """The same without torch.distributed, in one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("WORLD_SIZE", None)
    process = subprocess.run(
        [sys.executable, "-c", WORKER, *map(str, folders)], cwd=base, env=environment, capture_output=True, text=True
    )
    return process.returncode, process.stdout, process.stderr


def seen(folder, size):
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.parametrize(
    ("job", "size"), [("modern", 2), ("modern", 4), ("in parts", 2), ("in parts", 4), ("tutorial", 2), ("gpt2", 2)]
)
def test_ranks_train_what_one_rank_trains(jobs, job, size):
    """Step-1 loss within 1e-6, every loss and all final weights within 1e-4, with micro-batches too."""
    (alone,), together = seen(jobs(1) / job, 1), seen(jobs(size) / job, size)
    for rank in together:
        assert rank["losses"] == together[0]["losses"]
        assert rank["losses"][0] == pytest.approx(alone["losses"][0], abs=1e-6, rel=0)
        assert rank["losses"] == pytest.approx(alone["losses"], abs=1e-4, rel=0)
    assert len(alone["losses"]) == JOBS[job]["max_steps"] and alone["losses"][-1] < alone["losses"][0]
    a, b = (checkpoint.load(folder / job)[0].model for folder in (jobs(1), jobs(size)))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=0)
    ours, theirs = (
        [r["val_loss"] for r in read(folder / job / "metrics.jsonl") if r["kind"] == "eval"]
        for folder in (jobs(1), jobs(size))
    )
    assert theirs == pytest.approx(ours, abs=1e-4, rel=0) and theirs[0] == ours[0]  # of equal weights: to the last bit


@pytest.mark.parametrize(("job", "size"), [(job, 2) for job in JOBS] + [("modern", 4), ("in parts", 4)])
def test_parameters_are_bit_equal_at_all_ranks_after_every_step(jobs, job, size):
    together = seen(jobs(size) / job, size)
    assert len(together[0]["parameters"]) == len(set(together[0]["parameters"])) == JOBS[job]["max_steps"]
    assert all(rank["parameters"] == together[0]["parameters"] for rank in together)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_out_the_samples_of_one_rank(jobs, size):
    (alone,), together = seen(jobs(1) / "modern", 1), seen(jobs(size) / "modern", size)
    for step, samples in enumerate(alone["samples"]):
        shares = [rank["samples"][step] for rank in together]
        assert shares == [samples[rank::size] for rank in range(size)] and len(set(samples)) == 8
    assert len(alone["samples"]) == STEPS


def test_ranks_draw_different_dropout_and_the_first_draws_what_one_rank_draws(jobs):
    """The CPU's generator looks at 32 bits of a seed only."""
    (alone,), together = seen(jobs(1) / "dropout", 1), seen(jobs(4) / "dropout", 4)
    assert together[0]["seeds"] == alone["seeds"]
    assert len({seed % 2**32 for rank in together for seed in rank["seeds"]}) == 4 * FEWER


def test_books_are_kept_once(jobs):
    for folder in (jobs(2) / "modern", jobs(4) / "modern"):
        steps = [r["step"] for r in read(folder / "metrics.jsonl") if r["kind"] == "train"]
        assert steps == list(range(1, STEPS + 1))
        assert [r["step"] for r in read(folder / "samples.jsonl")] == [0, STEPS]


# --- R26 and signals: one end for all --------------------------------------------------------------------------------

SETTINGS = [
    "n_embd=32", "n_layers=2", "n_heads=4", "block_size=32", "vocab_size=320", "batch_size=4", "dropout=0", "threads=1",
    "device=cpu", "precision=fp32", "compiled=no", "log_every=1", "save_every=25", "eval_every=100",
    "lr=1e-3", "muon_lr=2e-3",  # low, so that roundings stay roundings
]  # fmt: skip
LONG = 120
NEW = [*COMMAND, "train", "story.txt", "--run", "x", "--steps", LONG, *SETTINGS]
RESUME = [*COMMAND, "train", "--resume", "--run", "x"]


@pytest.fixture(scope="module")
def fresh(make_run, texts, tmp_path_factory):
    """fresh(folder): a copy of a folder with a story and a run `x` of it, planned and not begun."""
    base = tmp_path_factory.mktemp("fresh")
    (base / "story.txt").write_text("\n\n".join(texts), encoding="utf-8")
    overrides = dict(setting.split("=") for setting in SETTINGS)
    make_run(base / "runs" / "x", max_steps=LONG, sample_every=LONG, **overrides)

    def copy(folder):
        return shutil.copytree(base, folder)

    return copy


@pytest.fixture(scope="module")
def undisturbed(fresh, machine, tmp_path_factory):
    """The losses of the run by one rank, from step 1 to the end."""
    run, _ = open_run(fresh(tmp_path_factory.mktemp("undisturbed") / "f") / "runs" / "x")
    assert train(set_up(run, machine, Display(io.StringIO()))) == 0
    return [r["loss"] for r in read(run.folder / "metrics.jsonl") if r["kind"] == "train"]


def stopped_at(folder):
    """The step of the newest checkpoint, which must be as far as the records are."""
    step = checkpoint.load(folder)[0].step
    assert [r["step"] for r in read(folder / "metrics.jsonl") if r["kind"] == "train"] == list(range(1, step + 1))
    return step


def kill(ranks, killed, folder):
    """SIGKILL one of two ranks; the other must end in time, with one sentence of ours."""
    wait_for(ranks[0], folder, 30)
    ranks[killed].kill()
    began = time.monotonic()
    ended = finish(ranks, 20)
    assert time.monotonic() - began < 15
    assert ended[killed][0] == -signal.SIGKILL and ended[1 - killed][0] == 75
    one_sentence(ended, f"rank {1 - killed} of 2 stopped, because another rank ended")
    step = checkpoint.load(folder)[0].step
    assert step % 25 == 0 and 25 <= step < LONG
    return step


def test_a_killed_rank_ends_all_and_the_run_goes_on_with_other_numbers_of_ranks(tmp_path, fresh, undisturbed, machine):
    """2 ranks, SIGKILL; 1 rank for some steps; 4 ranks to the end: nothing is lost, nothing twice."""
    folder = fresh(tmp_path / "f")
    run = folder / "runs" / "x"
    step = kill(start(2, RESUME, folder), 1, run)

    class Stop(Display):
        def train(self, record):
            if record["step"] == step + 10:
                signal.raise_signal(signal.SIGTERM)

    assert train(set_up(open_run(run)[0], machine, Stop(io.StringIO()), resume=True)) == 143
    assert stopped_at(run) == step + 10

    ended = finish(start(4, RESUME, folder))
    assert [code for code, _, _ in ended] == [0] * 4 and sentences(ended) == []
    assert all(out == "" for _, out, _ in ended[1:])
    assert ended[0][1].count(f"Going on from step {step + 10}.") == 1
    assert stopped_at(run) == LONG
    losses = [r["loss"] for r in read(run / "metrics.jsonl") if r["kind"] == "train"]
    assert losses == pytest.approx(undisturbed, abs=1e-3, rel=0)


def test_the_first_rank_killed(tmp_path, fresh):
    """With it goes the place where the ranks meet; its lock is free again, and the rest of it nobody needs."""
    folder = fresh(tmp_path / "f")
    kill(start(2, RESUME, folder), 0, folder / "runs" / "x")


def test_a_rank_that_hangs_is_given_up_after_the_timeout(tmp_path, fresh):
    folder = fresh(tmp_path / "f")
    ranks = start(2, [*IMPATIENT, *RESUME[2:]], folder)
    wait_for(ranks[0], folder / "runs" / "x", 10)
    ranks[1].send_signal(signal.SIGSTOP)
    try:
        _, err = ranks[0].communicate(timeout=30)
    finally:
        ranks[1].kill()
    finish(ranks[1:])
    assert ranks[0].returncode == 75 and "has not answered for 3 s" in err and "Traceback" not in err
    checkpoint.load(folder / "runs" / "x")


HANGS = """
import datetime, os, signal, time
from tinygpt import distributed
distributed.TIMEOUT = distributed.LINGER = datetime.timedelta(seconds=2)
code = 0
try:
    with distributed.join() as ranks:
        ranks.tell("here")
        if not ranks.first:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1)
        ranks.alone(lambda: None)
        ranks.largest(0)
except distributed.UserError as error:
    print(error, flush=True)
    code = error.exit_code
os._exit(code)  # as the command line does
"""


def test_a_rank_that_hangs_while_the_first_works_alone_is_given_up_too(tmp_path):
    """The others wait for the first with patience of days; the first must not wait so long for them."""
    ranks = start(2, ["-c", HANGS], tmp_path)
    try:
        out, _ = ranks[0].communicate(timeout=40)
    finally:
        ranks[1].kill()
    finish(ranks[1:])
    assert ranks[0].returncode == 75 and "has not answered for 2 s" in out


def test_a_signal_to_one_rank_stops_all_at_one_step_and_saves(tmp_path, fresh):
    folder = fresh(tmp_path / "f")
    ranks = start(2, RESUME, folder)
    wait_for(ranks[0], folder / "runs" / "x", 10)
    ranks[1].send_signal(signal.SIGINT)
    ended = finish(ranks, 20)
    assert [ended[0][0], ended[1][0]] == [130, 130] and sentences(ended) == []
    step = stopped_at(folder / "runs" / "x")
    assert step % 25 and f"Stopped at step {step} and saved." in ended[0][1] and ended[1][1] == ""


def test_torchrun_from_text_to_a_saved_stop(tmp_path, fresh):
    """The command of the README; SIGTERM to torchrun reaches all ranks, and none of them outlives it."""
    folder = fresh(tmp_path / "f")
    shutil.rmtree(folder / "runs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    launcher = subprocess.Popen(
        # -- because torchrun would take --run for its own --run-path
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "--",
         *map(str, NEW[1:])],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(launcher, folder / "runs" / "x", 10)
    ranks = [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
    launcher.terminate()
    ((_, out, err),) = finish([launcher], 45)
    assert len(ranks) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert out.count("Device: ") == 1 and "2 ranks" in out and "Plan: " in out and "tinygpt: " not in err
    assert f"Stopped at step {stopped_at(folder / 'runs' / 'x')} and saved." in out


# --- errors: one sentence, once --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "phrase"),
    [
        (["nothing.txt"], 2, "nothing.txt"),
        (["story.txt", "--stepz", "3"], 2, "--stepz"),
    ],
)
def test_an_error_before_training_ends_all_ranks_with_one_sentence(tmp_path, fresh, words, code, phrase):
    folder = fresh(tmp_path / "f")
    shutil.rmtree(folder / "runs")
    began = time.monotonic()
    ended = finish(start(2, [*COMMAND, "train", *words], folder))
    assert time.monotonic() - began < 30
    assert [code for code, _, _ in ended] == [code, code]
    one_sentence(ended, phrase)
    assert ended[1][1] == "" and sorted(path.name for path in folder.iterdir()) == ["story.txt"]


def test_steps_that_are_not_finite_end_all_ranks_with_one_sentence(tmp_path, fresh):
    """The fault is on one rank alone: all refuse the same steps, and one of them says why."""
    folder = fresh(tmp_path / "f")
    fault = (
        "import os; from tinygpt import cli, loss; real = loss.TrainingLoss.forward; calls = []\n"
        "def forward(self, *batch):\n"
        "    calls.append(1)\n"
        "    return real(self, *batch) * (float('nan') if os.environ['RANK'] == '1' and len(calls) > 5 else 1)\n"
        "loss.TrainingLoss.forward = forward; cli.main()"
    )
    ended = finish(start(2, ["-c", fault, *RESUME[2:]], folder))
    assert [code for code, _, _ in ended] == [70, 70]
    one_sentence(ended, "3 in a row")
    assert checkpoint.load(folder / "runs" / "x")[0].step == 8 - 1  # the third refused one is not counted


# --- the pieces, in this process -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "size", "phrase"),
    [
        (8, 3, "can be 6, 9 with these, or the number of ranks 1, 2, 4."),
        (1, 4, "can be 4 with these"),
        (30, 4, "28, 32"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_with_what_could_be(batch_size, size, phrase):
    with pytest.raises(UserError, match=re.escape(phrase)) as error:
        Ranks(0, size).check_share(TrainConfig(batch_size=batch_size))
    assert error.value.exit_code == 78


def test_such_a_batch_is_refused_before_anything_is_read_or_written(tmp_path):
    with pytest.raises(UserError, match="batch_size can be 6, 8") as error:
        prepare(tmp_path / "run", [tmp_path / "nothing.txt"], given={"batch_size": 7}, say=print, ranks=Ranks(0, 2))
    assert error.value.exit_code == 78 and list(tmp_path.iterdir()) == []


def test_the_micro_batch_shrinks_to_a_divisor_of_the_share():
    config = TrainConfig(batch_size=24, micro_batch=8)
    assert [Ranks(0, size).micro_batch(config) for size in (1, 2, 3, 4, 6, 8, 24)] == [8, 6, 8, 6, 4, 3, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1, 0, 1)),
        ({"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, (3, 4, 3, 4)),
        ({"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "1", "LOCAL_RANK": "1",
          "LOCAL_WORLD_SIZE": "2"}, (3, 4, 1, 2)),
        ({"WORLD_SIZE": "2"}, "RANK="),
        ({"WORLD_SIZE": "two", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "WORLD_SIZE=two"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK=2"),
    ],
)  # fmt: skip
def test_ranks_come_from_torchruns_environment(monkeypatch, given, expected):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, tuple):
        assert distributed.ranks_in_environment() == expected
        return
    with pytest.raises(UserError, match=expected) as error:
        distributed.ranks_in_environment()
    assert error.value.exit_code == 78


def test_ranks_on_one_computer_share_its_cores(monkeypatch):
    """Also where torchrun has set OMP_NUM_THREADS=1 because nobody else had."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert distributed.cpu_cores() == 8
    for name, value in {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.cpu_cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert distributed.cpu_cores() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert distributed.cpu_cores() == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert distributed.cpu_cores() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert distributed.cpu_cores() == 3


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "available_devices", lambda: {"cuda": "one", "cpu": "1 core"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 ranks on this computer need as many GPUs, and it has 1") as error:
        distributed.choose_machine(TrainConfig(), Ranks(0, 2, 0, 2))
    assert error.value.exit_code == 78


def test_every_sample_of_a_step_belongs_to_one_rank():
    windows = Windows(torch.arange(500).numpy() % 300, 16, seed=3)
    inputs, targets = windows.batch(5, 8)
    for rank in range(4):
        x, y = windows.batch(5, 8, rank, 4)
        assert torch.equal(x, inputs[rank::4]) and torch.equal(y, targets[rank::4])
