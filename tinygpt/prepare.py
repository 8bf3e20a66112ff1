"""From texts and a budget to a run folder that is ready to train: corpus, tokenizer, tokens, baselines, plan.

Each stage says in one sentence what it found and decided. Nothing is written before everything has worked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tinygpt import corpus as corpora
from tinygpt.config import DEFAULT_PRESET, Config, DataConfig, make_config
from tinygpt.corpus import Corpus, tales
from tinygpt.data import Windows
from tinygpt.distributed import Machine, choose_machine
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.evaluate import baselines
from tinygpt.model import TinyGPT
from tinygpt.plan import Budget, Speed, choose_shape, choose_steps, expected_seconds, fit_block_size, measure
from tinygpt.runs import Run, create
from tinygpt.tokenizer import train_tokenizer

Say = Callable[[str], None]
DEFAULT_CORPUS = Path("data/tiny_corpus.txt")
LEAST_TOKENS = 9  # block_size 8 and its targets


def default_corpus(say: Say) -> Path:
    """data/tiny_corpus.txt; written with built-in tales if it is not there."""
    if not DEFAULT_CORPUS.exists():
        tales.write(DEFAULT_CORPUS)
        say(f"Wrote {DEFAULT_CORPUS}: {DEFAULT_CORPUS.stat().st_size / 1e6:.1f} MB of made-up children's stories, "
            "the built-in corpus. Put your own text there, or name a file, to train on that.")  # fmt: skip
    return DEFAULT_CORPUS


def prepare(
    folder: Path,
    sources: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    given: Mapping[str, Any] | None = None,
    budget: Budget = Budget(),  # noqa: B008  (frozen)
    val: str | Path | None = None,
    command: str = "",
    say: Say = print,
) -> tuple[Run, Machine]:
    """Read the sources, decide everything and write the run folder. Returns the run and where it will compute.

    given: overrides by field name, as on the command line; they win over preset and planner. Raises UserError for
    text or settings that cannot be used; then no folder was written.
    """
    given = dict(given or {})
    wanted = make_config(preset, given)  # settings that cannot be are refused before any work
    machine = choose_machine(wanted.train)
    say(f"Device: {machine.why}")
    corpus = read_corpus(sources, wanted.data, val)
    for notice in corpus.notices:
        say(f"Note: {notice}")
    say(corpus_line(corpus))

    shape, reasons = choose_shape(preset, corpus.report["train"]["bytes"], given)
    config = make_config(preset, {**shape, **given})
    tokenizer = train_tokenizer(corpus.train, config.model.vocab_size)
    train_ids, val_ids = tokenizer.encode_documents(corpus.train), tokenizer.encode_documents(corpus.val)
    say(f"Tokenizer: {tokenizer.vocab_size:,} pieces learnt from the text, {len(train_ids):,} tokens, "
        f"{corpus.report['train']['bytes'] / len(train_ids):.1f} bytes each.")  # fmt: skip
    if len(train_ids) < LEAST_TOKENS:
        raise UserError(
            f"the text is too short: {corpora.counted(corpus.report['bytes'], 'byte')}, {len(train_ids)} training "
            f"tokens, and the smallest context (block_size=8) needs {LEAST_TOKENS} tokens; "
            "use at least about 30 bytes, better 100,000.",
            BAD_INPUT,
        )
    block_size, shrunk = fit_block_size(config, len(train_ids), given)
    settled = {**shape, **given, "vocab_size": tokenizer.vocab_size, "block_size": block_size}
    config = make_config(preset, settled)
    windows = Windows(train_ids, block_size, config.train.seed)

    say("Scoring simpler models to compare with, and measuring the speed of this machine ...")
    compared, floor = compare_with(corpus, train_ids, val_ids, tokenizer)
    speed = measure(config, windows, machine)
    steps, why_steps = choose_steps(config, budget, speed, windows, len(val_ids), given)
    config = make_config(preset, {**settled, **steps})
    expected_s = expected_seconds(config, speed, len(val_ids))
    with torch.device("meta"):  # shapes without memory
        parameters = TinyGPT(config.model).parameter_count()
    say(plan_line(config, windows, parameters, expected_s, speed))
    reasons += shrunk + why_steps
    for reason in reasons:
        say(f"  {reason}")
    facts = {
        "command": command, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine.why,
        "reasons": reasons, "baselines": compared, "floor": floor, "expected_s": expected_s,
        "parameters": parameters,
    }  # fmt: skip
    return create(folder, config, tokenizer, corpus.report, facts, train_ids, val_ids), machine


def read_corpus(sources: Sequence[str | Path], data: DataConfig, val: str | Path | None = None) -> Corpus:
    """The corpus as the settings ask for it."""
    return corpora.load(
        sources, val=val, val_fraction=data.val_fraction, val_max_bytes=data.val_max_bytes, seed=data.split_seed,
        newlines=data.newlines, encoding=None if data.encoding == "auto" else data.encoding,
    )  # fmt: skip


def compare_with(corpus: Corpus, train_ids: Any, val_ids: Any, tokenizer: Any) -> tuple[dict[str, float], float | None]:
    """Baselines and, for built-in tales, the entropy floor of the validation text [bits/byte]; {}, None without one."""
    if len(val_ids) < 2:
        return {}, None
    joined = ("\n".join(corpus.train), "\n".join(corpus.val))
    return baselines(train_ids, val_ids, tokenizer, *joined), tales.floor_bits_per_byte(corpus.val)


def corpus_line(corpus: Corpus) -> str:
    """What was read, and what is kept for validation."""
    r = corpus.report
    kept = (
        f"{r['val']['bytes'] / 1e3:,.0f} kB kept for validation ({r['split']})"
        if corpus.val
        else "none kept for validation"
    )
    return f"Text: {r['bytes'] / 1e6:.2f} MB in {r['documents']:,} document{'s' * (r['documents'] != 1)}; {kept}."


def plan_line(config: Config, windows: Windows, parameters: int, expected_s: float, speed: Speed) -> str:
    """The plan in one paragraph: shape, work, time."""
    m, t = config.model, config.train
    passes = t.max_steps * t.batch_size / windows.count
    return (
        f"Plan: preset {config.preset}, {parameters:,} parameters (n_layers={m.n_layers} "
        f"n_embd={m.n_embd} n_heads={m.n_heads} block_size={m.block_size}); {t.max_steps:,} steps of "
        f"{t.batch_size} x {m.block_size} tokens = {passes:.1f} passes; {speed.tokens_per_s / 1e3:,.1f}k tokens/s "
        f"on {speed.threads} thread{'s' * (speed.threads != 1)}: about {expected_s / 60:.1f} min."
    )
