"""Exports: which shapes can leave, what is written, and that an older export survives whatever goes wrong.

transformers itself is met in tests/reference/test_export_hf.py; here its answer is made up.
"""

import ast
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import tinygpt

from tinygpt import checkpoint, export
from tinygpt.config import PRESETS, SIZES, ModelConfig, make_config
from tinygpt.errors import MISMATCH, UserError
from tinygpt.export import card, gguf, hf, origin
from tinygpt.export.shapes import differences, shape_of
from tinygpt.model import TinyGPT
from tinygpt.optim import Optimizer
from tinygpt.tokenizer import BOS

FILES = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json"]  # fmt: skip
DEAD = 2**22 + 1  # no process has this number: Linux has none above 2**22


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, where transformers agrees with everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf, "compare", lambda *_: {"runtime": "agreeable 1.0", "largest difference of a logit": 1.5e-6})
    return tmp_path


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(exit_code, words, call, *arguments, **options):
    with pytest.raises(UserError, match=words) as error:
        call(*arguments, **options)
    assert error.value.exit_code == exit_code
    return str(error.value)


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "shape"), [("modern", "qwen3"), ("gpt2", "gpt2"), ("tutorial", "tutorial")])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_preset_has_a_shape(preset, shape, size, tied):
    assert shape_of(make_config(preset, {**SIZES[size], "tied": tied}).model) == shape


def test_the_axes_decide_and_not_the_name():
    axes = {**PRESETS["modern"]["model"], "vocab_size": 259}
    assert shape_of(ModelConfig.from_dict(axes, "tutorial")) == "qwen3"
    assert shape_of(make_config("modern", {"n_kv_heads": 2, "d_head": 48, "rope_theta": 500.0}).model) == "qwen3"


@pytest.mark.parametrize(
    ("preset", "fields", "named"),
    [
        ("modern", {"norm": "layernorm"}, "norm=layernorm: .* qwen3, has norm=rmsnorm"),
        ("modern", {"norm_place": "after"}, "norm_place=after: .* qwen3, has norm_place=before"),
        ("modern", {"positions": "learned"}, "positions=learned: .* qwen3, has positions=rotary"),
        ("modern", {"feed_forward": "gelu"}, "feed_forward=gelu: .* qwen3, has feed_forward=swiglu"),
        ("modern", {"qk_norm": False}, "qk_norm=false: .* qwen3, has qk_norm=true"),
        ("modern", {"bias": True}, "bias=true: .* qwen3, has bias=false"),
        ("gpt2", {"feed_forward": "swiglu"}, "feed_forward=swiglu: .* gpt2, has feed_forward=gelu_tanh"),
        ("gpt2", {"n_kv_heads": 2}, "n_kv_heads=2: .* gpt2, has n_kv_heads=4"),
        ("gpt2", {"d_head": 48}, "d_head=48: .* gpt2, has d_head=32"),
        ("gpt2", {"positions": "rotary", "norm": "rmsnorm"}, "positions=rotary, norm=rmsnorm: .*learned.*layernorm"),
    ],
)
def test_a_shape_that_nobody_has_is_refused_by_field(preset, fields, named):
    refused(2, named, hf.refuse, make_config(preset, fields))


def test_a_refused_shape_leaves_nothing_behind(here, make_run):
    run = make_run(here / "runs" / "odd", norm="layernorm")
    model = TinyGPT(run.config.model)
    checkpoint.save(run.folder, model, Optimizer([]), checkpoint.Progress(1), run.digests)
    refused(2, "norm=layernorm", export.export, "odd", "hf")
    assert [path.name for path in here.iterdir()] == ["runs"]


def test_differences_names_what_is_there():
    assert differences(make_config("modern").model, "qwen3") == {}
    assert differences(make_config("gpt2").model, "tutorial") == {"norm_place": "after", "feed_forward": "gelu"}


# --- what is written -------------------------------------------------------------------------------------------------


def test_an_export_has_its_files_and_says_what_to_do(here, trained):
    done = export.export(str(trained), "hf")
    assert str(done.path) == "exports/run-hf" and sorted(contents(done.path)) == FILES
    assert [path.name for path in (here / "exports").iterdir()] == ["run-hf"]
    said = "\n".join(done.sentences)
    assert "run run, step 60" in said and "largest difference of a logit: 1.5e-06" in said
    assert "pipeline('text-generation', 'exports/run-hf')" in said and "trust_remote_code" not in said
    json.dumps(done.to_dict())


def test_the_place_is_beside_runs(here, make_run):
    assert export.place_of(here / "runs" / "a") == here / "exports"
    assert str(export.place_of(here / "elsewhere" / "a")) == "exports"


def test_equal_exports_are_equal_bytes(here, trained):
    first = export.export(str(trained), "hf", here / "a")
    second = export.export(str(trained), "hf", here / "b")
    again = export.export(str(trained), "hf", here / "a")
    assert contents(first.path) == contents(second.path) == contents(again.path)


def test_config_json_is_the_documented_one():
    """Both spellings of what transformers 4.57 and 5 name differently; docs and this must not part."""
    nano = {**SIZES["nano"], "n_kv_heads": 2, "d_ff": 384, "tied": True}
    assert hf.qwen3_config(make_config("modern", nano).model) == json.loads(
        """{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","vocab_size":1024,"hidden_size":128,
        "intermediate_size":384,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,
        "hidden_act":"silu","max_position_embeddings":256,"rms_norm_eps":1e-6,"rope_theta":10000.0,
        "rope_parameters":{"rope_type":"default","rope_theta":10000.0},"attention_bias":false,"attention_dropout":0.0,
        "tie_word_embeddings":true,"use_cache":true,"use_sliding_window":false,"bos_token_id":0,"eos_token_id":1,
        "pad_token_id":2,"torch_dtype":"float32","dtype":"float32"}"""
    )
    assert hf.gpt2_config(make_config("gpt2", SIZES["nano"]).model) == json.loads(
        """{"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","vocab_size":1024,"n_positions":256,"n_ctx":256,
        "n_embd":128,"n_layer":4,"n_head":4,"n_inner":512,"activation_function":"gelu_new","layer_norm_epsilon":1e-5,
        "initializer_range":0.02,"resid_pdrop":0.0,"embd_pdrop":0.0,"attn_pdrop":0.0,"scale_attn_weights":true,
        "scale_attn_by_inverse_layer_idx":false,"reorder_and_upcast_attn":false,"use_cache":true,
        "tie_word_embeddings":true,"bos_token_id":0,"eos_token_id":1,"pad_token_id":2,"torch_dtype":"float32",
        "dtype":"float32"}"""
    )


def test_a_tied_head_is_not_written(make_model):
    for preset in ("modern", "gpt2"):
        assert "lm_head.weight" in hf.TENSORS[hf.shape_of(make_model(preset).config)](make_model(preset, tied=False))
        assert "lm_head.weight" not in hf.TENSORS[hf.shape_of(make_model(preset).config)](make_model(preset, tied=True))


def test_without_transformers_it_is_written_and_said(tmp_path, monkeypatch, trained):
    """Pins: an export that needs more than our own packages, or that looks compared where nothing was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = export.export(str(trained), "hf")
    assert sorted(contents(done.path)) == FILES and done.figures == {}
    assert any("Not compared" in sentence and "transformers" in sentence for sentence in done.sentences)
    assert "Not compared" in (done.path / "README.md").read_text()


def test_exporting_imports_no_transformers():
    """Neither the modeling file, which is for transformers to run, nor transformers itself."""
    code = "import sys, tinygpt.export, tinygpt.export.hf; print({'transformers', 'gguf', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_card_says_where_the_model_comes_from(here, trained):
    text = (export.export(str(trained), "hf").path / "README.md").read_text()
    run = origin.source(str(trained))[0].run
    record = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    for part in (f"{run.facts['parameters']:,} parameters", run.tokenizer.sha256, run.corpus["sources"][0]["sha256"],
                 run.corpus["val"]["sha256"], f"| **this model** | {record['val_bpb']:.3f} |", "agreeable 1.0",
                 f"{60 * 8 * 32:,} tokens", "seed 60", '"lr":', "It has read"):  # fmt: skip
        assert part in text, part


def test_the_front_matter_is_yaml(here, trained):
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: the card's front matter is unchecked")
    text = (export.export(str(trained), "hf").path / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers" and front["tags"] == ["tinygpt", "from-scratch"]
    assert "license" not in front  # only the user can state it
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["bits_per_byte", "perplexity"]


def test_a_fence_is_longer_than_what_is_in_it():
    assert card.fenced("a ``` b") == "````text\na ``` b\n````"


def test_a_step_of_a_run_can_be_exported(here, trained):
    done = export.export(f"{trained}@40", "hf")
    assert "step 40" in done.sentences[0] and "seed 60" not in (done.path / "README.md").read_text()


def test_prompts_are_what_somebody_could_type(trained):
    s, notices = export.source(str(trained))
    assert notices == [] and 16 <= len(s.prompts) <= 32 and s.prompts[0] == [BOS]
    assert all(prompt[0] == BOS and max(prompt[1:], default=9) > 2 for prompt in s.prompts)
    assert all(id > 2 for prompt in s.prompts for id in prompt[1:])
    assert max(map(len, s.prompts)) == 16 and len({tuple(prompt) for prompt in s.prompts}) == len(s.prompts)


# --- words that cannot be --------------------------------------------------------------------------------------------


def test_words_that_cannot_be_are_refused(here, trained, monkeypatch):
    refused(2, r"no export to 'gguff'; .*did you mean gguf", export.export, str(trained), "gguff")
    refused(2, "--to hf has no encoding 'q8_0'; it can be f32", export.export, str(trained), "hf", None, "q8_0")
    refused(2, "no run 'nobody'", export.export, "nobody", "hf")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    refused(2, r"pip install 'tinygpt\[gguf\]'", export.export, str(trained), "gguf")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("out", ["", ".", "..", "a/.."])
def test_a_place_needs_a_name(here, trained, out):
    refused(2, "has no name of its own", export.export, str(trained), "hf", Path(out))
    assert list(here.iterdir()) == []


def test_what_is_not_an_export_is_not_replaced(here, trained):
    """Pins: --out pointing at a folder with somebody's work in it."""
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.txt").write_text("mine")
    refused(2, "chapter.txt in it is not of an export", export.export, str(trained), "hf", here / "thesis")
    (here / "file").write_text("mine")
    refused(2, "is no folder", export.export, str(trained), "hf", here / "file")
    (here / "link").symlink_to(here / "thesis")
    refused(2, "is no folder", export.export, str(trained), "hf", here / "link")
    done = export.export(str(trained), "hf", here / "mine")
    (done.path / "notes.txt").write_text("mine")
    refused(2, "notes.txt in it is not of an export", export.export, str(trained), "hf", done.path)
    assert (here / "thesis" / "chapter.txt").read_text() == (done.path / "notes.txt").read_text() == "mine"


def test_a_file_that_was_changed_in_it_is_not_replaced(here, trained):
    """Pins: m.save_pretrained into the export, and the next export destroys what was fine-tuned for hours."""
    done = export.export(str(trained), "hf", here / "mine")
    (done.path / "README.md").write_text((done.path / "README.md").read_text().replace("## Use", "## How to use it"))
    assert export.export(str(trained), "hf", here / "mine").path == done.path
    weights = done.path / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    said = refused(2, "model.safetensors in it is not what was exported", export.export, str(trained), "hf", done.path)
    assert "--out DIR" in said and weights.read_bytes() != data
    weights.unlink()
    (here / "elsewhere").write_bytes(data)
    weights.symlink_to(here / "elsewhere")
    refused(2, "model.safetensors in it is not what was exported", export.export, str(trained), "hf", done.path)


def test_another_export_is_not_replaced(here, trained):
    """Pins: --out naming the export of another run, or of another format."""
    shutil.copytree(trained, here / "runs" / "other")
    done = export.export(str(trained), "hf", here / "mine")
    old = contents(done.path)
    refused(2, "it is an export of run run --to hf; .* --out DIR", export.export, "other", "hf", done.path)
    pytest.importorskip("gguf", reason="gguf is not installed: an export of another format is unchecked")
    refused(2, "it is an export of run run --to hf; .* --out DIR", export.export, str(trained), "gguf", done.path)
    assert contents(done.path) == old
    other = export.export("other", "gguf", here / "gguf")
    refused(2, "it is an export of run other --to gguf", export.export, "other", "hf", other.path)


def test_words_of_the_command_are_folded_and_home_is_found(here, trained, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    done = tinygpt("export", trained, "--to", "HF", "--encoding", "F32", "--out=~/mine", "--json")
    assert done.code == 0 and done.json["path"] == str(here / "home" / "mine")
    assert tinygpt("report", trained, "--out=~/mine.html").code == 0 and (here / "home" / "mine.html").is_file()
    assert [path.name for path in here.iterdir()] == ["home"]


@pytest.mark.parametrize("name", ["mine", "Bob's model", 'a "b" $HOME `c` \\d !', "c'\"d"])
def test_the_command_that_is_said_names_the_place(here, trained, name):
    """Pins: an apostrophe in a path, which ended the Python string in the command."""
    s = origin.source(str(trained))[0]
    place = here / name
    for target, file in ((hf, place), (gguf, place / "run-f32.gguf")):
        said = next(line for line in target.advice(s, place, "f32") if "python -c" in line)
        python, flag, code = shlex.split(said[said.index("python -c") :])
        strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        assert (python, flag) == ("python", "-c") and str(file) in strings


def test_the_step_that_is_replaced_is_said(here, trained):
    first = export.export(f"{trained}@40", "hf")
    second, third = export.export(str(trained), "hf"), export.export(str(trained), "hf")
    assert second.sentences[0].endswith("step 60. It replaces the export of step 40.")
    assert "replaces" not in first.sentences[0] + third.sentences[0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_place_that_cannot_be_written_is_named_as_it_was_typed(here, trained, monkeypatch, number):
    """Pins: "No space left on device." alone, or the name of a temporary file that nobody typed."""

    def fail(path, data):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(hf, "write_durable", fail)
    said = refused(74, "^mine cannot be written: ", export.export, str(trained), "hf", Path("mine"))
    assert said == f"mine cannot be written: {os.strerror(number)}; choose another place with --out DIR."
    assert list(here.iterdir()) == []


def test_below_a_file_there_is_no_place(here, trained):
    (here / "s.txt").write_text("mine")
    for out in ("s.txt/foo", "s.txt/a/foo"):
        refused(2, "because s.txt is a file; .*--out DIR", export.export, str(trained), "hf", Path(out))


def test_an_empty_folder_is_a_place(here, trained):
    (here / "new").mkdir()
    assert sorted(contents(export.export(str(trained), "hf", here / "new").path)) == FILES


# --- an older export survives ----------------------------------------------------------------------------------------


def test_a_failed_comparison_leaves_the_old_one_and_says_so(here, trained, monkeypatch):
    def differ(*_):
        raise UserError("agreeable 1.0 computes other logits.", MISMATCH)

    old = contents(export.export(f"{trained}@40", "hf").path)
    monkeypatch.setattr(hf, "compare", differ)
    refused(
        MISMATCH, "other logits; nothing was exported, exports/run-hf is as it was", export.export, str(trained), "hf"
    )
    assert contents(here / "exports") == {f"run-hf/{name}": data for name, data in old.items()}
    refused(MISMATCH, "nothing was exported, there is no .*new", export.export, str(trained), "hf", here / "new")
    assert not (here / "new").exists()


def test_an_export_stopped_anywhere_leaves_the_old_one_or_the_new_one(here, trained, monkeypatch):
    """Ctrl-C before each of its operations on files in turn: the target is always whole, and nothing lies about."""
    old = contents(export.export(f"{trained}@40", "hf").path)
    new = contents(export.export(str(trained), "hf", here / "new").path)
    names = ("make_folder", "write_durable", "fsync_file", "fsync_folder", "rename")
    stopped = left = 0

    def stopping(function):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    for module in (export, hf):
        for name in names:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stopping(getattr(module, name)))
    while True:
        left = stopped
        try:
            export.export(str(trained), "hf")
        except KeyboardInterrupt:
            stopped += 1
            assert [path.name for path in (here / "exports").iterdir()] == ["run-hf"]
            assert contents(here / "exports" / "run-hf") in (old, new)
            continue
        break
    assert stopped > 12 and contents(here / "exports" / "run-hf") == new


def test_what_a_killed_export_left_is_mended(here, trained):
    """Killed while the folder was filled, or between the two renames: then the older one gets its name back."""
    done = export.export(str(trained), "hf")
    old = contents(done.path)
    done.path.rename(here / "exports" / f".del-run-hf-{DEAD}")
    (here / "exports" / f".tmp-run-hf-{DEAD}").mkdir()
    busy = here / "exports" / f".tmp-run-hf-{os.getppid()}"
    other = here / "exports" / f".tmp-run-hf-2-hf-{DEAD}"  # of an export of another run
    busy.mkdir(), other.mkdir()
    export.mend(done.path)
    assert contents(done.path) == old
    assert {path.name for path in (here / "exports").iterdir()} == {"run-hf", busy.name, other.name}
