"""A GGUF export says what the model is: read back with the gguf package, and computed by llama.cpp.

llama.cpp is asked through llama-cpp-python, which has to be compiled (minutes), so the tests that need it skip where it
is not installed. Measured with 0.3.36: an f32 file of `modern` is within 1e-5 of the model's logits; one of `gpt2`
within 2e-3, because llama.cpp on a CPU reads GELU from a table in half precision.
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import random
import sys
import unicodedata

import numpy as np
import pytest
import torch

from tinygpt import runs
from tinygpt.config import make_config
from tinygpt.errors import MISMATCH, UserError
from tinygpt.evaluate import score
from tinygpt.export import gguf as target
from tinygpt.export.origin import Source, prompts_of, source
from tinygpt.model import TinyGPT
from tinygpt.tokenizer import Tokenizer

package = pytest.importorskip("gguf", reason="gguf is not installed: the GGUF export is unchecked")

ENCODINGS = ("f32", "f16", "q8_0")
WIDE = {"n_embd": 64, "block_size": 64}
SHAPES = {
    "modern": ("modern", WIDE),
    "modern, grouped, tied": ("modern", {**WIDE, "n_kv_heads": 2, "d_head": 32, "rope_theta": 500.0, "tied": True}),
    "gpt2": ("gpt2", WIDE),
    "gpt2, untied, no biases": ("gpt2", {**WIDE, "n_heads": 2, "d_ff": 96, "tied": False, "bias": False}),
}
each_shape = pytest.mark.parametrize("shape", SHAPES)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


@pytest.fixture(scope="session")
def make_source(make_run, make_model, tmp_path_factory):
    """make_source("modern", n_embd=64): a run with random weights, as `export` would hand it over."""

    def make(preset, std=0.1, **fields):
        run = make_run(tmp_path_factory.mktemp("gguf") / "runs" / "tiny", preset, **fields)
        shape = dataclasses.asdict(run.config.model)
        return Source(run, make_model(preset, std=std, **shape), 12, prompts_of(run))

    return make


@pytest.fixture(scope="session")
def of_shape(make_source):
    """The source of a name in SHAPES."""
    return functools.cache(lambda name: make_source(SHAPES[name][0], **SHAPES[name][1]))


def written(s, folder, encoding="f32"):
    """A reader of the file that `write` wrote into `folder`."""
    target.write(s, folder, encoding)
    return package.GGUFReader(folder / f"tiny-{encoding}.gguf")


def values(reader):
    """Key -> value, without what describes the container."""
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


# --- the file, read by the gguf package ------------------------------------------------------------------------------


def expected_settings(c, encoding):
    """The keys of llama.cpp, spelled out; what is not the tokenizer's."""
    arch = {"rotary": "qwen3", "learned": "gpt2"}[c.positions]
    general = {
        "architecture": arch,
        "type": "model",
        "name": "tiny",
        "file_type": {"f32": 0, "f16": 1, "q8_0": 7}[encoding],
    }
    if encoding == "q8_0":
        general["quantization_version"] = 2
    own = {
        "context_length": 64, "embedding_length": 64, "block_count": 2, "feed_forward_length": c.d_ff,
        "attention.head_count": c.n_heads, "vocab_size": c.vocab_size,
    }  # fmt: skip
    if arch == "qwen3":
        own |= {
            "attention.head_count_kv": c.n_kv_heads, "attention.key_length": c.d_head,
            "attention.value_length": c.d_head, "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
            "rope.freq_base": c.rope_theta,
        }  # fmt: skip
    else:
        own["attention.layer_norm_epsilon"] = pytest.approx(1e-5)
    return {f"general.{k}": v for k, v in general.items()} | {f"{arch}.{k}": v for k, v in own.items()}


@each_shape
@each_encoding
def test_settings(of_shape, tmp_path, shape, encoding):
    s = of_shape(shape)
    found = values(written(s, tmp_path, encoding))
    assert found.pop("tinygpt.tokenizer_sha256") == s.run.tokenizer.sha256
    found = {name: value for name, value in found.items() if not name.startswith("tokenizer.")}
    assert found == expected_settings(s.run.config.model, encoding)


def test_tokenizer_is_the_one_in_tokenizer_json(of_shape, tmp_path):
    s = of_shape("modern")
    found = {k: v for k, v in values(written(s, tmp_path)).items() if k.startswith("tokenizer.")}
    model = json.loads((s.run.folder / "tokenizer.json").read_bytes())["model"]
    assert {k.removeprefix("tokenizer.ggml."): v for k, v in found.items()} == {
        "model": "gpt2", "pre": "gpt-2",
        "tokens": sorted(model["vocab"], key=model["vocab"].__getitem__),
        "token_type": [3, 3, 3] + [1] * (len(model["vocab"]) - 3),
        "merges": [f"{left} {right}" for left, right in model["merges"]],
        "bos_token_id": 0, "eos_token_id": 1, "padding_token_id": 2, "add_bos_token": False,
    }  # fmt: skip


def expected_tensors(s):
    """Name there -> our tensor, spelled out; fails unless each parameter of ours is used exactly once."""
    ours = {name: p.detach() for name, p in s.model.named_parameters()}
    c, new = s.model.config, {"token_embd.weight": ours.pop("embedding.weight")}
    parts = {
        "attn_norm": ["norm_1"], "attn_output": ["attention.output"], "ffn_norm": ["norm_2"],
        "ffn_up": ["feed_forward.up"], "ffn_down": ["feed_forward.down"],
    }  # fmt: skip
    qkv, kinds = ["attention.query", "attention.key", "attention.value"], ["weight"]
    if c.positions == "learned":
        kinds += ["bias"]
        parts["attn_qkv"] = qkv
        new["position_embd.weight"] = ours.pop("positions.table.weight")
    else:
        parts |= {"attn_q": qkv[:1], "attn_k": qkv[1:2], "attn_v": qkv[2:], "ffn_gate": ["feed_forward.gate"]}
        parts |= {"attn_q_norm": ["attention.query_norm"], "attn_k_norm": ["attention.key_norm"]}
    blocks = {
        f"blk.{i}.{there}": [f"blocks.{i}.{m}" for m in modules] for i in range(2) for there, modules in parts.items()
    }
    for there, modules in ({"output_norm": ["norm"]} | blocks).items():
        rows = [len(s.model.get_submodule(m).weight) for m in modules]
        for kind in kinds:
            given = [ours.pop(f"{m}.{kind}", torch.zeros(n)) for m, n in zip(modules, rows, strict=True)]
            new[f"{there}.{kind}"] = torch.cat(given)
    if not c.tied:
        new["output.weight"] = ours.pop("head.weight")
    assert not ours, "parameters of ours that have no place there"
    return new


@each_shape
@each_encoding
def test_tensors(of_shape, tmp_path, shape, encoding):
    """Names, shapes, encodings and values; a tied head is not written, and vectors and positions stay f32."""
    s = of_shape(shape)
    wanted = expected_tensors(s)
    found = {t.name: t for t in written(s, tmp_path, encoding).tensors}
    assert found.keys() == wanted.keys()
    assert ("output.weight" in found) is not s.model.config.tied
    for name, ours in wanted.items():
        there, exact = found[name], ours.dim() == 1 or name == "position_embd.weight"
        assert there.tensor_type.name == ("F32" if exact else encoding.upper()), name
        assert there.shape.tolist() == list(ours.shape)[::-1], name  # fastest dimension first
        theirs = torch.from_numpy(package.quants.dequantize(there.data, there.tensor_type).copy()).view(ours.shape)
        if exact or encoding == "f32":
            assert torch.equal(theirs, ours), name
        elif encoding == "f16":
            assert torch.equal(theirs, ours.half().float()), name
        else:  # half a step of 1/127 of the largest of 32, and the scale itself is a half-precision number
            most = ours.view(-1, 32).abs().amax(1, keepdim=True)
            assert ((theirs - ours).view(-1, 32).abs() <= most * (0.5001 / 127 + 2**-11)).all(), name


@each_encoding
def test_the_same_bytes_again_and_nothing_else_in_the_folder(of_shape, tmp_path, encoding):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        target.write(of_shape("gpt2"), folder, encoding)
    a, b = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert a == b and a.keys() == {f"tiny-{encoding}.gguf", "Modelfile"}


def test_modelfile(of_shape, tmp_path):
    target.write(of_shape("modern"), tmp_path, "q8_0")
    assert (tmp_path / "Modelfile").read_text() == (
        'FROM ./tiny-q8_0.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 64\nPARAMETER stop "<eos>"\n'
    )


def test_a_folder_of_any_name_makes_a_name_that_ollama_takes(of_shape, tmp_path):
    s = of_shape("modern")
    odd = Source(dataclasses.replace(s.run, folder=tmp_path / "größe\n2 'x'"), s.model, 1, s.prompts)
    assert target.file_name(odd, "f16") == "gr-e-2-x-f16.gguf"


def test_advice_names_the_files_and_the_limit(of_shape, tmp_path):
    place = tmp_path / "my exports"
    lines = target.advice(of_shape("modern"), place, "q8_0")
    assert any(f"llama-completion -m '{place / 'tiny-q8_0.gguf'}'" in line for line in lines)
    assert any(f"ollama create tiny -f '{place / 'Modelfile'}'" in line for line in lines)
    assert any("ollama run tiny" in line for line in lines) and not any("abort" in line for line in lines)
    assert "within 64 tokens" in target.advice(of_shape("gpt2"), place, "f32")[-1]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_presets_that_have_a_shape(preset):
    target.refuse(make_config(preset, {"n_kv_heads": 4, "tied": "true", "n_layers": 3}))


def test_tutorial_is_refused_with_the_preset_to_use():
    with pytest.raises(UserError) as refused:
        target.refuse(make_config("tutorial"))
    assert refused.value.exit_code == 2
    assert str(refused.value) == (
        "tutorial normalises after each sum; no GGUF runtime has this shape: train with --preset modern or gpt2."
    )


@pytest.mark.parametrize(
    ("preset", "field", "value"),
    [
        ("modern", "qk_norm", "false"), ("modern", "bias", "true"), ("modern", "norm", "layernorm"),
        ("modern", "norm_place", "after"), ("modern", "feed_forward", "gelu_tanh"), ("gpt2", "feed_forward", "gelu"),
        ("gpt2", "qk_norm", "true"), ("gpt2", "n_kv_heads", "2"), ("gpt2", "d_head", "16"), ("gpt2", "norm", "rmsnorm"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused_with_the_field(preset, field, value):
    with pytest.raises(UserError, match=f"{field}={value}") as refused:
        target.refuse(make_config(preset, {field: value}))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"n_embd": 48}, "n_embd=48"), ({"d_ff": 72}, "d_ff=72"), ({"d_head": 12}, r"n_heads \* d_head=48")],
)
def test_rows_that_q8_0_cannot_cut_are_refused_before_anything_is_written(make_source, tmp_path, fields, said):
    s = make_source("modern", **{**WIDE, **fields})
    with pytest.raises(UserError, match=f"{said} is not a multiple of 32.*f16 or f32") as refused:
        target.write(s, tmp_path, "q8_0")
    assert refused.value.exit_code == 2 and not list(tmp_path.iterdir())
    target.write(s, tmp_path, "f16")


def test_without_the_package_the_extra_is_named(of_shape, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'tinygpt\[gguf\]'"):
        target.write(of_shape("modern"), tmp_path, "f32")
    assert not list(tmp_path.iterdir())


def test_without_llama_cpp_nothing_is_compared(of_shape, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert target.compare(of_shape("modern"), tmp_path, "f32") is None


def test_a_full_disk_is_named(of_shape, tmp_path, monkeypatch):
    """Pins: numpy's own error has no number, and said only how many items were written."""

    def full(writer):
        raise OSError("4096 requested and 17 written")

    monkeypatch.setattr(package.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="No space left") as failed:
        target.write(of_shape("modern"), tmp_path, "f32")
    assert failed.value.errno == errno.ENOSPC and failed.value.filename.endswith("tiny-f32.gguf")


# --- the same file, computed by llama.cpp ----------------------------------------------------------------------------


@pytest.fixture
def llama_cpp():
    """Skips, and says so, where llama.cpp is not there to be asked."""
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: GGUF files run nowhere here")


def long_prompts(s):
    """32 prompts of the full context: any ids but the special ones."""
    generator = torch.Generator().manual_seed(3)
    c = s.model.config
    return torch.randint(3, c.vocab_size, (32, c.block_size), generator=generator).tolist()


def compared(s, folder, encoding="f32"):
    target.write(s, folder, encoding)
    return target.compare(s, folder, encoding)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name.startswith("modern")])
def test_modern_is_computed_to_rounding(llama_cpp, of_shape, tmp_path, capsys, shape):
    """32 prompts of 64 tokens: logits within 1e-3, and every argmax equal."""
    s = dataclasses.replace(of_shape(shape), prompts=long_prompts(of_shape(shape)))
    figures = compared(s, tmp_path)
    assert figures["largest difference of a logit"] < 1e-4  # measured 1e-5; 1e-3 is what compare allows
    assert figures["positions with the same likeliest token"] == "2048 of 2048"
    assert figures["runtime"] == f"llama-cpp-python {llama_cpp.__version__}"
    assert capsys.readouterr() == ("", "")  # llama.cpp warns of contexts below 256


@pytest.mark.parametrize("shape", [name for name in SHAPES if name.startswith("gpt2")])
def test_gpt2_is_computed_to_rounding_but_for_gelu(llama_cpp, of_shape, make_source, tmp_path, shape):
    """With a feed-forward that adds little, GELU's table adds nothing, and what is left is exact."""
    s = dataclasses.replace(of_shape(shape), prompts=long_prompts(of_shape(shape)))
    for name in ("whole", "quiet"):
        (tmp_path / name).mkdir()
    assert 1e-4 < compared(s, tmp_path / "whole")["largest difference of a logit"] < 1e-2  # below: the table is gone
    preset, fields = SHAPES[shape]
    quiet = make_source(preset, **fields)
    with torch.no_grad():
        for block in quiet.model.blocks:
            block.feed_forward.down.weight.mul_(1e-3)
    figures = compared(dataclasses.replace(quiet, prompts=s.prompts), tmp_path / "quiet")
    assert figures["largest difference of a logit"] < 1e-4
    assert figures["positions with the same likeliest token"] == "2048 of 2048"


@each_encoding
def test_a_trained_run_costs_the_same(llama_cpp, trained, machine, tmp_path, encoding):
    """bits per byte of the validation text, ours as `eval` says them, and theirs within 1 % (f16: 0.1 %)."""
    s, _ = source(str(trained))
    theirs, ours = compared(s, tmp_path, encoding)["bits per byte"].split(", the model's ")
    assert len(s.run.val_ids) <= target.SCORED_TOKENS
    assert ours == f"{score(s.model, s.run.tokenizer, s.run.val_ids, machine).bpb:.4f}"
    assert float(theirs) == pytest.approx(float(ours), rel=0.01 if encoding == "q8_0" else 0.001)


def test_without_validation_text_the_training_text_is_scored(llama_cpp, of_shape, tmp_path):
    s = of_shape("modern")
    s = dataclasses.replace(s, run=dataclasses.replace(s.run, val_ids=s.run.val_ids[:0]))
    assert compared(s, tmp_path, "f16")["bits per byte"]


PIECES = (
    "a", "b", "Z", "é", "ß", "Ж", "ש", "ع", "ह", "ि", "ก", "日", "語", "ㅎ", "각", "👩", "\u200d", "🏽", "🇫", "\ufe0f",
    "e\u0301", "0", "7", "½", "²", "٣", "Ⅷ", " ", "  ", "\t", "\n", "\r\n", "\r", "\x00", "\x1c", "\x85", "\u00a0",
    "\u2003", "\u2028", "\u3000", "\ufeff", "\u200b", "'s", "'S", "'ll", "'", "’s", ".", ",", "!", "-", "_", "<", ">",
    "<bos>", "<eos>", "<pad>", "<s>", "<|endoftext|>", "Ġ", "Ċ", "À Á", "the ", " and", "\ufffd", "\U0010ffff",
)  # fmt: skip


@pytest.fixture(scope="session")
def seams():
    """A tokenizer that shows where a text was split: its merges join what stands on both sides of a seam, and no more.

    A trained one hides other splits, because it has no merge across them.
    """
    edges = [b"a", b"1", b".", b" ", b"\n", b"\r", b"\t", b"'", b"<", b">"]
    pairs = [(a, b) for a in edges for b in edges]
    before = [(edge, bytes([lead])) for edge in edges for lead in range(0xC2, 0xF5)]
    after = [(bytes([last]), edge) for edge in edges for last in range(0x80, 0xC0)]
    return Tokenizer(pairs + before + after)


def with_tokenizer(folder, tokenizer):
    """A run with this tokenizer, and weights that nobody looks at."""
    fields = {"n_embd": 32, "n_heads": 2, "n_layers": 1, "block_size": 32, "vocab_size": tokenizer.vocab_size}
    decided = dict.fromkeys(("max_steps", "eval_every", "save_every", "sample_every"), 1)
    config = make_config("modern", {**fields, **decided})
    ids = tokenizer.encode_documents(["Once upon a time there was an owl."] * 3)
    run = runs.create(folder / "tiny", config, tokenizer, {}, {"baselines": {}, "floor": None}, ids, ids)
    return Source(run, TinyGPT(config.model).eval(), 1, prompts_of(run))


def check_ids(folder, tokenizer, texts):
    """Fails with the first text that llama.cpp cuts into other tokens."""
    target.write(with_tokenizer(folder / "runs", tokenizer), folder, "f16")
    with contextlib.closing(target.load(folder / "tiny-f16.gguf", 32)) as llama:
        for text in texts:
            theirs = llama.tokenize(text.encode(), add_bos=False, special=False)
            assert tokenizer.encode(text) == theirs, ascii(text)


@pytest.mark.parametrize("kind", ["trained", "seams", "bytes alone"])
def test_ids_of_generated_strings(llama_cpp, tokenizer, byte_tokenizer, seams, tmp_path, kind):
    """50,000 strings of what tokenizers stumble over, by three tokenizers; one has no merges at all."""
    kinds = {"trained": (tokenizer, 20_000), "seams": (seams, 25_000), "bytes alone": (byte_tokenizer, 5_000)}
    ours, count = kinds[kind]
    draw = random.Random(kind)
    check_ids(tmp_path, ours, ("".join(draw.choices(PIECES, k=draw.randint(1, 24))) for _ in range(count)))


def test_every_kind_of_character_is_split_alike(llama_cpp, seams, tmp_path):
    """Every third character of Unicode 3.2, the oldest table that comes with Python: the same for every version of it.

    By hand, all characters of Unicode 14 were compared (llama-cpp-python 0.3.36, tokenizers 0.23.3): equal. Letters
    that Unicode 16 added, such as Egyptian hieroglyphs from U+13460, are letters to tokenizers and not to llama.cpp.
    """
    known = (
        chr(point) for point in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(point)) not in ("Cn", "Cs", "Co")
    )
    some = itertools.islice(known, 0, None, 3)
    check_ids(tmp_path, seams, (f"a{c}a {c} 1{c}1 .{c}. \n{c}\n {c}{c}  {c}'s" for c in some))


# --- a file that is wrong --------------------------------------------------------------------------------------------


def transposed(tensors):
    return tensors | {"blk.0.attn_output.weight": tensors["blk.0.attn_output.weight"].t().contiguous()}


def swapped(a, b):
    return lambda tensors: tensors | {f"blk.0.{a}.weight": tensors[f"blk.0.{b}.weight"],
                                      f"blk.0.{b}.weight": tensors[f"blk.0.{a}.weight"]}  # fmt: skip


def interleaved(tensors):
    """Rows of q as neighbouring pairs, the order that llama.cpp wants of its own llama but not of qwen3."""
    q = tensors["blk.1.attn_q.weight"].view(4, 2, 8, 64).transpose(1, 2).reshape(64, 64)
    return tensors | {"blk.1.attn_q.weight": q}


def heads_in_turn(tensors):
    qkv = tensors["blk.0.attn_qkv.weight"].view(3, 4, 16, 64).transpose(0, 1).reshape(192, 64)
    return tensors | {"blk.0.attn_qkv.weight": qkv}


def other_head(tensors):
    return tensors | {"output.weight": tensors["token_embd.weight"]}


def late(tensors):
    return tensors | {"position_embd.weight": tensors["position_embd.weight"].roll(1, 0)}


@pytest.mark.parametrize(
    ("shape", "damage"),
    [
        ("modern", transposed), ("modern", swapped("ffn_gate", "ffn_up")), ("modern", swapped("attn_k", "attn_v")),
        ("modern", swapped("attn_norm", "ffn_norm")), ("modern", swapped("attn_q_norm", "attn_k_norm")),
        ("modern", interleaved), ("modern", other_head), ("gpt2", transposed), ("gpt2", heads_in_turn), ("gpt2", late),
        ("gpt2", swapped("attn_norm", "ffn_norm")),
    ],
)  # fmt: skip
def test_wrong_weights_are_refused(llama_cpp, of_shape, tmp_path, monkeypatch, shape, damage):
    right = target.tensors
    monkeypatch.setattr(target, "tensors", lambda model: damage(right(model)))
    with pytest.raises(UserError, match="is not the model: logits differ by up to") as refused:
        compared(of_shape(shape), tmp_path)
    assert refused.value.exit_code == MISMATCH


def test_wrong_settings_are_refused(llama_cpp, of_shape, tmp_path):
    """Another rope base, and more query heads than there are: the file loads, and computes something else."""
    s = of_shape("modern")
    for number, fields in enumerate(({"rope_theta": 9000.0}, {"n_heads": 2, "n_kv_heads": 2, "d_head": 16})):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = dataclasses.replace(s.run.config.model, **fields)
        wrong = dataclasses.replace(s.run, config=dataclasses.replace(s.run.config, model=model))
        target.write(dataclasses.replace(s, run=wrong), folder, "f32")
        with pytest.raises(UserError, match=r"not the model|does not load") as refused:
            target.compare(s, folder, "f32")
        assert refused.value.exit_code == MISMATCH


@pytest.mark.parametrize("key", ["pre", "merges"])
def test_a_wrong_tokenizer_is_refused(llama_cpp, seams, tmp_path, monkeypatch, key):
    """Another split pattern, and merges in another order."""
    name, wrong = {
        "pre": ("add_tokenizer_pre", lambda pre: "gpt-4o"), "merges": ("add_token_merges", lambda merges: merges[::-1])
    }[key]  # fmt: skip
    right = getattr(package.GGUFWriter, name)
    monkeypatch.setattr(package.GGUFWriter, name, lambda self, value: right(self, wrong(value)))
    with pytest.raises(UserError, match=r"llama\.cpp reads '.*' as tokens") as refused:
        compared(with_tokenizer(tmp_path / "runs", seams), tmp_path)
    assert refused.value.exit_code == MISMATCH


@pytest.mark.parametrize("encoding", ["f16", "q8_0"])
def test_wrong_bits_per_byte_are_refused(llama_cpp, trained, tmp_path, monkeypatch, encoding):
    """Where logits may differ, the bits per byte show a wrong matrix: of the trained run, a transposed one."""
    s, _ = source(str(trained))
    right = target.tensors
    monkeypatch.setattr(target, "tensors", lambda model: transposed(right(model)))
    with pytest.raises(UserError, match="bits per byte instead of") as refused:
        compared(s, tmp_path, encoding)
    assert refused.value.exit_code == MISMATCH


def test_not_a_number_is_refused(llama_cpp, of_shape, tmp_path, monkeypatch):
    right = target.tensors
    broken = lambda model: right(model) | {"output_norm.weight": torch.full((64,), np.nan)}  # noqa: E731
    monkeypatch.setattr(target, "tensors", broken)
    for encoding, said in (("f32", "logits differ by up to nan"), ("f16", "nan bits per byte")):
        with pytest.raises(UserError, match=said):
            compared(of_shape("modern"), tmp_path, encoding)


def test_a_file_that_does_not_load_is_refused(llama_cpp, of_shape, tmp_path):
    (tmp_path / "tiny-f32.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(UserError, match="does not load") as refused:
        target.compare(of_shape("modern"), tmp_path, "f32")
    assert refused.value.exit_code == MISMATCH
