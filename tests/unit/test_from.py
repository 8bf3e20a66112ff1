"""`train --from SOURCE`: what stays, what is refused and in which words, and that a stop loses nothing."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import environment, inside, tinygpt

from tinygpt import checkpoint
from tinygpt.display import Display
from tinygpt.export import hf as exported
from tinygpt.export.origin import Source
from tinygpt.inherit import inherit
from tinygpt.plan import FROM_RATE
from tinygpt.records import read
from tinygpt.runs import open_run
from tinygpt.train import set_up, train

SAME = ("precision=fp32", "device=cpu", "compiled=no", "threads=1", "--quiet")


@pytest.fixture
def here(tmp_path, trained, texts):
    """A folder with a trained run called base, its text, and another text."""
    with inside(tmp_path):
        shutil.copytree(trained, tmp_path / "runs" / "base")
        (tmp_path / "more.txt").write_text("\n\n\n".join(text.replace("fox", "wolf") for text in texts))
        yield tmp_path


@pytest.fixture
def folder(here, make_model, tokenizer):
    """The folder "theirs": a Hugging Face directory of a tiny qwen3."""
    return write_theirs(here, make_model, tokenizer)


def write_theirs(here, make_model, tokenizer, preset="modern", **fields):
    model = make_model(preset, vocab_size=tokenizer.vocab_size, **fields)
    run, _ = open_run(here / "runs" / "base")
    path = here / "theirs"
    path.mkdir()
    exported.write(Source(run, model, 1, []), path, "f32")
    return path


def change(path, **fields):
    """Fields of a JSON file; None stands for null, ... for a field that goes."""
    document = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not ...}))


def refused(code, *words, source="theirs", text="more.txt"):
    """The sentence of a training that is refused, and that nothing was made for it."""
    before = sorted(Path("runs").iterdir())
    done = tinygpt("train", text, "--from", source, "--steps", 1, *words)
    assert done.code == code, (done.code, done.err, done.out)
    assert done.err.startswith("tinygpt: ") and len(done.err.splitlines()) == 1 and "Traceback" not in done.err
    assert sorted(Path("runs").iterdir()) == before
    return done.err


# --- from a run ------------------------------------------------------------------------------------------------------


def test_shape_tokenizer_and_weights_stay(here):
    done = tinygpt("train", "more.txt", "--from", "base@40", "--steps", 3, *SAME)
    assert done.code == 0, done.err
    base, more = (open_run(here / "runs" / name)[0] for name in ("base", "more"))
    assert (base.folder / "tokenizer.json").read_bytes() == (more.folder / "tokenizer.json").read_bytes()
    shape = lambda config: {**vars(config.model), "dropout": None}  # noqa: E731
    assert shape(more.config) == shape(base.config) and more.config.preset == base.config.preset
    first, taken = checkpoint.load(more.folder, "0")[0].model, checkpoint.load(base.folder, "40")[0].model
    assert first.keys() == taken.keys() and all(torch.equal(first[name], taken[name]) for name in first)
    assert more.origin["source"] == "base@40" and more.origin["step"] == 40
    assert more.config.train.lr == pytest.approx(0.01 * FROM_RATE) == more.config.train.muon_lr
    assert any(f"{FROM_RATE:g} of the usual" in reason for reason in more.facts["reasons"])
    assert "It starts from base@40, step 40: the loss is" in done.out and "Untrained" not in done.out
    assert "It began with the weights of base@40, step 40." in done.out
    assert more.facts["expected_bpb"] is None  # nobody can know


def test_given_rates_are_kept_and_the_other_is_lowered(here):
    tinygpt("train", "more.txt", "--from", "base", "--steps", 1, "lr=0.002", *SAME)
    config = open_run(here / "runs" / "more")[0].config.train
    assert config.lr == 0.002 and config.muon_lr == pytest.approx(0.01 * FROM_RATE)


def test_dropout_is_free_and_a_path_is_a_source(here):
    done = tinygpt("train", "more.txt", "--from", here / "runs" / "base", "--steps", 1, "dropout=0.3", *SAME)
    assert done.code == 0 and open_run(here / "runs" / "more")[0].config.model.dropout == 0.3


def test_the_plan_says_it_too(here):
    done = tinygpt("plan", "more.txt", "--from", "base", "--steps", 3, "--json", *SAME[:-1])
    assert done.json["from"] == {"source": "base", "step": 60} and done.json["model"]["n_embd"] == 32
    assert not (here / "runs" / "more").exists()


def test_model_fields_in_the_users_defaults_are_of_other_models(here):
    (here / ".config" / "tinygpt").mkdir(parents=True)
    (here / ".config" / "tinygpt" / "config.toml").write_text('n_embd = 64\nlog_every = 7\nstart = "random"\n')
    assert tinygpt("train", "more.txt", "--from", "base", "--steps", 1, *SAME).code == 0
    config = open_run(here / "runs" / "more")[0].config
    assert config.model.n_embd == 32 and config.train.log_every == 7


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["n_embd=64"], "n_embd=64 cannot be chosen with --from: the shape is that of base"),
        (["vocab_size=300"], "vocab_size=300 cannot be chosen"), (["tied=true"], "tied=true cannot be chosen"),
        (["--preset", "gpt2"], "--preset gpt2 cannot be chosen with --from"),
        (["start=pairs"], "start=pairs cannot be chosen with --from"),
        (["--resume"], "--resume goes on with the run as it was planned"),
    ],
)  # fmt: skip
def test_what_would_change_the_model_is_refused(here, words, sentence):
    assert sentence in refused(2, *words, source="base")


def test_a_text_that_does_not_fill_the_context_is_refused(here):
    Path("short.txt").write_text("The fox lost the key.")
    assert "its context of 32 needs 33; use more text" in refused(65, source="base", text="short.txt")


def test_doctor_and_compare_know_of_it(here):
    tinygpt("train", "more.txt", "--from", "base", "--steps", 1, *SAME)
    assert "began with the weights of base, step 60" in tinygpt("doctor", "more").out
    assert tinygpt("compare", "base", "more", "--json").json["runs"][1]["began_with"] == "base, step 60"
    assert "began with" in tinygpt("compare", "base", "more").out
    (here / "runs" / "more" / "start.safetensors").write_bytes(b"")
    done = tinygpt("doctor", "more")  # a run that has begun does not need it any more
    assert done.code == 0 and "start.safetensors: it is damaged" in done.out


# --- stops -----------------------------------------------------------------------------------------------------------

LONG = ("eval_every=5", "save_every=5", "sample_every=20", "log_every=1", "dropout=0.1")


def outcome(folder):
    loaded, _ = checkpoint.load(folder)
    timeless = lambda r: {k: v for k, v in r.items() if k not in ("time_s", "tokens_per_s")}  # noqa: E731
    return loaded, [timeless(r) for r in read(folder / "metrics.jsonl")]


def assert_same(a, b):
    (one, records), (other, others) = outcome(a), outcome(b)
    assert one.step == other.step == 20 and records == others
    for part in ("model", "optim"):
        left, right = getattr(one, part), getattr(other, part)
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def undisturbed(here):
    done = tinygpt("train", "more.txt", "--from", "base", "--steps", 20, *LONG, *SAME)
    assert done.code == 0, done.err
    return here / "runs" / "more"


def without_checkpoints(whole, name):
    """The run as it was before its first checkpoint; the source is gone."""
    copy = Path(shutil.copytree(whole, whole.with_name(name)))
    for entry in ("checkpoints", "snapshots", "metrics.jsonl", "samples.jsonl"):
        path = copy / entry
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(whole.with_name("base"), ignore_errors=True)
    return copy


def test_before_the_first_checkpoint_it_starts_from_the_same_weights(undisturbed):
    copy = without_checkpoints(undisturbed, "again")
    assert "a resume starts at step 0 of 20" in tinygpt("doctor", "again").out
    assert tinygpt("train", "--resume", "--run", "again", "--quiet").code == 0
    assert_same(undisturbed, copy)


@pytest.mark.parametrize("damage", ["missing", "other", "cut"])
def test_weights_that_are_not_whole_are_exit_72(undisturbed, damage):
    path = without_checkpoints(undisturbed, "again") / "start.safetensors"
    tensors = safetensors.torch.load_file(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        safetensors.torch.save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, path)
    done = tinygpt("train", "--resume", "--run", "again", "--quiet")
    assert done.code == 72 and "start.safetensors" in done.err
    assert tinygpt("doctor", "again").code == 72


def test_killed_in_between_and_resumed_it_is_the_same_run(here, undisturbed):
    words = ["train", "more.txt", "--from", "base", "--steps", "20", "--run", "killed", *LONG, *SAME]
    process = subprocess.Popen(
        [sys.executable, "-m", "tinygpt", *words], cwd=here, env=environment(here), stdout=subprocess.DEVNULL
    )
    metrics = here / "runs" / "killed" / "metrics.jsonl"
    for _ in range(2400):
        if metrics.exists() and metrics.read_bytes().count(b'"train"') >= 7:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert tinygpt("train", "--resume", "--run", "killed", "--quiet").code == 0
    assert_same(undisturbed, here / "runs" / "killed")


def test_a_preparation_that_fails_leaves_nothing(here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinygpt.runs.write_tokens", full)
    assert tinygpt("train", "more.txt", "--from", "base", "--steps", 1, *SAME).code == 74
    assert not (here / "runs" / "more").exists()


@pytest.mark.parametrize("found", [3, {}, {"source": "x"}, {"source": 1, "step": 1, "sha256": ""}, []])
def test_a_hostile_origin_is_exit_78(here, found):
    change(here / "runs" / "base" / "config.json", **{"from": found})
    assert tinygpt("doctor", "base").code == 78


def test_two_ranks_start_from_the_same_weights(here):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["train", "more.txt", "--from", "base", "--steps", "3", "--run", "two", "log_every=1", *SAME]
    own = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tinygpt", *words], cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**environment(here), **own, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended
    assert tinygpt("train", "more.txt", "--from", "base", "--steps", 3, "--run", "one", "log_every=1", *SAME).code == 0
    one, two = (read(here / "runs" / name / "metrics.jsonl") for name in ("one", "two"))
    assert one[0]["kind"] == "eval" and one[0]["val_loss"] == two[0]["val_loss"]
    losses = [[r["loss"] for r in records if r["kind"] == "train"] for records in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


# --- from a Hugging Face folder --------------------------------------------------------------------------------------


def test_a_folder_of_ours_is_taken_as_it_is(here, folder, make_model, tokenizer):
    base, _ = open_run(here / "runs" / "base")
    found = inherit("theirs")
    assert found.notices == [] and found.tokenizer.sha256 == base.tokenizer.sha256
    model = make_model("modern", vocab_size=tokenizer.vocab_size)
    assert all(torch.equal(p, found.weights[name]) for name, p in model.named_parameters())


CONFIGS = [
    ({"model_type": "llama"}, 66, "model_type is 'llama', and only qwen3, gpt2 can be read"),
    ({"model_type": "tinygpt"}, 66, "start from the run itself"),
    ({"model_type": ["qwen3"]}, 66, "model_type is"),
    ({"auto_map": {"AutoConfig": "x.Y"}}, 77, "auto_map names code that comes with the model, which is never run"),
    ({"quantization_config": {"bits": 4}}, 66, "quantized"),
    ({"hidden_act": "gelu"}, 66, "hidden_act is 'gelu'; the shape that can be read has silu"),
    ({"rms_norm_eps": 1e-5}, 66, "rms_norm_eps is 1e-05"),
    ({"attention_bias": True}, 66, "attention_bias is True"),
    ({"use_sliding_window": True}, 66, "use_sliding_window is True"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, 66, "layer_types has 'sliding_attention'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, 66, "rope_parameters is {"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 66, "rope_scaling is {"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, 66, "rope_parameters is {"),
    ({"rope_theta": 5e4}, 66, "it must be one number"),
    ({"rope_theta": ..., "rope_parameters": ...}, 66, "rope_theta is not there"),
    ({"head_dim": ...}, 66, "it does not say head_dim"), ({"head_dim": "8"}, 66, "head_dim is '8'"),
    ({"hidden_size": -32}, 66, "hidden_size is -32"), ({"hidden_size": 10**9}, 66, "n_embd=1000000000 is outside"),
    ({"num_hidden_layers": 3}, 66, "layers.2.input_layernorm.weight is not there"),
    ({"num_hidden_layers": 1}, 66, "layers.1.input_layernorm.weight is not known in that shape"),
    ({"intermediate_size": 64}, 66, "and config.json promises"), ({"vocab_size": 10}, 66, "n_embd|vocab_size"),
    ({"tie_word_embeddings": True}, 66, "lm_head.weight is not the embedding"),
    ({"tie_word_embeddings": "x"}, 66, "tied='x' is not of type bool"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "sentence"), CONFIGS, ids=[str(case[0]) for case in CONFIGS])
def test_another_shape_is_refused_by_name(folder, fields, code, sentence):
    change(folder / "config.json", **fields)
    said = refused(code)
    assert any(part in said for part in sentence.split("|")), said


GPT2_CONFIGS = [
    ({"activation_function": "gelu"}, "activation_function is 'gelu'"), ({"layer_norm_epsilon": 1e-6}, "is 1e-06"),
    ({"scale_attn_weights": False}, "scale_attn_weights is False"), ({"n_head": 5}, "n_heads=5 does not divide"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ({"add_cross_attention": True}, "add_cross_attention is True"), ({"n_positions": 17}, "promises [17, 32]"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "sentence"), GPT2_CONFIGS, ids=[str(case[0]) for case in GPT2_CONFIGS])
def test_another_gpt2_is_refused_by_name(here, make_model, tokenizer, fields, sentence):
    change(write_theirs(here, make_model, tokenizer, "gpt2") / "config.json", **fields)
    assert sentence in refused(66)


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin, which can run code" in refused(77)
    (folder / "config.json").unlink()
    assert "pytorch_model.bin, which can run code" in refused(77)
    assert "may be a pickle" in refused(77, source="theirs/pytorch_model.bin")


def test_what_is_missing_is_named(folder):
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert "has no tokenizer.json (sentencepiece)" in refused(66)
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(65)
    assert "is a file; name the folder" in refused(2, source="more.txt")


def test_nothing_is_downloaded_and_that_is_said(here):
    for source in ("gpt2", "openai-community/gpt2"):
        said = refused(2, source=source)
        assert f"there is no run '{source}'; runs here: base; --from downloads nothing" in said
        assert "save_pretrained" in said
    assert "the name of a run is missing" in refused(2, source="")


def test_what_is_no_source_is_called_what_it_is(here):
    """Pins: "there is no run" of what stands there, and "name the folder that it is in" where that cannot help."""
    source = "runs/base/checkpoints/step-00000040"
    assert f"--from {source} is a checkpoint of a run; write base@40." in refused(2, source=source)
    (here / "base").symlink_to(here / "runs" / "base")
    assert "write base@40." in refused(2, source="base/checkpoints/step-00000040")
    (here / "empty").mkdir()
    assert "--from empty has no config.json; name a run, or a folder that" in refused(2, source="empty")
    for name, kind in (("x.gguf", "a GGUF file"), ("x.ONNX", "an ONNX file")):
        path = here / "empty" / name
        path.touch()
        end = f"{kind}, from which nothing can be started; name its run, or the hf export of that."
        assert f"--from empty holds {end}" in refused(2, source="empty")
        assert f"--from {path} is {end}" in refused(2, source=path)
        path.unlink()


def test_an_export_as_run_is_called_what_it_is(here, folder):
    start = "theirs is a Hugging Face folder, not a run; name the run that it came from, or start one from it: "
    assert f"{start}tinygpt train TEXT --from theirs." in refused(78, source="theirs@last")
    for words in (("export", "theirs", "--to", "hf"), ("report", "theirs"), ("compare", "base", "theirs")):
        done = tinygpt(*words)
        assert done.code == 78 and start in done.err
    for words in (("train", "theirs"), ("corpus", "theirs")):
        done = tinygpt(*words)
        assert done.code == 65 and "theirs is a model, not text; name a text" in done.err


def hostile(folder, damage):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    if damage == "pipe":
        path.unlink()
        os.mkfifo(path)
        return
    path.write_bytes(
        {
            "empty": b"", "cut": data[:-100], "long header": b"\xff" * 8 + data[8:], "no json": data[:8] + b"x" * 900,
            "pickle": b"\x80\x04N." + data,
        }[damage]
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["empty", "cut", "long header", "no json", "pickle", "pipe"])
def test_damaged_weights_are_exit_65(folder, damage):
    hostile(folder, damage)
    assert "model.safetensors" in refused(65)


def test_numbers_that_cannot_be_are_refused(folder):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * float("nan")}, path)
    assert "model.norm.weight has numbers that are not finite" in refused(65)
    safetensors.torch.save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"].to(torch.int8)}, path)
    assert "model.norm.weight is I8; numbers that can be read are" in refused(66)
    safetensors.torch.save_file({**tensors, "norm.weight": tensors["model.norm.weight"].clone()}, path)
    assert "is there twice" in refused(65)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({"weight_map": {"a": "../secret.safetensors"}}, "is no safetensors file of this folder"),
        ({"weight_map": {"a": "code.py"}}, "is no safetensors file of this folder"),
        ({"weight_map": {"a": 3}}, "is no safetensors file of this folder"), ({"weight_map": []}, "damaged"),
        ({}, "damaged"), ({"weight_map": {"lm_head.weight": "part.safetensors"}}, "does not hold what"),
        ({"weight_map": {"lm_head.weight": "none.safetensors"}}, "No such file"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_exit_65(folder, index, sentence):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sentence in refused(65)


# --- tokenizers that are not ours ------------------------------------------------------------------------------------


def renamed(folder):
    """A tokenizer of GPT-2's kind that is not ours: other special tokens."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    for token in document["added_tokens"]:
        vocabulary[f"<|{token['content'][1:-1]}|>"] = vocabulary.pop(token["content"])
        token["content"] = f"<|{token['content'][1:-1]}|>"
    path.write_text(json.dumps(document))
    return path, document


@pytest.fixture
def foreign(folder):
    return renamed(folder)


SPLIT = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TOKENIZERS = [
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}}, "splits by Sequence(Split"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "splits by Whitespace"), ({"pre_tokenizer": None}, "splits by nothing"),
    ({"pre_tokenizer": {**BYTES, "use_regex": True, "add_prefix_space": True}}, "add_prefix_space"),
    ({"pre_tokenizer": BYTES}, "use_regex is false"), ({"normalizer": {"type": "NFC"}}, "its normalizer is NFC"),
    ({"decoder": {"type": "Metaspace"}}, "its decoder is Metaspace"),
    ({"model": {"type": "WordPiece", "vocab": {}}}, "it is WordPiece"),
    ({"model": {"type": "Unigram", "vocab": []}}, "it is Unigram"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "sentence"), TOKENIZERS, ids=[case[1] for case in TOKENIZERS])
def test_another_kind_of_tokenizer_is_refused_by_name(foreign, fields, sentence):
    change(foreign[0], **fields)
    assert sentence in refused(66)


@pytest.mark.parametrize(
    ("field", "value"),
    [("byte_fallback", True), ("ignore_merges", True), ("dropout", 0.1), ("end_of_word_suffix", "</w>")],
)
def test_another_bpe_is_refused_by_name(foreign, field, value):
    path, document = foreign
    change(path, model={**document["model"], field: value})
    assert f"{field} is {value!r}" in refused(66)


def test_special_tokens_and_pieces_must_account_for_the_vocabulary(foreign):
    path, document = foreign
    model, added = document["model"], document["added_tokens"]
    change(path, added_tokens=[*added[:2], {**added[2], "special": False}])
    assert "'<|pad|>' is cut out of texts" in refused(66)
    change(path, added_tokens=added[:2])
    assert "no merge makes 1 of its pieces, such as '<|pad|>'" in refused(66)
    change(path, added_tokens=added, model={**model, "merges": model["merges"][:-1]})
    assert "no merge makes 1 of its pieces" in refused(66)
    change(path, model={**model, "vocab": {name: id for name, id in model["vocab"].items() if name != "Ġ"}})
    assert "lacks 1 bytes or results of merges, such as 'Ġ'" in refused(66)
    change(path, model={**model, "merges": model["merges"][1:]})
    assert "does not follow from the merges before it" in refused(66)
    change(path, model={**model, "vocab": {**model["vocab"], "e": 5}})
    assert "two pieces have one id" in refused(65)
    change(path, model={**model, "vocab": {**model["vocab"], "e": 5_000}})
    assert "has a piece of id 5000, but the model has 320 rows" in refused(66)
    path.write_text("[]")
    assert "tokenizer.json" in refused(65)


def test_marks_are_what_config_json_names(foreign, folder):
    names = [("bos_token_id", 7), ("eos_token_id", [9, 8]), ("pad_token_id", None)]
    change(folder / "config.json", **dict(names))
    theirs = safetensors.torch.load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(inherit("theirs").weights["embedding.weight"][:3], theirs[[7, 9, 9]])
    change(folder / "config.json", bos_token_id=None, pad_token_id=3)
    assert torch.equal(inherit("theirs").weights["embedding.weight"][:3], theirs[[9, 9, 3]])
    change(folder / "config.json", eos_token_id=5_000)
    assert "names no mark between texts that the model has" in refused(66)


def test_gpt2s_default_marks_in_a_small_model(here, make_model, tokenizer):
    """Pins: GPT2Config() of 320 rows keeps bos and eos 50256, and tokenizer.json was blamed."""
    folder = write_theirs(here, make_model, tokenizer, "gpt2")
    renamed(folder)
    change(folder / "config.json", bos_token_id=50256, eos_token_id=50256, pad_token_id=None)
    said = refused(66)
    assert "theirs/config.json names no mark between texts" in said and "BPE" not in said
    assert "bos_token_id 50256 and eos_token_id 50256, of 320 rows" in said
    theirs = safetensors.torch.load_file(folder / "model.safetensors")["transformer.wte.weight"]
    names = {"bos_token": "<|eos|>", "eos_token": {"content": "<|bos|>"}, "pad_token": "nobody"}
    change(folder / "tokenizer_config.json", **names)
    assert torch.equal(inherit("theirs").weights["embedding.weight"][:3], theirs[[1, 0, 0]])
    change(folder / "config.json", eos_token_id=7)  # what config.json can name goes before
    assert torch.equal(inherit("theirs").weights["embedding.weight"][:3], theirs[[7, 7, 7]])


def test_a_tokenizer_is_named_as_it_was_typed(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert refused(65) == ("tinygpt: theirs/tokenizer.json holds no tokenizer: it is not a JSON object with a model.\n")


def test_rows_beyond_the_pieces_are_left_out(here, make_model, tokenizer):
    model = make_model("modern", vocab_size=tokenizer.vocab_size + 5)
    run, _ = open_run(here / "runs" / "base")
    (here / "theirs").mkdir()
    exported.write(Source(run, model, 1, []), here / "theirs", "f32")
    found = inherit("theirs")
    assert found.notices == ["5 rows of the embedding that no piece uses are left out."]
    assert torch.equal(found.weights["head.weight"], model.head.weight[:-5])
    assert found.model.vocab_size == tokenizer.vocab_size


def test_a_run_that_is_set_up_by_hand_starts_from_its_weights(here, machine):
    """Not only by the command: whoever opens the folder gets the same first step."""
    tinygpt("train", "more.txt", "--from", "base", "--steps", 1, *SAME)
    copy = without_checkpoints(here / "runs" / "more", "again")
    with contextlib.redirect_stdout(io.StringIO()):
        assert train(set_up(open_run(copy)[0], machine, Display(io.StringIO()))) == 0
    one, other = (checkpoint.load(here / "runs" / name)[0].model for name in ("more", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
