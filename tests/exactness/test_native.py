"""The model in C is the model: equal to PyTorch's on every axis, and no text can tell that it has neighbours.

Bit for bit where it is C against C; against PyTorch, which adds in another order, within rounding.
"""

import itertools
import random
import threading

import pytest
import torch

from tinygpt.config import PRESETS
from tinygpt.errors import UserError
from tinygpt.inference import Decoder, choose_decoder, generate, window_start
from tinygpt.native import NativeDecoder, NativeModel, NativeUnavailable, library

BLOCK = 16
AXES = list(itertools.product(
    ("learned", "rotary"), ("layernorm", "rmsnorm"), ("before", "after"), ("gelu", "gelu_tanh", "swiglu"),
    (True, False), (True, False), (True, False),
))  # fmt: skip
# Widths that fill no vector and no panel, heads of one number, heads that share, texts longer than what passes at once.
SHAPES = [
    {"n_embd": 40, "n_heads": 4, "n_kv_heads": 2, "d_head": 10, "d_ff": 50, "vocab_size": 300, "block_size": 150},
    {"n_embd": 8, "n_heads": 8, "n_kv_heads": 1, "d_head": 2, "d_ff": 3, "block_size": 8},
    {"n_embd": 130, "n_heads": 6, "n_kv_heads": 3, "d_head": 34, "d_ff": 200, "block_size": 70, "n_layers": 1},
    {"n_embd": 64, "n_heads": 2, "d_ff": 128, "vocab_size": 320, "block_size": 64, "n_layers": 3},
]
TEXTS = ("", "The fox", "A small owl found three nuts under the bridge. Old Mia lost the key by the river. " * 3)


@pytest.fixture(autouse=True, scope="module")
def compiled():
    try:
        library()
    except NativeUnavailable as error:
        pytest.skip(f"THE NATIVE ENGINE IS NOT TESTED: {error}")


def random_ids(length, seed=0):
    return torch.randint(0, 259, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def whole(native, ids, slot=0):
    """Logits of every position of a text in one call, (T, V)."""
    return native.logits(ids, range(len(ids)), [slot] * len(ids), range(len(ids)))


def equal_to_model(model, length):
    ids = random_ids(length)
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0]
    torch.testing.assert_close(whole(NativeModel(model), ids), expected, atol=1e-4, rtol=0)


# --- equal to the model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "norm", "place"), sorted({axes[:3] for axes in AXES}))
def test_every_combination_of_axes(make_model, positions, norm, place):
    for axes in AXES:
        if axes[:3] == (positions, norm, place):
            names = ("positions", "norm", "norm_place", "feed_forward", "qk_norm", "tied", "bias")
            equal_to_model(make_model("modern", seed=len(axes), **dict(zip(names, axes, strict=True))), BLOCK)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"embd{shape['n_embd']}")
@pytest.mark.parametrize("preset", PRESETS)
def test_every_shape(make_model, preset, shape):
    equal_to_model(make_model(preset, std=0.1, **shape), shape["block_size"])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_prefix_past_the_context(make_model, preset):
    """One decoder for a text that grows over every slide of the window, and new ones that begin at every length."""
    model, ids = make_model(preset), torch.tensor([random_ids(4 * BLOCK)])
    plain, growing = Decoder(model, cached=False), NativeDecoder(NativeModel(model), window_start)
    for n in range(1, 4 * BLOCK + 1):
        expected = plain.logits(ids[:, :n])
        torch.testing.assert_close(growing.logits(ids[:, :n]), expected, atol=1e-4, rtol=0)
        afresh = NativeDecoder(NativeModel(model), window_start).logits(ids[:, :n])
        assert torch.equal(afresh, growing.logits(ids[:, :n]))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("block_size", [16, 64])
def test_greedy_text_is_equal(make_model, tokenizer, preset, block_size):
    model = make_model(preset, vocab_size=320, block_size=block_size)
    for prompt in TEXTS:
        plain, native = (generate(model, tokenizer, prompt, 220, engine=engine) for engine in ("plain", "native"))
        assert native == plain


@pytest.mark.parametrize("preset", PRESETS)
def test_drawn_text_is_equal(make_model, tokenizer, preset):
    model = make_model(preset, vocab_size=320)
    for seed in range(3):
        plain, native = (
            generate(model, tokenizer, "Tom", 60, seed=seed, temperature=0.9, top_k=50, engine=engine)
            for engine in ("plain", "native")
        )
        assert native == plain


def test_large_scores_and_large_activations(make_model):
    """Where e^x would leave fp32: one position takes all attention, gates are shut, GELU is 0 or the identity."""
    for preset in PRESETS:
        model = make_model(preset, std=3.0, n_layers=1)
        ids = random_ids(BLOCK)
        with torch.no_grad():
            expected = model(torch.tensor([ids]))[0]
        found = whole(NativeModel(model), ids)
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


# --- no text can tell that it has neighbours -------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(4))
def test_any_cut_into_calls_gives_the_same_bits(make_model, preset, seed):
    """Three texts in pieces of random lengths, mixed at random into calls; slots out of order; all rows wanted."""
    chance, block = random.Random(seed), 150
    model = NativeModel(make_model(preset, n_embd=48, n_heads=2, vocab_size=300, block_size=block), 5)
    texts = {slot: random_ids(chance.randint(100, block), seed=slot) for slot in chance.sample(range(5), 3)}
    alone = {slot: whole(NativeModel(make_model(preset, n_embd=48, n_heads=2, vocab_size=300, block_size=block)), ids)
             for slot, ids in texts.items()}  # fmt: skip
    read = dict.fromkeys(texts, 0)
    while any(read[slot] < len(ids) for slot, ids in texts.items()):
        rows = []
        for slot in chance.sample(list(texts), chance.randint(1, 3)):
            n = min(chance.choice([1, 1, 2, 3, 5, 8, 13, 90]), len(texts[slot]) - read[slot])
            rows += [(texts[slot][i], i, slot) for i in range(read[slot], read[slot] + n)]
            read[slot] += n
        if chance.random() < 0.5:  # texts interleaved, each in its order
            order = [row[2] for row in rows]
            chance.shuffle(order)
            queues = {slot: iter([row for row in rows if row[2] == slot]) for slot in texts}
            rows = [next(queues[slot]) for slot in order]
        if rows:
            wanted = list(range(len(rows)))
            chance.shuffle(wanted)
            found = model.logits(*zip(*rows, strict=True), wanted)
            for row, number in zip(found, wanted, strict=True):
                _, position, slot = rows[number]
                assert torch.equal(row, alone[slot][position]), (slot, position)


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_beside_each_other_in_any_number(make_model, preset):
    """1 to 10 texts at once: blocks of rows and what is left of them add in one order."""
    model = NativeModel(make_model(preset, n_embd=72, n_heads=2), 10)
    ids = [random_ids(3, seed=slot) for slot in range(10)]
    alone = [whole(model, text, slot)[-1] for slot, text in enumerate(ids)]
    for n in range(1, 11):
        found = model.logits([text[2] for text in ids[:n]], [2] * n, range(n), range(n))
        assert all(torch.equal(row, alone[slot]) for slot, row in enumerate(found))


def test_a_slot_is_used_again(make_model):
    """A short text after a long one sees nothing of it; neither does a text in the next slot."""
    model = make_model()
    native, fresh = NativeModel(model, 2), NativeModel(model)
    whole(native, random_ids(BLOCK, seed=1), 0)
    whole(native, random_ids(BLOCK, seed=2), 1)
    short = random_ids(5, seed=3)
    expected = whole(fresh, short)
    assert torch.equal(whole(native, short, 0), expected)
    again = random_ids(BLOCK, seed=2)
    assert torch.equal(native.logits(again[-1:], [BLOCK - 1], [1], [0])[0], whole(fresh, again)[-1])


def test_only_what_is_wanted_comes_in_the_order_asked(make_model):
    model, ids = NativeModel(make_model(block_size=150)), random_ids(150)
    every = whole(model, ids)
    assert torch.equal(model.logits(ids, range(150), [0] * 150, [149, 0, 70, 70]), every[[149, 0, 70, 70]])
    assert model.logits(ids, range(150), [0] * 150, []).shape == (0, 259)
    assert model.logits([], [], [], []).shape == (0, 259)


def test_threads_wait_for_each_other(make_model):
    """Python runs on while C computes, so two threads could be in one model's buffers at once."""
    model, texts = NativeModel(make_model(block_size=150), 4), [random_ids(150, seed=slot) for slot in range(4)]
    expected, wrong = [whole(model, ids, slot) for slot, ids in enumerate(texts)], []

    def work(slot):
        for _ in range(10):
            wrong.extend([slot] * (not torch.equal(whole(model, texts[slot], slot), expected[slot])))

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- the decoder -----------------------------------------------------------------------------------------------------


def test_a_text_that_changes_is_read_again_from_there(make_model):
    """By turns: longer by several tokens, another end, shorter, another beginning, past the context and back."""
    model = make_model()
    decoder, a, b = NativeDecoder(NativeModel(model), window_start), random_ids(40, seed=1), random_ids(40, seed=2)
    for text in (a[:5], a[:9], a[:7] + b[:4], a[:3], a[:3], b[:6], a[:7], a[:30], a[:31], a[:12], b[:40]):
        ids = torch.tensor([text])
        assert torch.equal(decoder.logits(ids), NativeDecoder(NativeModel(model), window_start).logits(ids))
        torch.testing.assert_close(decoder.logits(ids), Decoder(model).logits(ids), atol=1e-4, rtol=0)


def test_only_the_new_tokens_are_computed(make_model, monkeypatch):
    model = make_model()
    decoder, rows = NativeDecoder(NativeModel(model), window_start), []
    compute = decoder.model.logits
    monkeypatch.setattr(decoder.model, "logits", lambda *row: rows.append(len(row[0])) or compute(*row))
    ids = torch.tensor([random_ids(20)])
    for n in (6, 7, 8, 12, 16, 17, 18):
        decoder.logits(ids[:, :n])
    assert rows == [6, 1, 1, 4, 4, 13, 1]


def test_several_texts_at_once_are_each_what_one_alone_is(make_model):
    """Bit for bit; also where the window slides, and where fewer texts come than there are slots."""
    model = make_model()
    ids = torch.stack([torch.tensor(random_ids(40, seed=i)) for i in range(3)])
    together = NativeDecoder(NativeModel(model, 4), window_start)
    alone = [NativeDecoder(NativeModel(model), window_start) for _ in range(3)]
    for n in (1, 2, 5, 16, 17, 18, 40):
        expected = torch.cat([one.logits(ids[i : i + 1, :n]) for i, one in enumerate(alone)])
        assert torch.equal(together.logits(ids[:, :n]), expected)
    assert torch.equal(together.logits(ids[:1, :7]), alone[0].logits(ids[:1, :7]))


def test_a_model_that_learns_on_is_not_mistaken(make_model, tokenizer):
    """Weights are copied for each text: one that is begun after a step of training is the trained model's."""
    model = make_model(vocab_size=320, seed=7)
    before = generate(model, tokenizer, "The", 30, engine="native")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    after = generate(model, tokenizer, "The", 30)
    assert before != after == generate(model, tokenizer, "The", 30, engine="plain")


def test_weights_that_are_no_numbers_are_no_text(make_model, tokenizer):
    model = make_model(vocab_size=320)
    with torch.no_grad():
        model.blocks[0].attention.value.weight[3] = float("nan")
    with pytest.raises(UserError, match=r"not finite|no number|nan"):
        generate(model, tokenizer, "The", 3, engine="native", temperature=1.0)


def test_auto_is_native_for_fp32_on_the_cpu(make_model):
    model = make_model()
    assert isinstance(choose_decoder(model), NativeDecoder)
    assert isinstance(choose_decoder(model, "plain"), Decoder)
    assert isinstance(choose_decoder(model, "auto", cached=False), Decoder)
