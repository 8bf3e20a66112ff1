"""Writing speed: greedy tokens a second and time to the first token, tinygpt and Hugging Face on the same weights.

    python -m benchmarks.generation
    python -m benchmarks.generation --batches 1,16 --tokens 100 --threads 2 n_embd=192 n_layers=6

Both write from <bos> with their caches: tinygpt by `stream` (one text) and `generate_documents` (several at a time),
Hugging Face by `generate`. The weights are random, and <eos> is never the likeliest token, so every text has --tokens
tokens. Time to the first token: a prompt that fills the context, read and answered with one token. Before anything
is timed, the logits of both are compared. One process, rounds alternate; in fp32 on the CPU.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.common import BenchmarkError, alternate, figures, parser, plain_errors, positive, record, report, say
from tinygpt.config import Config, make_config, parse_assignments

SAME = 1e-3  # largest difference of two logits that is rounding
WARMUP_TOKENS = 4
Writer = Callable[[int, int], int]  # (texts, tokens of each) -> tokens written
FirstToken = Callable[[Any], None]  # prompt (1, T)


def make_model(config: Config) -> Any:
    """A TinyGPT with random weights that never ends a text: <eos> scores 0, and some other token more."""
    import torch

    from tinygpt.model import TinyGPT
    from tinygpt.tokenizer import EOS

    torch.manual_seed(0)
    model = TinyGPT(config.model).eval()
    with torch.no_grad():
        model.head.weight[EOS] = 0.0
    return model


def make_tokenizer(vocab_size: int) -> Any:
    """Any tokenizer of this size: bytes, then pairs of bytes."""
    from tinygpt.tokenizer import FIRST_MERGE, Tokenizer

    single = [bytes([byte]) for byte in range(256)]
    pairs = itertools.product(single, single)
    return Tokenizer(itertools.islice(pairs, vocab_size - FIRST_MERGE))


def tinygpt_writer(model: Any) -> tuple[Writer, FirstToken]:
    """tinygpt's own functions."""
    from tinygpt.evaluate import generate_documents
    from tinygpt.inference import Decoder, stream

    tokenizer = make_tokenizer(model.config.vocab_size)

    def write(texts: int, tokens: int) -> int:
        if texts == 1:
            for _ in stream(model, tokenizer, "", tokens):
                pass
        else:
            generate_documents(model, tokenizer, texts, tokens, batch=texts)
        return texts * tokens

    def first_token(prompt: Any) -> None:
        Decoder(model).logits(prompt).argmax(-1).item()

    return write, first_token


def hf_writer(model: Any) -> tuple[Writer, FirstToken]:
    """Hugging Face's `generate` on a copy of the weights; BenchmarkError if it is not there or computes otherwise."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise BenchmarkError("not installed: pip install transformers") from None
    import torch

    from benchmarks.peers.qwen3 import copy_weights, make_qwen3
    from tinygpt.tokenizer import BOS

    theirs = make_qwen3(asdict(model.config)).eval()
    copy_weights(model, theirs)
    theirs.generation_config.eos_token_id = None
    prompt = torch.randint(3, model.config.vocab_size, (2, model.config.block_size))
    with torch.inference_mode():
        off = (theirs(prompt).logits - model(prompt)).abs().max().item()
    if not off < SAME:
        raise BenchmarkError(f"its logits differ by {off:.2g}, so it is not the same model.")

    def generate(prompt: Any, tokens: int) -> Any:
        mask = torch.ones_like(prompt)
        return theirs.generate(prompt, attention_mask=mask, max_new_tokens=tokens, do_sample=False, use_cache=True)

    def write(texts: int, tokens: int) -> int:
        return int(generate(torch.full((texts, 1), BOS), tokens)[:, 1:].numel())

    def first_token(prompt: Any) -> None:
        generate(prompt, 1)

    return write, first_token


def measure(
    writer: Callable[[], tuple[Writer, FirstToken]], batches: list[int], tokens: int, prompt: Any, _: int
) -> dict[int, float]:
    """{texts at a time: tokens/s}, and under 0 the milliseconds to the first token."""
    write, first_token = writer()
    speeds = {}
    for texts in batches:
        write(texts, WARMUP_TOKENS)
        began = time.perf_counter()
        written = write(texts, tokens)
        speeds[texts] = written / (time.perf_counter() - began)
    first_token(prompt)
    began = time.perf_counter()
    first_token(prompt)
    return {**speeds, 0: 1e3 * (time.perf_counter() - began)}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", metavar="field=value", help="shape of the model, of --preset modern")
    options.add_argument("--batches", default="1,8,64", help="texts at a time (default %(default)s)")
    options.add_argument("--tokens", type=positive, help="of every text (default: as many as fit, at most 200)")
    options.add_argument("--threads", type=positive, default=1, help="default %(default)s")
    args = options.parse_intermixed_args(arguments)
    with plain_errors():
        config = make_config("modern", parse_assignments(args.words))
        most = config.model.block_size - 1  # <bos> is in the context, too
        tokens = args.tokens or min(200, most)
        if tokens > most:
            raise BenchmarkError(f"--tokens {tokens} do not fit into the context: at most {most}.")
        if not all(word.strip().isdecimal() and int(word) > 0 for word in args.batches.split(",")):
            raise BenchmarkError(f"--batches {args.batches} must be whole numbers above 0 with commas between them.")
        batches = [int(word) for word in args.batches.split(",")]
        import torch

        torch.set_num_threads(args.threads)
        model = make_model(config)
        prompt = torch.randint(3, config.model.vocab_size, (1, config.model.block_size))
        makers = {"tinygpt": functools.cache(functools.partial(tinygpt_writer, model)),
                  "hf": functools.cache(functools.partial(hf_writer, model))}  # fmt: skip
        runs = {name: functools.partial(measure, maker, batches, tokens, prompt) for name, maker in makers.items()}
        results, errors = alternate(runs, args.repeats, say)
        found = []
        for texts in [*batches, 0]:
            values = {name: [speeds[texts] for speeds in rounds] for name, rounds in results.items()}
            what = f"greedy, {texts} text{'s' * (texts != 1)} at a time" if texts else "time to first token"
            found += figures(what, "tokens/s" if texts else "ms", values, "hf")
        settings = {"shape": asdict(config.model), "tokens": tokens, "threads": args.threads, "device": "cpu"}
        report(record("generation", settings, found, errors), args.history)


if __name__ == "__main__":
    main()
