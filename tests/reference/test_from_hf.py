"""A folder in Hugging Face's layout becomes the very model: what transformers computes with it, we compute.

Small random models that transformers itself saved, tokenizers that the tokenizers library itself trained.
"""

import json
import random
from pathlib import Path

import pytest
import tokenizers
import torch
from command_line import inside, tinygpt
from test_export_hf import PIECES

from tinygpt import checkpoint, export
from tinygpt.evaluate import score
from tinygpt.inherit import inherit, pieces
from tinygpt.model import TinyGPT
from tinygpt.optim import Optimizer
from tinygpt.records import read
from tinygpt.runs import open_run

transformers = pytest.importorskip("transformers", reason="transformers is not installed: --from is unchecked")

END = "<|endoftext|>"
SIZE = 350  # pieces and one special token
QWEN3 = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MODELS = {
    "qwen3": (
        "Qwen3",
        {**QWEN3, "rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "qwen3, tied": ("Qwen3", {**QWEN3, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {**GPT2, "n_inner": 72}),
    "gpt2, untied": ("GPT2", {**GPT2, "tie_word_embeddings": False}),
}


@pytest.fixture
def here(tmp_path):
    with inside(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def foreign(texts):
    """A tokenizer of GPT-2's kind with ids in an order of its own, <|endoftext|> among them."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    engine.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(texts, trainer)
    document = json.loads(engine.to_str())
    names = sorted(document["model"]["vocab"])
    random.Random(0).shuffle(names)
    document["model"]["vocab"] = {name: id for id, name in enumerate(names)}
    document["added_tokens"][0]["id"] = names.index(END)
    return tokenizers.Tokenizer.from_str(json.dumps(document))


@pytest.fixture
def saved(here, foreign):
    """saved("gpt2"): a folder written by save_pretrained, and the model of transformers that is in it."""

    def make(name, spare=5, number_format=torch.float32, **saving):
        kind, fields = MODELS[name]
        end = foreign.token_to_id(END)
        marks = {"bos_token_id": end, "eos_token_id": end}
        config = getattr(transformers, f"{kind}Config")(vocab_size=SIZE + spare, **marks, **fields)
        model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for path, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=generator) * 0.2
                p.copy_(1 + noise if ("norm" in path or "ln_" in path) and path.endswith("weight") else noise)
        model = model.to(number_format)
        model.save_pretrained(here / "theirs", **saving)
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=foreign, bos_token=END, eos_token=END)
        fast.save_pretrained(here / "theirs")
        return here / "theirs", model.float()

    return make


def ours_from(folder):
    """What --from makes of a folder: it, our model with its weights, and the row there of each of our ids."""
    found = inherit(str(folder))
    model = TinyGPT(found.model)
    checkpoint.load_model(model, found.weights)
    config = json.loads((folder / "config.json").read_text())
    return found, model.eval(), torch.tensor(pieces.read(folder, config, config["vocab_size"]).rows)


@torch.no_grad()
def assert_equal_logits(model, theirs, rows):
    for seed in range(4):
        ids = torch.randint(len(rows), (2, 64), generator=torch.Generator().manual_seed(seed))
        expected = theirs(rows[ids]).logits[..., rows]
        assert expected.std() > 0.3  # not all near 0, where anything is equal
        torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_saved_computes_the_same(saved, name):
    folder, theirs = saved(name)
    found, model, rows = ours_from(folder)
    assert found.preset == {"qwen3": "modern", "gpt2": "gpt2"}[name.split(",")[0]] and found.step is None
    assert model.config.tied == ("tied" in name.split() or name == "gpt2") and len(set(rows.tolist())) == SIZE
    assert_equal_logits(model, theirs, rows)


def test_files_in_parts_and_16_bits_are_read(saved):
    folder, theirs = saved("gpt2", number_format=torch.bfloat16, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists() and len(list(folder.glob("model-*.safetensors"))) > 2
    found, model, rows = ours_from(folder)
    assert_equal_logits(model, theirs, rows)
    assert "The weights are BF16 there and fp32 here." in found.notices


def test_names_without_prefix_and_masks_are_read(saved):
    """As the first GPT-2 on the hub has them; and a hub's cache, which is made of links."""
    import safetensors.torch

    folder, theirs = saved("gpt2")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    older = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    older |= {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(2)}
    blob = folder.parent / "blob"
    safetensors.torch.save_file(older, blob)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(blob)
    _, model, rows = ours_from(folder)
    assert_equal_logits(model, theirs, rows)


def test_a_foreign_tokenizer_cuts_the_same_pieces(saved, foreign):
    found, _, rows = ours_from(saved("gpt2")[0])
    draw = random.Random(0)
    strings = ["".join(draw.choices(PIECES, k=draw.randrange(24))).replace(END, "<|endoftext") for _ in range(5_000)]
    ours = [rows[found.tokenizer.encode(text)].tolist() if text else [] for text in strings]
    assert ours == [e.ids for e in foreign.encode_batch(strings, add_special_tokens=False)]
    assert found.tokenizer.vocab_size == SIZE - 1 + 3 and rows[:3].tolist() == [foreign.token_to_id(END)] * 3
    assert len(found.tokenizer.encode(END)) > 1  # typed, it is text
    assert f"<bos> is its {END}, <eos> is its {END}, <pad> is its {END}" in found.notices[0]
    assert found.notices[0].endswith("rows of the embedding that no piece uses are left out: 5.")


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_training_begins_with_their_loss(saved, name, texts):
    """Of the whole way: the figure of step 0 is what transformers computes for the validation text."""
    folder, theirs = saved(name)
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = tinygpt("train", "a.jsonl", "--from", "theirs", "--steps", 2, "precision=fp32", "device=cpu", "--quiet")
    assert done.code == 0, done.err
    assert "It starts from theirs: the loss is" in done.out
    found, model, rows = ours_from(folder)
    run, _ = open_run(Path("runs/a"))
    begun = checkpoint.load(run.folder, "0")[0].model
    assert begun.keys() == found.weights.keys() and all(torch.equal(begun[n], found.weights[n]) for n in begun)
    ids = torch.from_numpy(run.val_ids[:65].astype("int64"))[None]  # the first window, as it is scored
    with torch.no_grad():
        expected = theirs(rows[ids[:, :-1]]).logits[..., rows]
        torch.testing.assert_close(model(ids[:, :-1]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_out_and_in_again_it_is_the_same_model(here, make_run, make_model, texts, machine, preset):
    """Export, train --from it: the loss at step 0 is that of the run."""
    run = make_run(here / "runs" / "x", preset, block_size=64)
    model = make_model(preset, std=0.1, **vars(run.config.model))
    checkpoint.save(run.folder, model, Optimizer([]), checkpoint.Progress(step=4), run.digests)
    export.export("x", "hf")
    for name, part in (("train", texts[:110]), ("val", texts[110:])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    done = tinygpt(
        "train", "train.jsonl", "--val", "val.jsonl", "--from", "exports/x-hf", "--run", "y", "--steps", 1,
        "precision=fp32", "device=cpu", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    first = next(r for r in read(here / "runs" / "y" / "metrics.jsonl") if r["kind"] == "eval")
    expected = score(model, run.tokenizer, run.val_ids, machine)
    assert first["step"] == 0 and first["val_loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert (here / "runs/y/tokenizer.json").read_bytes() == (run.folder / "tokenizer.json").read_bytes()
