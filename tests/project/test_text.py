"""What a reader of the repository meets: no leftovers, nobody's home directory, a licence."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".md", ".toml", ".txt", ".html", ".js", ".css", ".yml", ".yaml", ".cfg", ".sh", ""}
SKIP = {"__pycache__", "node_modules", "dist", "runs", "data", "build"}
LEFTOVERS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
# A path that exists on one machine only: home directories, and where this project is developed.
ONE_MACHINE = re.compile(
    r"/(?:home|Users|root)/[A-Za-z]\w*|/" + r"work/|/tmp" + r"/[a-z]|\.\./sha" + r"red|[A-Z]:\\Users"
)


def texts() -> list[Path]:
    """Text files of the repository: what git knows or would add; without git, everything that is not generated."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part in SKIP or part.startswith(".") for part in path.relative_to(ROOT).parts)
            and not any(part.endswith(".egg-info") for part in path.parts)
        ]
    return sorted(path for path in paths if path.is_file() and path.suffix in SUFFIXES)


def hits(pattern: re.Pattern[str], text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


def test_there_are_texts():
    names = {path.name for path in texts()}
    assert {"README.md", "cli.py", "pyproject.toml", "Makefile", "CONTRIBUTING.md", "LICENSE"} <= names


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_leftovers_and_no_path_of_one_machine(path: Path):
    text = path.read_text(encoding="utf-8")
    assert hits(LEFTOVERS, text) == []
    assert hits(ONE_MACHINE, text) == []


def test_the_patterns_find_what_they_look_for():
    assert hits(LEFTOVERS, "x = 1  # TO" + "DO later") and not hits(LEFTOVERS, "todos")
    for top in ("home", "Users", "root"):
        assert hits(ONE_MACHINE, f"see /{top}" + "/ann/x"), top
    for path in ("/wo" + "rk/main", "/tm" + "p/x", "../sha" + "red/DESIGN.md", "C:\\Us" + "ers\\x"):
        assert hits(ONE_MACHINE, f"see {path}"), path
    assert not hits(ONE_MACHINE, "/usr/bin/env and /opt/python")


def test_the_licence_is_mit_and_named_in_the_metadata():
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License") and "WITHOUT WARRANTY OF ANY KIND" in licence
    assert 'license = "MIT"' in (ROOT / "pyproject.toml").read_text()


def test_ci_and_make_use_one_set_up():
    """.ci/run is executable, installs through the Makefile, and names no package index."""
    ci, make = ROOT / ".ci" / "run", (ROOT / "Makefile").read_text()
    assert ci.stat().st_mode & 0o111
    assert "make --no-print-directory test" in ci.read_text()
    recipes = [line for line in make.splitlines() if not line.startswith("#")]
    assert not any("index-url" in line for line in recipes)
    assert "-c constraints.txt" in make
