"""Tokens on disk, and batches as a pure function of (seed, step).

A token file is a header and one flat array: <bos> text <eos> <bos> text <eos> ... An epoch cuts the array into
windows of `block_size` + 1 tokens (inputs and, shifted by one, targets) and visits each exactly once, in an order
that depends on (seed, epoch) alone. So a run can stop at any step and go on, and any number of ranks see the same
samples: there is no iterator and nothing to restore.

Shapes: B sequences, T = block_size tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinygpt.errors import BAD_INPUT, MISMATCH, UserError
from tinygpt.storage import sha256, write_atomic
from tinygpt.tokenizer import Tokenizer

MAGIC = b"TINYGPT1"
HEADER_BYTES = 512  # magic and a JSON object, padded with spaces, so that the array starts aligned
Ids = npt.NDArray[np.integer]
U64 = npt.NDArray[np.uint64]


# --- token files -----------------------------------------------------------------------------------------------------


def write_tokens(path: Path, ids: Ids, tokenizer: Tokenizer) -> None:
    """Write a token file: uint16 while every id of the vocabulary fits, else uint32."""
    array = ids.astype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    header = {
        "dtype": array.dtype.name, "count": len(array), "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.sha256, "sha256": sha256(array.tobytes()),
    }  # fmt: skip
    write_atomic(path, (MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES) + array.tobytes())


def read_tokens(path: Path, tokenizer: Tokenizer) -> Ids:
    """The array of a token file, checked before use.

    Raises UserError: exit 65 if the file is not a whole token file or holds an id beyond the vocabulary,
    exit 66 with both digests if it was made with another tokenizer.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.", BAD_INPUT) from None
    try:
        if content[: len(MAGIC)] != MAGIC:
            raise ValueError("it does not start as a token file does")
        header = json.loads(content[len(MAGIC) : HEADER_BYTES])
        dtype = {"uint16": np.uint16, "uint32": np.uint32}[header["dtype"]]
        body = memoryview(content)[HEADER_BYTES:]
        if len(body) != header["count"] * np.dtype(dtype).itemsize:
            raise ValueError(f"its header promises {header['count']} tokens, but the file holds another number")
        if sha256(bytes(body)) != header["sha256"]:
            raise ValueError("its contents have changed since it was written")
        if header["tokenizer"] != tokenizer.sha256:
            raise UserError(
                f"{path.name} was made with tokenizer {header['tokenizer'][:12]}, but this is "
                f"tokenizer {tokenizer.sha256[:12]}; train again, or restore the tokenizer.json of this run.",
                MISMATCH,
            )
        if header["vocab_size"] != tokenizer.vocab_size:
            raise ValueError(f"its header says vocab_size {header['vocab_size']}, not {tokenizer.vocab_size}")
        ids = np.frombuffer(body, dtype=dtype)
        if len(ids) and int(ids.max()) >= tokenizer.vocab_size:
            raise ValueError(f"it holds token {ids.max()}, but the vocabulary ends at {tokenizer.vocab_size - 1}")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a usable token file: {error}; train again to make it anew.", BAD_INPUT) from None
    return ids


# --- the order of an epoch -------------------------------------------------------------------------------------------


def mix(x: U64) -> U64:
    """A number in, a scrambled number out: the finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key_of(seed: int, epoch: U64, purpose: int) -> U64:
    """One key per (seed, epoch, purpose), so that different uses of one seed do not resemble each other."""
    base = np.asarray([seed * 1_000_003 + purpose], dtype=np.uint64)
    return mix(mix(base) + epoch * np.uint64(0x9E3779B97F4A7C15))


def permute(index: U64, n: int, seed: int, epoch: U64) -> U64:
    """Place number `index` of a random order of 0 ... n-1 that depends on (seed, epoch); no table is kept.

    A 4-round Feistel network is a bijection on 2^(2b) >= n numbers; walking on until the result is below n makes
    it one on n (Black and Rogaway 2002). All arguments but n and seed are arrays of one length.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [key_of(seed, epoch, purpose) for purpose in range(4)]
    result = index.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)  # first everybody walks, then those who landed at n or beyond
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix(right + key[outside]) & mask)
        result[outside] = (left << half) | right
        outside = result >= n
    return result


@dataclass(frozen=True)
class Windows:
    """The training windows of a token array: `count` per epoch, the grid shifted by a random offset each epoch.

    The offset lets a token stand at every place of the context in the course of the epochs; it costs up to two
    windows' worth of tokens per epoch, at the ends. Raises UserError if there is not even one window.
    """

    ids: Ids
    block_size: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.ids) < self.block_size + 1:
            raise UserError(
                f"the training text has {len(self.ids)} tokens, but block_size={self.block_size} needs at least "
                f"{self.block_size + 1}; use block_size={max(8, len(self.ids) - 1)} or more text.",
                BAD_INPUT,
            )

    @property
    def count(self) -> int:
        """Windows per epoch."""
        return max(1, (len(self.ids) - 1) // self.block_size - 1)

    def starts(self, samples: U64) -> U64:
        """First token of each sample; samples are numbered 0, 1, 2, ... through all epochs."""
        n = np.uint64(self.count)
        epoch = samples // n
        slack = np.uint64(len(self.ids) - 1 - self.count * self.block_size)
        offset = key_of(self.seed, epoch, purpose=4) % (slack + np.uint64(1))
        return permute(samples % n, self.count, self.seed, epoch) * np.uint64(self.block_size) + offset

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of `rank`'s share of a step: every `world`-th sample of the global batch."""
        first = step * batch_size
        samples = np.arange(first + rank, first + batch_size, world, dtype=np.uint64)
        rows = self.starts(samples)[:, None] + np.arange(self.block_size + 1, dtype=np.uint64)  # (B, T+1)
        tokens = torch.from_numpy(self.ids[rows].astype(np.int64))
        return tokens[:, :-1], tokens[:, 1:]


def scoring_windows(ids: Ids, block_size: int) -> list[tuple[int, int]]:
    """[start, end) of the inputs of consecutive windows that score every token but the first exactly once."""
    return [(start, min(start + block_size, len(ids) - 1)) for start in range(0, len(ids) - 1, block_size)]


def total_bytes(ids: Ids, bytes_per_id: Sequence[int] | npt.NDArray[np.int64]) -> int:
    """UTF-8 bytes of the tokens [bytes]; special tokens count 0."""
    return int(np.asarray(bytes_per_id)[ids].sum())
