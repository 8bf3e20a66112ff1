"""The core stays one evening's reading (DESIGN.md, sections 5 and 8)."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tinygpt"
CORE = ("tokenizer.py", "model.py", "train.py", "inference.py", "config.py")


def lines(name: str) -> int:
    return len((PACKAGE / name).read_text().splitlines())


def branches_in_forward(source: str) -> int:
    """if, elif, conditional expressions and match cases in all functions called forward (loops are no branches)."""
    forwards = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "forward"
    ]
    return sum(isinstance(node, (ast.If, ast.IfExp, ast.match_case)) for f in forwards for node in ast.walk(f))


def test_core_files_are_short_together():
    sizes = {name: lines(name) for name in CORE}
    assert sum(sizes.values()) <= 1500, sizes


def test_model_is_one_page():
    assert lines("model.py") <= 450


def test_forward_hardly_branches():
    assert branches_in_forward((PACKAGE / "model.py").read_text()) <= 3


def test_branches_are_counted():
    source = "class M:\n def forward(self, x):\n  if x:\n   return 1\n  elif 2:\n   return 3\n  return 4 if x else 5\n"
    assert branches_in_forward(source) == 3
    assert branches_in_forward("def other(x):\n return 1 if x else 2\n") == 0
