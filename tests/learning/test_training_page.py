"""What the Training page claims, on a run trained here: frequencies first, then pairs; sick curves are marked."""

from __future__ import annotations

import io
import itertools
import json

import pytest

import tinygpt.inspect as ti
from tinygpt.config import make_config
from tinygpt.corpus import tales
from tinygpt.display import Display
from tinygpt.distributed import choose_machine
from tinygpt.runs import create
from tinygpt.tokenizer import train_tokenizer
from tinygpt.train import set_up, train

STEPS = 160
GIVEN = {
    "n_embd": 64, "n_heads": 4, "n_layers": 2, "block_size": 64, "batch_size": 16, "lr": 3e-3, "warmup_steps": 5,
    "max_steps": STEPS, "eval_every": STEPS, "save_every": STEPS, "sample_every": STEPS, "log_every": 1, "threads": 1,
    "device": "cpu", "precision": "fp32", "start": "random", "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A small model trained on tales from random weights."""
    stories = [tale.text for tale in itertools.islice(tales.corpus(300_000), 330)]
    tokenizer = train_tokenizer(stories, 512)
    ids = [tokenizer.encode_documents(part) for part in (stories[:300], stories[300:])]
    config = make_config("gpt2", {**GIVEN, "vocab_size": tokenizer.vocab_size})
    folder = tmp_path_factory.mktemp("dynamics") / "learnt"
    run = create(folder, config, tokenizer, {}, {"baselines": {}, "floor": None, "parameters": 0}, *ids)
    assert train(set_up(run, choose_machine(config.train), Display(io.StringIO()))) == 0
    return run


def test_frequencies_come_before_pairs(learnt):
    """The model is closest to the unigram table at an earlier checkpoint than to the bigram table."""
    found = ti.over_time(learnt, "tables")
    steps, values = found["steps"], found["values"]
    nearest = {name: min(range(len(steps)), key=lambda i: values[i][name]) for name in ("unigram", "bigram")}
    assert 0 < nearest["unigram"] < nearest["bigram"]
    for name, i in nearest.items():  # near, and not only nearer than at other times
        assert values[i][name] < 0.5 * values[0][name], name
    assert values[-1]["unigram"] > 2 * values[nearest["unigram"]]["unigram"]  # and later it knows more than frequencies


def spikes_with(run, plant) -> list[dict]:
    """The spikes of the run with its training records as `plant(record)` leaves them."""
    path = run.folder / "metrics.jsonl"
    lines = path.read_bytes()
    records = [json.loads(line) for line in lines.splitlines()]
    for record in records:
        if record["kind"] == "train":
            plant(record)
    try:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return ti.health(run)["spikes"]
    finally:
        path.write_bytes(lines)


def test_a_healthy_run_has_no_spikes_and_planted_ones_are_marked(learnt):
    assert ti.health(learnt)["spikes"] == []

    def plant(record):
        record["loss"] += 2.0 * (record["step"] in (60, 130))
        record["grad_norm"] *= 20 if record["step"] == 100 else 1

    found = spikes_with(learnt, plant)
    assert [(s["step"], s["what"]) for s in found] == [(60, "loss"), (100, "gradient norm"), (130, "loss")]
    assert all(s["value"] > s["usual"] for s in found)


def test_a_spike_is_marked_while_the_loss_still_falls(learnt):
    """Pins: a loss of 6.5 among records of about 2.5 that had fallen to it from 6, and went unmarked."""
    falls = [r["loss"] for r in ti.records(learnt)["records"] if r["kind"] == "train"]
    assert falls[0] > falls[20] + 1
    for step in (10, 20, 30, 40, 80, 150):
        found = spikes_with(learnt, lambda r, step=step: r.update(loss=r["loss"] + 4.0 * (r["step"] == step)))
        assert [(s["step"], s["what"]) for s in found] == [(step, "loss")]
        assert found[0]["usual"] == pytest.approx(falls[step - 1], abs=1.0)


def test_updates_are_smaller_than_the_weights_they_move(learnt):
    found = ti.health(learnt)
    ratio = found["update_ratio"]
    assert ratio.shape == (len(found["steps"]), len(found["layers"])) and found["steps"][-1] == STEPS
    assert (ratio > 0).all() and (ratio < 1).all()
    assert (ratio[0] < ratio.max(axis=0)).all() and (ratio[-1] < 0.1 * ratio.max(axis=0)).all()  # as the rate
