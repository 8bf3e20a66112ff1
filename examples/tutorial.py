"""Build a TinyGPT in five steps, with the tutorial's names.

    python examples/tutorial.py              one pass over a small corpus, a few minutes on two CPU cores
    python examples/tutorial.py --epochs 10  the tutorial's full training

Each step prints what it produced. The same in one command: tinygpt train --preset tutorial --epochs 10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tinygpt.config import TEMPERATURE, ModelConfig, TrainConfig, model_config
from tinygpt.corpus import load, tales
from tinygpt.display import make_display, safe_text
from tinygpt.folders import RUNS, free_name, lock
from tinygpt.inference import generate
from tinygpt.model import TinyGPT
from tinygpt.plan import Budget
from tinygpt.prepare import prepare
from tinygpt.tokenizer import BOS, EOS, train_tokenizer
from tinygpt.train import set_up, train

CORPUS = Path("data/tiny_corpus.txt")


def main() -> None:
    """The five steps in the tutorial's order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--megabytes", type=float, default=1.0, help="size of the corpus, if it is not there yet")
    parser.add_argument("--steps", type=int, help="train this many steps instead of --epochs")
    args = parser.parse_args()

    print("1. Corpus: a text to learn from")
    if not CORPUS.exists():
        tales.write(CORPUS, n_bytes=round(args.megabytes * 1e6))
    corpus = load([CORPUS])
    print(f"   {CORPUS}: {corpus.report['bytes']:,} bytes, {corpus.report['documents']:,} documents")
    print(f"   it begins: {corpus.train[0][:70]!r}")

    print("\n2. Tokenizer: from text to numbers and back (BPE)")
    tokenizer = train_tokenizer(corpus.train, vocab_size=model_config["vocab_size"])
    words = "Once upon a time"
    ids = tokenizer.encode(words)
    print(f"   vocabulary {tokenizer.vocab_size:,} (at most {model_config['vocab_size']:,}; a small text gives fewer), "
          f"with <bos> = {BOS} and <eos> = {EOS}")  # fmt: skip
    print(f"   {words!r} -> {ids} -> {[tokenizer.decode([i]) for i in ids]}")

    print("\n3. Model: a decoder-only transformer")
    config = ModelConfig.from_dict({**model_config, "vocab_size": tokenizer.vocab_size})
    torch.manual_seed(TrainConfig.seed)  # the seed decides the first weights
    model = TinyGPT(config)
    print(f"   {config.n_layers} decoder blocks, n_embd {config.n_embd}, {config.n_heads} heads: "
          f"{model.parameter_count():,} parameters")  # fmt: skip
    print(f"   untrained it writes: {generate(model, tokenizer, words, max_new_tokens=12)!r}")

    print("\n4. Training: AdamW, batches of 32 x 128")
    # A run makes everything from the corpus itself, so that its folder can be repeated and resumed.
    print("   The run reads the same corpus and builds the same tokenizer and the same model again:")
    budget = Budget(steps=args.steps) if args.steps else Budget(epochs=args.epochs)
    folder = RUNS / free_name("tutorial")
    run, machine = prepare(folder, [CORPUS], preset="tutorial", budget=budget, say=lambda text: print(f"   {text}"))
    if run.tokenizer.sha256 != tokenizer.sha256:
        raise SystemExit(f"{CORPUS} changed in the meantime, so the tokenizers differ; start again.")
    with lock(folder), make_display(sys.stdout) as display:
        session = set_up(run, machine, display)
        display.start(folder.name, run.config.train.max_steps, run.marks)
        code = train(session)
    if code:  # Ctrl-C
        raise SystemExit(code)
    best = session.progress.best_bpb  # None: the corpus is too short for a validation text
    print(f"   saved in {folder}" + (f"; best validation {best:.3f} bits per byte" if best is not None else ""))

    print("\n5. Generation: the model writes on, one token at a time")
    for how, temperature in [
        ("always the likeliest token (early in training that is the same one again and again)", 0.0),
        (f"drawn by chance, at temperature {TEMPERATURE}", TEMPERATURE),
    ]:
        text = generate(session.model, run.tokenizer, words, max_new_tokens=50, temperature=temperature)
        print(f"   {how}:")
        print("\n".join(f"      {line}" for line in safe_text(text).splitlines()))
    print(f"\nMore of it: tinygpt generate {folder.name} {words!r}")


if __name__ == "__main__":
    main()
