"""Settings: what is refused, with which words, and that stored settings come back as they were."""

import dataclasses
import json
import math

import pytest

from tinygpt.config import (
    OWNER,
    PRESETS,
    SIZES,
    DataConfig,
    ModelConfig,
    TrainConfig,
    from_stored,
    make_config,
    model_config,
    parse_assignments,
    read_toml,
    swiglu_width,
    to_dict,
    user_defaults,
)
from tinygpt.errors import UserError


def test_a_field_name_belongs_to_one_section_only():
    """field=value names no section, so two sections with one field name would make it ambiguous."""
    assert len(OWNER) == sum(len(dataclasses.fields(cls)) for cls in (ModelConfig, TrainConfig, DataConfig))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_documented_points(preset):
    c = make_config(preset).model
    documented = {
        "tutorial": ("learned", "layernorm", "after", "gelu", False, True),
        "gpt2": ("learned", "layernorm", "before", "gelu_tanh", False, True),
        "modern": ("rotary", "rmsnorm", "before", "swiglu", True, False),
    }
    assert (c.positions, c.norm, c.norm_place, c.feed_forward, c.qk_norm, c.bias) == documented[preset]


def test_the_tutorials_dict_gives_the_tutorials_shape():
    c = ModelConfig.from_dict(model_config)
    assert (c.vocab_size, c.n_embd, c.n_heads, c.n_layers, c.block_size) == (8000, 128, 4, 6, 128)
    assert (c.n_kv_heads, c.d_head, c.d_ff, c.dropout) == (4, 32, 512, 0.0)


def test_the_tutorial_trains_by_the_tutorials_recipe():
    t = make_config("tutorial").train
    assert (t.batch_size, t.lr, t.weight_decay, t.beta1, t.beta2) == (32, 3e-4, 0.01, 0.9, 0.999)
    assert (t.warmup_steps, t.decay, t.grad_clip) == (0, 0.0, 0.0)


def test_derived_widths():
    c = make_config("modern", {"n_embd": 192, "n_heads": 6}).model
    assert (c.d_head, c.n_kv_heads, c.d_ff) == (32, 6, 512)
    assert make_config("modern", {"n_heads": 4, "n_kv_heads": 2, "d_head": 48, "d_ff": 100}).model.d_ff == 100
    assert [swiglu_width(n) for n in (64, 128, 192, 256, 320)] == [192, 384, 512, 704, 896]


def test_every_size_of_the_dial_is_possible():
    for size in SIZES.values():
        assert size["n_embd"] % 64 == 0
        for preset in PRESETS:
            make_config(preset, size)


def test_text_and_numbers_mean_the_same():
    """From a command line everything is text; from TOML and Python it is not."""
    words = ["n_embd=64", "lr = 2e-3", "tied=yes", "max_steps=1e3", "eval_every=1_000", "positions=learned"]
    typed = {"n_embd": 64, "lr": 2e-3, "tied": True, "max_steps": 1000, "eval_every": 1000, "positions": "learned"}
    assert make_config("modern", parse_assignments(words)) == make_config("modern", typed)


def test_a_word_without_equals_is_named():
    with pytest.raises(UserError, match=r"'stroy\.txt' is neither a file nor field=value"):
        parse_assignments(["lr=1", "stroy.txt"])
    assert parse_assignments(["encoding=a=b"]) == {"encoding": "a=b"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"n_head": 4}, ["'n_head'", "did you mean n_heads"]),
        ({"learning_rate": 4}, ["'learning_rate'", "fields are vocab_size"]),
        ({"n_heads": 5, "n_embd": 64}, ["n_heads=5 does not divide n_embd=64", "2, 4, 8"]),
        ({"n_heads": 7}, ["n_heads=7 does not divide n_embd=128", "8"]),
        ({"n_kv_heads": 3}, ["n_kv_heads=3 does not divide n_heads=4", "1, 2, 4"]),
        ({"d_head": 33}, ["d_head=33 is odd"]),
        ({"micro_batch": 5, "batch_size": 16}, ["micro_batch=5 does not divide batch_size=16", "2, 4, 8"]),
        ({"n_embd": 0}, ["n_embd=0 is outside 8 to 4096"]),
        ({"n_embd": -64}, ["n_embd=-64 is outside"]),
        ({"n_embd": 10**30}, ["n_embd=", "outside"]),
        ({"n_layers": "1e400"}, ["n_layers=1e400 is not a whole number"]),
        ({"n_layers": "2.5"}, ["n_layers=2.5 is not a whole number"]),
        ({"n_layers": "four"}, ["n_layers=four is not a whole number"]),
        ({"n_layers": "nan"}, ["n_layers=nan is not a whole number"]),
        ({"n_layers": True}, ["n_layers=True is not a whole number"]),
        ({"n_layers": ""}, ["n_layers= is not a whole number"]),
        ({"lr": "nan"}, ["lr=nan is outside"]),
        ({"lr": "inf"}, ["lr=inf is outside"]),
        ({"lr": "-0.1"}, ["lr=-0.1 is outside 0 to 10"]),
        ({"lr": "fast"}, ["lr=fast is not a number"]),
        ({"dropout": 1}, ["dropout=1.0 is outside 0 to 0.9"]),
        ({"tied": "maybe"}, ["tied=maybe is not true or false"]),
        ({"norm": "rms"}, ["norm=rms is not one of layernorm, rmsnorm", "did you mean rmsnorm"]),
        ({"vocab_size": 258}, ["vocab_size=258 is outside 259"]),
        ({"val_fraction": 0.6}, ["val_fraction=0.6 is outside 0 to 0.5"]),
        ({"seed": -1}, ["seed=-1 is outside"]),
    ],
)
def test_impossible_settings_are_refused_in_words(overrides, words):
    with pytest.raises(UserError) as error:
        make_config("modern", overrides)
    assert error.value.exit_code == 2
    for word in words:
        assert word in str(error.value)


def test_an_unknown_preset_names_the_presets():
    with pytest.raises(UserError, match=r"'moderne'.*tutorial, gpt2, modern.*did you mean modern"):
        make_config("moderne")


def test_from_dict_names_the_nearest_field():
    with pytest.raises(UserError, match=r"'n_layer'.*did you mean n_layers"):
        ModelConfig.from_dict({"n_layer": 2})


def test_a_value_of_the_wrong_type_is_refused_not_converted():
    """ModelConfig(n_layers=2.0) would make range(2.0) fail far away from the cause."""
    with pytest.raises(UserError, match=r"n_layers=2\.0 is not of type int"):
        ModelConfig(n_layers=2.0)
    with pytest.raises(UserError, match="tied=1 is not of type bool"):
        ModelConfig(tied=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_settings_come_back(preset):
    config = make_config(preset, {"n_layers": 3, "dropout": 0.1, "lr": 1e-4, "val_fraction": 0.2, "micro_batch": 4})
    assert from_stored(json.loads(json.dumps(to_dict(config)))) == (config, [])


def test_an_unknown_stored_field_is_said_and_ignored():
    stored = to_dict(make_config())
    stored["model"]["moe_experts"] = 8
    config, notices = from_stored(stored)
    assert config == make_config()
    assert len(notices) == 1 and "model.moe_experts" in notices[0]


def damage(**changes):
    return {**to_dict(make_config()), **changes}


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {name: value for name, value in damage().items() if name != "model"},
        {name: value for name, value in damage().items() if name != "preset"},
        damage(model=None),
        damage(model=["n_embd"]),
        damage(train="fast"),
        damage(model={"n_embd": 10**12}),
        damage(model={"n_embd": "64"}),
        damage(model={"n_embd": math.nan}),
        damage(train={"lr": math.nan}),
    ],
)
def test_stored_settings_that_cannot_be_are_exit_78(stored):
    """Before anything is allocated: a damaged config.json must not ask for terabytes."""
    with pytest.raises(UserError, match=r"config\.json") as error:
        from_stored(stored)
    assert error.value.exit_code == 78


def test_missing_stored_fields_take_the_default():
    stored = to_dict(make_config())
    del stored["train"]["patience"]
    assert from_stored(stored) == (make_config(), [])


def test_a_run_from_before_the_mean_goes_on_without_one():
    """Else the model that is validated and saved would be another from the middle of the run on."""
    stored = to_dict(make_config())
    del stored["train"]["average"]
    assert from_stored(stored)[0].train.average == 0.0


def test_toml_flat_and_in_sections(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('n_embd = 64\n[train]\nlr = 0.001\n[data]\nnewlines = "keep"\n')
    assert read_toml(path) == {"n_embd": 64, "lr": 0.001, "newlines": "keep"}
    assert make_config("modern", read_toml(path)).train.lr == 0.001


@pytest.mark.parametrize("content", [b"lr = = 3", b"lr = '\xff'"])
def test_bad_toml_names_the_file(tmp_path, content):
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"my\.toml: cannot be read as TOML"):
        read_toml(path)
    with pytest.raises(UserError, match=r"none\.toml: cannot be read"):
        read_toml(tmp_path / "none.toml")


def test_the_users_own_defaults(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_defaults() == {}
    (tmp_path / "tinygpt").mkdir()
    (tmp_path / "tinygpt" / "config.toml").write_text("n_layers = 2")
    assert user_defaults() == {"n_layers": 2}


@pytest.mark.parametrize("word", ["preset=gpt2", "minutes=3", "steps=5", "epochs=1", "val=v.txt", "run=x"])
def test_an_option_typed_as_a_field_is_shown_as_it_is_written(word):
    name, _, value = word.partition("=")
    with pytest.raises(UserError, match=f"write --{name} {value}"):
        parse_assignments([word])
