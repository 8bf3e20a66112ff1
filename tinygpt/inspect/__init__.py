"""Looking inside: pure functions of a loaded checkpoint and a text, all of which return plain data (`result.Result`).

    import tinygpt.inspect as ti
    m = ti.load("runs/alice@2000")
    ti.attention(m, "the cat sat", layer=1, head=3)["pattern"]

The command line (`tinygpt inspect attention alice "the cat sat" layer=1`) and the studio call these and no others.
A module is loaded when one of its functions is asked for, so that tokens need no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

# Every public function: its module, what stands before its other arguments (m: a checkpoint, run: a whole run,
# runs: several, "": nothing), and what it gives, in a line.
FUNCTIONS: dict[str, tuple[str, str, str]] = {
    "architecture": ("boxes", "m", "the boxes of the model: shapes, parameters, work, memory"),
    "forward": ("trace", "m", "named activations of a prompt"),
    "explain": ("cells", "m", "one cell of an activation as the sum that it is"),
    "corpus_stats": ("corpora", "run", "what is in a text, and what its split leaks"),
    "corpus_text": ("corpora", "run", "the beginning of a text, to read and to edit"),
    "tokenize": ("tokens", "m", "pieces, ids, bytes and the merges that built each piece"),
    "replay": ("tokens", "m", "a text after the first merges alone"),
    "merge_tree": ("tokens", "m", "how one token was built"),
    "vocab_sweep": ("corpora", "run", "bytes per token by size of the vocabulary"),
    "neighbours": ("embeddings", "m", "tokens whose vectors lie nearest"),
    "projection": ("embeddings", "m", "the embedding as a map: two principal components"),
    "norms": ("embeddings", "m", "length of each token's vector against its frequency"),
    "positions": ("embeddings", "m", "how alike positions are, or how fast each pair turns"),
    "attention": ("heads", "m", "scores, masked scores and pattern of heads"),
    "head_labels": ("heads", "m", "what each head does, by its numbers"),
    "lens": ("logit_lens", "m", "the answer as each layer would give it"),
    "attribution": ("logit_lens", "m", "who wrote the logit: embedding, heads, feed-forwards"),
    "intervene": ("logit_lens", "m", "what an edit does to the next token"),
    "patch_grid": ("logit_lens", "m", "what each place contributes, by patching it from another prompt"),
    "next_token": ("text", "m", "probabilities of the next token before and after the sliders"),
    "generate": ("text", "m", "a continuation, token by token"),
    "tree": ("text", "m", "the likeliest continuations as a tree"),
    "surprisal": ("text", "m", "what each token of a text costs"),
    "cache_meter": ("text", "m", "work and memory with and without the key/value cache"),
    "memorised": ("text", "m", "what of a text also stands in the training text"),
    "tales_quality": ("text", "m", "share of tales it writes that are grammatical, consistent and new"),
    "records": ("dynamics", "run", "what a run wrote down while it trained"),
    "checkpoints": ("dynamics", "run", "the steps whose weights can be looked at"),
    "health": ("dynamics", "run", "spikes, norms and updates of each layer over the training"),
    "tables": ("dynamics", "m", "how far the model is from counting tokens, and from counting pairs"),
    "over_time": ("dynamics", "run", "any function of a checkpoint over all checkpoints"),
    "compare": ("dynamics", "runs", "runs side by side: settings and figures"),
}
_OTHERS = {"load": "trace", "Model": "trace", "Result": "result"}


def __getattr__(name: str) -> Any:
    module = FUNCTIONS[name][0] if name in FUNCTIONS else _OTHERS.get(name)
    if module is None:
        raise AttributeError(f"tinygpt.inspect has no {name!r}; it has {', '.join([*FUNCTIONS, *_OTHERS])}")
    return getattr(importlib.import_module(f"tinygpt.inspect.{module}"), name)
