"""The model card: README.md of an export, filled in from the run folder. Equal exports give equal bytes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.config import listing, to_dict
from tinygpt.display import duration, safe_text
from tinygpt.export.origin import Source
from tinygpt.export.shapes import differences
from tinygpt.records import METRICS, SAMPLES, read
from tinygpt.runs import Run
from tinygpt.storage import canonical, read_regular, sha256

CARD = "README.md"
SAMPLES_SHOWN = 2
_ABOUT = re.compile(r"by tinygpt: run (.+), preset \w+, step ([\d,]+)\.$", re.MULTILINE)
_ROW = re.compile(r"^\| `(.+)` \| [\d,]+ \| `([0-9a-f]{64})` \|$", re.MULTILINE)  # a file in the card's table


def model_card(s: Source, to: str, folder: Path, advice: list[str], figures: dict[str, str] | None) -> str:
    """The whole text for the export in `folder`. figures: of the comparison, None if there was none."""
    run, config = s.run, s.run.config
    sections = {
        "Use": fenced("\n".join(advice)),
        "Compared": compared(figures),
        "How good it is": quality(s),
        "Made with": training(s),
        "Text": text_table(run),
        "It writes": samples(s),
        "Limits": limits(s),
        "Configuration": fenced(canonical(to_dict(config)).decode().rstrip(), "json"),
        "Files": files_table(folder),
    }
    how = f"trained on from {run.began_with}," if run.began_with else "trained from scratch"
    about = (f"A language model of {s.model.parameter_count():,} parameters, {how} by tinygpt: run "
             f"{s.name}, preset {config.preset}, step {s.step:,}.")  # fmt: skip
    body = "\n\n".join(f"## {title}\n\n{section}" for title, section in sections.items())
    return f"{front_matter(s, to)}\n# {s.name}\n\n{about}\n\n{body}\n"


def front_matter(s: Source, to: str) -> str:
    """What the Hugging Face hub reads; JSON is YAML. No licence and no language: only the user can state those."""
    fields: dict[str, Any] = {"library_name": "transformers"} if to == "hf" else {}
    own_code = to == "hf" and not differences(s.run.config.model, "tutorial")
    tags = ["tinygpt", *([] if s.run.origin else ["from-scratch"]), *(["custom_code"] if own_code else [])]
    fields |= {"pipeline_tag": "text-generation", "tags": tags}
    if record := evaluation(s):
        metrics = [{"type": "bits_per_byte", "name": "bits per byte", "value": record["val_bpb"]},
                   {"type": "perplexity", "name": "perplexity of a token", "value": perplexity(record)}]  # fmt: skip
        result = {"task": {"type": "text-generation"}, "metrics": metrics,
                  "dataset": {"type": "text", "name": "validation part of the text"}}  # fmt: skip
        fields["model-index"] = [{"name": s.name, "results": [result]}]
    return "".join(["---\n", *(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()), "---\n"])


def evaluation(s: Source) -> dict[str, Any] | None:
    """The validation of the very step that is exported, if there was one."""
    records = [r for r in read(s.run.folder / METRICS) if r["kind"] == "eval" and r["step"] == s.step]
    return records[-1] if records and records[-1]["val_bpb"] is not None else None


def perplexity(record: dict[str, Any]) -> float:
    return math.exp(min(record["val_loss"], 700.0))


def compared(figures: dict[str, str] | None) -> str:
    if figures is None:
        return "Not compared with the model it was made from: the runtime was not installed where it was written."
    rows = [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join(["Loaded back and compared with the model it was made from:", "", "| | |", "|---|---|", *rows])


def quality(s: Source) -> str:
    """The validation figure among the baselines', the worst first."""
    record = evaluation(s)
    if record is None:
        return f"Step {s.step:,} was not validated: nobody can say how good it is on text it has not seen."
    marks = {**s.run.marks, "**this model**": record["val_bpb"]}
    rows = [f"| {name} | {bpb:.3f} |" for name, bpb in sorted(marks.items(), key=lambda pair: -pair[1])]
    head = (f"Bits per byte of {s.run.corpus['val'].get('bytes', 0):,} bytes of text it has not seen; lower is better. "
            f"Perplexity {perplexity(record):.2f} a token.")  # fmt: skip
    return "\n".join([head, "", "| | bits per byte |", "|---|---|", *rows])


def training(s: Source) -> str:
    """Command, amount, machine, versions, tokenizer."""
    run, c = s.run, s.run.config
    seen = s.step * c.train.batch_size * c.model.block_size
    times = [r["time_s"] for r in read(run.folder / METRICS) if "time_s" in r and r["step"] <= s.step]
    amount = f"{s.step:,} of {c.train.max_steps:,} steps, {seen:,} tokens" + (
        f", {duration(max(times))}" if times else ""
    )
    versions = listing(f"{name} {version}" for name, version in run.facts["versions"].items())
    return "\n".join([
        fenced(run.facts.get("command") or "(the command was not recorded)"),
        "",
        f"- {amount}; seed {c.train.seed}",
        f"- machine: {run.facts.get('machine', 'not recorded')}",
        f"- {versions}",
        f"- tokenizer: byte-level BPE, {run.tokenizer.vocab_size:,} tokens, digest `{run.tokenizer.sha256}`",
    ])  # fmt: skip


def text_table(run: Run) -> str:
    """What it was trained on: names, sizes, digests."""
    rows = [f"| {source['name']} | {source['bytes']:,} | `{source['sha256']}` |"
            for part in ("sources", "val_sources") for source in run.corpus.get(part, [])]  # fmt: skip
    both = {"training": run.corpus["train"], "validation": run.corpus["val"]}
    parts = [f"- {name}: {part['documents']:,} documents, {part['bytes']:,} bytes, sha256 `{part['sha256']}`"
             for name, part in both.items() if part]  # fmt: skip
    licence = "Its licence is not recorded; whoever passes the model on has to know it."
    return "\n".join(["| file | bytes | sha256 |", "|---|---|---|", *rows, "", *parts, "", licence])


def samples(s: Source) -> str:
    """The last texts drawn during the training up to this step."""
    drawn = [r for r in read(s.run.folder / SAMPLES) if r["step"] <= s.step][-SAMPLES_SHOWN:]
    shown = [f"Step {r['step']:,}, seed {r['seed']}, temperature {r['temperature']:g}:\n\n"
             f"{fenced(safe_text(r['prompt'] + r['text']))}" for r in drawn]  # fmt: skip
    return "\n\n".join(shown) or "No text was drawn during the training."


def limits(s: Source) -> str:
    size, context = s.run.corpus["train"].get("bytes"), s.run.config.model.block_size
    text = f"{size:,} bytes of text" if size else "one text"
    before = f", after whatever {s.run.began_with} has read," if s.run.began_with else ""
    return (
        f"It has read {text}{before} and nothing else: it writes in the manner of that text, knows no facts beyond it "
        "and gets those in it wrong, cannot follow instructions, and may repeat passages by heart, private ones too. "
        f"It sees at most {context} tokens, prompt and answer together; whoever runs it has to stay within them."
    )


def fenced(text: str, language: str = "text") -> str:
    """A code block; its fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


# --- how an export is known again ------------------------------------------------------------------------------------


def files_table(folder: Path) -> str:
    """Every file but the card itself, with size and digest."""
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CARD):
        data = read_regular(path)
        rows.append(f"| `{path.relative_to(folder).as_posix()}` | {len(data):,} | `{sha256(data)}` |")
    return "\n".join(["| file | bytes | sha256 |", "|---|---|---|", *rows])


@dataclass(frozen=True)
class Card:
    """What an export is, as its card says it."""

    run: str
    step: str  # as it is written there: 1,200
    files: dict[str, str]  # name -> sha256, without the card's own

    @property
    def to(self) -> str:
        """Its format."""
        return "gguf" if "Modelfile" in self.files else "hf" if "model.safetensors" in self.files else "onnx"

    def is_unchanged(self, folder: Path, name: str) -> bool:
        """Whether a file in `folder` is what was exported; of the card itself nobody can say, so it is."""
        try:
            return name == CARD or sha256(read_regular(folder / name)) == self.files[name]
        except OSError:  # a link, a pipe
            return False


def read_card(folder: Path) -> Card | None:
    """The card of the export in a folder, None if there is no such card."""
    try:
        text = read_regular(folder / CARD).decode()
    except (OSError, UnicodeDecodeError):
        return None
    about, files = _ABOUT.search(text), dict(_ROW.findall(text.rpartition("## Files")[2]))
    return Card(about[1], about[2], files) if about and files else None
