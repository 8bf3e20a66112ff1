"""The benchmarks measure what they say: alternation, statistics, processes from outside, the peers' protocol, history.

No test looks at how long something took; peers are scripts of a few lines.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import contenders, measured, memory, planner, plot, quality, scaling, serving, training
from benchmarks.common import BenchmarkError, alternate, append, figures, number, read_history, record, report, table

GOOD = '{"tokens_per_s": 1000, "step_s": 0.5, "seconds": 5}'


@pytest.fixture
def ask(tmp_path):
    """ask(source, timeout_s): the answer of a peer with this source."""

    def run(source: str, timeout_s: float = 60.0, **job):
        script = tmp_path / "script.py"
        script.write_text(source)
        job = {"device": "cpu", **job}
        setting = contenders.Setting(tmp_path, script, job, [], "modern", timeout_s, scripts={"script": script})
        return contenders.ask_peer(setting, "script", job)

    return run


def a_record(**values):
    """A record as a benchmark writes it, with figures tinygpt and hf."""
    found = figures("training speed", "tokens/s", values or {"tinygpt": [4.0, 9.0], "hf": [2.0, 3.0]}, "hf")
    return record("training", {"steps": 3}, found, {"litgpt": "not installed: pip install litgpt"})


# --- rounds and statistics -------------------------------------------------------------------------------------------


def test_runs_alternate_and_a_failed_contender_is_left_out_of_later_rounds():
    order = []

    def contender(name, fails_in=None):
        def run(round_):
            order.append((name, round_))
            if round_ == fails_in:
                raise BenchmarkError("out of paper.")
            return f"{name}{round_}"

        return run

    runs = {"a": contender("a"), "b": contender("b", fails_in=1), "c": contender("c", fails_in=0)}
    results, errors = alternate(runs, 3, lambda _: None)
    assert order == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert results == {"a": ["a0", "a1", "a2"], "b": ["b0"]}
    assert errors == {"b": "out of paper.", "c": "out of paper."}


def test_a_bug_is_not_taken_for_a_missing_contender():
    with pytest.raises(ZeroDivisionError):
        alternate({"a": lambda round_: 1 / round_}, 1, lambda _: None)


def test_ratios_are_taken_round_by_round():
    """Pins: the ratio of the medians, which here would be 3."""
    ours, theirs = figures("speed", "tokens/s", {"ours": [10.0, 30.0, 80.0], "theirs": [5.0, 10.0, 40.0]}, "theirs")
    assert (ours["median"], ours["low"], ours["high"]) == (30.0, 10.0, 80.0)
    assert ours["ratio"] == {"to": "theirs", "values": [2.0, 3.0, 2.0], "median": 2.0, "low": 2.0, "high": 3.0}
    assert "ratio" not in theirs


def test_numbers_are_short():
    assert [number(x) for x in (12345.6, 123.4, 12.34, 0.1234)] == ["12,346", "123", "12.3", "0.123"]


# --- processes, measured from outside --------------------------------------------------------------------------------


def test_a_process_is_measured_without_what_its_starter_occupies(tmp_path):
    """Pins: Linux hands the peak of the parent on to the child, so a benchmark that holds much would measure itself."""
    ballast = bytearray(b"x") * (150 << 20)
    small, large = (
        measured.run([sys.executable, "-c", code], tmp_path, os.environ, 60)
        for code in ("print('hello')", "x = bytearray(b'x') * (100 << 20)")
    )
    assert (small.exit_code, small.out, small.err) == (0, "hello\n", "")
    assert small.peak_rss_bytes < 60 << 20 < 100 << 20 < large.peak_rss_bytes < 150 << 20 <= len(ballast)
    assert small.cpu_s > 0 and small.seconds > 0


@pytest.mark.parametrize(
    ("then", "timeout_s", "exit_code"), [("time.sleep(600)", 1.5, measured.TIMED_OUT), ("0", 60, 0)]
)
def test_a_process_leaves_no_children_behind(tmp_path, then, timeout_s, exit_code):
    """Neither one that hangs and is killed, nor one that ends by itself: they would disturb the next contender."""
    code = f"import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); {then}"
    finished = measured.run([sys.executable, "-c", code], tmp_path, os.environ, timeout_s)
    assert finished.exit_code == exit_code
    for _ in range(100):  # until the system has taken it away; a zombie is dead, too
        try:
            os.kill(int(finished.out), 0)
            if "Z" in Path(f"/proc/{finished.out.strip()}/stat").read_text().rpartition(")")[2]:
                break
        except OSError:
            break
        time.sleep(0.05)
    else:
        os.kill(int(finished.out), 9)
        pytest.fail("the child lives on")


def test_a_process_that_ends_by_a_signal_says_so(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert measured.run([sys.executable, "-c", code], tmp_path, os.environ, 60).exit_code == -9


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_a_peer_gets_the_job_and_its_last_line_is_the_answer(ask):
    source = (
        "import json, sys\njob = json.load(open(sys.argv[1]))\nprint('Step 1 ...')\n"
        "print(json.dumps({'tokens_per_s': job['steps'], 'step_s': 0.5, 'seconds': 5, 'bpb': 1.5}))"
    )
    answer = ask(source, steps=77)
    assert (answer["tokens_per_s"], answer["bpb"]) == (77, 1.5)
    assert answer["peak_rss_bytes"] > 1 << 20 and answer["process_s"] > 0


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise ValueError('no such file: x')", "ended with exit code 1: ValueError: no such file: x"),
        ("print('all went well')", "answered no JSON object but 'all went well'."),
        ("print([1, 2])", "answered no JSON object but '[1, 2]'."),
        ("pass", "answered nothing."),
        (f"print({GOOD.replace('1000', '-1')!r})", "answered tokens_per_s=-1, which is not a number above 0."),
        (f"print({GOOD.replace('0.5', 'NaN')!r})", "answered step_s=nan, which is not a number above 0."),
        (f"print({GOOD.replace('seconds', 'minutes')!r})", "answered seconds=None, which is not a number above 0."),
        (f"print({GOOD!r}); raise SystemExit(3)", "ended with exit code 3: " + GOOD),
        ("from benchmarks.peers.protocol import fail; fail('no room.')", "no room."),
        ("from benchmarks.peers.protocol import not_installed; not_installed('x y')", "not installed: pip install x y"),
    ],
)  # fmt: skip
def test_what_a_peer_does_wrong_is_one_sentence(ask, source, sentence):
    with pytest.raises(BenchmarkError) as caught:
        ask(source)
    assert str(caught.value) == sentence


def test_a_peer_that_hangs_is_given_up(ask):
    with pytest.raises(BenchmarkError, match=r"^killed after 1 seconds without an answer\.$"):
        ask("import time; time.sleep(600)", timeout_s=1)


def test_the_clock_of_a_peer_counts_the_steps_after_the_warm_up(monkeypatch):
    from benchmarks.peers import protocol

    now, waited = iter([100.0, 104.0]), []
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: next(now))
    job = {"warmup_steps": 2, "steps": 4, "seconds": None, "batch_size": 3, "block_size": 5}
    clock = protocol.StepClock(job, lambda: waited.append(clock.steps))
    assert [clock.tick() for _ in range(4)] == [False, False, False, True]
    assert clock.figures() == {"tokens_per_s": 7.5, "step_s": 2.0, "seconds": 4.0}
    assert waited == [2, 4]  # the device is waited for at both ends of what is timed, and nowhere else


def test_peers_refuse_a_shape_that_is_not_theirs(capsys):
    from dataclasses import asdict

    from benchmarks.peers.protocol import require_modern
    from tinygpt.config import make_config

    require_modern(asdict(make_config("modern").model), "hf")
    with pytest.raises(SystemExit):
        require_modern(asdict(make_config("gpt2").model), "hf")
    assert "positions=learned" in json.loads(capsys.readouterr().out.strip())["error"]


# --- contenders ------------------------------------------------------------------------------------------------------


def test_the_pace_of_a_run_is_that_of_its_own_records():
    """Warm-up and steps with a save are left out; records are weighted with their steps."""
    speeds = {2: 1.0, 5: 1.0, 10: 100.0, 15: 1.0, 30: 50.0}
    metrics = [{"kind": "train", "step": step, "tokens_per_s": speed} for step, speed in speeds.items()]
    metrics.insert(1, {"kind": "eval", "step": 3, "val_bpb": 2.0})
    found = contenders.pace(metrics, tokens=10, saved={0, 10, 30})
    assert found["seconds"] == pytest.approx(5 * 10 / 100 + 15 * 10 / 50)
    assert found["tokens_per_s"] == pytest.approx(200 / 3.5) and found["step_s"] == pytest.approx(3.5 / 20)
    with pytest.raises(BenchmarkError, match="too short"):
        contenders.pace(metrics[:3], tokens=10)


def test_steps_with_a_save_are_read_from_the_run(make_model, tmp_path):
    from tinygpt.checkpoint import save_snapshot

    for step in (0, 7, 1200):
        save_snapshot(tmp_path, step, make_model())
    assert contenders.snapshot_steps(tmp_path) == {0, 7, 1200}


def test_peers_get_the_tokens_of_the_run(make_run, tmp_path):
    import numpy as np

    run = make_run(tmp_path / "run")
    places = contenders.plain_tokens(run.folder, tmp_path)
    assert np.array_equal(np.load(places["train_tokens"], allow_pickle=False), run.train_ids)
    assert np.array_equal(np.load(places["val_tokens"], allow_pickle=False), run.val_ids)
    assert places["val_bytes"] == len(run.tokenizer.decode_bytes(run.val_ids.tolist()))


def test_the_tutorials_script_has_the_tutorials_model_and_scores_every_token():
    import torch

    from benchmarks.peers.tutorial import TinyGPT, bits_per_byte, epoch_of_batches
    from tinygpt.config import model_config

    model = TinyGPT(**model_config)
    assert sum(p.numel() for p in model.parameters()) == 3_254_272
    with torch.no_grad():
        model.head.weight.zero_()  # every token equally likely
    ids = torch.arange(300)
    assert bits_per_byte(model, ids, n_bytes=100, block_size=128) == pytest.approx(299 * math.log2(8000) / 100)
    sure = lambda idx: 50 * torch.nn.functional.one_hot(idx + 1, 301).float()  # after n comes n + 1  # noqa: E731
    assert bits_per_byte(sure, ids, n_bytes=100, block_size=128) < 1e-6
    batches = epoch_of_batches(ids, batch_size=4, block_size=16)  # 18 windows
    assert [tuple(batch.shape) for batch in batches] == [(4, 17)] * 4
    starts = [start for batch in batches for start in batch[:, 0].tolist()]
    assert len(set(starts)) == 16 and set(starts) <= set(range(0, 288, 16))


@pytest.mark.parametrize("command", [training.main, memory.main])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--text", "nowhere.txt"], "there is no file nowhere.txt."),
        (["--contenders", "tinygpt,nanogpt"], "there is no contender 'nanogpt'; contenders are tinygpt,"),
        (["--contenders", "tinygpt:gpt9"], "there is no contender 'tinygpt:gpt9'"),
        (["--peer-script", "nowhere.py"], "there is no file nowhere.py."),
        (["--python", "hf=nowhere"], "--python hf=nowhere: there is no such interpreter."),
        (["n_embed=3"], "there is no field 'n_embed' (did you mean n_embd"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(command, words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        command([*words, "--history", "history.jsonl"])
    said = capsys.readouterr()
    assert (leaving.value.code, said.out) == (2, "")
    assert said.err.startswith(f"benchmarks: {sentence}") and said.err.count("\n") == 1
    assert not Path("history.jsonl").exists()


# --- time to quality -------------------------------------------------------------------------------------------------


def test_the_text_is_split_by_characters(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(("é" * 9 + "a\r\n" + "xyz" * 6).encode())  # 30 characters
    train, val = quality.split(text, tmp_path)
    assert (train.read_bytes().decode(), val.read_bytes().decode()) == ("é" * 9 + "a\r\n" + "xyz" * 5, "xyz")


def test_a_run_that_misses_the_target_gives_no_time_but_a_bound():
    reached = lambda s, **more: {"reached": True, "seconds": s, "training_s": s - 1, "bpb": 1.4, **more}  # noqa: E731
    missed = {"reached": False, "seconds": 90.0, "training_s": 80.0, "bpb": 1.7}
    results = {"tutorial": [reached(40.0), missed], "tinygpt": [reached(10.0, minutes=1), reached(15.0, minutes=2)]}
    found = {(f["quantity"], f["name"]): f["values"] for f in quality.figures_of(results)}
    assert found["time to quality", "tutorial"] == [40.0]
    assert found["time to quality", "tinygpt"] == [10.0, 15.0]
    assert found["ratio of times", "at least, tutorial / tinygpt"] == [4.0, 6.0]
    sentence = "1 of 2 runs did not reach 1.5 bits per byte: 1.700 after 90 s."
    assert quality.not_reached(results, 1.5) == {"tutorial": sentence}
    both = {"tutorial": [reached(40.0)], "tinygpt": [missed]}
    assert [f["name"] for f in quality.figures_of(both)] == ["tutorial"]


# --- the plan against a grid, several ranks ---------------------------------------------------------------------------


def test_the_plan_is_held_against_the_best_of_the_grid(tmp_path, monkeypatch, capsys):
    """The plan is 1 % above the best of two arms in one round, and the best in the other."""
    text, history = tmp_path / "text.txt", tmp_path / "history.jsonl"
    text.write_text("some words. " * 100)
    costs = {(0, ""): 1.01, (0, "dropout=0"): 1.5, (0, "tied=true"): 1.0, (1, ""): 0.9, (1, "dropout=0"): 1.0,
             (1, "tied=true"): 0.95}  # fmt: skip

    def train(setting, val, minutes, words, seed):
        assert (setting.text.read_text() + val.read_text()) == text.read_text()
        figures = {"bpb": costs[seed, " ".join(words)], "training_s": 66.0, "expected_s": 60.0, "process_s": 70.0}
        return {"words": " ".join(words), "seed": seed, "minutes": minutes, "chosen": {"n_embd": 64}, **figures}

    monkeypatch.setattr(planner, "train", train)
    arms = ["--arm", "dropout=0", "--arm", "tied=true"]
    planner.main(["--text", str(text), "--minutes", "1", "--repeats", "2", "--history", str(history), *arms])
    found = {f["quantity"]: f["values"] for f in read_history(history)[0]["figures"]}
    assert found["above the best of the grid"] == [pytest.approx(1.0), 0.0]
    assert found["the plan's cost of unseen text"] == [1.01, 0.9]
    assert found["real time / expected"] == [1.1] * 6
    assert "dropout=0" in capsys.readouterr().err


def test_a_plan_is_read_from_its_run(tmp_path):
    """Expected and real figures of one short training."""
    text = contenders.default_text(tmp_path, 60.0)
    words = ["n_embd=16", "n_heads=2", "n_layers=1", "block_size=32", "vocab_size=300", "compiled=no", "threads=1"]
    setting = contenders.Setting(tmp_path, text, {"device": "cpu"}, words, "modern", 120.0)
    run = planner.train(setting, None, 0.02, ["dropout=0.25"], seed=3)
    assert run["chosen"]["dropout"] == 0.25 and run["chosen"]["n_embd"] == 16 and run["seed"] == 3
    assert run["bpb"] == run["curve"][-1][1] >= run["best_bpb"] and run["expected_s"] > 0
    assert 0 < run["training_s"] < run["process_s"] and run["peak_rss_bytes"] > 1e8
    assert not (tmp_path / "attempt").exists()


def test_ranks_share_one_batch_and_their_speed_is_held_against_one(tmp_path, capsys):
    """Two real ranks: the losses are those of one process, and every figure is there."""
    history = tmp_path / "history.jsonl"
    shape = ["n_embd=32", "n_heads=2", "n_layers=1", "block_size=16", "vocab_size=300", "batch_size=4", "micro_batch=2"]
    options = ["--ranks", "1,2", "--device", "cpu", "--steps", "5", "--repeats", "1", "--history", str(history)]
    scaling.main([*options, *shape, "precision=fp32"])
    line = read_history(history)[0]
    found = {(f["quantity"], f["name"]): f["values"][0] for f in line["figures"]}
    one, two = (line["runs"][name][0] for name in ("1 rank", "2 ranks"))
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-4) and len(one["losses"]) == 5
    ratio = two["tokens_per_s"] / one["tokens_per_s"]
    assert found["efficiency", "2 ranks"] == pytest.approx(50 * ratio)
    # matrices: 4 of 32 x 32 and 2 of 32 x 128 in the block, 32 x 300 of the head; attention: 12 * 1 * 32 * 16
    operations = 6 * (4 * 32 * 32 + 2 * 32 * 128 + 32 * 300) + 12 * 32 * 16
    share = 100 * one["tokens_per_s"] * operations / one["matrix_flop_per_s"]
    assert found["share of the measured matrix rate", "1 rank"] == pytest.approx(share)


# --- history and picture ---------------------------------------------------------------------------------------------


def test_a_line_of_the_history_reads_back_and_says_where_and_when(tmp_path, capsys):
    history = tmp_path / "new" / "history.jsonl"
    line = a_record()
    report(line, history)
    append(history, line)
    assert read_history(history) == [line, line]
    assert line["machine"]["cores"] >= 1 and line["machine"]["torch"] and line["date"].endswith("Z") and line["commit"]
    shown = capsys.readouterr().out
    assert shown == table(line) + "\n"
    assert "2.5 x hf (2 - 3)" in shown and "litgpt: not installed: pip install litgpt" in shown
    assert str(Path.home()) not in json.dumps(line)


def test_nothing_measured_is_an_error_and_no_line(tmp_path):
    line = record("training", {}, [], {"hf": "not installed: pip install x"})
    with pytest.raises(BenchmarkError, match=r"^nothing could be measured: hf: not installed: pip install x"):
        report(line, tmp_path / "history.jsonl")
    assert not (tmp_path / "history.jsonl").exists()


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"benchmark": "training"}'])
def test_a_damaged_history_names_the_line(line, tmp_path):
    history = tmp_path / "history.jsonl"
    history.write_text(f"{json.dumps(a_record())}\n{line}\n")
    with pytest.raises(BenchmarkError, match=r"history.jsonl, line 2 is not a record of a benchmark\.$"):
        read_history(history)


def test_the_history_becomes_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture of the history is unchecked")
    history, out = tmp_path / "history.jsonl", tmp_path / "history.png"
    for line in (a_record(), a_record(tinygpt=[5.0], hf=[2.0]), a_record(hf=[2.5])):
        append(history, line)
    append(history, record("memory", {}, figures("peak resident memory", "MiB", {"tinygpt": [400.0]}), {}))
    plot.main(["--history", str(history), "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG") and len(out.read_bytes()) > 10_000
    with pytest.raises(SystemExit) as leaving:
        plot.main(["--history", str(history), "--benchmark", "quality"])
    assert leaving.value.code == 2 and "holds no figures of quality." in capsys.readouterr().err


# --- serving ---------------------------------------------------------------------------------------------------------


def test_a_served_model_is_asked_by_several_clients(tmp_path, make_trained):
    """The real server: all requests are answered, each with its tokens and a time to the first of them."""
    run = make_trained(tmp_path / "runs" / "tale", block_size=64)
    asked = serving.ask_server(run.folder, "plain", 2, 5, 3, 0)
    assert len(asked["firsts"]) == 5 and min(asked["firsts"]) > 0 and asked["speed"] > 0
