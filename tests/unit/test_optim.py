"""The optimizer's groups and the learning rate as a function of the step."""

import pytest
import torch

from tinygpt.config import PRESETS, TrainConfig
from tinygpt.optim import AdamW, Muon, make_optimizer, newest_share, orthogonalise, schedule


@pytest.mark.parametrize("preset", PRESETS)
def test_decay_pulls_at_matrices_alone(make_model, preset):
    """Decayed norm weights drift to 0, and decayed rows of late positions, seldom looked up, vanish."""
    model = make_model(preset)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.3, muon_decay=0.2))
    names = {id(p): name for name, p in model.named_parameters()}
    hidden, head, free = ([names[id(p)] for p in group.parameters] for group in optimizer.groups)
    assert sorted(hidden + head + free) == sorted(names.values())
    assert [type(group) for group in optimizer.groups] == [Muon, AdamW, AdamW]
    assert [group.decay for group in optimizer.groups] == [0.2, 0.3, 0.0]
    assert all(name.startswith("blocks.") for name in hidden)
    assert head in (["embedding.weight", "head.weight"], ["embedding.weight"])  # gpt2 is tied
    decayed = hidden + head
    kinds = ("query", "key", "value", "output", "up", "down", "gate", "head", "embedding")
    assert all(any(f"{kind}." in name for kind in kinds) and name.endswith("weight") for name in decayed)
    assert all("norm" in name or name.endswith("bias") or name == "positions.table.weight" for name in free)


def test_settings_reach_the_optimizer(make_model):
    optimizer = make_optimizer(make_model(), TrainConfig(lr=0.5, beta1=0.8, beta2=0.7))
    for group in optimizer.groups[1:]:
        assert (group.lr, group.peak, group.betas) == (0.5, 0.5, (0.8, 0.7))
    muon = make_optimizer(make_model(), TrainConfig(muon_lr=0.3, muon_momentum=0.6)).groups[0]
    assert (muon.lr, muon.peak, muon.momentum) == (0.3, 0.3, 0.6)


def test_one_update_is_adamw_by_hand():
    """theta <- theta - lr wd theta - lr m_hat / (sqrt(v_hat) + eps); at step 1 m_hat / sqrt(v_hat) is the sign."""
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    optimizer = make_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5))
    model.weight.grad = torch.tensor([[0.3, -4.0]])
    optimizer.step()
    expected = torch.tensor([[1.0 * (1 - 0.05) - 0.1, -2.0 * (1 - 0.05) + 0.1]])
    torch.testing.assert_close(model.weight.data, expected, atol=1e-6, rtol=0)


def test_adamw_is_torchs(make_model):
    """Bit for bit, over steps with other rates, with decay and without."""
    model, other = make_model("gpt2"), make_model("gpt2")
    ours = make_optimizer(model, TrainConfig(lr=0.01, muon_lr=0.0, weight_decay=0.3, beta1=0.8, beta2=0.9))
    decayed, free = ([dict(zip(model.parameters(), other.parameters(), strict=True))[p] for p in group.parameters]
                     for group in ours.groups)  # fmt: skip
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": free, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), fused=True)
    generator = torch.Generator().manual_seed(1)
    for share in (1.0, 0.5, 0.1):
        ours.set_rate(share)
        for group in theirs.param_groups:
            group["lr"] = 0.01 * share
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def rates(**fields):
    config = TrainConfig(**fields)
    return [schedule(step, config) for step in range(config.max_steps)]


def test_warm_up_flat_decay_by_hand():
    assert rates(max_steps=10, warmup_steps=2, decay=0.5) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_constant_rate():
    assert rates(max_steps=5, warmup_steps=0, decay=0.0) == [1.0] * 5


def test_the_rate_is_never_0_inside_a_run_and_0_after_it():
    """An off-by-one at either end would waste the first or the last step."""
    for warmup_steps, decay in ((3, 1.0), (0, 0.2), (7, 0.9)):
        assert min(rates(max_steps=20, warmup_steps=warmup_steps, decay=decay)) > 0
    assert schedule(20, TrainConfig(max_steps=20, warmup_steps=0, decay=0.2)) == 0
    assert schedule(99, TrainConfig(max_steps=20, warmup_steps=0, decay=0.2)) == 0


def test_a_warm_up_longer_than_the_run():
    assert rates(max_steps=3, warmup_steps=10, decay=0.0) == pytest.approx([0.1, 0.2, 0.3])


# --- the mean of the weights -----------------------------------------------------------------------------------------


def test_the_mean_is_first_of_all_weights_then_of_the_newest():
    """Shares 1, 1/2, 1/3 make a plain mean; from then on the newest of 30 steps counts a third."""
    config = TrainConfig(max_steps=30, average=0.1)
    assert [newest_share(step, config) for step in (0, 1, 2, 3, 29)] == [1, 0.5, pytest.approx(1 / 3)] + [1 / 3] * 2
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = make_optimizer(model, TrainConfig(lr=0.0, average=0.1))
    seen = []
    for step, value in enumerate((3.0, 6.0, 0.0, 12.0)):
        model.weight.data.fill_(value)  # as if the update had put it there: its own rate is 0
        model.weight.grad = torch.zeros(1, 1)
        optimizer.set_rate(1.0, newest_share(step, config))
        optimizer.step()
        with optimizer.averaged():
            seen.append(model.weight.item())
        assert model.weight.item() == value
    assert seen == pytest.approx([3, 4.5, 3, 6])


def test_the_weights_come_back_also_after_an_error(make_model):
    model = make_model()
    optimizer = make_optimizer(model, TrainConfig(lr=0.1))
    for factor in (1.0, -1.0):
        model(torch.arange(9)[None]).square().mean().mul(factor).backward()
        optimizer.set_rate(1.0, 0.5)
        optimizer.step()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt), optimizer.averaged():
        assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        raise KeyboardInterrupt
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_without_a_mean_the_weights_are_looked_at_themselves(make_model):
    model = make_model()
    optimizer = make_optimizer(model, TrainConfig(average=0.0))
    model(torch.arange(9)[None]).square().mean().backward()
    optimizer.step()
    place = model.head.weight.data_ptr()
    with optimizer.averaged():
        assert model.head.weight.data_ptr() == place
    assert "mean" not in optimizer.state[model.head.weight]


# --- Muon ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 24), (2, 24, 8), (1, 1, 5)])
def test_orthogonalised_matrices_are_nearly_orthogonal(shape):
    """Same singular vectors, singular values near 1: U S V^T -> about U V^T."""
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator, dtype=torch.float64)
    result = orthogonalise(matrices)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.einsum("nri,nrc,nic->ni", u, result, vh)  # singular values in the basis of the input
    usable = s / s.norm(dim=1, keepdim=True) > 0.01
    assert values[usable].min() > 0.6 and values[usable].max() < 1.25
    torch.testing.assert_close(result, u @ torch.diag_embed(values) @ vh)
    torch.testing.assert_close(orthogonalise(1e3 * matrices), result)  # scale does not matter


def test_batched_muon_is_muon_one_by_one_as_torch_does_it(make_model):
    """torch.optim.Muon works in bf16 and on one matrix after the other: equal within the errors of that format."""
    model, other = make_model(), make_model()
    config = TrainConfig(muon_lr=0.05, muon_momentum=0.9, muon_decay=0.2, lr=0.01)
    ours = make_optimizer(model, config, bf16=True)
    hidden = [p for name, p in other.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
    theirs = torch.optim.Muon(hidden, lr=0.05, momentum=0.9, weight_decay=0.2, adjust_lr_fn="original")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for (_, p), (_, q) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    for (name, p), (_, q) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        if name.startswith("blocks.") and p.dim() == 2:
            off = (p - q).norm() / (q - before[name]).norm()
            assert off < 0.04, name  # 0.024 measured; without the factor of the shape it is 0.4
        else:
            assert not torch.equal(p, before[name])  # AdamW's share


def test_muon_by_hand():
    """One row: orthogonal means a unit vector, and the quintic's five rounds of a single value are plain numbers."""
    model = torch.nn.ModuleDict({"blocks": torch.nn.Linear(2, 1, bias=False)})
    weight = model["blocks"].weight
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, -2.0]]))
    optimizer = make_optimizer(model, TrainConfig(muon_lr=0.1, muon_momentum=0.5, muon_decay=0.5))
    weight.grad = torch.tensor([[3.0, -4.0]])
    optimizer.set_rate(0.5)
    optimizer.step()
    x = 1.0
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    expected = torch.tensor([[1.0, -2.0]]) * (1 - 0.05 * 0.5) - 0.05 * x * torch.tensor([[0.6, -0.8]])
    torch.testing.assert_close(weight.data, expected)


def test_the_rate_moves_every_group_along_one_schedule(make_model):
    optimizer = make_optimizer(make_model(), TrainConfig(lr=0.4, muon_lr=0.2))
    optimizer.set_rate(0.25)
    assert [group.lr for group in optimizer.groups] == [0.05, 0.1, 0.1]
    optimizer.set_rate(1.0)
    assert [group.lr for group in optimizer.groups] == [0.2, 0.4, 0.4]
