"""Preset `tutorial` is the tutorial's model, weight for weight: held against a plain nn.MultiheadAttention version."""

import pytest
import torch
from torch import nn

from tinygpt.config import ModelConfig, model_config
from tinygpt.model import TinyGPT


class PlainBlock(nn.Module):
    """The tutorial's DecoderBlock."""

    def __init__(self, n_embd, n_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(n_embd, n_heads, batch_first=True)
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.ff = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x, mask):
        attended, _ = self.attn(x, x, x, attn_mask=mask, need_weights=False)
        x = self.ln1(x + attended)
        return self.ln2(x + self.ff(x))


class PlainGPT(nn.Module):
    """The tutorial's TinyGPT."""

    def __init__(self, vocab_size, n_embd, n_heads, n_layers, block_size):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Embedding(block_size, n_embd)
        self.layers = nn.ModuleList(PlainBlock(n_embd, n_heads) for _ in range(n_layers))
        self.ln = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, idx):
        T = idx.shape[1]
        x = self.token_emb(idx) + self.pos_emb(torch.arange(T))
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.ln(x))


def ours_to_plain(weights, n_layers):
    """The plain model's state dict; takes each of our tensors out of `weights` exactly once."""
    theirs = {"token_emb.weight": weights.pop("embedding.weight")}
    theirs["pos_emb.weight"] = weights.pop("positions.table.weight")
    for i in range(n_layers):
        a, b = f"blocks.{i}.", f"layers.{i}."
        for kind in ("weight", "bias"):
            q, k, v = (weights.pop(f"{a}attention.{name}.{kind}") for name in ("query", "key", "value"))
            theirs[f"{b}attn.in_proj_{kind}"] = torch.cat((q, k, v))
            theirs[f"{b}attn.out_proj.{kind}"] = weights.pop(f"{a}attention.output.{kind}")
            theirs[f"{b}ln1.{kind}"] = weights.pop(f"{a}norm_1.{kind}")
            theirs[f"{b}ln2.{kind}"] = weights.pop(f"{a}norm_2.{kind}")
            theirs[f"{b}ff.0.{kind}"] = weights.pop(f"{a}feed_forward.up.{kind}")
            theirs[f"{b}ff.2.{kind}"] = weights.pop(f"{a}feed_forward.down.{kind}")
    theirs |= {"ln.weight": weights.pop("norm.weight"), "ln.bias": weights.pop("norm.bias")}
    theirs["head.weight"] = weights.pop("head.weight")
    return theirs


@pytest.mark.parametrize("seed", [0, 1])
def test_logits_equal_the_plain_versions(make_model, seed):
    """Every length of context, random norms and biases; strict loading uses each parameter on both sides once."""
    model = make_model("tutorial", seed=seed, std=0.15, n_layers=3)
    plain = PlainGPT(259, 32, 4, 3, 16).eval()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain.load_state_dict(ours_to_plain(weights, 3), strict=True)
    assert not weights
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for T in (1, 2, 5, 16):
            idx = torch.randint(0, 259, (3, T), generator=generator)
            torch.testing.assert_close(model(idx), plain(idx), atol=1e-5, rtol=0)
            assert model(idx).std() > 0.1  # the logits are not all near 0, where anything is equal


def test_gradients_equal_the_plain_versions(make_model):
    """The same function has the same slope; a detached or doubled path would show here alone."""
    model, plain = make_model("tutorial", std=0.15), PlainGPT(259, 32, 4, 2, 16).eval()
    plain.load_state_dict(ours_to_plain({name: p.detach().clone() for name, p in model.named_parameters()}, 2))
    idx = torch.randint(0, 259, (3, 17), generator=torch.Generator().manual_seed(5))
    for m in (model, plain):
        nn.functional.cross_entropy(m(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten()).backward()
    ours = ours_to_plain({name: p.grad for name, p in model.named_parameters()}, 2)
    for name, p in plain.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_the_tutorials_config_has_the_tutorials_size():
    ours = TinyGPT(ModelConfig.from_dict(model_config))
    assert ours.parameter_count() == 3_254_272 == sum(p.numel() for p in PlainGPT(**model_config).parameters())
