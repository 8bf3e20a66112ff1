"""Run folders: all or nothing, found by name, and refused when they are of another kind."""

import json

import pytest
import torch
from command_line import refused

from tinygpt import runs
from tinygpt.config import from_stored
from tinygpt.storage import canonical


def change(run, **fields):
    path = run.folder / "config.json"
    path.write_bytes(canonical({**json.loads(path.read_bytes()), **fields}))


def test_what_was_created_is_what_is_opened(run, texts):
    opened, notices = runs.open_run(run.folder)
    assert notices == [] and opened.config == run.config and opened.tokenizer.sha256 == run.tokenizer.sha256
    assert opened.train_ids.tolist() == run.train_ids.tolist() and opened.digests == run.digests
    assert runs.documents(opened) == texts[:110] and runs.documents(opened, "val") == texts[110:]


def test_a_run_made_by_the_command_opens_with_its_weights(trained, texts):
    run, model, loaded, notices = runs.load(str(trained))
    assert notices == [] and not model.training and run.facts["parameters"] == model.parameter_count()
    assert torch.equal(model.embedding.weight, loaded.model["embedding.weight"])
    assert runs.load(f"{trained}@last")[2].step == 60 and runs.load(f"{trained}@40")[2].step == 40
    assert sorted(runs.documents(run) + runs.documents(run, "val")) == sorted(texts)


def test_another_format_version_is_refused(run):
    """Never guessed at: exit 78, with both versions and the program that made it."""
    change(run, format_version=2, versions={"tinygpt": "9.9"})
    said = refused(78, "format version 2", runs.open_run, run.folder)
    assert "reads version 1" in said and "9.9" in said


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'"run"'])
def test_a_config_that_is_none_is_exit_78(run, content):
    (run.folder / "config.json").write_bytes(content)
    refused(78, "not a run of tinygpt", runs.open_run, run.folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"model_type": "gpt2"}', "is a Hugging Face folder, not a run; .*: tinygpt train TEXT --from "),
        (b'{"opset": 18, "vocab_size": 320}', "is an ONNX export, not a run; name the run that it came from"),
        (b'{"name": "x"}', "is not a run of tinygpt: config.json has no format_version"),
    ],
)
def test_a_folder_that_is_something_else_is_called_what_it_is(run, content, sentence):
    """Pins: "config.json: 'format_version'." """
    (run.folder / "config.json").write_bytes(content)
    refused(78, sentence, runs.open_run, run.folder)


def test_a_config_that_cannot_be_is_exit_78(run):
    config = json.loads((run.folder / "config.json").read_bytes())
    change(run, model={**config["model"], "n_layers": 10**9})
    refused(78, "n_layers=1000000000 is outside", runs.open_run, run.folder)


@pytest.mark.parametrize("name", runs.DECIDED)
def test_what_the_planner_decides_cannot_be_0_in_a_run(run, name):
    """config.json changed by hand; a step modulo 0 would be a traceback."""
    config = json.loads((run.folder / "config.json").read_bytes())
    change(run, train={**config["train"], name: 0})
    refused(78, f"{name}=0 is for the planner", runs.open_run, run.folder)


def test_another_tokenizer_is_exit_66(run, byte_tokenizer):
    byte_tokenizer.save(run.folder / "tokenizer.json")
    refused(66, "was made with tokenizer", runs.open_run, run.folder)


@pytest.mark.parametrize("part", ["train", "val"])
def test_damaged_tokens_are_exit_65(run, part):
    path = run.folder / "data" / f"{part}.tokens"
    path.write_bytes(path.read_bytes()[:-1])
    refused(65, rf"{part}\.tokens: not a usable token file", runs.open_run, run.folder)


def test_an_existing_run_is_not_overwritten(run, make_run):
    before = (run.folder / "config.json").read_bytes()
    refused(2, "exists", make_run, run.folder)
    assert (run.folder / "config.json").read_bytes() == before


def test_a_run_that_fails_while_it_is_made_does_not_exist(tmp_path, make_run, monkeypatch):
    """Dead at each of the files in turn: no folder, half or whole, and no rubbish beside it."""
    for nth in range(1, 6):
        count = []

        def dying(path, data, write=runs.write_atomic, count=count, nth=nth):
            count.append(path)
            if len(count) == nth:
                raise OSError(28, "No space left on device")
            write(path, data)

        with monkeypatch.context() as patch:
            for module in ("runs", "data", "tokenizer"):
                patch.setattr(f"tinygpt.{module}.write_atomic", dying)
            with pytest.raises(OSError, match="No space"):
                make_run(tmp_path / "runs" / "mine")
        assert len(count) == nth and not (tmp_path / "runs" / "mine").exists()
    make_run(tmp_path / "runs" / "mine")


def test_config_json_is_complete(run):
    """Resolved before step 0: nothing is left at 'decided by the planner' that decides a step."""
    stored = json.loads((run.folder / "config.json").read_bytes())
    config, notices = from_stored(stored)
    assert notices == [] and config == run.config
    assert {"tinygpt", "python", "numpy"} <= stored["versions"].keys()
