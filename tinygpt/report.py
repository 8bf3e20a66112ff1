"""What can be said about a run: the closing report, `eval` and `compare`, as plain data and as text. No printing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tinygpt import runs
from tinygpt.config import TEMPERATURE, TrainConfig
from tinygpt.corpus import tales
from tinygpt.display import chart, duration, safe_text
from tinygpt.distributed import choose_machine
from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.evaluate import baselines, generate_documents, memorised_share, score, score_tales
from tinygpt.prepare import read_corpus
from tinygpt.records import METRICS, SAMPLES, read, verdict
from tinygpt.runs import Run


def closing_report(run: Run, finished: bool = True) -> str:
    """The report of a run from its folder alone, so that it can be read again later."""
    metrics, samples = read(run.folder / METRICS), read(run.folder / SAMPLES)
    evals = [r for r in metrics if r["kind"] == "eval" and r["val_bpb"] is not None]
    trained = [r for r in metrics if r["kind"] == "train"]
    config, facts = run.config, run.facts
    last = trained[-1] if trained else {"step": 0, "tokens": 0}
    time_s = max((r["time_s"] for r in metrics if "time_s" in r), default=0.0)
    lines = [
        "",
        f"Run {run.folder.name}: {facts['parameters']:,} parameters, preset {config.preset}, vocabulary "
        f"{config.model.vocab_size:,}; {last['step']:,} of {config.train.max_steps:,} steps, "
        f"{last['tokens'] / 1e6:.2f}M tokens, {duration(time_s)}.",
    ]
    if run.began_with:
        lines.append(f"It began with the weights of {safe_text(run.began_with)}.")
    if evals:
        best = min(evals, key=lambda r: r["val_bpb"])
        lines += ["", f"Validation: {best['val_bpb']:.3f} bits per byte at step {best['step']:,}; to compare:"]
        lines += comparison(best["val_bpb"], run.marks)
        points = [(r["step"], r["val_bpb"]) for r in evals]
        lines += ["", chart(points, width=68, height=11, marks=run.marks), ""]
        lines += verdict(evals, facts["baselines"], facts["floor"])
    else:
        lines += ["", "There was no validation text, so nobody can say how good it is on text it has not seen."]
    if samples:
        lines += ["", f"It writes (temperature {samples[-1]['temperature']:g}, step {samples[-1]['step']:,}):"]
        lines += ["  " + line for line in safe_text(samples[-1]["text"]).splitlines()]
    lines += ["", "Next:", *(f"  {command}" for command in next_commands(run, finished))]
    return "\n".join(lines)


MEANING = {
    "uniform": "every token equally likely", "unigram": "token frequencies", "bigram": "frequencies after one token",
    "xz": "the compressor xz, after reading the training text", "floor": "the entropy of the tales: no model is below",
}  # fmt: skip


def comparison(val_bpb: float, marks: dict[str, float]) -> list[str]:
    """The model's figure among the others', the worst first."""
    rows = [(bpb, name, MEANING.get(name, "")) for name, bpb in marks.items()]
    rows.append((val_bpb, "-> this model", ""))
    return [f"  {bpb:7.3f}  {name:<14}{meaning}".rstrip() for bpb, name, meaning in sorted(rows, reverse=True)]


def next_commands(run: Run, finished: bool = True) -> list[str]:
    """Three commands that make sense now."""
    name = run.folder.name if run.folder.parent.name == "runs" else str(run.folder)
    going_on = [f"tinygpt train --resume --run {name}"] if not finished else []
    judge = [f"tinygpt eval {name}"] if len(run.val_ids) > 1 else []
    prompted = [f'tinygpt {command} {name} "{opening(run)}"' for command in ("generate", "inspect tokens")]
    return [*going_on, prompted[0], *judge, prompted[1], f"tinygpt doctor {name}"][:3]


def opening(run: Run, words: int = 3) -> str:
    """The first words of the validation (else training) text that are fit for a shell."""
    plain = [w for w in runs.first_words(run) if all(c.isalpha() or c in ",.-" for c in w)]
    return " ".join(plain[:words]) or "The story begins"


# --- eval ------------------------------------------------------------------------------------------------------------


def evaluate_run(reference: str, text: str | None, tales_count: int, device: str) -> dict[str, Any]:
    """The figures of `tinygpt eval`: bits per byte of a text, baselines, copying, and for tales their quality.

    Copying is judged on 20 texts drawn at TEMPERATURE, beside the run's validation text. Raises UserError (exit 65)
    if there is nothing to score.
    """
    run, model, loaded, notices = runs.load(reference)
    if text is None and len(run.val_ids) < 2:
        raise UserError(
            f"{run.folder.name} kept no validation text; name one: tinygpt eval {run.folder.name} FILE.", BAD_INPUT
        )
    machine = choose_machine(TrainConfig(device=device))
    model.to(machine.device)
    training = runs.documents(run, "train")
    scored: Sequence[str]
    if text is None:
        scored, ids = runs.documents(run, "val"), run.val_ids
    else:
        corpus = read_corpus([text], dataclasses.replace(run.config.data, val_fraction=0.0))
        scored, notices = corpus.train, notices + corpus.notices
        ids = run.tokenizer.encode_documents(scored)  # type: ignore[assignment]
    result = score(model, run.tokenizer, ids, machine)
    floor = tales.floor_bits_per_byte(scored)
    written = generate_documents(model, run.tokenizer, 20, max_new_tokens=300, seed=0, temperature=TEMPERATURE)
    figures: dict[str, Any] = {
        "run": run.folder.name, "step": loaded.step, "text": text or "its validation text", "bytes": result.bytes,
        "tokens": result.tokens, "bpb": result.bpb, "loss": result.loss,
        "perplexity": math.exp(min(result.loss, 700.0)),
        "baselines": baselines(run.train_ids, ids, run.tokenizer, "\n".join(training), "\n".join(scored)),
        "floor": floor, "memorised": memorised_share(written, training),
        "memorised_held_out": memorised_share(runs.documents(run, "val"), training), "notices": notices,
    }  # fmt: skip
    if run.facts["floor"] and tales_count:
        told = score_tales(model, run.tokenizer, training, tales_count)
        figures["tales"] = {
            "n": told.n, "grammatical": told.grammatical, "consistent": told.consistent, "new": told.new,
            "grammatical_to": told.grammatical_to, "consistent_to": told.consistent_to,
            "reasons": [reason for _, reason in told.failures],
        }  # fmt: skip
    return figures


def eval_text(result: dict[str, Any]) -> str:
    """`tinygpt eval` as lines."""
    r = result
    lines = [
        f"{r['run']}, step {r['step']:,}, on {r['text']}: {r['bytes']:,} bytes, {r['tokens']:,} tokens",
        f"  {r['bpb']:.3f} bits per byte   loss {r['loss']:.3f} nats/token   perplexity {r['perplexity']:.2f} a token",
    ]
    marks = {**result["baselines"], **({"floor": result["floor"]} if result["floor"] else {})}
    lines += ["  to compare [bits per byte]:"] + ["  " + row for row in comparison(result["bpb"], marks)]
    if result["memorised"] is not None:
        held_out = (
            "" if result["memorised_held_out"] is None else f" (held-out text: {result['memorised_held_out']:.1%})"
        )
        lines.append(f"  copied: {result['memorised']:.1%} of its 12-word runs stand in the training text{held_out}")
    if tales := result.get("tales"):
        lines.append(
            f"  of {tales['n']} tales it wrote: {tales['grammatical']:.1%} grammatical, {tales['consistent']:.1%} "
            f"consistent, {tales['new']:.1%} new; the first slip comes after {tales['grammatical_to']:.0%} of a tale, "
            f"the first fact that changes after {tales['consistent_to']:.0%}"
        )
        lines += [f"    not grammatical or consistent, e.g.: {reason}" for reason in tales["reasons"][:3]]
    return "\n".join(lines)


# --- compare ---------------------------------------------------------------------------------------------------------


def compare_text(result: dict[str, Any]) -> str:
    """`tinygpt compare` as a table, the best run marked."""
    rows = result["runs"]
    figure = lambda value, form: "-" if value is None else format(value, form)  # noqa: E731
    table = [
        ["", *(row["run"] for row in rows)],
        ["val bits/byte", *(figure(row["val_bpb"], ".3f") for row in rows)],
        ["at step", *(figure(row["best_step"], ",") for row in rows)],
        ["steps", *(figure(row["steps"], ",") for row in rows)],
        ["tokens", *(f"{row['tokens'] / 1e6:.2f}M" for row in rows)],
        ["time", *("-" if row["time_s"] is None else duration(row["time_s"]) for row in rows)],
        ["parameters", *(figure(row["parameters"], ",") for row in rows)],
        *([["began with", *(row["began_with"] or "-" for row in rows)]] if any(r["began_with"] for r in rows) else []),
        *([name, *(str(value) for value in values)] for name, values in result["settings"].items()),
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
    lines = ["  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(table, padded, strict=True)]
    known = [row for row in rows if row["val_bpb"] is not None]
    if not result["same_validation_text"]:
        lines += ["", "These runs were validated on different texts: their figures do not compare."]
    elif len(known) > 1:
        lines += [
            "",
            f"{min(known, key=lambda row: row['val_bpb'])['run']} has the lowest figure on the same validation text.",
        ]
    return "\n".join(lines)
