"""The tutorial's model and training loop as a plain script has them: eager PyTorch in fp32, AdamW 3e-4, no schedule.

Token and learned position embeddings, post-LN blocks of nn.MultiheadAttention and a GELU feed-forward, an untied
head, PyTorch's own first weights. An epoch is every window of the text once, in random order. Three parts of a plain
script are left out because they only cost it time: attention weights that nobody reads, printing, saving.

Besides the common protocol (protocol.py) a job may ask for time to quality: `epochs` instead of steps and seconds,
and train_tokens null. Then the script makes its own tokenizer of at most shape["vocab_size"] from train_text,
evaluates after each epoch and stops at `target_bpb`. The answer has two fields more: `curve`, a list of
[epoch, bits per byte], and `evaluation_s`, the seconds spent on it.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.protocol import StepClock, answer, read_job


class DecoderBlock(nn.Module):
    """Attention, then feed-forward, each added and then normalised."""

    def __init__(self, n_embd: int, n_heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(n_embd, n_heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))
        self.norm_1, self.norm_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])  # (B, T, C)
        return self.norm_2(x + self.feed_forward(x))


class TinyGPT(nn.Module):
    """The tutorial's decoder-only transformer."""

    def __init__(self, vocab_size: int, n_embd: int, n_heads: int, n_layers: int, block_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList(DecoderBlock(n_embd, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, idx: Tensor) -> Tensor:
        length = idx.shape[1]
        x = self.tokens(idx) + self.positions(torch.arange(length, device=idx.device))  # (B, T, C)
        mask = torch.triu(torch.ones(length, length, dtype=torch.bool, device=idx.device), diagonal=1)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))  # (B, T, V)


def epoch_of_batches(ids: Tensor, batch_size: int, block_size: int) -> list[Tensor]:
    """All windows of block_size + 1 tokens in random order, (B, T + 1) each; a last incomplete batch is dropped."""
    count = (len(ids) - 1) // block_size
    rows = torch.arange(count)[:, None] * block_size + torch.arange(block_size + 1)  # (count, T + 1)
    full = max(1, count // batch_size) * batch_size
    return [ids[rows[chosen]] for chosen in torch.randperm(count)[:full].split(batch_size)]


@torch.no_grad()
def bits_per_byte(model: TinyGPT, ids: Tensor, n_bytes: int, block_size: int) -> float:
    """Cost of a text, each token but the first scored once in windows of block_size [bits/byte]."""
    nats = 0.0
    for window in [ids[i : i + block_size + 1] for i in range(0, len(ids) - 1, block_size)]:
        nats += F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum").item()
    return nats / math.log(2) / n_bytes


def make_tokens(job: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, int]:
    """Training and validation ids and the size of the vocabulary: as given, or by a tokenizer made here."""
    if job["train_tokens"]:
        return np.load(job["train_tokens"]), np.load(job["val_tokens"]), job["shape"]["vocab_size"]
    from tinygpt.tokenizer import train_tokenizer

    texts = [Path(job[name]).read_text(encoding="utf-8") for name in ("train_text", "val_text")]
    tokenizer = train_tokenizer(texts[:1], job["shape"]["vocab_size"])
    train, val = (tokenizer.encode_documents([text]) for text in texts)
    return train, val, tokenizer.vocab_size


def main() -> None:
    """Train as the job says."""
    job, device = read_job(), None
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    device = torch.device(job["device"])
    train, val, vocab_size = make_tokens(job)
    train_ids, val_ids = (torch.from_numpy(ids.astype(np.int64)).to(device) for ids in (train, val))
    shape, B, T = job["shape"], job["batch_size"], job["block_size"]
    model = TinyGPT(vocab_size, shape["n_embd"], shape["n_heads"], shape["n_layers"], T).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    epochs = job.get("epochs")
    clock = StepClock(job, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    curve, evaluation_s, steps, epoch, finished = [], 0.0, 0, 0, False
    began = time.perf_counter()
    while not finished:
        for batch in epoch_of_batches(train_ids, B, T):
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if not epochs and clock.tick():
                finished = True
                break
        epoch += 1
        if epochs:
            evaluation_began = time.perf_counter()
            curve.append([epoch, bits_per_byte(model, val_ids, job["val_bytes"], T)])
            evaluation_s += time.perf_counter() - evaluation_began
            finished = epoch == epochs or curve[-1][1] <= job["target_bpb"]
    if not epochs:
        answer(**clock.figures())
        return
    seconds = time.perf_counter() - began - evaluation_s
    speed = {"tokens_per_s": steps * B * T / seconds, "step_s": seconds / steps, "seconds": seconds}
    answer(**speed, bpb=curve[-1][1], curve=curve, evaluation_s=evaluation_s)


if __name__ == "__main__":
    main()
