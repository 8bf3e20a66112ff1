"""What the pages show is what the model computes: against plain hooks and the textbook's formulas, written here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinygpt.inspect as ti
from tinygpt.config import PRESETS, ModelConfig
from tinygpt.errors import UserError
from tinygpt.inspect import heads
from tinygpt.inspect.result import MOST_BYTES
from tinygpt.inspect.trace import LOOKED, Model, Recorder, names_of, record_edited
from tinygpt.model import ACTIVATIONS, TinyGPT

PROMPTS, CASES = 50, 100


@pytest.fixture(scope="module")
def runs_of_presets(make_trained, tmp_path_factory):
    """One run of each preset, trained for a step."""
    folder = tmp_path_factory.mktemp("presets")
    return {preset: make_trained(folder / preset, preset=preset) for preset in PRESETS}


@pytest.fixture(scope="module")
def models(runs_of_presets):
    """A model of each preset whose weights are large enough for every part to matter; "shared": 2 heads a key."""

    def noisy(run, config):
        model, generator = TinyGPT(config).eval().requires_grad_(False), torch.Generator().manual_seed(3)
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator) * 0.25
            p.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
        return Model(run, model, 1)

    found = {preset: noisy(run, run.config.model) for preset, run in runs_of_presets.items()}
    shared = {**dataclasses.asdict(found["modern"].config), "n_kv_heads": 2, "d_head": 6}
    found["shared"] = noisy(runs_of_presets["modern"], ModelConfig(**shared))
    return found


@pytest.fixture(scope="module")
def prompts(texts, tokenizer):
    """50 texts of 1 to 32 tokens, the empty one among them."""
    draw = random.Random(0)
    cut = [tokenizer.decode(tokenizer.encode(texts[i])[: draw.randint(2, 30)]) for i in range(PROMPTS - 2)]
    found = ["", tokenizer.decode(tokenizer.encode(texts[5])[:32]), *cut]
    assert max(len(tokenizer.encode(text)) for text in found) == 32
    return found


def ids_of(m, prompt):
    return torch.tensor([m.tokenizer.encode(prompt) or [0]])


def plainly(m, ids, edits=()):
    """Every activation of the table, by forward hooks; edits: (module, function of its output)."""
    seen, handles = {}, []
    for module, change in edits:
        hook = lambda _m, _i, out, change=change: change(out.clone())  # noqa: E731
        handles.append(m.model.get_submodule(module).register_forward_hook(hook))
    for template, (module, _) in ACTIVATIONS.items():
        for i in range(m.config.n_layers if "{i}" in template else 1):
            name = template.format(i=i)
            hook = lambda _m, _i, out, name=name: seen.__setitem__(name, out)  # noqa: E731
            handles.append(m.model.get_submodule(module.format(i=i)).register_forward_hook(hook))
    seen["returned"] = m.model(ids)
    for handle in handles:
        handle.remove()
    return seen


def textbook(m, seen, i):
    """Scores, masked scores and pattern (H, T, T) of layer i from its recorded queries and keys, head by head."""
    c, attention, rotate = m.config, m.model.blocks[i].attention, m.model.positions.rotate
    T, K = seen["embedding"].shape[1], c.d_head
    hidden = torch.arange(T)[None, :] > torch.arange(T)[:, None]
    stages = []
    for h in range(c.n_heads):
        g = h * c.n_kv_heads // c.n_heads
        q = attention.query_norm(seen[f"block.{i}.query"][:, :, h * K : (h + 1) * K])
        k = attention.key_norm(seen[f"block.{i}.key"][:, :, g * K : (g + 1) * K])
        scores = (rotate(q[:, None], 0) @ rotate(k[:, None], 0).mT)[0, 0] / math.sqrt(K)
        masked = scores.masked_fill(hidden, -math.inf)
        stages.append(torch.stack((scores, masked, masked.softmax(-1))))
    return torch.stack(stages).transpose(0, 1)  # (stage, H, T, T)


def assert_near(got, wanted, within=1e-6):
    """Within so much of the tensor's largest value where that exceeds 1; infinities at the same places."""
    got, wanted = torch.as_tensor(np.asarray(got)), torch.as_tensor(np.asarray(wanted))
    finite = wanted.isfinite()
    assert torch.equal(got.isfinite(), finite)
    largest = max(1.0, float(wanted[finite].abs().max()))
    assert float((got - wanted)[finite].abs().max()) <= within * largest


def assert_same(got, wanted):
    assert torch.equal(torch.as_tensor(got), wanted)


# --- E1: recorded and recomputed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [*PRESETS, "shared"])
def test_what_is_recorded_and_recomputed_is_what_plain_hooks_see(models, prompts, preset):
    m, c = models[preset], models[preset].config
    draw = random.Random(1)
    for prompt in prompts:
        ids = ids_of(m, prompt)
        seen = plainly(m, ids)
        table = [name for name in seen if name != "returned"]
        shown = ti.forward(m, prompt, names=table)
        assert [token["id"] for token in shown["tokens"]] == ids[0].tolist() and shown.truncated is None
        for name in table:
            assert_same(shown[name], seen[name][0])
        by_name = {line["name"]: line for line in shown["names"]}
        name = draw.choice(table)
        assert by_name[name]["shape"] == list(seen[name].shape[1:])
        assert by_name[name]["norm"] == pytest.approx(float(seen[name][0].pow(2).sum(-1).sqrt().mean()), rel=1e-5)

        everything = ti.attention(m, prompt)
        layer, head = draw.randrange(c.n_layers), draw.randrange(c.n_heads)
        one = ti.attention(m, prompt, layer=layer, head=head)
        for i in range(c.n_layers):
            stages = textbook(m, seen, i)
            assert_near(everything["pattern"][i], stages[2])
            recomputed = ti.forward(m, prompt, names=[f"block.{i}.{what}" for what in LOOKED])
            for what, stage in zip(LOOKED, stages, strict=True):
                assert_near(recomputed[f"block.{i}.{what}"], stage)
                if i == layer:
                    assert_near(one[what], stage[head])
            values = seen[f"block.{i}.value"][0].view(-1, c.n_kv_heads, c.d_head).transpose(0, 1)
            values = values.repeat_interleave(c.n_heads // c.n_kv_heads, 0)
            mixed = torch.as_tensor(everything["pattern"][i]) @ values
            assert_near(mixed.transpose(0, 1).flatten(1), seen[f"block.{i}.heads"][0], 2e-6)  # two sums, not one


@pytest.mark.parametrize("preset", PRESETS)
def test_the_lens_is_norm_and_head_of_each_stream_and_ends_with_the_output(models, prompts, preset):
    m, c = models[preset], models[preset].config
    for prompt in prompts:
        ids = ids_of(m, prompt)
        seen, shown = plainly(m, ids), ti.lens(m, prompt)
        start = m.model.positions.add(seen["embedding"], 0)
        streams = [start, *(seen[f"block.{i}"] for i in range(c.n_layers))]
        targets = [*ids[0, 1:].tolist(), int(seen["logits"][0, -1].argmax())]
        assert [target["id"] for target in shown["targets"]] == targets
        for row, stream in enumerate(streams):
            logits = m.model.head(m.model.norm(stream))[0]
            chances = logits.softmax(-1)
            assert [token["id"] for token in shown["top"][row]] == logits.argmax(-1).tolist()
            assert_near(shown["probability"][row], chances.max(-1).values)
            aimed = chances[torch.arange(len(targets)), targets]
            assert_near(shown["target_probability"][row], aimed)
            order = logits.argsort(-1, descending=True).tolist()
            assert shown["rank"][row].tolist() == [places.index(id) for places, id in zip(order, targets, strict=True)]
        output = seen["returned"][0].softmax(-1)
        assert_near(shown["probability"][-1], output.max(-1).values)
        assert [token["id"] for token in shown["top"][-1]] == output.argmax(-1).tolist()
        fixed = ti.lens(m, prompt, target=7)
        assert_near(fixed["target_probability"][-1], output[:, 7])


def frozen_shares(m, seen, at, direction):
    """Shares by autograd: the logit as a function of how much of each part is there, every scale held fixed."""
    c = m.config
    amounts, parts = [], []

    def part(vector):
        amounts.append(torch.ones((), dtype=torch.float64, requires_grad=True))
        parts.append(vector.double() * amounts[-1])
        return parts[-1]

    def norm(module, x):
        bias = getattr(module, "bias", None)
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean()
            y = x / (x.pow(2).mean() + module.eps).sqrt().detach() * module.weight.double()
        else:
            y = x / (x.pow(2).mean() + module.eps).sqrt().detach() * module.weight.double()
        return y if bias is None else y + part(bias)

    x = part(seen["embedding"][0, at])
    if c.positions == "learned":
        x = x + part(m.model.positions.table.weight[at])
    for i, block in enumerate(m.model.blocks):
        z, W = seen[f"block.{i}.heads"][0, at].double(), block.attention.output.weight.double()
        for h in range(c.n_heads):
            kept = torch.zeros_like(z)
            kept[h * c.d_head : (h + 1) * c.d_head] = z[h * c.d_head : (h + 1) * c.d_head]
            x = x + part(W @ kept)
        if block.attention.output.bias is not None:
            x = x + part(block.attention.output.bias)
        x = norm(block.norm_1, x) if c.norm_place == "after" else x
        x = x + part(seen[f"block.{i}.feed_forward"][0, at])
        x = norm(block.norm_2, x) if c.norm_place == "after" else x
    with torch.enable_grad():
        logit = norm(m.model.norm, x) @ direction.double()
    return torch.stack(torch.autograd.grad(logit, amounts))


@pytest.mark.parametrize("preset", [*PRESETS, "shared"])
def test_shares_sum_to_the_logit_and_are_those_of_frozen_scales(models, prompts, preset):
    m = models[preset]
    for n, prompt in enumerate(prompts):
        ids = ids_of(m, prompt)
        at = n % ids.shape[1]
        seen = plainly(m, ids)
        logits = seen["logits"][0, at]
        a, b = logits.topk(2).indices.tolist()
        W = m.model.head.weight
        two = ti.attribution(m, prompt, position=at)
        assert (two["token"]["id"], two["other"]["id"]) == (a, b)
        assert two["logit"] == pytest.approx(float(logits[a] - logits[b]), abs=1e-6)
        single = ti.attribution(m, prompt, token=9, position=at, difference=False)
        assert single["logit"] == float(logits[9]) and single["other"] is None
        for shown, direction in ((two, W[a] - W[b]), (single, W[9])):
            assert shown["sum"] == pytest.approx(shown["logit"], abs=1e-4)
            assert float(shown["share"].sum(dtype=np.float64)) == pytest.approx(shown["logit"], abs=1e-4)
            with torch.enable_grad():
                wanted = frozen_shares(m, seen, at, direction)
            torch.testing.assert_close(torch.as_tensor(shown["share"]).double(), wanted, atol=1e-5, rtol=1e-5)
        kinds = {part["kind"] for part in two["parts"]}
        assert ("bias" in kinds, "positions" in kinds) == (m.config.bias, m.config.positions == "learned")


@pytest.mark.parametrize("preset", [*PRESETS, "shared"])
def test_recording_changes_no_bit_and_leaves_nothing_behind(models, prompts, preset):
    m = models[preset]
    names = [*names_of(m.config), *(f"block.{i}.{what}" for i in range(m.config.n_layers) for what in LOOKED)]
    for prompt in prompts:
        ids = ids_of(m, prompt)
        before = m.model(ids)
        with Recorder(m.model, names) as recorded:
            during = m.model(ids)
            patterns = [recorded[f"block.{i}.pattern"] for i in range(m.config.n_layers)]
        assert_same(during, before)
        assert len(patterns) == m.config.n_layers
    with contextlib.suppress(KeyboardInterrupt), Recorder(m.model, names, [("embedding", torch.zeros_like)]):
        raise KeyboardInterrupt
    assert_same(m.model(ids), before)
    assert not any(module._forward_hooks or "look" in vars(module) for module in m.model.modules())


def test_a_second_pass_of_one_recorder_is_recorded_afresh(models):
    m = models["modern"]
    with Recorder(m.model, ["block.0.pattern"]) as recorded:
        m.model(torch.tensor([[5, 6, 7]]))
        first = recorded["block.0.pattern"]
        m.model(torch.tensor([[9, 4]]))
        assert first.shape[-1] == 3 and recorded["block.0.pattern"].shape[-1] == 2


@pytest.mark.parametrize("preset", [*PRESETS, "shared"])
def test_a_cell_is_the_sum_that_explain_shows(models, prompts, preset):
    m, draw = models[preset], random.Random(2)
    act = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}.get(m.config.feed_forward)
    described = ti.forward(m, prompts[1])["names"]
    assert {line["name"] for line in described} == {*names_of(m.config)} | {
        f"block.{i}.{what}" for i in range(m.config.n_layers) for what in LOOKED
    }
    for n, line in enumerate(described * 3):
        name, prompt = line["name"], prompts[1 + n % 20]
        shape = next(one["shape"] for one in ti.forward(m, prompt)["names"] if one["name"] == name)
        index = [draw.randrange(size) for size in shape]
        value = float(ti.forward(m, prompt, names=[name])[name][tuple(index)])
        shown = ti.explain(m, prompt, name, index)
        assert shown["value"] == (value if math.isfinite(value) else None)
        assert shown["sum"] == pytest.approx(shown["bias"] + sum(term["product"] for term in shown["terms"]), abs=1e-9)
        total = shown["sum"] if not (name.endswith("hidden") and act) else float(act(torch.tensor(shown["sum"])))
        if shown["value"] is not None:
            assert total == pytest.approx(value, abs=2e-6, rel=2e-5), (name, index)
        sizes = [abs(term["product"]) for term in shown["terms"] if term["label"] != "others"]
        assert sizes == sorted(sizes, reverse=True) and "an edit" not in shown["formula"]
        assert name in shown["formula"]


def test_explain_keeps_most_terms_and_sees_edits(models, prompts):
    m = models["gpt2"]
    edits = [{"part": "scores", "op": "temperature", "value": 3.0, "layer": 1, "index": 2}]
    for index in ([2, 4, 1], [1, 4, 1]):
        shown = ti.explain(m, prompts[1], "block.1.scores", index, edits=edits)
        assert shown["sum"] == pytest.approx(shown["value"], abs=1e-5)
    zeroed = ti.explain(m, prompts[1], "block.0.attention", [3, 4], edits=[{"part": "mlp", "op": "zero", "layer": 0}])
    assert "an edit" not in zeroed["formula"]
    zeroed = ti.explain(m, prompts[1], "block.0.feed_forward", [3, 4], edits=[{"part": "mlp", "op": "zero"}])
    assert zeroed["value"] == 0.0 and "an edit" in zeroed["formula"]


# --- E3: edits -------------------------------------------------------------------------------------------------------


def window_means(m, module):
    """Mean output of a module over 32 windows of validation text from evenly spaced places."""
    ids, T = m.run.val_ids, min(m.config.block_size, 128)
    starts = [int(start) for start in np.linspace(0, len(ids) - T - 1, 32)]
    rows = torch.from_numpy(np.stack([ids[start : start + T] for start in starts]).astype(np.int64))
    kept = []
    handle = m.model.get_submodule(module).register_forward_hook(lambda _m, _i, out: kept.append(out))
    m.model(rows)
    handle.remove()
    return kept[0].mean((0, 1))


@contextlib.contextmanager
def looking(m, layers, edit):
    """The attention of some layers written out in the test, its pattern handed to `edit(layer, scores, hidden)`."""
    for layer in layers:
        attention = m.model.blocks[layer].attention

        def look(q, k, v, cache, layer=layer):
            T, groups = q.shape[2], q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            hidden = torch.ones(T, T, dtype=torch.bool).triu(1).repeat(q.shape[1], 1, 1)
            return edit(layer, (q @ k.mT)[0] / math.sqrt(q.shape[-1]), hidden)[None] @ v

        attention.look = look
    yield
    for layer in layers:
        del m.model.blocks[layer].attention.look


def random_edit(draw, m, T, other):
    part = draw.choice(["head", "mlp", "resid", "scores"])
    ops = ["mask_off", "scale_off", "temperature", "freeze_pattern"]
    op = draw.choice(ops if part == "scores" else ["zero", "mean", "patch_from"])
    layers = [None, *range(-1 if part == "resid" else 0, m.config.n_layers)]
    edit = {"part": part, "op": op, "layer": draw.choice(layers), "pos": draw.choice([None, *range(T)])}
    if part in ("head", "scores"):
        edit["index"] = draw.choice([None, *range(m.config.n_heads)])
    if op == "temperature":
        edit["value"] = draw.choice([0.3, 2.0, 5.0])
    if op in ("patch_from", "freeze_pattern"):
        edit["prompt"] = other
    return edit


def by_hand(m, ids, others, edit):
    """The logits of the model with this edit made by direct hooks."""
    c, pos = m.config, edit["pos"]
    layers = range(c.n_layers) if edit["layer"] is None else [edit["layer"]]
    rows = slice(None) if pos is None else slice(pos, pos + 1)
    index = edit.get("index")
    if edit["part"] == "scores":
        picked = slice(None) if index is None else slice(index, index + 1)
        there = plainly(m, others)
        frozen = {i: textbook(m, there, i)[2] for i in layers}

        def pattern(layer, scores, hidden):
            if edit["op"] == "mask_off":
                hidden[picked, rows] = False
            if edit["op"] == "scale_off":
                scores[picked, rows] *= math.sqrt(c.d_head)
            if edit["op"] == "temperature":
                scores[picked, rows] /= edit["value"]
            found = scores.masked_fill(hidden, -math.inf).softmax(-1)
            if edit["op"] == "freeze_pattern":
                found[picked, rows] = frozen[layer][picked, rows]
            return found

        with looking(m, layers, pattern):
            return m.model(ids)
    names = {"head": "block.{i}.heads", "mlp": "block.{i}.feed_forward", "resid": "block.{i}"}
    columns = slice(None) if index is None else slice(index * c.d_head, (index + 1) * c.d_head)
    there, hooks = plainly(m, others), []
    for i in layers:
        template = "embedding" if i < 0 else names[edit["part"]]
        path = ACTIVATIONS[template][0].format(i=i)
        put = {"zero": torch.zeros(1), "patch_from": there[template.format(i=i)]}.get(edit["op"])
        put = window_means(m, path)[None, None] if put is None else put
        put = put.expand(1, ids.shape[1], 1 if edit["op"] == "zero" else -1)

        def change(out, put=put):
            out[:, rows, columns] = put[:, rows] if put.shape[-1] == 1 else put[:, rows, columns]
            return out

        hooks.append((path, change))
    return plainly(m, ids, hooks)["returned"]


@pytest.mark.parametrize("case", range(CASES))
def test_ablation_and_patching_equal_the_same_edit_by_a_direct_hook(models, texts, case):
    draw = random.Random(case)
    m = models[draw.choice([*PRESETS, "shared"])]
    ids = m.tokenizer.encode(texts[case % 100])
    others, T = m.tokenizer.encode(texts[(case + 3) % 100]), draw.randint(3, 14)
    while m.tokenizer.encode(m.tokenizer.decode(ids[:T])) != ids[:T]:
        T -= 1  # the same tokens when their text is read again
    prompt, U = m.tokenizer.decode(ids[:T]), T
    other = next(
        text for start in range(20)
        if len(m.tokenizer.encode(text := m.tokenizer.decode(others[start : start + U]))) == U
    )  # fmt: skip
    edit = random_edit(draw, m, T, other)
    plain = m.model(ids_of(m, prompt))
    wanted = by_hand(m, ids_of(m, prompt), ids_of(m, other), edit)
    got = record_edited(m, ids_of(m, prompt), [], [edit])["logits"]
    if edit["part"] == "scores":
        assert_near(got, wanted, 1e-5)
    elif edit["op"] == "mean":
        assert_near(got, wanted, 1e-6)
    else:
        assert_same(got, wanted)
    shown = ti.intervene(m, prompt, [edit])
    chances, before = wanted[0].softmax(-1), plain[0].softmax(-1)
    assert [row["probability"] for row in shown["after"]] == pytest.approx(
        chances[-1].topk(10).values.tolist(), abs=1e-5
    )
    assert [row["probability"] for row in shown["before"]] == pytest.approx(
        before[-1].topk(10).values.tolist(), abs=1e-6
    )
    moved = (before * (before.log() - chances.log())).sum(-1)
    assert shown["moved"].tolist() == pytest.approx(moved.tolist(), abs=1e-4, rel=1e-4)
    changed = (plain[0].argmax(-1) != wanted[0].argmax(-1)).nonzero()[:, 0].tolist()
    assert [line["position"] for line in shown["changed_tokens"]] == changed
    assert_same(m.model(ids_of(m, prompt)), plain)


def test_the_random_cases_reach_every_operation(models):
    reached = set()
    for case in range(CASES):
        draw = random.Random(case)
        m = models[draw.choice([*PRESETS, "shared"])]
        draw.randint(3, 14)
        edit = random_edit(draw, m, 5, "x")
        reached.add((edit["part"], edit["op"]))
    assert len(reached) == 13


def test_edits_add_up(models, prompts):
    """Two edits in one list are both made, on one activation in their order."""
    m, ids = models["tutorial"], ids_of(models["tutorial"], prompts[1])
    both = [{"part": "head", "op": "zero", "layer": 0, "index": i} for i in (0, 2)]

    def change(out):
        out[..., :8] = out[..., 16:24] = 0
        return out

    wanted = plainly(m, ids, [("blocks.0.attention.heads", change)])["returned"]
    assert_same(record_edited(m, ids, [], both)["logits"], wanted)
    twice = [{"part": "resid", "op": op, "layer": 1, **more} for op, more in (("mean", {}), ("zero", {"pos": -1}))]
    found = record_edited(m, ids, ["block.1"], twice)["block.1"][0]
    assert not found[-1].any() and found[:-1].any()


def test_a_frozen_pattern_of_the_same_prompt_outlasts_an_earlier_edit(models, prompts):
    m, ids = models["modern"], ids_of(models["modern"], prompts[1])
    usual = record_edited(m, ids, ["block.1.pattern"], [])["block.1.pattern"]
    zero = {"part": "mlp", "op": "zero", "layer": 0}
    frozen = {"part": "scores", "op": "freeze_pattern", "layer": 1}
    assert not torch.equal(record_edited(m, ids, ["block.1.pattern"], [zero])["block.1.pattern"], usual)
    assert_same(record_edited(m, ids, ["block.1.pattern"], [zero, frozen])["block.1.pattern"], usual)


def test_patching_everything_gives_the_output_of_the_other_prompt(models, tokenizer, texts):
    for m in models.values():
        a, b = (tokenizer.decode(tokenizer.encode(texts[i])[:9]) for i in (0, 1))
        for layer in (None, -1, m.config.n_layers - 1):
            shown = ti.intervene(m, a, [{"part": "resid", "op": "patch_from", "layer": layer, "prompt": b}])
            assert shown["after"] == ti.intervene(m, b, [])["before"]
        assert ti.intervene(m, a, [])["moved"].tolist() == [0.0] * 9


@pytest.mark.parametrize("part", ["resid", "mlp", "head"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_patch_grid_is_one_direct_hook_for_each_place(models, tokenizer, texts, preset, part):
    m, c = models[preset], models[preset].config
    same = tokenizer.encode(texts[0])[:4]
    a, b = (tokenizer.decode(same + tokenizer.encode(texts[i])[5:10]) for i in (1, 2))
    clean, other = ids_of(m, a), ids_of(m, b)
    shown = ti.patch_grid(m, a, b, target=9, part=part)
    T, here, away = clean.shape[1], plainly(m, clean), plainly(m, other)
    foil = int(away["logits"][0, -1].argmax())
    assert (shown["target"]["id"], shown["foil"]["id"]) == (9, foil)
    difference = lambda logits: float(logits[0, -1, 9] - logits[0, -1, foil])  # noqa: E731
    full = difference(here["logits"]) - difference(away["logits"])
    template = {"resid": "block.{i}", "mlp": "block.{i}.feed_forward", "head": "block.{i}.heads"}[part]
    names = [template.format(i=i) for i in range(c.n_layers)]
    names = ["embedding", *names] if part == "resid" else names
    assert shown["effect"].shape == (len(names), c.n_heads if part == "head" else T) and len(shown["rows"]) == len(
        names
    )
    for row, name in enumerate(names):
        module = "embedding" if name == "embedding" else ACTIVATIONS[template][0].format(i=int(name.split(".")[1]))
        for column in range(shown["effect"].shape[1]):

            def change(out, name=name, column=column):
                if part == "head":
                    columns = slice(column * c.d_head, (column + 1) * c.d_head)
                    out[..., columns] = here[name][..., columns]
                else:
                    out[:, column] = here[name][:, column]
                return out

            patched = plainly(m, other, [(module, change)])["returned"]
            wanted = (difference(patched) - difference(away["logits"])) / full
            assert shown["effect"][row, column] == pytest.approx(wanted, abs=1e-4)
    if part == "resid":
        assert shown["effect"][-1].tolist() == pytest.approx([0.0] * (T - 1) + [1.0], abs=1e-5)
        assert shown["effect"][0].any() and not shown["effect"][:, :4].any()


# --- E8: what the pages say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fields", [{}, {"tied": True}, {"n_heads": 4, "n_kv_heads": 2, "d_head": 6, "d_ff": 40}])
def test_boxes_sum_to_the_parameters_with_a_tied_head_once(make_model, runs_of_presets, preset, fields):
    model = make_model(preset, **fields)
    shown = ti.architecture(Model(runs_of_presets[preset], model, 0))
    boxes = {box["name"]: box for box in shown["boxes"]}
    assert sum(box["parameters"] for box in shown["boxes"]) == shown["parameters"] == model.parameter_count()
    assert len(boxes) == len(shown["boxes"]) == 4 + 4 * model.config.n_layers
    assert (boxes["logits"]["parameters"] == 0) == shown["tied"] == model.config.tied
    weights = [tuple(weight["shape"]) for box in shown["boxes"] for weight in box["weights"]]
    assert sorted(weights) == sorted(tuple(p.shape) for p in model.state_dict().values())
    c, T = model.config, model.config.block_size
    attended = 2 * (c.n_embd * c.d_head * (2 * c.n_heads + 2 * c.n_kv_heads) + 2 * T * c.n_heads * c.d_head)
    assert boxes["block.1.attention"]["flops"] == attended
    assert boxes["logits"]["flops"] == 2 * c.n_embd * c.vocab_size
    assert boxes["logits"]["memory_bytes"] == 4 * T * c.vocab_size
    order = [name.removeprefix("block.1.") for name in boxes if name.startswith("block.1.")]
    first, second = ("input_norm", "attention"), ("norm_2", "feed_forward")
    assert order == ([*first, *second] if c.norm_place == "before" else [*first[::-1], *second[::-1]])
    assert shown["flops_per_token"] == sum(box["flops"] for box in shown["boxes"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_redrawn_model_has_the_counts_of_the_real_one(models, preset):
    m = models[preset]
    shares = []
    for vocab_size in (320, 2000, 8000):
        shown = ti.architecture(m, vocab_size=vocab_size)
        shares.append(shown["embedding_share"])
        real = TinyGPT(ModelConfig(**{**dataclasses.asdict(m.config), "vocab_size": vocab_size}))
        assert shown["parameters"] == real.parameter_count() == sum(box["parameters"] for box in shown["boxes"])
        assert shares[-1] == real.embedding.weight.numel() / real.parameter_count()
    assert shares[0] < shares[1] < shares[2]
    wide = ti.architecture(m, n_embd=48, n_layers=5, block_size=64)
    assert wide["config"]["n_heads"] == 4 and wide["config"]["d_head"] == 12
    assert wide["parameters"] == TinyGPT(ModelConfig(**wide["config"])).parameter_count()
    assert ti.architecture(m, n_embd=50)["config"]["n_heads"] == 5
    assert ti.architecture(m, n_embd=32)["config"] == ti.architecture(m)["config"]
    with pytest.raises(UserError, match="n_embd=5000 is outside 8 to 4096"):
        ti.architecture(m, n_embd=5000)


@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_with_the_norm_before_the_stream_is_the_sum_of_what_is_added(models, prompts, preset):
    m, c = models[preset], models[preset].config
    adds = [f"block.{i}.{what}" for i in range(c.n_layers) for what in ("attention", "feed_forward")]
    for prompt in prompts:
        last = f"block.{c.n_layers - 1}"
        shown = ti.forward(m, prompt, names=["embedding", *adds, last])
        summed = sum(shown[name].astype(np.float64) for name in ["embedding", *adds])
        if c.positions == "learned":
            summed = summed + m.model.positions.table.weight[: len(summed)].numpy()
        error = np.linalg.norm(summed - shown[last], axis=-1) / np.linalg.norm(shown[last], axis=-1)
        assert error.max() < 1e-5
        at = ti.forward(m, prompt, stream_at=-1)
        assert np.array_equal(at["stream_at"], shown[last][-1])
        assert_near(at["added_at"].astype(np.float64).sum(0), at["stream_at"])


def test_all_heads_beside_one_are_those_that_are_asked_for_alone(models, prompts):
    m, c = models["gpt2"], models["gpt2"].config
    one, alone, all_ = (ti.attention(m, prompts[1], **given) for given in (
        {"layer": 1, "head": 2, "all_heads": True}, {"layer": 1, "head": 2}, {}
    ))  # fmt: skip
    for name in LOOKED:
        assert np.array_equal(one[name], alone[name])
    assert one["pooled"] == 1 and np.array_equal(one["patterns"], all_["pattern"])
    assert one["patterns"].shape[:2] == (c.n_layers, c.n_heads)


def test_what_is_expected_after_each_token_is_its_likeliest_with_and_without_an_edit(models, prompts):
    m, edit = models["modern"], {"part": "head", "op": "zero", "layer": 0, "index": 1}
    shown = ti.intervene(m, prompts[1], [edit])
    for field, edits in (("predicted_before", []), ("predicted_after", [edit])):
        logits = record_edited(m, ids_of(m, prompts[1]), [], edits)["logits"][0]
        assert [one["id"] for one in shown[field]] == logits.argmax(-1).tolist()
        assert_near(torch.tensor([one["probability"] for one in shown[field]]), logits.softmax(-1).amax(-1))
    assert shown["predicted_after"][-1]["id"] == shown["after"][0]["id"]


@pytest.mark.parametrize("preset", PRESETS)
def test_norms_of_the_stream_and_of_what_is_added(models, prompts, preset):
    m, c = models[preset], models[preset].config
    ids = ids_of(m, prompts[1])
    seen, shown = plainly(m, ids), ti.forward(m, prompts[1])
    length = lambda x: x[0].pow(2).sum(-1).sqrt()  # noqa: E731
    added = dict(zip(shown["stream_parts"], torch.as_tensor(shown["added"]), strict=True))
    total = dict(zip(shown["stages"], torch.as_tensor(shown["total"]), strict=True))
    assert_near(added["embedding"], length(seen["embedding"]))
    assert ("positions" in added) == (c.positions == "learned")
    stream = m.model.positions.add(seen["embedding"], 0)
    assert_near(total[shown["stages"][0]], length(stream))
    for i in range(c.n_layers):
        assert_near(added[f"block {i} attention"], length(seen[f"block.{i}.attention"]))
        assert_near(added[f"block {i} feed-forward"], length(seen[f"block.{i}.feed_forward"]))
        after = stream + seen[f"block.{i}.attention"]
        after = m.model.blocks[i].norm_1(after) if c.norm_place == "after" else after
        assert_near(total[f"block {i} attention"], length(after))
        stream = seen[f"block.{i}"]
        assert_near(total[f"block {i}"], length(stream))


def test_without_the_mask_a_later_token_changes_an_earlier_answer(models):
    """With the mask by exactly 0, at every position before it."""
    for m in models.values():
        a, b = torch.arange(5, 17)[None], torch.arange(5, 17)[None].clone()
        b[0, 8] = 99
        off = [{"part": "scores", "op": "mask_off"}]
        masked = [record_edited(m, ids, [], [])["logits"][0] for ids in (a, b)]
        unmasked = [record_edited(m, ids, [], off)["logits"][0] for ids in (a, b)]
        assert torch.equal(masked[0][:8], masked[1][:8]) and not torch.equal(masked[0][8:], masked[1][8:])
        assert float((unmasked[0][7] - unmasked[1][7]).abs().max()) > 1e-3


def test_without_the_mask_held_out_text_costs_a_trained_model_more(trained):
    m = ti.load(str(trained))
    shown = ti.intervene(m, "The fox", [{"part": "scores", "op": "mask_off"}], held_out=True)
    assert shown["loss_after"] > shown["loss_before"]
    ids = m.run.val_ids
    T = min(m.config.block_size, 128, len(ids) - 1)
    starts = [int(start) for start in np.linspace(0, len(ids) - T - 1, 32)]
    rows = torch.from_numpy(np.stack([ids[start : start + T + 1] for start in starts]).astype(np.int64))
    wanted = F.cross_entropy(m.model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert shown["loss_before"] == pytest.approx(float(wanted), abs=1e-5)
    assert ti.intervene(m, "The fox", [], held_out=True)["loss_after"] == shown["loss_before"]


def built(kind, ids):
    """A pattern (T, T) of one head that does `kind` on a sequence, and nothing else."""
    T = len(ids)
    A = torch.zeros(T, T)
    for i in range(T):
        copies = [j for j in range(i) if ids[j] == ids[i]]
        after = [j + 1 for j in copies if j + 1 < i]
        place = {
            "previous": [max(0, i - 1)], "first": [0], "current": [i], "same": copies or [i // 2],
            "induction": after[-1:] or [i // 2], "mixed": list(range(i + 1)),
        }[kind]  # fmt: skip
        A[i, place] = 1 / len(place)
    return A


def test_hand_built_patterns_get_their_labels_and_a_uniform_one_none(trained, monkeypatch):
    """Pins: an offset by one, queries and keys exchanged, a score that any head has."""
    m = ti.load(f"{trained}@last")
    kinds = ["previous", "first", "current", "same", "induction", "mixed"]
    start = object()

    def fake(model, ids):
        for row in ids.split(3):
            heads_of = lambda sequence: torch.stack(  # noqa: E731
                [built("mixed" if model is start else kind, sequence.tolist()) for kind in kinds]
            )
            yield torch.stack([heads_of(sequence) for sequence in row])[None], row

    monkeypatch.setattr(heads, "patterns", fake)
    monkeypatch.setattr(heads, "at_start", lambda m: dataclasses.replace(m, model=start))
    config = dataclasses.replace(m.run.config.model, n_heads=6, n_layers=1, d_head=6, n_kv_heads=6)
    monkeypatch.setattr(Model, "config", config)
    shown = ti.head_labels(m, windows=7)
    assert [line["label"] for line in shown["labels"]] == kinds
    for line in shown["labels"][:5]:
        assert line["score"] == pytest.approx(1.0, abs=0.12) and line["at_start"] < 0.2
        assert line["scores"][line["label"]] == line["score"]
    uniform, T = shown["labels"][5]["scores"], shown["length"]
    assert uniform["previous"] == pytest.approx(sum(1 / (i + 1) for i in range(1, T)) / (T - 1), abs=1e-6)
    assert uniform["first"] == pytest.approx(sum(1 / (i + 1) for i in range(2, T)) / (T - 2), abs=1e-6)
    assert uniform["current"] == pytest.approx(sum(1 / (i + 1) for i in range(T)) / T, abs=1e-6)
    L = 15
    assert uniform["induction"] == pytest.approx(sum(1 / (i + 1) for i in range(L + 1, 2 * L + 1)) / L, abs=1e-6)
    # The same heads at step 0: what training has not doubled is no label.
    monkeypatch.setattr(heads, "at_start", lambda m: m)
    assert {line["label"] for line in ti.head_labels(m, windows=7)["labels"]} == {"mixed"}


def test_scores_of_heads_are_means_over_the_patterns(trained):
    """On the real patterns, by loops; in more windows than one pass takes."""
    m = ti.load(f"{trained}@last")
    shown, ids = ti.head_labels(m, windows=11), m.run.val_ids
    T = shown["length"]
    starts = [int(start) for start in np.linspace(0, len(ids) - T - 1, 11)]
    rows = torch.from_numpy(np.stack([ids[start : start + T] for start in starts]).astype(np.int64))
    seen = [plainly(m, row[None]) for row in rows]
    for line in shown["labels"][1::3]:
        A = [textbook(m, one, line["layer"])[2][line["head"]].tolist() for one in seen]
        mean = lambda values: sum(values) / len(values)  # noqa: E731
        same = []
        for a, row in zip(A, rows.tolist(), strict=True):
            for i in range(T):
                copies = [j for j in range(i) if row[j] == row[i]]
                same += [sum(a[i][j] for j in copies)] if copies else []
        assert line["scores"]["previous"] == pytest.approx(
            mean([a[i][i - 1] for a in A for i in range(1, T)]), abs=1e-5
        )
        assert line["scores"]["first"] == pytest.approx(mean([a[i][0] for a in A for i in range(2, T)]), abs=1e-5)
        assert line["scores"]["same"] == pytest.approx(mean(same), abs=1e-5)
    start = ti.load(f"{trained}@0")
    before = ti.head_labels(start, windows=11)
    assert {line["label"] for line in before["labels"]} == {"mixed"}
    kind = max(shown["labels"][0]["scores"], key=lambda kind: shown["labels"][0]["scores"][kind])
    assert shown["labels"][0]["at_start"] == pytest.approx(before["labels"][0]["scores"][kind], abs=1e-6)


# --- replies ---------------------------------------------------------------------------------------------------------

EDIT = {"part": "head", "op": "mean", "layer": 1, "index": 0}
CALLS = [
    ("architecture", (), {}), ("architecture", (), {"n_embd": 64, "vocab_size": 1000}),
    ("forward", ("The fox",), {}), ("forward", ("",), {"names": ["block.1.query", "block.0.masked"], "edits": [EDIT]}),
    ("forward", ("The fox found",), {"names": ["logits"], "position": -1}),
    ("explain", ("The fox", "block.1.hidden", [1, 7]), {}), ("explain", ("The fox", "block.1.masked", [1, 0, 1]), {}),
    ("attention", ("The fox found a red kite",), {}), ("attention", ("The fox",), {"layer": 1}),
    ("attention", ("Tom's \"key\" é",), {"layer": 1, "head": 2, "edits": [EDIT]}),
    ("attention", ("The fox found a red kite",), {"layer": 0, "head": 1, "all_heads": True}),
    ("forward", ("The fox found",), {"names": ["block.0"], "stream_at": 1}),
    ("head_labels", (), {"windows": 3}), ("lens", ("The fox",), {}), ("lens", ("Tom",), {"target": 8, "edits": [EDIT]}),
    ("attribution", ("The fox",), {}), ("attribution", ("The fox",), {"token": 5, "position": 0, "difference": False}),
    ("intervene", ("The fox", [EDIT]), {"held_out": True}),
    ("patch_grid", ("The fox qx", "The fox qz"), {"target": 9, "part": "head"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(trained):
    return ti.load(str(trained))


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS, ids=[f"{i}-{call[0]}" for i, call in enumerate(CALLS)])
def test_the_python_line_gives_the_same_bytes(loaded, name, arguments, named):
    shown = getattr(ti, name)(loaded, *arguments, **named)
    body = shown.to_json()
    assert json.loads(body)["function"] == name and len(body) < MOST_BYTES
    assert eval(shown.python, {"ti": ti}).to_json() == body
    assert json.loads(body)["model"] == loaded.identity


def test_python_lines_give_the_same_bytes_in_a_fresh_process(loaded):
    shown = [getattr(ti, name)(loaded, *arguments, **named) for name, arguments, named in CALLS]
    lines = [f"sys.stdout.buffer.write({one.python}.to_json())" for one in shown]
    code = "\n".join(["import sys, torch", "import tinygpt.inspect as ti", "torch.set_num_threads(1)", *lines])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"".join(one.to_json() for one in shown)


def test_long_prompts_stay_within_the_size_of_a_reply_and_say_what_they_leave_out(make_trained, tmp_path, texts):
    run = make_trained(tmp_path / "long", block_size=512)
    m = ti.load(str(run.folder))
    prompt = m.tokenizer.decode(m.tokenizer.encode(" ".join(texts))[:500])
    T = len(m.tokenizer.encode(prompt))
    names = ["logits", "block.0.hidden", "block.1.masked"]
    big = [
        ti.attention(m, prompt, layer=1, head=1), ti.forward(m, prompt, names=names), ti.lens(m, prompt),
        ti.attention(m, prompt), ti.attention(m, prompt, layer=1, head=1, all_heads=True),
    ]  # fmt: skip
    for shown in big[:2]:
        assert shown.truncated.startswith("the last ") and f" of {T} " in shown.truncated
    for shown in big:
        assert len(shown.to_json()) < MOST_BYTES and len(shown["tokens"]) == T
    one, first = ti.attention(m, prompt, layer=1, head=1), big[0]["first_query"]
    assert one["pattern"].shape == (T - first, T) and one["pattern"].sum(-1) == pytest.approx(1.0, abs=1e-5)
    assert np.isneginf(one["masked"][0, first + 1 :]).all() and np.isfinite(one["masked"][0, : first + 1]).all()
    assert big[1]["logits"].shape == (T - big[1]["first_position"], m.config.vocab_size)
    last = ti.forward(m, prompt, names=names, position=-1)
    assert last.truncated is None
    for name in names:
        assert np.array_equal(last[name][..., -1, :], big[1][name][..., -1, :], equal_nan=True)
    whole = record_edited(m, ids_of(m, prompt), ["block.1.pattern"], [])["block.1.pattern"][0, 2]
    k, pooled = big[3]["pooled"], big[3]["pattern"][1, 2]
    assert k == -(-T // 32) and pooled.shape[-1] <= 32 and f"{k} x {k}" in big[3].truncated
    for i, j in ((0, 0), (9, 4), (pooled.shape[0] - 1, pooled.shape[0] - 1)):
        assert pooled[i, j] == float(whole[i * k : (i + 1) * k, j * k : (j + 1) * k].max())


WRONG = [
    (lambda m: ti.forward(m, "x " * 99), "at most 32 .block_size."),
    (lambda m: ti.forward(m, "a", names=["block.0.qeury"]), "did you mean block.0.query"),
    (lambda m: ti.forward(m, "a", names=["block.9.scores"]), "no activation 'block.9.scores'"),
    (lambda m: ti.forward(m, "a", position=3), "position=3 is outside 0 to 0"),
    (lambda m: ti.explain(m, "a", "block.0.query", [0]), "is \\[position, channel\\]"),
    (lambda m: ti.explain(m, "a", "block.0.pattern", [0, 0]), "is \\[head, query, key\\]"),
    (lambda m: ti.explain(m, "a", "logits", [0, 99999]), "is outside 0 to 319"),
    (lambda m: ti.explain(m, "a", "nothing", [0, 0]), "no activation 'nothing'"),
    (lambda m: ti.attention(m, "a", layer=2), "layer=2 is outside 0 to 1"),
    (lambda m: ti.attention(m, "a", layer=0, head=4), "head=4 is outside 0 to 3"),
    (lambda m: ti.head_labels(m, windows=0), "0 windows"),
    (lambda m: ti.lens(m, "a", target=320), "target=320 is outside 0 to 319"),
    (lambda m: ti.attribution(m, "a", token=-1), "token=-1 is outside 0 to 319"),
    (lambda m: ti.attribution(m, "a", other=3, difference=False), "belongs to a difference"),
    (lambda m: ti.patch_grid(m, "aaaa", "a"), "clean has . tokens and other 1"),
    (lambda m: ti.patch_grid(m, "ab", "ab", target=9), "differ in nothing"),
    (lambda m: ti.patch_grid(m, "ab", "ab"), "give another target, such as"),
    (lambda m: ti.intervene(m, "a", [{**EDIT, "op": "patch_from", "prompt": "a"}], held_out=True), "a second prompt"),
]
WRONG_EDITS = [
    ({"part": "head"}, "op=None is wrong"),
    ({**EDIT, "part": "tail"}, "part='tail' is wrong"),
    ({**EDIT, "laier": 1}, "no 'laier' .did you mean layer"),
    ({**EDIT, "layer": 2}, "layer=2 is outside 0 to 1"),
    ({**EDIT, "layer": -1}, "layer=-1 is outside 0 to 1"),
    ({**EDIT, "layer": "x"}, "layer='x' is wrong"),
    ({**EDIT, "index": 4}, "index=4 is outside 0 to 3"),
    ({**EDIT, "part": "mlp"}, "part 'mlp' has not"),
    ({**EDIT, "pos": 5}, "pos=5 is outside 0 to 0"),
    ({**EDIT, "op": "mask_off"}, "takes op zero, mean, patch_from, not 'mask_off'"),
    ({**EDIT, "op": "patch_from"}, "needs a prompt"),
    ({**EDIT, "op": "patch_from", "prompt": "aaaa"}, "the other prompt has . tokens and this one 1"),
    ({"part": "scores", "op": "temperature"}, "temperature needs a value above 0"),
    ({"part": "scores", "op": "temperature", "value": 0}, "temperature needs a value above 0"),
]
CALLS_WRONG = WRONG + [(lambda m, edit=edit: ti.intervene(m, "a", [edit]), message) for edit, message in WRONG_EDITS]


@pytest.mark.parametrize(("call", "message"), CALLS_WRONG, ids=range(len(CALLS_WRONG)))
def test_mistakes_are_told_in_a_sentence(models, call, message):
    with pytest.raises(UserError, match=message):
        call(models["modern"])
