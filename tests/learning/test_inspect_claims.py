"""Is it true what the pages say one learns? Each claim on a run that is trained here."""

import io
from pathlib import Path

import numpy as np

import tinygpt.inspect as ti
from tinygpt.checkpoint import steps_kept
from tinygpt.config import make_config
from tinygpt.corpus import tales
from tinygpt.display import make_display
from tinygpt.distributed import choose_machine
from tinygpt.records import METRICS, read
from tinygpt.runs import Run, create
from tinygpt.tokenizer import train_tokenizer
from tinygpt.train import set_up, train

SHAPE = {"n_layers": 2, "n_embd": 64, "n_heads": 2, "block_size": 64, "batch_size": 16, "dropout": 0.0, "tied": False}
SCHEDULE = {"threads": 1, "device": "cpu", "precision": "fp32", "sample_every": 10_000, "start": "random"}


def trained(folder: Path, n_bytes: int, vocab_size: int, steps: int, **settings) -> Run:
    """A run on `n_bytes` of tales, with other tales held out; the first and last weights and some between are kept."""
    texts = [tale.text for tale in tales.corpus(n_bytes, seed=1)]
    held_out = [tale.text for tale in tales.corpus(20_000, seed=2)]
    tokenizer = train_tokenizer(texts, vocab_size)
    given = {**SHAPE, **SCHEDULE, "max_steps": steps, "save_every": steps, "warmup_steps": 10, **settings}
    config = make_config("modern", given | {"vocab_size": tokenizer.vocab_size})
    facts = {"baselines": {}, "floor": 1.0, "parameters": 0}
    ids = [tokenizer.encode_documents(documents) for documents in (texts, held_out)]
    run = create(folder, config, tokenizer, {"train": {}, "val": {}}, facts, *ids)
    assert train(set_up(run, choose_machine(config.train), make_display(io.StringIO(), quiet=True))) == 0
    return run


def test_upper_and_lower_case_move_together(tmp_path):
    """Page 4, "use makes neighbours": pairs like "the" and "The" come nearer to each other than random pairs do."""
    run = trained(tmp_path / "run", 400_000, 800, 250, eval_every=250)
    first, last = ti.load(f"{run.folder}@0"), ti.load(f"{run.folder}@last")
    points = ti.projection(last, most=500)["points"]
    words = {p["shown"]: p["id"] for p in points if p["count"] >= 50 and p["shown"].strip("·").isalpha()}
    pairs = [(id, words[shown.title()]) for shown, id in words.items() if shown.islower() and shown.title() in words]
    pairs = [pair for pair in pairs if len(run.tokenizer.token_bytes(pair[0]).strip()) > 1]
    assert len(pairs) >= 10 and (words["·the"], words["·The"]) in pairs
    draw = np.random.default_rng(0)
    chance = [tuple(draw.choice(list(words.values()), 2, replace=False).tolist()) for _ in range(500)]

    def cosines(m, of):
        near = {a: {n["id"]: n["value"] for n in ti.neighbours(m, a, k=1000)["neighbours"]} for a, _ in of}
        return np.array([near[a][b] for a, b in of])

    together, apart = (cosines(last, of) - cosines(first, of) for of in (pairs, chance))
    # by twice the error of both means, so that it is no accident of these pairs
    error = together.std() / len(together) ** 0.5 + apart.std() / len(apart) ** 0.5
    assert together.mean() > 0.1 and together.mean() - apart.mean() > 2 * error
    assert abs(cosines(first, pairs).mean()) < 0.1  # nothing of it is there before training


def test_a_small_text_is_recited(tmp_path):
    """Page 11: on 20 KB the longest copy grows over the training while the held-out loss rises."""
    run = trained(tmp_path / "run", 20_000, 400, 400, eval_every=50)
    evals = [(r["step"], r["val_bpb"]) for r in read(run.folder / METRICS) if r["kind"] == "eval"]
    lowest = min(evals, key=lambda found: found[1])
    assert 0 < lowest[0] < 300 and evals[-1][1] > lowest[1] + 0.2

    steps = steps_kept(run.folder)
    first, middle, last = steps[0], steps[-2], steps[-1]
    assert first == 0 and lowest[0] < middle < last == 400
    longest, held_out = {}, {}
    for step in (first, middle, last):
        m = ti.load(f"{run.folder}@{step}")
        found = [ti.memorised(m, ti.generate(m, "", 150, seed=seed)["text"]) for seed in range(4)]
        longest[step] = np.mean([f["longest"] for f in found])
        held_out[step] = np.mean([f["held_out"]["longest"] for f in found])
    assert longest[first] < longest[middle] < longest[last]
    assert longest[first] < held_out[first] and longest[last] > 2 * held_out[last]  # beside what nobody copied
