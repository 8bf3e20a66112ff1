"""Tokens on disk, and batches as a pure function of (seed, step).

A token file is a header and one flat array: <bos> text <eos> <bos> text <eos> ... An epoch cuts the array into
windows of `block_size` + 1 tokens (inputs and, shifted by one, targets) and visits each exactly once, in an order
that depends on (seed, epoch) alone. So a run can stop at any step and go on, and any number of ranks see the same
samples: there is no iterator and nothing to restore.

The tokens of a long text stay on the disk: the array is a map of the file, which the system reads where it is used.

Shapes: B sequences, T = block_size tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinygpt.corpus.documents import IN_MEMORY_BYTES, Scratch
from tinygpt.errors import BAD_INPUT, MISMATCH, UserError
from tinygpt.storage import append, fsync_file, open_regular, write_atomic
from tinygpt.tokenizer import Tokenizer

MAGIC = b"TINYGPT1"
HEADER_BYTES = 512  # magic and a JSON object, padded with spaces, so that the array starts aligned
PART_TOKENS = 1 << 20  # of a long array in memory at once
ON_DEVICE_BYTES = 4 << 30  # of tokens in the memory of a GPU; beyond that they are sent batch by batch
DRAWN_TOGETHER = 2048  # samples whose places are computed at once
SAMPLE_TOKENS, PIECE_TOKENS = 1 << 24, 1 << 14  # enough to count pairs: more would only take longer
Ids = npt.NDArray[np.integer]
U64 = npt.NDArray[np.uint64]


# --- token files -----------------------------------------------------------------------------------------------------


def parts(ids: Ids, overlap: int = 0) -> Iterator[Ids]:
    """The array in order, PART_TOKENS at a time and the first `overlap` of the next; what was mapped is let go."""
    for start in range(0, len(ids), PART_TOKENS):
        yield np.array(ids[start : start + PART_TOKENS + overlap])
        let_go(ids)


def let_go(ids: Ids) -> None:
    """Pages of a mapped array that were read count as this process's memory until it gives them back."""
    mapped = getattr(ids, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # Windows takes them back by itself
        mapped.madvise(mmap.MADV_DONTNEED)


def sample(ids: Ids, most: int = SAMPLE_TOKENS) -> Ids:
    """All of `ids` if they are at most `most`, else so many, in pieces from evenly spaced places.

    Where two pieces meet, the pair of tokens is no pair of the text: one in PIECE_TOKENS.
    """
    if len(ids) <= most:
        return ids
    starts = np.linspace(0, len(ids) - PIECE_TOKENS, most // PIECE_TOKENS).astype(np.int64).tolist()
    return np.concatenate([piece for start in starts for piece in parts(ids[start : start + PIECE_TOKENS])])


def digest(*arrays: Ids) -> str:
    """sha256 hex of the bytes of the arrays, one after the other."""
    result = hashlib.sha256()
    for array in arrays:
        for part in parts(array):
            result.update(part.tobytes())
    return result.hexdigest()


def encode(documents: Iterable[str], tokenizer: Tokenizer) -> Ids:
    """What `tokenizer.encode_documents` gives, in the type of a token file; a long text's ids in a temporary file."""
    file = Scratch()
    for ids in tokenizer.encode_in_parts(documents):
        file.write(ids.astype(dtype_of(tokenizer)).tobytes())
    return _array(file, dtype_of(tokenizer))


def dtype_of(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    """uint16 while every id of the vocabulary fits, else uint32."""
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32


def _array(file: Any, dtype: type, first: int = 0) -> Ids:
    """The array that begins at byte `first` of an open file: in memory, or mapped if it is long."""
    size = file.seek(0, os.SEEK_END)
    if size <= IN_MEMORY_BYTES:
        file.seek(first)
        return np.frombuffer(file.read(), dtype=dtype)
    return np.memmap(file, dtype, "r", offset=first)


def write_tokens(path: Path, ids: Ids, tokenizer: Tokenizer) -> None:
    """Write a token file, of the type `dtype_of`, part by part; what is interrupted is refused by `read_tokens`."""
    dtype = dtype_of(tokenizer)
    stored = lambda: (part.astype(dtype).tobytes() for part in parts(ids))  # noqa: E731
    body = hashlib.sha256()
    for data in stored():
        body.update(data)
    header = {
        "dtype": np.dtype(dtype).name, "count": len(ids), "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.sha256, "sha256": body.hexdigest(),
    }  # fmt: skip
    write_atomic(path, (MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES))
    for data in stored():
        append(path, data)
    fsync_file(path)


def read_tokens(path: Path, tokenizer: Tokenizer) -> Ids:
    """The array of a token file, checked before use; a long one is mapped, and checked without being held in memory.

    Raises UserError: exit 65 if the file is not a whole token file or holds an id beyond the vocabulary,
    exit 66 with both digests if it was made with another tokenizer.
    """
    try:
        with open_regular(path) as file:
            return _checked(file, path.name, tokenizer)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.", BAD_INPUT) from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a usable token file: {error}; train again to make it anew.", BAD_INPUT) from None


def _checked(file: BinaryIO, name: str, tokenizer: Tokenizer) -> Ids:
    """Raises UserError for another tokenizer, ValueError, KeyError or TypeError for a damaged file."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not start as a token file does")
    header = json.loads(file.read(HEADER_BYTES - len(MAGIC)))
    dtype = {"uint16": np.uint16, "uint32": np.uint32}[header["dtype"]]
    if file.seek(0, os.SEEK_END) - HEADER_BYTES != header["count"] * np.dtype(dtype).itemsize:
        raise ValueError(f"its header promises {header['count']} tokens, but the file holds another number")
    file.seek(HEADER_BYTES)
    body, largest = hashlib.sha256(), 0
    while block := file.read(PART_TOKENS * np.dtype(dtype).itemsize):
        body.update(block)
        largest = max(largest, int(np.frombuffer(block, dtype).max()))
    if body.hexdigest() != header["sha256"]:
        raise ValueError("its contents have changed since it was written")
    if header["tokenizer"] != tokenizer.sha256:
        raise UserError(
            f"{name} was made with tokenizer {header['tokenizer'][:12]}, but this is "
            f"tokenizer {tokenizer.sha256[:12]}; train again, or restore the tokenizer.json of this run.",
            MISMATCH,
        )
    if header["vocab_size"] != tokenizer.vocab_size:
        raise ValueError(f"its header says vocab_size {header['vocab_size']}, not {tokenizer.vocab_size}")
    if largest >= tokenizer.vocab_size:
        raise ValueError(f"it holds token {largest}, but the vocabulary ends at {tokenizer.vocab_size - 1}")
    return _array(file, dtype, HEADER_BYTES)


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
    on_device: Tensor | None = None  # the same ids in the memory of a GPU
    computed: dict[tuple[int, int], U64] = dataclasses.field(default_factory=dict, compare=False, repr=False)

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

    def share(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        """First tokens (B,) of `rank`'s share of a step: every `world`-th sample of the global batch."""
        ahead = max(1, DRAWN_TOGETHER // batch_size)  # steps: one by one would be 0.2 ms each
        key, place = (step // ahead, batch_size), step % ahead * batch_size
        if key not in self.computed:
            first = key[0] * ahead * batch_size
            self.computed.clear()
            self.computed[key] = self.starts(np.arange(first, first + ahead * batch_size, dtype=np.uint64))
        return torch.from_numpy(self.computed[key][place + rank : place + batch_size : world].astype(np.int64))

    def cut(self, firsts: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of the windows that begin at `firsts` (B,), on the device of the tokens."""
        if self.on_device is None:
            tokens = torch.from_numpy(self.ids[self.places(firsts).numpy()].astype(np.int64))
            let_go(self.ids)
        else:
            tokens = self.on_device[self.places(firsts.to(self.on_device.device))].long()
            if self.ids.dtype.kind == "u":  # they are there as signed numbers, in which alone PyTorch looks up
                tokens &= (1 << 8 * self.ids.itemsize) - 1
        return tokens[:, :-1], tokens[:, 1:]

    def places(self, firsts: Tensor) -> Tensor:
        """Where the tokens of a window stand, and the one after it: (B, T+1)."""
        return firsts[:, None] + torch.arange(self.block_size + 1, device=firsts.device)

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of `rank`'s share of a step."""
        return self.cut(self.share(step, batch_size, rank, world))

    def moved_to(self, device: torch.device) -> Windows:
        """The same windows with their tokens in the memory of a GPU, if it is one and they are not too many."""
        if device.type != "cuda" or self.ids.nbytes > ON_DEVICE_BYTES:
            return self
        signed = {2: np.int16, 4: np.int32, 8: np.int64}[self.ids.itemsize]
        on_device = torch.empty(len(self.ids), dtype=torch.from_numpy(np.empty(0, signed)).dtype, device=device)
        place = 0
        for part in parts(self.ids):
            on_device[place : place + len(part)] = torch.from_numpy(part.view(signed))
            place += len(part)
        return dataclasses.replace(self, on_device=on_device)


def scoring_windows(ids: Ids, block_size: int) -> list[tuple[int, int]]:
    """[start, end) of the inputs of consecutive windows that score every token but the first exactly once."""
    return [(start, min(start + block_size, len(ids) - 1)) for start in range(0, len(ids) - 1, block_size)]


def total_bytes(ids: Ids, bytes_per_id: Sequence[int] | npt.NDArray[np.int64]) -> int:
    """UTF-8 bytes of the tokens [bytes]; special tokens count 0."""
    return sum(int(np.asarray(bytes_per_id)[part].sum()) for part in parts(ids))


def count_tokens(ids: Ids, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs, (vocab_size,)."""
    return sum((np.bincount(part, minlength=vocab_size) for part in parts(ids)), np.zeros(vocab_size, dtype=np.int64))


def count_pairs(ids: Ids, vocab_size: int) -> tuple[U64, npt.NDArray[np.int64]]:
    """The different pairs of neighbours as numbers (`pair_numbers`) in rising order, and how often each occurs."""
    pairs, counts = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    for part in parts(ids, overlap=1):
        found, times = np.unique(pair_numbers(part, vocab_size), return_counts=True)
        pairs, place = np.unique(np.concatenate((pairs, found)), return_inverse=True)
        counts = np.bincount(place, np.concatenate((counts, times)), len(pairs)).astype(np.int64)  # exact below 2^53
    return pairs, counts


def pair_numbers(ids: Ids, V: int) -> U64:
    """a * V + b for each token a and the token b after it, as uint64 (mixed with a signed type it would be float64)."""
    return ids[:-1].astype(np.uint64) * np.uint64(V) + ids[1:].astype(np.uint64)
