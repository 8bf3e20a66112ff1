"""Files that must survive: the old bytes or the new ones, one JSON spelling."""

import math
import os

import pytest

from tinygpt import storage
from tinygpt.storage import canonical, read_json, sha256, write_atomic


def test_sha256_is_the_published_one():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_canonical_is_one_spelling_and_comes_back(tmp_path):
    assert canonical({"b": 1, "a": [1.5, "é"]}) == canonical({"a": [1.5, "é"], "b": 1})
    path = tmp_path / "x.json"
    path.write_bytes(canonical({"b": 1, "a": [1.5, "é"]}))
    assert read_json(path) == {"a": [1.5, "é"], "b": 1}
    assert path.read_bytes().endswith(b"}\n") and "é".encode() in path.read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_refuses_what_json_has_no_word_for(value):
    """json.dumps would write NaN, which other readers reject."""
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"loss": value})


def test_read_json_is_strict_about_utf8(tmp_path):
    (tmp_path / "x.json").write_bytes('{"a": "é"}'.encode("utf-16"))
    with pytest.raises(ValueError):
        read_json(tmp_path / "x.json")


def test_write_atomic_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", ["write_durable", "replace"])
def test_a_failed_write_leaves_the_old_bytes_and_no_rubbish(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(target, *_):
        if failing == "write_durable":
            target.write_bytes(b"ne")  # the disk was full half-way
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage if failing == "write_durable" else os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Renaming first and syncing later leaves an empty file after a power cut."""
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append("rename") or replace(a, b))
    write_atomic(tmp_path / "file", b"data")
    assert events == (["fsync", "rename"] if os.name == "nt" else ["fsync", "rename", "fsync"])
