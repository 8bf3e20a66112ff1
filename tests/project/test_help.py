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
