"""How good is it: bits per byte, what simpler models reach on the same text, copying, and tales that hold together."""

from __future__ import annotations

import lzma
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinygpt.config import TEMPERATURE
from tinygpt.corpus import tales
from tinygpt.data import Ids, count_pairs, count_tokens, pair_numbers, sample, scoring_windows, total_bytes
from tinygpt.distributed import Machine
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.inference import choose_decoder, reading
from tinygpt.loss import by_formula, next_token_loss
from tinygpt.model import TinyGPT
from tinygpt.sampling import Sampling, draw
from tinygpt.tokenizer import BOS, EOS, Tokenizer

XZ_HISTORY_BYTES = 1 << 23  # of the training text, its end
TOKENS_AT_ONCE = {"cpu": 2048, "mps": 2048, "cuda": 16_384}  # of `score`: all of their logits are in memory together
MEMORY_WORDS = 12  # a run of this many words that also stands in the training text counts as copied


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Cost of a text in bits per UTF-8 byte; comparable across tokenizers, lower is better.

        bpb = total_nats / (ln 2 * n_bytes)

    total_nats: summed cross-entropy over the scored tokens, document marks included [nats]. n_bytes: UTF-8 length
    of those tokens [bytes]; special tokens count 0. Raises ValueError if n_bytes is 0.
    Source: Gao et al. 2020, "The Pile", section 3.1.
    """
    if n_bytes <= 0:
        raise ValueError("bits per byte of an empty text is not defined.")
    return total_nats / (math.log(2) * n_bytes)


@dataclass(frozen=True)
class Score:
    """What a text costs a model."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bpb(self) -> float:
        """Bits per byte."""
        return bits_per_byte(self.nats, self.bytes)


@torch.inference_mode()
def score(model: TinyGPT, tokenizer: Tokenizer, ids: Ids, machine: Machine, tokens_at_once: int = 0) -> Score:
    """Score every token of `ids` but the first exactly once, in consecutive windows of block_size.

    A token sees the earlier tokens of its own window only, the same context it is trained with.
    Ranks score every so-manieth batch each. Raises UserError (exit 65) if there is nothing to score.
    """
    if len(ids) < 2 or total_bytes(ids[1:], tokenizer.n_bytes()) == 0:
        raise UserError("the text to score is empty; it needs at least one byte.", BAD_INPUT)
    windows = scoring_windows(ids, model.config.block_size)
    whole = [w for w in windows if w[1] - w[0] == model.config.block_size]
    rows = max(1, (tokens_at_once or TOKENS_AT_ONCE[machine.device.type]) // model.config.block_size)
    batches = [whole[i : i + rows] for i in range(0, len(whole), rows)] + [[w] for w in windows[len(whole) :]]
    was_training, nats, ranks = model.training, [0.0] * len(batches), machine.ranks
    model.eval()
    with by_formula(model, machine), machine.autocast():
        for i in range(ranks.rank, len(batches), ranks.size):
            rows_of_ids = np.stack([ids[a : b + 1] for a, b in batches[i]]).astype(np.int64)
            tokens = torch.from_numpy(rows_of_ids).to(machine.device)
            nats[i] = next_token_loss(model, tokens[:, :-1], tokens[:, 1:], "sum").item()
    model.train(was_training)
    total_nats = sum(ranks.total(nats))  # added up in one order, so to the same bits with any number of ranks
    return Score(total_nats, len(ids) - 1, total_bytes(ids[1:], tokenizer.n_bytes()))


# --- what is normal: simpler models on the same text -----------------------------------------------------------------


def baselines(train: Ids, val: Ids, tokenizer: Tokenizer, train_text: str, val_text: str) -> dict[str, float]:
    """Bits per byte of the validation text under four simpler models [bits/byte], the weakest first.

    uniform: every token equally likely, log2 V a token. unigram: token frequencies of the training text.
    bigram: frequencies after the previous token. xz: what compressing the validation text after the training
    text adds. A model that is not below the bigram has not used its context. Of a long training text a sample
    (`data.sample`) is counted, and xz reads the end.
    """
    V = tokenizer.vocab_size
    xz = xz_bits_per_byte(train_text, val_text)  # first: it takes 120 MB for itself
    train = sample(train)
    n_bytes, scored = total_bytes(val[1:], tokenizer.n_bytes()), len(val) - 1
    unigram = (count_tokens(train, V) + 1) / (len(train) + V)  # add one: nothing is impossible
    return {
        "uniform": bits_per_byte(scored * math.log(V), n_bytes),
        "unigram": bits_per_byte(float(-np.log(unigram[val[1:]]).sum()), n_bytes),
        "bigram": bits_per_byte(float(-np.log(bigram_probabilities(train, val, unigram)).sum()), n_bytes),
        "xz": xz,
    }


def bigram_probabilities(train: Ids, val: Ids, unigram: np.ndarray) -> np.ndarray:
    """P(token | previous token) for val[1:], mixed with the unigram by how often the previous token was seen.

        P(b | a) = (count(a b) + kinds(a) P(b)) / (count(a) + kinds(a)),   kinds(a) = different tokens after a

    Source: Witten and Bell 1991, method C.
    """
    V = len(unigram)
    pairs, counts = count_pairs(train, V)
    first = (pairs // np.uint64(V)).astype(np.int64)
    count_a = np.bincount(first, weights=counts, minlength=V)
    kinds_a = np.bincount(first, minlength=V)
    wanted = pair_numbers(val, V)
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count_ab = np.where(pairs[place] == wanted, counts[place], 0)
    a, b = val[:-1], val[1:]
    kinds = np.maximum(kinds_a[a], 1)  # an unseen previous token leaves the unigram
    return (count_ab + kinds * unigram[b]) / (count_a[a] + kinds)


def xz_bits_per_byte(train_text: str, val_text: str, history: int = XZ_HISTORY_BYTES) -> float:
    """Bits per byte that xz needs for the validation text when it has just read the training text.

    8 * (len(xz(train + val)) - len(xz(train))) / len(val); of a long training text the last `history` bytes.
    """
    seen, new = train_text.encode()[-history:], val_text.encode()
    # preset 6 with a dictionary that holds everything: the extreme presets take four times as long for 1 % less
    dictionary = 1 << 24 if len(seen) + len(new) <= 1 << 24 else 1 << 25
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary}]
    size = lambda data: len(lzma.compress(data, filters=filters))  # noqa: E731
    return 8 * (size(seen + new) - size(seen)) / len(new)


# --- copying ---------------------------------------------------------------------------------------------------------


def word_runs(text: str, n: int = MEMORY_WORDS) -> Iterator[tuple[str, ...]]:
    """All runs of n consecutive words, one after the other: a long text has more of them than fit into memory."""
    run: deque[str] = deque(maxlen=n)
    for line in text.splitlines():
        for word in line.split():
            run.append(word)
            if len(run) == n:
                yield tuple(run)


def memorised_share(texts: Sequence[str], training: Sequence[str]) -> float | None:
    """Share of the 12-word runs in `texts` that also stand in a training document; None if there is no such run.

    Held-out text has a share above 0 too (set phrases): look at both before calling it copying.
    """
    runs = Counter(run for text in texts for run in word_runs(text))
    if not runs:
        return None
    known = {run for document in training for run in word_runs(document) if run in runs}
    return sum(runs[run] for run in known) / runs.total()


# --- tales -----------------------------------------------------------------------------------------------------------


def generate_documents(
    model: TinyGPT, tokenizer: Tokenizer, count: int, max_new_tokens: int, *, seed: int = 0, batch: int = 50,
    engine: str = "auto", **sampling: Any,
) -> list[str]:  # fmt: skip
    """`count` texts written from <bos> to <eos> (or max_new_tokens), many at a time: for scoring, not for reading."""
    settings, generator, texts = Sampling(**sampling), torch.Generator().manual_seed(seed), []
    with reading(model):
        decoder = choose_decoder(model, engine, texts=min(batch, count))
        for first in range(0, count, batch):
            ids = torch.full((min(batch, count - first), 1), BOS)  # (B, 1)
            ended = torch.zeros(len(ids), dtype=torch.bool)
            while not ended.all() and ids.shape[1] <= max_new_tokens:
                tokens = draw(decoder.logits(ids), ids, settings, generator, prompt=1)  # (B,)
                ended |= tokens == EOS
                ids = torch.cat((ids, tokens[:, None]), dim=1)
            for row in ids.tolist():
                end = row.index(EOS) if EOS in row else len(row)
                texts.append(tokenizer.decode(row[1:end]))
    return texts


def score_tales(
    model: TinyGPT, tokenizer: Tokenizer, training: Sequence[str], count: int = 200, temperature: float = TEMPERATURE,
    seed: int = 0,
) -> tales.Score:  # fmt: skip
    """Let the model write `count` tales from <bos> and parse each: share grammatical, consistent, new."""
    texts = generate_documents(model, tokenizer, count, max_new_tokens=1000, seed=seed, temperature=temperature)
    return tales.score(texts, training)
