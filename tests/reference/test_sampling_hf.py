"""Every filter equals Hugging Face's processor or warper on random, tied and extreme logits."""

import math

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed, so sampling is compared with nothing")

from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tinygpt.sampling import (
    Sampling,
    add_bias,
    apply_temperature,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
)


def cases():
    """(name, logits (B, V), context (B, T)): what filters stumble over."""
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(6, 97, generator=g) * 3
    context = torch.randint(0, 97, (6, 12), generator=g)
    forbidden = normal.masked_fill(torch.rand(6, 97, generator=g) < 0.5, -math.inf)
    return [
        ("random", normal, context),
        ("many ties", (normal / 2).round(), context),
        ("all equal", torch.zeros(2, 97), context[:2]),
        ("huge", normal * 1e4, context),
        ("tiny", normal * 1e-6, context),
        ("some forbidden", forbidden, context),
        ("one token", torch.randn(3, 1, generator=g), torch.zeros(3, 2, dtype=torch.long)),
        ("two tokens", torch.tensor([[0.0, 0.0], [5.0, -5.0]]), torch.tensor([[0], [1]])),
        ("no context", normal, context[:, :0]),
    ]


CASES = pytest.mark.parametrize(("logits", "context"), [pytest.param(*rest, id=name) for name, *rest in cases()])


def same(ours, theirs):
    """Equal, and equally forbidden."""
    assert torch.equal(ours == -math.inf, theirs == -math.inf)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)


@CASES
@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 7.0])
def test_temperature(logits, context, temperature):
    same(apply_temperature(logits, temperature), TemperatureLogitsWarper(temperature)(context, logits))


@CASES
@pytest.mark.parametrize("k", [1, 2, 5, 97, 1000])
def test_top_k(logits, context, k):
    same(keep_top_k(logits, k), TopKLogitsWarper(k)(context, logits))


@CASES
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p(logits, context, p):
    same(keep_top_p(logits, p), TopPLogitsWarper(p)(context, logits))


@CASES
@pytest.mark.parametrize("p", [1e-6, 0.05, 0.5, 1.0])
def test_min_p(logits, context, p):
    same(keep_min_p(logits, p), MinPLogitsWarper(p)(context, logits))


@CASES
@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0, 50.0])
def test_repetition_penalty(logits, context, penalty):
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(context, logits.clone())
    same(penalise_repetition(logits, context, penalty), theirs)


@CASES
def test_all_together_in_the_same_order(logits, context):
    """top-p after top-k and min-p after top-p keep other sets than the other way round."""
    s = Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.1, repetition_penalty=1.3)
    theirs = LogitsProcessorList([
        RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7), TopKLogitsWarper(20),
        TopPLogitsWarper(0.8), MinPLogitsWarper(0.1),
    ])  # fmt: skip
    same(filter_logits(logits, context, s), theirs(context, logits.clone()))


@CASES
def test_bias(logits, context):
    bias = {0: 2.5, logits.shape[1] - 1: -7.0}
    theirs = SequenceBiasLogitsProcessor({(id,): value for id, value in bias.items()})
    same(add_bias(logits, bias), theirs(context, logits.clone()))
