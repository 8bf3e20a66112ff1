"""Run folders from outside: names, places, and one process at a time."""

import json
import os
import subprocess
import sys

import filelock
import pytest
from command_line import refused

from tinygpt import folders


@pytest.mark.parametrize("name", ["model.pt", "runs/old.pth", "a.pkl", "tiny_llm.bin", "x.ckpt", "model.pt@best"])
def test_what_may_be_a_pickle_is_exit_77(run, name):
    """Also when no such file is there: the tutorial's tiny_llm.pt is what people will try first."""
    refused(77, "may be a pickle", folders.resolve, name)


def test_references(run, tmp_path):
    assert [folders.resolve(r)[1] for r in ("mine", "mine@best", "mine@last", "mine@12")] == [
        "best",
        "best",
        "last",
        "12",
    ]
    assert folders.resolve("mine")[0] == folders.resolve("runs/mine")[0] == folders.RUNS / "mine"
    assert folders.resolve(str(tmp_path / "runs" / "mine"))[0] == tmp_path / "runs" / "mine"
    refused(2, r"behind @ stands best, last or a step, not 'bets'", folders.resolve, "mine@bets")
    refused(2, r"not '²'", folders.resolve, "mine@²")  # isdigit() says yes, int() says no
    assert "did you mean mine" in refused(2, "there is no run 'mnie'", folders.resolve, "mnie")
    for nothing in ("", "@last"):
        refused(2, "^the name of a run is missing; runs here: mine.$", folders.resolve, nothing)


def test_a_run_may_have_the_name_of_a_pickle(tmp_path, monkeypatch, make_run):
    """From wiki.pt.txt; what is found is no pickle."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "wiki.pt")
    assert folders.resolve("wiki.pt") == (folders.RUNS / "wiki.pt", "best")


def test_a_run_that_is_still_being_prepared_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with folders.lock(folders.RUNS / "x"):
        refused(73, "still being prepared", folders.resolve, "x")


def test_a_path_may_contain_an_at(run, tmp_path):
    folder = tmp_path / "you@home"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert folders.resolve(str(folder)) == (folder, "best")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", ".hidden", "a" * 65, "ü", "a b", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(name):
    refused(2, "must be 1-64 letters", folders.check_name, name)


def test_free_names(run, tmp_path):
    assert folders.free_name("mine") == "mine-2" and folders.free_name("my story!.v2") == "my-story-.v2"
    assert folders.free_name("···") == "run"
    (tmp_path / "runs" / "mine-2").mkdir()
    assert folders.free_name("mine") == "mine-3"
    for wanted in ("mine", "···", "a" * 500, "../../etc"):
        folders.check_name(folders.free_name(wanted))


def test_two_processes_do_not_train_one_run(run):
    with folders.lock(run.folder):
        said = refused(73, "another process", folders.lock(run.folder).__enter__)
        assert "mine" in said
    with folders.lock(run.folder):
        pass


def test_the_newest_run(run, tmp_path, make_run):
    other = make_run(tmp_path / "runs" / "other")
    os.utime(other.folder, (1, 1))
    assert folders.newest() == folders.RUNS / "mine"
    (other.folder / "metrics.jsonl").write_text("")  # training writes here, which does not touch the folder's time
    os.utime(other.folder, (1, 1))
    os.utime(run.folder, (2, 2))
    assert folders.newest() == folders.RUNS / "other"


def test_the_newest_runs_are_listed(run, tmp_path):
    """Pins: a sentence of three hundred names, with the one that was meant nowhere in sight."""
    for i in range(12):
        (tmp_path / "runs" / f"r{i}").mkdir()
        (tmp_path / "runs" / f"r{i}" / "config.json").touch()
        os.utime(tmp_path / "runs" / f"r{i}", (i, i))
    said = refused(2, "there is no run 'zzz'; runs here:", folders.resolve, "zzz")
    assert said.endswith("runs here: mine, r11, r10, r9, r8, r7, r6, r5 and 5 more.")
    assert "did you mean r0" in refused(2, "there is no run", folders.resolve, "r0x")


def test_no_run_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(2, "there is no run to go on with", folders.newest)
    refused(2, "no runs here yet", folders.resolve, "x")


def test_a_name_ends_with_no_dot():
    """Windows would drop it, and two names would be one folder."""
    refused(2, "ends with a dot", folders.check_name, "a.")
    assert folders.free_name("b" * 49 + ".c") == "b" * 49


def test_the_lock_says_who_has_it(run):
    with folders.lock(run.folder):
        assert folders.is_locked(run.folder)
        assert f"(process {os.getpid()} on " in refused(73, "wait for it", folders.lock(run.folder).__enter__)
        (run.folder / ".owner.json").write_text("{")  # only for messages, so never a reason to fail
        assert "another process; wait" in refused(73, "wait for it", folders.lock(run.folder).__enter__)
    assert not folders.is_locked(run.folder) and not (run.folder / ".owner.json").exists()


def test_a_folder_that_stays_empty_goes_again(tmp_path):
    """A wrong word on the command line must not leave runs/x behind."""
    with pytest.raises(KeyError), folders.lock(tmp_path / "runs" / "x"):
        assert (tmp_path / "runs" / "x" / ".lock").exists()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with folders.lock(tmp_path / "runs" / "x"):
        (tmp_path / "runs" / "x" / "config.json").touch()
    assert sorted(path.name for path in (tmp_path / "runs" / "x").iterdir()) == [".lock", "config.json"]


def test_a_lock_dies_with_its_process(tmp_path):
    """A file alone would stay, and nobody could go on with the run."""
    code = "import sys, time; from pathlib import Path; from tinygpt.folders import lock\n"
    code += "with lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(99)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "x"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert f"process {holder.pid} " in refused(73, "another process", folders.lock(tmp_path / "x").__enter__)
    holder.kill()
    holder.communicate()
    with folders.lock(tmp_path / "x"):
        assert json.loads((tmp_path / "x" / ".owner.json").read_text())["pid"] == os.getpid()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def nothing(self, *_):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", nothing)
    refused(74, "has no locks; keep runs/ on a local disk", folders.lock(tmp_path / "x").__enter__)


def test_what_an_interrupted_preparation_left_is_no_run(tmp_path):
    folder = tmp_path / "x"
    (folder / "data").mkdir(parents=True)
    for name in (".lock", ".owner.json", "corpus.json", "tokenizer.json", ".tmp-config.json-7", "data/train.tokens"):
        (folder / name).touch()
    folders.refuse_existing(folder)
    (folder / "letter.txt").touch()
    refused(2, "exists", folders.refuse_existing, folder)
    refused(2, "exists", folders.refuse_existing, folder / "letter.txt")
