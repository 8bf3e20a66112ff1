"""Presets `gpt2` and `modern` equal Hugging Face's GPT-2 and Qwen3 on tiny random weights."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed: GPT-2 and Qwen3 unchecked")

LENGTHS = (1, 2, 7, 16)


def gpt2(model):
    """GPT2LMHeadModel with our weights; its c_attn, c_proj, c_fc are stored transposed, as [in, out]."""
    c = model.config
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=c.vocab_size, n_embd=c.n_embd, n_layer=c.n_layers, n_head=c.n_heads, n_inner=c.d_ff,
            n_positions=c.block_size, activation_function="gelu_new", tie_word_embeddings=c.tied,
            attn_implementation="eager", bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    ours = {name: p.detach().clone() for name, p in model.named_parameters()}
    new = {"transformer.wte.weight": ours.pop("embedding.weight")}
    new["transformer.wpe.weight"] = ours.pop("positions.table.weight")
    for i in range(c.n_layers):
        a, b = f"blocks.{i}.", f"transformer.h.{i}."
        for kind in ("weight", "bias"):
            new[f"{b}ln_1.{kind}"] = ours.pop(f"{a}norm_1.{kind}")
            new[f"{b}ln_2.{kind}"] = ours.pop(f"{a}norm_2.{kind}")
            q, k, v = (ours.pop(f"{a}attention.{name}.{kind}") for name in ("query", "key", "value"))
            new[f"{b}attn.c_attn.{kind}"] = torch.cat((q, k, v)).t()
            new[f"{b}attn.c_proj.{kind}"] = ours.pop(f"{a}attention.output.{kind}").t()
            new[f"{b}mlp.c_fc.{kind}"] = ours.pop(f"{a}feed_forward.up.{kind}").t()
            new[f"{b}mlp.c_proj.{kind}"] = ours.pop(f"{a}feed_forward.down.{kind}").t()
    new |= {f"transformer.ln_f.{kind}": ours.pop(f"norm.{kind}") for kind in ("weight", "bias")}
    return fill(theirs, new, ours, "transformer.wte.weight", c.tied)


def qwen3(model):
    """Qwen3ForCausalLM with our weights."""
    c = model.config
    rotation = {"rope_theta": c.rope_theta}
    if int(transformers.__version__.split(".")[0]) >= 5:
        rotation = {"rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta}}
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.d_ff, num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads, head_dim=c.d_head, rms_norm_eps=1e-6,
            max_position_embeddings=c.block_size, tie_word_embeddings=c.tied, attention_bias=False,
            attn_implementation="eager", **rotation,
        )
    )  # fmt: skip
    ours = {name: p.detach().clone() for name, p in model.named_parameters()}
    new = {"model.embed_tokens.weight": ours.pop("embedding.weight"), "model.norm.weight": ours.pop("norm.weight")}
    parts = {
        "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2", "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output", "self_attn.q_norm": "attention.query_norm",
        "self_attn.k_norm": "attention.key_norm", "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.up", "mlp.down_proj": "feed_forward.down",
    }  # fmt: skip
    for i in range(c.n_layers):
        new |= {f"model.layers.{i}.{b}.weight": ours.pop(f"blocks.{i}.{a}.weight") for b, a in parts.items()}
    return fill(theirs, new, ours, "model.embed_tokens.weight", c.tied)


def fill(theirs, new, left, embedding, tied):
    """Load `new` into `theirs`; fails unless each parameter on both sides is used exactly once."""
    new["lm_head.weight"] = new[embedding] if tied else left.pop("head.weight")
    assert not left, "parameters of ours that have no place there"
    theirs.load_state_dict(new, strict=True)
    return theirs.eval()


def check(model, theirs):
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for T in LENGTHS:
            idx = torch.randint(0, model.config.vocab_size, (3, T), generator=generator)
            ours = model(idx)
            torch.testing.assert_close(ours, theirs(idx).logits, atol=1e-5, rtol=0)
            assert ours.std() > 0.1  # not all near 0, where anything is equal


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fields", [{}, {"d_ff": 72, "n_heads": 2, "n_layers": 3}])
def test_gpt2(make_model, tied, seed, fields):
    model = make_model("gpt2", seed=seed, std=0.1, tied=tied, **fields)
    check(model, gpt2(model))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "fields",
    [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "d_head": 12, "d_ff": 72, "n_layers": 3}, {"rope_theta": 50.0}],
)
def test_qwen3(make_model, tied, seed, fields):
    model = make_model("modern", seed=seed, std=0.1, tied=tied, **fields)
    check(model, qwen3(model))
