"""Does it learn? A fair start, no look into the future, one batch by heart, and a task with a known answer."""

import itertools
import math
from dataclasses import fields

import pytest
import torch
from torch.nn.functional import cross_entropy

from tinygpt.config import PRESETS, SIZES, ModelConfig, TrainConfig
from tinygpt.loss import next_token_loss
from tinygpt.model import TinyGPT
from tinygpt.optim import make_optimizer, schedule

AXES = {
    "positions": ["learned", "rotary"],
    "norm": ["layernorm", "rmsnorm"],
    "norm_place": ["before", "after"],
    "feed_forward": ["gelu", "gelu_tanh", "swiglu"],
    "qk_norm": [False, True],
}
COMBINATIONS = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
EVERY_COMBINATION = pytest.mark.parametrize("axes", COMBINATIONS, ids=lambda axes: "-".join(map(str, axes.values())))


def new_model(preset="tutorial", seed=0, **fields):
    torch.manual_seed(seed)
    shape = {"vocab_size": 259, "n_embd": 64, "n_layers": 2, "block_size": 32, **fields}
    return TinyGPT(ModelConfig.from_dict(shape, preset))


def random_ids(rows, length, vocab_size=259, seed=0):
    return torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def start_loss(model, rows=16):
    """Nats per token on random text."""
    ids = random_ids(rows, 33, model.config.vocab_size)
    with torch.no_grad():
        return next_token_loss(model.eval(), ids[:, :-1], ids[:, 1:]).item()


def test_the_table_of_axes_is_complete():
    """A choice that the config has and this file has not would go untested."""
    choices = {f.name: list(f.metadata["choices"]) for f in fields(ModelConfig) if f.metadata["choices"]}
    assert choices == {name: values for name, values in AXES.items() if name != "qk_norm"} and len(COMBINATIONS) == 48


@EVERY_COMBINATION
@pytest.mark.parametrize("bias", [True, False])
def test_the_first_loss_is_ln_v(axes, bias):
    """No token is preferred before anything is learnt; large initial weights would cost hundreds of steps."""
    assert start_loss(new_model(**axes, bias=bias)) == pytest.approx(math.log(259), abs=0.1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_ln_v_at_every_size(preset, size, tied):
    """A tied head sees its own input again: the wider the model, the more the last token is preferred."""
    loss = start_loss(new_model(preset, **SIZES[size], tied=tied), rows=64)  # wide logits need more tokens to average
    assert loss == pytest.approx(math.log(SIZES[size]["vocab_size"]), abs=0.1)


@EVERY_COMBINATION
def test_the_future_changes_no_past_logit(make_model, axes):
    """Exactly 0: a leak of one position makes the training loss wonderful and the text rubbish."""
    model, ids = make_model("tutorial", **axes), random_ids(2, 12)
    with torch.no_grad():
        logits = model(ids)
        for t in (1, 6, 11):
            changed = ids.clone()
            changed[:, t:] = (changed[:, t:] + 1) % 259
            assert torch.equal(model(changed)[:, :t], logits[:, :t])
            assert not torch.equal(model(changed)[:, t:], logits[:, t:])


@EVERY_COMBINATION
def test_every_parameter_gets_a_gradient(axes):
    """A part that is built and never used, or cut off from the loss, would stay as it was for ever."""
    model, ids = new_model(**axes), random_ids(2, 13)
    next_token_loss(model, ids[:, :-1], ids[:, 1:]).backward()
    # a key bias shifts all scores of a query alike, so its true gradient is 0
    dead = [n for n, p in model.named_parameters() if (p.grad is None or not p.grad.any()) and "key.bias" not in n]
    assert not dead


def steps(model, config, batch):
    """Train with the package's optimizer and rate; returns the last loss."""
    optimizer = make_optimizer(model, config)
    for step in range(config.max_steps):
        loss = batch(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.set_rate(schedule(step, config))
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("preset", PRESETS)
def test_one_batch_is_learnt_by_heart(preset):
    """Below 0.05 nats: a model that cannot do this has a broken gradient somewhere."""
    model, ids = new_model(preset), random_ids(4, 25)
    config = TrainConfig(lr=3e-3, max_steps=150, warmup_steps=10, decay=0.3, weight_decay=0.0)
    assert steps(model, config, lambda _: next_token_loss(model, ids[:, :-1], ids[:, 1:])) < 0.05


@pytest.mark.parametrize("preset", PRESETS)
def test_copying_is_learnt(preset):
    """w w for random words w: only attention to the right earlier place can do it, and the answer is known."""
    n, letters = 6, 12
    model = new_model(preset, block_size=16)

    def words(rows, seed):
        word = 3 + random_ids(rows, n, letters, seed)
        return torch.cat((torch.zeros(rows, 1, dtype=torch.long), word, torch.ones(rows, 1, dtype=torch.long), word), 1)

    def batch(step):
        ids = words(64, step)
        logits = model(ids[:, :-1])[:, n:]  # the second word, and the mark before it
        return cross_entropy(logits.flatten(0, 1), ids[:, n + 1 :].flatten())

    config = TrainConfig(lr=3e-3, max_steps=450, warmup_steps=20, decay=0.3, weight_decay=0.01)
    steps(model, config, batch)
    ids = words(100, seed=10**6)
    with torch.no_grad():
        right = model.eval()(ids[:, :-1])[:, n + 1 :].argmax(-1) == ids[:, n + 2 :]
    assert right.float().mean() > 0.99
