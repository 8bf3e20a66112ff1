"""TinyGPT, preset tutorial, for transformers: the one shape of tinygpt that no library has.

This file was written by `tinygpt export RUN --to hf`. transformers runs it only when told to:

    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # transformers 5 asks for it here too
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

LayerNorm after each sum, exact GELU, learned positions, causal attention. It computes what tinygpt computes, without a
key/value cache. B sequences, T positions, C = n_embd, H = n_heads, K = d_head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class TinyGPTConfig(PretrainedConfig):
    """The shape, under tinygpt's names; transformers finds its own names by `attribute_map`."""

    model_type = "tinygpt"
    attribute_map = {  # noqa: RUF012  (transformers declares it so)
        "hidden_size": "n_embd", "num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads",
        "num_hidden_layers": "n_layers", "max_position_embeddings": "block_size", "head_dim": "d_head",
        "intermediate_size": "d_ff",
    }  # fmt: skip

    def __init__(
        self, vocab_size: int = 8000, n_embd: int = 128, n_heads: int = 4, n_kv_heads: int = 4, n_layers: int = 6,
        block_size: int = 128, d_head: int = 32, d_ff: int = 512, bias: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.vocab_size, self.n_embd, self.n_layers, self.block_size = vocab_size, n_embd, n_layers, block_size
        self.n_heads, self.n_kv_heads, self.d_head, self.d_ff, self.bias = n_heads, n_kv_heads, d_head, d_ff, bias
        super().__init__(**kwargs)


class Attention(nn.Module):
    """Every position looks at itself and at earlier ones that are no padding."""

    def __init__(self, c: TinyGPTConfig) -> None:
        super().__init__()
        self.d_head = c.d_head
        self.query = nn.Linear(c.n_embd, c.n_heads * c.d_head, bias=c.bias)
        self.key = nn.Linear(c.n_embd, c.n_kv_heads * c.d_head, bias=c.bias)
        self.value = nn.Linear(c.n_embd, c.n_kv_heads * c.d_head, bias=c.bias)
        self.output = nn.Linear(c.n_heads * c.d_head, c.n_embd, bias=c.bias)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (
            layer(x).view(B, T, -1, self.d_head).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # (B, H, T, K)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
        return self.output(y.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)


class FeedForward(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, c: TinyGPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(c.n_embd, c.d_ff, bias=c.bias)
        self.down = nn.Linear(c.d_ff, c.n_embd, bias=c.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream, which is normalised after each sum."""

    def __init__(self, c: TinyGPTConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(c.n_embd, eps=1e-5, bias=c.bias)
        self.attention = Attention(c)
        self.norm_2 = nn.LayerNorm(c.n_embd, eps=1e-5, bias=c.bias)
        self.feed_forward = FeedForward(c)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x, visible))
        return self.norm_2(x + self.feed_forward(x))


class Positions(nn.Module):
    """One learned vector per position."""

    def __init__(self, c: TinyGPTConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(c.block_size, c.n_embd)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions)


class TinyGPTForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Logits for the next token at every position."""

    config_class = TinyGPTConfig
    main_input_name = "input_ids"

    def __init__(self, config: TinyGPTConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.n_embd, eps=1e-5, bias=config.bias)
        if not config.tie_word_embeddings:  # a tied head is the embedding itself
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module | None:
        return None if self.config.tie_word_embeddings else self.head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> CausalLMOutput:
        """attention_mask: 1 where a token is, 0 where padding is, (B, T); positions count the tokens alone.

        Raises ValueError beyond block_size.
        """
        T = input_ids.shape[1]
        if self.config.block_size < T:
            raise ValueError(f"{T} tokens do not fit into block_size={self.config.block_size}.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)  # (B, T)
        earlier = torch.ones(T, T, dtype=torch.bool, device=input_ids.device).tril()
        itself = torch.eye(T, dtype=torch.bool, device=input_ids.device)  # padding looks at itself, lest it be NaN
        visible = (earlier & mask.bool()[:, None, None, :]) | itself  # (B, 1, T, T)
        x = self.embedding(input_ids) + self.positions(positions)
        for block in self.blocks:
            x = block(x, visible)
        x = self.norm(x)
        weight = self.embedding.weight if self.config.tie_word_embeddings else self.head.weight
        logits = F.linear(x, weight)  # (B, T, vocab_size)
        loss = None
        if labels is not None:  # shifted here, as transformers has it: labels are the input ids
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole text each time: there is no cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
