"""The happy path of every command, on a small text and a tiny model; what each prints and leaves behind."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from command_line import TINY, environment, inside, story_text, tinygpt, tree

from tinygpt.errors import BAD_INPUT, INTERRUPTED, LOCKED, TERMINATED, USAGE

STEPS = ("--steps", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text and two runs of it, `a` and `b`, of different widths; commands that read leave it as it is."""
    with inside(tmp_path_factory.mktemp("cli")) as here:
        (here / "stories.txt").write_text(story_text())
        (here / "other.txt").write_text(story_text().replace("boat", "drum"))
        for run, words in [("a", ["n_embd=16", "eval_every=2"]), ("b", ["n_embd=32"])]:
            outcome = tinygpt("train", "stories.txt", "--run", run, *STEPS, *TINY, *words)
            assert (outcome.code, outcome.err) == (0, "")
        assert tinygpt("train", "other.txt", "--run", "c", *STEPS, *TINY).code == 0
        yield here


def records(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


# --- train -----------------------------------------------------------------------------------------------------------


def test_train_says_what_it_does_and_leaves_a_whole_run(tmp_path: Path):
    with inside(tmp_path):
        Path("my story.txt").write_text(story_text())
        outcome = tinygpt("train", "my story.txt", *STEPS, *TINY, "seed=7")
    assert (outcome.code, outcome.err) == (0, "")
    for word in ("Device: ", "Text: ", "Tokenizer: ", "Plan: preset modern", "4 steps", "step 4/4", "Validation: ",
                 "bits per byte", "uniform", "bigram", "xz", "It writes", "tinygpt generate my-story"):  # fmt: skip
        assert word in outcome.out, word
    run = tmp_path / "runs" / "my-story"
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"config.json", "corpus.json", "tokenizer.json", "metrics.jsonl", "samples.jsonl", "data/train.tokens",
            "data/val.tokens", "checkpoints/LATEST", "checkpoints/BEST", "snapshots/step-00000000.safetensors",
            "checkpoints/step-00000004/MANIFEST.json"} <= found  # fmt: skip
    stored = json.loads((run / "config.json").read_text())
    assert stored["command"] == f"tinygpt train 'my story.txt' --steps 4 {' '.join(TINY)} seed=7"
    assert (stored["train"]["max_steps"], stored["train"]["seed"], stored["model"]["n_embd"]) == (4, 7, 16)
    steps = [r["step"] for r in records(run) if r["kind"] == "train"]
    assert steps == [1, 2, 3, 4]
    assert not list((tmp_path / "runs").glob(".tmp-*"))


def test_the_same_name_again_makes_another_run(tmp_path: Path):
    """`tinygpt train x.txt` twice: two runs, the first untouched."""
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        assert tinygpt("train", "x.txt", *STEPS, *TINY).code == 0
        before = tree(tmp_path / "runs" / "x")
        assert tinygpt("train", "x.txt", *STEPS, *TINY).code == 0
    assert tree(tmp_path / "runs" / "x") == before
    assert (tmp_path / "runs" / "x-2" / "checkpoints" / "LATEST").exists()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("one.txt", story_text(20))
        file.writestr("two.md", story_text(40)[900:])
    return out.getvalue()


def table() -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([("id", "text"), *enumerate(story_text().split("\n\n\n"))])
    return out.getvalue().encode()


TEXT = story_text().encode()
KINDS = {
    "a.txt": TEXT,
    "a.md": TEXT,
    "folder": {"one.txt": TEXT[:1500], "deeper/two.md": TEXT[1500:]},
    "a.zip": archive(),
    "a.txt.gz": gzip.compress(TEXT),
    "a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in story_text().split("\n\n\n")).encode(),
    "a.csv": table(),
    "-": TEXT,
}


@pytest.mark.parametrize("name", KINDS)
def test_train_from_every_kind_of_text(tmp_path: Path, name: str):
    """T1: ends with code 0, a checkpoint and a sample."""
    content = KINDS[name]
    with inside(tmp_path):
        for file, data in content.items() if isinstance(content, dict) else [("", content)]:
            path = Path(name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name != "-":
                path.write_bytes(data)
        outcome = tinygpt("train", name, *STEPS, *TINY, stdin=TEXT if name == "-" else b"")
        assert (outcome.code, outcome.err) == (0, "")
        run = tmp_path / "runs" / {"-": "stdin", "folder": "folder", "a.txt.gz": "a.txt"}.get(name, "a")
        assert (run / "checkpoints" / "step-00000004").is_dir()
        assert records(run, "samples.jsonl")[-1]["text"]
        report = json.loads((run / "corpus.json").read_text())
    assert report["bytes"] > 3000
    assert len(report["sources"]) == (2 if name in ("folder", "a.zip") else 1)


def test_train_on_several_texts_with_a_validation_text(folder: Path, tmp_path: Path):
    with inside(tmp_path):
        for name, text in [("a.txt", story_text(20)), ("b.txt", story_text(40)[2000:]), ("v.txt", "A drum. " * 50)]:
            Path(name).write_text(text)
        assert tinygpt("train", "a.txt", "b.txt", "--val", "v.txt", *STEPS, *TINY).code == 0
        report = json.loads(Path("runs/a/corpus.json").read_text())
    assert report["split"] == "given" and report["val"]["bytes"] == 400
    assert [source["name"] for source in report["sources"]] == ["a.txt", "b.txt"]


def test_train_without_a_text_writes_the_built_in_corpus_and_keeps_one_that_is_there(tmp_path: Path, monkeypatch):
    """T1: `tinygpt train` alone, with no network; a file at that place is the user's and is trained on as it is."""
    import functools
    import socket

    from tinygpt.corpus import tales

    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(tales, "write", functools.partial(tales.write, n_bytes=60_000))
    with inside(tmp_path):
        outcome = tinygpt("train", *STEPS, *TINY)
        assert (outcome.code, outcome.err) == (0, "")
        assert "Wrote data/tiny_corpus.txt" in outcome.out and "floor" in outcome.out
        assert json.loads(Path("runs/tiny_corpus/config.json").read_text())["floor"] > 0.1
        Path("data/tiny_corpus.txt").write_text(story_text())
        again = tinygpt("train", *STEPS, *TINY)
        assert again.code == 0 and "Wrote data" not in again.out and "floor" not in again.out
        assert Path("data/tiny_corpus.txt").read_text() == story_text()
        evaluated = tinygpt("eval", "tiny_corpus", "--tales", "3", "--json").json
    assert evaluated["floor"] > 0.1 and evaluated["tales"]["n"] == 3 and 0 <= evaluated["tales"]["consistent"] <= 1


@pytest.mark.parametrize("preset", ["tutorial", "gpt2", "modern"])
def test_train_with_every_preset(tmp_path: Path, preset: str):
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        outcome = tinygpt("train", "x.txt", "--preset", preset, *STEPS, *TINY)
        assert outcome.code == 0 and f"preset {preset}" in outcome.out
        assert json.loads(Path("runs/x/config.json").read_text())["preset"] == preset


@pytest.mark.parametrize(
    ("words", "steps"), [(["max_steps=3"], 3), (["--epochs", "1"], None), (["--minutes", "0.002"], None)]
)
def test_train_with_every_budget(tmp_path: Path, words: list[str], steps: int | None):
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        assert tinygpt("train", "x.txt", *words, *TINY, "--quiet").code == 0
        config = json.loads(Path("runs/x/config.json").read_text())
        trained = [r["step"] for r in records(Path("runs/x")) if r["kind"] == "train"][-1]
    assert trained == config["train"]["max_steps"] >= 1
    assert steps is None or trained == steps


def test_settings_come_from_the_file_and_the_command_line_wins(tmp_path: Path):
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        Path(".config/tinygpt").mkdir(parents=True)
        Path(".config/tinygpt/config.toml").write_text("seed = 1\nlr = 0.1\nmax_steps = 9\nbatch_size = 4\n")
        Path("my.toml").write_text("[train]\nseed = 2\nlr = 0.01\n")
        outcome = tinygpt("train", "x.txt", "--config", "my.toml", "--steps", "2", *TINY, "seed=3")
        assert outcome.code == 0
        train = json.loads(Path("runs/x/config.json").read_text())["train"]
    assert (train["seed"], train["lr"], train["batch_size"], train["max_steps"]) == (3, 0.01, 4, 2)


def test_quiet_says_sentences_only(folder: Path, tmp_path: Path):
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        outcome = tinygpt("train", "x.txt", *STEPS, *TINY, "--quiet")
    assert outcome.code == 0 and "step 1/4" not in outcome.out and "Validation: " in outcome.out


# --- generate --------------------------------------------------------------------------------------------------------


def test_generate_writes_on_from_the_prompt_and_repeats_itself_by_seed(folder: Path):
    before = tree(folder)
    short = ("--max-new-tokens", "8", "--engine", "plain")
    first, again = tinygpt("generate", "a", "Ana had", *short), tinygpt("generate", "a", "Ana had", *short)
    other = tinygpt("generate", "a", "Ana had", *short, "--seed", "1")
    assert (first.code, first.err) == (0, "") and first.out.startswith("Ana had") and len(first.out) > len("Ana had\n")
    assert first == again and other.out != first.out
    assert tinygpt("generate", "a", "-", *short, stdin=b"Ana had").out == first.out
    assert tinygpt("generate", "runs/a", "Ana had", *short).out == first.out
    assert tree(folder) == before


def test_generate_json_holds_the_same_texts(folder: Path):
    words = ("Ana had", "--max-new-tokens", "6", "--num", "2", "--seed", "5")
    told = tinygpt("generate", "a", *words, "--json").json
    assert told["run"] == "a" and [s["seed"] for s in told["samples"]] == [5, 6]
    assert told["samples"][0]["text"] != told["samples"][1]["text"]
    single = tinygpt("generate", "a", *words[:3], "--seed", "6", "--json").json
    assert single["samples"][0]["text"] == told["samples"][1]["text"]
    plain = tinygpt("generate", "a", *words).out
    assert plain.count("--- seed ") == 2 and plain.startswith("--- seed 5\nAna had")


def test_generate_stops_before_the_stop_string(folder: Path):
    greedy = ("generate", "a", "Ana", "--temperature", "0", "--json", "--max-new-tokens", "12")
    whole = tinygpt(*greedy).json["samples"][0]["text"]
    stop = whole[3:5]
    cut = tinygpt(*greedy, "--stop", stop, "--stop", "not in there").json["samples"][0]["text"]
    assert cut == whole[: whole.index(stop)]


def test_greedy_ignores_the_seed_and_top_k_1_equals_it(folder: Path):
    words = ("generate", "a", "Ana", "--json", "--max-new-tokens", "8")
    choices = (["--temperature", "0"], ["--temperature", "0", "--seed", "9"], ["--top-k", "1"], ["--top-p", "1e-9"])
    texts = {tinygpt(*words, *choice).json["samples"][0]["text"] for choice in choices}
    assert len(texts) == 1


def test_generate_from_another_checkpoint_of_the_run(folder: Path):
    steps = {at: tinygpt("generate", f"a{at}", "Ana", "--json", "--max-new-tokens", "2").json["step"]
             for at in ("", "@last", "@2")}  # fmt: skip
    assert steps["@last"] == 4 and steps["@2"] == 2


def test_generate_says_when_the_window_slides(folder: Path):
    fits = tinygpt("generate", "a", "Ana", "--max-new-tokens", "2", "--engine", "plain")
    slides = tinygpt("generate", "a", "Ana", "--max-new-tokens", "40", "--engine", "plain")
    assert fits.err == "" and "the window slides" in slides.err and slides.err.count("\n") == 1


def test_generate_tells_why_it_ended_and_how_likely_each_token_was(folder: Path):
    words = ("generate", "a", "Ana", "--temperature", "0", "--max-new-tokens", "4", "--json")
    sample = tinygpt(*words, "--logprobs", "2").json["samples"][0]
    assert sample["finish_reason"] == "length" and len(sample["logprobs"]) == 4
    assert "Ana" + "".join(token["token"] for token in sample["logprobs"]) == sample["prompt"] + sample["text"]
    assert all(token["top"][0]["id"] == token["id"] and len(token["top"]) == 2 for token in sample["logprobs"])
    assert "logprobs" not in tinygpt(*words).json["samples"][0]


def test_generate_obeys_bias_and_penalties(folder: Path):
    words = ("generate", "a", "Ana", "--temperature", "0", "--max-new-tokens", "6", "--json", "--logprobs", "0")
    first = tinygpt(*words).json["samples"][0]["logprobs"][0]["id"]
    forbidden = tinygpt(*words, "--logit-bias", f"{first}=-100").json["samples"][0]["logprobs"]
    assert all(token["id"] != first for token in forbidden)
    wanted = tinygpt(*words, "--logit-bias", "7=100").json["samples"][0]["logprobs"]
    assert [token["id"] for token in wanted] == [7] * 6
    other = tinygpt(*words, "--logit-bias", "7=1.9", "--logit-bias", "8=100", "--frequency-penalty", "2")
    assert {token["id"] for token in other.json["samples"][0]["logprobs"]} == {8}
    assert tinygpt(*words[:-2], "--logit-bias", "seven=1").err.endswith("must be ID=BIAS, as in 17=-100.\n")
    assert "names token 9999" in tinygpt(*words[:-2], "--logit-bias", "9999=1").err
    assert "--logprobs goes with --json" in tinygpt(*words[:-3], "--logprobs", "1").err


# --- eval, compare, corpus, inspect, doctor --------------------------------------------------------------------------


def test_eval_gives_the_figure_that_training_gave(folder: Path):
    before = tree(folder)
    figures = tinygpt("eval", "a@last", "--json").json
    trained = [r for r in records(folder / "runs" / "a") if r["kind"] == "eval"][-1]
    assert figures["bpb"] == pytest.approx(trained["val_bpb"], abs=1e-6) and figures["step"] == 4
    assert set(figures["baselines"]) == {"uniform", "unigram", "bigram", "xz"}
    stored = json.loads((folder / "runs/a/config.json").read_text())["baselines"]
    assert figures["baselines"] == pytest.approx(stored)
    assert figures["floor"] is None and "tales" not in figures
    text = tinygpt("eval", "a@last")
    assert (text.code, text.err) == (0, "") and f"{figures['bpb']:.3f} bits per byte" in text.out and "xz" in text.out
    assert tree(folder) == before


def test_eval_of_another_text(folder: Path):
    """Pins: the argument ignored, or only its validation part scored."""
    figures = tinygpt("eval", "a", "other.txt", "--json").json
    assert figures["bytes"] == json.loads((folder / "runs/c/corpus.json").read_text())["bytes"]
    assert figures["text"] == "other.txt"


def test_compare_shows_what_differs_and_who_is_lower(folder: Path):
    result = tinygpt("compare", "a", "b", "--json").json
    assert [row["run"] for row in result["runs"]] == ["a", "b"] and result["same_validation_text"] is True
    assert result["settings"]["n_embd"] == [16, 32] and "lr" not in result["settings"]
    best = min(result["runs"], key=lambda row: row["val_bpb"])["run"]
    text = tinygpt("compare", "a", "b")
    assert text.code == 0 and f"{best} has the lowest figure" in text.out
    assert re.search(r"n_embd +16 +32", text.out) and "do not compare" not in text.out


def test_compare_on_different_texts_says_that_the_figures_do_not_compare(folder: Path):
    assert tinygpt("compare", "a", "c", "--json").json["same_validation_text"] is False
    text = tinygpt("compare", "a", "c").out
    assert "different texts: their figures do not compare" in text and "lowest" not in text


def test_corpus_reports_a_text_and_writes_nothing(folder: Path):
    before = tree(folder)
    report = tinygpt("corpus", "stories.txt", "--json").json
    assert report["documents"] == 40 and report["train"]["bytes"] + report["val"]["bytes"] == report["bytes"]
    text = tinygpt("corpus", "stories.txt")
    assert text.code == 0 and f"{report['bytes']:,} bytes" in text.out and "40" in text.out
    assert tree(folder) == before


def test_corpus_reads_a_text_as_the_options_say(tmp_path: Path):
    """The bug: messages spoke of --encoding and --newlines, and no command took them."""
    with inside(tmp_path):
        Path("notes.txt").write_bytes("na\u00efve idea\r\n".encode("cp1252"))
        refused = tinygpt("corpus", "notes.txt")
        assert refused.code == BAD_INPUT and "tinygpt corpus: --encoding cp1252" in refused.err
        read = tinygpt("corpus", "notes.txt", "--encoding", "cp1252", "--json").json
        assert (read["characters"], read["sources"][0]["encoding"]) == (10, "cp1252")
        assert "--newlines keep" in read["notices"][0]
        kept = tinygpt("corpus", "-", "--newlines", "keep", "--json", stdin=b"one\r\ntwo").json
        assert kept["bytes"] == 8 and not any("line ends" in notice for notice in kept["notices"])
        assert "it must be lf or keep" in tinygpt("corpus", "notes.txt", "--newlines", "crlf").err
        named = tinygpt("corpus", "tales", "--encoding", "cp1252")
        assert named.code == USAGE and "--encoding" in named.err and not Path("data").exists()


def test_train_twice_on_the_folder_with_the_runs(tmp_path: Path):
    """The bug: the second training read the first one's files as text."""
    with inside(tmp_path):
        Path("a.txt").write_text(story_text())
        assert tinygpt("train", ".", "--run", "one", *STEPS, *TINY).code == 0
        again = tinygpt("train", ".", *STEPS, *TINY)
        assert (again.code, again.err) == (0, "") and "runs/one: skipped, a model." in again.out
        reports = [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/corpus.json"))]
    assert len(reports) == 2 and reports[0]["train"] == reports[1]["train"]


def test_corpus_writes_tales(tmp_path: Path):
    with inside(tmp_path):
        outcome = tinygpt("corpus", "tales", "--megabytes", "0.02", "-o", "t/mine.txt", "--json")
        assert outcome.code == 0 and outcome.json["documents"] > 5 and "Wrote t/mine.txt" in outcome.err
        first = Path("t/mine.txt").read_bytes()
        assert 15_000 < len(first) < 30_000
        assert tinygpt("corpus", "tales", "--megabytes", "0.02", "-o", "same.txt").code == 0
        assert tinygpt("corpus", "tales", "--megabytes", "0.02", "-o", "seed.txt", "--seed", "1").code == 0
        assert Path("same.txt").read_bytes() == first != Path("seed.txt").read_bytes()


def test_inspect_tokens(folder: Path):
    pieces = tinygpt("inspect", "tokens", "a", "Ana had a bo\u00e4t", "--json").json["pieces"]
    assert b"".join(bytes.fromhex(piece["bytes"]) for piece in pieces).decode() == "Ana had a bo\u00e4t"
    text = tinygpt("inspect", "tokens", "a", "-", stdin=b"Ana had")
    assert text.code == 0 and "tokens for 7 bytes" in text.out and "merge" not in text.err


def test_doctor_of_the_machine(folder: Path):
    found = tinygpt("doctor", "--json").json
    assert found["device"] in found["devices"] and found["python"].startswith("3.")
    text = tinygpt("doctor")
    assert text.code == 0 and found["why"].split(":")[1] in text.out


def test_doctor_of_a_run(folder: Path):
    found = tinygpt("doctor", "a", "--json")
    assert found.code == 0 and found.json["problems"] == [] and found.json["resume"] == "step-00000004"
    assert "no problems" in tinygpt("doctor", "a").out


def test_doctor_and_generate_pass_over_a_damaged_checkpoint(folder: Path, tmp_path: Path):
    """The newest one is spoilt: doctor names it, generate says so and reads the one before."""
    with inside(tmp_path):
        shutil.copytree(folder / "runs" / "a", "runs/spoilt")
        weights = Path("runs/spoilt/checkpoints/step-00000004/model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        doctor = tinygpt("doctor", "spoilt")
        assert doctor.code == 0 and "step-00000004  NOT USABLE" in doctor.out and "step-00000002" in doctor.out
        written = tinygpt("generate", "spoilt@last", "Ana", "--max-new-tokens", "2", "--json")
        assert written.json["step"] == 2 and "step-00000004 is not usable" in written.err


# --- stopping and going on -------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path):
    """start("train", ...): a true Python process in tmp_path, which does not outlive the test."""
    processes = []

    def start_process(*words: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=tmp_path, env=environment(tmp_path), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_steps(process: subprocess.Popen, log: Path, count: int = 30) -> None:
    """Until the run has logged `count` records; fails with its output when the process ends before."""
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training does not get on"
        time.sleep(0.05)


def stop(process: subprocess.Popen, number: int) -> tuple[str, str]:
    os.kill(process.pid, number)
    return process.communicate(timeout=120)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGHUP, TERMINATED)],
    ids=["Ctrl-C", "SIGTERM", "terminal closed"],
)
def test_a_signal_saves_says_how_to_go_on_and_resume_finishes(start, tmp_path: Path, number: int, code: int):
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        first = start("-m", "tinygpt", "train", "x.txt", "--run", "x", *TINY, "max_steps=100000", "compiled=no",
                      "log_every=1", "eval_every=100000", "sample_every=100000", "save_every=100000")  # fmt: skip
        run = tmp_path / "runs" / "x"
        wait_for_steps(first, run / "metrics.jsonl")
        second = start("-m", "tinygpt", "train", "--resume", "--run", "x")  # two processes on one run
        said = second.communicate(timeout=60)[1]
        assert (second.returncode, said.count("\n")) == (LOCKED, 1)
        assert "runs/x is being trained by another process" in said
        out, err = stop(first, number)
        assert (first.returncode, err) == (code, "")
        stopped = int(re.search(r"Stopped at step ([\d,]+) and saved", out).group(1).replace(",", ""))
        assert "Go on: tinygpt train --resume --run x" in out
        assert stopped >= 29 and (run / "checkpoints" / f"step-{stopped:08d}" / "MANIFEST.json").exists()

        # A nearer end, so that the test ends too: the stored plan is the only thing a resume goes by.
        stored = json.loads((run / "config.json").read_text())
        stored["train"]["max_steps"] = stopped + 3
        (run / "config.json").write_text(json.dumps(stored))
        resumed = tinygpt("train", "--resume")
        assert (resumed.code, resumed.err) == (0, "")
        assert f"Going on from step {stopped:,}." in resumed.out
        steps = [r["step"] for r in records(run) if r["kind"] == "train"]
    assert steps == list(range(1, stopped + 4))


def test_ctrl_c_while_preparing_leaves_nothing_behind(start, tmp_path: Path):
    """Before step 0 there is nothing to save: one sentence, code 130, no run folder."""
    (tmp_path / "data").mkdir()
    code = (
        "import sys, tinygpt.prepare as p\n"
        "def measure(*_, **__): print('measuring', flush=True); import time; time.sleep(60)\n"
        "p.measure = measure\n"
        "sys.argv = ['tinygpt', 'train', 'x.txt']\n"
        "from tinygpt.cli import main; main()"
    )
    (tmp_path / "x.txt").write_text(story_text())
    process = start("-c", code)
    for line in process.stdout:
        if line == "measuring\n":
            break
    _, err = stop(process, signal.SIGINT)
    assert (process.returncode, err.count("\n")) == (INTERRUPTED, 1) and "interrupted" in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


# --- what the locale, the memory and the words do to a command --------------------------------------------------------


def test_standard_input_is_read_in_its_own_encoding(folder: Path):
    """The bytes decide, not the locale: cp1252 would otherwise end in a traceback or in half a character."""
    text = "Der Käfer saß schön gemütlich über dem Fluß und träumte von größeren Flügeln. " * 20
    prompt = tinygpt("generate", "a", "-", "--max-new-tokens", "1", "--json", stdin=text.encode("cp1252")).json
    assert prompt["samples"][0]["prompt"] == text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 5 bytes")])
def test_out_of_memory_is_one_sentence(folder: Path, monkeypatch, error: Exception):
    from tinygpt import runs

    def load(_reference: str) -> None:
        raise error

    monkeypatch.setattr(runs, "load", load)
    outcome = tinygpt("generate", "a", "x")
    assert outcome.code == 71 and outcome.err.startswith("tinygpt: out of memory; use a smaller n_embd")


@pytest.mark.parametrize("words", ["shapes do not fit", "CUDA error: an illegal memory access was encountered"])
def test_other_errors_of_torch_are_not_called_memory(folder: Path, monkeypatch, words: str):
    from tinygpt import runs

    def load(_reference: str) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(runs, "load", load)
    outcome = tinygpt("generate", "a", "x")  # a bug stays a bug
    assert outcome.code == 1 and words in outcome.err and "out of memory" not in outcome.err


@pytest.mark.parametrize("words", [["compare", "a@last", "a"], ["doctor", "a@4"]])
def test_a_checkpoint_where_only_a_run_can_be_meant_is_refused(folder: Path, words: list[str]):
    outcome = tinygpt(*words)
    assert outcome.code == 2 and "leave out @" in outcome.err


def test_resume_takes_no_preset(folder: Path):
    outcome = tinygpt("train", "--resume", "--run", "a", "--preset", "gpt2")
    assert outcome.code == 2 and "takes only --run, --quiet, --tensorboard" in outcome.err


def test_a_run_without_validation_text_recommends_no_eval(folder: Path):
    Path("tiny.txt").write_text("A short text, far too short to keep some of it for validation. " * 2)
    outcome = tinygpt("train", "tiny.txt", "--run", "tiny", "--steps", "2")
    assert outcome.code == 0 and "tinygpt eval" not in outcome.out and "tinygpt doctor tiny" in outcome.out
    refused = tinygpt("eval", "tiny")
    assert refused.code == 65 and "tinygpt eval tiny FILE" in refused.err


def test_plan_says_what_train_would_do_and_writes_nothing(tmp_path):
    with inside(tmp_path):
        Path("x.txt").write_text(story_text())
        before = sorted(path.name for path in tmp_path.iterdir())
        told = tinygpt("plan", "x.txt", "--minutes", "0.01", "n_layers=1", "--json")
        assert told.code == 0 and sorted(path.name for path in tmp_path.iterdir()) == before
        planned = json.loads(told.out)
        assert planned["model"]["n_layers"] == 1 and planned["train"]["max_steps"] >= 1
        assert planned["train"]["precision"] in ("fp32", "bf16") and planned["train"]["compiled"] == "no"
        assert any(reason.startswith("dropout") for reason in planned["reasons"])
        for name in ("expected_s", "expected_memory_bytes", "expected_bpb"):
            assert planned[name] > 0
        read = tinygpt("plan", "x.txt", "--steps", "3")
        assert read.code == 0 and "max_steps=3" in read.out and "Plan: preset modern" in read.out
        assert tinygpt("plan", "x.txt", "--steps", "3", "--minutes", "1").code == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == before
