"""Which published architecture a model is. The five axes decide, not the name of the preset.

qwen3      what `modern` is: Qwen3ForCausalLM, loaded by transformers and llama.cpp without code of ours
gpt2       what `gpt2` is: GPT2LMHeadModel, likewise
tutorial   what `tutorial` is: nobody publishes it
"""

from __future__ import annotations

from tinygpt.config import ModelConfig
from tinygpt.errors import UserError

# Fields that a shape fixes. What is not named may be anything: widths, depth, tied or not.
SHAPES: dict[str, dict[str, str | bool]] = {
    "qwen3": {
        "positions": "rotary", "norm": "rmsnorm", "norm_place": "before", "feed_forward": "swiglu", "qk_norm": True,
        "bias": False,
    },
    "gpt2": {
        "positions": "learned", "norm": "layernorm", "norm_place": "before", "feed_forward": "gelu_tanh",
        "qk_norm": False,
    },
    "tutorial": {
        "positions": "learned", "norm": "layernorm", "norm_place": "after", "feed_forward": "gelu", "qk_norm": False,
    },
}  # fmt: skip


def differences(config: ModelConfig, shape: str) -> dict[str, object]:
    """Field -> the value that `shape` has where `config` has another one; {} if the model is of that shape."""
    wanted: dict[str, object] = dict(SHAPES[shape])
    if shape == "gpt2":  # its width of a head and its key/value heads are no settings there
        wanted |= {"n_kv_heads": config.n_heads, "d_head": config.n_embd / config.n_heads}
    return {name: value for name, value in wanted.items() if getattr(config, name) != value}


def shape_of(config: ModelConfig, among: tuple[str, ...] = tuple(SHAPES)) -> str:
    """The name of the model's shape; UserError with the fields that differ from the nearest one if it has none."""
    by_shape = {shape: differences(config, shape) for shape in among}
    nearest = min(by_shape, key=lambda shape: len(by_shape[shape]))
    if not by_shape[nearest]:
        return nearest
    there = ", ".join(f"{name}={_written(value)}" for name, value in by_shape[nearest].items())
    here = ", ".join(f"{name}={_written(getattr(config, name))}" for name in by_shape[nearest])
    raise UserError(f"{here}: the nearest shape that can be exported, {nearest}, has {there}; train with that, or "
                    "with --preset modern or gpt2 unchanged.")  # fmt: skip


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
