"""The server as its clients meet it: a real process, the official `openai` package, and schemathesis on its API."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading

import httpx
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.reliability.server import serving, wait_until
from tinygpt import runs
from tinygpt.inference import generate
from tinygpt.serve.app import Served, make_app
from tinygpt.serve.engine import Engine, PlainRows

BLOCK = 512  # long enough that a text is still being written when a client leaves


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_trained):
    """A run whose weights are those at the start; its texts are nonsense, and long."""
    return make_trained(tmp_path_factory.mktemp("served") / "runs" / "tale", block_size=BLOCK).folder


def serve(folder, *options, **variables):
    """`tinygpt serve tale` in a process of its own."""
    return serving(folder.parents[1], *options, name=folder.name, more_environment=variables)


@pytest.fixture(scope="module")
def url(folder):
    with serve(folder) as server:
        yield server.url
        assert server.process.poll() is None


@pytest.fixture(scope="module")
def reference(folder):
    """reference(prompt, n): the greedy continuation by the package itself."""
    loaded, model, _, _ = runs.load(str(folder))
    return lambda prompt, n: generate(model, loaded.tokenizer, prompt, n)[len(prompt) :]


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tale"]
    assert client.models.retrieve("tale").owned_by == "tinygpt"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_completions_whole_and_streamed(client, reference):
    expected = reference("The fox", 30)
    whole = client.completions.create(model="tale", prompt="The fox", max_tokens=30, temperature=0)
    assert whole.choices[0].text == expected and whole.usage.completion_tokens == 30
    streamed = client.completions.create(model="tale", prompt="The fox", max_tokens=30, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == expected


def test_chat_whole_and_streamed(client, reference):
    messages = [{"role": "system", "content": "Old Mia"}, {"role": "user", "content": "lost"}]
    expected = reference("Old Mia\n\nlost", 20)
    fields = {"model": "tale", "messages": messages, "max_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**fields, logprobs=True, top_logprobs=3)
    assert whole.choices[0].message.content == expected
    assert len(whole.choices[0].logprobs.content) == 20 and len(whole.choices[0].logprobs.content[0].top_logprobs) == 3
    pieces = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == expected
    assert pieces[-1].usage.completion_tokens == 20


def test_several_choices_seeds_and_stops(client):
    def ask(**fields):
        return [
            c.text for c in client.completions.create(model="tale", prompt="Tom", max_tokens=20, n=3, **fields).choices
        ]

    first = ask(seed=4, temperature=1)
    assert ask(seed=4, temperature=1) == first and len(set(first)) == 3 and ask(seed=5, temperature=1) != first
    letter = max("".join(first), key="".join(first).count)
    for text in ask(seed=4, temperature=1, stop=[letter]):
        assert letter not in text


def test_many_at_once_are_each_what_one_alone_is(url, reference):
    prompts = ["The fox", "A small owl", "Tom", "é", "My brother lost", "x"] * 4

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client:

            async def one(prompt: str, streamed: bool) -> str:
                fields = {"model": "tale", "prompt": prompt, "max_tokens": 25, "temperature": 0}
                if not streamed:
                    return (await client.completions.create(**fields)).choices[0].text
                return "".join(
                    [p.choices[0].text async for p in await client.completions.create(**fields, stream=True)]
                )

            return await asyncio.gather(*(one(prompt, i % 2 == 0) for i, prompt in enumerate(prompts)))

    assert asyncio.run(ask()) == [reference(prompt, 25) for prompt in prompts]


def test_errors_are_those_of_the_package(client):
    def ask(**fields):
        return client.completions.create(**{"model": "tale", "prompt": "a", "max_tokens": 1, **fields})

    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        ask(temperature=3)
    assert caught.value.param == "temperature" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(max_tokens=BLOCK)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        ask(model="other")
    with pytest.raises(openai.APIStatusError) as caught:
        ask(user="x" * (1 << 20))
    assert caught.value.status_code == 413
    with pytest.raises(openai.RateLimitError):
        fill(client)


def fill(client) -> None:
    """More texts than may run and wait, until one is refused; streams are opened and left again."""
    with contextlib.ExitStack() as open_streams:
        for _ in range(4):
            stream = client.completions.create(
                model="tale", prompt=["a"] * 16, n=2, max_tokens=BLOCK - 8, logit_bias={"1": -100}, stream=True
            )
            open_streams.enter_context(stream)


@pytest.fixture(scope="module")
def slow(folder):
    """A server on the plain path, which takes longer for a text than its clients wait."""
    with serve(folder, "--engine", "plain") as server:
        yield server


def test_a_client_that_leaves_stops_the_writing(slow):
    """Streamed, after the first piece; and unstreamed, by a time-out of its own."""
    client = openai.OpenAI(base_url=f"{slow.url}/v1", api_key="any", max_retries=0, timeout=60)
    for streamed in (True, False):
        assert wait_until(slow.idle) is not None
        before = slow.figure("requests_cancelled_total")
        fields = {"model": "tale", "prompt": "a", "n": 8, "logit_bias": {"1": -100}}
        if streamed:
            with client.completions.create(**fields, stream=True) as stream:
                next(iter(stream))
        else:
            with pytest.raises(openai.APITimeoutError):
                client.with_options(timeout=0.3).completions.create(**fields)
        assert wait_until(slow.idle) is not None
        assert slow.figure("requests_cancelled_total") == before + 1
    assert client.completions.create(model="tale", prompt="a", max_tokens=1).choices
    client.close()


def test_a_key_is_demanded(folder):
    with serve(folder, TINYGPT_API_KEY="secret") as server:
        url = f"{server.url}/v1"
        with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=url, api_key="x") as client:
            client.models.list()
        with openai.OpenAI(base_url=url, api_key="secret") as client:
            assert client.models.list().data
        assert len(server.lines()) == 2 and "secret" not in server.log()


@pytest.mark.parametrize("grace", [30, 0])
def test_sigterm_lets_what_runs_finish_within_the_grace(folder, grace):
    with serve(folder, "--grace", grace, "--engine", "plain") as server:
        answers: list[httpx.Response | Exception] = []

        def ask() -> None:
            body = {"prompt": "a", "max_tokens": 400, "logit_bias": {"1": -100}}
            try:
                answers.append(httpx.post(f"{server.url}/v1/completions", json=body, timeout=60))
            except httpx.HTTPError as error:
                answers.append(error)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for one in clients:
            one.start()
        assert wait_until(lambda: server.figure("texts_active") == 4) is not None
        server.process.send_signal(signal.SIGTERM)
        for one in clients:
            one.join(60)
        assert server.process.wait(60) == 0
        finished = [a for a in answers if isinstance(a, httpx.Response) and a.status_code == 200]
        assert len(answers) == 4 and len(finished) == (4 if grace else 0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
        assert "Traceback" not in server.log()


# --- the document -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def application(make_model, byte_tokenizer):
    engine = Engine(PlainRows(make_model("modern", block_size=16)), 4, 64)
    yield make_app(Served("tale", byte_tokenizer, 16, engine, allowed_hosts=["testserver"]))
    engine.close()


ROUTES = ["POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{name}",
          "GET /health", "GET /metrics"]  # fmt: skip


def test_every_answer_is_one_that_the_document_names(application):
    """schemathesis makes requests from the document, right ones and wrong ones, and holds the answers against it."""
    api = schemathesis.openapi.from_asgi("/openapi.json", application)
    operations = {found.ok().label: found.ok() for found in api.get_all_operations()}
    assert list(operations) == ROUTES
    for label in ROUTES:
        wrong_too = label.startswith("POST")  # nothing wrong can be made of a route without a body
        for mode in schemathesis.GenerationMode if wrong_too else [schemathesis.GenerationMode.POSITIVE]:

            @settings(
                max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=operations[label].as_strategy(generation_mode=mode))
            def agrees(case):
                response = case.call()
                assert response.status_code < 500
                case.validate_response(
                    response, excluded_checks=[positive_data_acceptance]
                )  # a context can be too short

            agrees()
