"""R24 determinism: the same run in every process, the same text by command and by library, with a cache or without.

Copies of one run folder are trained by the command, each in a process of its own with another hash seed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch

from benchmarks.reliability.common import Row, Scale, command, differences, outcome, small_run
from tinygpt import runs
from tinygpt.inference import Decoder, encode_prompt, generate
from tinygpt.model import TinyGPT
from tinygpt.storage import canonical
from tinygpt.tokenizer import Tokenizer

HASH_SEEDS = ("0", "1", "4242", "77", "123456789")
NEW_TOKENS = 48  # beyond the context of 32, so that the window slides
TEMPERATURE = 0.8
CLOSE = 1e-5  # largest difference of two logits


def row(scale: Scale) -> Row:
    """Trainings, texts and logits that must be equal."""
    found = Row("R24", "determinism")
    torch.set_num_threads(1)  # as in the processes of the command
    folder = trainings(found, scale)
    run, model, _, _ = runs.load(f"{folder}@last")  # the best may be step 0, where the blocks still say nothing
    prompts = prompts_of(runs.documents(run, "val"), scale.pick(5, 100))
    texts(found, model, run.tokenizer, folder, prompts[: scale.pick(5, 20)])
    cache(found, model, run.tokenizer, prompts)
    found.measured["HTTP, exports"] = "not run: not there yet"
    return found


def trainings(found: Row, scale: Scale) -> Path:
    """Train copies of one run, each in a new process; returns the folder of the first."""
    names = [f"process-{i}" for i in range(scale.pick(2, 5))]
    folder = scale.folder / "runs"
    first = small_run(folder / names[0], max_steps=scale.pick(30, 60))
    for name in names[1:]:
        shutil.copytree(first.folder, folder / name)
    if scale.full:
        names.append("another-seed")
        shutil.copytree(first.folder, folder / names[-1])
        config = folder / names[-1] / "config.json"
        stored = json.loads(config.read_bytes())
        stored["train"]["seed"] += 1
        config.write_bytes(canonical(stored))
    outcomes = {}
    for name, hash_seed in zip(names, HASH_SEEDS + HASH_SEEDS, strict=False):
        code, said = with_hash_seed(hash_seed, "train", "--resume", "--run", name, "--quiet", cwd=scale.folder)
        if found.check(code == 0, f"{name}: exit code {code}: {said[-300:]}"):
            outcomes[name] = outcome(folder / name)
    for name in names[1:]:
        if {names[0], name} <= outcomes.keys():
            differing = differences(outcomes[names[0]], outcomes[name])
            if name == "another-seed":  # or the equalities could come from a seed that decides nothing
                found.check({"model", "metrics"} <= set(differing.split(", ")), "another seed gives the same run")
            else:
                found.check(not differing, f"{name} differs from {names[0]} in {differing}")
    found.measured["processes with equal losses, samples, weights, optimizer"] = str(scale.pick(2, 5))
    return first.folder


def with_hash_seed(hash_seed: str, *words: object, cwd: Path) -> tuple[int, str]:
    """The command in a process that orders its sets by this seed."""
    with mock.patch.dict(os.environ, PYTHONHASHSEED=hash_seed):
        return command(*words, cwd=cwd)


def prompts_of(documents: Sequence[str], count: int) -> list[str]:
    """Beginnings of unseen documents, of 1 to 40 words; the first ones are odd."""
    odd = ["", "Zoë ate 12 ukuleles 🎉", "<bos>"]
    beginnings = [
        " ".join(documents[i % len(documents)].split()[i // len(documents) :][: 1 + i * 13 % 40]) for i in range(count)
    ]
    return (odd + beginnings)[:count]


def texts(found: Row, model: TinyGPT, tokenizer: Tokenizer, folder: Path, prompts: Sequence[str]) -> None:
    """`tinygpt generate` and `inference.generate` with one seed write one text; another seed writes another."""
    written, moved = set(), 0
    for seed, prompt in enumerate(prompts):
        settings = ["--seed", seed, "--temperature", TEMPERATURE, "--max-new-tokens", NEW_TOKENS, "--json"]
        words = ["generate", f"{folder.name}@last", *settings, "--", prompt]
        code, said = with_hash_seed(HASH_SEEDS[seed % len(HASH_SEEDS)], *words, cwd=folder.parents[1])
        if not found.check(code == 0, f"generate {prompt!r}: exit code {code}: {said[-300:]}"):
            continue
        by_command = prompt + json.loads(said[said.index("{\n") :])["samples"][0]["text"]  # notes stand before it
        by_library = [
            generate(model, tokenizer, prompt, NEW_TOKENS, temperature=TEMPERATURE, seed=s) for s in (seed, seed + 1)
        ]
        same = by_command == by_library[0]
        found.check(same, f"seed {seed}, {prompt!r}: the command writes {by_command!r}, Python {by_library[0]!r}")
        moved += by_library[0] != by_library[1]
        written.add(by_command)
    found.check(moved > 0, "the seed decides nothing: every text is the same with the next one")
    found.measured["texts equal by command and library"] = f"{len(prompts)}, {len(written)} of them different"


def cache(found: Row, model: TinyGPT, tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    """With and without a cache: one greedy text, and logits that agree at every token of it."""
    largest = largest_logit = 0.0
    for prompt in prompts:
        cached, plain = (
            generate(model, tokenizer, prompt, NEW_TOKENS, cached=on, engine="plain") for on in (True, False)
        )
        found.check(cached == plain, f"after {prompt!r} the cache writes {cached!r}, without it {plain!r}")
        ids = torch.tensor([[*encode_prompt(tokenizer, prompt)]])
        decoders, apart = (Decoder(model), Decoder(model, cached=False)), 0.0
        for _ in range(NEW_TOKENS):
            a, b = (decoder.logits(ids) for decoder in decoders)  # (1, V)
            apart = max(apart, float((a - b).abs().max()))
            largest_logit = max(largest_logit, float(b.abs().max()))
            ids = torch.cat((ids, b.argmax(-1, keepdim=True)), dim=1)
        found.check(apart <= CLOSE, f"after {prompt!r} logits differ by {apart:.1e} with the cache")
        largest = max(largest, apart)
    steps = len(prompts) * NEW_TOKENS
    found.measured["largest difference of logits by the cache"] = (
        f"{largest:.1e} (limit {CLOSE:.0e}) in {steps:,} tokens; the largest logit is {largest_logit:.1f}"
    )
