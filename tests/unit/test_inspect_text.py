"""Are the bars, the texts, the costs and the copies what the model and the training text say?"""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from command_line import refused, tinygpt
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygpt.inspect as ti
from tinygpt.data import encode
from tinygpt.errors import BAD_INPUT, USAGE
from tinygpt.evaluate import score
from tinygpt.inference import Decoder
from tinygpt.inspect import text as module
from tinygpt.inspect.result import arguments_of
from tinygpt.inspect.trace import Model
from tinygpt.model import KVCache
from tinygpt.tokenizer import BOS, EOS, Tokenizer

PROMPT = "The fox found"


@pytest.fixture(scope="module")
def m(trained):
    return ti.load(f"{trained}@60")


def of_texts(m, train, val=()):
    """The same model in a run of other documents, whose tokens are bytes."""
    read = Tokenizer([])
    run = dataclasses.replace(m.run, tokenizer=read, train_ids=encode(train, read), val_ids=encode(val, read))
    return Model(run, m.model, 0)


# next_token


@settings(max_examples=100, deadline=None)
@given(
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5, 10.0]), top_k=st.integers(0, 400),
    top_p=st.floats(0.01, 1.0), min_p=st.floats(0.0, 1.0), repetition_penalty=st.sampled_from([1.0, 1.3, 0.5, 5.0]),
    most=st.integers(1, 330), prompt=st.sampled_from(["", PROMPT, "A", "the red kite " * 3]),
)  # fmt: skip
def test_bars_sum_to_one_after_every_slider(m, prompt, most, **sliders):
    """E8, page 8."""
    found = ti.next_token(m, prompt, most=most, **sliders)
    for name, of in (("probability", "before"), ("drawn", "after")):
        assert math.fsum(row[name] for row in found["rows"]) + found["others"][of] == pytest.approx(1, abs=1e-5)
    assert len(found["rows"]) == min(most, 320)
    assert any(row["drawn"] > 0 for row in found["rows"])
    with torch.no_grad():
        logits = m.model(torch.tensor([m.tokenizer.encode(prompt) or [BOS]]))[0, -1]
    own = logits.softmax(-1)
    assert [row["probability"] for row in found["rows"]] == pytest.approx(
        own[[r["id"] for r in found["rows"]]].tolist(), abs=1e-6
    )
    if sliders["temperature"] == 0:
        sure = [row for row in found["rows"] if row["drawn"]]
        assert found["kept"] == 1 and found["entropy"]["after"] == 0 and sure[0]["drawn"] == 1
        if sliders["repetition_penalty"] == 1:
            assert sure[0]["id"] == logits.argmax().item() == found["rows"][0]["id"]
    elif sliders["top_k"] and sliders["repetition_penalty"] == 1:
        scaled = logits / sliders["temperature"]
        least = scaled.topk(min(sliders["top_k"], 320)).values[-1]
        assert found["kept"] <= (scaled >= least).sum()  # tokens that the text has not are equally likely


def test_what_each_slider_keeps(m):
    plain = ti.next_token(m, PROMPT, most=320)
    assert plain["kept"] == 320 and plain["others"] == {"before": 0, "after": 0}
    assert plain["entropy"]["before"] == plain["entropy"]["after"] > 0
    p = np.array([row["probability"] for row in plain["rows"]])
    assert (np.diff(p) <= 0).all() and plain["entropy"]["before"] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)
    assert ti.next_token(m, PROMPT, top_k=3)["kept"] == 3
    nucleus = ti.next_token(m, PROMPT, top_p=0.5)["rows"]
    within = int((np.cumsum(p) < 0.5).sum()) + 1
    assert [row["drawn"] > 0 for row in nucleus[: within + 1]] == [True] * within + [False]
    assert nucleus[0]["drawn"] == pytest.approx(p[0] / p[:within].sum(), rel=1e-4)
    assert ti.next_token(m, PROMPT, min_p=0.5)["kept"] == (p >= 0.5 * p[0]).sum()
    hot = ti.next_token(m, PROMPT, temperature=2.0, most=320)["rows"]
    assert hot[0]["drawn"] == pytest.approx(p[0] ** 0.5 / (p**0.5).sum(), rel=1e-4)
    assert [t["id"] for t in plain["tokens"]] == m.tokenizer.encode(PROMPT)


def test_what_the_sliders_lift_has_its_bar(m, texts):
    """Pins rows by the model's own probability alone: with a penalty, what is drawn could lie beyond them."""
    lifted = 0
    for text in texts[:30]:
        row = ti.next_token(m, text[:40], temperature=0.0, repetition_penalty=50.0, most=1)["rows"][0]
        assert row["drawn"] == 1
        lifted += row["id"] != ti.next_token(m, text[:40], most=1)["rows"][0]["id"]
    assert lifted


def test_prompts_and_settings_that_cannot_be(m):
    for function in (ti.next_token, ti.generate, ti.tree, ti.cache_meter):
        refused(USAGE, "40 tokens.* at most 32 .block_size.; leave out 8", function, m, "x" * 40)
    refused(USAGE, "temperature -1", ti.next_token, m, "", -1.0)
    refused(USAGE, "most=0", lambda: ti.next_token(m, "", most=0))
    refused(USAGE, "at most 2,000", ti.generate, m, "", 2_001)
    refused(USAGE, "max-new-tokens -1", ti.generate, m, "", -1)
    refused(USAGE, "max-new-tokens 0", ti.cache_meter, m, "", 0)
    for width, depth in ((0, 3), (3, 0), (8, 3), (21, 1), (1, 21)):
        refused(USAGE, f"width={width} and depth={depth}", ti.tree, m, "", width, depth)


# generate


@pytest.mark.parametrize(
    "given",
    [
        {}, {"seed": 3, "temperature": 1.2}, {"temperature": 0.0, "max_new_tokens": 100}, {"max_new_tokens": 0},
        {"top_k": 5, "top_p": 0.8, "temperature": 1.5}, {"min_p": 0.2, "repetition_penalty": 1.4, "temperature": 2.0},
        {"stop": ["the", "q"], "seed": 1}, {"stop": ["."], "seed": 2, "max_new_tokens": 100},
    ],
)  # fmt: skip
@pytest.mark.parametrize("prompt", ["", PROMPT, "caf\u00e9"])
def test_the_text_is_that_of_the_command(m, prompt, given):
    """E8, page 8: same seed gives the text of `tinygpt generate`; beyond block_size too."""
    words = ["--max-new-tokens", "60"]
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    found = ti.generate(m, prompt, **given)
    sample = tinygpt("generate", m.reference, prompt, *words, "--json").json["samples"][0]
    assert (found["text"], found["finish_reason"]) == (sample["text"], sample["finish_reason"])
    assert "".join(step["text"] for step in found["steps"]) == found["text"]


def test_each_step_tells_what_it_was_drawn_from(m):
    found = ti.generate(m, PROMPT, 12, temperature=1.3, top_p=0.9, seed=5)
    ids = m.tokenizer.encode(PROMPT)
    assert [t["id"] for t in found["tokens"]] == ids
    for step in found["steps"]:
        sliders = {"temperature": 1.3, "top_p": 0.9, "most": 320}
        bars = ti.next_token(m, m.tokenizer.decode(ids), **sliders)
        if [t["id"] for t in bars["tokens"]] == ids:  # the text may be cut otherwise when it is encoded again
            places = [row["id"] for row in bars["rows"]]
            row = bars["rows"][places.index(step["id"])]
            assert step["probability"] == pytest.approx(row["probability"], abs=1e-5)
            assert step["drawn"] == pytest.approx(row["drawn"], abs=1e-4) and step["drawn"] > 0
            assert step["rank"] == places.index(step["id"])
        ids.append(step["id"])
    greedy = ti.generate(m, PROMPT, 12, temperature=0.0)["steps"]
    assert {step["drawn"] for step in greedy} == {1.0} and {step["rank"] for step in greedy} == {0}


def test_the_end_of_a_document_is_a_step(m):
    """<eos> ends the text and is not in it, but it was drawn."""
    ends = [found for seed in range(12) if (found := ti.generate(m, "", 300, seed=seed))["finish_reason"] == "stop"]
    assert ends
    for found in ends:
        assert found["steps"][-1]["id"] == EOS and found["steps"][-1]["shown"] == "<eos>"
        written = [step["id"] for step in found["steps"][:-1]]
        assert EOS not in written and m.tokenizer.decode(written) == found["text"]


def test_steps_come_one_by_one_and_errors_before_them(m):
    continuation, steps = module.writing(m, PROMPT, 5, temperature=0.0)
    next(steps)
    assert continuation.ids.shape[1] == len(m.tokenizer.encode(PROMPT)) + 1
    with pytest.raises(ValueError, match="stop string"):
        module.writing(m, PROMPT, stop=[""])


# tree


def test_a_tree_holds_the_likeliest_tokens_after_each_branch(m):
    found = ti.tree(m, PROMPT, width=3, depth=3)
    seen = []

    def walk(node, ids, joint, level):
        assert node["joint"] == pytest.approx(joint)
        seen.append(level)
        if level == 3 or node["id"] == EOS:
            assert node["children"] == []
            return
        with torch.no_grad():
            best = m.model(torch.tensor([ids]))[0, -1].softmax(-1).topk(3)
        assert [child["id"] for child in node["children"]] == best.indices.tolist()
        assert [child["probability"] for child in node["children"]] == pytest.approx(best.values.tolist(), abs=1e-5)
        for child in node["children"]:
            walk(child, [*ids, child["id"]], joint * child["probability"], level + 1)

    ids = m.tokenizer.encode(PROMPT)
    walk(found, ids, 1.0, 0)
    assert found["id"] == ids[-1] and seen.count(1) == 3 and seen.count(3) > 9


def test_nothing_follows_the_end(m):
    ended = Model(m.run, type(m.model)(m.config).eval().requires_grad_(False), 0)
    ended.model.head.weight.zero_()  # all alike: the smallest ids come first, of which <eos> is one
    found = ti.tree(ended, PROMPT, width=2, depth=2)
    assert {child["id"]: len(child["children"]) for child in found["children"]}.get(EOS, 0) == 0


def test_a_tree_goes_beyond_the_context(m):
    full = "".join(["The fox "] * 40)
    while len(m.tokenizer.encode(full)) > 32:
        full = full[1:]
    assert ti.tree(m, full, width=2, depth=4)["children"][0]["children"]


# surprisal


def test_a_text_costs_what_evaluation_says(m, machine, texts):
    for text in (texts[3], "The fox lost the key. " * 12, "caf\u00e9", "x"):
        ids = np.array([BOS, *m.tokenizer.encode(text)])
        found, scored = ti.surprisal(m, text), score(m.model, m.tokenizer, ids, machine)
        assert found["nats"] == pytest.approx(scored.nats, rel=1e-5) and found["bytes"] == len(text.encode())
        assert found["bits_per_byte"] == pytest.approx(scored.bpb, rel=1e-5)
        assert found["nats_per_token"] == pytest.approx(scored.loss, rel=1e-5)
        assert [t["id"] for t in found["tokens"]] == ids[1:].tolist()
        for t in found["tokens"]:
            assert t["bits"] == pytest.approx(t["nats"] / math.log(2)) and t["probability"] == pytest.approx(
                math.exp(-t["nats"])
            )
            assert (t["rank"] == 0) == (t["top"]["id"] == t["id"]) and t["top"]["probability"] >= t[
                "probability"
            ] - 1e-6


def test_ranks_count_the_likelier_tokens(m):
    found = ti.surprisal(m, "The fox")["tokens"]
    ids = m.tokenizer.encode("The fox")
    with torch.no_grad():
        logits = m.model(torch.tensor([[BOS, *ids]]))[0]
    for i, t in enumerate(found):
        assert t["rank"] == (logits[i] > logits[i, ids[i]]).sum().item()


def test_texts_that_are_empty_or_long(m, monkeypatch):
    refused(BAD_INPUT, "empty", ti.surprisal, m, "")
    monkeypatch.setattr(module, "MOST_SCORED", 50)
    found = ti.surprisal(m, "x" * 70)
    assert len(found["tokens"]) == found["scored"] == 50 and found.truncated == "The first 50 of 70 tokens."


# cache_meter


@pytest.mark.parametrize(("prompt", "count"), [("", 100), (PROMPT, 60), ("x" * 32, 5), ("x" * 30, 1)])
def test_positions_are_those_that_the_model_computes(m, prompt, count):
    """Counted where they come in, on both paths, also when the window slides."""
    found, n_prompt = ti.cache_meter(m, prompt, count), max(1, len(m.tokenizer.encode(prompt)))
    for name, cached in (("cached", True), ("uncached", False)):
        seen = []
        hook = m.model.embedding.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].shape[1]))
        decoder = Decoder(m.model, cached)
        try:
            for length in range(n_prompt, n_prompt + count):
                decoder.logits(torch.full((1, length), 5))
        finally:
            hook.remove()
        assert found[name].tolist() == seen and found[f"{name}_total"] == sum(seen)
        if cached:
            layers = KVCache(m.model).layers
            assert found["cache_bytes_full"] == sum(t.nbytes for layer in layers for t in (layer.k, layer.v))
            assert found["cache_bytes"][-1] * 32 == found["cache_bytes_full"] * decoder.cache.length


# memorised


def by_trying(text, training, shortest):
    """The longest runs by their definition, trying each; as (start, end) in characters, uncut."""
    runs = []
    for start in range(len(text)):
        end = start
        while end < len(text) and any(text[start : end + 1] in document for document in training):
            end += 1
        if len(text[start:end].encode()) >= shortest and not any(a <= start and end <= b for a, b in runs):
            runs.append((start, end))
    return runs


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**9), letters=st.sampled_from(["ab", "abc", "a\u00e9\u00e8", "\u6211\u4f60\U0001f389a"]))
def test_runs_are_those_that_trying_finds(m, seed, letters):
    draw = random.Random(seed)
    word = lambda most: "".join(draw.choices(letters, k=draw.randint(0, most)))  # noqa: E731
    training, text = [word(40) for _ in range(draw.randint(1, 6))], word(50)
    if draw.random() < 0.5:  # something that is there
        text = text[:10] + draw.choice(training) + word(3)
    held_out = [word(20) for _ in range(3)]
    shortest = draw.choice([4, 5, 7])
    found, expected = ti.memorised(of_texts(m, training, held_out), text, shortest), by_trying(text, training, shortest)
    owner = {}  # of each character: the longest run that holds it, of equal ones the first
    for run in sorted(expected, key=lambda run: (-len(text[run[0] : run[1]].encode()), run)):
        owner |= {i: run for i in range(*run) if i not in owner}
    placed = [[i for i in owner if owner[i] == run] for run in expected]
    assert [(s["start"], s["end"]) for s in found["spans"]] == [(min(of), max(of) + 1) for of in placed if of]
    shown = [text[a:b] for (a, b), of in zip(expected, placed, strict=True) if of]
    assert [s["text"] for s in found["spans"]] == shown
    for span in found["spans"]:
        assert span["bytes"] == len(span["text"].encode())
        assert span["document"] == next(i for i, document in enumerate(training) if span["text"] in document)
    covered = set(owner)
    n_bytes = len(text.encode())
    share = sum(len(text[i].encode()) for i in covered) / n_bytes if n_bytes else 0
    assert found["share"] == pytest.approx(share)
    assert found["longest"] == max((len(text[a:b].encode()) for a, b in expected), default=0)


def test_a_pasted_training_sentence_is_marked_whole(m, texts):
    """E8, page 11."""
    for i in (0, 57, 109):
        sentence = texts[i].split("\n")[0]
        document = next(j for j, text in enumerate(texts[:110]) if sentence in text)
        known = of_texts(m, texts[:110], texts[110:])
        found, n_bytes = ti.memorised(known, sentence), len(sentence.encode())
        whole = {"start": 0, "end": len(sentence), "bytes": n_bytes, "text": sentence, "document": document}
        assert found["share"] == 1.0 and found["longest"] == n_bytes and found["spans"] == [whole]
        amid = ti.memorised(known, f"Q9?#{sentence}#!")["spans"]
        assert amid == [whole | {"start": 4, "end": 4 + len(sentence)}]
    with_space = ti.memorised(known, f"Q9? {sentence} #!")[
        "spans"
    ]  # phrases that begin or end with the space are there
    assert whole | {"start": 4, "end": 4 + len(sentence)} in with_space


def test_runs_end_with_their_document(m):
    """Two documents one after the other are not a text that stood there."""
    known = of_texts(m, ["abcdefgh", "ijklmnop"], ["abcdefgh", "ijklmnop"])
    assert [s["text"] for s in ti.memorised(known, "abcdefghijklmnop", 6)["spans"]] == ["abcdefgh", "ijklmnop"]
    assert ti.memorised(known, "abcdefghijklmnop", 9)["spans"] == []
    assert ti.memorised(known, "abcdefghijklmnop", 9)["held_out"] == {"share": 0.0, "longest": 0, "bytes": 15}


def test_held_out_text_is_measured_at_equal_length(m):
    training = ["once upon a time there was a fox who had a kite"]
    known = of_texts(m, training, ["once upon a time we had no kite at all", "zzzz " * 30])
    found = ti.memorised(known, "x" * 30, 8)["held_out"]
    assert found == {"share": len("once upon a time ") / 30, "longest": len("once upon a time "), "bytes": 30}
    longer = ti.memorised(known, "x" * 100, 8)["held_out"]
    assert longer["bytes"] in (99, 100) and longer["share"] < found["share"]
    assert ti.memorised(of_texts(m, training), "x" * 30)["held_out"] is None
    whole = of_texts(m, training, ["\u00e9" * 20])
    assert ti.memorised(whole, "x" * 9)["held_out"]["bytes"] == 8  # no half character


def test_equal_numbers_of_different_runs_are_told_apart(m, monkeypatch):
    """The windows are compared byte by byte: if all had one number, the answer would be the same."""
    monkeypatch.setattr(module, "window_hashes", lambda data, n: np.zeros(max(0, len(data) - n + 1), np.uint64))
    training, text = ["abcabcabd", "xyzxyzab"], "zxyzabcabdabcab"
    found = ti.memorised(of_texts(m, training), text, 4)
    assert {s["text"] for s in found["spans"]} <= {text[a:b] for a, b in by_trying(text, training, 4)}
    assert found["share"] == np.mean(
        [any(a <= i < b for a, b in by_trying(text, training, 4)) for i in range(len(text))]
    )


def test_window_numbers_differ_where_the_windows_do():
    data = np.frombuffer(random.Random(0).randbytes(20_000), np.uint8) % 3
    for length in (1, 2, 3, 7, 20, 64):
        numbers = module.window_hashes(data, length)
        windows = [data[i : i + length].tobytes() for i in range(len(data) - length + 1)]
        assert len(numbers) == len(windows) and len(set(numbers.tolist())) == len(set(windows))
        assert len(set(zip(numbers.tolist(), windows, strict=True))) == len(set(windows))
    assert len(module.window_hashes(data[:5], 6)) == 0


def test_texts_that_cannot_be_looked_through(m):
    refused(USAGE, "shortest=3 must be", ti.memorised, m, "x", 3)
    refused(USAGE, "50,001 bytes", ti.memorised, m, "x" * 50_001)
    refused(BAD_INPUT, "half of a character", ti.memorised, m, "\ud800")
    empty = ti.memorised(m, "")
    assert (empty["spans"], empty["share"], empty["longest"]) == ([], 0.0, 0)


def test_the_longest_of_many_spans_are_told(m, monkeypatch):
    monkeypatch.setattr(module, "MOST_SPANS", 2)
    known = of_texts(m, ["abcde", "fghijk", "lmnop"])
    found = ti.memorised(known, "abcde fghijk lmnop", 4)
    assert [span["text"] for span in found["spans"]] == ["abcde", "fghijk"] and found.truncated.startswith(
        "The 2 longest"
    )
    assert found["share"] == 16 / 18  # of all


def test_only_so_much_of_the_training_text_is_known(m, monkeypatch):
    monkeypatch.setattr(module, "MOST_TOKENS", 8)
    found = ti.memorised(of_texts(m, ["abcdef", "uvwxyz"]), "abcdef uvwxyz", 5)
    assert [span["text"] for span in found["spans"]] == ["abcdef"] and "first 8 tokens" in found.truncated


# tales_quality


def test_tales_are_judged(m):
    refused(USAGE, "not trained on built-in tales", ti.tales_quality, m)
    of_tales = Model(dataclasses.replace(m.run, facts=m.run.facts | {"floor": 1.0}), m.model, 60)
    refused(USAGE, "count=0", ti.tales_quality, of_tales, 0)
    found = ti.tales_quality(of_tales, 3)
    assert found["n"] == len(found["tales"]) == 3 and found["grammatical"] == 0 and found["consistent"] == 0
    assert found["new"] == sum(tale["text"] not in ti.corpus_stats(m.run)["samples"] for tale in found["tales"]) / 3
    assert len(found["reasons"]) >= 3 and all(tale["reason"] for tale in found["tales"])


# what all of them return


@pytest.mark.parametrize(
    "call",
    [
        lambda m: ti.next_token(m, PROMPT, top_p=0.9, most=5), lambda m: ti.generate(m, PROMPT, seed=2, stop=["."]),
        lambda m: ti.generate(m, ""), lambda m: ti.tree(m, PROMPT, depth=2),
        lambda m: ti.surprisal(m, "caf\u00e9\n'\""),
        lambda m: ti.cache_meter(m, PROMPT), lambda m: ti.memorised(m, "The fox found a red kite", shortest=9),
    ],
)  # fmt: skip
def test_the_python_line_gives_the_same_bytes(m, call):
    result = call(m)
    assert result.model["sha256"] == m.sha256
    assert eval(result.python, {"ti": ti}).to_json() == result.to_json()


def test_arguments_are_read_by_their_annotations():
    given = {"prompt": "7", "stop": '["a"]', "seed": "3", "temperature": "0.5"}
    assert arguments_of(ti.generate, given) == {"prompt": "7", "stop": ["a"], "seed": 3, "temperature": 0.5}
    for name in ("next_token", "tree", "surprisal", "cache_meter", "memorised"):
        first = "prompt" if name in ("next_token", "tree", "cache_meter") else "text"
        assert arguments_of(getattr(ti, name), {first: "12"}) == {first: "12"}
