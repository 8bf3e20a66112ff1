"""Bytes to text: strict UTF-8 first, then what a byte order mark says, then detection, else a refusal.

Refusing beats mojibake. charset-normalizer alone calls a French cp1252 text "cp1257, Hungarian", so it only
proposes; an encoding is *plausible* when there is a language written in it whose alphabet covers what the
text holds beyond ASCII, about as often as that language uses it, in places where letters and quotation marks
stand. When all plausible encodings give the same text, that is certain enough; when two texts remain, or
none, the file is refused with the place of the first bad byte and how to name the right encoding.

Not covered, therefore refused: Hebrew, Arabic, Thai and Vietnamese 8-bit texts, DOS and classic Mac code pages.
"""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases
from typing import BinaryIO, NamedTuple

from tinygpt.errors import BAD_INPUT, USAGE, UserError, did_you_mean

SAMPLE_BYTES = 32_768  # enough for letter statistics, and short enough to try every encoding on it
ODD_SHARE = 0.02  # of the characters beyond ASCII may be foreign to the language or stand in an odd place
BLOCK_BYTES = 1 << 20  # of a long text looked at together
CONTROL_SHARE = 0.1  # more control characters than this is not text
CONTROLS = bytes((*range(0x09), *range(0x0E, 0x20), 0x7F))

BYTE_ORDER_MARKS = {  # the longer mark first: UTF-32-LE begins like UTF-16-LE
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MARK_DROPPED = "the byte order mark at the start was dropped"
MAGIC = {
    b"\x89PNG\r\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a zip archive or an office document",
    b"\x1f\x8b": "gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!\x1a": "a RAR archive",
    b"\x7fELF": "a program",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"PAR1": "a parquet table",
    b"ID3\x03": "an MP3 recording",
    b"ID3\x04": "an MP3 recording",
    b"OggS\x00": "an Ogg recording",
    b"SQLite format 3": "a database",
}


class Language(NamedTuple):
    """Which characters beyond ASCII a language uses, and how much of its letters they are."""

    encodings: tuple[str, ...]
    letters: str  # the inside of a regular-expression character class, lower case
    least: float  # share of all letters that lie beyond ASCII
    most: float
    common: str = ""  # characters that every text of some length has ...
    common_least: float = 0.0  # ... at least this share of its letters beyond ASCII


WESTERN, CENTRAL, BALTIC = ("cp1252",), ("cp1250", "iso8859_2"), ("cp1257",)
CYRILLIC, GREEK = ("cp1251", "koi8_r", "cp866", "iso8859_5"), ("cp1253", "iso8859_7")
LANGUAGES = (
    Language(WESTERN, "ßà-öø-ÿœšž", 0.0, 0.01),  # English and other ASCII text with foreign names
    Language(WESTERN, "àâæçéèêëîïôœùûüÿ", 0.0, 0.4),  # French, and Dutch
    Language(WESTERN, "äöüßéà", 0.0, 0.4),  # German
    Language(WESTERN, "áàéèíïóòúüñç", 0.0, 0.4),  # Spanish, Catalan
    Language(WESTERN, "áâãàçéêíóôõúü", 0.0, 0.4),  # Portuguese
    Language(WESTERN, "àèéìíîòóùú", 0.0, 0.4),  # Italian
    Language(WESTERN, "åäöæøéü", 0.0, 0.4),  # Swedish, Danish, Norwegian, Finnish
    Language(WESTERN, "áéíóúýþæöð", 0.03, 0.4),  # Icelandic
    Language(CENTRAL + BALTIC, "ąćęłńóśźż", 0.02, 0.4),  # Polish
    Language(CENTRAL, "áčďéěíňóřšťúůýž", 0.08, 0.5),  # Czech
    Language(CENTRAL, "áäčďéíĺľňóôŕšťúýž", 0.06, 0.5),  # Slovak
    Language(CENTRAL, "áéíóöőúüű", 0.03, 0.4),  # Hungarian
    Language(CENTRAL, "ăâîşţ", 0.02, 0.4),  # Romanian
    Language(CENTRAL, "čćđšž", 0.01, 0.4),  # Croatian, Slovene
    Language(("cp1254",), "çğıöşüâîûİ", 0.03, 0.4),  # Turkish
    Language(BALTIC, "ąčęėįšųūž", 0.03, 0.4),  # Lithuanian
    Language(BALTIC, "āčēģīķļņšūž", 0.03, 0.4),  # Latvian
    Language(BALTIC, "äõöüšž", 0.03, 0.4),  # Estonian
    Language(CYRILLIC, "а-џґ", 0.3, 1.0, "оеаинтіс", 0.35),
    Language(GREEK, "ΐά-ώ", 0.3, 1.0, "αοιετσνηςάόίέή", 0.55),
    Language(("cp932", "euc_jp"), "぀-ヿ一-鿿々ー", 0.3, 1.0, "ぁ-ヿ", 0.25),
    Language(("gb18030", "big5"), "一-鿿", 0.3, 1.0, "的一是不了在有人我他她这這个個们們", 0.05),
    Language(("cp949",), "가-힣", 0.3, 1.0, "이다는을를의에가고하은지도", 0.1),
)
LEAST_EVIDENCE = 20  # letters that a language with `common` ones must show before it counts
EIGHT_BIT = tuple(dict.fromkeys(name for language in LANGUAGES for name in language.encodings))
SIXTEEN_BIT = ("utf_16_le", "utf_16_be")
JOINING = "’—\xad·"  # marks that stand between two letters of one word, or of two
MARKS = JOINING + "‘‚“”„•…‹›«»–€£§©®™°½¼¾×†¡¿ºª\xa0"
LOW_QUOTES = "‚„"  # they open, so no letter stands before them
ASIAN_MARKS = "\u3000-\u303f\uff00-\uff5e"


def decode(data: bytes, name: str, encoding: str | None = None) -> tuple[str, str, list[str]]:
    """The text in `data`, the encoding it is read as, and what to tell the user (sentences without the name).

    `encoding` is what the user asked for; otherwise see the module. Raises UserError: 65 when the bytes are
    no text or the encoding stays uncertain, 2 for an encoding that does not exist.
    """
    if encoding is not None:
        return _as_asked(data, name, encoding), encoding, []
    refuse_binary(data, name)
    for mark, codec in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            text = _strict(data, name, codec)
            if codec == "utf-8-sig":
                return text, "utf-8", [MARK_DROPPED]
            return text, codec, [f"read as {codec}, as its byte order mark says"]
    if b"\0" in data:
        return _detected(data, name, SIXTEEN_BIT, f"it holds a NUL byte at offset {data.index(0)}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return _detected(data, name, SIXTEEN_BIT + EIGHT_BIT, _first_bad_byte(error))
    _refuse_controls(text, name)
    return text, "utf-8", []


def not_utf8(file: BinaryIO, name: str) -> str:
    """Why a stream is no text in UTF-8, "" if it is; read block by block, so it may be longer than memory.

    Raises UserError (65) as `decode` does for a binary format.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = characters = controls = 0
    refuse_binary(file.read(max(map(len, MAGIC))), name)
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        if b"\0" in block:
            return f"it holds a NUL byte at offset {done + block.index(0)}"
        try:
            characters += len(decoder.decode(block))
        except UnicodeDecodeError as error:
            return _first_bad_byte(error, done + len(block) - len(error.object))
        controls += len(block) - len(block.translate(None, CONTROLS))
        done += len(block)
    if decoder.getstate()[0]:
        return "it ends inside a character"
    return f"{controls:,} control characters" if controls > CONTROL_SHARE * characters else ""


def refuse_binary(data: bytes, name: str) -> None:
    """UserError 65 when the first bytes are those of a well-known binary format."""
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            raise UserError(f"{name} is {what}, not text; save its text as a .txt file and use that.", BAD_INPUT)


def _refuse_controls(text: str, name: str) -> None:
    count = _count(f"[{re.escape(CONTROLS.decode())}]", text)
    if count > CONTROL_SHARE * len(text):
        message = f"{name} is not text: control characters are {count:,} of its {len(text):,}; give a text file."
        raise UserError(message, BAD_INPUT)


def _as_asked(data: bytes, name: str, encoding: str) -> str:
    try:
        b"a".decode(encoding)  # the empty string would not be looked at
    except UnicodeError:
        pass  # the codec exists
    except (LookupError, ValueError):
        raise UserError(f"'{encoding}' is no text encoding{did_you_mean(encoding, aliases)}.", USAGE) from None
    text = _strict(data, name, encoding).removeprefix("\ufeff")
    _refuse_controls(text, name)
    return text


def _strict(data: bytes, name: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not valid {encoding}: {_first_bad_byte(error)}; {_HINT}.", BAD_INPUT) from None
    except (UnicodeError, ValueError) as error:
        raise UserError(f"{name} is not valid {encoding}: {error}; {_HINT}.", BAD_INPUT) from None


_HINT = "name the right one, for example encoding=cp1252 (tinygpt corpus: --encoding cp1252)"


def _first_bad_byte(error: UnicodeDecodeError, before: int = 0) -> str:
    """`before`: bytes of the file that stand before those that were decoded."""
    return f"byte 0x{error.object[error.start]:02X} at offset {before + error.start}"


def _detected(data: bytes, name: str, encodings: tuple[str, ...], bad: str) -> tuple[str, str, list[str]]:
    if encodings != SIXTEEN_BIT and _mostly_utf8(data):
        raise UserError(f"{name} is UTF-8 with damaged places, the first: {bad}; repair it, or {_HINT}.", BAD_INPUT)
    texts: dict[str, str] = {}  # text -> the first encoding that gives it
    for encoding in _plausible(data, encodings):
        try:
            texts.setdefault(data.decode(encoding), encoding)
        except UnicodeDecodeError:
            continue
    if not texts and encodings == SIXTEEN_BIT:
        raise UserError(f"{name} is not text: {bad}; give a text file.", BAD_INPUT)
    if len(texts) != 1:
        may_be = f"it may be {' or '.join(texts.values())}" if texts else "its encoding could not be detected"
        raise UserError(f"{name} is not UTF-8 ({bad}) and {may_be}; {_HINT}.", BAD_INPUT)
    ((text, encoding),) = texts.items()
    _refuse_controls(text, name)
    return text, encoding, [f"read as {encoding} (it is not UTF-8); if that is wrong, {_HINT}"]


def _mostly_utf8(data: bytes) -> bool:
    """Whether the bytes beyond ASCII are UTF-8 more often than not: then a few bytes are damaged."""
    text = data.decode(errors="replace")
    bad = text.count("\ufffd")
    return _count(r"[^\x00-\x7f]", text) - bad > bad


def _plausible(data: bytes, encodings: tuple[str, ...]) -> list[str]:
    """The encodings in which some language explains the bytes, in the order of `encodings`."""
    eight_bit, plain_letters = _eight_bit_sample(data)
    proposed = _proposed(eight_bit) if encodings != SIXTEEN_BIT else set()
    found = []
    for encoding in encodings:
        if encoding in SIXTEEN_BIT:
            sample, others = data[: SAMPLE_BYTES & ~1], 0
        elif encoding in proposed:
            sample, others = eight_bit, plain_letters
        else:
            continue
        # The sample may end inside a character, so its last character does not count.
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            text = decoder.decode(sample)
        except UnicodeDecodeError:
            continue
        if _explained(text, encoding, others):
            found.append(encoding)
    return found


def _proposed(sample: bytes) -> set[str]:
    """The 8-bit and Asian encodings in which charset-normalizer finds the text clean enough."""
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=list(EIGHT_BIT), enable_fallback=False)
    return {name for match in matches for name in match.could_be_from_charset}


def _eight_bit_sample(data: bytes) -> tuple[bytes, int]:
    """Lines with bytes beyond ASCII, and the number of ASCII letters in the text left out around them."""
    first = re.search(rb"[\x80-\xff]", data)
    start = max(0, first.start() - 200) if first else 0
    kept, size, plain_letters = [], 0, _letters(data[max(0, start - SAMPLE_BYTES) : start])
    for line in data[start:].split(b"\n"):
        if line.isascii():
            plain_letters += _letters(line)
        else:
            kept.append(line)
            size += len(line)
        if size > SAMPLE_BYTES:
            break
    return b"\n".join(kept)[:SAMPLE_BYTES], plain_letters


def _letters(data: bytes) -> int:
    return len(re.findall(rb"[A-Za-z]", data))


def _explained(text: str, encoding: str, other_letters: int) -> bool:
    """Whether a language of this encoding accounts for everything beyond ASCII in `text`."""
    beyond = re.sub(r"[\x00-\x7f]+", "", text)
    letters_beyond = sum(map(str.isalpha, beyond))
    letters = letters_beyond + _count(r"[A-Za-z]", text) + other_letters
    share = letters_beyond / max(1, letters)
    allowed = ODD_SHARE * len(beyond) - _misplaced(text)
    for language in LANGUAGES:
        if encoding not in language.encodings and encoding not in SIXTEEN_BIT:
            continue
        marks = re.escape(MARKS) + (ASIAN_MARKS if language.letters > "぀" else "")
        strangers = _count(f"[^{marks}{language.letters}]", beyond.lower())
        enough = True
        if language.common:
            common = _count(f"[{language.common}]", beyond.lower())
            enough = letters_beyond >= LEAST_EVIDENCE and common >= language.common_least * letters_beyond
        if strangers <= allowed and enough and language.least <= share <= language.most:
            return True
    return False


def _misplaced(text: str) -> int:
    """Characters beyond ASCII where no text has them: a quotation mark or a capital inside a word, and so on."""
    count = 0
    padded = f" {text} "
    for match in re.finditer(r"[^\x00-\x7f]", padded):
        before, here, after = padded[match.start() - 1], match.group(), padded[match.start() + 1]
        if here in MARKS:
            count += here not in JOINING and before.isalpha() and (after.isalpha() or here in LOW_QUOTES)
        elif here.islower() or here.isupper():
            mixed_case = (before.islower() and here.isupper()) or (here.islower() and after.isupper())
            two_scripts = here >= "\u0370" and any(c.isascii() and c.isalpha() for c in (before, after))
            count += mixed_case or two_scripts or after.isdigit()
    return count


def _count(pattern: str, text: str) -> int:
    """How many characters match: the length that disappears when they go."""
    return len(text) - len(re.sub(f"{pattern}+", "", text))
