"""Writing: the tutorial's signature, streams that break nothing, stops that never leak, prompts of any kind."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tinygpt.config import PRESETS, ModelConfig
from tinygpt.errors import UserError
from tinygpt.evaluate import generate_documents
from tinygpt.inference import Continuation, Decoder, encode_prompt, generate, stream, window_start
from tinygpt.sampling import Sampling
from tinygpt.tokenizer import BOS, EOS, Tokenizer

BYTES = Tokenizer([])


class Script(nn.Module):
    """A model that says a fixed sequence of ids after a prompt of one <bos>, then <pad> for ever."""

    def __init__(self, ids):
        super().__init__()
        self.config = ModelConfig(vocab_size=259, n_embd=8, n_heads=1, n_layers=1, block_size=4096)
        self.embedding = nn.Embedding(259, 1)
        self.ids = ids

    def forward(self, idx, cache=None):
        place = idx.shape[1] - 1
        said = self.ids[place] if place < len(self.ids) else 2
        return nn.functional.one_hot(torch.tensor([[said]]), 259).float()


def script(text):
    return Script(BYTES.encode(text))


def pieces(model, n=200, **settings):
    return list(stream(model, BYTES, "", n, cached=False, **settings))


def test_the_signature_is_the_tutorials():
    parameters = list(inspect.signature(generate).parameters.values())
    assert [p.name for p in parameters[:4]] == ["model", "tokenizer", "prompt", "max_new_tokens"]
    assert parameters[3].default == 50
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters[4:])


@pytest.mark.parametrize("preset", PRESETS)
def test_greedy_by_hand(make_model, tokenizer, preset):
    """The plain loop of the tutorial: the likeliest token, 8 times, prompt first."""
    model = make_model(preset, vocab_size=320)
    ids = tokenizer.encode("The fox")
    length = len(ids)
    with torch.no_grad():
        while len(ids) < length + 8 and int(token := model(torch.tensor([ids]))[0, -1].argmax()) != EOS:
            ids.append(int(token))
    assert generate(model, tokenizer, "The fox", max_new_tokens=8) == "The fox" + tokenizer.decode(ids[length:])


# --- streaming -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12))
def test_streaming_never_breaks_a_character(text):
    """Tokens are single bytes here, so every character beyond ASCII arrives in parts; a broken one would be U+FFFD."""
    assert "".join(pieces(script(text), n=len(text.encode()))) == text


def test_an_emoji_comes_as_one_piece():
    assert [p for p in pieces(script("a👩‍👧é"), n=14) if p] == ["a", "👩", "\u200d", "👧", "é"]


def test_half_a_character_at_the_end_is_marked_and_not_lost():
    """max_new_tokens can end inside a character: the stream and the whole text agree on U+FFFD."""
    assert "".join(pieces(script("a👩"), n=3)) == "a\ufffd"
    assert generate(script("a👩"), BYTES, "", 3, cached=False) == "a\ufffd"


def test_bytes_that_are_no_text_come_out_as_decode_shows_them():
    ids = [BYTES.encode("é")[0], *BYTES.encode("x"), BYTES.encode("é")[1], *BYTES.encode("y")]
    assert "".join(pieces(Script(ids), n=4)) == BYTES.decode(ids)


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "stop", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], "one EN two"),  # held back, then given
        ("one EEND", ["END"], "one E"),  # a false start inside the true one
        ("aaab", ["aab"], "a"),
        ("one two", ["two", "one"], ""),
        ("abcde", ["cd", "bcd"], "a"),  # the earliest place wins
        ("x👧y", ["👧"], "x"),
        ("one\n\nUser: hi", ["\nUser:", "\n\n\n"], "one\n"),
        ("no stop here", [], "no stop here"),
        ("ends EN", ["END"], "ends EN"),  # the text ends inside a possible stop
    ],
)
def test_stop_strings(said, stop, expected):
    """Every piece is one byte: a stop string always comes split over tokens, and nothing of it may be shown."""
    n = len(said.encode())
    got = pieces(script(said), n=n, stop=stop)
    assert "".join(got) == expected
    shown = ""
    for piece in got:
        shown += piece
        assert expected.startswith(shown)
    assert generate(script(said), BYTES, "", n, stop=stop, cached=False) == expected


@settings(max_examples=150, deadline=None)
@given(st.text("ab", max_size=14), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_to_be_complete(said, stop):
    """Of several that are complete at the same character, the longest counts: it begins first."""
    ends = [n for n in range(len(said) + 1) if any(said[:n].endswith(word) for word in stop)]
    longest = max((len(word) for word in stop if ends and said[: ends[0]].endswith(word)), default=0)
    expected = said[: ends[0] - longest] if ends else said
    assert "".join(pieces(script(said), n=len(said), stop=stop)) == expected


def test_a_stop_string_in_the_prompt_does_not_stop():
    model = Script([2] * 4 + BYTES.encode("yes"))  # the prompt has 5 tokens, so the script is read from place 4
    assert generate(model, BYTES, "END: ", 3, stop=["END"], cached=False) == "END: yes"


def test_writing_ends_at_eos():
    assert "".join(pieces(Script([*BYTES.encode("end"), EOS, *BYTES.encode("more")]))) == "end"


def test_nothing_comes_after_the_stop_and_nothing_is_computed():
    class Counting(Script):
        calls = 0

        def forward(self, idx, cache=None):
            Counting.calls += 1
            return super().forward(idx, cache)

    pieces(Counting(BYTES.encode("ab. and so on")), stop=["."])
    assert Counting.calls == 3


def test_bad_requests_are_refused():
    for settings_, words in (
        ({"max_new_tokens": -1}, "max-new-tokens -1"),
        ({"stop": [""]}, "stop string"),
        ({"top_p": 2.0}, "top-p"),
    ):
        with pytest.raises(UserError, match=words):
            generate(script("x"), BYTES, "", **settings_)
    with pytest.raises(TypeError):
        generate(script("x"), BYTES, "", topp=0.5)


def test_no_new_tokens_is_the_prompt():
    assert generate(script("x"), BYTES, "as it was", 0) == "as it was"


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_an_empty_prompt_begins_a_document(make_model, tokenizer):
    """Greedy from nothing is greedy from <bos>, not a crash on a tensor of length 0."""
    model = make_model(vocab_size=320)
    assert encode_prompt(tokenizer, "") == [BOS]
    first = int(model(torch.tensor([[BOS]]))[0, -1].argmax())
    assert generate(model, tokenizer, "", 1) == tokenizer.decode([first])


@pytest.mark.parametrize("prompt", ["\0", "👩‍👧", "<bos>", "<eos>x", " \n\t", "é" * 40, "\u202e"])
def test_any_prompt_is_kept_as_it_is(make_model, tokenizer, prompt):
    text = generate(make_model(vocab_size=320), tokenizer, prompt, 3, temperature=1.0)
    assert text.startswith(prompt)


def test_a_prompt_of_a_megabyte(make_model, tokenizer):
    """The window sees its end only: the same continuation as from the last tokens alone, and no hang."""
    model = make_model(vocab_size=320)
    ids = tokenizer.encode("The fox found a red kite. " * 40_000)
    assert len(ids) > 100_000
    decoder = Decoder(model)
    visible = ids[window_start(len(ids), 16) :]
    with torch.no_grad():
        torch.testing.assert_close(
            decoder.logits(torch.tensor([ids])), model(torch.tensor([visible]))[:, -1], atol=1e-5, rtol=0
        )
    prompt = "The fox found a red kite. " * 40_000
    assert generate(model, tokenizer, prompt, 4).startswith(prompt)


@given(st.integers(1, 5000), st.integers(8, 600))
def test_the_window_holds_most_of_the_context(length, block_size):
    """Never more than block_size, never less than about 3/4 of it once the text is long enough."""
    visible = length - window_start(length, block_size)
    assert 0 < visible <= block_size
    assert visible > block_size - max(1, block_size // 4) or visible == length
    assert window_start(length + 1, block_size) >= window_start(length, block_size)


def test_the_window_moves_rarely():
    """Each move costs a pass over the whole context: once in block_size / 4 tokens, not every token."""
    starts = [window_start(length, 64) for length in range(1, 200)]
    assert starts[:64] == [0] * 64 and starts[64] == 16 and len(set(starts)) == 1 + -(-(199 - 64) // 16)


# --- sampling --------------------------------------------------------------------------------------------------------


def test_one_seed_one_text(make_model, tokenizer):
    model = make_model(vocab_size=320)
    texts = [generate(model, tokenizer, "The", 12, seed=seed, temperature=1.0) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_the_seed_is_the_only_randomness(make_model, tokenizer):
    """The global generator neither decides the text nor is moved by writing it: training stays reproducible."""
    model = make_model(vocab_size=320)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(model, tokenizer, "The", 12, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert generate(model, tokenizer, "The", 12, temperature=1.0) == first


def test_the_penalty_sees_prompt_and_answer(make_model, tokenizer):
    """With a crushing penalty no token comes twice, wherever it stood before."""
    model = make_model(vocab_size=320)
    ids = torch.tensor([encode_prompt(tokenizer, "The fox")])
    text = generate(model, tokenizer, "The fox", 8, repetition_penalty=100.0)
    new = tokenizer.encode(text)[ids.shape[1] :]
    assert tokenizer.decode(new) != "" and not set(new) & set(ids[0].tolist())


def test_stream_and_generate_agree(make_model, tokenizer):
    model = make_model(vocab_size=320)
    whole = generate(model, tokenizer, "Tom", 30, seed=3, temperature=1.2, stop=["a"])
    parts = stream(model, tokenizer, "Tom", 30, sampling=Sampling(temperature=1.2), seed=3, stop=["a"])
    assert whole == "Tom" + "".join(parts)


# --- modes and many texts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_comes_back(make_model, tokenizer, training):
    """Sampling in the middle of training must not switch dropout off for the rest of it, not even when it fails."""
    model = make_model(vocab_size=320, dropout=0.5).train(training)
    first = generate(model, tokenizer, "The", 5)
    assert model.training is training
    assert generate(model, tokenizer, "The", 5) == first  # dropout was off meanwhile
    half_read = stream(model, tokenizer, "The", 5)
    next(half_read)
    half_read.close()
    assert model.training is training
    generate_documents(model, tokenizer, 2, 5)
    assert model.training is training


def test_many_documents_end_at_eos_or_at_the_limit(make_model, tokenizer):
    model = make_model(vocab_size=320, block_size=32)
    texts = generate_documents(model, tokenizer, 7, 20, seed=1, batch=3, temperature=1.0)
    assert len(texts) == 7 and len(set(texts)) > 1
    assert texts == generate_documents(model, tokenizer, 7, 20, seed=1, batch=3, temperature=1.0)
    assert texts != generate_documents(model, tokenizer, 7, 20, seed=2, batch=3, temperature=1.0)


def test_a_greedy_document_is_the_greedy_text(make_model, tokenizer):
    """Written many at a time and one at a time, also beyond the context."""
    model = make_model(vocab_size=320)
    expected = generate(model, tokenizer, "", 40)
    assert generate_documents(model, tokenizer, 3, 40) == [expected] * 3


def test_documents_are_cut_at_their_own_eos():
    class Two(Script):
        def forward(self, idx, cache=None):
            """Row 0 says a <eos> b b ...; row 1 says b b b ... for four tokens, then <eos>."""
            place = idx.shape[1] - 1 if cache is None else cache.length
            if cache is not None:
                cache.layers[0].length = idx.shape[1] + place
            a, b = BYTES.encode("ab")
            rows = [[a, EOS, b, b, b, b][place], [b, b, b, b, EOS, b][place]]
            return nn.functional.one_hot(torch.tensor(rows)[:, None], 259).float()

    assert generate_documents(Two([]), BYTES, 2, 6) == ["a", "bbbb"]


@pytest.mark.parametrize(
    ("said", "n", "stop", "why"),
    [
        ("abc", 3, (), "length"), ("abc", 0, (), "length"), ("abc", 9, ("c",), "stop"), ("abc", 3, ("bc",), "stop"),
        ("abc", 3, ("cd",), "length"), ("ab<eos>", 9, (), "stop"), ("ab<eos>", 3, (), "stop"),
    ],
)  # fmt: skip
def test_why_a_text_ends(said, n, stop, why):
    """A stop string in the very last token is "stop"; the beginning of one that does not come is text."""
    ids = [*BYTES.encode(said.removesuffix("<eos>")), *[EOS] * said.endswith("<eos>")]
    model, text = Script(ids), Continuation(BYTES, [BOS], n, stop=stop)
    while not text.finished:
        text.add(model(text.ids)[:, -1])
    assert text.finished == why


def test_log_probabilities_are_kept_for_every_token(make_model, tokenizer):
    model = make_model(vocab_size=320)
    text, decoder = Continuation(tokenizer, [BOS], 6, logprobs=2), Decoder(model)
    while not text.finished:
        text.add(decoder.logits(text.ids))
    written = text.ids[0, 1:].tolist()
    assert [token for token, _, _ in text.chances] == written
    with torch.no_grad():
        expected = model(text.ids)[0].log_softmax(-1)
    for place, (token, chance, top) in enumerate(text.chances):
        assert chance == pytest.approx(expected[place, token].item(), abs=1e-5)
        assert len(top) == 2 and top[0] == (token, chance)  # greedy: the chosen one is the likeliest
