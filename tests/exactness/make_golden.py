"""The golden loss traces, and the command that makes them anew:

    python -m tests.exactness.make_golden          # from the repository root; rewrites golden.json

Do that when a change is meant to move the losses, and say in the commit by how much. A trace is 20 steps of a preset
with its own training settings, at a small shape, on 2,000 bytes made here, with seed 0 and without dropout (whose
random numbers differ between builds of torch).
"""

import io
import json
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 20
SHAPE = {"n_embd": 32, "n_heads": 4, "n_layers": 2, "block_size": 32, "vocab_size": 259, "dropout": 0.0}
SCHEDULE = {
    "batch_size": 8, "max_steps": STEPS, "warmup_steps": 2, "eval_every": STEPS, "save_every": STEPS,
    "sample_every": STEPS, "log_every": 1, "threads": 1, "seed": 0, "device": "cpu", "precision": "fp32",
    "start": "random",
}  # fmt: skip


def text() -> str:
    """2,000 bytes with something to learn, the same everywhere."""
    words = ["the", "cat", "sees", "a", "red", "kite", "and", "runs", "home", "to", "mother"]
    return " ".join(words[(i * i + 3 * i // 7) % 11] + "." * (i % 9 == 8) for i in range(500))[:2000]


def trace(preset: str, folder: Path) -> dict[str, list[float]]:
    """Losses of the 20 steps [nats/token] and validation losses before and after, of a run made in `folder`."""
    from tinygpt.config import make_config
    from tinygpt.display import Display
    from tinygpt.distributed import choose_machine
    from tinygpt.records import read
    from tinygpt.runs import create
    from tinygpt.tokenizer import Tokenizer
    from tinygpt.train import set_up, train

    tokenizer = Tokenizer([])  # bytes: the traces do not depend on how merges are learnt
    config = make_config(preset, {**SHAPE, **SCHEDULE})
    train_ids, val_ids = tokenizer.encode_documents([text()[:1800]]), tokenizer.encode_documents([text()[1800:]])
    corpus, facts = {"train": {}, "val": {}}, {"baselines": {}, "floor": None, "parameters": 0}
    run = create(folder, config, tokenizer, corpus, facts, train_ids, val_ids)
    train(set_up(run, choose_machine(config.train), Display(io.StringIO())))
    records = read(folder / "metrics.jsonl")
    return {
        "loss": [r["loss"] for r in records if r["kind"] == "train"],
        "val_loss": [r["val_loss"] for r in records if r["kind"] == "eval"],
    }


if __name__ == "__main__":
    from tinygpt.config import PRESETS

    with tempfile.TemporaryDirectory() as temporary:
        traces = {preset: trace(preset, Path(temporary) / preset) for preset in PRESETS}
    rounded = {p: {kind: [round(x, 7) for x in values] for kind, values in t.items()} for p, t in traces.items()}
    rows = ",\n".join(f" {json.dumps(preset)}: {json.dumps(values)}" for preset, values in rounded.items())
    GOLDEN.write_text("{\n" + rows + "\n}\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
