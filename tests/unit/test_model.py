"""The model's parts: names and shapes of activations, attention by the textbook, what a context may be, dropout."""

import math

import pytest
import torch

from tinygpt.config import PRESETS, ModelConfig, model_config
from tinygpt.model import ACTIVATIONS, KVCache, TinyGPT

SHARED = {"n_heads": 4, "n_kv_heads": 2}  # two query heads per key/value head


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fields", [{}, {**SHARED, "d_head": 6, "d_ff": 40}])
def test_the_table_of_activations_is_the_running_model(make_model, preset, fields):
    """Pages and tools hook these names; a renamed module or another shape would break them silently."""
    model, c = make_model(preset, **fields), make_model(preset, **fields).config
    B, T = 3, 5
    sizes = {
        "B": B, "T": T, "C": c.n_embd, "V": c.vocab_size, "F": c.d_ff,
        "H*K": c.n_heads * c.d_head, "G*K": c.n_kv_heads * c.d_head,
    }  # fmt: skip
    seen: dict[str, tuple[int, ...]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for template, (module, shape) in ACTIVATIONS.items():
        for i in range(c.n_layers) if "{i}" in template else [0]:
            name = template.format(i=i)
            expected[name] = tuple(sizes[letter] for letter in shape.split())
            model.get_submodule(module.format(i=i)).register_forward_hook(
                lambda _module, _inputs, output, name=name: seen.__setitem__(name, tuple(output.shape))
            )
    model(torch.zeros(B, T, dtype=torch.long))
    assert seen == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_covers_every_block_part(make_model, preset):
    """What `heads`, `hidden` and `logits` show is what the next module reads: no second computation beside it."""
    model = make_model(preset)
    caught = {}
    keep = lambda name: lambda _m, inputs, output: caught.__setitem__(name, (inputs[0], output))  # noqa: E731
    for name in ("attention.heads", "attention.output", "attention", "feed_forward.hidden", "feed_forward.down"):
        model.blocks[1].get_submodule(name).register_forward_hook(keep(name))
    logits = model(torch.arange(8)[None])
    model.head.register_forward_hook(keep("head"))
    assert torch.equal(model(torch.arange(8)[None]), logits) and torch.equal(caught["head"][1], logits)
    assert caught["attention.heads"][1] is caught["attention.output"][0]
    assert caught["attention.output"][1] is caught["attention"][1]
    assert caught["feed_forward.hidden"][1] is caught["feed_forward.down"][0]


def explicit_attention(attention, x, rotate):
    """softmax(q k^T / sqrt(K) + mask) v with loops over heads: slow and clear."""
    T = x.shape[1]
    K = attention.d_head
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    n_heads, n_kv_heads = q.shape[-1] // K, k.shape[-1] // K
    heads = []
    for h in range(n_heads):
        g = h // (n_heads // n_kv_heads)
        q_h = rotate(attention.query_norm(q[..., h * K : (h + 1) * K]))  # (B, T, K)
        k_g = rotate(attention.key_norm(k[..., g * K : (g + 1) * K]))
        scores = q_h @ k_g.transpose(1, 2) / math.sqrt(K)  # (B, T, T)
        scores = scores.masked_fill(torch.triu(torch.ones(T, T, dtype=torch.bool), 1), -math.inf)
        heads.append(torch.softmax(scores, -1) @ v[..., g * K : (g + 1) * K])
    return attention.output(torch.cat(heads, -1))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fields", [{}, SHARED, {"n_heads": 4, "n_kv_heads": 1, "d_head": 12}])
def test_attention_is_the_textbooks(make_model, preset, fields):
    """The fused operator against the formula: mask, scale, sharing of key/value heads, norms before the rotation."""
    model = make_model(preset, std=0.4, **fields)
    x = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1))
    rotate = lambda y: model.positions.rotate(y[:, None], 0)[:, 0]  # noqa: E731
    got = []
    model.blocks[0].attention.register_forward_hook(lambda *hook: got.append(hook[2]))
    model.blocks[0].attention(x, model.positions, 0, KVCache(model, 2).layer(0))
    torch.testing.assert_close(got[0], explicit_attention(model.blocks[0].attention, x, rotate), atol=2e-5, rtol=1e-5)


def test_parameter_counts_by_hand():
    """The tutorial's 3,254,272, and the other presets from their matrices."""
    assert TinyGPT(ModelConfig.from_dict(model_config)).parameter_count() == 3_254_272
    V, C, L, F, T = 300, 64, 3, 192, 32
    shape = {"vocab_size": V, "n_embd": C, "n_layers": L, "n_heads": 4, "block_size": T, "tied": True}
    modern = TinyGPT(ModelConfig.from_dict(shape, "modern"))
    assert modern.parameter_count() == V * C + L * (4 * C * C + 2 * 16 + 3 * C * F + 2 * C) + C
    gpt2 = TinyGPT(ModelConfig.from_dict(shape, "gpt2"))
    assert gpt2.parameter_count() == (V + T) * C + L * (12 * C * C + 13 * C) + 2 * C


def test_a_tied_head_is_the_embedding():
    tied = TinyGPT(ModelConfig(vocab_size=259, n_embd=32, tied=True, n_layers=1))
    untied = TinyGPT(ModelConfig(vocab_size=259, n_embd=32, n_layers=1))
    assert tied.head.weight is tied.embedding.weight
    assert untied.parameter_count() - tied.parameter_count() == 259 * 32


@pytest.mark.parametrize("preset", PRESETS)
def test_bias_false_leaves_no_bias_and_qk_norm_one_weight_per_head_width(preset):
    model = TinyGPT(ModelConfig.from_dict({"vocab_size": 259, "n_embd": 32, "bias": False, "qk_norm": True}, preset))
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert model.blocks[0].attention.query_norm.weight.shape == (8,)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_context_longer_than_block_size_is_refused(make_model, preset):
    """The tutorial ran past its positions and crashed in the embedding."""
    model = make_model(preset)
    assert model(torch.zeros(1, 16, dtype=torch.long)).shape == (1, 16, 259)
    with pytest.raises(ValueError, match="17 tokens do not fit into block_size=16"):
        model(torch.zeros(1, 17, dtype=torch.long))
    cache = KVCache(model)
    model(torch.zeros(1, 16, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="17 tokens do not fit into block_size=16"):
        model(torch.zeros(1, 1, dtype=torch.long), cache)


@pytest.mark.parametrize("preset", PRESETS)
def test_positions_matter_and_start_is_honoured(make_model, preset):
    """Equal tokens at different places must give different logits, or order is invisible to the model."""
    logits = make_model(preset)(torch.tensor([[5, 9, 5, 9, 5]]))[0]
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)
    swapped = make_model(preset)(torch.tensor([[9, 5, 5]]))[0, -1]
    assert not torch.allclose(swapped, make_model(preset)(torch.tensor([[5, 9, 5]]))[0, -1], atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_dropout_acts_in_training_alone(make_model, preset):
    model, idx = make_model(preset, dropout=0.3), torch.arange(10)[None]
    assert torch.equal(model(idx), make_model(preset, dropout=0.0)(idx))
    model.train()
    assert not torch.equal(model(idx), model(idx))


def test_initial_weights_are_gpt2s():
    """std 0.02, divided by sqrt(2 n_layers) where a matrix writes into the stream; biases 0, norms 1."""
    torch.manual_seed(0)
    model = TinyGPT(ModelConfig.from_dict({"vocab_size": 1000, "n_embd": 128, "n_layers": 8}))
    for name, p in model.named_parameters():
        if p.dim() >= 2:
            writes = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            assert p.std().item() == pytest.approx(0.02 / 4 if writes else 0.02, rel=0.05), name
            assert abs(p.mean().item()) < 1e-3
        else:
            assert torch.equal(p, torch.full_like(p, float("norm" in name and name.endswith("weight")))), name


def test_seeds_decide_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return TinyGPT(ModelConfig(vocab_size=259, n_embd=32, n_layers=1)).head.weight

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))
