"""Records, checkpoints, health and comparisons of runs: what stands in the folder is what is given back."""

import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import refused

import tinygpt.inspect as ti
from tinygpt.data import write_tokens
from tinygpt.evaluate import bigram_probabilities
from tinygpt.inspect import dynamics, trace
from tinygpt.inspect.result import Result, public
from tinygpt.records import Log, read
from tinygpt.runs import open_run
from tinygpt.storage import canonical, sha256


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    """A copy of the trained run that may be changed: runs/mine, here."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    return open_run(tmp_path / "runs" / "mine")[0]


def test_records_are_the_log_and_go_on_where_they_stopped(copied):
    everything = read(copied.folder / "metrics.jsonl")
    whole = ti.records("mine")
    assert whole["records"] == everything and whole["next"] == len(everything) and whole["first"] == 0
    assert whole["finished"] and not whole["training"] and whole["max_steps"] == 60
    assert whole["ln_v"] == math.log(320) and whole["marks"] == copied.marks
    assert whole["samples"] == read(copied.folder / "samples.jsonl")
    later = ti.records("mine", since=5)
    assert later["records"] == everything[5:] and later["next"] == whole["next"]
    assert ti.records("mine", since=whole["next"])["records"] == []
    refused(2, "since=-1", ti.records, "mine", -1)


def test_a_log_that_was_cut_is_told_from_its_start(copied):
    """Pins: a reader that waits for ever for records after a place that the resumed log has not reached yet."""
    found = ti.records(copied, since=10_000)
    assert found["first"] == 0 and len(found["records"]) == found["next"] > 0


def test_what_a_rewind_voided_is_left_out_but_counts(copied):
    before = ti.records(copied)["next"]
    log = Log(copied.folder)
    log.metric(kind="train", step=70, loss=9.0, lr=0.1, grad_norm=1.0, tokens=1, tokens_per_s=1.0, time_s=1.0)
    log.metric(kind="event", step=60, text="back", back_to=60)
    found = ti.records(copied, since=before)
    assert [r["kind"] for r in found["records"]] == ["event"] and found["next"] == before + 2


def test_a_long_log_comes_in_parts(copied, monkeypatch):
    monkeypatch.setattr(dynamics, "MOST_RECORDS", 7)
    everything, since, parts = read(copied.folder / "metrics.jsonl"), 0, []
    while True:
        found = ti.records(copied, since=since)
        assert since > 0 or "ask again with since=7" in found.truncated
        if not found["records"]:
            break
        parts += found["records"]
        since = found["next"]
    assert parts == everything


def test_a_run_is_training_while_somebody_holds_it(copied):
    from tinygpt.folders import lock

    with lock(copied.folder):
        code = "import tinygpt.inspect as ti; r = ti.records('mine'); print(r['training'], r['finished'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_checkpoints_are_steps_with_what_is_known_of_them(copied):
    steps = ti.checkpoints(copied)["steps"]
    assert [s["step"] for s in steps] == sorted({s["step"] for s in steps}) and steps[0]["kind"] == "snapshot"
    assert steps[-1]["step"] == 60 and steps[-1]["kind"] == "checkpoint"
    evals = {r["step"]: r["val_bpb"] for r in read(copied.folder / "metrics.jsonl") if r["kind"] == "eval"}
    assert {s["step"]: s["val_bpb"] for s in steps if s["val_bpb"] is not None} == evals
    (best,) = [s for s in steps if s["best"]]
    assert best["val_bpb"] == min(evals.values()) and (
        copied.folder / "checkpoints" / "BEST"
    ).read_text().strip().endswith(f"{best['step']:08d}")


def test_health_is_update_over_weight_by_step_and_layer(copied):
    found = ti.health(copied)
    records = [r for r in read(copied.folder / "metrics.jsonl") if r["kind"] == "health"]
    assert found["steps"] == [r["step"] for r in records] and found["layers"][0] == "embedding"
    i, layer = 3, found["layers"][2]
    expected = records[i]["update_norm"][layer] / records[i]["weight_norm"][layer]
    assert found["update_ratio"][i, 2] == pytest.approx(expected)
    assert found.arrays["weight_norm"] == ("step", "layer")


def test_spikes_that_training_told_are_not_told_twice(copied):
    log = Log(copied.folder)
    for step in range(61, 90):
        log.metric(kind="train", step=step, loss=1.0 + 8 * (step == 85), lr=0.1, grad_norm=1.0)
    told = {"step": 84, "what": "loss", "value": 9.0, "usual": 1.0}
    log.metric(kind="event", step=84, text="step 84: loss far above", spikes=[told])
    log.metric(kind="event", step=88, text="refused", loss=math.nan, grad_norm=math.nan)
    assert [s for s in ti.health(copied)["spikes"] if s["step"] > 60] == [
        told, {"step": 88, "what": "not finite", "value": None, "usual": None}
    ]  # fmt: skip


def test_a_new_level_is_one_spike_and_a_second_above_it_another():
    losses = [3.0 + 0.01 * (i % 3) for i in range(30)] + [5.0 + 0.01 * (i % 3) for i in range(30)]
    losses[50] = 9.0
    records = [{"kind": "train", "step": i, "loss": loss, "grad_norm": 1.0} for i, loss in enumerate(losses)]
    assert [s["step"] for s in dynamics.spikes_seen(records)] == [30, 50]
    assert dynamics.spikes_seen(records)[1]["usual"] == pytest.approx(5.01)


def test_few_records_of_a_falling_loss_hide_no_spike():
    """As an older or shorter run has them: every tenth step or fewer, and no event that tells of spikes."""
    fall = [round(2.5 + 5 * 0.85**i + 0.05 * (-1) ** i, 3) for i in range(30)]
    for at in range(7, 30):
        losses = [loss + 4.0 * (i == at) for i, loss in enumerate(fall)]
        records = [{"kind": "train", "step": 10 * i, "loss": loss} for i, loss in enumerate(losses)]
        assert [s["step"] for s in dynamics.spikes_seen(records)] == [10 * at]
    records = [{"kind": "train", "step": 10 * i, "loss": loss} for i, loss in enumerate(fall)]
    assert dynamics.spikes_seen(records) == []


def test_a_run_without_health_records_has_none(copied):
    path = copied.folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in read(path) if r["kind"] != "health"))
    found = ti.health(copied)
    assert found["layers"] == [] and found["weight_norm"].shape == (0, 0) and json.loads(found.to_json())


def test_tables_are_the_mean_divergence_from_counted_tables(copied):
    """Against sums written out here, with the pair probabilities of evaluate.py."""
    m = ti.load("mine@0")
    found, V = ti.tables(m), copied.tokenizer.vocab_size
    train = np.asarray(copied.train_ids)
    unigram = (np.bincount(train, minlength=V) + 1) / (len(train) + V)
    windows = trace.windows(m)[:, :-1].numpy()
    sums = np.zeros(2)
    for ids in windows:
        with torch.inference_mode():
            p = m.model(torch.from_numpy(ids.astype(np.int64))[None])[0].double().softmax(-1).numpy()
        for row, token in zip(p, ids, strict=True):
            pairs = np.column_stack((np.full(V, token), np.arange(V))).ravel()
            bigram = bigram_probabilities(train, pairs.astype(np.int64), unigram)[::2]  # every other one is a pair
            sums += (row * np.log(row / unigram)).sum(), (row * np.log(row / bigram)).sum()
    assert found["positions"] == sum(map(len, windows)) and len(windows) == found["windows"]
    assert (found["unigram"], found["bigram"]) == pytest.approx(tuple(sums / found["positions"]), rel=1e-4)


def test_another_run_of_the_same_name_has_tables_of_its_own(copied, make_trained, tmp_path):
    """Pins: with the tokenizer as the key, a run made anew, which may have the same, got the counts of the old one."""
    first = make_trained(tmp_path / "runs" / "same")
    before = ti.tables(ti.load("same@1"))
    shutil.rmtree(first.folder)
    other = make_trained(tmp_path / "runs" / "same")
    tokens = tmp_path / "runs" / "same" / "data" / "train.tokens"
    write_tokens(tokens, other.train_ids[: len(other.train_ids) // 3], other.tokenizer)
    for manifest in (tmp_path / "runs" / "same" / "checkpoints").glob("*/MANIFEST.json"):
        told = json.loads(manifest.read_text())
        told.pop("sha256")
        told["digests"] = open_run(tmp_path / "runs" / "same")[0].digests
        manifest.write_bytes(canonical({**told, "sha256": sha256(canonical(told))}))
    after = ti.tables(ti.load("same@1"))
    dynamics.counted.cache_clear()
    assert dict(after) == dict(ti.tables(ti.load("same@1"))) != dict(before)


def test_many_health_records_are_thinned_and_the_last_stays(copied, monkeypatch):
    whole = ti.health(copied)
    monkeypatch.setattr(dynamics, "MOST_NUMBERS", len(whole["steps"]) * (2 * len(whole["layers"]) + 1) // 2)
    half = ti.health(copied)
    assert whole.truncated is None and half.truncated == "every 2. measurement"
    assert half["steps"] == whole["steps"][::-2][::-1]
    assert np.array_equal(half["update_ratio"], whole["update_ratio"][::-2][::-1])


def test_over_time_is_the_function_at_every_step(copied):
    steps = [s["step"] for s in ti.checkpoints(copied)["steps"]]
    whole = ti.over_time("mine", "tables")
    assert whole["steps"] == steps and len(whole["values"]) == len(steps)
    at = steps[4]
    assert whole["values"][4] == dict(ti.tables(ti.load(f"mine@{at}")))
    assert ti.over_time("mine", "tables", field="bigram")["values"][4] == whole["values"][4]["bigram"]
    arrays = ti.over_time("mine", "attention", {"prompt": "The fox", "layer": 0, "head": 1}, "pattern")
    assert (
        arrays["values"][2]
        == json.loads(ti.attention(ti.load(f"mine@{steps[2]}"), "The fox", 0, 1).to_json())["data"]["pattern"]
    )


def test_over_time_takes_fewer_steps_where_all_would_be_too_much(copied, monkeypatch):
    one = len(json.dumps(ti.over_time("mine", "tables")["values"][-1]))
    monkeypatch.setattr(dynamics, "MOST_BYTES", 4 * one)
    found = ti.over_time("mine", "tables")
    steps = [s["step"] for s in ti.checkpoints(copied)["steps"]]
    assert len(found["steps"]) == 4 and found["steps"][0] == 0 and found["steps"][-1] == 60
    assert found.truncated == f"4 of {len(steps)} checkpoints, evenly chosen"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tabels",), "none of a checkpoint .did you mean tables"),
        (("records",), "none of a checkpoint"),
        (("tables", {"n": 1}), "tables has no 'n'"),
        (("tables", {}, "bigam"), "no 'bigam' .did you mean bigram"),
    ],
)
def test_over_time_says_what_it_cannot(copied, arguments, words):
    refused(2, words, ti.over_time, "mine", *arguments)


def test_compare_has_curves_on_four_axes_and_a_copy_shows_no_difference(copied, tmp_path):
    shutil.copytree(copied.folder, tmp_path / "runs" / "copy")
    found = ti.compare(["mine", "copy"])
    mine, copy = found["curves"]
    assert found["settings"] == {} and found["same_validation_text"] and mine["train"] == copy["train"]
    assert [r["run"] for r in found["runs"]] == ["mine", "copy"]
    trained = [r for r in read(copied.folder / "metrics.jsonl") if r["kind"] == "train"]
    assert mine["train"]["loss"] == [r["loss"] for r in trained]
    assert mine["train"]["tokens"] == [r["tokens"] for r in trained]
    evals = [r for r in read(copied.folder / "metrics.jsonl") if r["kind"] == "eval"]
    assert mine["val"]["bpb"] == [r["val_bpb"] for r in evals]
    last = evals[-1]  # loss and bits per byte of training belong together as in the records
    assert mine["train"]["bpb"][-1] / mine["train"]["loss"][-1] == pytest.approx(last["train_bpb"] / last["train_loss"])
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(dynamics, "MOST_NUMBERS", 60)
        few = ti.compare(["mine", "copy"])
    assert few.truncated and few["curves"][0]["train"]["step"][-1] == mine["train"]["step"][-1]
    refused(2, "name one run", ti.compare, [])


def test_a_run_is_written_by_its_folder_so_that_its_line_gives_it_again(copied):
    assert ti.checkpoints(copied).python == f"ti.checkpoints({copied.folder.as_posix()!r})"
    for line in (ti.health(copied).python, ti.over_time("mine", "tables", field="bigram").python):
        assert eval(line, {"ti": ti}).to_json() == eval(line, {"ti": ti}).to_json()


def test_tales_say_whether_a_sample_holds_as_far_as_it_goes(copied):
    from tinygpt.corpus import tales

    told = next(tales.corpus(10_000)).text
    copied.facts["floor"] = 0.3
    dynamics.words_of.cache_clear()
    cut, wrong = told[: len(told) // 2], told[: len(told) // 4] + " Zx qq. The the. Of it was."
    found = dynamics.judged(copied, [{"text": cut}, {"text": wrong}, {"text": "qq"}, {"text": "The fox found a"}])
    assert [s["grammatical"] for s in found] == [True, False, False, False] and found[0]["consistent"]
    assert [s["new"] for s in found] == [True, True, True, False]


def test_every_function_of_the_table_is_public():
    """Here: those of this module. They return a Result and know their line."""
    for name, (module, _, _) in ti.FUNCTIONS.items():
        if module == "dynamics":
            assert getattr(ti, name).__wrapped__.__module__ == "tinygpt.inspect.dynamics"
    assert isinstance(public(lambda m: Result(a=1))(None), Result)


def test_the_time_left_is_told_by_the_median_pace_of_the_last_records():
    train = SimpleNamespace(max_steps=100, batch_size=2)
    run = SimpleNamespace(config=SimpleNamespace(train=train, model=SimpleNamespace(block_size=8)))
    paces = [1e9] * 9 + [16.0, 16.0, 16.0, 4.0, 900.0]  # the first nine are too long ago
    trained = [{"kind": "train", "step": i + 1, "tokens_per_s": pace} for i, pace in enumerate(paces)]
    assert dynamics.left_s(run, [*trained, {"kind": "eval", "step": 14}]) == (100 - 14) * 16 / 16.0
    assert dynamics.left_s(run, [{"kind": "eval", "step": 0}]) is None
