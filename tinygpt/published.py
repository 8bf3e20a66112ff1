"""What the published shapes call our tensors: the names of Qwen3ForCausalLM and GPT2LMHeadModel beside ours.

One table for both ways: export/hf.py writes these names, inherit/hf.py reads them. GPT-2 stores c_attn, c_proj and c_fc
as [in, out], the transpose of nn.Linear, and query, key and value as one matrix.
"""

from __future__ import annotations

from tinygpt.config import ModelConfig

PREFIX = {"qwen3": "model.", "gpt2": "transformer."}  # of every name but the head's
HEAD = "lm_head.weight"
QWEN3_BLOCK = {
    "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2", "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value", "self_attn.o_proj": "attention.output",
    "self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm",
    "mlp.gate_proj": "feed_forward.gate", "mlp.up_proj": "feed_forward.up", "mlp.down_proj": "feed_forward.down",
}  # fmt: skip
GPT2_NORMS = {"ln_1": "norm_1", "ln_2": "norm_2"}
GPT2_MATRICES = {  # stored transposed; several of ours are one of theirs, side by side
    "attn.c_attn": ("attention.query", "attention.key", "attention.value"), "attn.c_proj": ("attention.output",),
    "mlp.c_fc": ("feed_forward.up",), "mlp.c_proj": ("feed_forward.down",),
}  # fmt: skip


def our_names(shape: str, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Their name, without its prefix -> our tensors, of which it is made row under row, for every tensor they have."""
    table: dict[str, tuple[str, ...]] = {HEAD: ("head.weight",)} if not config.tied else {}
    if shape == "qwen3":
        table |= {"embed_tokens.weight": ("embedding.weight",), "norm.weight": ("norm.weight",)}
        for i in range(config.n_layers):
            table |= {f"layers.{i}.{b}.weight": (f"blocks.{i}.{a}.weight",) for b, a in QWEN3_BLOCK.items()}
        return table
    table |= {"wte.weight": ("embedding.weight",), "wpe.weight": ("positions.table.weight",)}
    for kind in ("weight", "bias"):
        table[f"ln_f.{kind}"] = (f"norm.{kind}",)
        for i in range(config.n_layers):
            parts = {**{name: (ours,) for name, ours in GPT2_NORMS.items()}, **GPT2_MATRICES}
            for name, ours in parts.items():
                table[f"h.{i}.{name}.{kind}"] = tuple(f"blocks.{i}.{part}.{kind}" for part in ours)
    return table


def is_transposed(name: str) -> bool:
    """Whether they store this tensor as [in, out]."""
    return name.endswith(tuple(f".{matrix}.weight" for matrix in GPT2_MATRICES))
