"""The optimizer's groups and the learning rate as a function of the step."""

import pytest
import torch

from tinygpt.config import PRESETS, TrainConfig
from tinygpt.optim import learning_rate, make_optimizer


@pytest.mark.parametrize("preset", PRESETS)
def test_decay_pulls_at_matrices_alone(make_model, preset):
    """Decayed norm weights drift to 0, and decayed embedding rows of rare tokens and late positions vanish."""
    model = make_model(preset)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.3))
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, free = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert sorted(decayed + free) == sorted(names.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    kinds = ("query", "key", "value", "output", "up", "down", "gate", "head")
    assert all(any(f"{kind}." in name for kind in kinds) and name.endswith("weight") for name in decayed)
    tables = ("embedding.weight", "positions.table.weight")
    assert all("norm" in name or name.endswith("bias") or name in tables for name in free)


def test_settings_reach_the_optimizer(make_model):
    optimizer = make_optimizer(make_model(), TrainConfig(lr=0.5, beta1=0.8, beta2=0.7))
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (0.5, (0.8, 0.7))


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


def rates(**fields):
    config = TrainConfig(lr=1.0, **fields)
    return [learning_rate(step, config) for step in range(config.max_steps)]


def test_warm_up_flat_decay_by_hand():
    assert rates(max_steps=10, warmup_steps=2, decay=0.5) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_constant_rate():
    assert rates(max_steps=5, warmup_steps=0, decay=0.0) == [1.0] * 5


def test_the_rate_is_never_0_inside_a_run_and_0_after_it():
    """An off-by-one at either end would waste the first or the last step."""
    for warmup_steps, decay in ((3, 1.0), (0, 0.2), (7, 0.9)):
        assert min(rates(max_steps=20, warmup_steps=warmup_steps, decay=decay)) > 0
    assert learning_rate(20, TrainConfig(max_steps=20, warmup_steps=0, decay=0.2)) == 0
    assert learning_rate(99, TrainConfig(max_steps=20, warmup_steps=0, decay=0.2)) == 0


def test_a_warm_up_longer_than_the_run():
    assert rates(max_steps=3, warmup_steps=10, decay=0.0) == pytest.approx([0.1, 0.2, 0.3])
