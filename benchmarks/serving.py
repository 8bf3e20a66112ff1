"""Serving speed: tokens a second and time to the first token with 1, 8 and 64 clients, beside a Hugging Face loop.

    python -m benchmarks.serving
    python -m benchmarks.serving --clients 1,16 --requests 64 n_embd=192 n_layers=6

A model with the weights of one training step is served by `tinygpt serve` in a process of its own. Clients ask for
streams of --tokens greedy tokens, each with a prompt of its own, one request after the other. Hugging Face has the
same weights and writes as many texts in this process by `generate`, one by one (hf) and as many at a time as there are
clients (hf batch), without HTTP. Rounds alternate; `plain` is the server without its native engine.

time to the first token     from sending the request to the first piece of text, of all requests of all rounds
"""

from __future__ import annotations

import asyncio
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.common import (
    BenchmarkError,
    add_timeout,
    alternate,
    cores,
    counts,
    figures,
    parser,
    plain_errors,
    positive,
    record,
    report,
    say,
)
from benchmarks.generation import hf_writer
from benchmarks.reliability.server import serving

LEAST_REQUESTS = 16
Round = dict[str, Any]


async def ask_all(url: str, clients: int, requests: int, tokens: int) -> Round:
    """All requests, at most `clients` at a time; tokens/s and the milliseconds to each first piece."""
    import httpx

    waiting, firsts, written = list(range(requests)), [], 0

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal written
        while waiting:
            prompt = f"{waiting.pop()} stories began"
            body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                    "stream_options": {"include_usage": True}}  # fmt: skip
            began, first, last = time.perf_counter(), 0.0, ""
            async with session.stream("POST", f"{url}/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise BenchmarkError(f"the server answered {answer.status_code}.")
                async for line in answer.aiter_lines():
                    first = first or time.perf_counter() - began
                    last = line if line.startswith("data: {") else last
            firsts.append(1e3 * first)
            written += json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"]

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return {"speed": written / (time.perf_counter() - began), "firsts": firsts}


def ask_server(run: Path, engine: str, clients: int, requests: int, tokens: int, _: int) -> Round:
    """One round with one server."""
    options = ("--engine", engine, "--parallel", min(clients, 64))
    with serving(run.parents[1], *options, name=run.name, more_environment={"OMP_NUM_THREADS": str(cores())}) as server:
        asyncio.run(ask_all(server.url, clients, min(clients, 4), 4))  # warm
        return asyncio.run(ask_all(server.url, clients, requests, tokens))


def ask_hf(writer: Callable[[], Any], batch: int, requests: int, tokens: int, _: int) -> Round:
    """The same number of texts by Hugging Face, `batch` at a time."""
    write, _first_token = writer()
    write(batch, 4)
    began = time.perf_counter()
    written = sum(write(batch, tokens) for _ in range(max(1, requests // batch)))
    return {"speed": written / (time.perf_counter() - began), "firsts": []}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", metavar="field=value", help="shape of the model, of --preset modern")
    options.add_argument("--clients", type=counts, default="1,8,64", help="how many at a time (default %(default)s)")
    options.add_argument("--requests", type=positive, help="of a round (default: twice the clients, at least 16)")
    options.add_argument("--tokens", type=positive, default=100, help="of every request (default %(default)s)")
    options.add_argument("--no-peers", action="store_true", help="without Hugging Face")
    add_timeout(options)
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        import torch

        from tinygpt import runs

        folder = Path(temporary)
        job = {"device": "cpu", "threads": None}
        text = contenders.default_text(folder, args.timeout)
        setting = contenders.Setting(folder, text, job, args.words, "modern", args.timeout)
        contenders.train_tinygpt(setting, folder / "trained", "modern", ["--steps", "1"], args.words)
        run = contenders.run_folder(folder / "trained")
        model = runs.load(str(run))[1]
        torch.set_num_threads(cores())
        hf = functools.cache(functools.partial(hf_writer, model))
        found, errors = [], {}
        for clients in args.clients:
            say(f"{clients} clients:")
            requests = args.requests or max(LEAST_REQUESTS, 2 * clients)
            makers: dict[str, Callable[[int], Round]] = {
                "tinygpt": functools.partial(ask_server, run, "auto", clients, requests, args.tokens),
                "plain": functools.partial(ask_server, run, "plain", clients, requests, args.tokens),
            }
            if not args.no_peers:
                makers["hf"] = functools.partial(ask_hf, hf, 1, min(requests, LEAST_REQUESTS), args.tokens)
                if clients > 1:
                    makers["hf batch"] = functools.partial(ask_hf, hf, clients, requests, args.tokens)
            results, failed = alternate(makers, args.repeats, say)
            errors |= failed
            speeds = {name: [one["speed"] for one in rounds] for name, rounds in results.items()}
            found += figures(f"{clients} clients", "tokens/s", speeds, "hf")
            waits = {name: sorted(ms for one in rounds for ms in one["firsts"]) for name, rounds in results.items()}
            served = {name: ms for name, ms in waits.items() if ms}
            found += figures(f"{clients} clients, to the first token, median", "ms",
                             {name: [statistics.median(ms)] for name, ms in served.items()})  # fmt: skip
            found += figures(f"{clients} clients, to the first token, 95 %", "ms",
                             {name: [ms[int(0.95 * (len(ms) - 1))]] for name, ms in served.items()})  # fmt: skip
        settings = {"words": args.words, "tokens": args.tokens, "parameters": model.parameter_count()}
        report(record("serving", settings, found, errors), args.history)


if __name__ == "__main__":
    main()
