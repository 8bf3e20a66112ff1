"""Filters by hand and by property, and the draw by its frequencies."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.errors import UserError
from tinygpt.sampling import (
    Sampling,
    draw,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    log_probabilities,
    penalise_repetition,
)

NONE = torch.zeros(1, 0, dtype=torch.long)  # an empty context


def row(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def kept(logits):
    return logits.isfinite()[0].nonzero()[:, 0].tolist()


def test_top_k_by_hand():
    assert kept(keep_top_k(row(0.1, 0.4, 0.2, 0.3), 2)) == [1, 3]
    assert kept(keep_top_k(row(0.1, 0.4, 0.2, 0.3), 99)) == [0, 1, 2, 3]
    assert kept(keep_top_k(row(0.3, 0.4, 0.3), 2)) == [0, 1, 2]  # a tie with the k-th stays


def test_top_p_by_hand():
    """The smallest set that reaches p: 0.4 + 0.3 < 0.75 <= 0.4 + 0.3 + 0.2."""
    assert kept(keep_top_p(row(0.1, 0.4, 0.2, 0.3), 0.75)) == [1, 2, 3]
    assert kept(keep_top_p(row(0.1, 0.4, 0.2, 0.3), 0.65)) == [1, 3]
    assert kept(keep_top_p(row(0.1, 0.4, 0.2, 0.3), 1e-9)) == [1]  # the likeliest always stays


def test_min_p_by_hand():
    assert kept(keep_min_p(row(0.1, 0.4, 0.21, 0.29), 0.5)) == [1, 2, 3]
    assert kept(keep_min_p(row(0.1, 0.4, 0.21, 0.29), 1.0)) == [1]


def test_repetition_penalty_makes_both_signs_less_likely():
    """Dividing a negative logit by the penalty would make the token likelier."""
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    assert penalise_repetition(logits, torch.tensor([[0, 1, 0]]), 2.0).tolist() == [[1.0, -4.0, 1.0]]
    assert logits.tolist() == [[2.0, -2.0, 1.0]]  # pure


def test_filters_keep_the_rows_apart():
    logits = torch.cat((row(0.1, 0.9), row(0.8, 0.2)))
    for filtered in (keep_top_k(logits, 1), keep_top_p(logits, 0.5), keep_min_p(logits, 0.5)):
        assert filtered.isfinite().tolist() == [[False, True], [True, False]]


LOGITS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    LOGITS,
    st.sampled_from([0.0, 1e-6, 0.3, 1.0, 100.0]),
    st.integers(0, 50),
    st.floats(0.001, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from([0.01, 0.5, 1.0, 1.3, 100.0]),
    st.floats(-2, 2, width=32),
    st.floats(-100, 100, width=32),
)
def test_something_can_always_be_drawn(values, temperature, top_k, top_p, min_p, penalty, written, bias):
    """No combination of legal settings forbids every token or makes softmax NaN, and a forbidden one is not drawn."""
    logits, context = torch.tensor([values]), torch.tensor([[0, len(values) - 1]])
    s = Sampling(temperature, top_k, top_p, min_p, penalty, written, -written, {0: bias})
    filtered = filter_logits(logits, context, s)
    token = draw(logits, context, s, torch.Generator().manual_seed(0))
    assert token.shape == (1,) and filtered[0, token.item()] > -math.inf


def test_temperature_0_is_argmax_and_asks_no_generator():
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(8, 1, dtype=torch.long)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert torch.equal(draw(logits, context, Sampling(), generator), logits.argmax(-1))
    assert torch.equal(generator.get_state(), before)


def test_greedy_obeys_the_penalty():
    """temperature 0 with a repetition penalty must not repeat the likeliest token of the context."""
    logits = torch.tensor([[2.0, 1.5, 0.0]])
    s = Sampling(repetition_penalty=2.0)
    assert draw(logits, torch.tensor([[0]]), s, torch.Generator()).item() == 1


@pytest.mark.parametrize(
    ("s", "probabilities"),
    [
        (Sampling(temperature=1.0), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(temperature=0.5), [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
        (Sampling(temperature=1.0, top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(temperature=1.0, top_p=0.8), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(temperature=1.0, min_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        # the context holds token 1: ln 0.4 is negative, so it doubles to ln 0.16
        (Sampling(temperature=1.0, repetition_penalty=2.0), [0.1 / 0.76, 0.16 / 0.76, 0.2 / 0.76, 0.3 / 0.76]),
        # and it was written, once: its chance is divided by 2
        (Sampling(temperature=1.0, presence_penalty=math.log(2)), [0.1 / 0.8, 0.2 / 0.8, 0.2 / 0.8, 0.3 / 0.8]),
        (Sampling(temperature=1.0, frequency_penalty=math.log(2)), [0.1 / 0.8, 0.2 / 0.8, 0.2 / 0.8, 0.3 / 0.8]),
        (Sampling(temperature=1.0, logit_bias={0: math.log(3), 2: -100.0}), [0.3, 0.4, 0, 0.3]),
    ],
)
def test_the_draw_has_the_frequencies_of_the_formula(s, probabilities):
    """Chi-square over 20,000 draws; 21.1 is exceeded by chance once in 10,000 at 3 degrees of freedom."""
    n = 20_000
    logits = row(0.1, 0.4, 0.2, 0.3).expand(n, 4)
    context = torch.ones(n, 1, dtype=torch.long)
    drawn = torch.bincount(draw(logits, context, s, torch.Generator().manual_seed(7)), minlength=4).tolist()
    assert sum(drawn) == n
    assert all(count == 0 for count, p in zip(drawn, probabilities, strict=True) if p == 0)
    chi_square = sum((count - n * p) ** 2 / (n * p) for count, p in zip(drawn, probabilities, strict=True) if p)
    assert chi_square < 21.1


def test_one_seed_one_draw():
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(64, 1, dtype=torch.long)
    draws = [draw(logits, context, Sampling(1.0), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("bad", [[math.nan, 1.0, 2.0], [math.inf, 1.0, 2.0], [-math.inf] * 3])
@pytest.mark.parametrize("s", [Sampling(), Sampling(1.0), Sampling(1.0, 2, 0.9, 0.1, 1.3)])
def test_a_diverged_model_is_said_in_a_sentence(bad, s):
    """Pins: multinomial's RuntimeError, and an argmax of NaN that looks like a token. One bad row of two is enough."""
    logits = torch.tensor([[0.0, 1.0, 2.0], bad])
    with pytest.raises(UserError, match=r"not finite.*RUN@STEP") as error:
        draw(logits, torch.tensor([[2], [2]]), s, torch.Generator().manual_seed(0))
    assert error.value.exit_code == 70


@pytest.mark.parametrize("s", [Sampling(), Sampling(1.0)])
def test_a_single_possible_token_is_drawn(s):
    assert draw(torch.tensor([[-math.inf, 3.0, -math.inf]]), NONE, s, torch.Generator()).item() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", 1e-40),
        ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1), ("top_p", math.nan), ("min_p", -0.1), ("min_p", 1.5),
        ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("repetition_penalty", math.inf),
        ("repetition_penalty", 1e-40),
        ("presence_penalty", 2.1), ("presence_penalty", math.nan), ("frequency_penalty", -2.1),
        ("frequency_penalty", math.inf),
    ],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(field, value):
    """1e-40 passes as positive, but dividing by it overflows fp32 and the draw would end in a traceback."""
    with pytest.raises(UserError, match=f"{field.replace('_', '-')} {value} must be"):
        Sampling(**{field: value})


def test_what_was_written_counts_and_the_prompt_does_not():
    logits = torch.zeros(2, 4)
    context = torch.tensor([[3, 3, 1, 1, 1, 2], [0, 0, 0, 3, 3, 3]])
    s = Sampling(temperature=1.0, presence_penalty=0.5, frequency_penalty=0.25)
    expected = torch.tensor([[0, -0.5 - 0.75, -0.5 - 0.25, 0], [-0.5 - 0.25, 0, 0, -0.5 - 0.75]])
    assert torch.equal(filter_logits(logits, context, s, prompt=2), expected)
    assert torch.equal(filter_logits(logits, context, s, prompt=6), logits)


@pytest.mark.parametrize("bias", [math.nan, 100.5, -math.inf])
def test_a_bias_out_of_range_is_refused(bias):
    with pytest.raises(UserError, match=r"logit-bias .* of token 7 must be between -100 and 100"):
        Sampling(logit_bias={7: bias})


@pytest.mark.parametrize("id", [-1, 3])
def test_a_bias_for_a_token_that_is_not_there_is_refused(id):
    with pytest.raises(UserError, match=f"names token {id}; the ids go from 0 to 2"):
        filter_logits(torch.zeros(1, 3), NONE, Sampling(logit_bias={id: 1.0}))


def test_log_probabilities_are_of_the_model_alone():
    chosen, top = log_probabilities(torch.tensor([1.0, 3.0, 2.0]), token=0, top=2)
    expected = torch.tensor([1.0, 3.0, 2.0]).log_softmax(-1).tolist()
    assert chosen == expected[0] and top == [(1, expected[1]), (2, expected[2])]
    assert len(log_probabilities(torch.zeros(3), token=0, top=20)[1]) == 3
