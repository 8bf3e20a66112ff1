"""Figures by hand: bits per byte, baselines, copying; and a score that is one sum whatever the batches."""

import dataclasses
import lzma
import math
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from tinygpt import data, evaluate
from tinygpt.data import total_bytes
from tinygpt.errors import UserError
from tinygpt.evaluate import (
    baselines,
    bigram_probabilities,
    bits_per_byte,
    memorised_share,
    pair_numbers,
    score,
    word_runs,
    xz_bits_per_byte,
)
from tinygpt.loss import AttentionByFormula, attend, next_token_loss
from tinygpt.model import CausalAttention


def test_bits_per_byte_by_hand():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0)
    for n_bytes in (0, -1):
        with pytest.raises(ValueError, match="empty"):
            bits_per_byte(1.0, n_bytes)


def test_uniform_over_256_bytes_is_8_bits(byte_tokenizer):
    """The figure of a byte tokenizer that knows nothing is log2 of its vocabulary."""
    ids = byte_tokenizer.encode_documents(["abcdefgh"])
    assert baselines(ids, ids, byte_tokenizer, "abc", "abc")["uniform"] == pytest.approx(9 / 8 * math.log2(259))


# --- score -----------------------------------------------------------------------------------------------------------


def nats_by_hand(model, windows):
    """Sum of -log p(next token) in double precision, window by window."""
    total = 0.0
    with torch.no_grad():
        for window in windows:
            logits = model(torch.tensor([window[:-1]]))[0].double()
            for t, following in enumerate(window[1:]):
                total -= float(torch.log_softmax(logits[t], -1)[following])
    return total


def test_a_text_of_one_window(make_model, tokenizer, machine):
    model = make_model(vocab_size=320, block_size=64)
    ids = tokenizer.encode_documents(["A small owl hid the key at home. Été!"])
    assert len(ids) < 64
    result = score(model, tokenizer, ids, machine)
    assert result.nats == pytest.approx(nats_by_hand(model, [ids.tolist()]), rel=1e-6)
    assert (result.tokens, result.bytes) == (len(ids) - 1, len("A small owl hid the key at home. Été!".encode()))
    assert result.loss == pytest.approx(result.nats / result.tokens)
    assert result.bpb == pytest.approx(result.nats / math.log(2) / result.bytes)


@pytest.mark.parametrize("n", [2, 16, 17, 18, 32, 33, 34, 200])
def test_longer_texts_in_windows(make_model, tokenizer, machine, texts, n):
    """Full windows together and the rest alone; every token but the first once, at every length around a window."""
    model = make_model(vocab_size=320)
    ids = tokenizer.encode_documents(texts)[:n]
    windows = [ids[start : start + 17].tolist() for start in range(0, n - 1, 16)]
    result = score(model, tokenizer, ids, machine)
    assert result.nats == pytest.approx(nats_by_hand(model, windows), rel=1e-6)
    assert result.tokens == n - 1 and result.bytes == total_bytes(ids[1:], tokenizer.n_bytes())


def test_the_batch_size_changes_nothing(make_model, tokenizer, machine, texts):
    model = make_model(vocab_size=320)
    ids = tokenizer.encode_documents(texts)[:700]
    results = [score(model, tokenizer, ids, machine, tokens_at_once=n) for n in (1, 16, 48, 8192)]
    assert len({r.tokens for r in results}) == 1
    assert max(r.nats for r in results) == pytest.approx(min(r.nats for r in results), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_scoring_is_without_dropout_and_leaves_the_mode(make_model, tokenizer, machine, texts, training):
    model = make_model(vocab_size=320, dropout=0.5).train(training)
    ids = tokenizer.encode_documents(texts)[:100]
    still = score(make_model(vocab_size=320), tokenizer, ids, machine)
    assert score(model, tokenizer, ids, machine) == still and model.training is training


def test_scoring_leaves_the_attention_that_a_model_trains_with(make_model, tokenizer, machine, texts):
    """On a CPU in bf16 it scores by the formula; a model that trains by the definition goes on with that."""
    model, ids = make_model(vocab_size=320), tokenizer.encode_documents(texts)[:100]
    for kind in (CausalAttention, AttentionByFormula):
        attend(model, kind)
        score(model, tokenizer, ids, dataclasses.replace(machine, bf16=True))
        assert {type(block.attention) for block in model.blocks} == {kind}


@pytest.mark.parametrize("ids", [[], [0], [0, 1], [0, 1, 0, 1]])
def test_nothing_to_score_is_exit_65(make_model, tokenizer, machine, ids):
    """Document marks alone have 0 bytes: bits per byte would divide by 0."""
    with pytest.raises(UserError, match="empty") as error:
        score(make_model(vocab_size=320), tokenizer, np.array(ids, dtype=np.uint16), machine)
    assert error.value.exit_code == 65


def test_next_token_loss_is_cross_entropy_in_fp32(make_model):
    model = make_model()
    idx = torch.randint(0, 259, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        by_hand = nats_by_hand(model, idx.tolist())
        assert next_token_loss(model, idx[:, :-1], idx[:, 1:], "sum").item() == pytest.approx(by_hand, rel=1e-6)
        assert next_token_loss(model, idx[:, :-1], idx[:, 1:]).item() == pytest.approx(by_hand / 16, rel=1e-6)
        assert next_token_loss(model.bfloat16(), idx[:, :-1], idx[:, 1:]).dtype == torch.float32


# --- baselines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint32])
def test_unigram_and_bigram_by_hand(byte_tokenizer, dtype):
    """Add-one unigram and Witten-Bell bigram on a text of three letters, counted in plain Python."""
    train = byte_tokenizer.encode_documents(["abab", "abc"]).astype(dtype)
    val = byte_tokenizer.encode_documents(["abx"]).astype(dtype)
    counts, V = Counter(train.tolist()), 259
    uni = {t: (counts[t] + 1) / (len(train) + V) for t in range(V)}
    pairs = Counter(pairwise(train.tolist()))

    def bigram(a, b):
        after = {pair: n for pair, n in pairs.items() if pair[0] == a}
        kinds = max(1, len(after))
        return (pairs[a, b] + kinds * uni[b]) / (sum(after.values()) + kinds)

    result = baselines(train, val, byte_tokenizer, "ababc", "abx")
    expected = [-math.log2(uni[t]) for t in val.tolist()[1:]]
    assert result["unigram"] == pytest.approx(sum(expected) / 3)
    expected = [-math.log2(bigram(a, b)) for a, b in pairwise(val.tolist())]
    assert result["bigram"] == pytest.approx(sum(expected) / 3)
    assert result["uniform"] == pytest.approx(4 * math.log2(259) / 3)


def test_probabilities_of_each_previous_token_sum_to_1(byte_tokenizer):
    """Otherwise the baseline is better or worse than any real model could be."""
    train = byte_tokenizer.encode_documents(["the cat sat on the mat"])
    unigram = (np.bincount(train, minlength=259) + 1) / (len(train) + 259)
    assert unigram.sum() == pytest.approx(1)
    for previous in (train[1], train[3], 250):  # seen often, seen, never seen
        val = np.array([token for following in range(259) for token in (previous, following)])
        assert bigram_probabilities(train, val, unigram)[::2].sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64])
def test_pairs_are_whole_numbers(dtype):
    """Pins: uint64 mixed with a signed type is float64, which cannot tell large neighbours apart."""
    numbers = pair_numbers(np.array([3, 5, 258], dtype=dtype), 259)
    assert numbers.dtype == np.uint64 and numbers.tolist() == [3 * 259 + 5, 5 * 259 + 258]


def test_stronger_models_have_lower_figures(tokenizer, texts):
    """The ladder that the report explains: uniform above unigram above bigram."""
    train, val = texts[:100], texts[100:]
    marks = baselines(
        tokenizer.encode_documents(train), tokenizer.encode_documents(val), tokenizer, "\n".join(train), "\n".join(val)
    )
    assert list(marks) == ["uniform", "unigram", "bigram", "xz"]
    assert marks["uniform"] > marks["unigram"] > marks["bigram"] > 0 < marks["xz"] < marks["unigram"]


def test_xz_is_what_the_new_text_adds():
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 25}]
    train, val = "The fox ran home. " * 50, "The owl sat still. Été. " * 9
    size = lambda text: len(lzma.compress(text.encode(), filters=filters))  # noqa: E731
    assert xz_bits_per_byte(train, val) == pytest.approx(8 * (size(train + val) - size(train)) / len(val.encode()))
    noise = "".join(chr(33 + i * i * 7 % 89) for i in range(3000))
    assert xz_bits_per_byte(noise, noise) < 0.2 < xz_bits_per_byte("", noise)  # what was seen costs nothing


def test_xz_reads_the_end_of_a_long_history():
    assert xz_bits_per_byte("x" * 1000 + "abc", "abcabc", history=3) == xz_bits_per_byte("abc", "abcabc")


# --- copying ---------------------------------------------------------------------------------------------------------


def test_word_runs():
    assert list(word_runs("a b  c\nd", 3)) == [("a", "b", "c"), ("b", "c", "d")]
    assert list(word_runs("a b", 3)) == []
    spaces = "".join(c for c in map(chr, range(0x11_0000)) if c.isspace())  # line ends of every kind among them
    assert list(word_runs("x".join(spaces), 1)) == [("x",)] * (len(spaces) - 1)


def test_memorised_share_by_hand():
    words = [f"w{i}" for i in range(30)]
    training = [" ".join(words[:15]), " ".join(words[15:])]
    assert memorised_share([" ".join(words[:13])], training) == 1.0
    assert memorised_share([" ".join([*words[:12], "new"])], training) == 0.5
    assert memorised_share([" ".join(words[9:21])], training) == 0.0  # across two documents is not copied
    assert memorised_share([" ".join(words[:12]), " ".join(words[9:21])], training) == 0.5
    assert memorised_share(["too short"], training) is None
    assert memorised_share([], training) is None
    twice = [" ".join(words[:12])] * 2
    assert memorised_share([*twice, " ".join(words[9:21])], training * 3) == 2 / 3  # each run of the text counts


def test_memorised_share_does_not_hold_the_training_text():
    """Pins: a set of all runs of the training text, which takes gigabytes for 100 MB."""
    training = [" ".join(f"{i}.{j}" for j in range(50)) for i in range(2000)]
    tracemalloc.start()
    assert memorised_share([training[0], training[-1]], training) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # the 78,000 runs of the training text are 20 MB


# --- long training texts ---------------------------------------------------------------------------------------------


def test_xz_gets_what_it_reads_of_a_long_text():
    """Joining a whole text for its last 8 MiB took twice the text."""
    from tinygpt.corpus.documents import Documents
    from tinygpt.prepare import last_documents

    documents = Documents(f"document {i} ö" for i in range(50))
    for n_bytes in (0, 1, 100, 10_000):
        last = last_documents(documents, n_bytes)
        assert last == documents[50 - len(last) :]
        end, whole = "\n".join(last).encode(), "\n".join(documents).encode()
        assert whole.endswith(end) and len(end) >= min(n_bytes, len(whole)) and len(last) < 9 + 50 * (n_bytes > 100)
    assert last_documents(documents[:0], 9) == []


def test_baselines_of_a_sample_are_close(tokenizer, texts, monkeypatch):
    train, val = tokenizer.encode_documents(texts[:110] * 20), tokenizer.encode_documents(texts[110:])
    joined = "\n".join(texts[:110]), "\n".join(texts[110:])
    whole = baselines(train, val, tokenizer, *joined)
    monkeypatch.setattr(data, "PIECE_TOKENS", 64)
    monkeypatch.setattr(evaluate, "sample", lambda ids: data.sample(ids, len(train) // 4))
    part = baselines(train, val, tokenizer, *joined)
    assert part["uniform"] == whole["uniform"] and part["xz"] == whole["xz"]
    for name in ("unigram", "bigram"):
        assert part[name] != whole[name] and part[name] == pytest.approx(whole[name], rel=0.1), name
