"""The fast paths compute what the plain loop computes: the loss in pieces, bf16 on a CPU, compiled blocks."""

import gc
import shutil

import pytest
import torch
import torch.nn.functional as F

from tinygpt.config import PRESETS, make_config
from tinygpt.distributed import Machine
from tinygpt.loss import AttentionByFormula, LinearCrossEntropy, TrainingLoss, next_token_loss
from tinygpt.model import CausalAttention, NoCache
from tinygpt.records import read
from tinygpt.train import set_up, train

BF16 = Machine(torch.device("cpu"), bf16=True, why="")
NEEDS_COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="NO C++ COMPILER: compiled blocks untested",
)


def batch(vocab_size=259, B=3, T=16):
    tokens = torch.randint(vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(5))
    return tokens[:, :-1], tokens[:, 1:]


def gradients(model, loss):
    """Loss, and the gradient of every parameter by name."""
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal(measured, expected, **tolerance):
    torch.testing.assert_close(measured[0], expected[0], **tolerance)
    for name in expected[1]:
        torch.testing.assert_close(measured[1][name], expected[1][name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize("added", [0, 3])
@pytest.mark.parametrize("rows", [1, 5, 12, 100])
def test_the_loss_in_pieces_is_the_loss(rows, added, monkeypatch):
    """Pieces that do not divide the rows, one piece, rows of zeros as on a GPU, a loss that is divided afterwards."""
    monkeypatch.setattr("tinygpt.loss.rows_added", lambda *_: added)
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (12, 31))
    targets = torch.randint(31, (12,), generator=generator)
    found = []
    for pieces in (True, False):
        x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = LinearCrossEntropy.apply(x, w, targets, rows) if pieces else F.cross_entropy(x @ w.T, targets)
        (loss / 3).backward()
        found.append((loss.detach().double(), x.grad, w.grad))
    for measured, expected in zip(*found, strict=True):
        torch.testing.assert_close(measured, expected, atol=1e-6, rtol=1e-5)  # its scores are fp32


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tied", [False, True])
def test_fast_is_plain_in_every_preset(make_model, machine, preset, tied):
    model = make_model(preset, tied=tied)
    plain, fast = (gradients(model, TrainingLoss(model, machine, fast)(*batch())) for fast in (False, True))
    assert_equal(plain, gradients(model, next_token_loss(model, *batch())), atol=0, rtol=0)
    assert_equal(fast, plain, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_bf16_is_fp32_within_its_digits(make_model, machine, preset):
    """8 bits of mantissa: the losses agree to a few thousandths, the gradients point the same way."""
    model = make_model(preset, std=0.1)
    loss, exact = gradients(model, TrainingLoss(model, machine)(*batch()))
    for fast in (False, True):
        rough_loss, rough = gradients(model, TrainingLoss(model, BF16, fast)(*batch()))
        assert rough_loss.item() == pytest.approx(loss.item(), rel=5e-3)
        for name, expected in exact.items():
            if expected.norm() > 1e-6:  # a key's bias has a gradient of nothing but rounding
                assert F.cosine_similarity(rough[name].flatten(), expected.flatten(), dim=0) > 0.99, name
        assert all(g.dtype == torch.float32 for g in rough.values())


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_attention_by_its_formula_is_attention(n_kv_heads):
    """A whole text, and one new token after it; forward and backward."""
    config = make_config("modern", {"n_embd": 32, "n_heads": 4, "n_kv_heads": n_kv_heads}).model
    generator = torch.Generator().manual_seed(1)
    for new in (9, 1):
        shapes = ((2, 4, new, 8), (2, n_kv_heads, 9, 8), (2, n_kv_heads, 9, 8))
        found = []
        for kind in (CausalAttention, AttentionByFormula):
            generator.manual_seed(1)
            q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
            y = kind(config).look(q, k, v, NoCache())
            (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
            found.append((y.detach(), q.grad, k.grad, v.grad))
        for measured, expected in zip(*found, strict=True):
            torch.testing.assert_close(measured, expected)


@NEEDS_COMPILER
@pytest.mark.filterwarnings("ignore")  # torch's compiler looks at everything and leaves files of its processes open
def test_compiled_blocks_are_the_blocks(make_model, machine):
    model = make_model("modern").train()
    plain = gradients(model, TrainingLoss(model, machine)(*batch()))
    compiled = TrainingLoss(model, machine, compiled=True)
    assert_equal(gradients(model, compiled(*batch())), plain, atol=1e-5, rtol=1e-4)
    gc.collect()  # here, where nobody minds what it leaves
    assert {name for name, _ in compiled.named_parameters()} == {
        f"model.{name}" for name, _ in model.named_parameters()
    }


def test_a_run_with_the_fast_loss_is_the_plain_run(tmp_path, make_run, machine, silent):
    losses = {}
    for fast in (True, False):
        run = make_run(tmp_path / str(fast), fast=fast, dropout=0.1, micro_batch=2)
        assert train(set_up(run, machine, silent)) == 0
        losses[fast] = [r["loss"] for r in read(run.folder / "metrics.jsonl") if r["kind"] == "train"]
    assert losses[True] == pytest.approx(losses[False], abs=1e-4) and len(losses[True]) == 12
    assert losses[True][-1] < losses[True][0] - 0.5
