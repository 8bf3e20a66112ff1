"""How a run came to be: its records, the checkpoints it kept, its health, and any other function over its steps.

A run stands before the other arguments: a `runs.Run`, or a name or path as on the command line.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import torch

import tinygpt.inspect as ti
from tinygpt import checkpoint, runs
from tinygpt.config import OWNER, TrainConfig, to_dict
from tinygpt.corpus import tales
from tinygpt.data import count_pairs, count_tokens, sample, total_bytes
from tinygpt.errors import UserError, did_you_mean
from tinygpt.folders import is_locked
from tinygpt.inspect.corpora import Data, open_run
from tinygpt.inspect.result import MOST_BYTES, MOST_NUMBERS, Result, arguments_of, public
from tinygpt.inspect.trace import Model, load, windows
from tinygpt.records import METRICS, SAMPLES, counting, read, read_all
from tinygpt.runs import Run

MOST_RECORDS = 5_000  # in one reply of `records`
# A record is a spike if it is so many deviations above the median of the NEAR records before it, and at least so far:
# nats per token; for the gradient norm the logarithm counts, so 1.1 is three times the usual. The deviation is taken
# from how far the last BEFORE records jumped one to the next: the fall of the loss itself is none (LOG.md).
SPIKE = {"loss": (8.0, 0.25), "gradient norm": (8.0, 1.1)}
NEAR, BEFORE, FEWEST = 5, 20, 3
PACE = 5  # records whose median tokens per second tell how long the rest takes


# --- one run ---------------------------------------------------------------------------------------------------------


@public
def records(run: Run | str, since: int = 0) -> Result:
    """What the run wrote down from record `since` on, and what its figures are to be held against.

    records: as in records.py; `next`: where to go on. first: the place of the first of them, `since`, but 0 if the log
    has been cut below that (a run that was stopped hard and goes on): they then stand for all that came before. An
    event with "back_to" makes records beyond that step void. marks: baselines and, where it is known, the floor
    [bits/byte]; ln_v: the loss of knowing nothing [nats/token]. samples: of the steps of these records; on tales each
    says whether it is grammatical and consistent as far as it goes, and new. training: whether a process works on the
    run at this moment; finished: whether it has had all its steps, or stopped early. left_s: seconds that the rest of
    the training takes at the pace of the last records; null unless it is being trained.
    """
    run = open_run(run)
    if since < 0:
        raise UserError(f"since={since} must be 0 or more.")
    everything = read_all(run.folder / METRICS)
    first = since if since <= len(everything) else 0
    after = everything[first : first + MOST_RECORDS]
    upto = first + len(after)
    cut = f"{len(after):,} of {len(everything) - first:,} records; ask again with since={upto}"
    begin = max((r.get("step", 0) for r in everything[max(0, first - 1) : first]), default=0)
    end = math.inf if upto == len(everything) else after[-1].get("step", 0)
    samples = [s for s in read(run.folder / SAMPLES) if begin <= s["step"] <= end]
    training = is_locked(run.folder)
    return Result(
        truncated=cut if upto < len(everything) else None, records=counting(after), first=first, next=upto,
        samples=judged(run, samples), marks=run.marks, ln_v=math.log(run.config.model.vocab_size),
        max_steps=run.config.train.max_steps, training=training, left_s=left_s(run, everything) if training else None,
        finished=is_finished(run.config.train, counting(everything)) and not training,
    )  # fmt: skip


def left_s(run: Run, everything: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds until the last step, at the median pace of the last PACE records; None before the first."""
    trained = [r for r in everything if r["kind"] == "train" and r["tokens_per_s"]][-PACE:]
    if not trained:
        return None
    config = run.config
    steps = max(0, config.train.max_steps - trained[-1]["step"])
    return steps * config.train.batch_size * config.model.block_size / median(r["tokens_per_s"] for r in trained)


def is_finished(train: TrainConfig, everything: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run had all its steps, or stopped early after `patience` validations without a new best."""
    steps = [r["step"] for r in everything if r["kind"] == "train"]
    if steps and steps[-1] >= train.max_steps:
        return True
    evals = [r["best"] for r in everything if r["kind"] == "eval"]
    return 0 < train.patience <= len(evals) and not any(evals[-train.patience :])


def judged(run: Run, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples; those of a run on tales with "grammatical", "consistent" and "new"."""
    if not run.facts["floor"] or not samples:
        return [dict(sample) for sample in samples]
    training, found = words_of(Data.of(run)), []
    for drawn in samples:
        text = drawn["text"].strip()
        whole = max(text.rfind(end) for end in ".!?")  # characters before the end of the last whole sentence
        verdict = tales.parse(text)
        found.append({
            **drawn,
            "grammatical": verdict.grammatical or verdict.grammatical_to * len(text) > whole - 1 >= 0,
            "consistent": verdict.consistent or verdict.consistent_to * len(text) > whole - 1 >= 0,
            "new": " ".join(text.split()) not in training,
        })  # fmt: skip
    return found


@functools.lru_cache(maxsize=2)
def words_of(data: Data) -> str:
    """The training text of a run, white space as single spaces."""
    return " ".join("\n".join(runs.documents(data.run, "train")).split())


@public
def checkpoints(run: Run | str) -> Result:
    """The steps whose weights can be looked at, in order.

    steps: {step, kind ("checkpoint", or "snapshot": weights alone), best, val_bpb where it was validated}.
    """
    run = open_run(run)
    return Result(steps=kept(run.folder, read(run.folder / METRICS)))


def kept(folder: Path, everything: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same of a run folder and its records."""
    whole = {checkpoint.step_of(path) for path in checkpoint.step_folders(folder / "checkpoints")}
    figures = {r["step"]: r.get("val_bpb") for r in everything if r.get("kind") == "eval"}
    best = next((checkpoint.step_of(path) for path in checkpoint.in_order(folder / "checkpoints", "best")), None)
    return [
        {"step": step, "kind": "checkpoint" if step in whole else "snapshot", "best": step == best,
         "val_bpb": figures.get(step)}
        for step in checkpoint.steps_kept(folder)
    ]  # fmt: skip


@public
def health(run: Run | str) -> Result:
    """Spikes, and how large each layer's weights are and how far one update moves them.

    spikes: {step, what ("loss", "gradient norm", "not finite"), value, usual}: what training itself said (guards.py
    sees every step), and records far above the median of those just before. steps, layers; weight_norm: L2 norm of the
    weights before update number `step`; update_ratio: norm of the update over that. It rises and falls with the
    learning rate. More than one reply takes: every so-manieth measurement.
    """
    run = open_run(run)
    everything = read(run.folder / METRICS)
    told = [spike for r in everything for spike in spikes_told(r)]
    near = {(spike["step"], spike["what"]) for spike in told}
    seen = [s for s in spikes_seen(everything) if not near & {(s["step"] + d, s["what"]) for d in (-1, 0)}]
    measured = [r for r in everything if r["kind"] == "health"]
    layers = list(measured[-1]["weight_norm"]) if measured else []
    every = -(-len(measured) * (2 * len(layers) + 1) // MOST_NUMBERS)
    rule = f"every {every}. measurement" if every > 1 else None
    measured = measured[:: -max(1, every)][::-1]  # the last stays
    weight, update = (
        np.array([[r[name][layer] for layer in layers] for r in measured], dtype=np.float32).reshape(
            len(measured), len(layers)
        )
        for name in ("weight_norm", "update_norm")
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # a layer that starts at zero has no ratio yet
        ratio = np.where(weight > 0, update / weight, np.float32(np.nan))
    return Result(
        {"weight_norm": "step layer", "update_ratio": "step layer"}, rule,
        spikes=sorted([*told, *seen], key=lambda s: s["step"]), steps=[r["step"] for r in measured], layers=layers,
        weight_norm=weight, update_ratio=ratio,
    )  # fmt: skip


def spikes_told(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The spikes that an event tells of."""
    if record["kind"] != "event":
        return []
    if "loss" in record and "grad_norm" in record:  # a refused step
        return [{"step": record["step"], "what": "not finite", "value": None, "usual": None}]
    return list(record.get("spikes", ()))


def spikes_seen(everything: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Train records far above those before them, see SPIKE; of several in a row the first, and a new level is usual
    after half as many records as are looked back on.
    """
    found = []
    for what, field in (("loss", "loss"), ("gradient norm", "grad_norm")):
        deviations, least = SPIKE[what]
        scale, inverse = (math.log, math.exp) if what == "gradient norm" else (float, float)
        figures: list[float] = []
        rises: list[float] = []  # of each figure above the median of those before it
        above = False
        for record in everything:
            value = record.get(field) if record["kind"] == "train" else None
            if value is None or (scale is math.log and value <= 0):
                continue
            before, usual = figures[-NEAR:], rises[-BEFORE:]
            figures.append(scale(value))
            if len(before) < FEWEST:
                continue
            level = median(before)
            rises.append(figures[-1] - level)
            if len(usual) < FEWEST:
                continue
            steps = [abs(a - b) for a, b in itertools.pairwise(usual)]
            spread = 1.4826 / math.sqrt(2) * median(steps)  # of a normal distribution its deviation
            far = rises[-1] > max(deviations * spread, least)
            if far and not above:
                found.append({"step": record["step"], "what": what, "value": value, "usual": inverse(level)})
            above = far
    return found


# --- over the checkpoints ------------------------------------------------------------------------------------------


@public
def over_time(
    run: Run | str, function: str, arguments: dict[str, Any] | None = None, field: str | None = None
) -> Result:
    """Any function of a checkpoint, with the same arguments, at every step whose weights were kept.

    values: for each of `steps` the function's data, or that one field of it. Where all of them would be more than one
    reply takes, only steps evenly chosen from them are computed.
    """
    run = open_run(run)
    called = of_checkpoints(function)
    given = arguments_of(called, arguments or {})
    steps = checkpoint.steps_kept(run.folder)
    if not steps:
        raise UserError(f"{run.folder.name} has kept no weights yet; wait for its first checkpoint.")

    def at(step: int) -> Any:
        result = called(load(f"{run.folder.as_posix()}@{step}"), **given)
        if field is not None and field not in result:
            raise UserError(f"{function} has no {field!r}{did_you_mean(field, result)}; it gives {', '.join(result)}.")
        return plain(dict(result) if field is None else result[field])

    last = at(steps[-1])
    fit = max(1, MOST_BYTES // len(orjson.dumps(last)))
    chosen = steps
    if fit < len(steps):
        chosen = sorted({steps[round(i * (len(steps) - 1) / max(1, fit - 1))] for i in range(fit - 1)} | {steps[-1]})
    rule = f"{len(chosen)} of {len(steps)} checkpoints, evenly chosen" if len(chosen) < len(steps) else None
    return Result(truncated=rule, steps=chosen, values=[*(at(step) for step in chosen[:-1]), last])


def of_checkpoints(function: str) -> Any:
    """The function of that name; UserError unless it looks at one checkpoint."""
    known = [name for name, (_, subject, _) in ti.FUNCTIONS.items() if subject == "m"]
    if function not in known:
        near = did_you_mean(function, known)
        raise UserError(f"function={function!r} is none of a checkpoint{near}; those are {', '.join(known)}.")
    return getattr(ti, function)


def plain(value: Any) -> Any:
    """Arrays as nested lists, as JSON has them: what is not finite is null."""
    if isinstance(value, np.ndarray):
        return orjson.loads(orjson.dumps(np.ascontiguousarray(value), option=orjson.OPT_SERIALIZE_NUMPY))
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


# --- frequencies first, then pairs -----------------------------------------------------------------------------------


@public
@torch.inference_mode()
def tables(m: Model) -> Result:
    """How far the model's next token is from two tables that were counted: of tokens, and of pairs of tokens.

        KL(p || q) = sum over tokens of p ln (p / q)     [nats], the mean over all places of 32 validation windows

    p: the model's probabilities; q: `unigram`, how often each token occurs in the training text, or `bigram`, how often
    after the token that stands there (both as the baselines of `evaluate`). A model is 0 nats from a table it knows by
    heart and does not go beyond. windows, positions: how much was read.
    """
    read_there = windows(m)[:, :-1]  # (32, T)
    singles, rows = counted(Data.of(m.run))
    log_singles = torch.from_numpy(singles).log()
    unigram_nats = bigram_nats = 0.0
    for ids in read_there:
        logp = m.model(ids[None])[0].log_softmax(-1)  # (T, V)
        p, log_pairs = logp.exp(), torch.from_numpy(rows(ids.numpy())).log_()
        unigram_nats += float((p * (logp - log_singles)).sum(dtype=torch.float64))
        bigram_nats += float((p * (logp - log_pairs)).sum(dtype=torch.float64))
    places = read_there.numel()
    return Result(unigram=unigram_nats / places, bigram=bigram_nats / places, windows=len(read_there), positions=places)


@functools.lru_cache(maxsize=4)
def counted(data: Data) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """P(token), (V,), and a function from tokens (T,) to P(next token | token), (T, V), of a run's training text.

    Smoothing as in `evaluate.bigram_probabilities`, of which this gives whole rows.
    """
    ids, V = sample(data.run.train_ids), data.run.tokenizer.vocab_size
    unigram = ((count_tokens(ids, V) + 1) / (len(ids) + V)).astype(np.float32)
    pairs, counts = count_pairs(ids, V)
    begins = np.searchsorted(pairs, np.arange(V + 1, dtype=np.uint64) * np.uint64(V))

    def row(token: int) -> np.ndarray:
        a, b = begins[token], begins[token + 1]
        kinds = np.float32(max(1, b - a))
        found = kinds * unigram
        found[(pairs[a:b] % np.uint64(V)).astype(np.int64)] += counts[a:b]
        return found / np.float32(counts[a:b].sum() + kinds)

    return unigram, lambda tokens: np.stack([row(int(token)) for token in tokens])


# --- several runs ----------------------------------------------------------------------------------------------------


def compare_runs(references: Sequence[str]) -> dict[str, Any]:
    """Runs side by side: the settings in which they differ, and their best figure, step, tokens and time."""
    rows, settings = [], []
    for reference in references:
        run = open_run(reference)
        metrics = read(run.folder / METRICS)
        evals = [r for r in metrics if r["kind"] == "eval" and r["val_bpb"] is not None]
        best = min(evals, key=lambda r: r["val_bpb"], default=None)
        trained = [r for r in metrics if r["kind"] == "train"]
        steps = [r["step"] for r in trained] + checkpoint.steps_kept(run.folder)
        stored = to_dict(run.config)
        settings.append(
            {"preset": stored["preset"], **{name: stored[section][name] for name, section in OWNER.items()}}
        )
        rows.append({
            "run": run.folder.name, "val_bpb": best and best["val_bpb"], "best_step": best and best["step"],
            "steps": max(steps, default=0), "tokens": trained[-1]["tokens"] if trained else 0,
            "time_s": max((r["time_s"] for r in metrics if "time_s" in r), default=None),
            "parameters": run.facts.get("parameters"), "began_with": run.began_with,
            "validation_sha256": run.corpus.get("val", {}).get("sha256"),
        })  # fmt: skip
    different = [name for name in settings[0] if len({repr(s[name]) for s in settings}) > 1]
    same_text = len({row["validation_sha256"] for row in rows}) == 1
    differing = {name: [s[name] for s in settings] for name in different}
    return {"runs": rows, "settings": differing, "same_validation_text": same_text}


@public
def compare(runs: list[str]) -> Result:
    """Runs side by side: the settings in which they differ, their figures, and their curves on four axes.

    runs, settings, same_validation_text: as `compare_runs`. curves: for each run its name, and for its training and
    its validation figures lists by name: step, tokens, time_s, bytes (of text read, repetitions counted), loss
    [nats/token], bpb. More points than one reply takes: every so-manieth.
    """
    if not runs:
        raise UserError("name one run or more.")
    curves = [curve(open_run(reference)) for reference in runs]
    points = sum(len(part["step"]) for c in curves for part in (c["train"], c["val"]))
    every = -(-points * len(AXES) // MOST_NUMBERS)
    for c in curves:
        for part in ("train", "val"):
            c[part] = {name: values[::-every][::-1] for name, values in c[part].items()}  # the last stays
    rule = f"every {every}. point of each curve" if every > 1 else None
    return Result(truncated=rule, **compare_runs(runs), curves=curves)


AXES = ("step", "tokens", "time_s", "bytes", "loss", "bpb")


def curve(run: Run) -> dict[str, Any]:
    """The figures of a run over its steps, as columns."""
    bytes_per_token = total_bytes(run.train_ids, run.tokenizer.n_bytes()) / len(run.train_ids)
    tokens = run.config.train.batch_size * run.config.model.block_size  # a step
    rows: dict[str, list[list[Any]]] = {"train": [], "val": []}
    for r in read(run.folder / METRICS):
        read_so_far = [r.get("step"), r.get("step", 0) * tokens, r.get("time_s"),
                       round(r.get("step", 0) * tokens * bytes_per_token)]  # fmt: skip
        if r["kind"] == "train":
            bpb = None if r["loss"] is None else r["loss"] / math.log(2) / bytes_per_token
            rows["train"].append([*read_so_far, r["loss"], bpb])
        elif r["kind"] == "eval":
            rows["val"].append([*read_so_far, r["val_loss"], r["val_bpb"]])
    columns = {part: dict(zip(AXES, map(list, zip(*points, strict=True)), strict=True)) if points else
               {name: [] for name in AXES} for part, points in rows.items()}  # fmt: skip
    return {"run": run.folder.name, **columns}
