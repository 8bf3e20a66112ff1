"""Reading: every kind of file gives the documents its docstring promises, or one sentence and an exit code."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
import stat
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinygpt.corpus import Corpus, documents_digest, encodings, files, load
from tinygpt.corpus.named import NAMES
from tinygpt.errors import BAD_INPUT, IO_ERROR, PICKLE_SUFFIXES, UNSAFE, USAGE, UserError

STORY = "Once upon a time there was a cat.\n  It slept all day.\n\nThe end."
SECOND = "Another day, another dog.\nIt barked."


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def documents(*sources: Path | str, **options) -> list[str]:
    """What was read, without the split."""
    return load(sources, val_fraction=0, **options).train


def refusal(*sources: Path | str, **options) -> tuple[int, str]:
    with pytest.raises(UserError) as caught:
        load(sources, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 20 and message.endswith(".") and not message.endswith("..")
    return caught.value.exit_code, message


def parquet(columns: dict[str, list]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    out = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), out)
    return out.getvalue()


def zipped(entries: dict[str, bytes | str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


# --- documents of text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", ["one"]),
        ("a\n\nb", ["a\n\nb"]),  # one empty line is a paragraph, not a document
        ("a\n\n\nb", ["a", "b"]),
        ("\n\n\n  a\n\n\n\n\nb\n\n\n\n", ["  a", "b"]),
        ("a\n<|endoftext|>\nb\n\n\nc\n<|endoftext|>\n", ["a", "b\n\n\nc"]),  # marks beat empty lines
        ("<|endoftext|>\na\n<|endoftext|>\n\n<|endoftext|>\nb", ["a", "b"]),
        ("a <|endoftext|>\n<|endoftext|> b\n", ["a <|endoftext|>\n<|endoftext|> b"]),  # only a whole line counts
        ("a\n \n\n\n\x0c\n\n\nb", ["a\n ", "b"]),  # white space alone is no document
    ],
)
def test_text_documents(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert documents(write(tmp_path / "a.txt", text)) == expected


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_kept_line_ends_do_not_change_what_a_document_is(tmp_path: Path, line_end: str) -> None:
    # The bug: \r\n counted as two line ends, so that each paragraph became a document.
    for text in ("a\nb\n\nc\n\n\nd\n", "a\nb\n\nc\n<|endoftext|>\nd\n"):
        path = write(tmp_path / "a.txt", text.replace("\n", line_end))
        assert documents(path) == ["a\nb\n\nc", "d"]
        assert "newlines=keep keeps them" in load([path], val_fraction=0).notices[0]  # as it is typed for train
        assert documents(path, newlines="keep") == [line_end.join(["a", "b", "", "c"]), "d"]


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", "a\n<|endoftext|>\n\n<|endoftext|>\nb\n<|endoftext|>\n")
    assert load([text]).report["empty_removed"] == 1  # the end of the file is no empty document
    rows = write(tmp_path / "a.jsonl", '"x"\n""\n"\\n\\n"\n\n"y"\n')
    assert load([rows]).report["empty_removed"] == 2


# --- encodings


@pytest.mark.parametrize(
    ("data", "encoding", "notices"),
    [
        (STORY.encode(), "utf-8", 0),
        (b"\xef\xbb\xbf" + STORY.encode(), "utf-8", 1),
        (STORY.encode("utf-16"), "utf-16", 1),
        (STORY.encode("utf-32"), "utf-32", 1),
        (STORY.encode("utf-16-le"), "utf_16_le", 1),
        (STORY.encode("utf-16-be"), "utf_16_be", 1),
        (STORY.replace("\n", "\r\n").encode(), "utf-8", 1),
        (STORY.replace("\n", "\r").encode(), "utf-8", 1),
        (b"\xff\xfe" + STORY.replace("\n", "\r\n").encode("utf-16-le"), "utf-16", 2),
    ],
)
def test_one_text_in_any_form_gives_the_same_documents(
    tmp_path: Path, data: bytes, encoding: str, notices: int
) -> None:
    corpus = load([write(tmp_path / "a.txt", data)], val_fraction=0)
    assert documents_digest(corpus.train) == documents_digest([STORY])
    assert corpus.report["sources"][0]["encoding"] == encoding
    assert len(corpus.notices) == notices and all("a.txt" in notice for notice in corpus.notices)
    assert all(notice.endswith(".") for notice in corpus.notices)


FRENCH = (
    "Le café était fermé, mais l’élève a mangé une crêpe à la fenêtre. C'était déjà l'été, où les âmes naïves rêvent."
)
GERMAN = "Die Größe des Gebäudes überraschte die Gäste. „Schön“, sagten die Mädchen fröhlich."
ENGLISH = "He said “I don’t know” — and left… It was the dog’s bone that cost £5."
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Byla jednou jedna holčička a žila v lese."
POLISH = "Dawno temu żyła mała dziewczynka, która miała czerwony kapturek. Poszła do lasu łąką i zgubiła się."
RUSSIAN = "Жил-был у бабушки серенький козлик. Бабушка козлика очень любила. Вздумалось козлику в лес погуляти."
TOLSTOY = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
PUSHKIN = "Мой дядя самых честных правил, когда не в шутку занемог, он уважать себя заставил."
GREEK = "Μια φορά κι έναν καιρό ήταν ένα μικρό κορίτσι που ζούσε στο δάσος με τη γιαγιά της."
TURKISH = "Bir zamanlar ormanda yaşayan küçük bir kız vardı. Büyükannesi ona kırmızı bir şapka verdi."
JAPANESE = "むかしむかし、あるところに、おじいさんとおばあさんがいました。おじいさんは山へしばかりに行きました。"
CHINESE = "从前有一个小女孩，她住在森林里。她每天都去看望她的奶奶。有一天，她遇到了一只狼。"
KOREAN = "옛날 옛적에 작은 마을에 한 소녀가 살았습니다. 소녀는 매일 할머니를 찾아갔습니다."
PAGE = "She walked down the road and met a friend who told her a long story about the sea.\n" * 40

CERTAIN = [
    (FRENCH, "cp1252"),
    (GERMAN, "cp1252"),
    (ENGLISH, "cp1252"),
    ("café", "cp1252"),
    ("Größe", "cp1252"),
    (PAGE + "The naïve fiancé paid £5 for the façade.", "cp1252"),
    (PAGE + "The señor of Straße and Århus saw the œuvre at the façade, ate smørrebrød, paid £5.", "cp1252"),
    (PAGE + "A naïve idea.", "cp1252"),  # so little beyond ASCII is English, not Czech
    (CZECH, "cp1250"),
    (POLISH, "cp1250"),
    (POLISH, "iso8859_2"),
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8_r"),
    (GREEK, "cp1253"),
    (TURKISH, "cp1254"),
    (JAPANESE, "cp932"),
    (JAPANESE, "euc_jp"),
    (CHINESE, "gb18030"),
    (KOREAN, "cp949"),
    *((text, codec) for text in (FRENCH, RUSSIAN, JAPANESE, CHINESE, KOREAN) for codec in ("utf_16_le", "utf_16_be")),
]


@pytest.mark.parametrize("copies", [1, 60])
@pytest.mark.parametrize(("text", "encoding"), CERTAIN)
def test_detection_when_certain_gives_exactly_the_text(tmp_path: Path, text: str, encoding: str, copies: int) -> None:
    text = "\n".join([text] * copies)
    corpus = load([write(tmp_path / "notes.txt", text.encode(encoding))], val_fraction=0)
    assert corpus.train == [text]
    (notice,) = corpus.notices
    assert notice.startswith(f"{tmp_path / 'notes.txt'}: read as ") and "encoding=cp1252" in notice


def test_detection_looks_far_behind_the_start_of_one_long_line(tmp_path: Path) -> None:
    text = "word " * 20_000 + POLISH * 100
    assert documents(write(tmp_path / "a.txt", text.encode("cp1250"))) == [text]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("naïve idea", "cp1252"),  # in cp1250 a Czech naďve
        ("ü", "cp1252"),
        ("café", "cp850"),  # in cp1252 caf‚
        ("привет", "cp1251"),  # six letters say little
        ("Schöne Mädchen über Gräben.", "cp850"),
        ("Quel âge a l'élève ? Où est la fenêtre ?", "cp437"),
        ("Où est l'élève ? À la fenêtre, déjà.", "mac_roman"),
        ("היה היתה פעם ילדה קטנה שגרה ביער עם סבתא שלה.", "cp1255"),
        ("كان يا ما كان في قديم الزمان", "cp1256"),
        ("Mężczyzna żył w łodzi", "cp852"),
    ],
)
def test_uncertain_or_unknown_encodings_are_refused_with_offset_and_hint(
    tmp_path: Path, text: str, encoding: str
) -> None:
    # The bug: charset-normalizer's best guess alone turns these into mojibake.
    data = text.encode(encoding)
    path = write(tmp_path / "notes.txt", data)
    code, message = refusal(path)
    first = next(i for i, byte in enumerate(data) if byte > 127)
    assert code == BAD_INPUT and f"byte 0x{data[first]:02X} at offset {first}" in message
    assert "encoding=cp1252" in message
    assert documents(path, encoding=encoding) == [text]


def test_detection_never_gives_another_text_than_the_one_written() -> None:
    """Slices of every sample, in every listed encoding that holds it: the text itself, or a refusal."""
    latin = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2", "iso8859_15")
    samples = dict.fromkeys((FRENCH, GERMAN, ENGLISH, CZECH, POLISH, TURKISH), latin)
    samples |= dict.fromkeys((RUSSIAN, TOLSTOY, PUSHKIN), encodings.CYRILLIC)
    samples |= {GREEK: encodings.GREEK, JAPANESE: ("cp932", "euc_jp"), CHINESE: ("gb18030",), KOREAN: ("cp949",)}
    read = 0
    for text, codecs in samples.items():
        for end in range(3, len(text), 2):
            for codec in codecs:
                try:
                    data = text[:end].encode(codec)
                    got = encodings.decode(data, "x")[0]
                except (UnicodeEncodeError, UserError):
                    continue
                assert got == text[:end], codec
                read += 1
    assert read > 800


@pytest.mark.parametrize("offset", [0, 77, 5000])
def test_damaged_utf8_is_refused_not_reinterpreted(tmp_path: Path, offset: int) -> None:
    data = (FRENCH * 100).encode()
    while data[offset] > 127:
        offset += 1
    path = write(tmp_path / "a.txt", data[:offset] + b"\xe9" + data[offset:])
    code, message = refusal(path)
    assert code == BAD_INPUT and f"byte 0xE9 at offset {offset}" in message and "UTF-8 with damaged" in message


def test_given_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "na\u00efve idea".encode("cp1252"))
    assert documents(path, encoding="cp1252") == ["naïve idea"]
    assert documents(path, encoding="cp1250") == ["naďve idea"]  # the user's word counts
    code, message = refusal(path, encoding="cp1225")
    assert code == USAGE and "did you mean" in message
    assert refusal(path, encoding="rot13")[0] == USAGE
    code, message = refusal(path, encoding="utf-8")
    assert code == BAD_INPUT and "offset 2" in message
    bom = write(tmp_path / "b.txt", b"\xef\xbb\xbfhello")
    assert documents(bom, encoding="utf-8") == ["hello"]


# --- what is no text


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"%PDF-1.7\nhello", "PDF"),
        (b"\x7fELF" + bytes(60), "program"),
        (b"PK\x03\x04" + b"a" * 40, "zip"),
        (b"\x80\x04\x95abc", "pickle"),
        (b"hello\0world, this is odd", "NUL byte at offset 5"),
        (bytes(range(256)) * 10, "NUL"),
        (b"\x01\x02\x03\x04abc", "control characters"),
        (random.Random(0).randbytes(5000), "not"),
    ],
)
def test_binary_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    code, message = refusal(write(tmp_path / "a.txt", data))
    assert code == BAD_INPUT and word in message


@pytest.mark.parametrize("name", ["model.PT", "a.pkl.gz", *(f"x{suffix}" for suffix in PICKLE_SUFFIXES)])
def test_pickles_exit_77_whatever_is_inside(tmp_path: Path, name: str) -> None:
    data = gzip.compress(b"text") if name.endswith(".gz") else b"harmless text"
    code, message = refusal(write(tmp_path / name, data))
    assert code == UNSAFE and name in message


def test_missing_file_names_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "stories.txt", STORY)
    code, message = refusal(tmp_path / "storeis.txt")
    assert code == USAGE and "did you mean stories.txt" in message
    assert refusal(tmp_path / "nowhere" / "a.txt")[0] == USAGE
    assert refusal("a\0b.txt")[0] == USAGE
    for name in NAMES:  # the bug: a name of a corpus was no more than a missing file
        assert f"'tinygpt corpus {name} -o {name}.txt' writes it" in refusal(name)[1]
    assert refusal("once upon a time " * 400)[0] == IO_ERROR  # too long for a file name


def test_no_text_at_all(tmp_path: Path) -> None:
    assert "empty" in refusal(write(tmp_path / "a.txt", ""))[1]
    code, message = refusal(write(tmp_path / "b.txt", "\n\r\n\n"))
    assert code == BAD_INPUT and "only empty lines" in message
    assert refusal(write(tmp_path / "c.txt", b"\xef\xbb\xbf"))[0] == BAD_INPUT
    (tmp_path / "folder").mkdir()
    code, message = refusal(tmp_path / "folder")
    assert code == BAD_INPUT and ".jsonl" in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        code, message = refusal(path)
        assert code == BAD_INPUT and "use -" in message


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", STORY)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything, so the refusal is made up
        real = Path.open

        def refuse(self: Path, *args, **options):
            if self == path:
                raise PermissionError(13, "Permission denied")
            return real(self, *args, **options)

        monkeypatch.setattr(Path, "open", refuse)
    for source in (path, tmp_path):
        code, message = refusal(source)
        assert code == IO_ERROR and "Permission denied" in message and "a.txt" in message


# --- rows


def test_jsonl_fields(tmp_path: Path) -> None:
    lines = [
        {"text": STORY, "content": "no"},
        {"id": 1, "content": "two\u2028lines"},
        {"Story": "three", "story": "the first of equal names counts"},
        "four\r\nfive",
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert documents(path) == [STORY, "two\u2028lines", "three", "four\nfive"]
    unescaped = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert documents(write(tmp_path / "b.jsonl", unescaped)) == documents(path)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"text": "a"', "line 3 is not JSON"),
        ("[" * 100_000, "line 3 is not JSON"),
        ("9" * 10_000, "line 3 is not JSON"),
        ('{"title": "a", "by": "b"}', "title, by"),
        ('{"text": 5}', "holds int"),
        ("null", "holds NoneType"),
        ('["a"]', "holds list"),
        ('{"text": "\\ud83d"}', "U+D83D"),
    ],
)
def test_broken_jsonl_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    code, message = refusal(write(tmp_path / "a.jsonl", f'"one"\n\n{line}\n"four"\n'))
    assert code == BAD_INPUT and word in message


def test_csv_columns(tmp_path: Path) -> None:
    def saved(rows: list[list[str]], **options) -> Path:
        out = io.StringIO()
        csv.writer(out, **options).writerows(rows)
        return write(tmp_path / "a.csv", out.getvalue())

    long = "word " * 60_000  # longer than csv's own field limit
    limit = csv.field_size_limit()
    assert documents(saved([["id", "Text"], ["1", STORY], ["2", ""], ["3", long]])) == [STORY, long]
    assert csv.field_size_limit() == limit
    assert documents(saved([["body", "story"], ["no", "yes"]])) == ["yes"]
    assert documents(saved([["id", "text"], ["1", "a, b; c"]], delimiter=";")) == ["a, b; c"]
    corpus = load([saved([["poem"], ["one"], ["two"]])], val_fraction=0)
    assert corpus.train == ["one", "two"] and "'poem'" in corpus.notices[-1]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("title,author\na,b\n", "title, author"),
        ("text\nhello, world\n", "more fields"),
        ('id,text\n1,"never closed\n2,b\n', "not CSV"),
    ],
)
def test_broken_csv(tmp_path: Path, text: str, word: str) -> None:
    code, message = refusal(write(tmp_path / "a.csv", text))
    assert code == BAD_INPUT and word in message


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", parquet({"id": [1, 2, 3], "text": [STORY, None, SECOND]}))
    corpus = load([path], val_fraction=0)
    assert corpus.train == [STORY, SECOND] and corpus.report["empty_removed"] == 1
    assert "id, n" in refusal(write(tmp_path / "b.parquet", parquet({"id": [1], "n": [2]})))[1]
    assert "holds int" in refusal(write(tmp_path / "c.parquet", parquet({"text": [7]})))[1]
    assert "parquet table" in refusal(write(tmp_path / "d.parquet", b"PAR1 nonsense"))[1]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in refusal(path)[1]


# --- archives, folders, standard input


def test_gz_is_its_inner_kind(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt.gz", gzip.compress(STORY.encode("utf-16")))
    rows = write(tmp_path / "b.jsonl.gz", gzip.compress(json.dumps({"text": SECOND}).encode()))
    corpus = load([text, rows], val_fraction=0)
    assert corpus.train == [STORY, SECOND]
    assert [source["kind"] for source in corpus.report["sources"]] == ["text", "jsonl"]
    assert corpus.report["sources"][0]["bytes"] == text.stat().st_size
    whole = gzip.compress(random.Random(0).randbytes(500).hex().encode())
    for data in (b"no gzip", whole[: len(whole) // 2], whole[:-4] + b"abcd"):
        code, message = refusal(write(tmp_path / "c.txt.gz", data))
        assert code == BAD_INPUT and "gzip" in message


def test_zip(tmp_path: Path) -> None:
    entries = {
        "b.txt": STORY,
        "a/x.jsonl": '"row"',
        "../../evil.txt": "evil",
        "__MACOSX/b.txt": "resource fork",
        ".hidden.txt": "hidden",
        "image.png": b"\x89PNG\r\n\x1a\n",
        "inner.zip": zipped({"c.txt": "inner"}),
        "empty.txt": "",
    }
    path = write(tmp_path / "in" / "a.zip", zipped(entries))
    corpus = load([path], val_fraction=0)
    assert corpus.train == ["evil", "row", STORY]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "in"]  # nothing is unpacked to disk
    said = " ".join(corpus.notices)
    assert all(name in said for name in ("image.png", "inner.zip", ".hidden.txt", "empty.txt"))
    assert "holds no text" in refusal(write(tmp_path / "b.zip", zipped({"a.png": b"\x89PNG\r\n"})))[1]
    whole = path.read_bytes()
    for data in (b"no zip", whole[:100], whole.replace(b"PK\x03\x04", b"PK\x03\x05", 1)):
        code, message = refusal(write(tmp_path / "c.zip", data))
        assert code == BAD_INPUT and "zip archive" in message


def test_encrypted_zip_is_one_sentence(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": STORY}))
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flag] |= 1
    code, message = refusal(write(tmp_path / "a.zip", bytes(data)))
    assert code == BAD_INPUT and "encrypted" in message


def test_unpacked_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100_000)
    zeros = b"0" * 60_000
    bomb = zipped({"a.txt": zeros, "b.txt": zeros})
    assert len(bomb) < 1000
    folder = tmp_path / "folder"
    write(folder / "a.txt", zeros)
    write(folder / "b.txt", zeros)
    for path in (
        write(tmp_path / "a.zip", bomb),
        write(tmp_path / "a.txt.gz", gzip.compress(zeros * 2)),
        write(tmp_path / "a.txt", zeros * 2),
        folder,
    ):
        code, message = refusal(path)
        assert code == BAD_INPUT and "100,000 bytes" in message
    write(tmp_path / "models" / "large.pt", zeros * 2)  # passed over without being read
    write(tmp_path / "models" / "a.txt", STORY)
    assert documents(tmp_path / "models") == [STORY]

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and 0 <= size <= 1_000_000, "read without a bound"
            return b"y" * size

    assert refusal("-", stdin=Endless())[0] == BAD_INPUT


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "texts"
    write(tmp_path / "outside.txt", "outside")
    write(folder / "b.txt", STORY)
    write(folder / "a" / "z.md", SECOND)
    write(folder / "c.jsonl.gz", gzip.compress(b'"row"'))
    write(folder / "notes", "no ending")
    write(folder / ".git" / "x.txt", "hidden")
    write(folder / ".DS_Store", b"\0\0\0")
    write(folder / "model.pt", "skipped, never opened")
    write(folder / "photo.jpg", b"\xff\xd8\xff\xe0")
    (folder / "link_out.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "link_folder").symlink_to(tmp_path)
    (folder / "broken.txt").symlink_to(folder / "nothing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.txt")
    monkeypatch.chdir(tmp_path)
    corpus = load(["texts"], val_fraction=0)
    assert corpus.train == [SECOND, STORY, "row", "no ending"]
    names = [source["name"] for source in corpus.report["sources"]]
    assert names == ["texts/a/z.md", "texts/b.txt", "texts/c.jsonl.gz", "texts/notes"]
    assert str(tmp_path) not in json.dumps(corpus.report)
    said = "\n".join(corpus.notices)
    for name in ("link_out.txt", "link_folder", "broken.txt", "model.pt", "photo.jpg"):
        assert name in said
    assert ("pipe.txt" in said) == hasattr(os, "mkfifo")
    write(folder / "bad.txt", b"\x01\x02\x03")  # a text by its name that is none is not passed over silently
    assert "bad.txt" in refusal("texts")[1]


def test_runs_in_a_folder_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug: a second `tinygpt train .` learnt from the first one's own files, or could not read them."""
    monkeypatch.chdir(tmp_path)
    for run in ("a", "b"):
        write(Path("runs", run, "config.json"), "{}")
        write(Path("runs", run, "tokenizer.json"), "{}")
        write(Path("runs", run, "data", "val.txt"), "from the run")
    write(Path("only_config", "config.json"), "half of a run is text")
    write(Path("a.txt"), STORY)
    corpus = load(["."], val_fraction=0)
    assert corpus.train == [STORY, "half of a run is text"]
    assert corpus.notices == ["runs/a, runs/b: skipped, a model."]
    code, message = refusal("runs/a")
    assert code == BAD_INPUT and message.startswith("runs/a is a model, not text; name a text")
    assert "holds no text file" in refusal("runs")[1]


def test_many_notices_become_one(tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path / "texts" / f"{number:02}.txt", f"Story {number}\r\nends.\r\n")
    (notice,) = load([tmp_path / "texts"], val_fraction=0).notices
    assert "50 files" in notice and "00.txt" in notice and len(notice) < 200 + len(str(tmp_path))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load(["-"], val_fraction=0, stdin=io.BytesIO(b"a\n\n\nb"))
    assert corpus.train == ["a", "b"] and corpus.report["sources"][0]["name"] == "standard input"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from the pipe")))
    assert documents("-") == ["from the pipe"]
    assert "empty" in refusal("-", stdin=io.BytesIO())[1]
    assert refusal("-", "-", stdin=io.BytesIO(b"text"))[0] == USAGE


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\x1b[31m\n\xff.txt")
    corpus = load([write(tmp_path / name, STORY + "\r\n")])
    stored = json.dumps(corpus.report, ensure_ascii=False).encode()  # a lone surrogate would raise here
    assert b"\x1b" not in stored and "\n" not in corpus.notices[0]


def test_long_lines_and_awkward_shapes_take_no_long_time(tmp_path: Path) -> None:
    """Guards against quadratic patterns: each of these took minutes with one, and takes under a second."""
    shapes = {
        "plain": b"word " * 2_000_000,
        "one line of 50 MB": b"a" * 50_000_000,
        "late accent": b"word " * 2_000_000 + "café".encode("cp1252"),
        "line ends": b"\n\r" * 2_000_000 + b"x",
        "marks": b"<|endoftext|>" * 500_000,
        "controls": (b"ab\x01" * 30 + b"c" * 2000) * 3000,
    }
    for name, data in shapes.items():
        start = time.perf_counter()
        documents(write(tmp_path / "a.txt", data))
        assert time.perf_counter() - start < 20, name


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.sampled_from([0, 1, 2, 10, 1000]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(max_size=60).map(lambda text: text.encode("utf-16", "surrogatepass")),
        st.text(alphabet="ab \n\r\"',{}[]\\:éß€", max_size=300).map(lambda text: text.encode("cp1252")),
    ),
    ending=st.sampled_from([".txt", ".jsonl", ".csv", ".parquet", ".gz", ".zip", ".txt.gz", ".xyz", ""]),
    newlines=st.sampled_from(["lf", "keep"]),
)
@example(data=b"\xff\xfe\x00\xd8", ending=".txt", newlines="lf")
@example(data=b"\xef\xbb\xbf\xef\xbb\xbf\n", ending=".csv", newlines="keep")
@example(data=b"\n" * 1000, ending=".txt", newlines="lf")
def test_any_bytes_give_documents_or_a_sentence(tmp_path: Path, data: bytes, ending: str, newlines: str) -> None:
    path = write(tmp_path / f"any{ending}", data)
    try:
        corpus = load([path], newlines=newlines)
    except UserError as error:
        assert error.exit_code == BAD_INPUT and "\n" not in str(error)
        return
    assert all(notice.endswith(".") for notice in corpus.notices)
    assert corpus.train and all(d.strip() and d == d.strip("\r\n") for d in [*corpus.train, *corpus.val])
    json.dumps(corpus.report, allow_nan=False, ensure_ascii=False).encode()


def test_nothing_is_opened_for_writing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", STORY)
    path.chmod(stat.S_IRUSR)
    before = path.stat()
    documents(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


# --- texts too long for memory


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text counts as long, and a block is a few characters."""
    monkeypatch.setattr(files, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(files, "BLOCK_BYTES", 5)
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 3)


def split_whole(text: str) -> list[str]:
    """The rule of the module docstring, on the whole text at once."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pieces = re.split(r"(?m)^<\|endoftext\|>$", text)
    if len(pieces) == 1:
        pieces = re.split("\n{3,}", text)
    return [piece.strip("\n") for piece in pieces if piece.strip()]


PIECES = st.lists(
    st.sampled_from(["a", "bé", " ", "\n", "\n\n\n", "\r\n", "\r", "\n<|endoftext|>\n", "<|endoftext|>", "x" * 9])
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=PIECES.map("".join), newlines=st.sampled_from(["lf", "keep"]))
@example(text="a\r\n\r\n\r\nb", newlines="lf")
@example(text="\n\n\na\n<|endoftext|>\n\n<|endoftext|>\n", newlines="lf")
def test_a_long_text_gives_what_a_short_one_gives(tmp_path: Path, text: str, newlines: str) -> None:
    path = write(tmp_path / "a.txt", text)

    def outcome() -> Corpus | str:
        try:
            return load([path], newlines=newlines)
        except UserError as error:
            return str(error)

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        streamed.__wrapped__(patch)
        parts = outcome()
    if isinstance(whole, str) or isinstance(parts, str):
        assert whole == parts
        return
    assert (whole.train, whole.val, whole.report) == (parts.train, parts.val, parts.report)
    if newlines == "lf":
        assert set(parts.train) | set(parts.val) == set(split_whole(text))


@pytest.mark.usefixtures("streamed")
def test_every_kind_of_long_file(tmp_path: Path) -> None:
    text = f"{STORY}\n<|endoftext|>\n{SECOND}\n"
    assert documents(write(tmp_path / "a.txt", text)) == [STORY, SECOND]
    assert documents(write(tmp_path / "a.txt.gz", gzip.compress(text.encode()))) == [STORY, SECOND]
    assert documents(write(tmp_path / "a.zip", zipped({"a.txt": text, "b.md": "third"}))) == [STORY, SECOND, "third"]
    assert documents("-", stdin=io.BytesIO(text.encode())) == [STORY, SECOND]
    rows = "".join(json.dumps({"text": document}) + "\r\n" for document in (STORY, SECOND))
    assert documents(write(tmp_path / "a.jsonl", rows)) == [STORY, SECOND]
    table = f'id,text\r\n1,"{STORY}"\r\n2,"{SECOND}"\r\n'
    assert documents(write(tmp_path / "a.csv", table)) == [STORY, SECOND]
    marked = load([write(tmp_path / "b.txt", b"\xef\xbb\xbf" + text.encode())], val_fraction=0)
    assert marked.train == [STORY, SECOND] and "byte order mark" in marked.notices[0]


@pytest.mark.usefixtures("streamed")
def test_a_long_text_that_is_not_utf8_is_converted_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    french = write(tmp_path / "a.txt", FRENCH.encode("cp1252"))
    assert documents(french) == [FRENCH] and documents(french, encoding="cp1252") == [FRENCH]
    monkeypatch.setattr(files, "MAX_CONVERTED_BYTES", 20)
    for options, why in (({}, "byte 0xE9 at offset 6"), ({"encoding": "cp1252"}, "encoding=cp1252 is asked for")):
        code, message = refusal(french, **options)
        assert code == BAD_INPUT and why in message and "only up to 20 bytes are converted" in message
    assert documents(write(tmp_path / "b.txt", STORY)) == [STORY]  # UTF-8 has no such limit
    code, message = refusal(write(tmp_path / "c.txt", b"%PDF-1.7" + b"x" * 99))
    assert code == BAD_INPUT and "a PDF document" in message


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.text(max_size=9).map(lambda t: t.encode()[:-1])
)
@example("é".encode()[:1])
@example(b"ab\xc3\x28")
def test_block_by_block_a_text_is_utf8_as_it_is_at_once(data: bytes) -> None:
    def at_once() -> bool:
        try:
            return b"\0" not in data and encodings.decode(data, "a")[1] == "utf-8"
        except UserError:
            return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BLOCK_BYTES", 3)
        try:
            why = encodings.not_utf8(io.BytesIO(data), "a")
        except UserError as error:
            why = str(error)  # a binary format
    assert (why == "") == at_once()
    if "at offset" in why and "NUL" not in why:
        with pytest.raises(UnicodeDecodeError) as caught:
            data.decode()
        assert why == f"byte 0x{data[caught.value.start]:02X} at offset {caught.value.start}"


@pytest.mark.usefixtures("streamed")
def test_a_document_too_long_for_memory_is_cut_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_CHARS", 100)
    lines = [f"line number {i}" for i in range(60)]
    path = write(tmp_path / "a.txt", "\n".join(lines) + "\n\n\n" + "last")
    corpus = load([path], val_fraction=0)
    assert "\n".join(corpus.train).split("\n") == [*lines, "last"]  # nothing lost, no line cut
    assert len(corpus.train) > 8 and max(map(len, corpus.train)) <= 100
    cut = "were cut, at the end of a line if they had any"
    assert corpus.notices == [f"{path}: documents of more than 100 characters {cut}."]
    short = load([write(tmp_path / "b.txt", "\n".join(lines[:6]))], val_fraction=0)
    assert len(short.train) == 1 and short.notices == []
    one_line = "".join(f"{i:04}" for i in range(300))
    assert "".join(documents(write(tmp_path / "c.txt", one_line))) == one_line
