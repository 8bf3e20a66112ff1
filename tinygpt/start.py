"""First weights from counting: a model that knows, before its first step, which token tends to follow which.

With blocks that add nothing yet, a new model is head(norm(embedding(token))): a table of token pairs, written as the
product of two thin matrices. Such a table need not be learnt step by step; it can be counted. What remains for training
is what pairs cannot say.

Shapes: V = vocab_size, C = n_embd.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt.config import ModelConfig
from tinygpt.data import Ids, count_pairs, count_tokens, sample
from tinygpt.errors import UserError
from tinygpt.model import TinyGPT

WIDTH = 0.1  # root-mean-square of an embedding's numbers: blocks should be heard soon, but not drown it (LOG.md)
LONGEST = 0.99  # quantile of the rows' lengths to which the few longer ones are cut


def starts_from_pairs(config: ModelConfig, start: str) -> bool:
    """Whether training begins with pair counts: if the shape can hold them, and if they are asked for or `auto`.

    It takes a head of its own and a norm that keeps directions. UserError for start=pairs where that is not so.
    """
    fits = not config.tied and config.norm == "rmsnorm" and config.norm_place == "before"
    if start == "pairs" and not fits:
        raise UserError("start=pairs needs tied=false, norm=rmsnorm and norm_place=before; use start=random.")
    return fits and start != "random"


@torch.no_grad()
def start_from_pairs(model: TinyGPT, ids: Ids) -> None:
    """Set embedding and head so that the logits after token a are about log P(b | a); the blocks add nothing yet."""
    embedding, head = pair_factors(ids, model.config.vocab_size, model.config.n_embd)
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            parameter.zero_()
    model.embedding.weight.copy_(WIDTH * embedding)
    model.head.weight.copy_(head)


def pair_factors(ids: Ids, vocab_size: int, n_embd: int) -> tuple[Tensor, Tensor]:
    """E and H, both (V, C), with H E[a] about log P(. | a) up to a constant, and rows of E of one length, rms 1.

    With counts n(a b), Witten and Bell's smoothing of `evaluate.bigram_probabilities` and P(b) of the single tokens,

        log P(b | a) = constant(a) + log P(b) + log(1 + n(a b) / (kinds(a) P(b))),   kinds(a) = different tokens after a

    The last term is 0 for every pair that never occurs, so it is a sparse matrix; a truncated singular value
    decomposition gives the best C - 2 columns for it, pairs weighted by how often their tokens occur. Two more columns
    hold log P(b), and whatever fills each row up to one length, so that the norm in between changes nothing.
    Of a long text a sample is counted (`data.sample`).
    Source: for factors of such matrices as embeddings, Levy and Goldberg 2014.
    """
    ids = sample(ids)
    singles = torch.from_numpy(count_tokens(ids, vocab_size)).float() + 0.5
    log_single = (singles / singles.sum()).log()
    pairs, counts = (torch.from_numpy(found.astype(np.int64)) for found in count_pairs(ids, vocab_size))
    a, b = pairs // vocab_size, pairs % vocab_size
    kinds = torch.bincount(a, minlength=vocab_size).clamp(min=1)
    surprise = torch.log1p(counts / (kinds[a] * log_single[b].exp()))
    row, column = singles.sqrt(), (log_single / 2).exp()  # weights
    width = min(n_embd - 2, vocab_size)
    weighted = (surprise * row[a] * column[b]).double()  # in fp32 the smallest columns depend on the order of sums
    with torch.sparse.check_sparse_tensor_invariants():
        matrix = torch.sparse_coo_tensor(torch.stack((a, b)), weighted, (vocab_size, vocab_size))
        u, s, v = (part.float() for part in torch.svd_lowrank(matrix, q=width, niter=2))
    left, right = u * s / row[:, None], v / column[:, None]  # (V, C - 2) each

    lengths = left.norm(dim=1)
    longest = lengths.quantile(LONGEST).clamp(min=1e-6)
    left = left * (longest / lengths.clamp(min=1e-9)).clamp(max=1.0)[:, None]
    filling = (longest**2 - left.square().sum(1)).clamp(min=0).sqrt()
    constant = longest.expand(vocab_size)
    embedding = torch.column_stack((constant, filling, left))  # rows of length sqrt(2) longest
    head = torch.column_stack(((log_single - log_single.mean()) / longest, torch.zeros(vocab_size), right))
    scale = longest * (2 / n_embd) ** 0.5
    missing = (0, n_embd - width - 2)  # more columns than tokens
    return F.pad(embedding / scale, missing), F.pad(head * scale, missing)
