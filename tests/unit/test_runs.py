"""Run folders: all or nothing, found by name, and refused when they are of another kind."""

import json
import os

import pytest
import torch

from tinygpt import runs
from tinygpt.config import from_stored
from tinygpt.errors import UserError
from tinygpt.storage import canonical


@pytest.fixture
def run(tmp_path, monkeypatch, make_run):
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "mine")


def refused(exit_code, words, call, *arguments):
    with pytest.raises(UserError, match=words) as error:
        call(*arguments)
    assert error.value.exit_code == exit_code
    return str(error.value)


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


def test_a_config_that_cannot_be_is_exit_78(run):
    config = json.loads((run.folder / "config.json").read_bytes())
    change(run, model={**config["model"], "n_layers": 10**9})
    refused(78, "n_layers=1000000000 is outside", runs.open_run, run.folder)


def test_another_tokenizer_is_exit_66(run, byte_tokenizer):
    byte_tokenizer.save(run.folder / "tokenizer.json")
    refused(66, "was made with tokenizer", runs.open_run, run.folder)


@pytest.mark.parametrize("part", ["train", "val"])
def test_damaged_tokens_are_exit_65(run, part):
    path = run.folder / "data" / f"{part}.tokens"
    path.write_bytes(path.read_bytes()[:-1])
    refused(65, rf"{part}\.tokens: not a usable token file", runs.open_run, run.folder)


@pytest.mark.parametrize("name", ["model.pt", "runs/old.pth", "a.pkl", "tiny_llm.bin", "x.ckpt", "model.pt@best"])
def test_what_may_be_a_pickle_is_exit_77(run, name):
    """Also when no such file is there: the tutorial's tiny_llm.pt is what people will try first."""
    refused(77, "may be a pickle", runs.resolve, name)


def test_references(run, tmp_path):
    assert [runs.resolve(r)[1] for r in ("mine", "mine@best", "mine@last", "mine@12")] == ["best", "best", "last", "12"]
    assert runs.resolve("mine")[0] == runs.resolve("runs/mine")[0] == runs.RUNS / "mine"
    assert runs.resolve(str(tmp_path / "runs" / "mine"))[0] == tmp_path / "runs" / "mine"
    refused(2, r"behind @ stands best, last or a step, not 'bets'", runs.resolve, "mine@bets")
    refused(2, r"not '²'", runs.resolve, "mine@²")  # isdigit() says yes, int() says no
    assert "did you mean mine" in refused(2, "there is no run 'mnie'", runs.resolve, "mnie")
    refused(2, "there is no run ''", runs.resolve, "")


def test_a_path_may_contain_an_at(run, tmp_path):
    folder = tmp_path / "you@home"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert runs.resolve(str(folder)) == (folder, "best")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", ".hidden", "a" * 65, "ü", "a b", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(name):
    refused(2, "must be 1-64 letters", runs.check_name, name)


def test_free_names(run, tmp_path):
    assert runs.free_name("mine") == "mine-2" and runs.free_name("my story!.v2") == "my-story-.v2"
    assert runs.free_name("···") == "run"
    (tmp_path / "runs" / "mine-2").mkdir()
    assert runs.free_name("mine") == "mine-3"
    for wanted in ("mine", "···", "a" * 500, "../../etc"):
        runs.check_name(runs.free_name(wanted))


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
        assert len(count) == nth and list((tmp_path / "runs").iterdir()) == []
    make_run(tmp_path / "runs" / "mine")


def test_two_processes_do_not_train_one_run(run):
    with runs.lock(run.folder):
        said = refused(73, "another process", runs.lock(run.folder).__enter__)
        assert "mine" in said
    with runs.lock(run.folder):
        pass


def test_the_newest_run(run, tmp_path, make_run):
    other = make_run(tmp_path / "runs" / "other")
    os.utime(other.folder, (1, 1))
    assert runs.newest() == runs.RUNS / "mine"
    (other.folder / "metrics.jsonl").write_text("")  # training writes here, which does not touch the folder's time
    os.utime(other.folder, (1, 1))
    os.utime(run.folder, (2, 2))
    assert runs.newest() == runs.RUNS / "other"


def test_no_run_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(2, "there is no run to go on with", runs.newest)
    refused(2, "no runs here yet", runs.resolve, "x")


def test_config_json_is_complete(run):
    """Resolved before step 0: nothing is left at 'decided by the planner' that decides a step."""
    stored = json.loads((run.folder / "config.json").read_bytes())
    config, notices = from_stored(stored)
    assert notices == [] and config == run.config
    assert {"tinygpt", "python", "numpy"} <= stored["versions"].keys()
