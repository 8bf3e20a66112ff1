"""A change of the code that is not meant to move the losses does not move them: 20 steps per preset, stored.

`python -m tests.exactness.make_golden` makes the file anew (see there when to do that).
"""

import json
import math

import pytest
from make_golden import GOLDEN, STEPS, trace

from tinygpt.config import PRESETS

# fp32 sums are added in another order on another CPU or with other threads. Measured (torch 2.13, x86-64): the same 20
# steps in fp64 differ by at most 1e-6 nats, with two threads by 3e-7. 200 times that is far from rounding, and still
# twenty times less than what a rate that is 1 % off does (4e-3 to 1.4e-2).
TOLERANCE = 2e-4  # nats per token


@pytest.mark.parametrize("preset", PRESETS)
def test_the_losses_are_the_stored_ones(tmp_path, preset):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[preset]
    measured = trace(preset, tmp_path / "run")
    assert len(golden["loss"]) == STEPS and len(golden["val_loss"]) == 2
    for kind in ("loss", "val_loss"):
        assert measured[kind] == pytest.approx(golden[kind], abs=TOLERANCE, rel=0), kind


def test_the_stored_traces_show_learning():
    """A file made by mistake from a broken state would otherwise become the rule."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert list(golden) == list(PRESETS)
    for values in golden.values():
        assert values["loss"][0] == pytest.approx(math.log(259), abs=0.1)
        assert values["loss"][-1] < values["loss"][0] - 0.2
