"""Do the maps of tokens and positions show the weights, and stay where they are while the points move?"""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from command_line import refused
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity

import tinygpt.inspect as ti
from tinygpt.errors import USAGE
from tinygpt.inspect import embeddings as module
from tinygpt.inspect.result import arguments_of
from tinygpt.inspect.trace import Model
from tinygpt.runs import open_run
from tinygpt.tokenizer import BOS, Tokenizer


@pytest.fixture(scope="module")
def m(trained):
    return ti.load(f"{trained}@60")


@pytest.fixture(scope="module")
def first(trained):
    return ti.load(f"{trained}@0")


def with_positions(m, make_model, **fields):
    """The same run with random weights of another shape."""
    return Model(m.run, make_model(vocab_size=m.tokenizer.vocab_size, **fields).requires_grad_(False), 0)


def counted(m):
    return np.bincount(m.run.train_ids, minlength=m.tokenizer.vocab_size)


# neighbours


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_neighbours_are_the_nearest_in_order(m, metric):
    table = m.model.embedding.weight
    for token in (BOS, 40, 300):
        of_all = cosine_similarity(table, table[token], dim=-1) if metric == "cosine" else table @ table[token]
        found = ti.neighbours(m, token, metric, k=400)
        ids = [n["id"] for n in found["neighbours"]]
        assert sorted([*ids, token]) == list(range(320))
        assert [n["value"] for n in found["neighbours"]] == pytest.approx(of_all[ids].tolist(), abs=1e-5)
        values = [n["value"] for n in found["neighbours"]]
        assert values == sorted(values, reverse=True)
        few = ti.neighbours(m, token, metric, k=7)["neighbours"]
        assert few == found["neighbours"][:7]
        assert found["count"] == counted(m)[token] and few[0]["count"] == counted(m)[few[0]["id"]]
    assert ti.neighbours(m, BOS)["token"] == {"id": BOS, "shown": "<bos>"}


def test_neighbours_that_cannot_be(m):
    refused(USAGE, "outside this vocabulary", ti.neighbours, m, 320)
    refused(USAGE, "k=0 must be", ti.neighbours, m, 5, "cosine", 0)


# projection


def test_the_map_of_its_own_basis_is_its_principal_components(m):
    found = ti.projection(m)
    assert found["basis"] == m.reference
    ids = [p["id"] for p in found["points"]]
    table = m.model.embedding.weight[ids].double()
    centred = table - table.mean(0)
    variance, axes = torch.linalg.eigh(centred.T @ centred)  # rising
    for axis in (0, 1):
        expected = (centred @ axes[:, -1 - axis]).numpy()
        xy = found["xy"][:, axis]
        assert min(np.abs(xy - expected).max(), np.abs(xy + expected).max()) < 1e-5
    assert found["explained"] == pytest.approx((variance.flip(0)[:2] / variance.sum()).tolist(), rel=1e-4)


def test_the_points_move_and_the_axes_do_not(m, first, trained):
    """Pins a map whose axes are computed for each checkpoint: a turned picture would look like movement."""
    before, after = ti.projection(first), ti.projection(m)
    assert before["basis"] == after["basis"] == f"{trained}@60"
    assert before["points"] == after["points"] and not np.array_equal(before["xy"], after["xy"])
    ids = [p["id"] for p in after["points"]]
    table = m.model.embedding.weight[ids].double().numpy()
    axes = module.principal_axes(table - table.mean(0))
    moved = first.model.embedding.weight[ids].double().numpy()
    assert np.allclose(before["xy"], (moved - table.mean(0)) @ axes.T, atol=1e-5)
    other = ti.projection(m, basis=f"{trained}@0")
    assert (
        other["basis"] == f"{trained}@0"
        and np.abs(ti.projection(first, basis=f"{trained}@0")["xy"].mean(0)).max() < 1e-5
    )


def test_a_basis_may_be_a_step_of_the_same_run(m, trained):
    by_step, by_name = ti.projection(m, basis="@0"), ti.projection(m, basis=f"{trained}@0")
    assert by_step["basis"] == f"{trained}@0" and np.array_equal(by_step["xy"], by_name["xy"])
    assert eval(by_step.python)["basis"] == by_step["basis"]


def test_a_basis_whose_weights_are_written_anew_is_read_anew(trained, tmp_path):
    """Pins: after a rewind the axes were those of weights that no longer exist."""
    shutil.copytree(trained, tmp_path / "mine")
    start = ti.load(f"{tmp_path}/mine@0")
    before = ti.projection(start)
    steps = tmp_path / "mine" / "snapshots", tmp_path / "mine" / "checkpoints" / "step-00000060"
    weights = load_file(steps[1] / "model.safetensors")
    weights["embedding.weight"] = weights["embedding.weight"].flip(1).contiguous() * 2
    save_file(weights, steps[0] / "step-00000060.safetensors")
    shutil.rmtree(steps[1])
    after = ti.projection(start)
    assert after["basis"] == before["basis"] and not np.allclose(before["xy"], after["xy"], atol=1e-3)


def test_signs_are_fixed():
    table = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    axes = module.principal_axes(table)
    assert np.allclose(axes, module.principal_axes(-table)) and np.allclose(axes @ axes.T, np.eye(2))
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)


def test_a_basis_of_other_tokens_is_refused(m, make_trained, tmp_path):
    make_trained(tmp_path / "wide", n_embd=64)
    refused(USAGE, "another width", ti.projection, m, f"{tmp_path}/wide@1")


def test_points_are_the_most_frequent_tokens_and_all_letters(m):
    points = ti.projection(m, most=5)["points"]
    times = counted(m)
    assert [p["count"] for p in points[:5]] == sorted(times, reverse=True)[:5]
    letters = {bytes([code]) for code in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    shown = [m.tokenizer.token_bytes(p["id"]) for p in points]
    assert letters <= set(shown) and len(set(shown)) >= len(points) - 2 and len(points) <= 57
    assert len(ti.projection(m)["points"]) == 320  # there are no more
    refused(USAGE, "most=0", ti.projection, m, None, 0)


def test_what_points_are_coloured_by():
    words = [b"The", b" the", b"THE", b" tHe", b"A", b" a", b"7", b" x7", b"...", b"\xc3", b"sky"]
    merges, known = [], set()
    for word in words:
        for i in range(1, len(word)):
            if word[: i + 1] not in known:
                merges.append((word[:i], word[i : i + 1]))
                known.add(word[: i + 1])
    tokenizer = Tokenizer(merges)
    ids = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocab_size)}
    found = [tuple(module._properties(tokenizer, ids[word]).values()) for word in words]
    assert found == [
        ("title", False, False, False), ("lower", False, False, True), ("upper", False, False, False),
        ("mixed", False, False, True), ("upper", False, True, False), ("lower", False, True, True),
        ("none", True, None, False), ("lower", True, False, True), ("none", False, None, False),
        ("none", False, None, False), ("lower", False, False, False),
    ]  # fmt: skip
    assert module._properties(tokenizer, BOS)["case"] == "none"


def test_norms_are_the_lengths_of_the_vectors(m):
    found = ti.norms(m, most=50)
    ids = [p["id"] for p in found["points"]]
    assert found["norm"] == pytest.approx(m.model.embedding.weight[ids].norm(dim=-1).numpy(), rel=1e-6)
    assert [p["count"] for p in found["points"]] == counted(m)[ids].tolist()


# positions


def test_learned_positions_are_compared(m, make_model):
    learned = with_positions(m, make_model, preset="gpt2", block_size=40)
    found = ti.positions(learned)
    table = learned.model.positions.table.weight
    expected = cosine_similarity(table[:, None], table[None], dim=-1).numpy()
    assert found["kind"] == "learned" and found["pooled"] == 1 and found.truncated is None
    assert np.abs(found["similarity"] - expected).max() < 1e-6
    long = with_positions(m, make_model, preset="gpt2", block_size=150)
    found, table = ti.positions(long), long.model.positions.table.weight
    expected = cosine_similarity(table[:, None], table[None], dim=-1).numpy()
    assert found["pooled"] == 3 and found["similarity"].shape == (50, 50) and "3 x 3" in found.truncated
    assert found["similarity"][4, 7] == pytest.approx(expected[12:15, 21:24].mean(), abs=1e-6)
    last = ti.positions(with_positions(m, make_model, preset="gpt2", block_size=65))["similarity"]
    assert last.shape == (33, 33) and last[32, 32] == pytest.approx(1)  # a block of one position


def test_rotary_positions_turn_as_the_model_turns_them(m, make_model):
    for size in (16, 100):
        rotary = with_positions(m, make_model, preset="modern", block_size=size)
        found, layer = ti.positions(rotary), rotary.model.positions
        shown = min(size, 64)
        assert found["kind"] == "rotary" and found["angle"].shape == (shown, rotary.config.d_head // 2)
        assert np.abs(np.cos(found["angle"]) - layer.cos[:shown].numpy()).max() < 1e-5
        assert np.abs(np.sin(found["angle"]) - layer.sin[:shown].numpy()).max() < 1e-5
        assert found["wavelength"][0] == pytest.approx(2 * math.pi)
        assert found["angle"][1] * found["wavelength"] == pytest.approx(2 * math.pi)
        assert bool(found.truncated) == (size > 64)


# what all of them return


@pytest.mark.parametrize(
    "call",
    [lambda m: ti.neighbours(m, 300, metric="dot", k=3), lambda m: ti.projection(m, most=9),
     lambda m: ti.projection(m, basis=m.reference), lambda m: ti.norms(m), lambda m: ti.positions(m)],
)  # fmt: skip
def test_the_python_line_gives_the_same_bytes(m, first, call):
    for checkpoint in (m, first):
        result = call(checkpoint)
        assert result.model["step"] == checkpoint.step
        assert eval(result.python, {"ti": ti}).to_json() == result.to_json()


def test_arguments_are_read_by_their_annotations():
    assert arguments_of(ti.neighbours, {"token": "4", "metric": "dot"}) == {"token": 4, "metric": "dot"}
    assert arguments_of(ti.projection, {"basis": "7", "most": "9"}) == {"basis": "7", "most": 9}
    refused(USAGE, "metric='l2' must be 'cosine' or 'dot'", arguments_of, ti.neighbours, {"token": 4, "metric": "l2"})


def test_frequencies_are_those_of_the_run_that_is_asked(m, first, trained):
    """What is remembered of one run's text must not be told of another's."""
    run, _ = open_run(trained)
    half = dataclasses.replace(run, train_ids=run.train_ids[: len(run.train_ids) // 2])
    assert module.counts(Model(half, m.model, 1)).sum() == len(half.train_ids)
    assert module.counts(m).sum() == len(run.train_ids)


# other tokens on the same map, and what is left of the start


def test_tokens_beside_the_frequent_ones_move_no_axis(m):
    alone = ti.projection(m, most=30)
    ids = [point["id"] for point in alone["points"]]
    others = [id for id in range(320) if id not in ids][:5]
    both = ti.projection(m, most=30, also=[ids[0], *others])
    assert [point["id"] for point in both["points"]] == ids + others
    assert both["xy"][: len(ids)].tobytes() == alone["xy"].tobytes()
    assert both["explained"] == alone["explained"]
    assert [point["id"] for point in ti.norms(m, most=30, also=others)["points"]] == ids + others
    refused(USAGE, "outside this vocabulary", ti.projection, m, None, 30, [320])


def test_start_is_the_cosine_with_the_first_row(m, first):
    found = ti.norms(m)
    ids = [point["id"] for point in found["points"]]
    rows = [model.model.embedding.weight[ids] for model in (m, first)]
    assert found["start"] == pytest.approx(cosine_similarity(*rows, dim=-1).numpy(), abs=1e-5)
    assert found["first_step"] == 0 and found["tied"] == m.config.tied
    assert ti.norms(first)["start"] == pytest.approx(np.ones(len(ids)), abs=1e-6)
