"""Documents on the disk: they behave like a list, and a long text does not need memory in proportion."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygpt.corpus import documents as module
from tinygpt.corpus.documents import Documents
from tinygpt.errors import IO_ERROR, UserError

TEXTS = ["one", "", "zwei Größen", "drei\n\nvier", "five", "\U0001f600"]


@pytest.fixture(params=[1 << 24, 8], ids=["in memory", "on the disk"])
def documents(request, monkeypatch) -> Documents:
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", request.param)
    result = Documents(TEXTS)
    assert result._file._rolled == (request.param == 8)
    return result


def test_they_behave_like_a_list(documents):
    assert documents == TEXTS and list(documents) == TEXTS and len(documents) == len(TEXTS)
    assert documents != TEXTS[:-1] and documents != [*TEXTS[:-1], "x"] and documents != "one"
    assert documents[2] == TEXTS[2] and documents[-1] == TEXTS[-1] and "five" in documents
    for part in (slice(1, 3), slice(-2, None), slice(None, None, 2), slice(9, 12)):
        assert documents[part] == TEXTS[part]
    with pytest.raises(IndexError):
        documents[6]
    assert documents.sizes.tolist() == [len(text.encode()) for text in TEXTS]
    assert not Documents() and Documents().sizes.sum() == 0 and Documents()[:0] == []


def test_two_readers_do_not_disturb_each_other(documents):
    """The bug: one file has one place where it is read."""
    assert list(zip(documents, documents[::-1], strict=True)) == list(zip(TEXTS, TEXTS[::-1], strict=True))


def test_what_is_chosen_can_grow_by_itself(documents):
    chosen = documents.chosen(np.array([4, 0]))
    assert documents[0] == "one"  # leaves the file at another place than its end
    chosen.append("new")
    assert documents[0] == "one"
    documents.append("other")
    assert chosen == ["five", "one", "new"] and documents == [*TEXTS, "other"]


def test_keys_are_the_beginning_of_sha256(documents):
    for prefix in ("", "7\n"):
        expected = [hashlib.sha256((prefix + text).encode()).hexdigest()[:16] for text in TEXTS]
        assert [f"{key:016x}" for key in documents.keys(prefix)] == expected


def test_no_room_for_the_file_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 8)
    with pytest.raises(UserError, match=r"cannot be written in .*missing.*set TMPDIR to another folder\.$") as caught:
        Documents(TEXTS)
    assert caught.value.exit_code == IO_ERROR


# --- memory ----------------------------------------------------------------------------------------------------------

CHILD = """
import resource, sys
from tinygpt.corpus import load
from tinygpt.data import count_pairs, count_tokens, digest, encode, read_tokens, sample, total_bytes, write_tokens
from tinygpt.tokenizer import train_tokenizer
from pathlib import Path
from tinygpt import corpus, data
for module in (corpus.documents, corpus.files, data):
    module.IN_MEMORY_BYTES = 1 << 20  # so that smaller texts show it
data.PART_TOKENS = 1 << 17
corpus = load([sys.argv[1]])
tokenizer = train_tokenizer(corpus.train[:100], 2000)
ids = encode(corpus.train, tokenizer)
path = Path(sys.argv[1]).with_suffix(".tokens")
write_tokens(path, ids, tokenizer)
ids = read_tokens(path, tokenizer)
digest(ids), total_bytes(ids, tokenizer.n_bytes()), count_tokens(ids, 2000), count_pairs(sample(ids, 1 << 20), 2000)
print(len(ids), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 1 << 20))
"""


def peak_mb(path: Path, megabytes: int) -> int:
    """Peak memory [MiB] of a process that does with a text of this size what training does before its first step."""
    line = "Once upon a time number {} lived in a house by the sea and had a red kite. " * 12
    with path.open("w") as file:
        for i in range(megabytes * 1_000_000 // len(line)):
            file.write(line.format(*[i] * 12) + "\n\n\n")
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
    n_tokens, peak = map(int, child.stdout.split())
    assert n_tokens > 2e5 * megabytes
    return peak


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak")
def test_memory_does_not_grow_with_the_text(tmp_path):
    """Lists of strings and arrays of all tokens took about ten times the text, so 160 MB more."""
    small, large = peak_mb(tmp_path / "a.txt", 4), peak_mb(tmp_path / "b.txt", 20)
    assert large - small < 30, (small, large)
