"""The promises about runs, checkpoints and files, in the short form; benchmarks/reliability/ tries them at length.

A row counts only if it fails when its guard is taken away: that is what the controls show.
"""

import importlib
import sys

import pytest
import torch

from benchmarks.reliability import ROWS
from benchmarks.reliability.common import Scale

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")
MODULES = {id: importlib.import_module(f"benchmarks.reliability.{name}") for id, name in ROWS.items()}


@pytest.mark.parametrize("id", [
    pytest.param(id, marks=pytest.mark.skipif(
        id == "GPU" and not torch.cuda.is_available(), reason="NO GPU: resume and scarce memory on CUDA untested"
    )) for id in ROWS
])  # fmt: skip
def test_the_promise_holds(id, tmp_path):
    row = MODULES[id].row(Scale(full=False, folder=tmp_path))
    assert row.id == id and row.trials > 0
    assert row.failures == [] and row.lost == 0


@pytest.mark.parametrize("id", [id for id, module in MODULES.items() if hasattr(module, "controls")])
def test_without_its_guard_it_does_not(id, tmp_path):
    noticed = MODULES[id].controls(Scale(full=False, folder=tmp_path))
    assert noticed and all(noticed.values()), noticed
