"""What a run is made of: model, training and data settings, presets, `field=value`, TOML and JSON. No torch.

Three dataclasses hold every number of a run. All fields are named once, here, with default, range and meaning;
the command line, config.json and the documentation read them from here. `ModelConfig` has five axes of
architecture (positions, norm, norm_place, feed_forward, qk_norm); a preset is a point on those axes together
with the training settings it was tuned with.

    config = make_config("modern", {"n_layers": "4", "lr": "0.002"})
    config.model.n_layers                                   # 4
    ModelConfig.from_dict(model_config)                     # the tutorial's dict, the tutorial's architecture
"""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import platformdirs

from tinygpt.errors import BAD_CONFIG, UserError, did_you_mean

FORMAT_VERSION = 1  # of run folders; a run of another version is refused, never guessed at

# The tutorial's own dict, field for field.
model_config = {"vocab_size": 8000, "n_embd": 128, "n_heads": 4, "n_layers": 6, "block_size": 128}


def setting(default: Any, meaning: str, low: float = -math.inf, high: float = math.inf, choices: tuple = ()) -> Any:
    """A dataclass field that knows its range [low, high] or its choices, and what it means."""
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "low": low, "high": high, "choices": choices}
    )


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a TinyGPT. A 0 in n_kv_heads, d_head or d_ff is replaced by the value derived from the others."""

    vocab_size: int = setting(4096, "tokens; an upper limit for the tokenizer, then the size that came out", 259, 65536)
    n_embd: int = setting(128, "width of the residual stream", 8, 4096)
    n_heads: int = setting(4, "attention heads", 1, 64)
    n_kv_heads: int = setting(0, "key/value heads, a divisor of n_heads (0: n_heads)", 0, 64)
    n_layers: int = setting(6, "decoder blocks", 1, 64)
    block_size: int = setting(128, "longest context in tokens", 8, 4096)
    d_head: int = setting(0, "width of one head (0: n_embd / n_heads)", 0, 512)
    d_ff: int = setting(0, "hidden width of the feed-forward (0: 4 n_embd, for swiglu about 8/3 n_embd)", 0, 16384)
    dropout: float = setting(0.0, "share of activations dropped in training", 0.0, 0.9)
    positions: str = setting("learned", "how position enters", choices=("learned", "rotary"))
    norm: str = setting("layernorm", "kind of normalisation", choices=("layernorm", "rmsnorm"))
    norm_place: str = setting("after", "before each sub-layer, or after each sum", choices=("before", "after"))
    feed_forward: str = setting("gelu", "kind of feed-forward", choices=("gelu", "gelu_tanh", "swiglu"))
    qk_norm: bool = setting(False, "normalise queries and keys per head")
    tied: bool = setting(False, "the head shares the embedding matrix")
    bias: bool = setting(True, "biases in linear layers and norms")
    rope_theta: float = setting(10_000.0, "base of the rotary frequencies", 10.0, 1e7)

    def __post_init__(self) -> None:
        check_ranges(self)
        given = lambda name, derived: object.__setattr__(self, name, getattr(self, name) or derived)  # noqa: E731
        if not self.d_head and self.n_embd % self.n_heads:
            fits = [h for h in range(1, 65) if self.n_embd % h == 0]
            near = sorted(fits, key=lambda h: abs(h - self.n_heads))[:3]
            raise UserError(
                f"n_heads={self.n_heads} does not divide n_embd={self.n_embd}; n_heads can be {listing(sorted(near))}."
            )
        given("n_kv_heads", self.n_heads)
        given("d_head", self.n_embd // self.n_heads)
        given("d_ff", swiglu_width(self.n_embd) if self.feed_forward == "swiglu" else 4 * self.n_embd)
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"n_kv_heads={self.n_kv_heads} does not divide n_heads={self.n_heads}; "
                f"n_kv_heads can be {listing(h for h in range(1, self.n_heads + 1) if self.n_heads % h == 0)}."
            )
        if self.positions == "rotary" and self.d_head % 2:
            raise UserError(f"d_head={self.d_head} is odd; rotary positions turn pairs, so d_head must be even.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], preset: str = "tutorial") -> ModelConfig:
        """A config from a dict with some of the fields; the others come from `preset`, so the tutorial's dict works."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise UserError(f"model_config has no field {name!r}{did_you_mean(name, known)}.")
        return cls(**{**preset_settings(preset)["model"], **values})


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are found. A 0 in micro_batch, max_steps or an interval means: decided by the planner."""

    batch_size: int = setting(8, "sequences per step", 1, 65536)
    micro_batch: int = setting(0, "sequences per forward/backward, a divisor of batch_size (0: batch_size)", 0, 65536)
    lr: float = setting(0.01, "peak learning rate of AdamW", 0.0, 10.0)
    muon_lr: float = setting(0.01, "peak learning rate of Muon, for the blocks' matrices (0: AdamW too)", 0.0, 10.0)
    muon_momentum: float = setting(0.9, "Muon: memory of the gradient", 0.0, 0.9999)
    weight_decay: float = setting(0.5, "AdamW: pull of matrices towards zero, times lr", 0.0, 100.0)
    muon_decay: float = setting(0.1, "Muon: the same, times muon_lr", 0.0, 100.0)
    warmup_steps: int = setting(-1, "steps of linear warm-up (-1: 2 % of max_steps)", -1, 10**9)
    decay: float = setting(0.5, "share of the steps, at the end, in which lr falls linearly to 0", 0.0, 1.0)
    average: float = setting(
        0.2, "share of the steps over which the weights that are kept are a mean (0: none)", 0.0, 1.0
    )
    beta1: float = setting(0.9, "AdamW: memory of the gradient", 0.0, 0.9999)
    beta2: float = setting(0.98, "AdamW: memory of its square", 0.0, 0.999999)
    grad_clip: float = setting(1.0, "largest gradient norm (0: no limit)", 0.0, 1e9)
    max_steps: int = setting(0, "optimizer updates (0: as many as fit in the minutes)", 0, 10**9)
    eval_every: int = setting(0, "steps between validations (0: 2 to 12 in a run)", 0, 10**9)
    save_every: int = setting(0, "steps between checkpoints (0: with every validation)", 0, 10**9)
    sample_every: int = setting(0, "steps between samples (0: 2 to 4 in a run)", 0, 10**9)
    log_every: int = setting(10, "steps between records", 1, 10**9)
    max_time_s: float = setting(0.0, "stop, saved, after so many seconds of one session (0: never)", 0.0, 1e9)
    on_nonfinite: str = setting("skip", "loss or gradient not finite", choices=("skip", "stop", "rewind"))
    on_spike: str = setting("warn", "loss or gradient norm far above the usual", choices=("warn", "rewind"))
    patience: int = setting(0, "stop after this many validations without a new best (0: never)", 0, 10**6)
    seed: int = setting(0, "decides first weights, order of the data, dropout and samples", 0, 2**31 - 1)
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting("auto", "number format of the products", choices=("auto", "fp32", "bf16"))
    start: str = setting("auto", "first weights (auto: pairs if the shape can)", choices=("auto", "pairs", "random"))
    fast: bool = setting(True, "the loss in pieces, on its way forward (false: as the formula says)")
    compiled: str = setting("auto", "machine code for this shape (auto: if faster)", choices=("auto", "yes", "no"))
    deterministic: bool = setting(False, "the same bits in every run also on a GPU, slower there")
    threads: int = setting(0, "CPU threads (0: probed)", 0, 1024)

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "micro_batch", self.micro_batch or self.batch_size)
        if self.batch_size % self.micro_batch:
            fits = [m for m in range(1, self.batch_size + 1) if self.batch_size % m == 0]
            near = sorted(fits, key=lambda m: abs(m - self.micro_batch))[:3]
            raise UserError(
                f"micro_batch={self.micro_batch} does not divide batch_size={self.batch_size}; "
                f"micro_batch can be {listing(sorted(near))}."
            )


@dataclass(frozen=True)
class DataConfig:
    """How text becomes training and validation tokens."""

    split_seed: int = setting(0, "decides which documents are kept for validation", 0, 2**31 - 1)
    val_fraction: float = setting(0.1, "share of the text kept for validation", 0.0, 0.5)
    val_max_bytes: int = setting(131_072, "largest validation text cut from your own text [bytes]", 0, 2**40)
    newlines: str = setting("lf", "turn CRLF into LF, or keep it", choices=("lf", "keep"))
    encoding: str = setting("auto", "encoding of the text files, e.g. cp1252 (auto: UTF-8, else detected)")

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Config:
    """All settings of one run, as stored in config.json."""

    preset: str
    model: ModelConfig
    train: TrainConfig
    data: DataConfig


GPT2 = {"positions": "learned", "norm": "layernorm", "norm_place": "before", "feed_forward": "gelu_tanh"}
QWEN3 = {"positions": "rotary", "norm": "rmsnorm", "norm_place": "before", "feed_forward": "swiglu", "qk_norm": True}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "tutorial": {
        "model": dict(model_config),
        # The tutorial's recipe: AdamW with PyTorch's decay and betas, a constant rate, nothing clipped.
        "train": {
            "batch_size": 32, "lr": 3e-4, "muon_lr": 0.0, "weight_decay": 0.01, "warmup_steps": 0, "decay": 0.0,
            "beta2": 0.999, "grad_clip": 0.0, "average": 0.0,
        },
    },
    "gpt2": {
        "model": {**GPT2, "n_embd": 128, "n_heads": 4, "n_layers": 4, "block_size": 256, "tied": True},
        "train": {},
    },
    "modern": {
        "model": {**QWEN3, "n_embd": 128, "n_heads": 4, "n_layers": 4, "block_size": 256, "bias": False},
        "train": {},
    },
}  # fmt: skip
DEFAULT_PRESET = "modern"
TEMPERATURE = 0.6  # of texts drawn for people: during training, in reports, by default on the command line

# A family of sizes, small to large, every width a multiple of 64; the planner takes pico for small texts.
SIZES: dict[str, dict[str, int]] = {
    "pico": {"n_embd": 64, "n_heads": 2, "n_layers": 4, "block_size": 128, "vocab_size": 512},
    "nano": {"n_embd": 128, "n_heads": 4, "n_layers": 4, "block_size": 256, "vocab_size": 1024},
    "micro": {"n_embd": 192, "n_heads": 6, "n_layers": 6, "block_size": 256, "vocab_size": 2048},
    "mini": {"n_embd": 256, "n_heads": 4, "n_layers": 6, "block_size": 256, "vocab_size": 4096},
    "small": {"n_embd": 320, "n_heads": 5, "n_layers": 6, "block_size": 256, "vocab_size": 4096},
}

SECTIONS: dict[str, type] = {"model": ModelConfig, "train": TrainConfig, "data": DataConfig}
OWNER = {f.name: section for section, cls in SECTIONS.items() for f in fields(cls)}  # field -> section


def preset_settings(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a preset by section; UserError with the nearest names if there is none of that name."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; presets are {listing(PRESETS)}{did_you_mean(name, PRESETS)}.")
    return PRESETS[name]


def make_config(preset: str = DEFAULT_PRESET, overrides: Mapping[str, Any] | None = None) -> Config:
    """The whole configuration: defaults, then the preset, then `overrides` ({"n_embd": 64} or {"n_embd": "64"}).

    Raises UserError for an unknown preset or field (with the nearest names), a value of the wrong type, a value
    out of range, or fields that do not fit together.
    """
    sections = {section: dict(values) for section, values in preset_settings(preset).items()}
    sections.setdefault("data", {})
    for name, value in (overrides or {}).items():
        if name not in OWNER:
            raise UserError(f"there is no field {name!r}{did_you_mean(name, OWNER)}; fields are {listing(OWNER)}.")
        sections[OWNER[name]][name] = convert(OWNER[name], name, value)
    built = {section: cls(**sections[section]) for section, cls in SECTIONS.items()}
    return Config(preset=preset, **built)


def parse_assignments(words: list[str]) -> dict[str, str]:
    """{"n_embd": "64"} from ["n_embd=64"]; UserError for a word without '='."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is neither a file nor field=value.")
        if name in ("preset", "minutes", "steps", "epochs", "val", "run"):
            raise UserError(f"{word!r} is an option, not a field: write --{name} {value}.")
    return {name.strip(): value.strip() for name, _, value in (word.partition("=") for word in words)}


def convert(section: str, name: str, value: Any) -> Any:
    """`value`, or the text of it, as the type of the field; UserError if it cannot be that."""
    kind = {f.name: f.type for f in fields(SECTIONS[section])}[name]
    text = str(value).strip()
    try:
        if kind == "bool":
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if kind == "int":
            number = float(text.replace("_", ""))
            if number != int(number):
                raise ValueError
            return int(number)
        return float(text) if kind == "float" else text
    except (KeyError, ValueError, OverflowError):
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}[str(kind)]
        raise UserError(f"{name}={text} is not {wanted}.") from None


def check_ranges(config: Any) -> None:
    """UserError for the first field that is not of its type, not in its range or not among its choices."""
    for f in fields(config):
        value, rule = getattr(config, f.name), f.metadata
        expected: Any = {"int": int, "float": (int, float), "bool": bool, "str": str}[str(f.type)]
        if not isinstance(value, expected) or (isinstance(value, bool) and f.type != "bool"):
            raise UserError(f"{f.name}={value!r} is not of type {f.type}.")
        if rule["choices"] and value not in rule["choices"]:
            raise UserError(
                f"{f.name}={value} is not one of {listing(rule['choices'])}{did_you_mean(str(value), rule['choices'])}."
            )
        if isinstance(value, (int, float)) and not rule["low"] <= value <= rule["high"]:  # NaN fails this too
            raise UserError(f"{f.name}={value} is outside {rule['low']:g} to {rule['high']:g} ({rule['meaning']}).")


def listing(words: Any) -> str:
    """'a, b, c' from any iterable of names or numbers."""
    return ", ".join(str(word) for word in words)


def swiglu_width(n_embd: int) -> int:
    """8/3 n_embd rounded up to a multiple of 64: three matrices of that width weigh what GELU's two of 4 n_embd do."""
    return math.ceil(8 * n_embd / 3 / 64) * 64


def to_dict(config: Config) -> dict[str, Any]:
    """Plain data for config.json."""
    return dataclasses.asdict(config)


def from_stored(stored: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The Config in a config.json, and notices about fields this version does not know.

    Raises UserError (exit 78) for missing sections, wrong types or values out of range, before anything is allocated.
    """
    notices: list[str] = []
    built: dict[str, Any] = {}
    try:
        for section, cls in SECTIONS.items():
            known = {f.name for f in fields(cls)}
            notices += [f"config.json: field {section}.{name} is not known here and is ignored."
                        for name in stored[section] if name not in known]  # fmt: skip
            then = {} if section != "train" or "average" in stored[section] else {"average": 0.0}  # before it came up
            built[section] = cls(**then, **{name: value for name, value in stored[section].items() if name in known})
        return Config(preset=str(stored["preset"]), **built), notices
    except UserError as error:
        raise UserError(f"config.json: {error}", BAD_CONFIG) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"config.json is not a configuration of tinygpt: {error!r}.", BAD_CONFIG) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Flat overrides from a TOML file: `lr = 0.002`, or the same under [model], [train], [data]."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from None
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def user_defaults() -> dict[str, Any]:
    """The user's own defaults from $XDG_CONFIG_HOME/tinygpt/config.toml (else ~/.config); {} without such a file."""
    base = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(base) / "tinygpt" if base else Path(platformdirs.user_config_dir("tinygpt", appauthor=False))
    path = folder / "config.toml"
    return read_toml(path) if path.is_file() else {}
