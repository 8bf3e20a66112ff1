"""The house keeps its shape: who may import whom (DESIGN.md, section 5), and nothing happens at import."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tinygpt"

# A file imports only files with a smaller number; inside one folder any, but in no circle.
LAYERS = {
    "": 0,  # tinygpt/__init__.py: the version
    "errors": 0, "signals": 0, "storage": 0, "folders": 0, "display": 0, "config": 0, "records": 0,
    "published": 1, "tracking": 1,
    "tokenizer": 1, "corpus": 1, "model": 1, "sampling": 1, "distributed": 1, "capture": 1, "kernels": 1, "native": 1,
    "data": 2, "loss": 2, "optim": 2, "inference": 2,
    "evaluate": 3, "checkpoint": 3, "start": 3, "chat": 3,
    "plan": 4, "runs": 4,
    "session": 5, "inherit": 5, "doctor": 5, "inspect": 5, "slots": 5, "export": 5,
    "prepare": 6, "guards": 6, "health": 6, "web": 6,
    "report": 7,
    "train": 8, "report_page": 8, "serve": 8, "studio": 8, "lab": 8, "learn": 8,
    "cli": 9,
    "__main__": 10,
}  # fmt: skip
# Inside layer 0, the small ones at the bottom: an error and a file are needed to define a setting or a record.
LAYER_0 = ["", "errors", "signals", "storage", "folders", "display", "config", "records"]
NOT_IMPORTED = ("__main__.py", "modeling_tinygpt.py")  # the second goes into exports, for transformers to load
TORCH_FREE = ["errors", "signals", "storage", "folders", "display", "config", "records", "tokenizer", "corpus"]


@functools.cache
def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """tinygpt.corpus.files from its path."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> set[str]:
    """Modules of this package that the file imports, also inside functions; `from tinygpt import runs` is one."""
    known = {module_of(file) for file in files()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "tinygpt"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full, from tinygpt..."
            if (node.module or "").split(".")[0] == "tinygpt":
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (whole & known) or {str(node.module)}
                if whole - known:
                    found.add(str(node.module))
    return found - {module_of(path)}


def unit_of(module: str) -> str:
    """The name in the table: the file or folder directly below tinygpt/."""
    return module.split(".")[1] if "." in module else ""


def test_every_file_has_a_layer():
    assert {unit_of(module_of(path)) for path in files()} <= LAYERS.keys()


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_a_file_imports_only_lower_layers(path: Path):
    here = unit_of(module_of(path))
    for module in imports(path):
        there = unit_of(module)
        if there == here and there:
            continue  # one folder: see the test for circles
        if LAYERS[there] == LAYERS[here] == 0:
            assert LAYER_0.index(there) < LAYER_0.index(here), f"{path.name} imports {module}"
        else:
            assert LAYERS[there] < LAYERS[here], (
                f"{path.name} (layer {LAYERS[here]}) imports {module} ({LAYERS[there]})"
            )


def test_no_circles():
    """Also not with the imports inside functions. A folder's __init__ comes first, as Python runs it first."""
    graph = {module_of(path): imports(path) for path in files()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def loaded_after(statement: str) -> list[str]:
    """Modules in sys.modules after `statement` in a fresh interpreter, which must print nothing by itself."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def test_importing_package_and_command_line_loads_nothing_heavy():
    """Pins: torch imported at the top of cli.py or of what it imports; --help would take seconds."""
    loaded = loaded_after("import tinygpt; import tinygpt.cli")
    assert "tinygpt.cli" in loaded
    assert not {"torch", "numpy", "tokenizers", "safetensors", "transformers"} & set(loaded)


def test_layers_marked_torch_free_load_no_torch():
    """DESIGN.md marks them (no torch), so that corpus work and inspection of tokens start at once."""
    modules = [module_of(path) for path in files() if unit_of(module_of(path)) in TORCH_FREE]
    loaded = loaded_after("; ".join(f"import {module}" for module in [*modules, "tinygpt.inspect.tokens"]))
    assert "torch" not in loaded


def test_importing_everything_decides_nothing():
    """No print, no device, no threads, no seed at import: all of that comes from the config, inside a function."""
    code = (
        "import torch; before = (torch.get_num_threads(), torch.get_rng_state().tolist(), torch.get_default_dtype())\n"
        + "\n".join(f"import {module_of(path)}" for path in files() if path.name not in NOT_IMPORTED)
        + "\nassert before == (torch.get_num_threads(), torch.get_rng_state().tolist(), torch.get_default_dtype())\n"
        + "assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
