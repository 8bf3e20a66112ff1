"""The plan as arithmetic: an injected speed in, steps and reasons out; what the user gave stays."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tinygpt import plan as planning
from tinygpt.config import make_config
from tinygpt.data import Windows
from tinygpt.distributed import Machine
from tinygpt.errors import UserError
from tinygpt.plan import (
    BATCHES,
    DECAYS,
    DEFAULT_MINUTES,
    MOST_REPETITION,
    WARMUP,
    Budget,
    Speed,
    choose_shape,
    choose_size,
    choose_steps,
    compiled_speed,
    dropout_for,
    expected_bits_per_byte,
    expected_memory_bytes,
    expected_seconds,
    fit_block_size,
    matrix_parameters,
    most_passes,
    parameter_count,
    peak_memory_bytes,
    repetition,
    thread_candidates,
)

CPU = Machine(torch.device("cpu"), bf16=False, why="")
SPEED = Speed(step_s=0.1, threads=2, tokens_per_s=10_000.0)


def plan(budget, speed=SPEED, windows=100_000, val_tokens=0, preset="modern", **given):
    """(chosen, reasons) for a text of so many windows of 256 tokens; batches of 16."""
    config = make_config(preset, {"block_size": 256, "batch_size": 16, **given})
    text = Windows(np.zeros((windows + 1) * 256 + 1, dtype=np.uint8), 256, 0)
    assert text.count == windows
    return choose_steps(config, budget, speed, text, val_tokens, given)


@pytest.fixture(autouse=True)
def free_saves(monkeypatch):
    """Checkpoints that take no time, for plain numbers; `monkeypatch.undo` brings theirs back."""
    monkeypatch.setattr(planning, "checkpoint_s", lambda _: 0.0)


# --- the budget ------------------------------------------------------------------------------------------------------


def test_no_budget_is_the_default_minutes():
    assert Budget().minutes == DEFAULT_MINUTES
    assert Budget(steps=5).minutes is None


@pytest.mark.parametrize("two", [{"minutes": 3, "steps": 5}, {"steps": 5, "epochs": 1.0}, {"minutes": 1, "epochs": 2}])
def test_two_budgets_exclude_each_other(two):
    with pytest.raises(UserError) as error:
        Budget(**two)
    assert "exclude each other" in str(error.value) and all(f"--{name}" in str(error.value) for name in two)


@pytest.mark.parametrize("name", ["minutes", "steps", "epochs"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**12])
def test_budgets_that_are_none_are_refused(name, value):
    with pytest.raises(UserError, match=f"--{name} .* must be above 0"):
        Budget(**{name: value})


# --- steps -----------------------------------------------------------------------------------------------------------


def test_minutes_become_steps_by_the_measured_speed():
    """60 s at 0.1 s a step, nothing to validate: 600 steps."""
    assert plan(Budget(minutes=1))[0]["max_steps"] == 600
    assert plan(Budget(minutes=1), dataclasses.replace(SPEED, step_s=0.25))[0]["max_steps"] == 240


def test_validations_take_their_time_off():
    """12 of weights and mean, a third of the time of training each: 12 * 2 * 3000 / 10000 / 3 = 2.4 s, 24 steps."""
    chosen, _ = plan(Budget(minutes=1), val_tokens=3000)
    assert (chosen["max_steps"], chosen["eval_every"]) == (576, 53)


def test_long_validations_come_less_often():
    """A second each: 6 fit into 10 % of a minute; they take 6 s, 60 steps."""
    chosen, _ = plan(Budget(minutes=1), val_tokens=15_000)
    assert (chosen["max_steps"], chosen["eval_every"]) == (540, 108)


def test_a_short_run_is_saved_less_often(monkeypatch):
    """16 bytes for each of 1.9 M numbers, 250 MB a second: 0.12 s a checkpoint. 10 % of 10 s pays for 9 of them."""
    monkeypatch.undo()
    steps = {seconds: plan(Budget(steps=10 * seconds), log_every=1)[0]["save_every"] for seconds in (1, 10, 60)}
    assert steps == {1: 10, 10: math.ceil(100 / 8), 60: math.ceil(600 / 11)}


def test_patience_gets_the_validations_it_counts():
    chosen, _ = plan(Budget(minutes=1), val_tokens=10**8, patience="3")
    assert chosen["eval_every"] == 100  # steps 100, 200, 300 can all miss


def test_training_keeps_half_of_the_time():
    """A huge validation text must not leave a budget of nothing, or below."""
    chosen, _ = plan(Budget(minutes=1), val_tokens=10**8)
    assert (chosen["max_steps"], chosen["eval_every"]) == (300, 300)


def test_at_least_one_step():
    assert plan(Budget(minutes=1), dataclasses.replace(SPEED, step_s=1000.0))[0]["max_steps"] == 1


def test_steps_are_steps_and_epochs_are_passes():
    assert plan(Budget(steps=77))[0]["max_steps"] == 77
    assert plan(Budget(epochs=2), windows=160)[0]["max_steps"] == 20
    assert plan(Budget(epochs=0.05), windows=160)[0]["max_steps"] == 1
    assert plan(Budget(epochs=1), windows=161)[0]["max_steps"] == 11  # the last window too


def test_a_small_text_is_not_read_for_ever():
    """100 minutes would be 600 passes over 1,600 windows; those that bring MOST_REPETITION are left, and it is said."""
    chosen, reasons = plan(Budget(minutes=100), windows=1600)
    passes = most_passes(1600 * 256, matrix_parameters(make_config().model))
    assert chosen["max_steps"] == math.ceil(passes * 100) < 60_000
    assert any(f"would be 600 passes over this text; after {passes:.0f} a model" in reason for reason in reasons)
    assert plan(Budget(minutes=10), windows=1)[0]["max_steps"] == 100  # a handful of windows: 100 steps


def test_asked_for_passes_are_given_whatever_they_do():
    assert plan(Budget(epochs=100), windows=160)[0]["max_steps"] == 1000
    assert plan(Budget(steps=5000), windows=160)[0]["max_steps"] == 5000


def test_a_given_number_of_steps_wins():
    chosen, _ = plan(Budget(minutes=1), max_steps=42)
    assert "max_steps" not in chosen  # what the user gave is not chosen again
    assert chosen["warmup_steps"] == math.ceil(WARMUP * 42) and chosen["eval_every"] == 4


# --- the rest of the schedule ----------------------------------------------------------------------------------------


def test_warm_up_and_intervals():
    """A share of warm-up, 12 validations with the one at step 0, 4 samples, a checkpoint with every validation."""
    chosen, _ = plan(Budget(steps=1100))
    assert (chosen["warmup_steps"], chosen["eval_every"], chosen["save_every"]) == (math.ceil(WARMUP * 1100), 100, 100)
    assert (chosen["sample_every"], chosen["log_every"], chosen["threads"]) == (300, 10, 2)


def test_the_tutorial_keeps_its_recipe():
    chosen, reasons = plan(Budget(steps=5000), windows=160, preset="tutorial")
    assert "dropout" not in chosen and "warmup_steps" not in chosen and reasons == []


@pytest.mark.parametrize("steps", [1, 2, 5, 11, 13])
def test_tiny_runs_have_possible_intervals(steps):
    chosen, _ = plan(Budget(steps=steps))
    assert all(chosen[name] >= 1 for name in ("eval_every", "save_every", "sample_every", "log_every"))
    make_config("modern", chosen)


def test_what_is_given_stays():
    given = {
        "eval_every": 7,
        "save_every": 3,
        "sample_every": 9,
        "dropout": 0.5,
        "warmup_steps": 1,
        "log_every": 2,
        "weight_decay": 0.3,
    }
    chosen, reasons = plan(Budget(steps=1000), windows=160, **given)
    settled = make_config("modern", {**given, **chosen})
    assert settled.train == dataclasses.replace(make_config("modern", given).train, max_steps=1000, threads=2)
    assert settled.model.dropout == 0.5 and not reasons


def test_given_as_text_stays_too():
    """On the command line every value is text: 'log_every=2'."""
    chosen, _ = plan(Budget(steps=1000), log_every="2", eval_every="7")
    settled = make_config("modern", {"log_every": "2", "eval_every": "7", **chosen}).train
    assert (settled.log_every, settled.eval_every, settled.save_every) == (2, 7, 7)


def test_the_plan_is_a_pure_function():
    assert plan(Budget(minutes=3), val_tokens=999) == plan(Budget(minutes=3), val_tokens=999)


def test_dropout_by_repetition():
    assert [dropout_for(r) for r in (0.1, 4.9, 5, 11, 12, 29, 30, 500)] == [0.0, 0.0, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2]
    chosen, reasons = plan(Budget(epochs=4), windows=160)
    assert chosen["dropout"] == 0.1 and any(r.startswith("dropout 0.1: 4.0 passes of ") for r in reasons)


def test_repetition_grows_with_passes_and_model_and_falls_with_the_text():
    """Pins: passes alone, whose decay made the tales a sixth worse."""
    once = repetition(1, 100_000, 650_000)
    assert once == pytest.approx(1)
    assert repetition(3, 100_000, 650_000) == pytest.approx(3 * once)
    assert repetition(3, 200_000, 650_000) == pytest.approx(1.5 * once)
    assert repetition(3, 100_000, 1_300_000) == pytest.approx(6 * once)
    assert repetition(most_passes(7000, 9e5), 7000, 9e5) == pytest.approx(MOST_REPETITION)


def test_expected_time_is_the_sum_of_its_parts(monkeypatch):
    monkeypatch.undo()
    config = make_config("modern", {"max_steps": 100, "eval_every": 50, "save_every": 50, "sample_every": 25})
    # 100 steps of 0.1 s; 4 validations of 2 * 3000 / 10000 / 3 s; 5 samples of 60 tokens at 2 ms
    # 3 checkpoints of 16 and 12 snapshots of 4 bytes a parameter, 250 MB a second
    written_s = (48 + 48) * parameter_count(config.model) / 250e6
    assert expected_seconds(config, SPEED, 3000) == pytest.approx(10 + 4 * 0.2 + 5 * 0.12 + written_s)
    more = expected_seconds(config, SPEED, 3000, "cuda") - expected_seconds(config, SPEED, 3000)
    assert more == pytest.approx(1.5)  # what a GPU needs to begin


# --- shape -----------------------------------------------------------------------------------------------------------


def test_small_texts_get_the_small_size():
    chosen, reasons = choose_shape("modern", 20_000, 3, {})
    assert chosen["n_embd"] == 64 and "20,000 bytes" in reasons[0]
    assert [choose_shape("modern", n, 3, {})[0]["vocab_size"] for n in (20_000, 50_000, 499_999)] == [512, 1024, 2048]
    chosen, reasons = choose_shape("modern", 100_000, 3, {"n_embd": 128})
    assert chosen == {"vocab_size": 1024} and len(reasons) == 1 and "100,000 bytes" in reasons[0]
    assert choose_shape("modern", 500_000, 1, {}) == ({}, [])
    assert choose_shape("tutorial", 20_000, 3, {}) == ({}, [])


def test_a_text_that_is_short_for_the_time_gets_fewer_pieces():
    """1 MB is read often in 10 minutes of a CPU, not in 3; 1.2 MB count as enough for any time."""
    chosen, reasons = choose_shape("modern", 1_000_000, 10, {})
    assert chosen == {"vocab_size": 2048} and "1,000,000 bytes" in reasons[0]
    assert choose_shape("modern", 1_000_000, 3, {}) == choose_shape("modern", 1_200_000, 1000, {}) == ({}, [])
    assert choose_shape("modern", 1_000_000, 10, {"vocab_size": 300}) == ({}, [])
    assert choose_shape("tutorial", 1_000_000, 10, {}) == ({}, [])


def test_a_given_shape_is_kept():
    chosen, _ = choose_shape("modern", 20_000, 3, {"vocab_size": 300})
    assert "vocab_size" not in chosen and chosen["n_embd"] == 64
    # a width or a number of heads of the user's own must not meet one of ours that does not fit it
    assert set(choose_shape("modern", 20_000, 3, {"n_kv_heads": 4})[0]) == {"vocab_size"}
    everything = {"n_embd": 64, "n_heads": 2, "n_layers": 4, "block_size": 128, "vocab_size": 512}
    assert choose_shape("modern", 20_000, 3, everything) == ({}, [])


@pytest.mark.parametrize(
    ("n_tokens", "expected"),
    [(10_000, 128), (129, 128), (128, 64), (65, 64), (64, 32), (17, 16), (16, 8), (9, 8), (8, 8), (2, 8)],
)
def test_the_context_shrinks_to_the_text_and_says_so(n_tokens, expected):
    block_size, reasons = fit_block_size(make_config("modern", {"block_size": 128}), n_tokens, {})
    assert block_size == expected
    assert (reasons == []) == (expected == 128)
    if reasons:
        assert f"128 -> {expected}" in reasons[0] and str(n_tokens) in reasons[0]
    if n_tokens > 8:
        Windows(np.zeros(n_tokens, dtype=np.uint16), block_size, 0)  # it fits


def test_a_given_context_is_not_shrunk():
    given = {"block_size": 128}
    assert fit_block_size(make_config("modern", given), 50, given) == (128, [])


def test_decay_grows_with_the_repetition_and_is_given_a_reason():
    decays = [plan(Budget(epochs=passes), windows=1600)[0]["weight_decay"] for passes in (0.1, 5, 10, 80)]
    assert decays == [DECAYS[0], 0.52, 1.03, DECAYS[1]]
    assert any("weight_decay 0.52:" in reason for reason in plan(Budget(epochs=5), windows=1600)[1])
    assert "weight_decay" not in plan(Budget(epochs=5), windows=1600, weight_decay=0.7)[0]


# --- size and batch --------------------------------------------------------------------------------------------------


def size(budget, tokens_per_s=20_000.0, windows=100_000, preset="modern", ranks=1, **given):
    """(chosen, reasons) for a text of so many windows of 256 tokens, at the speed of the preset's own shape."""
    config = make_config(preset, {"block_size": 256, "vocab_size": 4096, **given})
    text = Windows(np.zeros((windows + 1) * 256 + 1, dtype=np.uint8), 256, 0)
    return choose_size(config, budget, Speed(0.1, 2, tokens_per_s), text, given, ranks)


def test_more_time_makes_a_larger_model():
    widths = [size(Budget(minutes=minutes))[0].get("n_embd", 128) for minutes in (0.1, 1, 10, 100, 1000)]
    assert widths == sorted(widths) and widths[0] == 128 and widths[-1] == 320 and len(set(widths)) >= 3


@pytest.mark.parametrize("budget", [Budget(steps=10**6), Budget(epochs=500)])
def test_whoever_counts_steps_or_passes_keeps_the_known_shape(budget):
    assert "n_embd" not in size(budget)[0]
    assert "n_embd" not in size(Budget(minutes=1000), max_steps=10**6)[0]


def test_where_text_is_what_lacks_the_model_stays_small():
    """200,000 tokens a second for 10 minutes: 120 M tokens, read once, or 156 times with a repetition of 41."""
    assert size(Budget(minutes=10), tokens_per_s=200_000.0, windows=500_000)[0]["n_embd"] == 320
    assert "n_embd" not in size(Budget(minutes=10), tokens_per_s=200_000.0, windows=3_000)[0]


def test_a_small_text_keeps_the_model_small_however_long_it_is_read():
    assert "n_embd" not in size(Budget(minutes=1000), windows=200)[0]
    assert size(Budget(minutes=1000), windows=100_000)[0]["n_embd"] == 320


def test_the_size_chosen_is_a_possible_one_and_has_a_reason():
    for minutes in (0.1, 3, 30, 300):
        chosen, reasons = size(Budget(minutes=minutes))
        make_config("modern", chosen)
        assert ("n_embd" in chosen) == any("size m" in reason or "size s" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["n_embd", "n_layers", "n_heads", "d_ff"])
def test_a_given_width_stays_alone(name):
    chosen, _ = size(Budget(minutes=1000), **{name: getattr(make_config().model, name)})
    assert chosen.keys() <= {"batch_size"}


def test_short_runs_take_small_batches_and_all_ranks_get_a_share():
    """At least FEWEST_STEPS steps where the smallest batch allows it; 0.05 minutes are 60,000 tokens."""
    batches = [size(Budget(minutes=minutes), n_embd=128)[0]["batch_size"] for minutes in (0.05, 0.6, 1.2, 10)]
    assert batches == sorted(batches) and (batches[0], batches[-1]) == BATCHES
    assert size(Budget(minutes=0.05), ranks=3)[0]["batch_size"] == 6
    assert "batch_size" not in size(Budget(minutes=1), batch_size=5)[0]
    assert "batch_size" not in size(Budget(steps=100))[0]  # whoever counts steps means steps of the known batch


def test_a_text_that_is_read_often_gets_a_tied_head():
    """800 windows are 204,800 tokens: 1.2 M of them are 5.9 passes, 0.6 M are 2.9."""
    chosen, reasons = size(Budget(minutes=1), windows=800)
    assert chosen["tied"] is True and any("tied yes: read about 6 times" in reason for reason in reasons)
    assert "tied" not in size(Budget(minutes=0.5), windows=800)[0]
    assert "tied" not in size(Budget(minutes=1), windows=3200)[0]
    for given in ({"tied": False}, {"start": "pairs"}):
        assert "tied" not in size(Budget(minutes=1), windows=800, **given)[0]
    assert "tied" not in size(Budget(minutes=1), windows=800, preset="gpt2")[0]  # is tied already
    assert size(Budget(epochs=30), windows=800)[0]["tied"] is True


def test_the_tutorial_is_not_resized():
    assert size(Budget(minutes=1000), preset="tutorial") == ({}, [])


@pytest.mark.parametrize("fields", [{}, {"n_kv_heads": 2, "d_head": 24, "bias": True}, {"bias": False, "tied": True}])
@pytest.mark.parametrize("preset", ["modern", "gpt2", "tutorial"])
def test_parameters_are_counted_as_the_model_has_them(preset, fields):
    from tinygpt.model import TinyGPT

    model = TinyGPT(make_config(preset, fields).model)
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("blocks.")]
    assert matrix_parameters(model.config) == sum(p.numel() for p in [*hidden, model.head.weight])
    assert parameter_count(model.config) == model.parameter_count()


# --- compiled blocks -------------------------------------------------------------------------------------------------


def test_short_runs_do_not_even_try_to_compile(monkeypatch):
    monkeypatch.setattr(planning, "median_step", lambda *_, **__: pytest.fail("compiled"))
    config = make_config()
    assert compiled_speed(config, CPU, SPEED, 20.0) == (None, "")
    assert compiled_speed(make_config(overrides={"compiled": "no"}), CPU, SPEED, 1e6) == (None, "")


@pytest.mark.parametrize(("step_s", "taken"), [(0.06, True), (0.099, False), (0.2, False)])
def test_compiled_blocks_are_taken_if_they_are_faster(monkeypatch, step_s, taken):
    monkeypatch.setattr(planning, "median_step", lambda *_, **__: step_s)
    monkeypatch.setattr(planning.shutil, "which", lambda name: name)
    speed, reason = compiled_speed(make_config(), CPU, SPEED, 600.0)
    assert (speed is not None) == taken and reason.startswith(
        f"compiled {'yes' if taken else 'no'}: {step_s * 1e3:.0f} ms"
    )
    if speed:
        assert speed.step_s == step_s and speed.tokens_per_s == pytest.approx(SPEED.tokens_per_s * 0.1 / step_s)


def test_without_a_compiler_it_says_so_or_refuses(monkeypatch):
    monkeypatch.setattr(planning.shutil, "which", lambda name: None)
    assert "no C++ compiler" in compiled_speed(make_config(), CPU, SPEED, 600.0)[1]
    with pytest.raises(UserError, match="use compiled=no"):
        compiled_speed(make_config(overrides={"compiled": "yes"}), CPU, SPEED, 600.0)


def test_a_compiler_that_fails_is_a_sentence(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("ld: cannot find -lfoo\nmany more lines")

    monkeypatch.setattr(planning, "median_step", fail)
    monkeypatch.setattr(planning.shutil, "which", lambda name: name)
    speed, reason = compiled_speed(make_config(), CPU, SPEED, 600.0)
    assert speed is None and "cannot find -lfoo" in reason and "many more" not in reason
    with pytest.raises(UserError, match=r"cannot find -lfoo.*use compiled=no"):
        compiled_speed(make_config(overrides={"compiled": "yes"}), CPU, SPEED, 600.0)


# --- what is expected ------------------------------------------------------------------------------------------------


def expected(steps, windows=1000, floor=None, preset="modern"):
    config = make_config(preset, {"block_size": 256, "batch_size": 8, "max_steps": steps})
    text = Windows(np.zeros((windows + 1) * 256 + 1, dtype=np.uint8), 256, 0)
    return expected_bits_per_byte({"bigram": 2.0}, floor, config, text)


def test_expected_bits_fall_with_tokens_and_repeated_text_is_worth_less():
    assert expected(10) > expected(100) > expected(1000)
    assert expected(1000, windows=100) > expected(1000, windows=10_000)
    assert expected(100) - expected(200) > expected(10_000) - expected(20_000)
    assert 1.9 < expected(10**9, floor=1.9) < 2.0  # nothing is below the entropy
    assert expected(100, preset="tutorial") is None
    config, text = make_config(), Windows(np.zeros(9999, dtype=np.uint8), 256, 0)
    assert expected_bits_per_byte({}, None, config, text) is None


def test_memory_is_what_was_measured_and_the_copies_of_a_checkpoint():
    measured = peak_memory_bytes(CPU.device)
    assert 5e7 < measured < 1e11
    expected = expected_memory_bytes(make_config(), CPU, 10**6)
    assert expected - measured == pytest.approx(12e6, abs=5e7)  # the peak may have grown between the two


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "tried"),
    [("1", [1]), ("2", [2, 1]), ("6", [6, 4, 2, 1]), ("8", [8, 4, 2, 1]), ("4,2", [4, 2, 1])],
)
def test_threads_worth_measuring(monkeypatch, cores, tried):
    """OMP_NUM_THREADS is honoured, also in its list form."""
    monkeypatch.setenv("OMP_NUM_THREADS", cores)
    assert thread_candidates(make_config(), CPU) == tried
    assert thread_candidates(make_config(overrides={"threads": 3}), CPU) == [3]


@pytest.mark.parametrize("value", ["", "many", "0"])
def test_an_omp_num_threads_that_says_nothing_is_ignored(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert thread_candidates(make_config(), CPU)[-1] == 1
