"""Hugging Face's Qwen3 in the shape of a tinygpt model of --preset modern, with random weights or with tinygpt's."""

from __future__ import annotations

from typing import Any

OUTSIDE = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
IN_A_BLOCK = {
    "norm_1": "input_layernorm", "norm_2": "post_attention_layernorm", "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj", "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm", "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj", "feed_forward.down": "mlp.down_proj",
}  # fmt: skip


def make_qwen3(shape: dict[str, Any]) -> Any:
    """Qwen3ForCausalLM with random weights, every field of the shape carried over."""
    import transformers

    rotation: dict[str, Any] = {"rope_theta": shape["rope_theta"]}
    if int(transformers.__version__.split(".")[0]) >= 5:
        rotation = {"rope_parameters": {"rope_type": "default", "rope_theta": shape["rope_theta"]}}
    config = transformers.Qwen3Config(
        vocab_size=shape["vocab_size"], hidden_size=shape["n_embd"], intermediate_size=shape["d_ff"],
        num_hidden_layers=shape["n_layers"], num_attention_heads=shape["n_heads"],
        num_key_value_heads=shape["n_kv_heads"], head_dim=shape["d_head"], rms_norm_eps=1e-6,
        max_position_embeddings=shape["block_size"], tie_word_embeddings=shape["tied"], attention_bias=False,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, **rotation,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config)


def copy_weights(ours: Any, theirs: Any) -> None:
    """Give a Qwen3ForCausalLM the weights of a TinyGPT of the same shape; each parameter is used exactly once."""
    left = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    new = {there: left.pop(here) for here, there in OUTSIDE.items()}
    for i in range(ours.config.n_layers):
        for here, there in IN_A_BLOCK.items():
            new[f"model.layers.{i}.{there}.weight"] = left.pop(f"blocks.{i}.{here}.weight")
    new["lm_head.weight"] = new["model.embed_tokens.weight"] if ours.config.tied else left.pop("head.weight")
    if left:
        raise ValueError(f"parameters without a place in Qwen3: {', '.join(left)}")
    theirs.load_state_dict(new, strict=True)
