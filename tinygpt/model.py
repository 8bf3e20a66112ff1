"""TinyGPT: a decoder-only transformer, top to bottom.

A text comes in as token ids and leaves as scores for the next token at every position:

    idx -> embedding (+ positions) -> DecoderBlock x n_layers -> norm -> head -> logits

Each block adds two things to the residual stream: what attention fetched from earlier positions, and what the
feed-forward computed from the position itself. The five axes of `ModelConfig` choose between small classes of one
signature, once, in `__init__`; `forward` never asks which variant it is.

Shapes: B sequences, T positions, S positions seen so far (cache included), C = n_embd, H = n_heads,
G = n_kv_heads, K = d_head, F = d_ff, V = vocab_size.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.config import ModelConfig

# Every activation with a name: the submodule whose output it is, and its shape. `{i}` counts the blocks.
# Hooks, pages and tests read this table; tests/unit/test_model.py holds it against the running model.
ACTIVATIONS: dict[str, tuple[str, str]] = {
    "embedding": ("embedding", "B T C"),
    "block.{i}.input_norm": ("blocks.{i}.norm_1", "B T C"),
    "block.{i}.query": ("blocks.{i}.attention.query", "B T H*K"),
    "block.{i}.key": ("blocks.{i}.attention.key", "B T G*K"),
    "block.{i}.value": ("blocks.{i}.attention.value", "B T G*K"),
    "block.{i}.heads": ("blocks.{i}.attention.heads", "B T H*K"),
    "block.{i}.attention": ("blocks.{i}.attention", "B T C"),
    "block.{i}.hidden": ("blocks.{i}.feed_forward.hidden", "B T F"),
    "block.{i}.feed_forward": ("blocks.{i}.feed_forward", "B T C"),
    "block.{i}": ("blocks.{i}", "B T C"),
    "final_norm": ("norm", "B T C"),
    "logits": ("head", "B T V"),
}


# --- the key/value cache: what attention remembers of earlier tokens -----------------------------------------------


class NoCache:
    """Remembers nothing: the sequence handed in is the whole context. One layer's cache, and the whole model's."""

    length = 0

    def layer(self, index: int) -> NoCache:
        return self

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


class LayerCache:
    """Keys and values of one layer, in buffers of the full context length, filled from the left."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.k, self.v, self.length = like.new_empty(shape), like.new_empty(shape), 0  # (B, G, block_size, K)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, the new ones last. (B, G, T, K) in, (B, G, S, K) out."""
        if self.length and k.shape[2] > 1:
            raise ValueError("a filled cache takes one token at a time; start a new KVCache for another prompt.")
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


class KVCache:
    """Keys and values of all layers for B sequences of equal length: the prompt in one call, then token by token.

    Memory: 2 * n_layers * B * n_kv_heads * block_size * d_head numbers.
    """

    def __init__(self, model: TinyGPT, batch_size: int = 1) -> None:
        c = model.config
        shape = (batch_size, c.n_kv_heads, c.block_size, c.d_head)
        self.layers = [LayerCache(shape, model.embedding.weight) for _ in range(c.n_layers)]

    @property
    def length(self) -> int:
        """Tokens remembered so far."""
        return self.layers[0].length

    def layer(self, index: int) -> LayerCache:
        return self.layers[index]


class Cache(Protocol):
    """What `TinyGPT.forward` needs of a cache; `NoCache` and `KVCache` have it."""

    @property
    def length(self) -> int: ...
    def layer(self, index: int) -> NoCache | LayerCache: ...


# --- axis 1: positions -----------------------------------------------------------------------------------------------


class LearnedPositions(nn.Module):
    """One learned vector per position, added to the token's embedding (GPT-2; Radford et al. 2019)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.block_size, config.n_embd)

    def add(self, x: Tensor, start: int) -> Tensor:
        return x + self.table.weight[start : start + x.shape[1]]  # (B, T, C)

    def rotate(self, x: Tensor, start: int) -> Tensor:
        return x


class RotaryPositions(nn.Module):
    """Queries and keys turned by an angle that grows with the position (Su et al. 2021, "RoFormer").

    The pair (x[j], x[j + K/2]) at position t turns by t * theta^(-2j/K), so a score depends on the distance
    of its two positions alone. Halves, not neighbours, form the pairs: the order that Qwen3 and GGUF use.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        frequencies = config.rope_theta ** -(torch.arange(0, config.d_head, 2) / config.d_head)  # (K/2,)
        angles = torch.outer(torch.arange(config.block_size).float(), frequencies)  # (block_size, K/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def add(self, x: Tensor, start: int) -> Tensor:
        return x

    def rotate(self, x: Tensor, start: int) -> Tensor:
        """(B, H, T, K) -> (B, H, T, K), the first position being `start`."""
        cos, sin = self.cos[start : start + x.shape[2]], self.sin[start : start + x.shape[2]]  # (T, K/2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).type_as(x)


Positions = LearnedPositions | RotaryPositions


# --- axis 2: kind of normalisation; axis 3: its place ----------------------------------------------------------------


def layer_norm(width: int, bias: bool) -> nn.Module:
    """(x - mean) / std, times a weight, plus a bias (Ba et al. 2016)."""
    return nn.LayerNorm(width, eps=1e-5, bias=bias)


class RMSNorm(nn.RMSNorm):
    """PyTorch's, computed in the precision of its weight also where autocast hands it bf16."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def rms_norm(width: int, bias: bool = False) -> nn.Module:
    """x / root-mean-square(x), times a weight; no mean, no bias (Zhang and Sennrich 2019)."""
    return RMSNorm(width, eps=1e-6)


def norm_before(x: Tensor, norm: nn.Module, dropout: nn.Module, layer: nn.Module, *context: object) -> Tensor:
    """x + layer(norm(x)): the stream itself is never normalised, so gradients pass unchanged (pre-LN)."""
    return x + dropout(layer(norm(x), *context))


def norm_after(x: Tensor, norm: nn.Module, dropout: nn.Module, layer: nn.Module, *context: object) -> Tensor:
    """norm(x + layer(x)): the original transformer's order (post-LN; Vaswani et al. 2017)."""
    return norm(x + dropout(layer(x, *context)))


# --- axis 4: feed-forward --------------------------------------------------------------------------------------------


class GeluFeedForward(nn.Module):
    """down(gelu(up(x))), the exact or the tanh form of GELU (Hendrycks and Gimpel 2016)."""

    approximate = "none"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.d_ff, bias=config.bias)
        self.hidden = nn.GELU(approximate=self.approximate)
        self.down = nn.Linear(config.d_ff, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.hidden(self.up(x)))  # (B, T, C) -> (B, T, F) -> (B, T, C)


class TanhGeluFeedForward(GeluFeedForward):
    """GPT-2's form: GELU by its tanh approximation."""

    approximate = "tanh"


class SwigluFeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)): one half decides how much of the other passes (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.d_ff, bias=config.bias)
        self.up = nn.Linear(config.n_embd, config.d_ff, bias=config.bias)
        self.hidden = nn.Identity()  # a name for the gated activation
        self.down = nn.Linear(config.d_ff, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.hidden(F.silu(self.gate(x)) * self.up(x)))  # (B, T, C) -> (B, T, F) -> (B, T, C)


# --- axis 5: QK-norm -------------------------------------------------------------------------------------------------


def no_qk_norm(width: int) -> nn.Module:
    return nn.Identity()


POSITIONS: dict[str, type[Positions]] = {"learned": LearnedPositions, "rotary": RotaryPositions}
NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}
NORM_PLACES = {"before": norm_before, "after": norm_after}
FEED_FORWARDS = {"gelu": GeluFeedForward, "gelu_tanh": TanhGeluFeedForward, "swiglu": SwigluFeedForward}
QK_NORMS = {True: rms_norm, False: no_qk_norm}  # one weight over K, shared by all heads


# --- the model -------------------------------------------------------------------------------------------------------


class CausalAttention(nn.Module):
    """Every position looks at itself and at earlier ones, in H heads side by side.

        head = softmax(q k^T / sqrt(K) + causal mask) v,   output = concat(heads) W_output

    With n_kv_heads < n_heads, several query heads share one key/value head (Ainslie et al. 2023).
    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.d_head = c.d_head
        self.query = nn.Linear(c.n_embd, c.n_heads * c.d_head, bias=c.bias)
        self.key = nn.Linear(c.n_embd, c.n_kv_heads * c.d_head, bias=c.bias)
        self.value = nn.Linear(c.n_embd, c.n_kv_heads * c.d_head, bias=c.bias)
        self.query_norm = QK_NORMS[c.qk_norm](c.d_head)
        self.key_norm = QK_NORMS[c.qk_norm](c.d_head)
        self.heads = nn.Identity()  # a name for the joined heads
        self.output = nn.Linear(c.n_heads * c.d_head, c.n_embd, bias=c.bias)

    def forward(self, x: Tensor, positions: Positions, start: int, cache: NoCache | LayerCache) -> Tensor:
        B, T, _ = x.shape
        q = self.query(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, H, T, K)
        k = self.key(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, G, T, K)
        v = self.value(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, G, T, K)
        q = positions.rotate(self.query_norm(q), start)
        k = positions.rotate(self.key_norm(k), start)
        k, v = cache.append(k, v)  # (B, G, S, K)
        y = self.look(q, k, v, cache)  # (B, H, T, K)
        return self.output(self.heads(y.transpose(1, 2).reshape(B, T, -1)))  # (B, T, C)

    def look(self, q: Tensor, k: Tensor, v: Tensor, cache: NoCache | LayerCache) -> Tensor:
        """softmax(q k^T / sqrt(K) + causal mask) v of every head: (B, H, T, K)."""
        # A single new token (T < S) may see all S positions; otherwise T == S and the mask is the triangle.
        causal = bool(k.shape[2] == q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


class DecoderBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_1 = NORMS[config.norm](config.n_embd, config.bias)
        self.attention = CausalAttention(config)
        self.norm_2 = NORMS[config.norm](config.n_embd, config.bias)
        self.feed_forward = FEED_FORWARDS[config.feed_forward](config)
        self.dropout = nn.Dropout(config.dropout)
        self.add = NORM_PLACES[config.norm_place]

    def forward(self, x: Tensor, positions: Positions, start: int, cache: NoCache | LayerCache) -> Tensor:
        x = self.add(x, self.norm_1, self.dropout, self.attention, positions, start, cache)  # (B, T, C)
        return self.add(x, self.norm_2, self.dropout, self.feed_forward)  # (B, T, C)


class TinyGPT(nn.Module):
    """Logits for the next token at every position: (B, T) ids in, (B, T, V) out.

    Raises ValueError if the context would be longer than `block_size`. Pass a `KVCache` to go on from what it
    remembers: then `idx` holds the new tokens only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = POSITIONS[config.positions](config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layers))
        self.norm = NORMS[config.norm](config.n_embd, config.bias)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.initialise()

    def forward(self, idx: Tensor, cache: Cache = NoCache()) -> Tensor:  # noqa: B008  (it has no state)
        return self.head(self.features(idx, cache))  # (B, T, V)

    def features(self, idx: Tensor, cache: Cache) -> Tensor:
        """What the head reads at every position. (B, T) ids in, (B, T, C) out."""
        start = cache.length
        if start + idx.shape[1] > self.config.block_size:
            raise ValueError(f"{start + idx.shape[1]} tokens do not fit into block_size={self.config.block_size}.")
        x = self.dropout(self.positions.add(self.embedding(idx), start))  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, self.positions, start, cache.layer(i))
        return self.norm(x)

    @torch.no_grad()
    def initialise(self) -> None:
        """Small normal weights, so that the first loss is ln V: no token is preferred before anything is learnt.

        std 0.02; the matrices that write into the residual stream are divided by sqrt(2 n_layers), because that
        many of them add up there (GPT-2). Biases start at 0, norm weights at 1.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                parameter.div_((2 * self.config.n_layers) ** 0.5)

    def parameter_count(self) -> int:
        """Trainable numbers; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())
