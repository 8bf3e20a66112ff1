"""Splitting: nothing lost, nothing in both parts, the wanted size, the same result whatever the file order."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt.config import DataConfig
from tinygpt.corpus import Corpus, documents_digest, load, report_text
from tinygpt.corpus.files import RULES
from tinygpt.errors import BAD_INPUT, USAGE, UserError

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "größe"]


def stories(count: int, seed: int = 0, words: int = 60) -> list[str]:
    rng = random.Random(seed)
    return [f"Story {seed} {number}. " + " ".join(rng.choices(WORDS, k=words)) for number in range(count)]


def save(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    return path


def size(documents: list[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def load_documents(tmp_path: Path, documents: list[str], **options) -> Corpus:
    return load([save(tmp_path / "a.jsonl", documents)], **options)


def test_split_by_document_has_the_wanted_size_and_keeps_the_order(tmp_path: Path) -> None:
    documents = stories(300)
    corpus = load_documents(tmp_path, documents)
    assert corpus.report["split"] == "by document"
    assert corpus.train == [d for d in documents if d in set(corpus.train)]
    assert sorted([*corpus.train, *corpus.val]) == sorted(documents)
    assert not set(corpus.train) & set(corpus.val)
    assert 0.08 * size(documents) <= size(corpus.val) <= 0.1 * size(documents)


def test_split_does_not_depend_on_file_order_but_on_the_seed(tmp_path: Path) -> None:
    documents = stories(200)
    first = save(tmp_path / "1.jsonl", documents[:80])
    second = save(tmp_path / "2.jsonl", documents[80:])
    one, other = load([first, second]), load([second, first])
    assert set(one.val) == set(other.val) and one.train != other.train
    assert set(load([first, second], seed=1).val) != set(one.val)


def test_split_is_the_documented_order(tmp_path: Path) -> None:
    """Pins the rule itself, so that a run made today keeps its validation text tomorrow."""
    documents = [f"{number:03} " + "x" * (7 * number) for number in range(100)]
    expected: list[str] = []
    for document in sorted(documents, key=lambda d: hashlib.sha256(f"7\n{d}".encode()).digest()):
        fits = size([*expected, document]) <= 0.1 * size(documents)
        if fits and size(expected) < 0.95 * int(0.1 * size(documents)):
            expected.append(document)
    corpus = load_documents(tmp_path, documents, seed=7)
    assert corpus.report["split"] == "by document" and set(corpus.val) == set(expected)


def test_validation_never_exceeds_its_cap_by_document(tmp_path: Path) -> None:
    documents = [*stories(500), *stories(30, seed=1, words=900)]
    corpus = load_documents(tmp_path, documents, val_max_bytes=8_000)
    assert corpus.report["split"] == "by document" and 6_400 <= size(corpus.val) <= 8_000


@pytest.mark.parametrize(
    ("documents", "options", "word"),
    [
        (stories(19), {}, "fewer than 20"),
        ([*stories(50), "long. " * 3000], {}, "one document"),
        (stories(40, words=2000), {"val_max_bytes": 3000}, "too long"),
        (["\n".join(stories(100))], {}, "fewer than 20"),
    ],
)
def test_tail_where_documents_are_too_coarse(tmp_path: Path, documents: list[str], options: dict, word: str) -> None:
    corpus = load_documents(tmp_path, documents, **options)
    assert corpus.report["split"] == "tail" and word in corpus.report["split_reason"]
    joined = "".join(documents)
    assert "".join([*corpus.train, *corpus.val]).replace("\n", "") == joined.replace("\n", "")  # nothing is lost
    assert corpus.train == [*documents[: len(corpus.train) - 1], corpus.train[-1]]
    wanted = min(0.1 * size(documents), options.get("val_max_bytes", DataConfig.val_max_bytes))
    assert 0.98 * wanted <= size(corpus.val) <= 1.1 * wanted + 1


def test_tail_cuts_at_a_line_else_a_word_else_a_character(tmp_path: Path) -> None:
    line = "The cat sat on the mat.\n"
    lines = load_documents(tmp_path, [line * 200])
    assert lines.val[0].startswith("The cat") and lines.train[0].endswith("mat.")
    words = load_documents(tmp_path, ["word " * 2000])
    assert words.val[0].startswith("word") and words.train[0].endswith("word ")
    letters = load_documents(tmp_path, ["ö" * 5000])  # a cut inside the two bytes of ö would raise
    assert letters.train[0] + letters.val[0] == "ö" * 5000 and len(letters.val[0]) == 500
    far = load_documents(tmp_path, ["x" * 9000 + "\n" + "y" * 1_500])  # the next line start is too far away
    assert len(far.val[0]) == 1050


@pytest.mark.parametrize(("total", "split"), [(1, "none"), (10, "none"), (200, "none"), (230, "tail"), (1000, "tail")])
def test_too_small_to_split(tmp_path: Path, total: int, split: str) -> None:
    corpus = load_documents(tmp_path, ["a" * total])
    assert corpus.report["split"] == split
    if split == "none":
        assert corpus.train == ["a" * total] and corpus.val == []
        assert f"has {total:,} byte{'s' * (total > 1)}, and" in corpus.notices[0]  # not "1 bytes"
        assert "--val" in corpus.notices[0] and corpus.notices[0].endswith(".")


def test_the_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    """The bug: load() kept twice as much for validation as `tinygpt train`, so `tinygpt corpus` told another split."""
    defaults = inspect.signature(load).parameters
    for name in ("val_fraction", "val_max_bytes", "newlines"):
        assert defaults[name].default == getattr(DataConfig(), name), name
    corpus = load_documents(tmp_path, stories(200, words=2500))
    assert 0.9 * DataConfig.val_max_bytes <= size(corpus.val) <= DataConfig.val_max_bytes < 0.1 * size(corpus.train)


def test_no_validation_asked_for(tmp_path: Path) -> None:
    for options in ({"val_fraction": 0}, {"val_max_bytes": 0}):
        corpus = load_documents(tmp_path, stories(50), **options)
        assert corpus.val == [] and corpus.report["split"] == "none" and corpus.notices == []


@pytest.mark.parametrize(
    "options",
    [
        {"val_fraction": -0.1},
        {"val_fraction": 0.9},
        {"val_fraction": float("nan")},
        {"val_max_bytes": -1},
        {"newlines": "crlf"},
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict) -> None:
    with pytest.raises(UserError) as caught:
        load_documents(tmp_path, stories(3), **options)
    assert caught.value.exit_code == USAGE and str(caught.value).endswith(".")
    for sources in ([], "a.txt"):  # a string is a sequence of characters, not of names
        with pytest.raises(UserError):
            load(sources)


def test_duplicates_are_removed_across_files(tmp_path: Path) -> None:
    documents = stories(40)
    first = save(tmp_path / "1.jsonl", documents + documents[:7])
    second = save(tmp_path / "2.jsonl", documents[20:])
    corpus = load([first, second])
    assert corpus.report["duplicates_removed"] == 27
    assert sorted([*corpus.train, *corpus.val]) == sorted(documents)
    assert not set(corpus.train) & set(corpus.val)
    assert corpus.notices == ["removed 27 repeated documents; one copy of each stays."]


def test_given_validation_text_and_its_leaks(tmp_path: Path) -> None:
    documents = stories(30)
    own = save(tmp_path / "val.jsonl", documents[3:8] + stories(4, seed=9) + documents[3:4])
    corpus = load_documents(tmp_path, documents, val=own)
    assert corpus.report["split"] == "given" and corpus.report["leaked_documents"] == 5
    assert corpus.train == documents[:3] + documents[8:]
    assert corpus.val == documents[3:8] + stories(4, seed=9)
    assert corpus.notices == [f"removed 5 training documents found in the validation text {own} too."]
    assert corpus.report["val_sources"][0]["name"] == str(own)
    clean = load_documents(tmp_path, documents, val=save(tmp_path / "v.jsonl", stories(2, seed=5)))
    assert clean.report["leaked_documents"] == 0 and clean.notices == [] and clean.train == documents
    with pytest.raises(UserError, match="every training document") as caught:
        load_documents(tmp_path, documents, val=tmp_path / "a.jsonl")
    assert caught.value.exit_code == BAD_INPUT
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(UserError, match="validation text"):
        load_documents(tmp_path, documents, val=tmp_path / "blank.txt")


def test_digest_is_framed() -> None:
    digests = {documents_digest(d) for d in ([], [""], ["", ""], ["ab"], ["a", "b"], ["b", "a"], ["a\nb"], ["ä"])}
    assert len(digests) == 8
    framed = (2).to_bytes(8, "big") + "ä".encode()
    assert documents_digest(["ä"]) == hashlib.sha256(framed).hexdigest()


def test_report_figures(tmp_path: Path) -> None:
    text = "He said â€œnoâ€\x9d, it\u00e2\u0080\u0099s late.\nlonger line than the first one, with ö\n\n\nb\n\n\nb\n"
    path = tmp_path / "a.txt"
    path.write_text(text)
    corpus = load([path], val_fraction=0)
    report = corpus.report
    first = text.split("\n\n\n")[0]
    assert corpus.train == [first, "b"]
    assert (report["documents"], report["duplicates_removed"]) == (2, 1)
    assert report["characters"] == len(first) + 1 and report["bytes"] == len(first.encode()) + 1
    assert report["longest_line"] == max(map(len, first.split("\n")))
    assert report["distinct_characters"] == len(set(first + "b"))
    assert report["non_ascii_share"] == pytest.approx(sum(c > "\x7f" for c in first) / (len(first) + 1))
    assert report["mojibake"] == 3 and "3 double-encoded marks" in corpus.notices[1]
    assert corpus.notices[0].startswith("removed 1 repeated document;") and corpus.notices[1].endswith(".")
    assert report["document_rule"] == RULES["empty lines"]
    assert report["sources"] == [
        {
            "name": str(path),
            "kind": "text",
            "bytes": len(text.encode()),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "encoding": "utf-8",
        }
    ]
    assert report["train"] == {"documents": 2, "bytes": report["bytes"], "sha256": documents_digest(corpus.train)}
    assert report["val"] == {"documents": 0, "bytes": 0, "sha256": documents_digest([])}
    assert report["notices"] == corpus.notices
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    clean = load_documents(tmp_path, ["â quoted accent, and €5"], val_fraction=0)
    assert clean.report["mojibake"] == 0 and clean.notices == []


def test_report_names_every_rule_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n<|endoftext|>\nb\n")
    (tmp_path / "b.txt").write_text("c")
    (tmp_path / "c.txt").write_text("d")
    save(tmp_path / "d.jsonl", ["e"])
    report = load([tmp_path], val_fraction=0).report
    assert report["document_rule"].split("; ") == [RULES["marks"], RULES["empty lines"], RULES["jsonl"]]


def test_report_text_shows_the_figures(tmp_path: Path) -> None:
    corpus = load_documents(tmp_path, [*stories(40), stories(1)[0]])
    shown = report_text(corpus.report)
    for figure in (
        f"{corpus.report['bytes']:,} bytes",
        "1 duplicate, 0 empty documents",
        "by document",
        RULES["jsonl"],
        "a.jsonl",
    ):
        assert figure in shown
    assert corpus.report["val"]["sha256"][:12] in shown and corpus.notices[0] in shown


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=60),
    fraction=st.floats(0, 0.5),
    cap=st.integers(0, 2000),
)
def test_any_split_loses_nothing(tmp_path: Path, documents: list[str], fraction: float, cap: int) -> None:
    try:
        corpus = load_documents(tmp_path, documents, val_fraction=fraction, val_max_bytes=cap)
    except UserError as error:
        assert error.exit_code == BAD_INPUT
        return
    whole = load_documents(tmp_path, documents, val_fraction=0).train
    flat = "".join(sorted("".join(whole).replace("\n", "").replace("\r", "")))
    assert "".join(sorted("".join([*corpus.train, *corpus.val]).replace("\n", "").replace("\r", ""))) == flat
    assert corpus.train and len(corpus.val) <= len(whole)
    assert size(corpus.val) <= 1.1 * min(fraction * size(whole), cap) + 4
