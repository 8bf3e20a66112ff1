"""Does the tokenizer equal a readable pure-Python BPE, and Hugging Face's reading of our file?"""

import random
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest
import tokenizers

from tinygpt.tokenizer import BYTE_ORDER, FIRST_MERGE, SPECIALS, Tokenizer, train_tokenizer

WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def split(text: str) -> list[str]:
    """GPT-2's split pattern by hand: endings; letters, digits or other signs with one space before; white space.

    White space before a word leaves its last sign to that word: "a   b" is "a", "  ", " b".
    """

    def kind(character: str) -> str:
        return "W" if character in WHITE else {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "P")

    pieces, i = [], 0
    while i < len(text):
        ending = next((ending for ending in ENDINGS if text.startswith(ending, i)), None)
        start = i + (text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "W")
        end = start
        while end < len(text) and kind(text[end]) == kind(text[start]):
            end += 1
        if ending:
            end = i + len(ending)
        elif kind(text[start]) == "W" and end < len(text) and end - start > 1:
            end -= 1
        pieces.append(text[i:end])
        i = end
    return pieces


def merge_all(parts: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Every occurrence of `pair` becomes `new`, from the left."""
    merged, i = [], 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def first_ids(text: str) -> list[int]:
    return [len(SPECIALS) + BYTE_ORDER.index(byte) for byte in text.encode()]


def train(texts: list[str], vocab_size: int) -> list[tuple[int, int]]:
    """The merges as pairs of ids.

    The library's rule for ties: among the pairs of highest count, the smallest pair of ids wins (first id, then
    second), where ids are special tokens, then bytes in the order of their symbols, then merges as they were made.
    """
    words = [(first_ids(word), count) for word, count in Counter(w for text in texts for w in split(text)).items()]
    merges: list[tuple[int, int]] = []
    while FIRST_MERGE + len(merges) < vocab_size:
        counts: Counter[tuple[int, int]] = Counter()
        for parts, count in words:
            for pair in pairwise(parts):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        words = [(merge_all(parts, best, FIRST_MERGE + len(merges)), count) for parts, count in words]
        merges.append(best)
    return merges


def encode(merges: list[tuple[int, int]], text: str) -> list[int]:
    """Each piece by itself; the merge of lowest rank first."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = []
    for piece in split(text):
        parts = first_ids(piece)
        while known := [pair for pair in pairwise(parts) if pair in ranks]:
            best = min(known, key=ranks.__getitem__)
            parts = merge_all(parts, best, FIRST_MERGE + ranks[best])
        ids += parts
    return ids


def pairs_of_ids(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    id_of = {tokenizer.token_bytes(id): id for id in range(len(SPECIALS), tokenizer.vocab_size)}
    return [(id_of[left], id_of[right]) for left, right in tokenizer._ranks]


def random_text(seed: int, letters: str, n_words: int) -> str:
    draw = random.Random(seed)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(60)]
    return "".join(draw.choice(words) + draw.choice((" ", " ", ", ", ".\n", "  ", "'s ", "\t")) for _ in range(n_words))


CORPORA = {
    "tale": [
        "The fox didn't know the way. \"Who's there?\" said the fox, and the owl said: \"We're here, we've come!\"\n\n",
        "The owl and the fox went to the river in 1887; the river was deep, and they'd no boat.   So they sat.\r\n",
    ],
    "many ties": [random_text(1, "abcd", 300)],
    "repeated letters": ["aaaa aaaaaaa aaa bbbb abab ababab aabb " * 3 + random_text(2, "ab", 200)],
    "languages": [
        random_text(3, "абвгд", 100),
        random_text(4, "我你他是的", 100),
        random_text(5, "éüßñ", 100),
        "🎉🎊🎉🎉🎊 " * 9,
    ],
    "digits and signs": [
        random_text(6, "0123", 150),
        random_text(7, "=-<>#", 150),
        "     \n\n\n     \n\n   x = 1\n     y\u3000z " * 9,
    ],
}
PROBES = [
    *(
        "",
        " ",
        "the fox",
        "aaaaaaaaaaaaa",
        "abababab  ab",
        "we'll they'LL 's",
        "x\u00a0 \u3000y \n\n z   ",
        "1887 dogs, 3.14!",
    ),
    *(
        "<bos>fox<eos>",
        "<|endoftext|> </s><pad>",
        "👩‍👩‍👧 e\u0301 \0\x1c\x85",
        "我你他 naïve",
        " \t x\r\n\r\n",
        "end  ",
    ),
]


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("vocab_size", [259, 300, 500])
def test_merges_and_ids_equal_the_readable_bpe(name, vocab_size):
    tokenizer = train_tokenizer(CORPORA[name], vocab_size)
    merges = train(CORPORA[name], vocab_size)
    assert pairs_of_ids(tokenizer) == merges
    for text in PROBES + [text for texts in CORPORA.values() for text in texts]:
        assert tokenizer.encode(text) == encode(merges, text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    tokenizer = train_tokenizer([text for texts in CORPORA.values() for text in texts], 900)
    path = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    tokenizer.save(path)
    return tokenizer, path


def test_the_library_reads_the_file_as_we_wrote_it(saved):
    """The published settings of ECOSYSTEM 2.2, read back from the library's own objects."""
    tokenizer, path = saved
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    assert theirs.normalizer is None and theirs.post_processor is None
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert [theirs.token_to_id(name) for name in SPECIALS] == [0, 1, 2]
    assert set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= set(theirs.get_vocab())
    for text in PROBES:
        ids = theirs.encode(text).ids
        assert ids == tokenizer.encode(text)
        assert theirs.decode([0, *ids, 1], skip_special_tokens=True) == text
    theirs.encode_special_tokens = False
    assert theirs.encode("<bos>fox<eos>").ids[0] == 0  # the file declares them; only we never parse them


def test_invalid_utf8_decodes_as_in_the_library(saved):
    tokenizer, path = saved
    theirs = tokenizers.Tokenizer.from_file(str(path))
    draw = random.Random(8)
    for _ in range(500):
        ids = draw.choices(range(tokenizer.vocab_size), k=draw.randint(0, 12))
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_transformers_gives_the_same_ids(saved):
    transformers = pytest.importorskip("transformers", reason="parity with transformers is not tested: not installed")
    tokenizer, path = saved
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    draw = random.Random(9)
    strings = [random_text(seed, draw.choice(("abcd", "0a =<>", "我é🎉я", "<bos>")), 8) for seed in range(300)]
    for text in PROBES + strings:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
