"""`tinygpt doctor RUN` says what the loader would do, and repairs nothing but what interrupted saves left."""

import json

import pytest

from tinygpt import folders, runs
from tinygpt.doctor import doctor_text, examine_run, repair_run
from tinygpt.errors import UserError
from tinygpt.train import set_up, train


@pytest.fixture
def run(tmp_path, make_run, machine, silent):
    made = make_run(tmp_path / "run")
    train(set_up(made, machine, silent))
    return made.folder


def test_a_whole_run(run):
    found = examine_run(run)
    assert (found["problems"], found["exit_code"], found["locked"]) == ([], 0, False)
    assert found["resume"] == "step-00000012" and all(item["valid"] for item in found["checkpoints"])
    assert "a resume goes on from step-00000012 of 12 steps" in doctor_text(found)


def test_a_run_that_has_not_begun(tmp_path, make_run):
    found = examine_run(make_run(tmp_path / "run").folder)
    assert (found["resume"], found["problems"], found["exit_code"]) == (None, [], 0)
    assert "no checkpoint yet: a resume starts at step 0" in doctor_text(found)


def test_a_wrong_pointer_is_said(run):
    (run / "checkpoints" / "LATEST").write_text("step-00000004\n")
    found = examine_run(run)
    assert found["resume"] == "step-00000012" and "LATEST names step-00000004" in found["problems"][0]


def test_weights_of_another_shape_than_the_settings_are_a_problem(run):
    """As every command refuses it that opens the run."""
    config = json.loads((run / "config.json").read_text())
    config["model"]["d_ff"] += 1
    (run / "config.json").write_text(json.dumps(config))
    found = examine_run(run)
    assert (found["resume"], found["read"]) == (None, None) and found["exit_code"] != 0
    with pytest.raises(UserError) as error:
        runs.load(str(run))
    assert error.value.exit_code == found["exit_code"] and str(error.value) in found["problems"]


def test_leftovers_are_named_and_removed_and_nothing_else(run):
    before = sorted(path for path in run.rglob("*") if path.name != ".lock")
    (run / "checkpoints" / ".tmp-16-7").mkdir()
    (run / "checkpoints" / ".tmp-16-7" / "model.safetensors").touch()
    (run / "snapshots" / ".tmp-step-00000003.safetensors-7").touch()
    assert len(examine_run(run)["problems"]) == 2
    assert len(repair_run(run)) == 2 and examine_run(run)["problems"] == []
    assert sorted(path for path in run.rglob("*") if path.name != ".lock") == before


def test_a_run_that_is_held(run):
    with folders.lock(run):
        found = examine_run(run)
        assert found["locked"] and "being trained by process" in doctor_text(found)
        with pytest.raises(UserError) as error:
            repair_run(run)
    assert error.value.exit_code == 73
