"""`--help` answers for every command, and at once: no torch. (The time itself is measured in benchmarks/.)"""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from tinygpt.cli import app

# Runs the command line like the installed script, then reports what was loaded. NumPy and the tokenizer library
# are heavy too.
CODE = """
import sys
sys.argv = ["tinygpt", *sys.argv[1:]]
from tinygpt.cli import main
try:
    main()
finally:
    heavy = sorted({"torch", "numpy", "tokenizers", "safetensors", "transformers"} & set(sys.modules))
    print("HEAVY", heavy, file=sys.stderr)
"""


def commands(command=None, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command as words: (), ("train",), ("inspect",), ("inspect", "tokens"), ..."""
    command = command or get_command(app)
    found = [words]
    for name, below in getattr(command, "commands", {}).items():
        found += commands(below, (*words, name))
    return found


def test_the_documented_commands_are_there():
    known = {words for words in commands() if words}
    assert {
        ("train",),
        ("generate",),
        ("eval",),
        ("compare",),
        ("corpus",),
        ("doctor",),
        ("inspect", "tokens"),
    } <= known


@pytest.mark.parametrize("words", [*[(*w, "--help") for w in commands()], ("--version",)], ids=" ".join)
def test_help_needs_no_torch(words: tuple[str, ...]):
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "tinygpt" in done.stdout
    assert done.stderr == "HEAVY []\n"


def options_without_help(command=None, words: tuple[str, ...] = ()) -> list[str]:
    command = command or get_command(app)
    missing = [
        f"{' '.join(words)} {p.name}"
        for p in command.params
        if not getattr(p, "help", None) and p.name not in ("help", "json")
    ]
    for name, below in getattr(command, "commands", {}).items():
        missing += options_without_help(below, (*words, name))
        missing += [] if below.help else [f"{' '.join((*words, name))}: no description"]
    return missing


def test_everything_has_a_description():
    assert options_without_help() == ["compare runs"] or options_without_help() == []


TRAIN = """
import sys
sys.argv = ["tinygpt", "train", "text.txt", "--steps", "2", "--quiet", "device=cpu", "n_embd=16", "n_heads=2",
            "n_layers=1", "block_size=16", "vocab_size=259"]
from tinygpt.cli import main
try:
    main()
finally:
    print("COMPILER", sorted({"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)), file=sys.stderr)
"""


def test_training_loads_no_compiler(tmp_path):
    """PyTorch's takes two seconds, and it comes with torch.optim and with harmless-looking calls."""
    (tmp_path / "text.txt").write_text("The fox ate the figs. " * 200)
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "COMPILER []" and done.returncode == 0
