"""A folder that transformers loads: config.json, weights, tokenizer. Written with json and safetensors alone.

`modern` is Qwen3 there and `gpt2` is GPT-2, loaded without code of ours, by transformers 4.57 and by 5. Where those two
spell a field differently, both spellings are written. Nobody publishes the shape of `tutorial`: its folder gets
modeling_tinygpt.py, which transformers runs if it is told to trust it.

GPT-2 stores c_attn, c_proj and c_fc as [in, out], the transpose of nn.Linear, and has a bias everywhere: where ours has
none, zeros are written. A tied head is the embedding, and is not written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tinygpt import checkpoint
from tinygpt.config import Config, ModelConfig
from tinygpt.errors import MISMATCH, UserError
from tinygpt.export.origin import NEW_TOKENS, Source, greedy, python_command
from tinygpt.export.shapes import shape_of
from tinygpt.model import TinyGPT
from tinygpt.published import GPT2_MATRICES, GPT2_NORMS, QWEN3_BLOCK
from tinygpt.storage import canonical, read_regular, write_durable
from tinygpt.tokenizer import BOS, EOS, PAD, SPECIALS

MODELING = "modeling_tinygpt.py"
TOLERANCE = 1e-5  # of the largest logit, at least of 1: fp32 itself is 2.4e-5 off where logits reach 20 (measured)
STRINGS = (  # what tokenizers like to disagree on
    "", " ", "  two  spaces ", "\t\ttabs\t", "a\r\nb\r\n", "\n\n\n", "\x00\x01\x7f",
    "Zoë ate 12,345 ukuleles; didn't she?",
    "👩\u200d👩\u200d👧 🇩🇪 👍🏽", "日本語と中文 한국어", "العربية עברית", "é e\u0301 \ufeff\u2028\u00a0",
    "<bos>", "<eos> <pad>", "a<bos>b<eos>c", "<|endoftext|> <s> </s> [MASK]",
    "'there 'seven 'read 'vest 'llama 'may 'day 's I'LL", "x" * 300, "1" * 40,
)  # fmt: skip


def refuse(config: Config) -> None:
    """UserError naming the fields that differ, if transformers has no such model and we have no code for it."""
    shape_of(config.model)


# --- writing ---------------------------------------------------------------------------------------------------------


def write(s: Source, folder: Path, encoding: str) -> None:
    """Everything but the model card, into an empty folder."""
    c = s.model.config
    shape = shape_of(c)
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "max_length": c.block_size}
    if shape == "tutorial":
        generation["use_cache"] = False
        write_durable(folder / MODELING, read_regular(Path(__file__).with_name(MODELING)))
    bos, eos, pad = SPECIALS
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos, "pad_token": pad,
        "model_max_length": c.block_size, "padding_side": "left", "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],  # 4.57 would add one that no model of these takes
    }  # fmt: skip
    write_durable(folder / "config.json", canonical(CONFIGS[shape](c)))
    write_durable(folder / "generation_config.json", canonical(generation))
    write_durable(folder / "tokenizer_config.json", canonical(tokens))
    s.run.tokenizer.save(folder / "tokenizer.json")
    tensors = {name: tensor.contiguous() for name, tensor in TENSORS[shape](s.model).items()}
    write_durable(folder / "model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))


def shared_fields(c: ModelConfig) -> dict[str, Any]:
    """What every config.json says."""
    return {
        "vocab_size": c.vocab_size, "tie_word_embeddings": c.tied, "bos_token_id": BOS, "eos_token_id": EOS,
        "pad_token_id": PAD, "torch_dtype": "float32", "dtype": "float32",
    }  # fmt: skip


def qwen3_config(c: ModelConfig) -> dict[str, Any]:
    """config.json of a Qwen3ForCausalLM."""
    return {
        **shared_fields(c), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": c.n_embd,
        "intermediate_size": c.d_ff, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads, "head_dim": c.d_head, "hidden_act": "silu",
        "max_position_embeddings": c.block_size, "rms_norm_eps": 1e-6, "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta}, "attention_bias": False,
        "attention_dropout": 0.0, "use_cache": True, "use_sliding_window": False,
    }  # fmt: skip


def gpt2_config(c: ModelConfig) -> dict[str, Any]:
    """config.json of a GPT2LMHeadModel."""
    return {
        **shared_fields(c), "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": c.block_size,
        "n_ctx": c.block_size, "n_embd": c.n_embd, "n_layer": c.n_layers, "n_head": c.n_heads, "n_inner": c.d_ff,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False, "use_cache": True,
    }  # fmt: skip


def tutorial_config(c: ModelConfig) -> dict[str, Any]:
    """config.json of the TinyGPTForCausalLM in modeling_tinygpt.py, which has our names."""
    names = ("n_embd", "n_heads", "n_kv_heads", "n_layers", "block_size", "d_head", "d_ff", "bias")
    code = MODELING.removesuffix(".py")
    return {
        **shared_fields(c), **{name: getattr(c, name) for name in names}, "architectures": ["TinyGPTForCausalLM"],
        "model_type": "tinygpt", "use_cache": False,
        "auto_map": {"AutoConfig": f"{code}.TinyGPTConfig", "AutoModelForCausalLM": f"{code}.TinyGPTForCausalLM"},
    }  # fmt: skip


def qwen3_tensors(model: TinyGPT) -> dict[str, Tensor]:
    """Our weights under the names of Qwen3ForCausalLM."""
    ours = checkpoint.named_tensors(model)
    theirs = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    for i in range(model.config.n_layers):
        theirs |= {f"model.layers.{i}.{b}.weight": ours[f"blocks.{i}.{a}.weight"] for b, a in QWEN3_BLOCK.items()}
    return theirs | head(ours)


def gpt2_tensors(model: TinyGPT) -> dict[str, Tensor]:
    """Our weights under the names of GPT2LMHeadModel, matrices transposed, absent biases as zeros."""
    ours = checkpoint.named_tensors(model)

    def bias(name: str) -> Tensor:
        return ours.get(f"{name}.bias", torch.zeros(len(ours[f"{name}.weight"])))

    theirs = {
        "transformer.wte.weight": ours["embedding.weight"], "transformer.wpe.weight": ours["positions.table.weight"],
        "transformer.ln_f.weight": ours["norm.weight"], "transformer.ln_f.bias": bias("norm"),
    }  # fmt: skip
    for i in range(model.config.n_layers):
        a, b = f"blocks.{i}.", f"transformer.h.{i}."
        for name, norm in GPT2_NORMS.items():
            theirs |= {f"{b}{name}.weight": ours[f"{a}{norm}.weight"], f"{b}{name}.bias": bias(a + norm)}
        for name, parts in GPT2_MATRICES.items():
            theirs[f"{b}{name}.weight"] = torch.cat([ours[f"{a}{part}.weight"] for part in parts]).t()
            theirs[f"{b}{name}.bias"] = torch.cat([bias(a + part) for part in parts])
    return theirs | head(ours)


def head(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head, unless it is the embedding."""
    return {"lm_head.weight": ours["head.weight"]} if "head.weight" in ours else {}


CONFIGS = {"qwen3": qwen3_config, "gpt2": gpt2_config, "tutorial": tutorial_config}
TENSORS = {"qwen3": qwen3_tensors, "gpt2": gpt2_tensors, "tutorial": checkpoint.named_tensors}


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(s: Source, folder: Path, encoding: str) -> dict[str, Any] | None:
    """Logits, greedy texts and token ids of transformers beside ours; None if transformers is not installed.

    Raises UserError (exit 66) if a logit differs by more than TOLERANCE says, or a text or an id at all.
    """
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers

    named = f"transformers {transformers.__version__}"
    with quiet(transformers):
        try:
            model, tokenizer = load(s, folder, transformers)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise UserError(f"{named} cannot load it: {str(error).strip().splitlines()[0]}.", MISMATCH) from None
        difference, largest = compare_logits(s, model)
        if not difference <= (allowed := TOLERANCE * max(1.0, largest)):  # NaN too
            raise UserError(f"{named} computes logits that differ by up to {difference:.2g}, more than {allowed:.2g}.",
                            MISMATCH)  # fmt: skip
        for number, prompt in enumerate(s.prompts):
            ours, theirs = [*prompt, *greedy(s.model, prompt)], their_greedy(model, prompt)
            if ours != theirs or s.run.tokenizer.decode(ours) != tokenizer.decode(theirs, skip_special_tokens=True):
                raise UserError(f"{named} goes on differently after prompt {number}, greedily.", MISMATCH)
        prompts = [s.run.tokenizer.decode(prompt) for prompt in s.prompts]
        tokens = [s.run.tokenizer.decode([id]) for id in range(s.run.tokenizer.vocab_size)]
        strings = [*STRINGS, *prompts, *tokens]
        for text, ids in zip(strings, tokenizer(strings, split_special_tokens=True)["input_ids"], strict=True):
            if s.run.tokenizer.encode(text) != ids:
                raise UserError(f"{named} cuts {text[:40]!r} into other tokens.", MISMATCH)
    return {
        "runtime": named, "largest difference of a logit": difference,
        "largest logit": largest,
        "equal greedy texts": f"{len(s.prompts)} of {len(s.prompts)}",
        "strings with equal ids": f"{len(strings):,} of {len(strings):,}",
    }  # fmt: skip


def load(s: Source, folder: Path, transformers: ModuleType) -> tuple[Any, Any]:
    """Model and tokenizer in the folder, as transformers reads them."""
    if (folder / MODELING).exists():
        # This file was copied from beside this one a moment ago. Run like this, nothing has to be trusted, and
        # transformers keeps no copy of it in its cache.
        model_class: Any = run_file(folder / MODELING).TinyGPTForCausalLM
        tokenizer_class = transformers.PreTrainedTokenizerFast
    else:
        model_class, tokenizer_class = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
    model = model_class.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer_class.from_pretrained(folder, local_files_only=True)


def run_file(path: Path) -> ModuleType:
    """The module in a Python file; leaves no __pycache__ beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise OSError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@torch.no_grad()
def compare_logits(s: Source, theirs: Any) -> tuple[float, float]:
    """The largest difference of a logit at any position of the prompts, and the largest logit of ours."""
    difference = largest = torch.zeros(())
    for prompt in s.prompts:
        idx = torch.tensor([prompt])  # (1, T)
        ours = s.model(idx)  # (1, T, V)
        difference = torch.maximum(difference, (ours - theirs(idx).logits).abs().max())  # keeps a NaN
        largest = torch.maximum(largest, ours.abs().max())
    return float(difference), float(largest)


def their_greedy(model: Any, prompt: list[int]) -> list[int]:
    """The same by their `generate`."""
    idx = torch.tensor([prompt])  # (1, T)
    longest = min(len(prompt) + NEW_TOKENS, model.config.max_position_embeddings)
    ids = model.generate(idx, attention_mask=torch.ones_like(idx), max_length=longest, do_sample=False)
    return ids[0].tolist()  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars and warnings of transformers between our lines."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def advice(s: Source, path: Path, encoding: str) -> list[str]:
    """How to use it, from a shell and from Python."""
    own_code = shape_of(s.model.config) == "tutorial"
    trust = ", trust_remote_code=True" if own_code else ""
    said = [f"No library knows the shape of tutorial: transformers runs the {MODELING} in the folder, and that only "
            "when it is told to, with trust_remote_code=True; version 5 asks for it in AutoTokenizer too."]  # fmt: skip
    use = f"pipeline('text-generation', {path.as_posix()!r}{trust})('Once upon a')[0]['generated_text']"
    command = python_command(f"from transformers import pipeline; print({use})")
    return [*(said if own_code else []), f"Use it: {command}"]
