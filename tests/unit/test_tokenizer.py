"""Does the tokenizer keep every text, every id and every file as its docstrings say?"""

import doctest
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt import tokenizer as module
from tinygpt.errors import BAD_INPUT, IO_ERROR, MISMATCH, UNSAFE, USAGE, UserError
from tinygpt.inspect import tokens as view
from tinygpt.tokenizer import (
    BOS,
    BYTE_ORDER,
    EOS,
    FIRST_MERGE,
    PAD,
    SPECIALS,
    StreamDecoder,
    Tokenizer,
    train_tokenizer,
)

STORIES = [
    "Mia had a small red boat. She put the boat on the pond, and the wind took it away.\n\n“Where is it?” said Mia.",
    "Tom didn't find the boat; he'd seen the boat near the mill. They'll look again in 1887, or in 2026!\r\n\tThe end.",
    "Лодка плыла по реке, и лодка была красная. 小船在河上，小船是红的。 Das Boot läuft über den See. 👩‍👩‍👧 🎉",
    "<bos> boat <eos> <bos> boat <eos> <pad> <|endoftext|> </s> <bos><bos><bos> ===== ===== -----     boat",
]
ODD = [
    *("", " ", "\n", "\0", "\t\t", "a\r\nb\rc\n", "   three", "end   ", " \n \n\n x", "\u3000 \u2028\u00a0\x1c\x85"),
    *("<bos>", " <eos>", "<pad><pad>", "<|endoftext|>", "</s>", "<s>", "<unk>", "[INST]", "<bo" + "s>", "＜bos＞"),
    *("👩‍👩‍👧", "🇩🇪🇫🇷", "e\u0301\u0323\u0308", "မြန်မာ", "我爱你", "שלום", "\ufeffBOM", "\uffff\U0010ffff", "Ġthe Ċ"),
    *("I'll don't 'S 's's", "x" * 5000, " " * 5000, "12345,678.90", "\\n \\x00"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(STORIES, 310)


def code_of(call, *arguments) -> int:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.exit_code


# ids


def test_the_first_ids_are_the_special_tokens_and_the_256_bytes(tokenizer):
    assert sorted(BYTE_ORDER) == list(range(256))
    assert (BOS, EOS, PAD) == (0, 1, 2) and SPECIALS == ("<bos>", "<eos>", "<pad>")
    assert [tokenizer.token_bytes(id) for id in range(FIRST_MERGE)] == [b""] * 3 + [bytes([b]) for b in BYTE_ORDER]
    assert Tokenizer([]).encode("!~ \n") == [3, 3 + 93, 3 + BYTE_ORDER.index(32), 3 + BYTE_ORDER.index(10)]


def test_n_bytes_counts_the_bytes_of_every_id(tokenizer):
    counts = tokenizer.n_bytes()
    assert counts.shape == (tokenizer.vocab_size,) and counts[:3].tolist() == [0, 0, 0]
    text = "".join(STORIES)
    assert counts[tokenizer.encode(text)].sum() == len(text.encode())


# round trip (R23)


@pytest.mark.parametrize("text", ODD + STORIES)
def test_round_trip_and_no_special_token_from_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(id >= len(SPECIALS) for id in ids)


@settings(max_examples=400, deadline=None)
@given(text=st.text())
def test_round_trip_of_random_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_round_trip_of_all_pairs_of_the_first_256_characters(tokenizer):
    for first in map(chr, range(256)):
        pairs = [first + chr(second) for second in range(256)]
        assert [tokenizer.decode(tokenizer.encode(pair)) for pair in pairs] == pairs


def test_round_trip_of_unicode_scalar_values(tokenizer):
    basic = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code <= 0xDFFF)
    beyond = "".join(map(chr, range(0x10000, 0x110000, 37)))
    for text in (basic, beyond):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_spellings_in_the_training_text_make_no_special_token():
    tokenizer = train_tokenizer(["<bos><eos><pad> <bos> <eos>" * 50], 400)
    assert min(tokenizer.encode("<bos><eos><pad> <bos>")) >= len(SPECIALS)
    assert tokenizer.decode([BOS, EOS, 2]) == ""


@pytest.mark.parametrize("text", ["\ud800", "fine until here \udc80", "\ude00\ud83d"])
def test_lone_surrogates_are_refused_everywhere(tokenizer, text):
    assert code_of(tokenizer.encode, text) == BAD_INPUT
    assert code_of(tokenizer.encode_documents, ["fine", text]) == BAD_INPUT
    assert code_of(train_tokenizer, ["fine", text]) == BAD_INPUT
    with pytest.raises(UserError, match=f"character {len(text) - 1 if text[0] == 'f' else 0} is U\\+D"):
        tokenizer.encode(text)


# documents


def test_documents_stand_between_bos_and_eos(tokenizer):
    ids = tokenizer.encode_documents(iter([*STORIES, ""]))
    expected = [id for text in [*STORIES, ""] for id in (BOS, *tokenizer.encode(text), EOS)]
    assert ids.dtype == np.int32 and ids.tolist() == expected
    assert tokenizer.encode_documents([]).tolist() == []


@pytest.mark.parametrize(("section", "portion"), [(1, 1), (2, 7), (7, 20), (40, 1 << 20)])
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab7 \n\t\r'st._\u00a0\u3000\x1cé我,", min_size=2, max_size=80))
def test_cutting_into_sections_changes_no_id(tokenizer, section, portion, text):
    whole = tokenizer._engine.encode(text, add_special_tokens=False).ids
    with mock.patch.object(module, "SECTION_CHARS", section), mock.patch.object(module, "SLICE_CHARS", portion):
        assert tokenizer.encode(text) == whole
        assert tokenizer.encode_documents([text, text]).tolist() == [BOS, *whole, EOS] * 2


def test_a_long_document_is_cut_at_all(tokenizer):
    text = STORIES[0] * 3000
    sections = list(module._sections(text))
    assert len(sections) > 3 and max(map(len, sections)) < 1.1 * module.SECTION_CHARS and "".join(sections) == text
    largest = max(sum(len(text) for _, text in batch) for batch in module._slices([text] * 20))
    assert largest < module.SLICE_CHARS + 1.1 * module.SECTION_CHARS


def test_parts_joined_are_the_whole(tokenizer, monkeypatch):
    texts = [*STORIES, "", "word " * 50]
    whole = tokenizer.encode_documents(texts)
    monkeypatch.setattr(module, "SLICE_CHARS", 40)
    parts = list(tokenizer.encode_in_parts(texts))
    assert len(parts) > len(texts) and np.array_equal(np.concatenate(parts), whole)
    assert sum(map(len, tokenizer.encode_in_parts([]))) == 0


@pytest.mark.parametrize("call", [train_tokenizer, Tokenizer([]).encode_documents])
def test_one_string_is_not_a_list_of_documents(call):
    with pytest.raises(TypeError, match="pass \\[text\\]"):
        call("a text")


# decoding


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_streamed_text_equals_the_text_decoded_at_once(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    stream = StreamDecoder(tokenizer)
    chunks = [stream.feed(id) for id in ids]
    chunks.append(stream.finish())
    assert "".join(chunks) == tokenizer.decode(ids)
    assert tokenizer.decode(ids) == tokenizer.decode_bytes(ids).decode(errors="replace")


def test_streaming_all_short_sequences_at_the_edges_of_utf8():
    plain = Tokenizer([])
    edges = bytes.fromhex("41 80 8f 90 9f a0 bf c1 c2 e0 e1 ed ef f0 f1 f4 f5 ff")
    ids = [3 + BYTE_ORDER.index(byte) for byte in edges]
    for a in ids:
        for b in ids:
            for c in ids:
                stream = StreamDecoder(plain)
                assert "".join([*map(stream.feed, (a, b, c)), stream.finish()]) == plain.decode((a, b, c))


def test_streaming_never_breaks_a_character_and_starts_again_after_finish():
    plain = Tokenizer([])
    stream = StreamDecoder(plain)
    euro = plain.encode("€")
    assert [stream.feed(id) for id in (*euro, BOS)] == ["", "", "€", ""]
    assert stream.feed(euro[0]) == "" and stream.finish() == "\ufffd"
    assert [stream.feed(id) for id in plain.encode("a€")] == ["a", "", "", "€"]


@pytest.mark.parametrize("id", [-1, 310, 10**12])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, id):
    assert tokenizer.vocab_size == 310
    for call in (tokenizer.decode, tokenizer.decode_bytes, lambda ids: StreamDecoder(tokenizer).feed(ids[1])):
        with pytest.raises(UserError, match="has 0 to 309"):
            call([5, id])


# training


def test_the_vocabulary_asked_for_is_an_upper_limit():
    assert train_tokenizer(STORIES, 300).vocab_size == 300
    assert train_tokenizer(["ab ab"], 8000).vocab_size == FIRST_MERGE + 1
    assert train_tokenizer(["abc"], 8000).vocab_size == FIRST_MERGE  # no pair occurs twice
    assert train_tokenizer([], 8000).vocab_size == FIRST_MERGE
    assert train_tokenizer([""], FIRST_MERGE).encode("a") == [3 + BYTE_ORDER.index(ord("a"))]


@pytest.mark.parametrize("vocab_size", [0, -5, 258, (1 << 20) + 1, 10**15])
def test_impossible_vocabulary_sizes_are_refused(vocab_size):
    assert code_of(train_tokenizer, ["text"], vocab_size) == USAGE
    with pytest.raises(UserError, match="259"):
        train_tokenizer(["text"], vocab_size)


def test_training_cuts_runs_on_which_the_library_would_be_quadratic():
    for character in "a 我":
        tokenizer = train_tokenizer([character * 20_000], 400)
        assert tokenizer.n_bytes().max() <= module.LONG_RUN * len(character.encode())
    run = "b" * 1000
    texts = [text for text in module._training_texts([f"a {run} c" + "\n" * 700 + "d"]) if text]
    assert "".join(texts) == f"a {run} c" + "\n" * 700 + "d"
    assert [len(text) for text in texts] == [2, 256, 256, 256, 232, 2, 256, 256, 188, 1]


def test_training_does_not_depend_on_threads_or_hash_seeds_and_loads_no_torch(tmp_path):
    script = (
        "import sys, pathlib, os\n"
        "from tinygpt.tokenizer import train_tokenizer\n"
        "import tinygpt.inspect.tokens\n"
        "assert 'torch' not in sys.modules and 'TOKENIZERS_PARALLELISM' not in os.environ\n"
        "import random; draw = random.Random(1)\n"
        "texts = [''.join(draw.choice('abcd efg\\n') for _ in range(400)) for _ in range(200)]\n"
        "train_tokenizer(texts, 900).save(pathlib.Path(sys.argv[1]))\n"
    )
    written = []
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    for seed, threads in (("0", "1"), ("77", "2"), ("5", "8")):
        path = tmp_path / f"{seed}.json"
        changed = {
            "PYTHONHASHSEED": seed,
            "RAYON_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join([".", *sys.path]),
        }
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, env=environment | changed)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2] and len(written[0]) > 10_000


# explain


def test_explain_shows_the_merges_in_order():
    tokenizer = Tokenizer([(b"h", b"e"), (b"l", b"l"), (b"he", b"ll"), (b" ", b"hell")])
    first, second, third = tokenizer.explain("hello hé")[:3]
    assert (first.id, first.data, first.start, first.end) == (FIRST_MERGE + 2, b"hell", 0, 4)
    assert first.merges == ((b"h", b"e", 0), (b"l", b"l", 1), (b"he", b"ll", 2))
    assert (second.data, second.start, second.end, second.merges) == (b"o", 4, 5, ())
    assert third.data == b" " and tokenizer.explain("") == []
    assert [merge.rank for merge in tokenizer.explain(" hell")[0].merges] == [0, 1, 2, 3]


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet="aboth <os>=\n"), st.sampled_from(ODD + STORIES)))
def test_explain_covers_the_text_and_every_merge_is_real(tokenizer, text):
    pieces = tokenizer.explain(text)
    assert [piece.id for piece in pieces] == tokenizer.encode(text)
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces)][: len(pieces)]
    for piece in pieces:
        assert text.encode()[piece.start : piece.end] == piece.data == tokenizer.token_bytes(piece.id)
        assert len(piece.merges) == len(piece.data) - 1
        for left, right, rank in piece.merges:
            assert tokenizer.token_bytes(FIRST_MERGE + rank) == left + right
        assert not piece.merges or piece.merges[-1].rank == piece.id - FIRST_MERGE


# files


def test_a_saved_tokenizer_comes_back_and_equal_ones_are_equal_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a.json")
    again = Tokenizer.load(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert again.sha256 == tokenizer.sha256 and again.vocab_size == tokenizer.vocab_size
    assert all(again.encode(text) == tokenizer.encode(text) for text in ODD + STORIES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_the_digest_ignores_layout_and_sees_every_merge(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    document = json.loads(path.read_bytes())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]  # the older spelling
    path.write_text(json.dumps(document | {"a_later_field": 1}))
    assert Tokenizer.load(path).sha256 == tokenizer.sha256
    path.write_text(json.dumps(document))
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.save(str(path))
    assert Tokenizer.load(path).sha256 == tokenizer.sha256
    ab, cd = (b"a", b"b"), (b"c", b"d")
    digests = {Tokenizer(merges).sha256 for merges in ([], [ab], [cd], [ab, cd], [cd, ab])}
    assert len(digests) == 5


def test_the_digest_is_the_same_for_ever():
    # Stored with models and data; a change would make every stored run a mismatch.
    expected = "f38eeb17dd8690e966aecb9a480e465c5f4947c7a97015d16910118d44ed3825"
    assert Tokenizer([(b"t", b"h"), (b"th", b"e")]).sha256 == expected


def change(document, *path_and_value):
    *path, last, value = path_and_value
    for key in path:
        document = document[key]
    if value is KeyError:
        del document[last]
    else:
        document[last] = value


LOWER = {"type": "Lowercase"}
PREFIX = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
NO_SPLIT = PREFIX | {"add_prefix_space": False, "use_regex": False}
OTHER_KINDS = [
    ("normalizer", LOWER),
    ("pre_tokenizer", None),
    ("pre_tokenizer", {"type": "Whitespace"}),
    ("pre_tokenizer", PREFIX),
    ("pre_tokenizer", NO_SPLIT),
    ("post_processor", {"type": "ByteLevel"}),
    ("decoder", None),
    ("decoder", {"type": "WordPiece"}),
    ("model", "type", "WordPiece"),
    ("model", "dropout", 0.1),
    ("model", "unk_token", "<pad>"),
    ("model", "byte_fallback", True),
    ("model", "ignore_merges", True),
    ("model", "continuing_subword_prefix", "##"),
    ("model", "end_of_word_suffix", "</w>"),
    ("model", "vocab", "!", 4),
    ("model", "vocab", "<bos>", KeyError),
    ("added_tokens", []),
    ("added_tokens", {"0": "<bos>"}),
    ("added_tokens", 0, "content", "<|endoftext|>"),
    ("added_tokens", 1, "special", False),
    ("added_tokens", 2, "id", 1),
]
DAMAGED = [
    ("model", KeyError),
    ("model", []),
    ("model", "vocab", KeyError),
    ("model", "vocab", [1, 2]),
    ("model", "vocab", "new", 9999),
    ("model", "merges", KeyError),
    ("model", "merges", 7),
    ("model", "merges", []),
    ("model", "merges", 0, ["t"]),
    ("model", "merges", 0, ["t", "h", "e"]),
    ("model", "merges", 0, ["€", "a"]),
    ("model", "merges", 0, [1, 2]),
    ("model", "merges", 0, ["", "a"]),
    ("model", "merges", 0, ["abc", "d"]),
    ("model", "merges", 5, None),
]


@pytest.mark.parametrize(
    ("changes", "code"),
    [*((changes, MISMATCH) for changes in OTHER_KINDS), *((changes, BAD_INPUT) for changes in DAMAGED)],
)
def test_files_of_another_kind_and_damaged_files_are_refused(tokenizer, tmp_path, changes, code):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    document = json.loads(path.read_bytes())
    change(document, *changes)
    path.write_text(json.dumps(document))
    assert code_of(Tokenizer.load, path) == code


def test_a_decoder_with_other_options_is_the_same_decoder(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    document = json.loads(path.read_bytes())
    change(document, "decoder", PREFIX)  # what tokenizers.decoders.ByteLevel() writes
    path.write_text(json.dumps(document))
    assert Tokenizer.load(path).sha256 == tokenizer.sha256


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("tokenizer.json", b"", BAD_INPUT),
        ("tokenizer.json", b"{", BAD_INPUT),
        ("tokenizer.json", b"[]", BAD_INPUT),
        ("tokenizer.json", b"\xff\xfe{}", BAD_INPUT),
        ("tokenizer.json", b"[" * 100_000, BAD_INPUT),
        ("tokenizer.json", b"\x80\x04N.", UNSAFE),
        ("tokenizer.json", b"PK\x03\x04rest", UNSAFE),
        ("tiny_llm.pt", b"{}", UNSAFE),
        ("tokenizer.PKL", b"{}", UNSAFE),
    ],
)
def test_what_is_no_tokenizer_file_is_refused(tmp_path, name, data, code):
    path = tmp_path / name
    path.write_bytes(data)
    assert code_of(Tokenizer.load, path) == code


def test_a_missing_file_is_named(tmp_path):
    assert code_of(Tokenizer.load, tmp_path / "nothing.json") == IO_ERROR


def test_merges_must_follow_from_each_other():
    for merges in ([(b"ab", b"c")], [(b"a", b"b")] * 2, [(b"a", b"b"), (b"ab", b""), (b"a", b"b")]):
        with pytest.raises(ValueError, match="does not follow"):
            Tokenizer(merges)
    spelled = [(b"<", b"b"), (b"<b", b"o"), (b"<bo", b"s"), (b"<bos", b">")]
    with pytest.raises(ValueError, match="merge 3 "):
        Tokenizer(spelled)


# inspect.tokens


def seen(shown: str) -> bytes:
    """The bytes behind `visible`'s text."""
    plain = {"t": b"\t", "r": b"\r", "\\": b"\\"}

    def one(found: re.Match) -> bytes:
        text = found[0]
        if text.startswith(("\\u", "\\U")):
            return chr(int(text[2:], 16)).encode()
        if text.startswith("\\x"):
            return bytes([int(text[2:], 16)])
        if text.startswith("\\"):
            return plain[text[1]]
        return {"·": b" ", "¶": b"\n"}.get(text, text.encode())

    parts = re.finditer(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\.|[^\\]", shown)
    return b"".join(map(one, parts))


@settings(max_examples=400, deadline=None)
@given(data=st.one_of(st.binary(), st.text().map(str.encode), st.text("\\xu0tr·¶ \n\u0301\u202e\x1b").map(str.encode)))
def test_visible_text_is_harmless_and_loses_nothing(data):
    shown = view.visible(data)
    assert seen(shown) == data
    assert not any(unicodedata.category(character)[0] in "CZ" for character in shown)
    assert not unicodedata.category((shown or "a")[0]).startswith("M")


def test_docstring_examples():
    assert doctest.testmod(view).attempted > 0 and doctest.testmod(view).failed == 0


def test_tokenize_gives_plain_data_about_every_piece(tokenizer):
    text = "The boat\n我 <bos> 🎉"
    data = view.tokenize(tokenizer, text)
    assert json.loads(json.dumps(data)) == data
    assert [piece["id"] for piece in data["pieces"]] == tokenizer.encode(text)
    assert b"".join(bytes.fromhex(piece["bytes"]) for piece in data["pieces"]) == text.encode()
    assert data["summary"]["tokens"] == len(data["pieces"]) and data["tokenizer"] == tokenizer.sha256
    boat = next(piece for piece in data["pieces"] if piece["text"] == " boat")
    assert (boat["shown"], boat["start"], boat["end"], boat["part_of"]) == ("·boat", 3, 8, "")
    assert boat["merges"][-1]["rank"] == boat["id"] - FIRST_MERGE
    assert boat["merges"][-1]["left"] + boat["merges"][-1]["right"] == "·boat"
    parts = [piece for piece in data["pieces"] if piece["part_of"] == "🎉"]
    assert "".join(piece["bytes"] for piece in parts) == "🎉".encode().hex()


def test_summary_shares_tokens_out_by_bytes():
    tokenizer = Tokenizer([(b"a", b"b"), (b" ", b"ab")])
    data = view.tokenize(tokenizer, "ab ab我7!")["summary"]
    assert (data["tokens"], data["bytes"], data["characters"]) == (7, 10, 8)
    assert data["bytes_per_token"] == 10 / 7 and data["single_byte_share"] == 5 / 7
    kinds = {entry["kind"]: (entry["bytes"], round(entry["tokens"], 9)) for entry in data["kinds"]}
    assert kinds == {
        "letters: Latin": (4, round(5 / 3, 9)),
        "letters: CJK": (3, 3.0),
        "spaces": (1, round(1 / 3, 9)),
        "digits": (1, 1.0),
        "punctuation": (1, 1.0),
    }
    assert [entry["bytes"] for entry in data["kinds"]] == [4, 3, 1, 1, 1]
    assert all(entry["bytes_per_token"] == entry["bytes"] / entry["tokens"] for entry in data["kinds"])
    empty = view.tokenize(tokenizer, "")["summary"]
    assert (empty["tokens"], empty["bytes_per_token"], empty["single_byte_share"], empty["kinds"]) == (
        0,
        None,
        None,
        [],
    )


@pytest.mark.parametrize(
    ("character", "kind"),
    [
        *(("a", "letters: Latin"), ("я", "letters: Cyrillic"), ("我", "letters: CJK"), ("の", "letters: Hiragana")),
        *(
            (" ", "spaces"),
            ("\n", "spaces"),
            ("5", "digits"),
            ("½", "digits"),
            ("!", "punctuation"),
            ("“", "punctuation"),
        ),
        *(("=", "symbols"), ("🎉", "symbols"), ("\u0301", "marks"), ("\0", "other"), ("\ue000", "other")),
    ],
)
def test_kind_of_a_character(character, kind):
    assert view.kind(character) == kind


def test_render_is_aligned_and_harmless(tokenizer):
    wide = Tokenizer([(b"\xe6", b"\x88"), (b"\xe6\x88", b"\x91")])
    lines = view.render(view.tokenize(wide, "我x")).splitlines()
    start = next(line for line in lines if "piece" in line).index("built by")
    rows = [line for line in lines if line.startswith(("0 ", "1 "))]
    assert rows[0][start - 1 :].startswith("0: \\xe6 + \\x88") and rows[1][start:] == "a single byte"
    text = "The \x1b[31mboat\x07 \u202e\r\n\t" + "=" * 300
    shown = view.render(view.tokenize(tokenizer, text))
    assert not any(unicodedata.category(character) in ("Cc", "Cf") for character in shown.replace("\n", ""))
    assert "·boat" not in shown and "\\x1b" in shown and "part of \\u202e" in shown
    assert view.LEGEND in shown and shown.encode("cp1252")
    assert view.render(view.tokenize(tokenizer, "")) == "No text, no tokens.\n"
    assert view.render(view.tokenize(wide, "x")).startswith("1 token for 1 byte: 1.00 bytes per token")


def test_a_long_piece_pushes_only_its_own_line():
    lines = view.render(view.tokenize(train_tokenizer(["-" * 400], 300), "-" * 256 + "x")).splitlines()
    assert next(line for line in lines if "piece" in line).index("built by") < 60
    assert next(line for line in lines if "-----" in line).index(": ") > 128


def test_render_wraps_long_histories():
    word = b"abcdefghijklmnopqrstuvwxyz"
    tokenizer = Tokenizer([(word[:i], word[i : i + 1]) for i in range(1, 26)])
    shown = view.render(view.tokenize(tokenizer, word.decode()))
    assert max(map(len, shown.splitlines())) <= view.WIDTH
    assert [rank for rank in range(25) if f"{rank}: {word[: rank + 1].decode()} + " not in shown] == []


def test_long_texts_of_one_kind_pass_through(tokenizer):
    draw = random.Random(3)
    for text in ("a" * 100_000, " " * 100_000, "".join(draw.choices("xyz", k=100_000)), "我" * 30_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert sum(piece.end - piece.start for piece in tokenizer.explain(text)) == len(text.encode())


def test_save_accepts_a_folder_that_is_not_there(tokenizer, tmp_path):
    path: Path = tmp_path / "runs" / "first" / "tokenizer.json"
    tokenizer.save(path)
    assert Tokenizer.load(path).sha256 == tokenizer.sha256
