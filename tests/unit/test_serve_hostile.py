"""Requests that want the server to work for long, or to stumble. Each case pins a bug that a trial found."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import pytest

from tinygpt.serve.protocol import ChatAsked, CompletionAsked, read_request
from tinygpt.web import ApiError, deepest


def test_quotes_that_do_not_end_are_read_once():
    """Trying the string anew at each of its quotes took an hour for 1 MiB, on the event loop."""
    code = "from tinygpt.web import deepest; assert deepest('\"' + '\\\\\"' * 500_000 + '[') == 0"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "depth"),
    [('"', 0), ('"a\\', 0), ('[["[[\\"["]]', 2), ('"\\\n"[', 1), ("]]][{}]", 0), ('[{"a":["b"]}]', 3)],
)
def test_depth_counts_brackets_outside_of_strings(text, depth):
    assert deepest(text) == depth


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionAsked, {"prompt": [0] * 100_000 + [0.5]}),
        (CompletionAsked, {"prompt": [{}] * 100_000}),
        (CompletionAsked, {"prompt": [[0]] * 100_000}),
        (ChatAsked, {"messages": [{}] * 100_000}),
        (ChatAsked, {"messages": [{"role": "user", "content": [{}] * 100_000}]}),
    ],
)
def test_a_list_wrong_in_many_places_is_one_error(kind, body):
    """One error for each wrong entry, and each kind of list, was 3 seconds and a gigabyte for 1 MiB."""
    data = json.dumps(body).encode()
    tracemalloc.start()
    with pytest.raises(ApiError):
        read_request(kind, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_headers_that_come_in_one_piece_are_counted_too():
    """The parser under uvicorn counts only what it has to wait for; 200 kB at once passed."""
    from tinygpt.serve.app import Guard, Served
    from tinygpt.web import HEADER_BYTES

    guard = Guard(None, Served("tiny", None, 16, None))
    host = {"host": "localhost"}
    for size in (HEADER_BYTES - 20, HEADER_BYTES + 20):
        scope = {"method": "GET", "path": "/health", "headers": [(b"host", b"localhost"), (b"x", b"y" * size)]}
        if size < HEADER_BYTES:
            guard.check(scope, host, keyless=False)
        else:
            with pytest.raises(ApiError, match="headers are larger than 65,536 bytes") as error:
                guard.check(scope, host, keyless=False)
            assert error.value.status == 400


def test_a_client_that_leaves_in_the_midst_of_its_body_is_no_failure():
    """It was a traceback in the log and a 500."""
    import asyncio

    from fastapi import Request

    from tinygpt.serve.app import read_body

    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    with pytest.raises(ApiError, match="the client left") as error:
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive)))
    assert error.value.status == 400


def test_the_end_of_the_server_is_told_to_who_runs_and_who_waits(byte_tokenizer):
    """After the grace they got a 500, or a stream that broke off."""
    import asyncio
    import time

    import torch

    from tinygpt.inference import Continuation
    from tinygpt.serve.engine import Closing, Engine
    from tinygpt.web import SHUTTING_DOWN

    class Slow:
        def logits(self, tokens, positions, slots, wanted):
            time.sleep(0.01)
            return torch.zeros(len(wanted), byte_tokenizer.vocab_size).index_fill(1, torch.tensor([50]), 1.0)

    async def end() -> list[str]:
        engine = Engine(Slow(), n_slots=1, n_waiting=1)
        tickets = [engine.submit([Continuation(byte_tokenizer, [5], 10_000)]) for _ in range(2)]
        while not engine.running:
            await asyncio.sleep(0.01)
        engine.stop()
        engine.stop()
        last = [[event async for event in ticket][-1].failure for ticket in tickets]
        engine.close()
        with pytest.raises(Closing):
            engine.submit([Continuation(byte_tokenizer, [5], 1)])
        return last

    assert asyncio.run(asyncio.wait_for(end(), 60)) == [SHUTTING_DOWN] * 2


def test_a_key_beyond_ascii_opens():
    """Its bytes were taken for Latin-1 and encoded once more."""
    from tinygpt.serve.app import Guard, Served

    guard = Guard(None, Served("tiny", None, 16, None, api_key="clé à moi"))
    for sent, good in (("clé à moi", True), ("clé à mo", False), ("cle a moi", False), ("", False)):
        header = f"Bearer {sent}".encode().decode("latin-1")  # as headers_of gives it
        headers = {"host": "localhost", "authorization": header}
        scope = {"method": "GET", "path": "/v1/models", "headers": []}
        if good:
            guard.check(scope, headers, keyless=False)
        else:
            with pytest.raises(ApiError, match="API key is missing or wrong"):
                guard.check(scope, headers, keyless=False)


def test_a_slash_too_many_is_404(byte_tokenizer):
    """It was a redirect, to whatever name the client had called the server by."""
    import asyncio

    import httpx

    from tinygpt.serve.app import Served, make_app

    async def ask() -> int:
        transport = httpx.ASGITransport(make_app(Served("tiny", byte_tokenizer, 16, None)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/v1/models/")).status_code

    assert asyncio.run(ask()) == 404


def test_a_prompt_that_cannot_fit_is_not_cut_and_others_are_cut_off_the_event_loop(byte_tokenizer):
    """1 MiB of text was cut on the event loop, and nobody else was answered meanwhile."""
    import asyncio
    import threading

    from tinygpt.serve.app import Served, encode_all

    where = []

    class Watched:
        n_bytes, vocab_size = byte_tokenizer.n_bytes, byte_tokenizer.vocab_size

        def encode(self, text):
            where.append(threading.current_thread())
            return byte_tokenizer.encode(text)

    served = Served("tiny", Watched(), 16, None)
    assert asyncio.run(encode_all(served, ["a" * 16, [3]], "prompt")) == [byte_tokenizer.encode("a" * 16), [3]]
    assert where and where[0] is not threading.main_thread()
    where.clear()
    with pytest.raises(ApiError, match="17 characters of prompt do not fit") as error:
        asyncio.run(encode_all(served, ["a", "a" * 17], "messages"))
    assert (error.value.code, error.value.param, where) == ("context_length_exceeded", "messages", [])
