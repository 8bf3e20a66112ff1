"""A folder in Hugging Face's layout, read as a model of ours: config.json, tokenizer.json and safetensors.

Nothing in it is run, and pickles are not opened. First the settings are read, then the names, shapes and kinds of the
tensors in the headers; only when all of them are what the settings promise, numbers are read. Links are followed: the
cache of the Hugging Face hub is made of them.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from tinygpt.config import ModelConfig, listing, preset_settings
from tinygpt.errors import BAD_INPUT, MISMATCH, PICKLE_SUFFIXES, UNSAFE, UserError
from tinygpt.inherit import pieces
from tinygpt.model import TinyGPT
from tinygpt.published import HEAD, PREFIX, is_transposed, our_names
from tinygpt.storage import open_regular, parse_json, read_regular
from tinygpt.tokenizer import Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MOST_BYTES = {CONFIG: 1_000_000, INDEX: 50_000_000}
PRESETS = {"qwen3": "modern", "gpt2": "gpt2"}  # model_type -> the preset of that shape
FIELDS = {  # theirs -> ours: whole numbers that a shape is free to choose
    "qwen3": {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads", "head_dim": "d_head", "intermediate_size": "d_ff",
        "max_position_embeddings": "block_size", "vocab_size": "vocab_size",
    },
    "gpt2": {
        "n_embd": "n_embd", "n_layer": "n_layers", "n_head": "n_heads", "n_positions": "block_size",
        "vocab_size": "vocab_size",
    },
}  # fmt: skip
FIXED: dict[str, dict[str, tuple[Any, ...]]] = {  # values that the model computes with; the first where none is given
    "qwen3": {
        "hidden_act": ("silu",), "rms_norm_eps": (1e-6,), "attention_bias": (False,), "use_sliding_window": (False,),
    },
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
    },
}  # fmt: skip
TIED = {"qwen3": False, "gpt2": True}  # where config.json does not say it
ROPE_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
NUMBERS = {"F64", "F32", "F16", "BF16"}
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older GPT-2 files hold beside the weights


class Bad(ValueError):
    """What is wrong with a file, in words that go on from its name."""


def is_folder(path: Path) -> bool:
    """Whether there is a config.json of a Hugging Face model, of whatever shape; a run's is another."""
    try:
        return "model_type" in read_object(path, CONFIG)
    except (OSError, ValueError):
        return False


def read(folder: Path) -> tuple[str, ModelConfig, Tokenizer, dict[str, Tensor], list[str]]:
    """Preset, shape, tokenizer, weights by our names, and notices.

    Raises UserError: exit 66 for what is not a shape or a tokenizer of ours, 65 for what is damaged, 77 for pickles.
    """
    with naming(folder / CONFIG):
        config = read_object(folder, CONFIG)
        shape, theirs = shape_in(config)
    files = weight_files(folder)
    found = pieces.read(folder, config, theirs.vocab_size)
    weights, kinds = read_tensors(files, shape, theirs)
    rows = torch.tensor(found.rows)
    for name in {"embedding.weight", "head.weight"} & weights.keys():
        weights[name] = weights[name][rows]
    model = ModelConfig(**{**vars(theirs), "vocab_size": found.tokenizer.vocab_size})
    widened = sorted(kinds - {"F32"})
    said = [f"The weights are {listing(widened)} there and fp32 here."] if widened else []
    return PRESETS[shape], model, found.tokenizer, weights, [*([found.notice] if found.notice else []), *said]


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes a UserError with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}", error.exit_code if error.exit_code == UNSAFE else MISMATCH) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", BAD_INPUT) from None
    except (ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}.", BAD_INPUT) from None


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder; OSError or ValueError if there is none."""
    found = parse_json(read_regular((folder / name).resolve(), MOST_BYTES[name]))
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


# --- settings --------------------------------------------------------------------------------------------------------


def shape_in(config: Mapping[str, Any]) -> tuple[str, ModelConfig]:
    """model_type, and the shape with their vocabulary; UserError naming the first value that we do not have."""
    shape = config["model_type"]
    if not isinstance(shape, str) or shape not in PRESETS:
        ours = "; it is an export of a run of tinygpt: start from the run itself" if shape == "tinygpt" else ""
        raise UserError(f"model_type is {reprlib.repr(shape)}, and only {listing(PRESETS)} can be read{ours}.")
    if config.get("auto_map"):
        raise UserError("auto_map names code that comes with the model, which is never run.", UNSAFE)
    if config.get("quantization_config"):
        raise UserError("its weights are quantized (quantization_config); save them in full precision first.")
    for name, allowed in FIXED[shape].items():
        value = config.get(name, allowed[0])
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            raise UserError(f"{name} is {reprlib.repr(value)}; the shape that can be read has {listing(allowed)}.")
    fields: dict[str, Any] = {ours: whole(config, name) for name, ours in FIELDS[shape].items()}
    fields["tied"] = config.get("tie_word_embeddings", TIED[shape])
    if shape == "qwen3":
        fields["rope_theta"] = rotary_base(config)
    elif config.get("n_inner") is not None:
        fields["d_ff"] = whole(config, "n_inner")
    settings = {**preset_settings(PRESETS[shape])["model"], "tied": False, "dropout": 0.0}
    return shape, ModelConfig(**{**settings, **fields})


def whole(config: Mapping[str, Any], name: str) -> int:
    """A positive whole number in config.json."""
    if name not in config:
        raise UserError(f"it does not say {name}.")
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {reprlib.repr(value)}, not a positive whole number.")
    return value


def rotary_base(config: Mapping[str, Any]) -> float:
    """rope_theta, in the spelling of transformers 4, of 5, or both; UserError for any other rotation."""
    kinds = config.get("layer_types") or []
    if other := [kind for kind in kinds if kind != "full_attention"]:
        raise UserError(
            f"layer_types has {reprlib.repr(other[0])}; the shape that can be read has full_attention alone."
        )
    bases = [config["rope_theta"]] if config.get("rope_theta") is not None else []
    for spelling in ("rope_parameters", "rope_scaling"):
        rope = config.get(spelling) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        others = sorted(rope.keys() - ROPE_FIELDS)
        if kind != "default" or others or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise UserError(
                f"{spelling} is {reprlib.repr(dict(rope))}; the shape that can be read rotates by rope_theta alone."
            )
        bases += [rope["rope_theta"]] if rope.get("rope_theta") is not None else []
    if len(set(bases)) != 1 or isinstance(bases[0], bool) or not isinstance(bases[0], int | float):
        raise UserError(f"rope_theta is {listing(map(reprlib.repr, bases)) or 'not there'}; it must be one number.")
    return float(bases[0])


# --- weights ---------------------------------------------------------------------------------------------------------


def pickles(folder: Path) -> list[str]:
    """Files that may be pickled weights."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES)


def refusal_of(folder: Path, found: list[str]) -> str:
    """Why pickles are not read."""
    return (f"{folder} has its weights as {found[0]}, which can run code when it is opened; save them as safetensors "
            "(transformers: save_pretrained).")  # fmt: skip


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a folder, each with the names that the index gives it, None where there is no index."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: None}
    if not (folder / INDEX).exists():
        if found := pickles(folder):
            raise UserError(refusal_of(folder, found), UNSAFE)
        raise UserError(f"{folder} has no {WEIGHTS}.", BAD_INPUT)
    files: dict[Path, set[str]] = {}
    with naming(folder / INDEX):
        for name, file in read_object(folder, INDEX)["weight_map"].items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise Bad(f"{reprlib.repr(file)} is no safetensors file of this folder")
            files.setdefault(folder / file, set()).add(name)
    return dict(files)


def read_tensors(
    files: Mapping[Path, set[str] | None], shape: str, config: ModelConfig
) -> tuple[dict[str, Tensor], set[str]]:
    """Weights by our names, fp32, and the formats they had; UserError unless they are exactly those of the shape.

    Headers first: a model that is not there, or that is another, costs no memory.
    """
    wanted, ours = our_names(shape, config), sizes(config)
    places: dict[str, tuple[Path, str]] = {}  # their name without prefix -> file and name there
    kinds: set[str] = set()
    theirs = dict[str, Tensor]()
    with contextlib.ExitStack() as stack:
        opened = {}
        for path, promised in files.items():
            with naming(path):
                with open_regular(path.resolve()):  # no pipe, no device
                    opened[path] = stack.enter_context(safetensors.safe_open(path, framework="pt"))
                there = set(opened[path].keys())
                if promised is not None and promised != there:
                    raise Bad(f"it does not hold what {INDEX} says: {min(promised ^ there)}")
                for name in there:
                    short = name.removeprefix(PREFIX[shape])
                    if shape == "gpt2" and short.endswith(MASKS):
                        continue
                    if short in places:
                        raise Bad(f"{name} is there twice")
                    places[short] = path, name
        tied_head = config.tied and HEAD in places
        expected = wanted.keys() | ({HEAD} if tied_head else set())
        for name in sorted(expected ^ places.keys()):
            where = "is not there" if name in expected else "is not known in that shape"
            raise UserError(f"{next(iter(files)).parent}: {name} {where} ({shape}).", MISMATCH)
        embedding = "wte.weight" if shape == "gpt2" else "embed_tokens.weight"
        for name, (path, full) in sorted(places.items()):
            with naming(path):
                part = opened[path].get_slice(full)
                size = expected_size(name, wanted.get(name, wanted[embedding]), ours)
                if list(part.get_shape()) != size:
                    raise UserError(f"{full} is {part.get_shape()}, and config.json promises {size}.")
                if part.get_dtype() not in NUMBERS:
                    raise UserError(
                        f"{full} is {part.get_dtype()}; numbers that can be read are {listing(sorted(NUMBERS))}."
                    )
                kinds.add(part.get_dtype())
        for name, (path, full) in sorted(places.items()):
            with naming(path):
                theirs[name] = opened[path].get_tensor(full).to(torch.float32, copy=True)
                if not theirs[name].isfinite().all():
                    raise Bad(f"{full} has numbers that are not finite")
    if tied_head and not torch.equal(theirs.pop(HEAD), theirs[embedding]):
        raise UserError(
            f"{next(iter(files)).parent}: config.json says tie_word_embeddings, but {HEAD} is not the embedding.",
            MISMATCH,
        )
    return {
        name: tensor for part, names in wanted.items() for name, tensor in taken_apart(part, names, theirs[part], ours)
    }, kinds


def sizes(config: ModelConfig) -> dict[str, torch.Size]:
    """The size of every tensor of ours, without making one."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in TinyGPT(config).named_parameters()}


def expected_size(name: str, parts: tuple[str, ...], ours: Mapping[str, torch.Size]) -> list[int]:
    """The size of one of their tensors."""
    rows = [sum(ours[part][0] for part in parts), *ours[parts[0]][1:]]
    return rows[::-1] if is_transposed(name) else rows


def taken_apart(
    name: str, parts: tuple[str, ...], tensor: Tensor, ours: Mapping[str, torch.Size]
) -> Iterator[tuple[str, Tensor]]:
    """One of their tensors as those of ours that it is made of."""
    rows = tensor.t() if is_transposed(name) else tensor
    for part, piece in zip(parts, rows.split([ours[part][0] for part in parts]), strict=True):
        yield part, piece.contiguous()
