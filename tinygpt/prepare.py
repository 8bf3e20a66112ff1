"""From texts and a budget to a run folder that is ready to train: corpus, tokenizer, tokens, baselines, plan.

Each stage says in one sentence what it found and decided. Nothing is written before everything has worked.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt import corpus as corpora
from tinygpt.config import DEFAULT_PRESET, OWNER, Config, DataConfig, make_config, to_dict
from tinygpt.corpus import Corpus, tales
from tinygpt.corpus.documents import Documents
from tinygpt.data import SAMPLE_TOKENS, Ids, Windows, encode
from tinygpt.distributed import ALONE, Machine, Ranks, choose_machine
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.evaluate import XZ_HISTORY_BYTES, baselines
from tinygpt.inherit import Inherited, inherit
from tinygpt.plan import (
    CALIBRATION_S,
    CALIBRATION_SHARE,
    GPU_MINUTES,
    Budget,
    Speed,
    affordable_tokens,
    choose_rates,
    choose_shape,
    choose_size,
    choose_steps,
    compiled_speed,
    expected_bits_per_byte,
    expected_memory_bytes,
    expected_seconds,
    fit_block_size,
    measure,
    parameter_count,
)
from tinygpt.runs import Run, create
from tinygpt.tokenizer import Tokenizer, train_tokenizer

Say = Callable[[str], None]
DEFAULT_CORPUS = Path("data/tiny_corpus.txt")
TOKENIZER_BYTES = 50_000_000  # of text that the tokenizer is learnt from: more changes hardly a piece
LEAST_TOKENS = 9  # block_size 8 and its targets


def default_corpus(say: Say) -> Path:
    """data/tiny_corpus.txt; written with built-in tales if it is not there."""
    if not DEFAULT_CORPUS.exists():
        tales.write(DEFAULT_CORPUS)
        say(f"Wrote {DEFAULT_CORPUS}: {DEFAULT_CORPUS.stat().st_size / 1e6:.1f} MB of made-up children's stories, "
            "the built-in corpus. Put your own text there, or name a file, to train on that.")  # fmt: skip
    return DEFAULT_CORPUS


@dataclass(frozen=True)
class Prepared:
    """Everything decided about a run, nothing written yet."""

    config: Config
    machine: Machine
    tokenizer: Tokenizer
    corpus: Corpus
    facts: dict[str, Any]  # beside the settings in config.json: reasons, baselines, floor, expectations, ...
    train_ids: Ids
    val_ids: Ids
    origin: Inherited | None = None

    def to_dict(self) -> dict[str, Any]:
        """Settings and facts as they would stand in config.json."""
        return {**self.facts, **to_dict(self.config)}


def prepare(folder: Path, sources: Sequence[str | Path], **options: Any) -> tuple[Run, Machine]:
    """Decide everything (`decide`, with its options) and write the run folder: the run and where it will compute."""
    p = decide(sources, **options)
    weights = p.origin.weights if p.origin else None
    run = create(folder, p.config, p.tokenizer, p.corpus.report, p.facts, p.train_ids, p.val_ids, weights)
    return run, p.machine


def decide(
    sources: Sequence[str | Path],
    *,
    preset: str = DEFAULT_PRESET,
    given: Mapping[str, Any] | None = None,
    budget: Budget = Budget(),  # noqa: B008  (frozen)
    val: str | Path | None = None,
    command: str = "",
    say: Say = print,
    ranks: Ranks = ALONE,
    origin: str | None = None,
) -> Prepared:
    """Read the sources, measure this machine and plan the run.

    given: overrides by field name, as on the command line; they win over preset and planner. origin: SOURCE of another
    model, whose shape, tokenizer and weights are kept. Raises UserError for text or settings that cannot be used.
    """
    given = dict(given or {})
    inherited = None
    if origin is not None:
        refuse_shape(given, origin)
        inherited = inherit(origin)
        preset, given = inherited.preset, {**kept_fields(inherited), **given}
        say(f"From: {parameter_count(inherited.model):,} parameters of {inherited.name}; shape and tokenizer stay.")
        for notice in inherited.notices:
            say(f"Note: {notice}")
    wanted = make_config(preset, given)  # settings that cannot be are refused before any work
    machine = choose_machine(wanted.train, ranks)
    say(f"Device: {machine.why}")
    corpus = read_corpus(sources, wanted.data, val)
    for notice in corpus.notices:
        say(f"Note: {notice}")
    say(corpus_line(corpus))

    began = time.perf_counter()
    text_bytes = corpus.report["train"]["bytes"]
    cpu_minutes = (budget.minutes or 0.0) * (GPU_MINUTES if machine.device.type == "cuda" else 1.0)
    shape, reasons = choose_shape(preset, text_bytes, cpu_minutes, given)
    config = make_config(preset, {**shape, **given})
    every = math.ceil(text_bytes / TOKENIZER_BYTES)
    kept = inherited and inherited.tokenizer
    tokenizer = kept or train_tokenizer(corpus.train[::every], config.model.vocab_size)
    train_ids, val_ids = encode(corpus.train, tokenizer), encode(corpus.val, tokenizer)
    learnt = "learnt from the text" if every == 1 else f"learnt from one document in {every} of the text"
    if kept:
        learnt = f"as in {origin}"
    say(f"Tokenizer: {tokenizer.vocab_size:,} pieces {learnt}, {len(train_ids):,} tokens, "
        f"{text_bytes / len(train_ids):.1f} bytes each.")  # fmt: skip
    if len(train_ids) < LEAST_TOKENS:
        raise UserError(
            f"the text is too short: {corpora.counted(corpus.report['bytes'], 'byte')}, {len(train_ids)} training "
            f"tokens, and the smallest context (block_size=8) needs {LEAST_TOKENS} tokens; "
            "use at least about 30 bytes, better 100,000.",
            BAD_INPUT,
        )
    if inherited and len(train_ids) <= config.model.block_size:
        raise UserError(
            f"the text is too short for {origin}: {len(train_ids):,} training tokens, and its context of "
            f"{config.model.block_size:,} needs {config.model.block_size + 1:,}; use more text.",
            BAD_INPUT,
        )
    block_size, shrunk = fit_block_size(config, len(train_ids), given)
    settled = {**shape, **given, "vocab_size": tokenizer.vocab_size, "block_size": block_size}
    settled["precision"] = "bf16" if machine.bf16 else "fp32"
    if inherited:
        rates, why_rates = choose_rates(config, inherited.name, given)
        settled |= rates
        reasons += why_rates
    config = make_config(preset, settled)
    windows = Windows(train_ids, block_size, config.train.seed)

    sampled = f" (on {SAMPLE_TOKENS:,} of the tokens)" if len(train_ids) > SAMPLE_TOKENS else ""
    say(f"Scoring simpler models to compare with{sampled}, and measuring the speed of this machine ...")
    beside = ThreadPoolExecutor(1)
    comparing = beside.submit(compare_with, corpus, train_ids, val_ids, tokenizer)
    if machine.device.type == "cpu":  # whose speed is measured next
        comparing.result()
    seconds = min(CALIBRATION_S, CALIBRATION_SHARE * 60 * (budget.minutes or math.inf))
    measured, speed = config, speed_of(config, machine, seconds)
    size, why_size = choose_size(config, budget, speed, windows, given, ranks.size)
    settled |= {"threads": speed.threads, **size}
    first_guess, _ = choose_steps(make_config(preset, settled), budget, speed, windows, len(val_ids), given)
    config = make_config(preset, {**settled, "dropout": first_guess.get("dropout", config.model.dropout)})
    if size or config.model.dropout != measured.model.dropout:  # which costs time: a random number per activation
        speed = speed_of(config, machine, seconds / 4)
    work_s = affordable_tokens(config, budget, speed, windows) / speed.tokens_per_s
    faster, why_compiled = compiled_speed(share_of(config, ranks), machine, speed, work_s)
    speed = faster or speed
    settled["compiled"] = "yes" if faster else "no"
    compared, floor = comparing.result()
    spent_s = time.perf_counter() - began
    steps, why_steps = choose_steps(config, budget, speed, windows, len(val_ids), given, spent_s)
    config = make_config(preset, {**settled, **steps})
    parameters = parameter_count(config.model)
    expected_s = expected_seconds(config, speed, len(val_ids), machine.device.type)
    expected_bpb = None if inherited else expected_bits_per_byte(compared, floor, config, windows)
    memory_bytes = expected_memory_bytes(config, machine, parameters)
    say(plan_line(config, windows, parameters, speed))
    say(expectation(expected_s, memory_bytes, expected_bpb))
    reasons += [*shrunk, *why_size, *([why_compiled] if why_compiled else []), *why_steps]
    for reason in reasons:
        say(f"  {reason}")
    facts = {
        "command": command, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine.why,
        "reasons": reasons, "baselines": compared, "floor": floor, "expected_s": expected_s,
        "expected_memory_bytes": memory_bytes, "expected_bpb": expected_bpb, "parameters": parameters,
        **({"from": inherited.facts} if inherited else {}),
    }  # fmt: skip
    return Prepared(config, machine, tokenizer, corpus, facts, train_ids, val_ids, inherited)


def refuse_shape(given: Mapping[str, Any], origin: str) -> None:
    """UserError for a setting that would change the model that training starts from."""
    if fixed := [name for name in given if OWNER.get(name) == "model" and name != "dropout"]:
        raise UserError(f"{fixed[0]}={given[fixed[0]]} cannot be chosen with --from: the shape is that of {origin}; "
                        "of the model's fields only dropout is free.")  # fmt: skip
    if given.get("start", "auto") != "auto":
        raise UserError(
            f"start={given['start']} cannot be chosen with --from: the first weights are those of {origin}."
        )


def kept_fields(inherited: Inherited) -> dict[str, Any]:
    """The shape as settings that are given; dropout is for the planner."""
    return {name: value for name, value in dataclasses.asdict(inherited.model).items() if name != "dropout"}


def speed_of(config: Config, machine: Machine, seconds: float) -> Speed:
    """The measured speed of all ranks together."""
    speed = measure(share_of(config, machine.ranks), machine, seconds=seconds)
    return dataclasses.replace(speed, tokens_per_s=speed.tokens_per_s * machine.ranks.size)


def share_of(config: Config, ranks: Ranks) -> Config:
    """What one of the ranks computes in a step, for measuring; the plan takes it that all are as fast as the first."""
    batch_size, micro_batch = config.train.batch_size // ranks.size, ranks.micro_batch(config.train)
    train = dataclasses.replace(config.train, batch_size=batch_size, micro_batch=micro_batch)
    return dataclasses.replace(config, train=train)


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
    joined = ("\n".join(last_documents(corpus.train, XZ_HISTORY_BYTES)), "\n".join(corpus.val))
    return baselines(train_ids, val_ids, tokenizer, *joined), tales.floor_bits_per_byte(corpus.val)


def last_documents(documents: Documents, n_bytes: int) -> Documents:
    """As many from the end as make up `n_bytes`; all of them if they have less."""
    first = len(documents)
    while first > 0 and n_bytes > 0:
        first -= 1
        n_bytes -= len(documents[first].encode())
    return documents[first:]


def corpus_line(corpus: Corpus) -> str:
    """What was read, and what is kept for validation."""
    r = corpus.report
    kept = (
        f"{r['val']['bytes'] / 1e3:,.0f} kB kept for validation ({r['split']})"
        if corpus.val
        else "none kept for validation"
    )
    return f"Text: {r['bytes'] / 1e6:.2f} MB in {r['documents']:,} document{'s' * (r['documents'] != 1)}; {kept}."


def plan_line(config: Config, windows: Windows, parameters: int, speed: Speed) -> str:
    """The plan in one paragraph: shape, work, speed."""
    m, t = config.model, config.train
    passes = t.max_steps * t.batch_size / windows.count
    return (
        f"Plan: preset {config.preset}, {parameters:,} parameters (n_layers={m.n_layers} "
        f"n_embd={m.n_embd} n_heads={m.n_heads} block_size={m.block_size}); {t.max_steps:,} steps of "
        f"{t.batch_size} x {m.block_size} tokens = {passes:.1f} passes; {speed.tokens_per_s / 1e3:,.1f}k tokens/s "
        f"on {speed.threads} thread{'s' * (speed.threads != 1)}."
    )


def expectation(seconds: float, memory_bytes: int, bpb: float | None) -> str:
    """What it will take, and roughly what will come out."""
    memory = f", {memory_bytes / 1e6:,.0f} MB of memory" if memory_bytes else ""
    quality = f"; very roughly {bpb:.2f} bits per byte of unseen text" if bpb else ""
    return f"Expected: about {seconds / 60:.1f} min{memory}{quality}."


def plan_text(p: Prepared) -> str:
    """Every setting that was chosen or given, by section; the reasons stand above it already."""
    lines = [""]
    for section, values in (("model", p.config.model), ("train", p.config.train)):
        words = [f"{name}={value}" for name, value in dataclasses.asdict(values).items()]
        lines += textwrap.wrap(f"{section}: {' '.join(words)}", 100, subsequent_indent="  ")
    return "\n".join(lines)
