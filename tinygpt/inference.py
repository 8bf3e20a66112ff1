"""Writing: from a prompt to text, token by token.

    generate(model, tokenizer, "The story begins", max_new_tokens=50)

Every new token is one pass of the model over the context. With a KV cache the pass computes the new position only;
cached and uncached passes give the same logits (tests/exactness/test_cache.py).

When a text outgrows `block_size`, the window slides: the oldest quarter of the context is forgotten, what remains is
read afresh from position 0, and writing goes on until the context is full again. Both paths follow `window_start`.

Shapes: B texts of equal length, T tokens, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tinygpt.errors import UserError
from tinygpt.model import KVCache, TinyGPT
from tinygpt.sampling import Sampling, draw
from tinygpt.tokenizer import BOS, EOS, StreamDecoder, Tokenizer


def window_start(length: int, block_size: int) -> int:
    """First token that the model still sees when `length` tokens stand there: 0, or a multiple of block_size / 4."""
    stride = max(1, block_size // 4)
    return max(0, -(-(length - block_size) // stride) * stride)


class Decoder:
    """Logits for the token after a growing text; remembers keys and values while the text grows at its end."""

    def __init__(self, model: TinyGPT, cached: bool = True) -> None:
        self.model, self.cached = model, cached
        self.cache: KVCache | None = None
        self.start = 0

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """(B, T) ids of the whole text so far -> (B, V) logits of the next token."""
        start = window_start(ids.shape[1], self.model.config.block_size)
        if not self.cached:
            return self.model(ids[:, start:])[:, -1]
        if self.cache is None or start != self.start or self.cache.length != ids.shape[1] - 1 - start:
            self.cache, self.start = KVCache(self.model, len(ids)), start
        return self.model(ids[:, start + self.cache.length :], self.cache)[:, -1]


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of the prompt; an empty one becomes <bos>, the start of a document."""
    return tokenizer.encode(prompt) or [BOS]


def check_request(max_new_tokens: int, stop: Sequence[str]) -> None:
    """UserError for a negative max_new_tokens or an empty stop string."""
    if max_new_tokens < 0:
        raise UserError(f"max-new-tokens {max_new_tokens} must be 0 or more.")
    if "" in stop:
        raise UserError("a stop string must not be empty.")


def stream(
    model: TinyGPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int = 50, *,
    sampling: Sampling = Sampling(), seed: int = 0, stop: Sequence[str] = (), cached: bool = True,  # noqa: B008
) -> Iterator[str]:  # fmt: skip
    """The continuation of `prompt` in pieces as they come; joined they are the whole continuation.

    A piece never ends inside a character, nor inside what may become a stop string. Ends after max_new_tokens, at
    <eos>, or before the first stop string. Raises UserError for a negative max_new_tokens or an empty stop string.
    """
    check_request(max_new_tokens, stop)
    generator = torch.Generator().manual_seed(seed)
    device = model.embedding.weight.device
    ids = torch.tensor([encode_prompt(tokenizer, prompt)], device=device)  # (1, T)
    decoder, characters, held = Decoder(model, cached), StreamDecoder(tokenizer), ""
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            token = draw(decoder.logits(ids), ids, sampling, generator)  # (1,)
            if token.item() == EOS:
                break
            ids = torch.cat((ids, token.to(device)[:, None]), dim=1)
            held += characters.feed(int(token))
            found = first_stop(held, stop)
            if found is not None:
                yield held[:found]
                return
            keep = possible_stop(held, stop)
            if len(held) > keep:
                yield held[: len(held) - keep]
                held = held[len(held) - keep :]
        held += characters.finish()
        found = first_stop(held, stop)
        yield held if found is None else held[:found]
    finally:
        model.train(was_training)


def generate(
    model: TinyGPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int = 50, *,
    seed: int = 0, stop: Sequence[str] = (), cached: bool = True, **sampling: Any,
) -> str:  # fmt: skip
    """The prompt and its continuation. Greedy unless `temperature` and friends (see `Sampling`) are given.

    The same (weights, prompt, seed, sampling) give the same text. Raises UserError for impossible settings.
    """
    pieces = stream(
        model, tokenizer, prompt, max_new_tokens, sampling=Sampling(**sampling), seed=seed, stop=stop, cached=cached
    )
    return prompt + "".join(pieces)


def generate_documents(
    model: TinyGPT, tokenizer: Tokenizer, count: int, max_new_tokens: int, *, seed: int = 0, batch: int = 50,
    **sampling: Any,
) -> list[str]:  # fmt: skip
    """`count` texts written from <bos> to <eos> (or max_new_tokens), many at a time: for scoring, not for reading."""
    settings, generator = Sampling(**sampling), torch.Generator().manual_seed(seed)
    device, texts = model.embedding.weight.device, []
    was_training = model.training
    model.eval()
    try:
        for first in range(0, count, batch):
            ids = torch.full((min(batch, count - first), 1), BOS, device=device)  # (B, 1)
            decoder, ended = Decoder(model), torch.zeros(len(ids), dtype=torch.bool)
            while not ended.all() and ids.shape[1] <= max_new_tokens:
                tokens = draw(decoder.logits(ids), ids, settings, generator)  # (B,)
                ended |= tokens == EOS
                ids = torch.cat((ids, tokens.to(device)[:, None]), dim=1)
            for row in ids.tolist():
                end = row.index(EOS) if EOS in row else len(row)
                texts.append(tokenizer.decode(row[1:end]))
    finally:
        model.train(was_training)
    return texts


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string begins in `text`, or None."""
    places = [place for place in (text.find(word) for word in stop) if place >= 0]
    return min(places, default=None)


def possible_stop(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    return max((n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
