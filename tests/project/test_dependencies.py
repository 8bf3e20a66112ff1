"""Declared dependencies equal imported ones, and the version has one home."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported inside a function, where it is asked for; the package works without them.
OPTIONAL = {
    "pyarrow": "parquet", "transformers": "hf", "gguf": "gguf", "onnx": "onnx", "onnxscript": "onnx",
    "onnxruntime": "onnx", "tensorboard": "track", "trackio": "track", "wandb": "track",
}  # fmt: skip
# llama_cpp takes minutes to compile: the comparison is left out, and said to be, without it. triton comes with
# PyTorch for CUDA: without it the formula computes the loss.
NEVER_ASKED_OF_A_USER = {"llama_cpp", "triton"}
# Extras that no file imports: their packages are tools, or are looked for by name (tinygpt doctor).
TOOLS = {"pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"}


def imported(at_top: bool) -> set[str]:
    """Top-level packages from outside that the package imports: at the top of a file, or anywhere inside."""
    found: set[str] = set()
    for path in (ROOT / "tinygpt").rglob("*.py"):
        if path.name == "modeling_tinygpt.py":  # goes into an export, for transformers to load; nobody here imports it
            continue
        tree = ast.parse(path.read_text())
        nodes = tree.body if at_top else list(ast.walk(tree))
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"tinygpt"}


def names(requirements: list[str]) -> set[str]:
    """Import names of requirement lines."""
    return {re.split(r"[\s<>=!~\[;]", line)[0].replace("-", "_").lower() for line in requirements}


def test_core_dependencies_are_exactly_what_is_imported():
    """Pins: a package that happens to come along with another one, and a requirement nobody uses."""
    assert imported(at_top=False) - OPTIONAL.keys() - NEVER_ASKED_OF_A_USER == names(PROJECT["dependencies"])


def test_optional_packages_are_imported_only_where_they_are_used():
    assert not imported(at_top=True) & OPTIONAL.keys()
    for package, extra in OPTIONAL.items():
        assert package in names(PROJECT["optional-dependencies"][extra])


def test_dev_extra_holds_what_the_tests_import():
    found: set[str] = set()
    local = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"tinygpt", "examples", "benchmarks"}
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    declared = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["dev"])
    assert found - set(sys.stdlib_module_names) - local - NEVER_ASKED_OF_A_USER <= declared
    assert names(list(TOOLS)) <= names(PROJECT["optional-dependencies"]["dev"])


def test_torch_is_pinned_for_the_tests_and_open_for_users():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert "torch>=2.10" in PROJECT["dependencies"]
    assert all("==" in pin for pin in pins)


def test_the_version_has_one_home():
    """tinygpt/__init__.py says it; the metadata reads it from there, and no other file of the package repeats it."""
    import tinygpt

    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    homes = [
        path.name
        for path in (ROOT / "tinygpt").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == tinygpt.__version__
    ]
    assert homes == ["__init__.py"]
