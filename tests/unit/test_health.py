"""What one update does to each layer is written down at a few steps, and nothing else of a run changes by it."""

import copy

import pytest
import torch

from tinygpt import health
from tinygpt.health import layers_of, snapshot_steps, watched
from tinygpt.records import read
from tinygpt.runs import steps_recorded
from tinygpt.train import gather_gradient, set_up, train


def records(run):
    return [r for r in read(run.folder / "metrics.jsonl") if r["kind"] == "health"]


@pytest.mark.parametrize(("preset", "tied"), [("tutorial", False), ("gpt2", True), ("modern", False)])
def test_every_matrix_and_bias_belongs_to_one_layer(make_model, preset, tied):
    """Pins: a part of the model that nobody measures, or the tied head measured twice."""
    model = make_model(preset)
    layers = layers_of(model)
    inner = [name for i in range(2) for name in (f"block {i} attention", f"block {i} feed-forward")]
    assert list(layers) == ["embedding", *inner, *(["head"] if not tied else [])]
    found = sorted(p.data_ptr() for tensors in layers.values() for p in tensors)
    assert found == sorted(p.data_ptr() for name, p in model.named_parameters() if "norm" not in name)


def test_the_norms_are_those_of_the_weights_and_of_the_update(run, machine, silent):
    session = set_up(run, machine, silent)
    gather_gradient(session)
    before = copy.deepcopy(session.model)
    with watched(session):
        session.update(torch.tensor(1.0))
    (record,) = records(run)
    assert record["step"] == 1 and list(record["weight_norm"]) == list(record["update_norm"]) == list(layers_of(before))

    def norm(tensors):
        return sum(float(t.double().square().sum()) for t in tensors) ** 0.5

    after = layers_of(session.model)
    for layer, tensors in layers_of(before).items():
        assert record["weight_norm"][layer] == pytest.approx(norm(tensors), rel=1e-5)
        moved = norm([a - b for a, b in zip(after[layer], tensors, strict=True)])
        assert moved > 0 and record["update_norm"][layer] == pytest.approx(moved, rel=1e-5)


def test_it_is_written_at_the_first_step_and_beside_evaluations_and_snapshots(run, machine, silent):
    assert train(set_up(run, machine, silent)) == 0
    assert [r["step"] for r in records(run)] == sorted((snapshot_steps(12) | {1, 4, 8, 12}) - {0})
    assert steps_recorded(run) == 12


def test_without_memory_for_a_copy_training_goes_on_and_says_so_once(run, machine, silent, monkeypatch):
    def full(layers):
        raise MemoryError

    monkeypatch.setattr(health, "norms", full)
    assert train(set_up(run, machine, silent)) == 0
    assert silent.heard.getvalue().count("health records are left out") == 1 and records(run) == []


def test_a_spike_is_kept_as_figures_beside_its_sentence(run, machine, silent):
    from tinygpt.guards import MEMORY, note_spike

    session = set_up(run, machine, silent)
    for i in range(MEMORY + 1):
        session.progress.step = i
        note_spike(session, 2.0 + 0.01 * (i % 5), 1.0)
    session.progress.step = 60
    note_spike(session, 9.0, 100.0)
    (event,) = [r for r in read(run.folder / "metrics.jsonl") if r["kind"] == "event"]
    loss, norm = event["spikes"]
    assert (loss["step"], loss["what"], loss["value"]) == (60, "loss", 9.0) and loss["usual"] == pytest.approx(
        2.02, 0.01
    )
    assert (norm["what"], norm["value"], norm["usual"]) == ("gradient norm", 100.0, pytest.approx(1.0))
