"""A GPT-2-style model as common PyTorch training scripts have it: torch.compile, bf16 autocast on a GPU, fused AdamW.

Pre-LN blocks, learned positions, GELU, one matrix for queries, keys and values, head tied to the embedding; windows
from random places, sent to the device while the one before is computed. Widths, layers and vocabulary are the job's.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.protocol import StepClock, answer, read_job


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream."""

    def __init__(self, n_embd: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.qkv, self.output = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.up, self.down = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(heads.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    """Token ids and the ids after them to their mean cross-entropy."""

    def __init__(self, vocab_size: int, n_embd: int, n_heads: int, n_layers: int, block_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block(n_embd, n_heads) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(n_embd)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(idx) + self.positions.weight[: idx.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main() -> None:
    """Train as the job says."""
    job = read_job()
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    torch.set_float32_matmul_precision("high")
    device, shape, B, T = torch.device(job["device"]), job["shape"], job["batch_size"], job["block_size"]
    ids, draw = np.load(job["train_tokens"]), np.random.default_rng(job["seed"])
    model = GPT(shape["vocab_size"], shape["n_embd"], shape["n_heads"], shape["n_layers"], T).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    compiled = torch.compile(model)
    on_gpu = device.type == "cuda"
    autocast = torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()

    def batch() -> Tensor:
        firsts = draw.integers(len(ids) - T - 1, size=B)
        tokens = torch.from_numpy(ids[firsts[:, None] + np.arange(T + 1)].astype(np.int64))  # (B, T + 1)
        return tokens.pin_memory().to(device, non_blocking=True) if on_gpu else tokens

    clock = StepClock(job, torch.cuda.synchronize if on_gpu else lambda: None)
    tokens, finished = batch(), False
    while not finished:
        with autocast:
            loss = compiled(tokens[:, :-1], tokens[:, 1:])
        tokens = batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        finished = clock.tick()
    answer(**clock.figures())


if __name__ == "__main__":
    main()
