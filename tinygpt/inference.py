"""Writing: from a prompt to text, token by token.

    generate(model, tokenizer, "The story begins", max_new_tokens=50)

Every new token is one pass of the model over the context. With a KV cache the pass computes the new position only;
cached and uncached passes give the same logits (tests/exactness/test_cache.py). On a CPU the pass is native.c's, where
there is a C compiler: the same text, several times as fast (tests/exactness/test_native.py).

When a text outgrows `block_size`, the window slides: the oldest quarter of the context is forgotten, what remains is
read afresh from position 0, and writing goes on until the context is full again. Both paths follow `window_start`.

Shapes: B texts of equal length, T tokens, V = vocab_size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tinygpt.errors import UserError
from tinygpt.model import KVCache, TinyGPT
from tinygpt.native import NativeDecoder, choose_native
from tinygpt.sampling import Sampling, draw, log_probabilities
from tinygpt.tokenizer import BOS, EOS, StreamDecoder, Tokenizer

Chance = tuple[int, float | None, list[tuple[int, float]]]  # token, its log-probability if known, the likeliest


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
        """(B, T) ids of the whole text so far, on any device -> (B, V) logits of the next token."""
        start, device = window_start(ids.shape[1], self.model.config.block_size), self.model.embedding.weight.device
        if not self.cached:
            return self.model(ids[:, start:].to(device))[:, -1]
        if self.cache is None or start != self.start or self.cache.length != ids.shape[1] - 1 - start:
            self.cache, self.start = KVCache(self.model, len(ids)), start
        return self.model(ids[:, start + self.cache.length :].to(device), self.cache)[:, -1]


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of the prompt; an empty one becomes <bos>, the start of a document."""
    return tokenizer.encode(prompt) or [BOS]


def check_request(max_new_tokens: int, stop: Sequence[str]) -> None:
    """UserError for a negative max_new_tokens or an empty stop string."""
    if max_new_tokens < 0:
        raise UserError(f"max-new-tokens {max_new_tokens} must be 0 or more.")
    if "" in stop:
        raise UserError("a stop string must not be empty.")


class Continuation:
    """A text that is being written: which token comes next, what of it may be shown, and when it ends.

    Ends after `max_new_tokens` ("length"), at <eos> or before the first stop string ("stop"). With `logprobs` it keeps
    for every token its log-probability and those of so many likeliest ones. UserError as of `check_request`.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling = Sampling(),  # noqa: B008
        *, seed: int = 0, stop: Sequence[str] = (), logprobs: int | None = None,
    ) -> None:  # fmt: skip
        check_request(max_new_tokens, stop)
        self.ids = torch.tensor([list(prompt)])  # (1, T), on the CPU
        self.prompt, self.max_new_tokens = len(prompt), max_new_tokens
        self.sampling, self.stop, self.logprobs = sampling, stop, logprobs
        self.generator = torch.Generator().manual_seed(seed)
        self.tokenizer, self.characters, self.held = tokenizer, StreamDecoder(tokenizer), ""
        self.chances: list[Chance] = []
        self.finished = "" if max_new_tokens else "length"

    def add(self, logits: Tensor) -> str:
        """Draw the next token from (1, V) logits; returns what may be shown now, which is often nothing.

        A piece never ends inside a character, nor inside what may become a stop string.
        """
        token = draw(logits, self.ids, self.sampling, self.generator, self.prompt)  # (1,)
        if token.item() == EOS:
            return self.finish("stop")
        if self.logprobs is not None:
            self.chances.append((int(token), *log_probabilities(logits[0], int(token), self.logprobs)))
        self.ids = torch.cat((self.ids, token[:, None]), dim=1)
        self.held += self.characters.feed(int(token))
        found = first_stop(self.held, self.stop)
        if found is not None:
            return self.finish("stop")
        if self.ids.shape[1] - self.prompt >= self.max_new_tokens:
            return self.finish("length")
        keep = possible_stop(self.held, self.stop)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown

    def chances_told(self, first: int = 0) -> list[dict[str, Any]]:
        """`chances` from the token `first` on, with the texts of the tokens, for JSON."""
        return self.told(self.chances[first:])

    def told(self, chances: Sequence[Chance]) -> list[dict[str, Any]]:
        """The same for other tokens."""

        def one(id: int, chance: float | None) -> dict[str, Any]:
            read = self.tokenizer
            return {"id": id, "token": read.decode([id]), "bytes": list(read.token_bytes(id)), "logprob": chance}

        return [one(id, chance) | {"top": [one(*likely) for likely in top]} for id, chance, top in chances]

    def finish(self, why: str) -> str:
        """End here; returns what was still held back, up to a stop string."""
        self.held += self.characters.finish()
        found = first_stop(self.held, self.stop)
        self.finished = "stop" if found is not None else why
        shown, self.held = self.held[:found], ""
        return shown


@contextlib.contextmanager
def reading(model: TinyGPT) -> Iterator[None]:
    """The model without dropout, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def choose_decoder(
    model: TinyGPT,
    engine: str = "auto",
    cached: bool = True,
    say: Callable[[str], Any] = lambda _: None,
    texts: int = 1,
) -> Decoder | NativeDecoder:
    """What computes the logits: the native engine or the plain path, as `choose_native` says; uncached is plain."""
    native = choose_native(model, engine if cached else "plain", texts, say)
    return NativeDecoder(native, window_start) if native else Decoder(model, cached)


def write_on(model: TinyGPT, text: Continuation, decoder: Decoder | NativeDecoder | None = None) -> Iterator[str]:
    """Write `text` to its end; what may be shown, in pieces as they come."""
    decoder = decoder or choose_decoder(model)
    with reading(model):
        while not text.finished:
            piece = text.add(decoder.logits(text.ids))
            if piece or text.finished:
                yield piece


def stream(
    model: TinyGPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int = 50, *,
    sampling: Sampling = Sampling(), seed: int = 0, stop: Sequence[str] = (), cached: bool = True,  # noqa: B008
    engine: str = "auto",
) -> Iterator[str]:  # fmt: skip
    """The continuation of `prompt` in pieces as they come; joined they are the whole continuation.

    Ends, and is cut into pieces, as `Continuation` says, which raises UserError for impossible settings.
    """
    text = Continuation(tokenizer, encode_prompt(tokenizer, prompt), max_new_tokens, sampling, seed=seed, stop=stop)
    yield from write_on(model, text, choose_decoder(model, engine, cached))


def generate(
    model: TinyGPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int = 50, *,
    seed: int = 0, stop: Sequence[str] = (), cached: bool = True, engine: str = "auto", **sampling: Any,
) -> str:  # fmt: skip
    """The prompt and its continuation. Greedy unless `temperature` and friends (see `Sampling`) are given.

    The same (weights, prompt, seed, sampling) give the same text. Raises UserError for impossible settings.
    """
    pieces = stream(
        model, tokenizer, prompt, max_new_tokens, sampling=Sampling(**sampling), seed=seed, stop=stop, cached=cached,
        engine=engine,
    )  # fmt: skip
    return prompt + "".join(pieces)


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string begins in `text`, or None."""
    places = [place for place in (text.find(word) for word in stop) if place >= 0]
    return min(places, default=None)


def possible_stop(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    return max((n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
