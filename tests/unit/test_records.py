"""The log files survive kills, full disks and odd values; the verdict says the right thing about a run."""

import errno
import json
import os

import pytest

from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.records import Log, encode_record, read, verdict

# ---- log files -------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    log = Log(tmp_path)
    log.metric(kind="train", step=1, loss=9.5)
    log.metric(kind="event", step=1, text="zwei\nZeilen, \u2028 und “mehr”: 你好")
    log.sample(step=1, prompt="", text="a\tb", seed=3)
    log.sync()
    assert read(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "loss": 9.5},
        {"kind": "event", "step": 1, "text": "zwei\nZeilen, \u2028 und “mehr”: 你好"},
    ]
    assert read(tmp_path / "samples.jsonl") == [{"step": 1, "prompt": "", "text": "a\tb", "seed": 3}]
    assert read(tmp_path / "nothing.jsonl") == []


def test_every_record_is_one_write_on_an_append_descriptor(tmp_path, monkeypatch):
    writes, flags = [], []
    real_write, real_open = os.write, os.open
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or real_write(fd, data))
    monkeypatch.setattr(os, "open", lambda path, flag, mode=0: flags.append(flag) or real_open(path, flag, mode))
    Log(tmp_path).metric(step=1, text="x" * 100_000)
    assert len(writes) == 1 and writes[0].endswith(b"\n") and writes[0].count(b"\n") == 1
    assert all(flag & os.O_APPEND for flag in flags)


def test_values_that_are_not_finite_become_null_and_are_named():
    fields = {"loss": float("nan"), "lr": 0.1, "grad_norm": float("-inf"), "norms": {"a": [1.0, float("inf")]}, "n": 2}
    line = encode_record(fields)
    assert json.loads(line, parse_constant=lambda word: pytest.fail(word)) == {
        "loss": None,
        "lr": 0.1,
        "grad_norm": None,
        "norms": {"a": [1.0, None]},
        "n": 2,
        "non_finite": ["loss", "grad_norm", "norms"],
    }
    assert b"non_finite" not in encode_record({"loss": 1.0})


def test_a_log_holds_no_control_character_but_keeps_other_scripts():
    text = "\x1b[31m \x9b2J \x7f \u2028 \ud800 Grüße 你好"
    line = encode_record({"text": text})
    assert json.loads(line)["text"] == text
    shown = line.decode()
    assert "Grüße 你好" in shown
    assert not any(ord(char) < 32 or 0x7F <= ord(char) <= 0x9F or char == "\u2028" for char in shown[:-1])


def test_a_torn_last_line_is_ignored_even_when_it_parses(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert read(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"step": 2}')  # its newline is missing, and the next record would join it
    assert read(path) == [{"step": 1}]
    path.write_bytes('{"step": 1}\n{"text": "ü'.encode()[:-1])  # torn inside a character
    assert read(path) == [{"step": 1}]


@pytest.mark.parametrize("damage", [b"{oops\n", b"\n", b"[1]\n", b"\xff\n"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    (tmp_path / "m").write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    with pytest.raises(UserError, match=r"line 2 .*delete that line") as error:
        read(tmp_path / "m")
    assert error.value.exit_code == BAD_INPUT


def test_a_resume_cuts_both_logs_back_to_the_checkpoint(tmp_path):
    log = Log(tmp_path)
    assert log.sizes() == {"metrics.jsonl": 0, "samples.jsonl": 0}
    log.metric(step=1)
    log.sample(step=1)
    log.metric(step=2)
    sizes = log.sizes()
    assert sizes == {name: (tmp_path / name).stat().st_size for name in ("metrics.jsonl", "samples.jsonl")}
    log.metric(step=3)
    log.sample(step=3)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    assert log.cut(sizes) == []
    assert log.sizes() == sizes
    log.metric(step=3)
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert [record["step"] for record in read(tmp_path / "samples.jsonl")] == [1]


def test_a_cut_never_lengthens_a_log_and_always_ends_on_a_whole_line(tmp_path):
    log = Log(tmp_path)
    log.metric(step=1)
    whole = log.sizes()["metrics.jsonl"]
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    missing = log.cut({"metrics.jsonl": whole + 400, "samples.jsonl": 7})
    assert len(missing) == 2 and "metrics.jsonl lacks 400 bytes" in missing[0] and "samples.jsonl" in missing[1]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'
    assert not (tmp_path / "samples.jsonl").exists()
    assert log.cut({}) == [] and log.sizes()["metrics.jsonl"] == 0


def test_a_full_disk_costs_no_record(tmp_path, monkeypatch):
    """What cannot be written waits for the next one; no half line is left meanwhile, and it is said once."""
    said = []
    log = Log(tmp_path, said.append)
    log.metric(step=1)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        log.metric(step=2)
        log.sample(step=2)
        log.metric(step=3)
        assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'
        assert len(said) == 1 and "metrics.jsonl cannot be written (No space left on device)" in said[0]
        with pytest.raises(OSError) as caught:
            log.sync()  # a save must not claim that they are there
        assert caught.value.errno == errno.ENOSPC
    log.metric(step=4)
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4}]
    assert read(tmp_path / "samples.jsonl") == [{"step": 2}]


def test_what_a_rewind_took_back_does_not_count(tmp_path):
    """The curve goes on from the checkpoint; what had been recorded beyond it stays in the file alone."""
    log = Log(tmp_path)
    for step in range(1, 8):
        log.metric(kind="train", step=step)
    log.metric(kind="event", step=7, text="refused")
    log.also = {"rewind": 1}
    log.metric(kind="event", step=4, text="back", back_to=4)
    for step in range(5, 7):
        log.metric(kind="train", step=step)
    found = read(tmp_path / "metrics.jsonl")
    assert [(r["kind"], r["step"]) for r in found] == [
        *(("train", step) for step in range(1, 5)), ("event", 7), ("event", 4), ("train", 5), ("train", 6),
    ]  # fmt: skip
    assert [r.get("rewind") for r in found[-2:]] == [1, 1]


def test_sync_reaches_both_files(tmp_path, monkeypatch):
    log = Log(tmp_path)
    log.sync()  # nothing there yet
    log.metric(step=1)
    log.sample(step=1)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    log.sync()
    assert set(synced) == {(tmp_path / name).stat().st_ino for name in ("metrics.jsonl", "samples.jsonl")}


# ---- verdict ---------------------------------------------------------------------------------------------------

MARKS = {"uniform": 8.0, "unigram": 3.4, "bigram": 2.6, "xz": 2.0}


def evals(*vals, train=None):
    records = [{"step": 100 * (i + 1), "val_bpb": val} for i, val in enumerate(vals)]
    for record, value in zip(records, train or [], strict=False):
        record["train_bpb"] = value
    return records


def said(*args, **kwargs):
    return " ".join(verdict(*args, **kwargs))


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (3.9, "learning rate is probably too high"),
        (3.41, "Something is wrong"),
        (3.4, "letters and common words"),
        (2.7, "train longer"),
        (2.6, "which words follow each other"),
        (2.1, "xz (2.000) still packs"),
        (2.0, "better than the compressor xz"),
        (1.1, "normal and good"),
    ],
)
def test_the_place_on_the_ladder(best, words):
    assert words in said(evals(best, best, best), MARKS)


def test_each_rung_gets_its_own_words():
    first = [verdict(evals(v, v, v), MARKS)[0].split(". ", 1)[1] for v in (3.9, 3.0, 2.3, 1.5)]
    assert len(set(first)) == 4


def test_a_run_that_only_began_is_not_called_wrong():
    text = said(evals(5.0, 4.5, 4.0), MARKS)
    assert "still falling" in text and "Something is wrong" not in text


def test_missing_baselines_are_not_mentioned():
    assert verdict(evals(2.0), {}) == ["Best: 2.000 bits per byte on unseen text, at step 100."]
    assert "xz" not in said(evals(2.0), {"bigram": 2.6}) and "bigram" in said(evals(2.0), {"bigram": 2.6})


@pytest.mark.parametrize(
    ("best", "words"),
    [(1.2, "20 % above"), (1.005, "at the floor"), (0.995, "at the floor"), (0.9, "below the floor")],
)
def test_the_distance_to_the_floor(best, words):
    assert words in said(evals(best), MARKS, 1.0)
    assert "floor" not in said(evals(best), MARKS)


def test_over_fitting_names_the_step_the_rise_and_the_remedy():
    text = said(evals(2.0, 1.5, 1.6, 1.8, train=[2.0, 1.4, 1.2, 0.9]), MARKS)
    assert "Over-fitting since step 200" in text and "from 1.500 to 1.800 (+20 %)" in text
    assert all(remedy in text for remedy in ("Fewer steps", "more text", "dropout"))
    assert "gap of 100 %, learnt by heart, or the unseen text is of another kind" in text
    assert "more minutes" not in text


def test_a_rise_of_two_percent_is_noise():
    assert "Over-fitting" not in said(evals(2.0, 1.500, 1.529), MARKS)
    assert "Over-fitting since step 200" in said(evals(2.0, 1.500, 1.532), MARKS)


def test_when_the_training_figure_rises_too_it_is_instability_not_over_fitting():
    text = said(evals(2.0, 1.5, 1.9, train=[2.0, 1.45, 1.9]), MARKS)
    assert "unstable" in text and "Lower the learning rate" in text and "Over-fitting" not in text


def test_still_falling_level_or_neither():
    assert "still fall (1.800 to 1.500)" in said(evals(2.0, 1.8, 1.6, 1.5), MARKS)
    level = said(evals(2.0, 1.502, 1.501, 1.5), MARKS)
    assert "level" in level and "still fall" not in level
    bumpy = said(evals(1.8, 1.9, 1.5), MARKS)
    assert "level" not in bumpy and "still fall" not in bumpy
    over, broken = evals(1.5, 1.8, 1.8, 1.8), [*evals(2.0, 2.0, 2.0), {"step": 400}]
    assert "level" not in said(over, MARKS) and "level" not in said(broken, MARKS)
    assert "still fall" not in said(evals(1.5), MARKS)


@pytest.mark.parametrize(
    ("train", "words"), [(1.4, "it generalises"), (1.25, "learnt by heart, or the unseen text is of another kind")]
)
def test_the_gap_between_training_and_unseen_text(train, words):
    assert words in said(evals(1.5, train=[train]), MARKS)


@pytest.mark.parametrize("train", [1.501, 1.61, 9.0])
def test_a_training_figure_above_the_unseen_one_is_no_negative_gap(train):
    """With dropout on it stands above; "a gap of -7 %" would puzzle."""
    line = verdict(evals(1.5, train=[train]), MARKS)[-1]
    assert "no gap, it generalises" in line and "dropout" in line and "%" not in line and "-" not in line


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), float("-inf")])
def test_figures_that_are_none_or_not_finite_are_not_judged(bad):
    """Everything that can be absent from a log or a config: it is passed over, never printed or compared."""
    whole = verdict(evals(2.0, 1.5, 1.2, train=[2.0, 1.5, 1.1]), {}, None)
    assert verdict(evals(2.0, 1.5, 1.2, train=[2.0, bad, 1.1]), dict.fromkeys(MARKS, bad), bad) == whole
    lines = verdict(evals(2.0, bad, 1.2, train=[bad, bad, bad]), MARKS, bad)
    assert not any(word in " ".join(lines) for word in ("nan", "inf", "None", "Training text"))


def test_a_run_that_broke_down_says_so_first():
    for broken in (None, float("nan")):
        lines = verdict([*evals(3.0, 2.9), {"step": 300, "val_bpb": broken}], MARKS)
        assert "not a number" in lines[0] and "step 300" in lines[0] and "learning rate" in lines[0]
        assert "at step 200" in lines[1] and not any("more minutes" in line for line in lines)


@pytest.mark.parametrize("records", [[], [{"step": 0, "val_bpb": 3.2}], [{"step": 0}]])
def test_without_an_evaluation_of_a_trained_model_there_is_no_verdict(records):
    assert "nothing to judge" in verdict(records, MARKS)[-1]
