"""What is done when something goes wrong in training; tests/reliability tries it with real processes and disks."""

import json
import math
import random
import shutil
import signal
import sys

import pytest
import torch

from tinygpt import checkpoint, guards, storage
from tinygpt import train as train_module
from tinygpt.distributed import Signals
from tinygpt.errors import UserError
from tinygpt.guards import far_above, spelt
from tinygpt.records import read
from tinygpt.runs import open_run
from tinygpt.storage import canonical
from tinygpt.train import set_up, train


def events(run):
    return [r for r in read(run.folder / "metrics.jsonl") if r["kind"] == "event"]


# --- far above the usual ---------------------------------------------------------------------------------------------


def noise(seed, count):
    chance = random.Random(seed)
    return [{"loss": chance.gauss(3, 0.2), "gradient norm": chance.gauss(0, 0.1)} for _ in range(count)]


def test_noise_and_a_falling_loss_are_usual():
    for seed in range(5):
        usual = {}
        for step, figures in enumerate(noise(seed, 1000)):
            falling = {**figures, "loss": figures["loss"] + 4 * math.exp(-step / 60)}
            assert far_above(usual, falling) == [], (seed, step)


@pytest.mark.parametrize("name", ["loss", "gradient norm"])
def test_a_leap_is_seen_at_once_and_a_new_level_becomes_usual(name):
    usual = {}
    for figures in noise(1, 200):
        far_above(usual, figures)
    height = {"loss": 2.0, "gradient norm": 5.0}[name]
    said = [far_above(usual, {**figures, name: figures[name] + height}) for figures in noise(2, 200)]
    assert said[0] == [name] and said[-1] == []


def test_one_leap_hardly_moves_what_is_usual():
    """It enters as the border: or a single one of 100 would hide the next."""
    usual = {}
    for figures in noise(1, 200):
        far_above(usual, figures)
    before = usual["loss, mean"]
    assert far_above(usual, {"loss": 100.0, "gradient norm": 0.0}) == ["loss"]
    assert usual["loss, mean"] - before < 0.1
    assert far_above(usual, {"loss": 100.0, "gradient norm": 0.0}) == ["loss"]


def test_nothing_is_said_before_anything_is_usual():
    usual = {}
    for step in range(guards.MEMORY):
        assert far_above(usual, {"loss": 10.0**step, "gradient norm": 0.0}) == []


def test_numbers_that_json_has_no_word_for_are_spelt():
    report = {"loss": math.nan, "norms": {"a": math.inf, "b": -math.inf, "c": 1.5}, "step": 3}
    assert json.loads(canonical(spelt(report))) == {
        "loss": "nan",
        "norms": {"a": "inf", "b": "-inf", "c": 1.5},
        "step": 3,
    }


# --- saves that fail -------------------------------------------------------------------------------------------------


def full_disk(monkeypatch, saves):
    """The saves of these numbers find no room."""
    count = []
    real = storage.write_durable

    def write(path, data):
        if path.name == "model.safetensors":
            count.append(1)
            if len(count) - 1 in saves:
                raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_durable", write)


def test_two_saves_that_fail_cost_nothing(tmp_path, make_run, machine, silent, monkeypatch):
    run = make_run(tmp_path / "run", save_every=2)
    full_disk(monkeypatch, {1, 2})
    assert train(set_up(run, machine, silent)) == 0
    assert silent.heard.getvalue().count("could not be saved: No space left on device; training goes on") == 2
    assert len(events(run)) == 2 and checkpoint.load(run.folder)[0].step == 12
    assert checkpoint.leftovers(run.folder) == []


@pytest.mark.parametrize(("saves", "kept"), [({1, 2, 3}, 0), ({6}, 10)])
def test_three_in_a_row_or_the_last_one_end_the_run(tmp_path, make_run, machine, silent, monkeypatch, saves, kept):
    run = make_run(tmp_path / "run", save_every=2, eval_every=100, lr=0.0, muon_lr=0.0)
    full_disk(monkeypatch, saves)
    with pytest.raises(UserError, match=f"newest checkpoint is that of step {kept}. Make room and go on") as error:
        train(set_up(run, machine, silent))
    assert error.value.exit_code == 74 and checkpoint.load(run.folder)[0].step == kept


def test_a_run_whose_first_save_fails_does_not_train(tmp_path, make_run, machine, silent, monkeypatch):
    """There would be nothing to come back to; and with room again it begins at step 0."""
    run = make_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        full_disk(patch, {0})
        with pytest.raises(UserError, match=r"there is no checkpoint yet. Make room and go on") as error:
            train(set_up(run, machine, silent))
    assert error.value.exit_code == 74
    assert train(set_up(run, machine, silent, resume=True)) == 0


def test_too_little_room_is_told_before_step_0(tmp_path, make_run, machine, silent, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100_000}))
    with pytest.raises(OSError, match=r"no room for the checkpoints of this run: it needs .* MB, and 0.1 MB are free"):
        set_up(run, machine, silent)
    assert not (run.folder / "checkpoints").exists()


def test_a_snapshot_without_room_is_left_out(tmp_path, make_run, machine, silent, monkeypatch):
    run = make_run(tmp_path / "run")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_snapshot", full)
    assert train(set_up(run, machine, silent)) == 0
    assert "snapshot of step 1 is left out: No space" in silent.heard.getvalue()


# --- time and signals ------------------------------------------------------------------------------------------------


def test_max_time_s_stops_saved_and_unfinished(tmp_path, make_run, machine, silent):
    run = make_run(tmp_path / "run", max_time_s=1000.0)
    session = set_up(run, machine, silent)
    session.clock.session = lambda: 1000.0 * (session.progress.step >= 5)
    assert train(session) == 0 and not session.finished
    assert checkpoint.load(run.folder)[0].step == 5
    session = set_up(run, machine, silent, resume=True)
    assert train(session) == 0 and session.finished and session.progress.step == 12


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP")
def test_ignored_signals_stay_ignored():
    """nohup: closing the terminal must not stop what was told to live on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.code == 0
            signal.raise_signal(signal.SIGTERM)
            assert signals.code == 143
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- going on with something else ------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path, make_run, machine, silent):
    """A run stopped at step 5."""
    run = make_run(tmp_path / "run", max_time_s=1000.0)
    session = set_up(run, machine, silent)
    session.clock.session = lambda: 1000.0 * (session.progress.step >= 5)
    train(session)
    return run


def edit(run, section, **fields):
    path = run.folder / "config.json"
    stored = json.loads(path.read_bytes())
    stored[section].update(fields)
    path.write_bytes(canonical(stored))
    return open_run(run.folder)[0]


def test_settings_changed_by_hand_are_said_and_kept(half, machine, silent):
    run = edit(half, "train", lr=0.002, max_steps=8)
    session = set_up(run, machine, silent, resume=True)
    assert "Settings changed at step 5: lr was 0.003, is 0.002, max_steps was 12, is 8." in silent.heard.getvalue()
    assert train(session) == 0 and session.progress.step == 8
    assert any("Settings changed" in r["text"] for r in events(run))
    again = set_up(run, machine, silent, resume=True)
    assert again.progress.settings["lr"] == 0.002 and silent.heard.getvalue().count("Settings changed") == 1


@pytest.mark.parametrize(
    ("section", "fields"),
    [("train", {"seed": 7}), ("train", {"batch_size": 8, "micro_batch": 8}), ("model", {"dropout": 0.3}),
     ("model", {"n_layers": 1}), ("train", {"muon_lr": 0.0})],
)  # fmt: skip
def test_another_model_or_order_of_samples_is_exit_66(half, machine, silent, section, fields):
    run = edit(half, section, **fields)
    with pytest.raises(UserError) as error:
        set_up(run, machine, silent, resume=True)
    assert error.value.exit_code == 66
    name = next(iter(fields))
    assert name in str(error.value) or "do not fit" in str(error.value) or "does not fit" in str(error.value)


def test_other_surroundings_are_said(half, machine, silent, monkeypatch):
    """The same versions, device, threads and ranks: bit-equal. Another: nearly."""
    set_up(half, machine, silent, resume=True)
    assert "Not bit-equal" not in silent.heard.getvalue()
    monkeypatch.setattr(torch, "__version__", "9.9")
    set_up(half, machine, silent, resume=True)
    assert "Not bit-equal from here on to a run that was never stopped: torch was" in silent.heard.getvalue()


def test_what_must_be_done_again_is_said(half, machine, silent):
    with (half.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6}\n{"kind": "train", "step": 7}\n')
    set_up(half, machine, silent, resume=True)
    assert "Going on from step 5. At least 2 steps after it must be done again." in silent.heard.getvalue()


def test_a_checkpoint_that_somebody_removed_is_said(half, machine, silent):
    shutil.rmtree(half.folder / "checkpoints" / "step-00000005")
    set_up(half, machine, silent, resume=True)
    said = silent.heard.getvalue()
    assert "LATEST names step-00000005, which is gone." in said and "BEST" not in said
    assert "Going on from step 4. At least 1 step after it must be done again." in said


def test_a_run_without_any_of_its_checkpoints_does_not_start_at_0_in_silence(half, machine, silent):
    before = (half.folder / "metrics.jsonl").read_bytes()
    shutil.rmtree(half.folder / "checkpoints")
    with pytest.raises(UserError, match=r"has records of 5 steps, but no checkpoint; restore") as error:
        set_up(half, machine, silent, resume=True)
    assert error.value.exit_code == 72 and (half.folder / "metrics.jsonl").read_bytes() == before


def test_a_log_torn_by_a_power_cut_stops_no_resume(half, machine, silent):
    """What had not reached the disk can be zeros before a later line's end; it lies behind the checkpoint."""
    whole = (half.folder / "metrics.jsonl").read_bytes()
    with (half.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "tr' + bytes(20) + b'\n{"kind": "train", "step": 7}\n')
    session = set_up(half, machine, silent, resume=True)
    assert "The end of metrics.jsonl is damaged" in silent.heard.getvalue()
    assert (half.folder / "metrics.jsonl").read_bytes() == whole
    assert train(session) == 0


def sick_batches(monkeypatch, batches):
    """The loss of these batches is no number."""
    real = train_module.gather_gradient

    def gather(s):
        loss, norm = real(s)
        return (math.nan if s.progress.batch in batches else loss), norm

    monkeypatch.setattr(train_module, "gather_gradient", gather)


def test_nothing_is_saved_amid_refused_steps(tmp_path, make_run, machine, silent, monkeypatch):
    """The weights before them may be sick already; a rewind would come back to just these."""
    run = make_run(tmp_path / "run", save_every=2, eval_every=100, on_nonfinite="rewind")
    session = set_up(run, machine, silent)
    sick_batches(monkeypatch, {3, 4, 5})
    assert train(session) == 0
    assert "back to step 2 with 0.5" in silent.heard.getvalue() and session.progress.skipped == [3, 4, 5]


def test_samples_of_steps_taken_back_go(tmp_path, make_run, machine, silent, monkeypatch):
    run = make_run(tmp_path / "run", save_every=4, eval_every=4, sample_every=3, on_nonfinite="rewind")
    session = set_up(run, machine, silent)
    sick_batches(monkeypatch, {7, 8, 9})
    assert train(session) == 0
    assert [r["step"] for r in read(run.folder / "samples.jsonl")] == [0, 3, 6, 9, 12]
    assert [r["step"] for r in read(run.folder / "metrics.jsonl") if r["kind"] == "train"] == list(range(1, 13))


def test_a_best_that_could_not_be_saved_does_not_block_the_next(tmp_path, make_run, machine, silent, monkeypatch):
    run = make_run(tmp_path / "run", eval_every=2, save_every=100, sample_every=100)
    full_disk(monkeypatch, {1, 2})
    session = set_up(run, machine, silent)
    assert train(session) == 0
    saved = checkpoint.load(run.folder, "best")[0]
    assert session.progress.best_step == saved.step == session.best_saved[1]
    assert any("could not be saved" in r["text"] for r in events(run))


def test_a_changed_micro_batch_counts(half, machine, silent):
    session = set_up(half, machine, silent, resume=True)
    session.progress.micro_batch = 1
    checkpoint.save(half.folder, session.model, session.optimizer, session.progress, half.digests)
    for path in (half.folder / "checkpoints").glob("step-00000005"):
        shutil.rmtree(path)
    checkpoint.save(half.folder, session.model, session.optimizer, session.progress, half.digests)
    assert set_up(half, machine, silent, resume=True).progress.micro_batch == 1
    assert set_up(edit(half, "train", micro_batch=2), machine, silent, resume=True).progress.micro_batch == 0


def test_a_run_that_keeps_failing_is_not_rewound_for_ever(tmp_path, make_run, machine, silent, monkeypatch):
    run = make_run(tmp_path / "run", on_nonfinite="rewind")
    session = set_up(run, machine, silent)
    monkeypatch.setattr("tinygpt.loss.TrainingLoss.forward", lambda loss, x, y: loss.model(x).sum() * math.nan)
    with pytest.raises(UserError, match="after going back 5 times training stopped") as error:
        train(session)
    assert error.value.exit_code == 70 and session.progress.rate == 1 / 32


# --- recordings ------------------------------------------------------------------------------------------------------


def test_recordings_are_forgotten_when_tensors_have_moved(tmp_path, make_run, machine, silent, monkeypatch):
    """After a rewind the optimizer's memory is elsewhere, after a halving the gradients: what was recorded would read
    what is no longer there."""

    class Played:  # as capture.Recorded, which needs a GPU
        def __init__(self, work):
            self.work, self.forgotten = work, 0

        def __call__(self, *tensors):
            return self.work(*tensors)

        def forget(self):
            self.forgotten += 1

    monkeypatch.setattr("tinygpt.session.Recorded", Played)
    run = make_run(tmp_path / "run", save_every=4, on_nonfinite="rewind")
    session = set_up(run, machine, silent)
    session.differentiate, session.update = Played(session.differentiate), Played(session.update)
    sick_batches(monkeypatch, {6, 7, 8})
    assert train(session) == 0
    assert session.differentiate.forgotten == session.update.forgotten == 1

    def scarce(s):
        if not s.progress.micro_batch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return "fits"

    assert guards.within_memory(session, scarce) == "fits"
    assert session.differentiate.forgotten == session.update.forgotten == 2
