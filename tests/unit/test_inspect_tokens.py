"""Do the pages on data and tokens show what the tokenizer does? (`tokenize` itself: test_tokenizer.py.)"""

import subprocess
import sys

import pytest
from command_line import refused
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygpt.inspect as ti
from tinygpt.errors import USAGE
from tinygpt.inspect import corpora
from tinygpt.inspect import tokens as module
from tinygpt.inspect.result import arguments_of
from tinygpt.runs import create, open_run
from tinygpt.tokenizer import FIRST_MERGE, Tokenizer, train_tokenizer

TEXT = "The fox found the café cup at home.\n  Old Mia: 1887 🎉!"
REST = "The grey cat lost its drum, one says. "  # makes each document long enough to be set aside whole


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


def documents_text(count=60, copies=()):
    """`count` different documents, some of them once more at the end."""
    told = [f"Story {i:03d}. {REST * 3}" for i in range(count)]
    return "\n\n\n".join([*told, *(told[i] for i in copies)])


# replay


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(), st.text("The fox· café\n1é")), share=st.floats(0, 1))
def test_a_replay_begins_with_bytes_and_ends_with_the_tokens(tokenizer, text, share):
    """E8, page 3: step 0 gives bytes, step N the tokenizer's own ids; the pieces join to the text at every step."""
    last = tokenizer.vocab_size - FIRST_MERGE
    first = ti.replay(tokenizer, text, 0)
    assert [bytes.fromhex(p["bytes"]) for p in first["pieces"]] == [bytes([byte]) for byte in text.encode()]
    assert [p["id"] for p in ti.replay(tokenizer, text, last)["pieces"]] == tokenizer.encode(text)
    part = ti.replay(tokenizer, text, round(share * last))
    assert b"".join(bytes.fromhex(p["bytes"]) for p in part["pieces"]) == text.encode()
    assert part["count"] == len(part["pieces"]) and part["steps"] == last
    for p in part["pieces"]:
        assert text.encode()[p["start"] : p["end"]].hex() == p["bytes"] and p["id"] < FIRST_MERGE + part["upto"]


def test_the_next_merge_is_the_one_that_changes_the_text_next(tokenizer):
    """Pins a `next` that is off by one, or that has no effect on this text."""
    upto, seen = 0, []
    while (coming := (before := ti.replay(tokenizer, TEXT, upto))["next"]) is not None:
        until = ti.replay(tokenizer, TEXT, coming["rank"])
        after = ti.replay(tokenizer, TEXT, coming["rank"] + 1)
        assert until["pieces"] == before["pieces"] and after["count"] < before["count"]
        joined = [p["shown"] for p in after["pieces"] if p["id"] == FIRST_MERGE + coming["rank"]]
        assert joined and set(joined) == {coming["left"] + coming["right"]}
        seen.append(coming["rank"])
        upto = coming["rank"] + 1
    ranks = {merge.rank for piece in tokenizer.explain(TEXT) for merge in piece.merges}
    assert seen == sorted(ranks)


def test_a_replay_outside_the_merges_is_refused(tokenizer):
    steps = tokenizer.vocab_size - FIRST_MERGE
    for upto in (-1, steps + 1):
        refused(USAGE, f"upto={upto} must be between 0 and {steps}", ti.replay, tokenizer, TEXT, upto)


def test_the_first_merges_are_the_smaller_tokenizer(texts):
    """What `vocab_sweep` and `replay` rest on: training for a smaller vocabulary stops earlier and nothing else."""
    largest = train_tokenizer(texts, 330)
    for size in (259, 260, 290, 329):
        smaller = train_tokenizer(texts, size)
        assert Tokenizer(largest.merges[: size - FIRST_MERGE]).sha256 == smaller.sha256 and smaller.vocab_size == size


# merge_tree


def test_a_tree_holds_each_merge_of_its_token(tokenizer):
    for token in range(FIRST_MERGE, tokenizer.vocab_size):
        tree = ti.merge_tree(tokenizer, token)
        leaves, ranks = [], []

        def walk(node, leaves=leaves, ranks=ranks):
            if node["rank"] is None:
                assert node["left"] is node["right"] is None
                leaves.append(tokenizer.token_bytes(node["id"]))
                return
            assert node["id"] == FIRST_MERGE + node["rank"]
            ranks.append(node["rank"])
            walk(node["left"])
            walk(node["right"])

        walk(tree)
        data = tokenizer.token_bytes(token)
        assert b"".join(leaves) == data and all(len(leaf) == 1 for leaf in leaves)
        assert tree["rank"] == max(ranks) and tree["shown"] == module.visible(data)


def test_bytes_and_special_tokens_are_leaves(tokenizer):
    assert dict(ti.merge_tree(tokenizer, 0)) == {"id": 0, "shown": "<bos>", "rank": None, "left": None, "right": None}
    assert ti.merge_tree(tokenizer, 3)["left"] is None
    refused(USAGE, "outside this vocabulary", ti.merge_tree, tokenizer, tokenizer.vocab_size)


def test_a_deep_tree_is_cut_and_can_be_written():
    """A chain of 255 merges is deeper than JSON readers go."""
    letters = [bytes([97 + i % 26, 65 + i // 26]) for i in range(200)]
    data = b"".join(letters)
    chain = Tokenizer((data[: i + 1], data[i + 1 : i + 2]) for i in range(250))
    tree = ti.merge_tree(chain, chain.vocab_size - 1)
    assert tree.truncated and tree.to_json()
    assert ti.merge_tree(chain, FIRST_MERGE + 50).truncated is None


# vocab_sweep


def test_a_sweep_is_what_training_each_size_gives(run, texts):
    rows = ti.vocab_sweep(run, [300, 259, 310])["rows"]
    held_out = texts[110:]
    for row, size in zip(rows, (300, 259, 310), strict=True):
        own = train_tokenizer(texts[:110], size)
        tokens = sum(len(own.encode(text)) for text in held_out)
        assert (row["asked"], row["vocab_size"], row["tokens"]) == (size, size, tokens)
        assert row["bytes_per_token"] == sum(len(text.encode()) for text in held_out) / tokens
    assert rows[1]["bytes_per_token"] == 1.0
    assert "".join(rows[0]["pieces_example"]).replace("·", " ").replace("¶", "\n") == held_out[0][:80]


def test_a_sweep_of_another_text_counts_on_its_end(run):
    text = "one two three four five six seven eight nine ten. " * 40 + "zzz zzz zzz"
    swept = ti.vocab_sweep(run, [259, 280, 8192], text)
    asked, got = [row["asked"] for row in swept["rows"]], [row["vocab_size"] for row in swept["rows"]]
    assert asked == [259, 280, 8192] and got[:2] == [259, 280] and 280 < got[2] < 400  # there is no more to learn
    assert (
        text.encode().endswith(swept["example"][:20].encode()) or swept["example"][:80] in text[len(text) * 8 // 10 :]
    )
    assert len(text) // 10 <= swept["bytes"] <= len(text) // 10 + 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(([],), "1 to 12"), (([258],), "259"), (([1 << 20],), "65536"), (([300], "x"), "too short"),
     (([300], " \n "), "empty"), (([300], "a" * 1_000_001), "1,000,001 bytes")],
)  # fmt: skip
def test_sweeps_that_cannot_be(run, arguments, words):
    with pytest.raises(ValueError, match=words):
        ti.vocab_sweep(run, *arguments)


# corpus_stats


def test_the_figures_of_a_run_are_those_of_its_text(run, texts):
    found = ti.corpus_stats(run)
    whole = "".join(texts)
    assert (found["documents"], found["bytes"], found["characters"]) == (120, len(whole.encode()), len(whole))
    assert found["train_documents"] == 110 and found["val_bytes"] == sum(len(t.encode()) for t in texts[110:])
    assert found["bytes"] == found["train_bytes"] + found["val_bytes"]
    assert sum(entry["bytes"] for entry in found["kinds"]) == found["bytes"]
    assert found["longest_document"] == max(len(text.encode()) for text in texts)
    assert found["samples"][0] == texts[0][:200] and found["samples"][2] == texts[119][:200]
    words = [word.lower() for text in texts for word in text.replace(".", " ").split()]
    assert (found["words"], found["distinct_words"]) == (len(words), len(set(words)))
    top = found["top_words"]
    assert len(top) == 20 and top[0] == {"word": "the", "count": words.count("the")}
    assert [entry["count"] for entry in top] == sorted((entry["count"] for entry in top), reverse=True)


def test_a_validation_document_copied_into_the_training_text_is_a_leak(run, texts, tmp_path, tokenizer):
    """E8, page 2: copying one validation document into train raises the leak count by one."""
    text = documents_text()
    before = ti.corpus_stats(run, text, val_fraction=0.2)
    assert (before["leaks"], before["duplicates"]) == (0, 0) and before["val_documents"] >= 10
    leaks = [ti.corpus_stats(run, documents_text(copies=[i]), val_fraction=0.2) for i in range(60)]
    # a copy of a training document is a duplicate, and no leak
    assert [found["leaks"] for found in leaks].count(1) == before["val_documents"]
    assert [found["leaks"] for found in leaks].count(0) == before["train_documents"]
    assert all(found["duplicates"] == 1 and found["documents"] == 61 for found in leaks)
    assert all(found["val_documents"] == before["val_documents"] for found in leaks)

    known = ti.corpus_stats(run)["leaks"]  # the same for the documents of a run, whose split is as it is
    ids = [tokenizer.encode_documents(part) for part in ([*texts[:110], texts[117]], texts[110:])]
    leaking = create(tmp_path / "leaking", run.config, tokenizer, {}, run.facts, *ids)
    assert ti.corpus_stats(leaking)["leaks"] == known + 1


def test_documents_that_stand_twice_are_counted_once_each(run):
    found = ti.corpus_stats(run, documents_text(copies=[3, 3, 5]))
    assert found["duplicates"] == 2 and found["documents"] == 63
    assert {e["text"][:9]: e["times"] for e in found["duplicate_examples"]} == {"Story 003": 3, "Story 005": 2}


def test_seed_and_share_change_the_split(run):
    text = documents_text()
    shares = [ti.corpus_stats(run, text, val_fraction=share)["val_bytes"] for share in (0.1, 0.3)]
    assert shares[0] * 2 < shares[1]
    split = {seed: ti.corpus_stats(run, split_seed=seed) for seed in (0, 1)}
    assert {found["documents"] for found in split.values()} == {120}
    assert all(found["val_documents"] > 5 for found in split.values())


def test_a_text_that_cannot_be_used_is_refused(run):
    for text, words in (
        ("", "empty"),
        ("x" * 1_000_001, "1,000,001"),
        ("a\0b" * 99, "text"),
        ("\ud800", "half of a character"),
    ):
        with pytest.raises(ValueError, match=words):
            ti.corpus_stats(run, text)


def test_a_long_text_is_cut_at_a_document(run, texts, monkeypatch):
    monkeypatch.setattr(corpora, "MOST_TOKENS", 300)
    found = ti.corpus_stats(run)
    some, rule = corpora.documents(run, "train")
    assert some == texts[: len(some)] and 0 < len(some) < 20 and "first 300 tokens" in rule
    assert found.truncated == rule


# what all of them return


CALLS = {
    "tokenize": ["The fox"], "replay": ["The fox", 5], "merge_tree": [270], "vocab_sweep": [[259, 300]],
    "corpus_stats": [],
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_python_line_gives_the_same_bytes(run, name):
    function = getattr(ti, name)
    result = function(run, *CALLS[name])
    assert str(run.folder) in result.python
    assert eval(result.python, {"ti": ti}).to_json() == result.to_json()
    assert function(open_run(run.folder)[0], *CALLS[name]).to_json() == result.to_json()
    assert function(run.folder.as_posix(), *CALLS[name]).to_json() == result.to_json()


def test_arguments_are_read_by_their_annotations():
    assert arguments_of(ti.replay, {"text": "7", "upto": "7"}) == {"text": "7", "upto": 7}
    assert arguments_of(ti.vocab_sweep, {"sizes": "[300, 400]"})["sizes"] == [300, 400]
    assert arguments_of(ti.corpus_stats, {"text": "12", "val_fraction": "0.2"}) == {"text": "12", "val_fraction": 0.2}


def test_a_tokenizer_is_looked_at_without_torch(run):
    """A page on tokens, or `tinygpt inspect tokens`, must not wait seconds for torch."""
    code = (
        "import sys, tinygpt.inspect as ti\n"
        f"m = {run.folder.as_posix()!r}\n"
        "ti.tokenize(m, 'fox'); ti.replay(m, 'fox', 3); ti.merge_tree(m, 270)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_long_texts_are_cut_by_a_rule(tokenizer):
    text = "x" * (module.MOST_PIECES + 1)
    for result in (ti.tokenize(tokenizer, text), ti.replay(tokenizer, text, 0)):
        assert len(result["pieces"]) == module.MOST_PIECES and result.truncated == "The first 4,000 of 4,001 pieces."
    assert ti.tokenize(tokenizer, text)["summary"]["tokens"] == module.MOST_PIECES + 1
    assert "The first 4,000" in module.render(ti.tokenize(tokenizer, text))
