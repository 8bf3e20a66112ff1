"""Bad input: one plain sentence with the nearest fix, the documented exit code, and nothing written or lost."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, Outcome, environment, inside, story_text, tinygpt, tree
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinygpt.errors import BAD_CONFIG, BAD_INPUT, IO_ERROR, MISMATCH, NO_CHECKPOINT, UNSAFE, USAGE

TRAIN = ("train", "--steps", "2")
LONG_RUN_NAME = "a" * 65


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts and runs, sound and spoilt. Every case must leave it as it is."""
    with inside(tmp_path_factory.mktemp("bad_input")) as here:
        files = {
            "good.txt": story_text().encode(), "empty.txt": b"", "byte.txt": b"a", "newlines.txt": b"\n" * 1000,
            "short.txt": b"The cat sat on the mat. " * 4, "binary.dat": bytes(range(256)) * 20,
            "nul.txt": b"ab\0c" * 99,
            "no_text/a.bin": b"\0\1\2" * 50, "model.pt": b"PK\3\4", "broken.gz": b"\x1f\x8b\x08no", "broken.zip": b"PK",
            "broken.jsonl": b'{"text": "a"}\n{', "broken.toml": b"lr 2", "wrong.toml": b"n_layerz = 2\n",
            "no_column.csv": b"a,b\n1,2\n", "newer.toml": b"max_steps = 3\n",
        }  # fmt: skip
        for name, data in files.items():
            (here / name).parent.mkdir(exist_ok=True)
            (here / name).write_bytes(data)
        (here / "empty_folder").mkdir()
        made = tinygpt("train", "good.txt", "--run", "base", "--steps", "3", "eval_every=1", *TINY)
        assert (made.code, made.err) == (0, "")
        other = tinygpt("train", "good.txt", "--run", "other", "--steps", "1", *TINY, "vocab_size=280")
        assert other.code == 0
        runs = here / "runs"
        for name, file, content in [
            ("no_json", "config.json", b"{x"), ("a_list", "config.json", b"[]"), ("deep", "config.json", b"[" * 99_999),
            ("no_tokenizer_json", "tokenizer.json", b"{x"), ("no_corpus_json", "corpus.json", b"{x"),
            ("no_report", "corpus.json", b"[]"), ("no_tokens", "data/train.tokens", b"{x"),
            ("mixed", "tokenizer.json", (runs / "other" / "tokenizer.json").read_bytes()),
            ("mixed_data", "data/train.tokens", (runs / "base" / "data" / "val.tokens").read_bytes()),
        ]:  # fmt: skip
            shutil.copytree(runs / "base", runs / name)
            (runs / name / file).write_bytes(content)
        for name, change in [
            ("version_2", {"format_version": 2}), ("no_version", {"format_version": None}), ("wide", {"model": 10**12}),
            ("no_baselines", {"baselines": ...}), ("text_width", {"model": "wide"}),
        ]:  # fmt: skip
            shutil.copytree(runs / "base", runs / name)
            stored = json.loads((runs / name / "config.json").read_text())
            for key, value in change.items():
                if value is ...:
                    del stored[key]
                elif key == "model":
                    stored["model"]["n_embd"] = value
                else:
                    stored[key] = value
            (runs / name / "config.json").write_text(json.dumps(stored))
        for name, gone in [("lost_tokenizer", "tokenizer.json"), ("lost_data", "data/val.tokens")]:
            shutil.copytree(runs / "base", runs / name)
            (runs / name / gone).unlink()
        shutil.copytree(runs / "base", runs / "no_checkpoint", ignore=shutil.ignore_patterns("step-*"))
        shutil.copytree(runs / "base", runs / "damaged")
        for weights in runs.glob("damaged/checkpoints/*/model.safetensors"):
            weights.write_bytes(weights.read_bytes()[:-1])
        yield here


CASES = [
    # texts
    ("empty file", [*TRAIN, "empty.txt"], BAD_INPUT, "empty.txt is empty"),
    ("one byte", [*TRAIN, "byte.txt"], BAD_INPUT, "1 byte, 3 training tokens", "30 bytes"),
    ("only new lines", [*TRAIN, "newlines.txt"], BAD_INPUT, "newlines.txt holds no text"),
    ("shorter than the context asked for", [*TRAIN, "short.txt", "block_size=64"], BAD_INPUT, "64", "block_size="),
    ("binary file", [*TRAIN, "binary.dat"], BAD_INPUT, "binary.dat is not text", "offset 0"),
    ("a NUL in the text", [*TRAIN, "nul.txt"], BAD_INPUT, "nul.txt is not text", "offset 2"),
    ("folder without text", [*TRAIN, "no_text"], BAD_INPUT, "no_text", ".jsonl"),
    ("empty folder", [*TRAIN, "empty_folder"], BAD_INPUT, "empty_folder"),
    ("missing file", [*TRAIN, "god.txt"], USAGE, "god.txt", "did you mean good.txt"),
    ("second file missing", [*TRAIN, "good.txt", "shirt.txt"], USAGE, "did you mean short.txt"),
    ("missing folder", [*TRAIN, "nowhere/x.txt"], USAGE, "there is no folder nowhere"),
    ("pickle as text", [*TRAIN, "model.pt"], UNSAFE, "model.pt", "run code"),
    ("broken gz", [*TRAIN, "broken.gz"], BAD_INPUT, "broken.gz is no complete gzip file"),
    ("broken zip", [*TRAIN, "broken.zip"], BAD_INPUT, "broken.zip is no readable zip archive"),
    ("broken jsonl", [*TRAIN, "broken.jsonl"], BAD_INPUT, "broken.jsonl, line 2"),
    ("csv without a text column", [*TRAIN, "no_column.csv"], BAD_INPUT, "no_column.csv", "a, b"),
    ("empty standard input", [*TRAIN, "-"], BAD_INPUT, "standard input is empty"),
    ("missing validation text", [*TRAIN, "good.txt", "--val", "god.txt"], USAGE, "did you mean good.txt"),
    ("empty validation text", [*TRAIN, "good.txt", "--val", "empty.txt"], BAD_INPUT, "empty.txt is empty"),
    ("validating on the training text", [*TRAIN, "good.txt", "--val", "good.txt"], BAD_INPUT, "every training doc"),
    ("unknown encoding", [*TRAIN, "good.txt", "encoding=utf-9"], USAGE, "utf-9"),
    # settings
    ("field name", [*TRAIN, "good.txt", "n_layer=2"], USAGE, "'n_layer' (did you mean n_layers"),
    ("field name like none", [*TRAIN, "good.txt", "zzz=2"], USAGE, "'zzz'", "n_layers, block_size"),
    ("no field name", [*TRAIN, "good.txt", "=2"], USAGE, "there is no field ''"),
    ("heads that do not divide", [*TRAIN, "good.txt", "n_heads=7"], USAGE, "n_heads=7", "n_embd=", "2, 4, 8"),
    ("a word for a number", [*TRAIN, "good.txt", "n_embd=wide"], USAGE, "n_embd=wide is not a whole number"),
    ("half a layer", [*TRAIN, "good.txt", "n_layers=1.5"], USAGE, "n_layers=1.5 is not a whole number"),
    ("nothing for a number", [*TRAIN, "good.txt", "lr="], USAGE, "lr= is not a number"),
    ("lr is not a number", [*TRAIN, "good.txt", "lr=nan"], USAGE, "lr=nan is outside 0 to 10"),
    ("infinite layers", [*TRAIN, "good.txt", "n_layers=inf"], USAGE, "n_layers=inf"),
    ("too many layers", [*TRAIN, "good.txt", "n_layers=1e12"], USAGE, "outside 1 to 64"),
    ("negative", [*TRAIN, "good.txt", "eval_every=-1"], USAGE, "eval_every=-1 is outside 0"),
    ("tiny vocabulary", [*TRAIN, "good.txt", "vocab_size=5"], USAGE, "vocab_size=5 is outside 259"),
    ("no choice of that name", [*TRAIN, "good.txt", "positions=rotar"], USAGE, "learned, rotary (did you mean rotary?"),
    ("neither yes nor no", [*TRAIN, "good.txt", "tied=maybe"], USAGE, "tied=maybe is not true or false"),
    ("micro-batch", [*TRAIN, "good.txt", "batch_size=16", "micro_batch=5"], USAGE, "micro_batch=5 does not", "2, 4, 8"),
    ("unknown device", [*TRAIN, "good.txt", "device=gpu"], USAGE, "auto, cpu, cuda, mps"),
    ("missing settings file", [*TRAIN, "good.txt", "--config", "no.toml"], USAGE, "no.toml"),
    ("broken settings file", [*TRAIN, "good.txt", "--config", "broken.toml"], USAGE, "broken.toml", "line 1"),
    ("field name in a file", [*TRAIN, "good.txt", "--config", "wrong.toml"], USAGE, "did you mean n_layers"),
    ("unknown preset", [*TRAIN, "good.txt", "--preset", "modem"], USAGE, "'modem'", "did you mean modern"),
    # budgets
    *((f"--minutes {m}", ["train", "good.txt", "--minutes", m], USAGE, "--minutes", "above 0")
      for m in ("0", "-1", "nan", "inf", "1e300")),
    ("--minutes abc", ["train", "good.txt", "--minutes", "abc"], USAGE, "--minutes", "number"),
    ("--steps 0", ["train", "good.txt", "--steps", "0"], USAGE, "--steps 0 must be above 0"),
    ("--steps 1.5", ["train", "good.txt", "--steps", "1.5"], USAGE, "--steps", "integer"),
    ("--epochs nan", ["train", "good.txt", "--epochs", "nan"], USAGE, "--epochs nan"),
    ("two budgets", ["train", "good.txt", "--minutes", "1", "--steps", "2"], USAGE, "--minutes and --steps exclude"),
    ("a budget and max_steps", [*TRAIN, "good.txt", "max_steps=3"], USAGE, "max_steps", "--steps"),
    # names of runs
    ("run that exists", [*TRAIN, "good.txt", "--run", "base"], USAGE, "runs/base exists", "--resume --run base"),
    *((f"run name {name!r}", [*TRAIN, "good.txt", "--run", name], USAGE, "run name", fix)
      for name, fix in [("../x", "1-64 letters"), ("", "1-64 letters"), (".hidden", "1-64 letters"),
                        (LONG_RUN_NAME, "1-64 letters"), ("a/b", "1-64 letters"), ("con", "device on Windows"),
                        ("NUL.txt", "device on Windows")]),
    ("resume of nothing", ["train", "--resume", "--run", "bas"], USAGE, "'bas' (did you mean base"),
    ("resume with a text", ["train", "--resume", "good.txt"], USAGE, "--resume", "--run"),
    ("resume with a bad name", ["train", "--resume", "--run", "../base"], USAGE, "1-64 letters"),
    ("resume another version", ["train", "--resume", "--run", "version_2"], BAD_CONFIG, "version 2", "version 1"),
    # runs that cannot be used
    ("no such run", ["generate", "bse"], USAGE, "there is no run 'bse' (did you mean base"),
    ("empty RUN", ["generate", ""], USAGE, "the name of a run is missing"),
    ("a file as RUN", ["generate", "good.txt"], USAGE, "there is no run 'good.txt'"),
    ("pickle as RUN", ["generate", "model.pt"], UNSAFE, "model.pt may be a pickle"),
    ("RUN@bogus", ["generate", "base@bogus"], USAGE, "best, last or a step, not 'bogus'"),
    ("RUN@step that is not there", ["generate", "base@99"], NO_CHECKPOINT, "of step 99 (steps there: 0, 1, 2, 3)"),
    ("no checkpoint", ["generate", "no_checkpoint"], NO_CHECKPOINT, "no valid checkpoint"),
    ("damaged checkpoints", ["generate", "damaged"], NO_CHECKPOINT, "model.safetensors has", "bytes instead of"),
    ("another version", ["generate", "version_2"], BAD_CONFIG, "format version 2", "version 1"),
    ("no version", ["generate", "no_version"], BAD_CONFIG, "version None"),
    ("config.json is not JSON", ["generate", "no_json"], BAD_CONFIG, "config.json"),
    ("config.json is a list", ["generate", "a_list"], BAD_CONFIG, "config.json"),
    ("config.json is nested deeply", ["generate", "deep"], BAD_CONFIG, "nested too deeply"),
    ("config.json asks for 1e12", ["generate", "wide"], BAD_CONFIG, "n_embd=1000000000000 is outside"),
    ("config.json has a word", ["generate", "text_width"], BAD_CONFIG, "n_embd='wide' is not of type int"),
    ("config.json lacks a part", ["generate", "no_baselines"], BAD_CONFIG, "lacks baselines"),
    ("corpus.json is not JSON", ["generate", "no_corpus_json"], BAD_CONFIG, "corpus.json"),
    ("corpus.json is a list", ["compare", "no_report", "base"], BAD_CONFIG, "corpus.json"),
    ("tokenizer.json is not JSON", ["generate", "no_tokenizer_json"], BAD_INPUT, "tokenizer.json"),
    ("tokenizer.json is lost", ["generate", "lost_tokenizer"], IO_ERROR, "tokenizer.json cannot be read"),
    ("another run's tokenizer", ["generate", "mixed"], MISMATCH, "was made with tokenizer"),
    ("another run's tokenizer, eval", ["eval", "mixed"], MISMATCH, "was made with tokenizer"),
    ("another text's tokens", ["generate", "mixed_data"], MISMATCH, "was made with data"),
    ("token file is none", ["eval", "no_tokens"], BAD_INPUT, "not a usable token file"),
    ("token file is lost", ["generate", "lost_data"], BAD_INPUT, "val.tokens", "cannot be read"),
    ("tokens of a broken tokenizer", ["inspect", "tokens", "no_tokenizer_json", "x"], BAD_INPUT, "tokenizer.json"),
    ("doctor without such a run", ["doctor", "bse"], USAGE, "did you mean base"),
    ("eval of no such run", ["eval", "bse"], USAGE, "did you mean base"),
    ("compare with no such run", ["compare", "base", "othr"], USAGE, "did you mean other"),
    # generation
    ("temperature -1", ["generate", "base", "--temperature", "-1"], USAGE, "temperature -1.0 must be 0"),
    ("temperature nan", ["generate", "base", "--temperature", "nan"], USAGE, "temperature nan"),
    ("temperature hot", ["generate", "base", "--temperature", "hot"], USAGE, "--temperature"),
    ("top-k -2", ["generate", "base", "--top-k", "-2"], USAGE, "top-k -2 must be 0"),
    ("top-p 0", ["generate", "base", "--top-p", "0"], USAGE, "top-p 0.0 must be above 0"),
    ("min-p 2", ["generate", "base", "--min-p", "2"], USAGE, "min-p 2.0 must be between 0"),
    ("penalty 0", ["generate", "base", "--repetition-penalty", "0"], USAGE, "repetition-penalty 0.0"),
    ("tokens -1", ["generate", "base", "--max-new-tokens", "-1"], USAGE, "max-new-tokens -1 must be 0 or more"),
    ("empty stop", ["generate", "base", "--stop", ""], USAGE, "stop string must not be empty"),
    ("no text wanted", ["generate", "base", "--num", "0"], USAGE, "num 0 must be 1 or more"),
    ("seed -1", ["generate", "base", "--seed", "-1"], USAGE, "--seed"),
    ("seed 1e23", ["generate", "base", "--seed", "9" * 23], USAGE, "--seed"),
    ("half a character", ["generate", "base", "\ud800"], BAD_INPUT, "U+D800"),
    ("half a character in tokens", ["inspect", "tokens", "base", "\ud800"], BAD_INPUT, "U+D800"),
    ("score an empty text", ["eval", "base", "empty.txt"], BAD_INPUT, "empty.txt is empty"),
    ("score a missing text", ["eval", "base", "god.txt"], USAGE, "did you mean good.txt"),
    ("tales -5", ["eval", "base", "--tales", "-5"], USAGE, "--tales"),
    # words
    ("unknown command", ["trian"], USAGE, "'trian'", "'train'", "tinygpt --help"),
    ("unknown command below inspect", ["inspect", "tokns"], USAGE, "'tokens'", "tinygpt inspect --help"),
    ("unknown option", ["train", "--minuets", "3"], USAGE, "--minuets", "tinygpt train --help"),
    ("missing argument", ["generate"], USAGE, "RUN", "tinygpt generate --help"),
    ("compare nothing", ["compare"], USAGE, "RUN", "tinygpt compare --help"),
    ("unknown corpus", ["corpus", "tael"], USAGE, "'tael' (did you mean tales", "tinystories"),
    ("corpus of a broken file", ["corpus", "nul.txt"], BAD_INPUT, "nul.txt is not text"),
    ("corpus onto a file", ["corpus", "tales", "-o", "good.txt"], USAGE, "good.txt exists and is not overwritten"),
    ("corpus of 0 MB", ["corpus", "tales", "--megabytes", "0", "-o", "t.txt"], USAGE, "megabytes is 0"),
    ("corpus of nan MB", ["corpus", "tales", "--megabytes", "nan", "-o", "t.txt"], USAGE, "megabytes is nan"),
    ("corpus copied", ["corpus", "good.txt", "-o", "copy.txt"], USAGE, "-o", "good.txt is only read"),
]  # fmt: skip


def assert_one_sentence(outcome: Outcome, code: int, phrases: tuple[str, ...] = ()) -> None:
    assert outcome.err.startswith("tinygpt: ") and outcome.err.endswith("\n"), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.code == code, outcome.err
    for phrase in phrases:
        assert phrase in outcome.err


@pytest.mark.parametrize(("words", "code", "phrases"), [(c[1], c[2], c[3:]) for c in CASES], ids=[c[0] for c in CASES])
def test_one_sentence_and_nothing_written(folder: Path, words: list[str], code: int, phrases: tuple[str, ...]):
    before = tree(folder)
    assert_one_sentence(tinygpt(*words), code, phrases)
    assert tree(folder) == before


@pytest.mark.parametrize("unit", ["gpu", "cuda"])
def test_what_this_machine_lacks_is_named(folder: Path, unit: str, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    word, phrase = {
        "gpu": ("device=gpu", "auto, cpu, cuda, mps"),
        "cuda": ("device=cuda", "it has "),
    }[unit]
    before = tree(folder)
    assert_one_sentence(tinygpt(*TRAIN, "good.txt", word), USAGE, (phrase,))
    assert tree(folder) == before


def test_ranks_without_a_meeting_place_are_refused(folder: Path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    before = tree(folder)
    assert_one_sentence(tinygpt(*TRAIN, "good.txt"), BAD_CONFIG, ("several ranks need", "MASTER_ADDR=,", "torchrun"))
    assert tree(folder) == before


def test_a_full_disk_while_the_run_is_written_leaves_no_half_run(folder: Path, monkeypatch):
    from tinygpt import runs

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "train.tokens")

    monkeypatch.setattr(runs, "write_tokens", full)
    before = tree(folder)
    assert_one_sentence(tinygpt(*TRAIN, "good.txt", *TINY), IO_ERROR, ("train.tokens: No space left on device",))
    assert tree(folder) == before


def test_settings_of_the_user_are_checked_too(folder: Path, tmp_path, monkeypatch):
    """Pins: a typo in ~/.config/tinygpt/config.toml that passes in silence."""
    (tmp_path / "tinygpt").mkdir()
    (tmp_path / "tinygpt" / "config.toml").write_text("n_layerz = 2\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = tree(folder)
    assert_one_sentence(tinygpt(*TRAIN, "good.txt"), USAGE, ("did you mean n_layers",))
    assert tree(folder) == before


@pytest.mark.parametrize(
    "spoilt", ["version_2", "no_tokenizer_json", "no_checkpoint", "lost_data", "mixed", "mixed_data"]
)
def test_doctor_names_the_problem_and_gives_the_loaders_code(folder: Path, spoilt: str):
    """A run that generate refuses is one that doctor finds, with the same exit code; it writes nothing."""
    before = tree(folder)
    loader, doctor = tinygpt("generate", spoilt), tinygpt("doctor", spoilt)
    assert doctor.code == loader.code != 0
    assert "problem: " in doctor.out and doctor.err == ""
    assert len(set(doctor.out.splitlines())) == len(doctor.out.splitlines())  # each problem once
    assert tree(folder) == before


# --- small, but good enough: said, and done --------------------------------------------------------------------------


def test_a_text_shorter_than_the_context_shrinks_it_and_says_so(tmp_path: Path):
    with inside(tmp_path):
        Path("short.txt").write_text("The cat sat on the mat. " * 4)
        outcome = tinygpt("train", "short.txt", "--steps", "2")
        assert (outcome.code, outcome.err) == (0, "")
        assert "block_size 128 -> 16: the training text has 31 tokens" in outcome.out
        assert json.loads(Path("runs/short/config.json").read_text())["model"]["block_size"] == 16
        assert "no validation text was set aside" in outcome.out


def test_one_line_trains_and_says_that_nothing_is_left_for_validation(tmp_path: Path):
    with inside(tmp_path):
        Path("line.txt").write_text("One line only.")
        outcome = tinygpt("train", "line.txt", "--steps", "2")
        assert (outcome.code, outcome.err) == (0, "")
        assert "no validation text" in outcome.out and "--val FILE" in outcome.out


def test_an_empty_prompt_starts_a_document(folder: Path):
    assert tinygpt("generate", "base", "", "--max-new-tokens", "5") == tinygpt(
        "generate", "base", "--max-new-tokens", "5"
    )
    assert tinygpt("generate", "base", "-", "--max-new-tokens", "5", stdin=b"").code == 0


def test_a_prompt_of_one_megabyte_writes_on_and_says_that_the_window_slides(folder: Path):
    """The model sees the end of it: the same text follows as after its last tokens alone."""
    prompt = "Ana had a red boat. " * 52_429
    assert len(prompt) > 1 << 20
    outcome = tinygpt("generate", "base", "-", "--max-new-tokens", "5", stdin=prompt.encode())
    assert outcome.code == 0 and outcome.out.startswith(prompt)
    assert outcome.err.startswith("Note: prompt (") and "context of 16 tokens: the window slides" in outcome.err


@pytest.mark.parametrize(
    "command", [["generate", "base", "a\0b\x1b[31m<bos>\U0001f600\u200d", "--max-new-tokens", "3"]]
)
def test_any_prompt_works_and_none_acts_on_the_terminal(folder: Path, command: list[str]):
    outcome = tinygpt(*command)
    assert outcome.code == 0 and "\x1b" not in outcome.out and "\0" not in outcome.out


# --- sizes 0, 1, 10, 1,000 -------------------------------------------------------------------------------------------

SIZES = (0, 1, 10, 1000)
characters = st.characters(exclude_categories=["Cs"])
contents = st.sampled_from(SIZES).flatmap(
    lambda n: st.one_of(
        st.binary(min_size=n, max_size=n),
        st.text(characters, min_size=n, max_size=n).map(str.encode),
        st.text(st.sampled_from(" \n\r\tab."), min_size=n, max_size=n).map(str.encode),
    )
)
ENDINGS = st.sampled_from([".txt", ".jsonl", ".csv", ".gz", ".zip", ".parquet", ""])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=contents, ending=ENDINGS)
@example(data=b"", ending=".txt")
@example(data=b"a", ending=".txt")
@example(data=b"a" * 10, ending=".txt")
@example(data=b"\n" * 1000, ending=".txt")
@example(data=b"a" * 1000, ending=".txt")
@example(data=bytes(1000), ending=".txt")
@example(data=b"\xff" * 1000, ending=".txt")
@example(data="é".encode() * 500, ending=".txt")
@example(data=b"text\n" + b"ab\n" * 300, ending=".csv")
def test_any_file_trains_or_is_explained(tmp_path_factory, data: bytes, ending: str):
    """Never a traceback (code 1), never a hang; explained in one line, and then no run was made."""
    with inside(tmp_path_factory.mktemp("any")) as here:
        (here / f"any{ending}").write_bytes(data)
        outcome = tinygpt("train", f"any{ending}", "--steps", "2", "--quiet", *TINY[:3])
        if outcome.code == 0:
            assert outcome.err == "" and (here / "runs" / "any" / "checkpoints" / "LATEST").exists()
        else:
            assert_one_sentence(outcome, BAD_INPUT)
            assert not list(here.glob("runs/*"))


# --- the true command: what the process does, not only main() --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "phrase"),
    [
        (["train", "empty.txt"], BAD_INPUT, "empty.txt is empty"),
        (["generate", "model.pt"], UNSAFE, "may be a pickle"),
        (["generate", "version_2"], BAD_CONFIG, "format version 2"),
        (["trian"], USAGE, "'train'"),
    ],
)
def test_as_a_process(folder: Path, words: list[str], code: int, phrase: str):
    before = tree(folder)
    done = subprocess.run(
        [sys.executable, "-m", "tinygpt", *words], cwd=folder, env=environment(folder), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert_one_sentence(Outcome(done.returncode, done.stdout, done.stderr), code, (phrase,))
    assert tree(folder) == before


def test_a_reader_that_goes_away_is_no_error(folder: Path):
    """`tinygpt corpus FILE | head -c 1` ends in silence."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tinygpt", "corpus", "good.txt"],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), err) == (0, b"")
