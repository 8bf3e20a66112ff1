"""First weights from counting: the product of the factors is the pair table, and a model begins where pairs end."""

import dataclasses

import numpy as np
import pytest
import torch

from tinygpt.config import ModelConfig
from tinygpt.errors import UserError
from tinygpt.evaluate import baselines, bigram_probabilities, score
from tinygpt.model import TinyGPT
from tinygpt.start import pair_factors, start_from_pairs, starts_from_pairs

V = 40


@pytest.fixture(scope="module")
def ids():
    """A chain in which each token has a few likely followers."""
    random = np.random.default_rng(0)
    tokens = [0]
    for _ in range(5000):
        tokens.append(int((tokens[-1] * 7 + random.choice([1, 2, 5, 11], p=[0.5, 0.3, 0.15, 0.05])) % V))
    return np.array(tokens, dtype=np.uint16)


def test_with_enough_columns_the_product_is_the_pair_table(ids):
    """Up to a constant in each row, which softmax does not see."""
    torch.manual_seed(0)
    embedding, head = pair_factors(ids, V, V + 2)
    logits = (embedding @ head.T).double().numpy()
    unigram = (np.bincount(ids, minlength=V) + 0.5) / (np.bincount(ids, minlength=V) + 0.5).sum()
    a, b = (x.ravel() for x in np.meshgrid(np.arange(V), np.arange(V), indexing="ij"))
    pairs = np.stack([a, b], 1).ravel().astype(np.uint16)  # every pair once, at the even places
    table = np.log(bigram_probabilities(ids, pairs, unigram)[::2]).reshape(V, V)
    centred = [x - x.mean(axis=1, keepdims=True) for x in (logits, table)]
    off = np.abs(centred[0] - centred[1]).max(axis=1)
    assert (off < 1e-3).sum() >= V - 1  # the longest row is cut


def test_rows_have_one_length_so_the_norm_changes_nothing(ids):
    torch.manual_seed(0)
    embedding, _ = pair_factors(ids, V, 16)
    torch.testing.assert_close(embedding.square().mean(1), torch.ones(V))


@pytest.mark.parametrize("n_embd", [8, 64])
def test_more_columns_than_tokens_and_fewer(ids, n_embd):
    torch.manual_seed(0)
    for factor in pair_factors(ids, V, n_embd):
        assert factor.shape == (V, n_embd) and factor.isfinite().all()


def test_a_new_model_is_almost_a_bigram_model(texts, tokenizer, machine):
    """Beside the baselines: far below the unigram, not far above the bigram, before any step."""
    train, val = tokenizer.encode_documents(texts[:110]), tokenizer.encode_documents(texts[110:])
    shape = {"vocab_size": tokenizer.vocab_size, "n_embd": 64, "n_heads": 2, "n_layers": 2, "block_size": 32}
    torch.manual_seed(0)
    model = TinyGPT(ModelConfig.from_dict(shape, "modern"))
    untrained = score(model, tokenizer, val, machine).bpb
    start_from_pairs(model, train)
    started = score(model, tokenizer, val, machine).bpb
    simple = baselines(train, val, tokenizer, "\n".join(texts[:110]), "\n".join(texts[110:]))
    assert started < 1.2 * simple["bigram"] < simple["unigram"] < untrained


def test_who_can_start_from_pairs():
    modern = ModelConfig.from_dict({}, "modern")
    assert starts_from_pairs(modern, "auto") and starts_from_pairs(modern, "pairs")
    assert not starts_from_pairs(modern, "random")
    for fields in ({"tied": True}, {"norm": "layernorm"}, {"norm_place": "after"}):
        other = dataclasses.replace(modern, **fields)
        assert not starts_from_pairs(other, "auto")
        with pytest.raises(UserError, match="use start=random"):
            starts_from_pairs(other, "pairs")


def test_the_start_is_the_same_on_any_number_of_threads():
    """Ranks and machines sum in different orders; what they begin with must not depend on it."""
    tokens = np.minimum(np.random.default_rng(0).zipf(1.2, 100_000), 1023).astype(np.uint16)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            found.append(torch.cat(pair_factors(tokens, 1024, 128)))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-6)
