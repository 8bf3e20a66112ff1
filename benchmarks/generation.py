"""Writing speed: greedy tokens a second and time to the first token, on the same weights.

    python -m benchmarks.generation
    python -m benchmarks.generation --batches 1,16 --tokens 100 --threads 2 n_embd=192 n_layers=6

    native     tinygpt with its engine in C, as it writes where there is a C compiler; always one thread
    plain      tinygpt with PyTorch alone
    hf         Hugging Face's Qwen3 and its `generate`
    llama.cpp  through llama-cpp-python, from a GGUF file in f32; one text at a time

All have loaded the model and write from <bos> with their caches: tinygpt one text by `write_on`, its bytes included,
and several by `generate_documents`; llama.cpp by `generate`, token ids alone. The weights are random, and <eos> is
never the likeliest token, so every text has --tokens tokens. Time to the first token: a prompt that fills the context,
read and answered with one token; reading speed is the same in tokens a second. `loading`, native alone: copying the
weights, which precedes the first text. Before anything is timed, logits are compared with the plain ones. One process,
rounds alternate; in fp32. The floor is what one text could reach if a token cost no more than reading the weights once.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.common import (
    BenchmarkError,
    Figure,
    alternate,
    counts,
    figures,
    parser,
    plain_errors,
    positive,
    record,
    report,
    say,
)
from tinygpt.config import Config, make_config, parse_assignments

CONTENDERS = ("native", "plain", "hf", "llama.cpp")
SAME = 1e-3  # largest difference of two logits that is rounding
WARMUP_TOKENS = 4
Writer = Callable[[int, int], int]  # (texts, tokens of each) -> tokens written
FirstToken = Callable[[Any], None]  # prompt (1, T)
ALONE = 1  # texts at a time that everyone can


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


def floor(model: Any, _: int) -> float:
    """Tokens/s of one text if a token cost nothing but reading the matrices once: 1 / seconds of their sum."""
    import torch

    flat = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if name != "embedding.weight"])
    times = []
    for _round in range(20):
        began = time.perf_counter()
        flat.sum().item()
        times.append(time.perf_counter() - began)
    return 1 / min(times)


def write_text(model: Any, tokenizer: Any, tokens: int, decoder: Any) -> None:
    """One greedy text from <bos>, as the command writes it."""
    from tinygpt.inference import Continuation, write_on
    from tinygpt.tokenizer import BOS

    for _ in write_on(model, Continuation(tokenizer, [BOS], tokens), decoder):
        pass


def plain_writer(model: Any) -> tuple[Writer, FirstToken]:
    """tinygpt's own functions, on PyTorch."""
    from tinygpt.evaluate import generate_documents
    from tinygpt.inference import Decoder

    tokenizer = make_tokenizer(model.config.vocab_size)

    def write(texts: int, tokens: int) -> int:
        if texts == ALONE:
            write_text(model, tokenizer, tokens, Decoder(model))
        else:
            generate_documents(model, tokenizer, texts, tokens, batch=texts, engine="plain")
        return texts * tokens

    def first_token(prompt: Any) -> None:
        Decoder(model).logits(prompt).argmax(-1).item()

    return write, first_token


def native_writer(model: Any) -> tuple[Writer, FirstToken]:
    """tinygpt's engine in C; BenchmarkError if it is not to be had, or computes otherwise."""
    from tinygpt.evaluate import generate_documents
    from tinygpt.inference import window_start
    from tinygpt.native import NativeDecoder, NativeModel, NativeUnavailable

    tokenizer = make_tokenizer(model.config.vocab_size)
    try:
        native = NativeModel(model)
    except NativeUnavailable as error:
        raise BenchmarkError(str(error)) from None

    def logits(ids: list[int]) -> Any:
        return native.logits(ids, range(len(ids)), [0] * len(ids), [len(ids) - 1])

    compare(model, logits)

    def write(texts: int, tokens: int) -> int:
        if texts == ALONE:
            write_text(model, tokenizer, tokens, NativeDecoder(native, window_start))
        else:
            generate_documents(model, tokenizer, texts, tokens, batch=texts, engine="native")
        return texts * tokens

    def first_token(prompt: Any) -> None:
        logits(prompt[0].tolist()).argmax(-1).item()

    return write, first_token


def load_native(model: Any) -> float:
    """Seconds of copying the weights; the library is there."""
    from tinygpt.native import NativeModel

    began = time.perf_counter()
    NativeModel(model)
    return time.perf_counter() - began


def compare(model: Any, logits: Callable[[list[int]], Any]) -> None:
    """BenchmarkError if the logits (1, V) behind a context of tokens are not the plain model's."""
    import torch

    device = model.embedding.weight.device
    prompt = torch.randint(3, model.config.vocab_size, (1, model.config.block_size), device=device)
    with torch.inference_mode():
        off = (logits(prompt[0].tolist()) - model(prompt)[:, -1]).abs().max().item()
    if not off < SAME:
        raise BenchmarkError(f"its logits differ by {off:.2g}, so it is not the same model.")


def hf_writer(model: Any) -> tuple[Writer, FirstToken]:
    """Hugging Face's `generate` on a copy of the weights; BenchmarkError if it is not there or computes otherwise."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise BenchmarkError("not installed: pip install transformers") from None
    import torch

    from benchmarks.peers.qwen3 import copy_weights, make_qwen3
    from tinygpt.tokenizer import BOS

    device = model.embedding.weight.device
    theirs = make_qwen3(asdict(model.config)).eval()
    copy_weights(model, theirs)
    theirs.to(device).generation_config.eos_token_id = None
    compare(model, lambda ids: theirs(torch.tensor([ids], device=device)).logits[:, -1])

    def generate(prompt: Any, tokens: int) -> Any:
        mask = torch.ones_like(prompt)
        return theirs.generate(prompt, attention_mask=mask, max_new_tokens=tokens, do_sample=False, use_cache=True)

    def write(texts: int, tokens: int) -> int:
        return int(generate(torch.full((texts, 1), BOS, device=device), tokens)[:, 1:].numel())

    def first_token(prompt: Any) -> None:
        generate(prompt.to(device), 1)

    return write, first_token


def llama_writer(model: Any, threads: int, folder: Path) -> tuple[Writer, FirstToken]:
    """llama.cpp on a GGUF file of the weights, made as `tinygpt export` makes it; BenchmarkError if it is not there."""
    try:
        import llama_cpp
    except ImportError:
        raise BenchmarkError("not installed: pip install llama-cpp-python, which compiles for minutes") from None
    import torch

    from tinygpt.export import gguf
    from tinygpt.export.origin import Source
    from tinygpt.tokenizer import BOS

    tokenizer = make_tokenizer(model.config.vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    run: Any = SimpleNamespace(config=SimpleNamespace(model=model.config), folder=folder, tokenizer=tokenizer)
    source = Source(run, model, 0, [])
    gguf.write(source, folder, "f32")
    block = model.config.block_size
    llama = llama_cpp.Llama(
        str(folder / gguf.file_name(source, "f32")), n_ctx=block, n_batch=block, n_ubatch=block, verbose=False,
        n_threads=threads, n_threads_batch=threads,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip

    def continued(prompt: list[int], tokens: int) -> int:
        llama.reset()
        return sum(1 for _ in itertools.islice(llama.generate(prompt, temp=0.0, reset=False), tokens))

    def logits(ids: list[int]) -> Any:
        llama.reset()
        llama.eval(ids)
        return torch.tensor([llama_cpp.llama_get_logits(llama.ctx)[: model.config.vocab_size]])

    compare(model, logits)

    def write(texts: int, tokens: int) -> int:
        return continued([BOS], tokens)

    def first_token(prompt: Any) -> None:
        continued(prompt[0].tolist(), 1)

    return write, first_token


def measure(
    writer: Callable[[], tuple[Writer, FirstToken]], batches: list[int], tokens: int, prompt: Any, _: int
) -> dict[int, float]:
    """{texts at a time: tokens/s}, and under 0 the seconds to the first token."""
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
    return {**speeds, 0: time.perf_counter() - began}


def summarise(results: Mapping[str, Sequence[dict[int, float]]], prompt_tokens: int) -> list[Figure]:
    """The figures of all contenders, from what `measure` gave in every round."""
    found = []
    for texts in sorted({texts for rounds in results.values() for texts in rounds[0]} - {0}):
        values = {n: [speeds[texts] for speeds in rounds] for n, rounds in results.items() if texts in rounds[0]}
        found += figures(f"greedy, {texts} text{'s' * (texts != 1)} at a time", "tokens/s", values, "hf")
    first = {name: [speeds[0] for speeds in rounds] for name, rounds in results.items()}
    found += figures("time to first token", "ms", {n: [1e3 * s for s in own] for n, own in first.items()}, "hf")
    reading = {name: [prompt_tokens / s for s in own] for name, own in first.items()}
    return found + figures(f"reading {prompt_tokens} tokens", "tokens/s", reading, "hf")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", metavar="field=value", help="shape of the model, of --preset modern")
    options.add_argument("--contenders", default=",".join(CONTENDERS), help="default %(default)s")
    options.add_argument("--batches", type=counts, default="1,8,64", help="texts at a time (default %(default)s)")
    options.add_argument("--tokens", type=positive, help="of every text (default: as many as fit, at most 200)")
    options.add_argument("--threads", type=positive, default=1, help="default %(default)s")
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: plain and hf alone")
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as folder:
        config = make_config("modern", parse_assignments(args.words))
        most = config.model.block_size - 1  # <bos> is in the context, too
        tokens = args.tokens or min(200, most)
        if tokens > most:
            raise BenchmarkError(f"--tokens {tokens} do not fit into the context: at most {most}.")
        names = args.contenders.split(",") if args.device == "cpu" else ["plain", "hf"]
        if unknown := set(names) - set(CONTENDERS):
            raise BenchmarkError(f"there is no contender {min(unknown)!r}; contenders are {', '.join(CONTENDERS)}.")
        import torch

        torch.set_num_threads(args.threads)
        model = make_model(config).to(args.device)
        prompt = torch.randint(3, config.model.vocab_size, (1, config.model.block_size))
        makers: dict[str, Callable[[], tuple[Writer, FirstToken]]] = {
            "native": functools.partial(native_writer, model),
            "plain": functools.partial(plain_writer, model), "hf": functools.partial(hf_writer, model),
            "llama.cpp": functools.partial(llama_writer, model, args.threads, Path(folder)),
        }  # fmt: skip
        able = {name: [ALONE] if name == "llama.cpp" else args.batches for name in names}
        runs = {name: functools.partial(measure, functools.cache(makers[name]), able[name], tokens, prompt)
                for name in names}  # fmt: skip
        results, errors = alternate(runs, args.repeats, say)
        settings = {"shape": asdict(config.model), "tokens": tokens, "threads": args.threads, "device": args.device}
        read_once = figures("floor: weights read once", "tokens/s", {"one text": [floor(model, i) for i in range(3)]})
        found = summarise(results, prompt.shape[1]) + read_once
        if "native" in results:
            found += figures("loading", "ms", {"native": [1e3 * load_native(model) for _ in range(args.repeats)]})
        report(record("generation", settings, found, errors), args.history)


if __name__ == "__main__":
    main()
