"""Every script in examples/ runs from an empty folder, cut short by --steps, and says what it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment

from tinygpt.corpus import tales

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 5


def test_the_tutorial_is_there():
    """The five steps of the tutorial in the tutorial's order and names."""
    source = (EXAMPLES / "tutorial.py").read_text()
    for name in ("tiny_corpus", "tokenizer", "model_config", "TinyGPT", "generate", "max_new_tokens"):
        assert name in source, f"examples/tutorial.py does not use {name}"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs(path: Path, tmp_path: Path):
    """On 100 kB of tales, because writing the default corpus takes seconds."""
    (tmp_path / "data").mkdir()
    tales.write(tmp_path / "data" / "tiny_corpus.txt", n_bytes=100_000)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), "--steps", str(STEPS)], cwd=tmp_path, text=True, timeout=300,
        capture_output=True,
        env={**environment(tmp_path), "MPLBACKEND": "agg", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= 5 and "Traceback" not in done.stderr


def test_the_tutorial_without_validation_text(tmp_path: Path):
    """Pins: a best figure of None put into a format; one sentence of corpus leaves nothing for validation."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny_corpus.txt").write_text("Once upon a time a small dog ran up the hill and down again.")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "tutorial.py"), "--steps", "2"], cwd=tmp_path, text=True, timeout=300,
        capture_output=True, env={**environment(tmp_path), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "saved in" in done.stdout and "best validation" not in done.stdout
