"""A run as ONNX files, which onnxruntime and its relatives on phones, in browsers and in other languages load.

    onnx/model_full.onnx   input_ids -> logits: the whole text in, the logits of every position out
    onnx/model.onnx        the same with a key/value cache, under the names that Optimum gave decoders:
                           input_ids, attention_mask, position_ids, past_key_values.N.key, past_key_values.N.value
                           -> logits, present.N.key, present.N.value

Batch, sequence and past are dynamic, a past of 0 begins a text, the weights are inside the files. Beyond block_size
both end with an error of the runtime: there are no such positions.

The first file is the model's own forward, traced. The second is computed by the model's own sub-modules too; only
attention and positions are replaced, because they learn from inputs what the model knows by itself: which token stands
at which position, and which tokens are padding.

Shapes: B sequences, T new tokens, P tokens remembered, S = P + T, G = n_kv_heads, H = n_heads, K = d_head.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.config import Config, ModelConfig
from tinygpt.errors import MISMATCH, UserError
from tinygpt.export.origin import Source, greedy, room
from tinygpt.model import CausalAttention, LearnedPositions, Positions, RotaryPositions, TinyGPT
from tinygpt.signals import signals_waiting
from tinygpt.storage import canonical, make_folder, write_durable
from tinygpt.tokenizer import BOS, EOS, PAD

FULL, CACHED = "onnx/model_full.onnx", "onnx/model.onnx"
OPSET = 18  # the oldest that torch's exporter writes: what the most runtimes can read
TOLERANCE = 1e-4  # largest difference of a logit
LENGTHS = (1, 7)  # and block_size: what `compare` runs, in each of
BATCHES = (1, 2, 3)


def refuse(config: Config) -> None:
    """Nothing: every shape can be exported."""


# --- the model with its cache as inputs and outputs -----------------------------------------------------------------


class LearnedAt(LearnedPositions):
    """LearnedPositions at the positions given, (B, T)."""

    def add(self, x: Tensor, start: Any) -> Tensor:
        return x + self.table(start)  # (B, T, C)


class RotaryAt(RotaryPositions):
    """RotaryPositions at the positions given, (B, T)."""

    def rotate(self, x: Tensor, start: Any) -> Tensor:
        cos, sin = F.embedding(start, self.cos)[:, None], F.embedding(start, self.sin)[:, None]  # (B, 1, T, K/2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


POSITIONS_AT: dict[str, type[Positions]] = {"learned": LearnedAt, "rotary": RotaryAt}


class Past:
    """Keys and values of one layer, handed in, and what is added to a score: 0, or much below 0 where not to look."""

    def __init__(self, k: Tensor, v: Tensor, mask: Tensor) -> None:
        self.k, self.v, self.mask = k, v, mask  # (B, G, P, K), (B, G, P, K), (B, 1, T, S)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones last. (B, G, T, K) in, (B, G, S, K) out."""
        self.k, self.v = torch.cat((self.k, k), dim=2), torch.cat((self.v, v), dim=2)
        return self.k, self.v


class MaskedAttention(CausalAttention):
    """CausalAttention with the mask of its `Past`; `start` is the position of every token, (B, T)."""

    def look(self, q: Tensor, k: Tensor, v: Tensor, cache: Any) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=cache.mask, enable_gqa=True)  # (B, H, T, K)


class WithCache(nn.Module):
    """A TinyGPT that takes its memory as inputs and hands it back: Optimum's interface of a decoder."""

    def __init__(self, model: TinyGPT) -> None:
        super().__init__()
        self.model = TinyGPT(model.config)
        self.model.positions = POSITIONS_AT[model.config.positions](model.config)
        for block in self.model.blocks:
            block.attention = MaskedAttention(model.config)
        self.model.load_state_dict(model.state_dict())
        self.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits (B, T, V), and keys and values (B, G, S, K) of each layer."""
        model, T, P = self.model, input_ids.shape[1], past[0][0].shape[2]
        visible = torch.arange(P + T) <= torch.arange(P, P + T)[:, None]  # (T, S)
        visible = visible & attention_mask.bool()[:, None, None]  # (B, 1, T, S)
        # A finite number: padding on the left sees nothing at all, and with -inf its softmax would be NaN, which as a
        # value of the next layer spoils the text, 0 * NaN being NaN.
        mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
        layers = [Past(k, v, mask) for k, v in past]
        positions: Any = model.positions  # LearnedAt or RotaryAt
        x = positions.add(model.embedding(input_ids), position_ids)  # (B, T, C)
        for block, layer in zip(model.blocks, layers, strict=True):
            x = block(x, positions, position_ids, layer)
        return model.head(model.norm(x)), [(layer.k, layer.v) for layer in layers]


def cache_names(config: ModelConfig, prefix: str) -> list[str]:
    """past_key_values.0.key, past_key_values.0.value, past_key_values.1.key, ..."""
    return [f"{prefix}.{i}.{part}" for i in range(config.n_layers) for part in ("key", "value")]


# --- writing ---------------------------------------------------------------------------------------------------------


def write(s: Source, folder: Path, encoding: str) -> None:
    """Both models, tokenizer.json and config.json (what a program must know to run them) into an empty folder.

    UserError for an encoding other than f32, or if the packages that write ONNX are missing.
    """
    if encoding != "f32":
        raise UserError(f"ONNX is written in f32, not in {encoding}.")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; for ONNX: pip install 'tinygpt[onnx]'.") from None
    c = s.model.config
    make_folder(folder / "onnx")
    write_durable(folder / FULL, full_model(s.model))
    write_durable(folder / CACHED, cached_model(s.model))
    s.run.tokenizer.save(folder / "tokenizer.json")
    facts = {
        "vocab_size": c.vocab_size, "block_size": c.block_size, "n_layers": c.n_layers, "n_kv_heads": c.n_kv_heads,
        "d_head": c.d_head, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "opset": OPSET,
        "encoding": encoding, "step": s.step, "tokenizer_sha256": s.run.tokenizer.sha256,
    }  # fmt: skip
    write_durable(folder / "config.json", canonical(facts))


# B, T and P of the example to trace with: above 1 and all different, because the exporter takes a 1, and what happens
# to be equal, for a rule.
EXAMPLE = (2, 3, 4)


def full_model(model: TinyGPT) -> bytes:
    """onnx/model_full.onnx: the model's own forward."""
    ids = torch.ones(EXAMPLE[:2], dtype=torch.int64)
    return traced(model, (ids,), ({0: "batch", 1: "sequence"},), ["input_ids"], ["logits"])


def cached_model(model: TinyGPT) -> bytes:
    """onnx/model.onnx: the model with its cache as inputs and outputs."""
    c, (B, T, P) = model.config, EXAMPLE
    # Each input is a tensor of its own: the exporter takes two that are the same object for one input.
    ids = lambda length: torch.ones(B, length, dtype=torch.int64)  # noqa: E731
    memory = lambda: torch.zeros(B, c.n_kv_heads, P, c.d_head)  # noqa: E731
    arguments = (ids(T), ids(P + T), ids(T), [(memory(), memory()) for _ in range(c.n_layers)])
    of_ids, of_mask = {0: "batch", 1: "sequence"}, {0: "batch", 1: "past + sequence"}
    of_memory = {0: "batch", 2: "past"}
    axes = (of_ids, of_mask, of_ids, [(of_memory, of_memory)] * c.n_layers)
    inputs = ["input_ids", "attention_mask", "position_ids", *cache_names(c, "past_key_values")]
    return traced(WithCache(model), arguments, axes, inputs, ["logits", *cache_names(c, "present")])


def traced(module: nn.Module, arguments: tuple, axes: tuple, inputs: list[str], outputs: list[str]) -> bytes:
    """The ONNX file of a module, weights inside, without the exporter's notes on where this machine has its code."""
    with signals_waiting(), quiet():
        program: Any = torch.onnx.export(
            module, arguments, dynamo=True, external_data=False, opset_version=OPSET, dynamic_shapes=axes,
            input_names=inputs, output_names=outputs, verbose=False,
        )  # fmt: skip
    model = program.model_proto  # made afresh whenever it is asked for
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == "sequence + past":  # the same sum, in another order
                axis.dim_param = "past + sequence"
    return model.SerializeToString(deterministic=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings and log lines: they are for its own authors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# --- reading back ----------------------------------------------------------------------------------------------------


class Runtime:
    """Both files of an export in onnxruntime, on one thread of the CPU."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors
        load = lambda name: onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])  # noqa: E731
        self.full, self.cached, self.config = load(FULL), load(CACHED), config

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """(B, T) ids -> (B, T, V) logits of onnx/model_full.onnx."""
        return self.full.run(["logits"], {"input_ids": ids})[0]

    def logits_in_two(self, ids: np.ndarray) -> np.ndarray:
        """The same of onnx/model.onnx: half of the text, then the rest with what was remembered."""
        half, past, parts = ids.shape[1] // 2, self.begin(len(ids)), []
        for part in (ids[:, :half], ids[:, half:]):
            if part.size:
                logits, past = self.step(part, past)
                parts.append(logits)
        return np.concatenate(parts, axis=1)

    def begin(self, batch_size: int) -> dict[str, np.ndarray]:
        """The memory of a text without a token."""
        c = self.config
        empty = np.zeros((batch_size, c.n_kv_heads, 0, c.d_head), np.float32)
        return dict.fromkeys(cache_names(c, "past_key_values"), empty)

    def step(
        self, ids: np.ndarray, past: dict[str, np.ndarray], attention_mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(B, T) new ids and the memory -> (B, T, V) logits of onnx/model.onnx and the memory with the new ids.

        attention_mask: (B, S), 0 for padding and 1 for text; without it all is text.
        """
        end = next(iter(past.values())).shape[2] + ids.shape[1]
        mask = np.ones((len(ids), end), np.int64) if attention_mask is None else attention_mask
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, end - ids.shape[1] :]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        logits, *present = self.cached.run(None, inputs)
        return logits, dict(zip(past, present, strict=True))


def compare(s: Source, folder: Path, encoding: str) -> dict[str, Any] | None:
    """What onnxruntime makes of the files, held against the model: the figures, or None if it is not installed.

    UserError (exit 66) if a logit differs by more than 1e-4, or a greedy text at all.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    for name in (FULL, CACHED):
        onnx.checker.check_model(folder / name, full_check=True)
    runtime, lengths, largest = Runtime(folder, s.model.config), (*LENGTHS, s.model.config.block_size), 0.0
    text = s.run.val_ids if len(s.run.val_ids) > 1 else s.run.train_ids
    text = np.asarray(text[: max(BATCHES) * max(lengths)], np.int64)
    for batch_size, length in itertools.product(BATCHES, lengths):
        ids = np.resize(text, (batch_size, length))  # a short text again and again
        with torch.inference_mode():
            ours = s.model(torch.from_numpy(ids)).numpy()
        for name, theirs in ((FULL, runtime.logits(ids)), (CACHED, runtime.logits_in_two(ids))):
            difference = float(np.abs(theirs - ours).max())
            if not difference <= TOLERANCE:  # NaN is not within anything
                raise UserError(
                    f"{name} in onnxruntime is not the model: logits differ by up to {difference:.2g}, more than "
                    f"{TOLERANCE:g}, at batch {batch_size}, length {length}.",
                    MISMATCH,
                )
            largest = max(largest, difference)
    for prompt in s.prompts:
        begin, decode = prompt[: s.model.config.block_size // 2] or [BOS], s.run.tokenizer.decode
        our_text, their_text = decode(greedy(s.model, begin)), decode(their_greedy(runtime, begin))
        if our_text != their_text:
            raise UserError(
                f"{CACHED} in onnxruntime is not the model: after {decode(begin)!r} it writes {their_text!r}, the "
                f"model {our_text!r}.",
                MISMATCH,
            )
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}: opset {OPSET}",
        "largest difference of a logit": largest,
        "compared": f"{'/'.join(map(str, BATCHES))} texts of {'/'.join(map(str, lengths))} tokens",
        "equal greedy texts": f"{len(s.prompts)} of {len(s.prompts)}",
    }


def their_greedy(runtime: Runtime, prompt: list[int]) -> list[int]:
    """The same by onnx/model.onnx with its cache."""
    tokens: list[int] = []
    ids, past = np.array([prompt], np.int64), runtime.begin(1)
    for _ in range(room(runtime.config, prompt)):
        logits, past = runtime.step(ids, past)
        ids = logits[:, -1:].argmax(axis=-1)
        tokens.append(int(ids[0, 0]))
        if tokens[-1] == EOS:
            break
    return tokens


def advice(s: Source, path: Path, encoding: str) -> list[str]:
    """A Python program that writes with the export, needing neither tinygpt nor torch."""
    return [
        "# pip install onnxruntime tokenizers",
        "import numpy, onnxruntime, tokenizers",
        f"tokenizer = tokenizers.Tokenizer.from_file({(path / 'tokenizer.json').as_posix()!r})",
        f"model = onnxruntime.InferenceSession({(path / FULL).as_posix()!r})",
        f"ids = [{BOS}]  # or tokenizer.encode('Once upon a').ids",
        f"while len(ids) < {s.model.config.block_size} and ids[-1] != {EOS}:",
        "    logits = model.run(['logits'], {'input_ids': numpy.array([ids], 'int64')})[0]",
        "    ids.append(int(logits[0, -1].argmax()))",
        "print(tokenizer.decode(ids))",
        f"# {CACHED} is the same with a key/value cache: input_ids, attention_mask, position_ids and past_key_values.*",
        "# in (empty at first), logits and present.* out, which are the past_key_values.* of the next call.",
    ]
