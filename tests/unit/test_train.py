"""The loop's guards: what is not finite never touches the weights, a wrong device is caught, the best is kept."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tinygpt import checkpoint, distributed
from tinygpt import train as training
from tinygpt.config import PRESETS, ModelConfig, TrainConfig
from tinygpt.data import Windows
from tinygpt.distributed import Machine, choose_machine
from tinygpt.errors import UserError
from tinygpt.evaluate import Score
from tinygpt.health import snapshot_steps
from tinygpt.loss import TrainingLoss
from tinygpt.model import TinyGPT
from tinygpt.records import read
from tinygpt.session import check_device
from tinygpt.storage import sha256
from tinygpt.train import gather_gradient, set_up, stop_early, train


def digest(model):
    return sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))


def records(session, kind):
    return [r for r in read(session.run.folder / "metrics.jsonl") if r["kind"] == kind]


# --- steps that are not finite ---------------------------------------------------------------------------------------


class Faulty:
    """The training loss with a fault at some of its calls; remembers the weights' digest at every call."""

    def __init__(self, monkeypatch, faults, factor=math.inf):
        self.real, self.faults, self.factor, self.digests = TrainingLoss.forward, faults, factor, []
        monkeypatch.setattr(TrainingLoss, "forward", lambda loss, *batch: self(loss, *batch))

    def __call__(self, loss, *batch):
        call = len(self.digests)
        self.digests.append(digest(loss.model))
        return self.real(loss, *batch) * (self.factor if call in self.faults else 1)


@pytest.mark.parametrize("factor", [math.inf, -math.inf, math.nan])
def test_one_bad_step_leaves_the_weights_and_is_counted(tmp_path, make_run, machine, silent, monkeypatch, factor):
    """The batch is skipped: weights and moments stay as they were, and the next step goes on from them."""
    session = set_up(make_run(tmp_path / "run"), machine, silent)
    faulty = Faulty(monkeypatch, {5}, factor)
    assert train(session) == 0
    assert faulty.digests[5] == faulty.digests[6] != faulty.digests[7]
    assert len(faulty.digests) == 12 and session.progress.step == 12 and session.progress.refused == 0
    assert {state["step"].item() for state in session.optimizer.state.values() if "step" in state} == {11}
    assert all(p.isfinite().all() for p in session.model.parameters()) and math.isfinite(session.progress.train_loss)
    (event,) = records(session, "event")
    assert event["step"] == 5 and "step 5 refused" in event["text"] and "loss" in event["non_finite"]
    assert "step 5 refused" in silent.heard.getvalue()


def test_three_in_a_row_end_the_run_with_the_last_good_weights(tmp_path, make_run, machine, silent, monkeypatch):
    session = set_up(make_run(tmp_path / "run"), machine, silent)
    with monkeypatch.context() as patch:
        faulty = Faulty(patch, range(6, 99))
        with pytest.raises(UserError, match="3 in a row") as error:
            train(session)
    assert error.value.exit_code == 70 and "lr=0.0003" in str(error.value) and "step 8" in str(error.value)
    assert len(faulty.digests) == 9 and faulty.digests[6] == faulty.digests[8] == digest(session.model)
    assert [r["step"] for r in records(session, "event")] == [6, 7, 8]
    loaded, rejected = checkpoint.load(session.run.folder, "last", session.run.digests)
    assert rejected == [] and loaded.step == 8
    assert all(t.isfinite().all() for t in [*loaded.model.values(), *loaded.optim.values()])
    with session.optimizer.averaged():
        assert torch.equal(loaded.model["embedding.weight"], session.model.embedding.weight)
    again = set_up(session.run, machine, silent, resume=True)  # and it can go on from there
    assert train(again) == 0 and again.progress.step == 12


def test_two_in_a_row_are_forgiven_again_and_again(tmp_path, make_run, machine, silent, monkeypatch):
    """The count is of steps in a row: a good one between starts it afresh."""
    session = set_up(make_run(tmp_path / "run"), machine, silent)
    Faulty(monkeypatch, {1, 2, 4, 5, 9, 10})
    assert train(session) == 0
    assert len(records(session, "event")) == 6


@pytest.mark.parametrize("grad_clip", [1.0, 0.0])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_bad_gradient_under_a_finite_loss_is_refused_and_located(tmp_path, make_run, machine, silent, grad_clip, bad):
    """Clipping with a norm of inf or NaN spreads NaN over every parameter: then the first one would be blamed."""
    session = set_up(make_run(tmp_path / "run", grad_clip=grad_clip), machine, silent)
    before, calls = digest(session.model), []

    def spoil(gradient):
        calls.append(1)
        return gradient * bad if len(calls) == 1 else gradient

    session.model.blocks[1].feed_forward.down.weight.register_hook(spoil)
    gathered = gather_gradient(session)
    assert math.isfinite(gathered[0]) and not math.isfinite(gathered[1])
    training.refuse_step(session, *gathered)
    assert digest(session.model) == before and session.progress.refused == 1
    assert "first in blocks.1.feed_forward.down.weight" in records(session, "event")[0]["text"]


def test_gradients_are_clipped_to_the_norm(tmp_path, make_run, machine, silent):
    """The recorded norm is the one before clipping; what is left in the parameters has the limit's."""
    norms = {}
    for grad_clip in (0.0, 0.01, 1e6):
        session = set_up(make_run(tmp_path / str(grad_clip), grad_clip=grad_clip), machine, silent)
        recorded = gather_gradient(session)[1]
        session.update(torch.tensor(recorded))
        left = torch.stack([p.grad.norm() for p in session.model.parameters()]).norm().item()
        norms[grad_clip] = (recorded, left)
    assert norms[0.01][1] == pytest.approx(0.01, rel=1e-3)
    assert norms[0.0] == pytest.approx(norms[1e6])
    assert norms[0.0][0] == pytest.approx(norms[0.0][1]) and norms[0.0][0] > 0.1
    assert norms[0.01][0] == pytest.approx(norms[0.0][0])


# --- the mean of the weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lags", [False, True])
def test_a_mean_that_lags_begins_anew_and_the_better_one_is_kept(
    tmp_path, make_run, machine, silent, monkeypatch, lags
):
    session = set_up(make_run(tmp_path / "run", max_steps=4, eval_every=4, average=1.0), machine, silent)
    seen, weights = [], session.model.embedding.weight

    def judged(model, tokenizer, ids, machine):
        in_the_model = weights.detach().clone()
        seen.append(in_the_model)
        nats = {1: 900.0, 2: 500.0, 3: 400.0 if lags else 600.0}[len(seen)]  # at step 0; the mean; the weights
        return Score(nats, 100, 400)

    monkeypatch.setattr(training, "score", judged)
    assert train(session) == 0
    assert len(seen) == 3 and not torch.equal(seen[1], seen[2]) and torch.equal(seen[2], weights)
    assert records(session, "eval")[-1]["val_loss"] == (4.0 if lags else 5.0)
    kept = checkpoint.load(session.run.folder, "last", session.run.digests)[0].model["embedding.weight"]
    assert torch.equal(kept, seen[2] if lags else seen[1])


# --- the device self-check -------------------------------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch):
    """A machine that calls itself cuda and computes on the CPU, after `spoil(model)` on the device's side."""

    def make(spoil):
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_: tensor)
        monkeypatch.setattr(TinyGPT, "to", lambda model, *_: spoil(model) or model)
        return Machine(torch.device("cuda"), False, "pretended")

    return make


def some_windows(vocab_size=259):
    return Windows((np.arange(200) * 7 % vocab_size).astype(np.uint16), 16, 0)


def fresh_model(preset, **fields):
    """As it is when the check is made: before step 0, where every loss is about ln V."""
    torch.manual_seed(0)
    shape = {"vocab_size": 259, "n_embd": 64, "n_layers": 2, "block_size": 16, **fields}
    return TinyGPT(ModelConfig.from_dict(shape, preset))


def wrong_activation(model):
    for block in model.blocks:
        block.feed_forward.hidden.forward = torch.relu


def wrong_norm(model):
    model.norm.eps = 0.5


def wrong_order(model):
    model.blocks[0].attention.heads.forward = lambda y: y.flip(1)


def no_attention(model):
    for block in model.blocks:
        block.attention.output.forward = torch.zeros_like


def wrong_matrix(model):
    with torch.no_grad():
        model.head.weight.mul_(1.01)


def not_a_number(model):
    model.norm.forward = lambda x: x * math.nan


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("spoil", [wrong_activation, wrong_norm, wrong_order, no_attention, wrong_matrix, not_a_number])
def test_a_device_that_computes_something_else_is_refused(pretend, preset, spoil):
    """One wrong operator on the device's side, found before step 1 and not after an hour of rubbish."""
    with pytest.raises(UserError, match=r"cuda computes logits that are off by .* cannot be trusted"):
        check_device(fresh_model(preset), pretend(spoil), some_windows())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_faithful_device_is_accepted_with_dropout_too(pretend, preset):
    """Dropout draws other numbers on every device; left on, it would refuse every accelerator."""
    model = fresh_model(preset, dropout=0.5)
    before = digest(model)
    check_device(model, pretend(lambda _: None), some_windows())
    assert model.training and digest(model) == before


def test_the_check_leaves_the_run_as_it_was(pretend):
    """It must spoil a copy, and draw no random number that the run would then lack."""
    model = fresh_model("gpt2", dropout=0.5)
    before, state = digest(model), torch.get_rng_state()
    with pytest.raises(UserError):
        check_device(model, pretend(wrong_matrix), some_windows())
    assert torch.equal(torch.get_rng_state(), state) and digest(model) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_devices_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"device=cuda is not on this machine; it has .*cpu"):
        choose_machine(TrainConfig(device="cuda"))


@pytest.mark.parametrize(
    "error, there", [("CUDA out of memory. Tried to allocate 2 MiB", True), ("no kernel image is available", False)]
)
def test_a_gpu_whose_memory_is_full_is_a_gpu(monkeypatch, error, there):
    def fail(*size, device):
        raise RuntimeError(error)

    monkeypatch.setattr(torch, "ones", fail)
    assert distributed.works("cuda") is there


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_is_taken_where_it_is_fast(monkeypatch, fast):
    monkeypatch.setattr(distributed, "bf16_is_fast", lambda device: fast)
    assert choose_machine(TrainConfig(device="cpu")).bf16 is fast
    assert choose_machine(TrainConfig(device="cpu", precision="bf16")).bf16
    assert not choose_machine(TrainConfig(device="cpu", precision="fp32")).bf16


def test_slow_bf16_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(distributed, "bf16_is_fast", lambda device: False)
    monkeypatch.setattr(distributed, "available_devices", lambda: {"cuda": "old", "cpu": "1 core"})
    assert not choose_machine(TrainConfig()).bf16
    with pytest.raises(UserError, match="precision=bf16 is not native on cuda"):
        choose_machine(TrainConfig(precision="bf16"))


# --- the loop's books ------------------------------------------------------------------------------------------------


def test_what_a_run_records(tmp_path, make_run, machine, silent):
    session = set_up(make_run(tmp_path / "run"), machine, silent)
    assert train(session) == 0
    steps = records(session, "train")
    assert [r["step"] for r in steps] == list(range(1, 13))
    assert [r["tokens"] for r in steps] == [step * 4 * 32 for step in range(1, 13)]
    assert steps[0]["loss"] == pytest.approx(math.log(320), abs=0.1) and steps[-1]["loss"] < steps[0]["loss"]
    config = session.run.config.train
    assert [r["lr"] for r in steps] == [training.schedule(step, config) * config.lr for step in range(12)]
    evals = records(session, "eval")
    assert [r["step"] for r in evals] == [0, 4, 8, 12]
    best = min(evals, key=lambda r: r["val_bpb"])
    assert (session.progress.best_step, session.progress.best_bpb) == (best["step"], best["val_bpb"])
    assert (session.run.folder / "checkpoints" / "BEST").read_text() == f"step-{best['step']:08d}\n"
    assert [r["step"] for r in read(session.run.folder / "samples.jsonl")] == [0, 6, 12]
    assert {p.stem for p in (session.run.folder / "snapshots").iterdir()} == {
        f"step-{step:08d}" for step in snapshot_steps(12)
    }


def test_train_bpb_is_the_training_loss_in_bits_per_byte(tmp_path, make_run, machine, silent):
    """So that the gap to val_bpb is over-fitting and not another unit."""
    session = set_up(make_run(tmp_path / "run"), machine, silent)
    train(session)
    last = records(session, "eval")[-1]
    text = sum(len(session.run.tokenizer.token_bytes(int(id))) for id in session.run.train_ids)
    expected = last["train_loss"] * len(session.run.train_ids) / text / math.log(2)
    assert last["train_bpb"] == pytest.approx(expected)


def test_patience_ends_a_run_that_gets_worse(tmp_path, make_run, machine, silent):
    """lr 0: no validation after the first is better, so the second one in a row ends it; BEST stays the first."""
    session = set_up(make_run(tmp_path / "run", muon_lr=0.0, lr=0.0, patience=2, max_steps=40), machine, silent)
    assert train(session) == 0
    assert session.progress.step == 8 and stop_early(session)
    assert checkpoint.load(session.run.folder, "best")[0].step == 0
    assert checkpoint.load(session.run.folder, "last")[0].step == 8


def test_snapshots_are_log_spaced():
    assert snapshot_steps(1) == {0, 1}
    assert snapshot_steps(4096) == {0, *(2**i for i in range(1, 13))}
    assert max(snapshot_steps(777)) == 777


def test_looking_changes_nothing(tmp_path, make_run, machine, silent):
    """Validating and sampling at every step trains the same weights as doing it never."""
    digests = []
    for name, every in (("a", 1), ("b", 100)):
        run = make_run(tmp_path / name, dropout=0.2, eval_every=every, sample_every=every)
        session = set_up(run, machine, silent)
        train(session)
        digests.append(digest(session.model))
    assert digests[0] == digests[1]


def test_without_a_validation_text_the_last_checkpoint_is_the_best(tmp_path, make_run, machine, silent):
    run = make_run(tmp_path / "run")
    run = dataclasses.replace(run, val_ids=run.val_ids[:0])
    session = set_up(run, machine, silent)
    assert train(session) == 0 and records(session, "eval") == []
    assert checkpoint.load(run.folder, "best")[0].step == 12


def test_the_progress_comes_back(tmp_path, make_run, machine, silent):
    session = set_up(make_run(tmp_path / "run"), machine, silent)
    train(session)
    assert checkpoint.load(session.run.folder)[0].progress == session.progress


def test_a_checkpoint_at_every_new_best(tmp_path, make_run, machine, silent):
    """BEST is the step that best_bpb was measured at, also where save_every does not fall on it."""
    session = set_up(make_run(tmp_path / "run", eval_every=5, save_every=12), machine, silent)
    assert train(session) == 0
    best = session.progress.best_step
    assert best not in (None, 0)
    assert checkpoint.read_pointer(session.run.folder / "checkpoints", "BEST") == checkpoint.folder_name(best)
