"""--to onnx: what onnxruntime computes from the files is what the model computes, with and without the cache."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import environment

from tinygpt.errors import MISMATCH, USAGE, UserError
from tinygpt.export import onnx as target
from tinygpt.export import origin
from tinygpt.export.origin import Source
from tinygpt.inference import generate

onnx = pytest.importorskip("onnx", reason="onnx is not installed: the ONNX export is unchecked")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: the ONNX export is unchecked")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the ONNX export is unchecked")

PRESETS = {"modern": {"n_kv_heads": 2}, "gpt2": {}, "tutorial": {}}  # key/value heads that are shared, a tied head
LENGTHS, BATCHES = (1, 7, 32), (1, 2, 3)  # block_size is 32
NEAR = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module", params=PRESETS)
def exported(request, make_run, make_model, tmp_path_factory):
    """Of each preset: a run with random weights, the folder it is exported into, onnxruntime with the files there."""
    parent = tmp_path_factory.mktemp(request.param)
    run = make_run(parent / "run", request.param, **PRESETS[request.param])
    model = make_model(request.param, **dataclasses.asdict(run.config.model))
    prompts = [[], [target.BOS], *(run.tokenizer.encode(text) for text in ("The fox", "Old Mia lost the key"))]
    s, folder = Source(run, model, 12, prompts), parent / "out"
    folder.mkdir()
    target.refuse(s.run.config)
    target.write(s, folder, "f32")
    return SimpleNamespace(s=s, folder=folder, runtime=target.Runtime(folder, s.model.config))


def some_ids(s, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, s.model.config.vocab_size, shape, generator=generator)


@torch.inference_mode()
def our_logits(s, ids):
    return s.model(ids).numpy()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("batch_size", BATCHES)
def test_logits_equal_ours(exported, batch_size, length):
    """Pins: a dimension that the exporter takes for a constant, because it was 1 or equal to another one."""
    ids = some_ids(exported.s, batch_size, length)
    ours = our_logits(exported.s, ids)
    assert np.abs(ours).max() > 1  # so that 1e-4 says something
    np.testing.assert_allclose(exported.runtime.logits(ids.numpy()), ours, **NEAR)
    cached, past = exported.runtime.step(ids.numpy(), exported.runtime.begin(batch_size))
    np.testing.assert_allclose(cached, ours, **NEAR)
    c = exported.s.model.config
    assert {memory.shape for memory in past.values()} == {(batch_size, c.n_kv_heads, length, c.d_head)}


def test_cached_token_by_token_equals_every_prefix(exported):
    """Pins: positions or mask counted from the new tokens instead of from the beginning."""
    ids, past = some_ids(exported.s, 2, 20), exported.runtime.begin(2)
    for end in range(1, 21):
        logits, past = exported.runtime.step(ids[:, end - 1 : end].numpy(), past)
        np.testing.assert_allclose(logits[:, -1], our_logits(exported.s, ids[:, :end])[:, -1], **NEAR)


@pytest.mark.parametrize("half", [0, 1, 5, 19])
def test_several_new_tokens_after_a_past(exported, half):
    ids = some_ids(exported.s, 2, 20)
    _, past = exported.runtime.step(ids[:, :half].numpy(), exported.runtime.begin(2)) if half else (None, None)
    logits, _ = exported.runtime.step(ids[:, half:].numpy(), past or exported.runtime.begin(2))
    np.testing.assert_allclose(logits, our_logits(exported.s, ids)[:, half:], **NEAR)


def test_padding_on_the_left_changes_no_row(exported):
    """Pins: NaN from a softmax over nothing, padding that is looked at, positions that count padding."""
    lengths, width = (3, 7, 12), 12
    ids, mask = np.full((3, width), target.PAD), np.zeros((3, width + 1), np.int64)
    rows = [some_ids(exported.s, 1, length + 1, seed=length) for length in lengths]  # the last token comes later
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[i, width - length :], mask[i, width - length :] = row[0, :-1].numpy(), 1
    together, past = exported.runtime.step(ids, exported.runtime.begin(3), mask[:, :-1])
    last = np.concatenate([row[:, -1:].numpy() for row in rows])
    after, _ = exported.runtime.step(last, past, mask)
    assert np.isfinite(together).all() and np.isfinite(after).all()
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ours = our_logits(exported.s, row)[0]
        np.testing.assert_allclose(together[i, width - length :], ours[:-1], **NEAR)
        np.testing.assert_allclose(after[i], ours[-1:], **NEAR)


def test_greedy_text_with_the_cache_equals_ours(exported):
    s = exported.s
    for prompt in ("The fox", "Old Mia lost", "a café"):
        begin = s.run.tokenizer.encode(prompt)
        tokens = target.their_greedy(exported.runtime, begin)
        assert 0 < len(tokens) <= s.model.config.block_size - len(begin)
        ours = generate(s.model, s.run.tokenizer, prompt, len(tokens))
        assert s.run.tokenizer.decode(begin + tokens) == ours


def test_both_greedy_texts_end_with_eos(exported, monkeypatch):
    """Any token stands for <eos> here, because random weights never write that."""
    model, begin = exported.s.model, exported.s.run.tokenizer.encode("Old Mia")
    tokens = target.their_greedy(exported.runtime, begin)
    for place in (target, origin):
        monkeypatch.setattr(place, "EOS", tokens[2])
    short = tokens[: tokens.index(tokens[2]) + 1]
    assert target.their_greedy(exported.runtime, begin) == target.greedy(model, begin) == short != tokens


def axes(values):
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_the_files_are_what_they_say(exported):
    """Names and axes as Optimum has them, opset recorded, weights inside, no path of the machine that wrote it."""
    c, folder = exported.s.model.config, exported.folder
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert written == ["config.json", "onnx/model.onnx", "onnx/model_full.onnx", "tokenizer.json"]
    assert (folder / "tokenizer.json").read_bytes() == (exported.s.run.folder / "tokenizer.json").read_bytes()

    ids, logits = ["batch", "sequence"], ["batch", "sequence", c.vocab_size]
    memory = ["batch", c.n_kv_heads, "past", c.d_head]
    longer = ["batch", c.n_kv_heads, "past + sequence", c.d_head]
    expected = {
        "model_full.onnx": ({"input_ids": ids}, {"logits": logits}),
        "model.onnx": (
            {
                "input_ids": ids, "attention_mask": ["batch", "past + sequence"], "position_ids": ids,
                **{f"past_key_values.{i}.{part}": memory for i in (0, 1) for part in ("key", "value")},
            },
            {"logits": logits, **{f"present.{i}.{part}": longer for i in (0, 1) for part in ("key", "value")}},
        ),
    }  # fmt: skip
    for name, (inputs, outputs) in expected.items():
        data = (folder / "onnx" / name).read_bytes()
        model = onnx.load_from_string(data)
        assert (axes(model.graph.input), axes(model.graph.output)) == (inputs, outputs)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", target.OPSET)] and target.OPSET >= 18
        assert all(w.data_location == onnx.TensorProto.DEFAULT and not w.external_data for w in model.graph.initializer)
        for path in (Path(target.__file__).parents[2], Path(sys.prefix), Path(torch.__file__).parent, folder):
            assert str(path).encode() not in data
        assert b".py" not in data and b"stack_trace" not in data and not model.functions


@pytest.mark.parametrize("exported", ["gpt2"], indirect=True)
def test_a_tied_head_is_stored_once(exported):
    c = exported.s.model.config
    assert c.tied
    for name in (target.FULL, target.CACHED):
        weights = onnx.load(exported.folder / name).graph.initializer
        assert sum(sorted(w.dims) == sorted((c.vocab_size, c.n_embd)) for w in weights) == 1


def test_compare_gives_the_figures(exported):
    figures = target.compare(exported.s, exported.folder, "f32")
    assert figures["largest difference of a logit"] < 1e-4
    assert figures["equal greedy texts"] == "4 of 4" and figures["runtime"].endswith(f"opset {target.OPSET}")
    assert figures["compared"] == "1/2/3 texts of 1/7/32 tokens"


def test_a_weight_changed_after_the_export_is_found(exported, make_model):
    """Pins: a comparison of nothing with nothing; NaN, which is larger than no tolerance."""
    config = dataclasses.asdict(exported.s.model.config)
    for value in (0.01, float("nan")):
        model = make_model(exported.s.run.config.preset, **config)
        model.blocks[1].attention.value.weight.data[0, 0] += value
        with pytest.raises(
            UserError, match=r"model_full\.onnx in onnxruntime is not the model: logits differ"
        ) as error:
            target.compare(dataclasses.replace(exported.s, model=model), exported.folder, "f32")
        assert error.value.exit_code == MISMATCH


@pytest.mark.parametrize("name", [target.FULL, target.CACHED])
def test_a_weight_changed_in_one_file_is_found(exported, name, tmp_path):
    """Pins: one of the two files compared, and the other believed."""
    shutil.copytree(exported.folder, tmp_path, dirs_exist_ok=True)
    model = onnx.load(tmp_path / name)
    weight = next(w for w in model.graph.initializer if len(w.dims) == 2)
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / name)
    with pytest.raises(UserError, match=f"{name} in onnxruntime is not the model: logits differ") as error:
        target.compare(exported.s, tmp_path, "f32")
    assert error.value.exit_code == MISMATCH


def test_another_text_is_found(exported, monkeypatch):
    """Pins: greedy texts that are made but not compared."""
    monkeypatch.setattr(target, "their_greedy", lambda runtime, prompt: target.greedy(exported.s.model, prompt)[:-1])
    with pytest.raises(UserError, match=r"model\.onnx in onnxruntime is not the model: after '.*' it writes") as error:
        target.compare(exported.s, exported.folder, "f32")
    assert error.value.exit_code == MISMATCH


def test_the_advice_is_a_program_that_runs(exported, capsys):
    lines = target.advice(exported.s, exported.folder, "f32")
    names: dict = {}
    exec("\n".join(lines), names)
    assert names["ids"][1:] == target.greedy(exported.s.model, [0])
    assert capsys.readouterr().out.strip()
    assert all(any(name in line for line in lines) for name in (target.CACHED, "position_ids", "past_key_values.*"))
    assert "tokenizers.Tokenizer.from_file('tokenizer.json')" in "\n".join(target.advice(exported.s, Path(), "f32"))


@pytest.mark.parametrize("exported", ["gpt2"], indirect=True)
def test_written_again_it_is_the_same_and_nothing_is_said(exported, tmp_path, capfd):
    """Pins: the exporter's lines on the terminal, its warnings (errors here), random names in the file."""
    target.write(exported.s, tmp_path, "f32")
    assert capfd.readouterr() == ("", "")
    for path in (p for p in exported.folder.rglob("*") if p.is_file()):
        assert (tmp_path / path.relative_to(exported.folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("exported", ["gpt2"], indirect=True)
def test_a_signal_waits_until_the_model_is_traced(exported, monkeypatch):
    """Pins: the exporter takes what stops the command for an error of its own: a traceback, and exit 1."""
    right, done = torch.onnx.export, []

    def stopped(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        done.append(right(*arguments, **options))
        return done[0]

    monkeypatch.setattr(torch.onnx, "export", stopped)
    with pytest.raises(KeyboardInterrupt):
        target.full_model(exported.s.model)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_midst_it_says_so_and_leaves_nothing(tmp_path, trained, number, code):
    command = [sys.executable, "-m", "tinygpt", "export", trained, "--to", "onnx"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(tmp_path.glob("exports/.tmp-*/onnx")):
        time.sleep(0.02)
    time.sleep(0.5)  # well within what the exporter imports and does
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and len(err.splitlines()) == 1 and "nothing was lost" in err, err
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.parametrize("encoding", ["f16", "q8_0"])
def test_other_encodings_are_refused(encoding, tmp_path):
    with pytest.raises(UserError, match=f"f32, not in {encoding}") as error:
        target.write(None, tmp_path, encoding)
    assert error.value.exit_code == USAGE and not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed.*pip install 'tinygpt\[onnx\]'"):
        target.write(None, tmp_path, "f32")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_nothing_is_compared(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert target.compare(None, tmp_path, "f32") is None
