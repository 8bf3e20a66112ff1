"""On a GPU: a step played from a recording is the plain step, and our kernel is its formula."""

import pytest
import torch
import torch.nn.functional as F

from tinygpt import kernels
from tinygpt.capture import WARM_UPS, Recorded
from tinygpt.config import TrainConfig
from tinygpt.distributed import choose_machine
from tinygpt.records import read
from tinygpt.train import set_up, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: recorded steps untested")


@pytest.fixture
def gpu():
    """The device of this file, its generator as it was."""
    with torch.random.fork_rng(devices=[0]):
        yield torch.device("cuda")


def test_what_is_recorded_is_what_is_called(gpu):
    weight = torch.ones(5, device=gpu)

    def work(x):
        weight.add_(x)
        return F.dropout(weight, 0.5), weight * 2

    played = Recorded(work, gpu)
    for call in range(WARM_UPS + 4):
        x = torch.full((5,), float(call))
        before = weight.clone()
        torch.manual_seed(call)
        found = [t.clone() for t in played(x)]
        after = weight.clone()
        weight.copy_(before)
        torch.manual_seed(call)
        expected = work(x.to(gpu))
        assert torch.equal(weight, after)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), call
    assert played.graph is not None


def run_of(make_run, folder, silent, **fields):
    """Losses, gradient norms and weights of a short training."""
    run = make_run(folder, **{"max_steps": 40, "log_every": 1, "deterministic": True, "threads": 1, **fields})
    session = set_up(run, choose_machine(run.config.train), silent)
    assert train(session) == 0
    lines = [(r["loss"], r["grad_norm"]) for r in read(run.folder / "metrics.jsonl") if r["kind"] == "train"]
    return session, lines, {name: p.detach().clone() for name, p in session.model.named_parameters()}


@pytest.mark.parametrize("preset", ["tutorial", "gpt2", "modern"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_run_is_the_plain_run(tmp_path, make_run, silent, monkeypatch, preset, precision):
    """Bit for bit, with dropout, several micro-steps and clipping."""
    fields = {"device": "cuda", "preset": preset, "dropout": 0.1, "micro_batch": 2, "precision": precision}
    recorded, lines, weights = run_of(make_run, tmp_path / "recorded", silent, **fields)
    assert isinstance(recorded.update, Recorded) and recorded.update.graph is not None
    monkeypatch.setattr("tinygpt.capture.WARM_UPS", 10**9)
    plain, plain_lines, plain_weights = run_of(make_run, tmp_path / "plain", silent, **fields)
    assert plain.update.graph is None and len(lines) == 40
    assert lines == plain_lines
    assert all(torch.equal(weights[name], plain_weights[name]) for name in weights)
    healths = [
        [r for r in read(tmp_path / name / "metrics.jsonl") if r["kind"] == "health"] for name in ("recorded", "plain")
    ]
    assert healths[0] == healths[1] and healths[0][-1]["step"] == 40
    assert min(healths[0][-1]["update_norm"].values()) > 0  # the update was played between the two measurements


def test_less_memory_than_needed_records_anew(tmp_path, make_run, silent, monkeypatch):
    """The micro-batch is halved amid a run that is already played; the losses stay those of the smaller one."""
    from tinygpt import train as module

    real, calls = module.differentiate, []

    def scarce(s, firsts):
        calls.append(s.progress.micro_batch)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(s, firsts)

    monkeypatch.setattr(module, "differentiate", scarce)
    session, lines, _ = run_of(make_run, tmp_path / "scarce", silent, device="cuda", batch_size=4, precision="fp32")
    assert session.progress.micro_batch == 2 and session.differentiate.graph is not None
    monkeypatch.setattr(module, "differentiate", real)
    _, smaller, _ = run_of(
        make_run, tmp_path / "2", silent, device="cuda", batch_size=4, micro_batch=2, precision="fp32"
    )
    assert [loss for loss, _ in lines] == pytest.approx([loss for loss, _ in smaller], abs=1e-5)


@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("V", [5, 259, 4096, 8000, 50257, 70001])
def test_the_kernel_is_the_formula(gpu, number_format, V):
    scores = (3 * torch.randn(100, V + 7, device=gpu)).to(number_format)[:, :V]  # rows that stand apart
    targets = torch.randint(V, (100,), device=gpu)
    exact = scores.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none")
    expected.sum().backward()
    behind = torch.full((100, V + 7), 5.0, device=gpu, dtype=number_format)
    played = behind[:, :V].copy_(scores)
    nats = kernels.loss_and_gradient(played, targets, V)
    assert (behind[:, V:] == 5.0).all()
    torch.testing.assert_close(nats, expected.detach().float(), atol=1e-5, rtol=1e-5)
    tolerance = {"atol": 4e-3, "rtol": 8e-3} if number_format is torch.bfloat16 else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(played.double(), exact.grad, **tolerance)


def test_the_device_is_said(gpu):
    assert choose_machine(TrainConfig()).device.type == "cuda"
