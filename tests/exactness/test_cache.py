"""Cached and uncached writing are one function: every prefix length, past block_size, several rows, every preset."""

import pytest
import torch

from tinygpt.config import PRESETS
from tinygpt.inference import Decoder, generate
from tinygpt.model import KVCache

BLOCK = 16
VARIANTS = [
    *(pytest.param(preset, {}, id=preset) for preset in PRESETS),
    pytest.param("modern", {"n_kv_heads": 2}, id="modern-shared-heads"),
    pytest.param("gpt2", {"positions": "rotary", "n_kv_heads": 1, "qk_norm": True}, id="mixed"),
]


def random_ids(rows, length, seed=0):
    return torch.randint(0, 259, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(("preset", "fields"), VARIANTS)
def test_every_prefix_length_past_block_size(make_model, preset, fields, rows):
    """A prompt of every length, then three tokens more, against passes over the visible text without a cache."""
    model = make_model(preset, **fields)
    ids = random_ids(rows, BLOCK + 9)
    plain = [Decoder(model, cached=False).logits(ids[:, :n]) for n in range(1, BLOCK + 9)]
    for prefix in range(1, BLOCK + 6):
        decoder = Decoder(model)
        for n in range(prefix, prefix + 4):
            close(decoder.logits(ids[:, :n]), plain[n - 1])
    growing = Decoder(model)  # and one that grows from the first token, over every slide of the window
    for n in range(1, BLOCK + 9):
        close(growing.logits(ids[:, :n]), plain[n - 1])


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(("preset", "fields"), VARIANTS)
def test_the_cache_by_itself(make_model, preset, fields, rows):
    """Every split of a context into a prompt and single tokens gives the logits of one pass, at every position."""
    model = make_model(preset, **fields)
    ids = random_ids(rows, BLOCK, seed=1)
    with torch.no_grad():
        whole = model(ids)
        for prefix in range(1, BLOCK + 1):
            cache = KVCache(model, rows)
            parts = [model(ids[:, :prefix], cache)]
            assert cache.length == prefix
            parts += [model(ids[:, n : n + 1], cache) for n in range(prefix, BLOCK)]
            close(torch.cat(parts, 1), whole)
            assert cache.length == BLOCK


@pytest.mark.parametrize(("preset", "fields"), VARIANTS)
def test_greedy_text_is_equal(make_model, tokenizer, preset, fields):
    model = make_model(preset, vocab_size=320, **fields)
    for prompt in ("", "The fox", "A small owl found three nuts under the bridge. Old Mia"):
        cached = generate(model, tokenizer, prompt, 40, engine="plain")
        assert cached == generate(model, tokenizer, prompt, 40, cached=False)


@pytest.mark.parametrize(("preset", "fields"), VARIANTS)
def test_rows_do_not_see_each_other(make_model, preset, fields):
    model, ids = make_model(preset, **fields), random_ids(3, 9)
    together, alone = Decoder(model), [Decoder(model) for _ in range(3)]
    for n in (6, 7, 8, 9):
        close(together.logits(ids[:, :n]), torch.cat([d.logits(ids[i : i + 1, :n]) for i, d in enumerate(alone)]))


def test_a_filled_cache_refuses_several_tokens(make_model):
    """They would all see each other: the mask of a filled cache has no triangle."""
    model = make_model()
    cache = KVCache(model)
    with torch.no_grad():
        model(random_ids(1, 4), cache)
        with pytest.raises(ValueError, match="one token at a time"):
            model(random_ids(1, 2), cache)


@pytest.mark.parametrize("cached", [True, False])
def test_another_text_starts_afresh(make_model, cached):
    """A decoder that is handed a text which is not the old one plus one token must not use the old keys."""
    model = make_model()
    decoder = Decoder(model, cached)
    decoder.logits(random_ids(1, 9))
    for other in (random_ids(1, 5, seed=2), random_ids(1, 9, seed=3), random_ids(1, 30, seed=4)):
        close(decoder.logits(other), Decoder(model, cached=False).logits(other))


def test_the_visible_text_is_read_from_position_0(make_model):
    """What the sliding window means, said without the Decoder: the model on the last tokens alone."""
    model, ids = make_model("tutorial"), random_ids(1, BLOCK + 1)
    with torch.no_grad():
        close(Decoder(model).logits(ids), model(ids[:, BLOCK // 4 :])[:, -1])
