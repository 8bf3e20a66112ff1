"""R10, what does not belong together: tokenizer, model and data of two runs of equal sizes, in all 8 combinations.

The two tokenizers have the same number of pieces and the two models the same shape, so that every size fits in every
mixture; only the digests tell. 2 of the 8 belong together and work; the 6 mixtures are refused by every command that
uses them, before a step or an answer, and the sentence shows both digests.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from benchmarks.reliability.common import Row, Scale, one_sentence, small_run, texts
from benchmarks.reliability.data import in_process, tree
from tinygpt.errors import MISMATCH

OF_THE_MODEL = ("checkpoints", "metrics.jsonl", "samples.jsonl")  # the logs reach as far as the checkpoints
COMMANDS = {
    "train --resume": ("train", "--resume", "--run", "mixed"),
    "generate": ("generate", "mixed", "Once", "--max-new-tokens", "5"),
    "eval": ("eval", "mixed", "--device", "cpu"),
    "eval of a text": ("eval", "mixed", "other.txt", "--device", "cpu"),
    "doctor": ("doctor", "mixed"),
}
RESUMED = "step-00000004"


def row(scale: Scale) -> Row:
    """R10 of the table: 8 pairings through every command."""
    result = Row("R10", "tokenizer, model and data mixed")
    (scale.folder / "other.txt").write_text("\n".join(texts(2)[:3]))
    digests = {name: made(scale.folder, name, seed) for seed, name in enumerate("ab")}
    same = [kind for kind, digest in digests["a"].items() if digest == digests["b"][kind]]
    if same:
        raise RuntimeError(f"the two runs have the same {', '.join(same)}: nothing would be mixed")
    for tokenizer, model, data in itertools.product("ab", repeat=3):
        for label, words in COMMANDS.items():
            mix(scale.folder / "runs", tokenizer, model, data)
            before = tree(scale.folder / "runs")
            code, said = in_process(*words, cwd=scale.folder)
            if tokenizer == model == data:
                problem = not_working(label, code, said, scale.folder)
            else:
                problem = not_refused(label, code, said, digests)
                problem += "" if tree(scale.folder / "runs") == before else " (and the run was changed)"
            mixture = f"tokenizer of {tokenizer}, model of {model}, data of {data}"
            result.check(not problem, f"{label} with {mixture}: {problem}")
    return result


def made(folder: Path, name: str, seed: int) -> dict[str, str]:
    """A run with checkpoints at steps 0 and 2 of 4, of the texts of `seed`; the digests that it shows."""
    run = small_run(folder / "runs" / name, seed, max_steps=4, save_every=2, eval_every=2)
    code, said = in_process("train", "--resume", "--run", name, cwd=folder)
    if code:
        raise RuntimeError(f"no run to mix: {said}")
    shutil.rmtree(run.folder / "checkpoints" / RESUMED)  # so that a resume has steps to do
    return {kind: digest[:12] for kind, digest in run.digests.items()}


def mix(runs: Path, tokenizer: str, model: str, data: str) -> None:
    """runs/mixed: config of a, whose values b shares, and the three parts of the runs named."""
    shutil.rmtree(runs / "mixed", ignore_errors=True)
    shutil.copytree(runs / "a", runs / "mixed", ignore=shutil.ignore_patterns("data", "snapshots", *OF_THE_MODEL, ".*"))
    shutil.copy(runs / tokenizer / "tokenizer.json", runs / "mixed")
    shutil.copytree(runs / data / "data", runs / "mixed" / "data")
    shutil.copytree(runs / model / "checkpoints", runs / "mixed" / "checkpoints")
    for log in OF_THE_MODEL[1:]:
        if (runs / model / log).exists():
            shutil.copy(runs / model / log, runs / "mixed")


def not_working(label: str, code: int, said: str, folder: Path) -> str:
    """What is wrong with a command on parts that belong together, or ""."""
    if code:
        return f"exit code {code} though they belong together: {said.strip()[-300:]}"
    resumed = (folder / "runs" / "mixed" / "checkpoints" / RESUMED).is_dir()
    return "it did not go on" if label == "train --resume" and not resumed else ""


def not_refused(label: str, code: int, said: str, digests: dict[str, dict[str, str]]) -> str:
    """What is wrong with the refusal of a mixture, or ""."""
    if code != MISMATCH:
        return f"exit code {code} instead of {MISMATCH}: {said.strip()[-300:]}"
    if label != "doctor" and not one_sentence(said):  # which reports, and leaves with the code
        return f"no single sentence: {said.strip()[-300:]}"
    if label.startswith(("generate", "eval")) and said.count("\n") != 1:
        return f"something is said before the refusal: {said.strip()[-300:]}"
    shown = any(digests["a"][kind] in said and digests["b"][kind] in said for kind in digests["a"])
    return "" if shown else f"not both digests are shown: {said.strip()[-300:]}"
