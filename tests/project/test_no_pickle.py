"""R12: nothing in the package can run code from a file. Read from the syntax trees, so that no alias hides it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tinygpt"

FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "numpy.fromregex", "eval", "exec", "compile", "__import__", "os.system",
    "safetensors.torch.save_file",  # RELIABILITY.md, section 2: the order of its writes cannot be controlled
}  # fmt: skip
# Ranks exchange tensors only: these unpickle what another process sent.
OBJECT_COLLECTIVES = {
    "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list",
    "recv_object_list",
}  # fmt: skip
ARRAY_LOADERS = {"numpy.load", "numpy.save", "numpy.savez", "numpy.lib.format.read_array", "numpy.lib.npyio.NpzFile"}


def violations(source: str) -> list[str]:
    """What is forbidden in a source text, as 'line: what'."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # local name -> what it stands for
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                    found.append(f"{node.lineno}: import {alias.name}")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names[alias.asname or alias.name] = whole
                if str(node.module).split(".")[0] in FORBIDDEN_MODULES:
                    found.append(f"{node.lineno}: from {node.module} import {alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):  # a call, or a reference to be called later
            name = full_name(node, names)
            if name in FORBIDDEN_CALLS or name.split(".")[-1] in OBJECT_COLLECTIVES:
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Call) and full_name(node.func, names) in ARRAY_LOADERS:
            allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            if not (len(allowed) == 1 and isinstance(allowed[0], ast.Constant) and allowed[0].value is False):
                found.append(f"{node.lineno}: {full_name(node.func, names)} without allow_pickle=False")
        if isinstance(node, ast.keyword) and node.arg in ("weights_only", "trust_remote_code", "shell"):
            found.append(f"{node.value.lineno}: {node.arg}=")
    return found


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """'torch.load' for torch.load, t.load after `import torch as t`, and load after `from torch import load`."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id).replace("np.", "numpy.")
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_package_cannot_run_code_from_files(path: Path):
    assert violations(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import dill as d", "import joblib", "import shelve",
        "import marshal", "import torch\ntorch.load('x')", "import torch as t\nt.save(1, 'x')",
        "from torch import load as read\nread('x')", "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)", "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "from numpy import load\nload('x')", "import yaml\nyaml.load('x')", "eval('1')", "exec('1')",
        "import torch.distributed as dist\ndist.all_gather_object([], 1)",
        "from torch.distributed import broadcast_object_list as send\nsend([])",
        "reader = eval", "import torch\nloader = {'x': torch.load}",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_scan_sees_what_is_forbidden(source: str):
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.load('x', allow_pickle=False)", "model.eval()", "import json\njson.load(file)",
        "import safetensors.torch\nsafetensors.torch.load(b'')", "import re\nre.compile('x')",
        "self.load('x')\nself.save('x')", "from tinygpt import checkpoint\ncheckpoint.load(run)",
    ],
)  # fmt: skip
def test_the_scan_lets_the_harmless_pass(source: str):
    assert violations(source) == []
