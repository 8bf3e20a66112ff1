"""Is it true what the pages say one learns? Each claim on a run that is trained here.

docs/studio.md lists the claims and their tests.
"""

import io
import itertools
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import tinygpt.inspect as ti
from tinygpt import runs
from tinygpt.checkpoint import steps_kept
from tinygpt.config import make_config
from tinygpt.corpus import tales
from tinygpt.display import make_display
from tinygpt.distributed import choose_machine
from tinygpt.inspect.trace import record_edited, windows
from tinygpt.records import METRICS, read
from tinygpt.runs import Run, create
from tinygpt.studio.answers import card_of
from tinygpt.tokenizer import train_tokenizer
from tinygpt.train import set_up, train

SHAPE = {"n_layers": 2, "n_embd": 64, "n_heads": 2, "block_size": 64, "batch_size": 16, "dropout": 0.0, "tied": False}
SCHEDULE = {"threads": 1, "device": "cpu", "precision": "fp32", "sample_every": 10_000, "start": "random"}
PROMPT = "Once upon a time, there was"


def trained(folder: Path, n_bytes: int, vocab_size: int, steps: int, leak: bool = False, **settings) -> Run:
    """A run on `n_bytes` of tales, with other tales held out; the first and last weights and some between are kept.

    leak: one of the held-out tales is put into the training text as well.
    """
    texts = [tale.text for tale in tales.corpus(n_bytes, seed=1)]
    held_out = [tale.text for tale in tales.corpus(20_000, seed=2)]
    tokenizer = train_tokenizer(texts, vocab_size)
    given = {**SHAPE, **SCHEDULE, "max_steps": steps, "save_every": steps, "warmup_steps": 10, **settings}
    config = make_config("modern", given | {"vocab_size": tokenizer.vocab_size})
    facts = {"baselines": {}, "floor": 1.0, "parameters": 0}
    ids = [tokenizer.encode_documents(documents) for documents in (texts + held_out[:1] * leak, held_out)]
    run = create(folder, config, tokenizer, {"train": {}, "val": {}}, facts, *ids)
    assert train(set_up(run, choose_machine(config.train), make_display(io.StringIO(), quiet=True))) == 0
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of its own head, from random weights."""
    return trained(tmp_path_factory.mktemp("claims") / "run", 400_000, 800, 250, eval_every=250)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """The same with a head that shares the embedding."""
    return trained(tmp_path_factory.mktemp("claims") / "tied", 400_000, 800, 150, eval_every=150, tied=True)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """The same with first weights that are counted from pairs, as by default."""
    return trained(tmp_path_factory.mktemp("claims") / "counted", 400_000, 800, 150, eval_every=150, start="auto")


@pytest.fixture(scope="module")
def m(run):
    return ti.load(f"{run.folder}@last")


# --- page 1, Home ----------------------------------------------------------------------------------------------------


def test_boxes_are_the_model_and_the_embeddings_share_grows_with_the_vocabulary(m, tied):
    for model in (m, ti.load(f"{tied.folder}@last")):
        shown = ti.architecture(model)
        boxes = {box["name"]: box for box in shown["boxes"]}
        assert sum(box["parameters"] for box in shown["boxes"]) == shown["parameters"] == model.model.parameter_count()
        assert (boxes["logits"]["parameters"] == 0) == model.config.tied
        assert boxes["embedding"]["flops"] == 0 < boxes["logits"]["flops"]  # looking up a row is no work
        slider = [ti.architecture(model, vocab_size=V) for V in (259, 512, 1024, 4096, 16384, 65536)]
        shares = [one["embedding_share"] for one in slider]
        assert all(a < b for a, b in itertools.pairwise(shares))
        heads = [next(box["flops"] for box in one["boxes"] if box["name"] == "logits") for one in slider]
        assert all(a < b for a, b in itertools.pairwise(heads))


# --- page 2, Data ----------------------------------------------------------------------------------------------------


def test_a_held_out_document_in_the_training_text_is_one_leak_more(run, tmp_path):
    leaking = trained(tmp_path / "leaking", 400_000, 800, 1, leak=True, eval_every=1)
    assert ti.corpus_stats(leaking)["leaks"] == ti.corpus_stats(run)["leaks"] + 1


def test_few_words_make_up_much_of_the_text_and_rare_ones_cost_more(run, m):
    stats = ti.corpus_stats(run)
    top = sum(word["count"] for word in stats["top_words"])
    assert len(stats["top_words"]) < 0.05 * stats["distinct_words"] and top > 0.25 * stats["words"]
    often = np.bincount(np.asarray(run.train_ids), minlength=m.config.vocab_size)
    tokens = [token for text in runs.documents(run, "val")[:12] for token in ti.surprisal(m, text)["tokens"]]
    cost = {rare: np.mean([t["nats"] for t in tokens if (often[t["id"]] < 300) == rare]) for rare in (True, False)}
    assert cost[True] > 1.2 * cost[False]


# --- page 3, Tokenizer -----------------------------------------------------------------------------------------------


def test_tokens_are_frequent_byte_runs_and_the_rest_falls_apart(run):
    text, tokenizer = "The dragon Quixzabel counted 4711 kites.", run.tokenizer
    first, last = ti.replay(run, text, 0), ti.replay(run, text, len(tokenizer.merges))
    assert [bytes.fromhex(p["bytes"]) for p in first["pieces"]] == [bytes([byte]) for byte in text.encode()]
    assert [p["id"] for p in last["pieces"]] == tokenizer.encode(text)
    for upto in range(0, len(tokenizer.merges) + 1, 60):
        pieces = ti.replay(run, text, upto)["pieces"]
        assert b"".join(bytes.fromhex(p["bytes"]) for p in pieces) == text.encode()
    assert len(tokenizer.encode(" the")) == 1
    assert len(tokenizer.encode(" Quixzabel")) >= 4 and len(tokenizer.encode("4711")) >= 3


def test_the_first_merge_is_the_most_frequent_pair_inside_words(run):
    pairs: Counter[tuple[int, int]] = Counter()
    for text in runs.documents(run, "train"):
        for word in text.split(" "):
            data = b" " + word.encode()
            pairs.update(itertools.pairwise(data))
    (best, times), (_, second) = pairs.most_common(2)
    assert times > second and run.tokenizer.merges[0] == (bytes(best[:1]), bytes(best[1:]))


def test_a_larger_vocabulary_gains_less_and_less(run):
    rows = ti.vocab_sweep(run, [259, 512, 1024, 2048, 4096])["rows"]
    gains = [b["bytes_per_token"] / a["bytes_per_token"] for a, b in itertools.pairwise(rows)]
    assert all(gain >= 1 for gain in gains) and all(a > b for a, b in itertools.pairwise(gains))
    assert gains[1] < 2  # twice the tokens, and by far not half the length


def test_loss_per_token_misleads_where_bits_per_byte_compare(run, tmp_path):
    """The smaller vocabulary is the better one by loss per token, and the worse one for the same text."""
    small = trained(tmp_path / "small", 400_000, 300, 250, eval_every=250)
    text = runs.documents(run, "val")[0][:150]
    few, many = (ti.surprisal(ti.load(f"{one.folder}@last"), text) for one in (small, run))
    assert few["nats_per_token"] < many["nats_per_token"] and few["bits_per_byte"] > many["bits_per_byte"]


# --- page 4, Embeddings ----------------------------------------------------------------------------------------------


def cases(run: Run) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Ids of words with their form with a capital, and as many random pairs as give a good mean."""
    points = ti.projection(ti.load(f"{run.folder}@last"), most=500)["points"]
    words = {p["shown"]: p["id"] for p in points if p["count"] >= 50 and p["shown"].strip("·").isalpha()}
    pairs = [(id, words[shown.title()]) for shown, id in words.items() if shown.islower() and shown.title() in words]
    pairs = [pair for pair in pairs if len(run.tokenizer.token_bytes(pair[0]).strip()) > 1]
    assert len(pairs) >= 10 and (words["·the"], words["·The"]) in pairs
    draw = np.random.default_rng(0)
    return pairs, [tuple(draw.choice(list(words.values()), 2, replace=False).tolist()) for _ in range(500)]


def cosines(m, of):
    near = {a: {n["id"]: n["value"] for n in ti.neighbours(m, a, k=1000)["neighbours"]} for a, _ in of}
    return np.array([near[a][b] for a, b in of])


def test_upper_and_lower_case_move_together(run):
    """ "use makes neighbours": pairs like "the" and "The" come nearer to each other than random pairs do."""
    first, last = ti.load(f"{run.folder}@0"), ti.load(f"{run.folder}@last")
    pairs, chance = cases(run)
    together, apart = (cosines(last, of) - cosines(first, of) for of in (pairs, chance))
    # by twice the error of both means, so that it is no accident of these pairs
    error = together.std() / len(together) ** 0.5 + apart.std() / len(apart) ** 0.5
    assert together.mean() > 0.1 and together.mean() - apart.mean() > 2 * error
    assert abs(cosines(first, pairs).mean()) < 0.1  # nothing of it is there before training


def test_counted_first_weights_begin_with_neighbours_that_training_tells_apart(counted):
    """Near at step 0 are tokens with alike followers; later, tokens used alike are nearer than others by more."""
    first, last = ti.load(f"{counted.folder}@0"), ti.load(f"{counted.folder}@last")
    pairs, chance = cases(counted)
    more = [cosines(m, pairs).mean() - cosines(m, chance).mean() for m in (first, last)]
    assert more[1] > 2 * max(more[0], 0.02)
    ids, V = np.asarray(counted.train_ids).astype(np.int64), counted.tokenizer.vocab_size
    table = np.bincount(ids[:-1] * V + ids[1:], minlength=V * V).reshape(V, V)
    alike = table / np.maximum(table.sum(1, keepdims=True), 1)

    def overlap(a, b):  # of what follows them: 1 if the same tokens as often
        return np.minimum(alike[a], alike[b]).sum()

    often = [t for t in np.argsort(-table.sum(1))[:200].tolist() if t > 2]
    near = [n["id"] for t in often for n in ti.neighbours(first, t, k=3)["neighbours"]]
    draw = np.random.default_rng(0)
    by_chance = draw.choice(often, len(near)).tolist()
    own = [t for t in often for _ in range(3)]
    assert np.mean([*map(overlap, own, near)]) > 2 * np.mean([*map(overlap, own, by_chance)])


def test_a_token_that_is_never_used_stays_only_where_the_head_has_its_own_table(run, tied):
    for of in (run, tied):
        shown = ti.norms(ti.load(f"{of.folder}@last"), most=of.tokenizer.vocab_size)
        count = np.array([point["count"] for point in shown["points"]])
        unused, rare = (shown["start"][which] for which in (count == 0, (count > 0) & (count < 100)))
        assert len(unused) > 50 and len(rare) >= 5
        if of is run:
            assert unused.min() > 0.999 and rare.mean() < 0.99
        else:
            assert unused.mean() < 0.9 and rare.mean() < 0.9


# --- page 5, Forward pass --------------------------------------------------------------------------------------------


def test_the_stream_is_the_sum_of_what_is_added(m):
    added = [f"block.{i}.{what}" for i in range(m.config.n_layers) for what in ("attention", "feed_forward")]
    shown = ti.forward(m, PROMPT, names=["embedding", f"block.{m.config.n_layers - 1}", *added])
    total = sum(shown[name].astype(np.float64) for name in ("embedding", *added))
    stream = shown[f"block.{m.config.n_layers - 1}"]
    assert np.abs(total - stream).max() <= 1e-5 * np.abs(stream).max()


def test_tokens_meet_in_attention_alone(m):
    silent = [{"part": "head", "op": "zero"}]
    ids = torch.tensor([m.tokenizer.encode(PROMPT)])
    other = ids.clone()
    other[0, 0] = 300
    logits = [record_edited(m, x, [], edits)["logits"][0, -1] for edits in (silent, []) for x in (ids, other)]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[2], logits[3])


# --- page 6, Attention -----------------------------------------------------------------------------------------------


def test_the_mask_hides_what_comes_later_and_the_model_needs_it(m):
    off = [{"part": "scores", "op": "mask_off"}]
    ids = torch.tensor([m.tokenizer.encode(PROMPT)])
    T = ids.shape[1]
    other = ids.clone()
    other[0, T - 1] = 300
    for edits, hidden in (([], True), (off, False)):
        a, b = (record_edited(m, x, [], edits)["logits"][0, : T - 1] for x in (ids, other))
        assert torch.equal(a, b) == hidden
    shown = ti.intervene(m, PROMPT, off, held_out=True)
    assert shown["loss_after"] > shown["loss_before"] + 0.01


def test_one_head_is_seldom_missed_and_all_are(m):
    def loss(**place):
        return ti.intervene(m, PROMPT, [{"part": "head", "op": "zero", **place}], held_out=True)

    heads = itertools.product(range(m.config.n_layers), range(m.config.n_heads))
    costs = [loss(layer=i, index=j) for i, j in heads]
    single = [cost["loss_after"] - cost["loss_before"] for cost in costs]
    everything = loss()["loss_after"] - costs[0]["loss_before"]
    assert everything > 2 * max(single) and np.median(single) < 0.25 * everything
    assert max(single) > 2 * min(single)  # which one it is makes the difference


def test_most_heads_are_mixed_and_some_begin_to_look_at_the_token_before(m):
    labels = ti.head_labels(m)["labels"]
    assert {one["label"] for one in labels} <= {"mixed", "previous"}
    previous = [one["scores"]["previous"] for one in labels]
    start = [one["scores"]["previous"] for one in ti.head_labels(ti.load(f"{m.run.folder}@0"))["labels"]]
    assert max(previous) > 3 * max(start)


# --- page 7, Lens ----------------------------------------------------------------------------------------------------


def test_the_lens_ends_with_the_output_and_the_answer_rises(m):
    shown = ti.lens(m, PROMPT)
    after = ti.next_token(m, PROMPT, most=1)["rows"][0]
    assert shown["top"][-1][-1]["id"] == after["id"]
    assert shown["probability"][-1, -1] == pytest.approx(after["probability"], rel=1e-5)

    ranks, leaning = [], []
    for row in windows(m, 8)[:, :48]:
        one = ti.lens(m, m.tokenizer.decode(row.tolist()))
        top = np.array([[token["id"] for token in places] for places in one["top"]])
        leaning.append((top == top[-1]).mean(1))
        for position in range(0, top.shape[1], 8):
            text = m.tokenizer.decode([token["id"] for token in one["tokens"][: position + 1]])
            ranks.append(ti.lens(m, text, target=int(top[-1, position]))["rank"][:, -1])
    mean = np.log1p(np.array(ranks)).mean(0)
    assert (np.diff(mean) < 0).all()  # on the whole, if not for every token
    assert 0.3 < np.mean(leaning, axis=0)[-2] < 1  # often the same token is first before the last block


def test_shares_sum_to_the_logit_and_patching_everything_is_the_other_prompt(m):
    shown = ti.attribution(m, PROMPT)
    assert shown["sum"] == pytest.approx(shown["logit"], abs=1e-4)
    assert float(shown["share"].sum()) == pytest.approx(shown["logit"], abs=1e-4)
    other = m.tokenizer.decode(m.tokenizer.encode(runs.documents(m.run, "val")[3])[: len(m.tokenizer.encode(PROMPT))])
    every = [{"part": "resid", "op": "patch_from", "layer": None, "prompt": other}]
    assert ti.intervene(m, PROMPT, every)["after"] == ti.intervene(m, other, [])["before"]


# --- page 8, Generate ------------------------------------------------------------------------------------------------


def test_bars_sum_to_one_and_heat_makes_them_alike_in_the_same_order(m):
    V = m.config.vocab_size
    drawn = {}
    for temperature in (0.0, 0.5, 1.0, 1.5):
        shown = ti.next_token(m, PROMPT, temperature=temperature, most=V)
        drawn[temperature] = np.array([row["drawn"] for row in sorted(shown["rows"], key=lambda row: row["id"])])
        assert drawn[temperature].sum() + shown["others"]["after"] == pytest.approx(1, abs=1e-5)
    assert drawn[0.0].argmax() == drawn[1.0].argmax() and drawn[0.0].max() == 1
    order = np.argsort(-drawn[1.0], kind="stable")[:50]
    for temperature in (0.5, 1.5):
        assert (np.diff(drawn[temperature][order]) <= 1e-7).all()
    assert drawn[1.5].max() < drawn[1.0].max() < drawn[0.5].max()
    assert drawn[1.5][order[-1]] > drawn[1.0][order[-1]]


def test_the_cache_saves_work_and_changes_no_text(m):
    meter = ti.cache_meter(m, PROMPT, 20)
    assert meter["cached_total"] < meter["uncached_total"] / 3
    texts = [ti.generate(m, PROMPT, 20, seed=3)["text"] for _ in range(2)]
    assert texts[0] == texts[1] != ti.generate(m, PROMPT, 20, seed=4)["text"]


# --- page 9, Training: see also test_training_page.py ----------------------------------------------------------------


def test_counted_first_weights_begin_with_pairs(counted, run):
    """The page and the tour say so of a run like this one."""
    assert (card_of(counted.folder)["start"], card_of(run.folder)["start"]) == ("pairs", "random")
    found = ti.over_time(counted, "tables")
    assert found["steps"][0] == 0 and found["values"][0]["bigram"] < 0.5 * found["values"][0]["unigram"]
    assert min(v["bigram"] for v in found["values"][:3]) < found["values"][-1]["bigram"]
    m = ti.load(f"{counted.folder}@0")  # it sees nothing before the last token
    a, b = (ti.next_token(m, text, most=5)["rows"] for text in ("The fox saw the", "Tom ate the"))
    assert [row["id"] for row in a] == [row["id"] for row in b]
    assert a[0]["probability"] == pytest.approx(b[0]["probability"], rel=1e-4)
    random = ti.next_token(ti.load(f"{run.folder}@0"), PROMPT, most=1)["rows"][0]["probability"]
    assert random < 5 / math.sqrt(800)  # and random ones know nothing


# --- page 10, Compare ------------------------------------------------------------------------------------------------


def test_a_run_against_its_own_copy_shows_no_difference(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    shown = ti.compare([str(run.folder), str(copy)])
    one, other = shown["curves"]
    assert shown["settings"] == {} and shown["same_validation_text"]
    assert (one["train"], one["val"]) == (other["train"], other["val"]) and one["train"]["loss"]
    assert len({repr({**row, "run": ""}) for row in shown["runs"]}) == 1
    here, there = (ti.load(f"{folder}@best") for folder in (run.folder, copy))
    for function, given in (("next_token", {"most": 6}), ("generate", {"max_new_tokens": 40, "temperature": 0})):
        assert dict(getattr(ti, function)(here, PROMPT, **given)) == dict(getattr(ti, function)(there, PROMPT, **given))


def test_one_changed_setting_is_named(run, tied):
    shown = ti.compare([str(run.folder), str(tied.folder)])
    assert shown["settings"]["tied"] == [False, True] and shown["same_validation_text"]
    assert set(shown["settings"]) == {"tied", "max_steps", "eval_every", "save_every"}


# --- page 11, Memorisation -------------------------------------------------------------------------------------------


def test_a_pasted_sentence_of_the_training_text_is_marked_whole(m):
    sentence = runs.documents(m.run, "train")[5].split(". ")[0] + "."
    shown = ti.memorised(m, sentence)
    assert shown["share"] == 1.0 and shown["longest"] == len(sentence.encode()) and len(shown["spans"]) == 1
    assert shown["held_out"]["longest"] < shown["longest"]


def test_a_small_text_is_recited(tmp_path):
    """On 20 KB the longest copy grows over the training while the held-out loss rises; its best step hardly recites."""
    run = trained(tmp_path / "run", 20_000, 400, 1100, eval_every=50)
    passes = 1100 * 16 * 64 / len(run.train_ids)
    assert passes > 100
    evals = [(r["step"], r["val_bpb"]) for r in read(run.folder / METRICS) if r["kind"] == "eval"]
    lowest = min(evals, key=lambda found: found[1])
    assert 0 < lowest[0] < 300 and evals[-1][1] > lowest[1] + 0.2

    steps = steps_kept(run.folder)
    first, middle, last = steps[0], lowest[0], steps[-1]
    assert first == 0 and lowest[0] in steps and last == 1100
    longest, held_out = {}, {}
    for step in (first, middle, last):
        m = ti.load(f"{run.folder}@{step}")
        found = [ti.memorised(m, ti.generate(m, "", 150, seed=seed)["text"]) for seed in range(4)]
        longest[step] = np.mean([f["longest"] for f in found])
        held_out[step] = np.mean([f["held_out"]["longest"] for f in found])
    assert longest[first] <= longest[middle] < longest[last]
    assert longest[first] < held_out[first] and longest[last] > 2 * held_out[last]  # beside what nobody copied
    assert longest[middle] < 40 < longest[last]
