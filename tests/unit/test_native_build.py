"""The native engine where something is missing or wrong: a compiler, a cache folder, the numbers handed in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import TINY, inside, story_text, tinygpt

from tinygpt import native
from tinygpt.errors import USAGE, UserError
from tinygpt.inference import Decoder, choose_decoder, generate
from tinygpt.native import NativeDecoder, NativeModel, NativeUnavailable, library

COMPILER = next(filter(None, map(shutil.which, native.COMPILERS)), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="NO C COMPILER: the native engine is not tested here")
LOAD = "from tinygpt.native import library; library()"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and a process that has not looked for the library yet."""
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "cache"))
    native.try_library.cache_clear()
    yield
    native.try_library.cache_clear()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "native"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """compiler("script") puts a shell script before all compilers, as cc; it may `exec "$REAL" "$@"`."""

    def put(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "cc"
        path.write_text(f"#!/bin/sh\nREAL={COMPILER}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return path

    return put


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def reason() -> str:
    with pytest.raises(NativeUnavailable) as error:
        library()
    assert re.fullmatch(r"[^\n]+", str(error.value)), "one line"
    return str(error.value)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- without ---------------------------------------------------------------------------------------------------------


def test_without_a_compiler_the_plain_path_writes_the_same(make_model, tokenizer, no_compiler):
    model, said = make_model(vocab_size=320), []
    assert "no C compiler here (looked for cc, gcc, clang)" in reason()
    assert isinstance(choose_decoder(model, say=said.append), Decoder)
    assert len(said) == 1 and "no C compiler" in said[0] and "\n" not in said[0]
    with pytest.raises(UserError, match="no C compiler"):
        choose_decoder(model, "native")
    assert generate(model, tokenizer, "The", 9) == generate(model, tokenizer, "The", 9, engine="plain")


@needs_compiler
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('case "$*" in *--version*) exec "$REAL" "$@";; esac; echo "native.c:1: no such thing" >&2; exit 1',
         "could not compile the model: native.c:1: no such thing"),
        ('case "$*" in *--version*) exit 0;; esac; exit 3', "could not compile the model: exit code 3"),
        ('case "$*" in *--version*) exit 0;; esac; sleep 60', "does not work: .*timed out"),
        ('while [ "$1" != -o ]; do [ $# -gt 0 ] || exit 0; shift; done; echo nothing > "$2"', "stored or loaded"),
    ],
    ids=["fails", "fails in silence", "hangs", "writes something else"],
)  # fmt: skip
def test_a_compiler_that_does_not_work(make_model, compiler, cache, monkeypatch, script, words):
    monkeypatch.setattr(native, "COMPILING_S", 0.5)
    compiler(script)
    assert re.search(words, reason())
    assert isinstance(choose_decoder(make_model()), Decoder)
    assert not [name for name in files(cache) if name.startswith(".")]


@needs_compiler
def test_a_failure_is_found_once(make_model, compiler, tmp_path):
    """Pins: a second lost before every text where the compiler fails."""
    compiler(f'echo "$*" >> {tmp_path}/calls; exit 1')
    for _ in range(3):
        choose_decoder(make_model())
    assert len((tmp_path / "calls").read_text().splitlines()) == 3  # --version, with -march=native, and without


@needs_compiler
def test_a_compiler_that_does_not_know_the_processor(make_model, compiler):
    compiler('case "$*" in *-march=native*) echo "unknown value native" >&2; exit 1;; esac; exec "$REAL" "$@"')
    assert isinstance(choose_decoder(make_model(), "native"), NativeDecoder)


# --- the kept file ---------------------------------------------------------------------------------------------------


@needs_compiler
def test_compiled_once_and_then_kept(compiler, cache, tmp_path, monkeypatch):
    """Again in another process, but not for another source, other flags, or another version of the compiler."""
    cc = compiler(f'case "$*" in *--version*) ;; *) echo compiled >> {tmp_path}/calls;; esac; exec "$REAL" "$@"')

    def compiled(times: int) -> bool:
        native.try_library.cache_clear()
        library()
        return len((tmp_path / "calls").read_text().splitlines()) == times == len(files(cache))

    assert compiled(1) and compiled(1)
    subprocess.run([sys.executable, "-c", LOAD], check=True, cwd=Path(native.__file__).parents[1])
    assert compiled(1)
    source = tmp_path / "native.c"
    source.write_text(native.SOURCE.read_text() + "\n/* changed */\n")
    monkeypatch.setattr(native, "SOURCE", source)
    assert compiled(2) and compiled(2)
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g0"))
    assert compiled(3)
    cc.write_text(cc.read_text().replace("--version*) ;;", "--version*) echo version 99; exit;;"))
    assert compiled(4)
    monkeypatch.setattr(native, "processor", lambda: iter(["another processor"]))
    assert compiled(5)


@needs_compiler
def test_a_cache_folder_that_cannot_be_written(make_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert isinstance(choose_decoder(make_model(), "native"), NativeDecoder)
    assert files(tmp_path / "temporary") == []


@needs_compiler
def test_nowhere_to_write(make_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "file"))
    assert "cannot be stored or loaded" in reason()


@needs_compiler
def test_a_damaged_file_is_made_anew(cache):
    cache.mkdir(parents=True)
    kept = cache / f"native-{native.fingerprint(native.find_compiler())}.so"
    kept.write_text("damaged")
    library()
    assert files(cache) == [kept.name] and kept.stat().st_size > 1000


@needs_compiler
def test_several_processes_at_the_same_time(cache):
    here = Path(native.__file__).parents[1]
    running = [subprocess.Popen([sys.executable, "-c", LOAD], cwd=here, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 3
    assert len(files(cache)) == 1


def test_the_source_goes_into_the_wheel():
    """hatchling takes all files of the package that git does not ignore."""
    assert native.SOURCE.is_file() and native.SOURCE.parent == Path(native.__file__).parent
    done = subprocess.run(["git", "check-ignore", native.SOURCE.name], cwd=native.SOURCE.parent, capture_output=True)
    assert done.returncode != 0


# --- wrong arguments -------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (([259], [0], [0], [0]), "token 259 is outside 0 to 258"),
        (([-1], [0], [0], [0]), "token -1 is outside"),
        (([5, 5], [0, 16], [0, 0], [0]), "position 16 is outside 0 to 15"),
        (([5], [-1], [0], [0]), "position -1"),
        (([5], [0], [2], [0]), "slot 2 is outside 0 to 1"),
        (([5], [0], [-1], [0]), "slot -1"),
        (([5], [0], [0], [1]), "wanted row 1 is outside 0 to 0"),
        (([5], [0], [0], [-1]), "wanted row -1"),
        (([], [], [], [0]), "wanted row 0"),
        (([5, 6], [0], [0], [0]), "2 tokens, 1 positions and 1 slots"),
        (([5], [0, 1], [0], [0]), "1 tokens, 2 positions"),
        (([5], [0], [], [0]), "0 slots"),
        (([5, 6], [3, 3], [1, 1], [0]), "position 3 .* after 3"),
        (([5, 6, 7], [3, 3, 2], [0, 1, 0], [0]), "position 2 .* after 3"),
    ],
)
def test_wrong_numbers_never_reach_c(make_model, rows, words):
    model = NativeModel(make_model(), 2)
    with pytest.raises(ValueError, match=words):
        model.logits(*rows)


@needs_compiler
def test_no_slot_and_no_numbers(make_model):
    with pytest.raises(ValueError, match="n_slots=0"):
        NativeModel(make_model(), 0)
    with pytest.raises(TypeError):
        NativeModel(make_model()).logits([1.5], [0], [0], [0])


@needs_compiler
def test_what_it_cannot_compute(make_model):
    """A model of another build, and one in another format: auto is plain, and for it native is fp32."""
    bare = torch.nn.Module()
    bare.config, bare.embedding = make_model().config, torch.nn.Embedding(259, 32)
    with pytest.raises(NativeUnavailable, match="not built as TinyGPT"):
        NativeModel(bare)
    half = make_model("gpt2").to(torch.bfloat16)
    assert isinstance(choose_decoder(half), Decoder)
    ids = torch.tensor([[5, 6, 7]])
    expected = Decoder(half.to(torch.float32)).logits(ids)
    torch.testing.assert_close(choose_decoder(half.bfloat16(), "native").logits(ids), expected, atol=1e-4, rtol=0)
    with pytest.raises(NativeUnavailable, match="on meta"):
        choose_decoder(make_model().to("meta"), "native")


def test_an_engine_that_there_is_not(make_model):
    with pytest.raises(UserError, match=r"'nativ' is not one of auto, native, plain \(did you mean native"):
        choose_decoder(make_model(), "nativ")


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with inside(tmp_path_factory.mktemp("native")) as here:
        (here / "stories.txt").write_text(story_text())
        assert tinygpt("train", "stories.txt", "--run", "a", "--steps", "4", *TINY).code == 0
        yield here


@needs_compiler
def test_engines_on_the_command_line(folder):
    words = ("generate", "a", "Ana had", "--max-new-tokens", "8", "--num", "2")
    plain, native_, auto = (tinygpt(*words, "--engine", engine) for engine in ("plain", "native", "auto"))
    assert (plain.code, plain.err) == (0, "")
    assert plain == native_ == auto == tinygpt(*words)
    chats = [tinygpt("chat", "a", "--engine", engine, stdin=b"Ana\nand\n/retry\n") for engine in ("plain", "native")]
    assert chats[0] == chats[1] and chats[0].code == 0 and chats[0].out


def test_the_command_line_without_a_compiler(folder, no_compiler):
    words = ("generate", "a", "Ana had", "--max-new-tokens", "8")
    plain, auto, native_ = (tinygpt(*words, "--engine", engine) for engine in ("plain", "auto", "native"))
    assert (plain.out, 0) == (auto.out, auto.code)
    assert plain.err == "" and len(auto.err.splitlines()) == 1 and "no C compiler" in auto.err
    assert native_.code == USAGE and "no C compiler" in native_.err and native_.out == ""
    chat = tinygpt("chat", "a", stdin=b"Ana\n")
    assert chat.code == 0 and len(chat.err.splitlines()) == 1 and "no C compiler" in chat.err
