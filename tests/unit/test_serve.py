"""The server's routes and who may use them, in process; tests/reference/test_openai_client.py asks a real one."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace

import httpx
import pytest

from tinygpt.errors import IO_ERROR, UNSAFE, UserError
from tinygpt.inference import generate
from tinygpt.serve import app as serving
from tinygpt.serve.app import Served, make_app
from tinygpt.serve.engine import Engine, PlainRows
from tinygpt.web import bind

BLOCK = 64


@pytest.fixture(scope="module")
def served(make_model, byte_tokenizer):
    engine = Engine(PlainRows(make_model("modern", block_size=BLOCK)), 2, 32)
    yield Served("tale", byte_tokenizer, BLOCK, engine)
    engine.close()


@pytest.fixture(scope="module")
def model(served):
    return served.engine.rows.model


def ask(served: Served, method: str, path: str, **how) -> httpx.Response:
    """One request to the application."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(served))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.request(method, path, **how)

    return asyncio.run(send())


def complete(served: Served, **fields) -> httpx.Response:
    return ask(served, "POST", "/v1/completions", json={"prompt": "Tom", "temperature": 0, "max_tokens": 8, **fields})


def events(response: httpx.Response) -> list[dict]:
    """The JSON of a stream, which must end with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "") and all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def error(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text
    told = response.json()["error"]
    assert told.keys() == {"message", "type", "param", "code"} and told["message"].endswith(".")
    return told


def test_a_completion(served, model, byte_tokenizer):
    told = complete(served).json()
    assert told["choices"][0]["text"] == generate(model, byte_tokenizer, "Tom", 8)[3:]
    assert told["model"] == "tale" and told["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}


def test_a_stream_says_the_same(served):
    for fields in ({}, {"stop": ["\n", "e"], "max_tokens": 40}, {"n": 3, "temperature": 1, "seed": 5}, {"echo": True}):
        choices = complete(served, **fields).json()["choices"]
        told = events(complete(served, stream=True, **fields))
        for choice in choices:
            mine = [piece["choices"][0] for piece in told if piece["choices"][0]["index"] == choice["index"]]
            assert "".join(piece["text"] for piece in mine) == choice["text"]
            assert [p["finish_reason"] for p in mine if p["finish_reason"]] == [choice["finish_reason"]]
        assert len({(piece["id"], piece["created"], piece["model"]) for piece in told}) == 1
        assert "usage" not in told[0]


def test_counts_at_the_end_of_a_stream_if_asked_for(served):
    *pieces, last = events(complete(served, stream=True, stream_options={"include_usage": True}))
    assert all(piece["usage"] is None for piece in pieces)
    assert last["choices"] == [] and last["usage"]["total_tokens"] == 11


def test_a_chat_continues_the_messages_as_one_text(served, model, byte_tokenizer):
    body = {"messages": [{"role": "user", "content": "Tom"}, {"role": "user", "content": "Mia"}], "temperature": 0}
    told = ask(served, "POST", "/v1/chat/completions", json={**body, "max_completion_tokens": 6}).json()
    expected = generate(model, byte_tokenizer, "Tom\n\nMia", 6)[8:]
    assert told["choices"][0]["message"] == {"role": "assistant", "content": expected}
    streamed = events(ask(served, "POST", "/v1/chat/completions", json={**body, "max_tokens": 6, "stream": True}))
    deltas = [piece["choices"][0]["delta"] for piece in streamed]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == expected


def test_the_room_left_is_the_default_length(served):
    told = complete(served, max_tokens=None, logit_bias={"1": -100}).json()
    assert told["usage"]["total_tokens"] == BLOCK and told["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "fits"),
    [({"prompt": "a" * 60, "max_tokens": 4}, True), ({"prompt": "a" * 60, "max_tokens": 5}, False),
     ({"prompt": "a" * 64, "max_tokens": 0}, True), ({"prompt": "a" * 64, "max_tokens": None}, False),
     ({"prompt": "a" * 65, "max_tokens": 0}, False), ({"prompt": "a" * 63, "max_tokens": None}, True)],
)  # fmt: skip
def test_the_context_is_the_limit(served, fields, fits):
    response = complete(served, **fields)
    if fits:
        assert response.status_code == 200
    else:
        assert error(response, 400)["code"] == "context_length_exceeded"


def test_ids_are_a_prompt_and_must_exist(served):
    assert complete(served, prompt=[5, 6]).json()["usage"]["prompt_tokens"] == 2
    assert complete(served, prompt=[[5], [6, 7]], n=2).json()["usage"]["prompt_tokens"] == 3
    assert len(complete(served, prompt=["a", "b"], n=2).json()["choices"]) == 4
    assert error(complete(served, prompt=[5, 259]), 400)["param"] == "prompt"
    assert "32" in error(complete(served, prompt=["a"] * 33), 400)["message"]
    body = {"content": b'{"prompt": "\\ud800"}', "headers": {"content-type": "application/json"}}
    assert error(ask(served, "POST", "/v1/completions", **body), 400)["param"] == "prompt"


def test_an_empty_prompt_is_the_start_of_a_document(served):
    assert complete(served, prompt="").json()["usage"]["prompt_tokens"] == 1


def test_typed_marks_are_text(served, byte_tokenizer):
    told = complete(served, prompt="<eos>", echo=True, logprobs=0, max_tokens=0).json()["choices"][0]
    assert told["text"] == "<eos>" and told["logprobs"]["tokens"] == list("<eos>")


def test_logprobs(served):
    told = complete(served, logprobs=2, echo=True).json()["choices"][0]["logprobs"]
    assert len(told["tokens"]) == 11 and told["token_logprobs"][0] is None and len(told["top_logprobs"][5]) == 2
    assert told["text_offset"][:3] == [0, 1, 2]
    assert complete(served).json()["choices"][0]["logprobs"] is None
    pieces = [event["choices"][0]["logprobs"] for event in events(complete(served, logprobs=0, echo=True, stream=True))]
    streamed = [offset for piece in pieces if piece for offset in piece["text_offset"]]
    assert streamed == complete(served, logprobs=0, echo=True).json()["choices"][0]["logprobs"]["text_offset"]
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    content = ask(served, "POST", "/v1/chat/completions", json=chat).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 3 and len(content[0]["top_logprobs"]) == 2
    del chat["logprobs"]
    assert error(ask(served, "POST", "/v1/chat/completions", json=chat), 400)["param"] == "top_logprobs"


def test_models(served):
    [card] = ask(served, "GET", "/v1/models").json()["data"]
    assert card["id"] == "tale" and ask(served, "GET", "/v1/models/tale").json() == card
    for response in (ask(served, "GET", "/v1/models/tail"), complete(served, model="tail")):
        assert error(response, 404)["code"] == "model_not_found"
    assert complete(served, model="tale").status_code == 200


def test_other_paths_and_methods(served):
    assert "/v1/models" in error(ask(served, "GET", "/v1/model"), 404)["message"]
    assert error(ask(served, "GET", "/v1/completions"), 405)
    assert error(ask(served, "DELETE", "/v1/models"), 405)
    assert "/v1/completions" in ask(served, "GET", "/openapi.json").json()["paths"]
    assert ask(served, "GET", "/docs").status_code == 404  # its page loads scripts from elsewhere


def test_health_and_metrics(served):
    assert ask(served, "GET", "/health").json() == {"status": "ok"}
    before = ask(served, "GET", "/metrics").text
    complete(served)
    complete(served, temperature=9)
    after = ask(served, "GET", "/metrics").text

    def figure(text: str, name: str) -> int:
        return int(text.split(f"\ntinygpt_{name} ")[1].split("\n")[0])

    for name, gained in (
        ("requests_done_total", 1),
        ("requests_refused_total", 1),
        ("tokens_total", 8),
        ("texts_queued", 0),
    ):
        assert figure(after, name) - figure(before, name) == gained


def test_full_is_429_with_a_time_to_wait(served, monkeypatch):
    monkeypatch.setattr(served.engine, "most", 0)
    response = complete(served)
    assert error(response, 429)["code"] == "rate_limit_exceeded" and response.headers["retry-after"] == "1"


def test_closing_is_503(served, monkeypatch):
    monkeypatch.setattr(served.engine, "closing", True)
    assert error(complete(served), 503)
    assert error(ask(served, "GET", "/health"), 503)


def test_bodies(served, monkeypatch):
    def post(**how):
        return ask(served, "POST", "/v1/completions", **how)

    json_type = {"content-type": "application/json; charset=utf-8"}
    assert post(content=b'{"prompt": "a", "max_tokens": 1}', headers=json_type).status_code == 200
    assert error(post(content=b"{", headers=json_type), 400)
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert error(post(content=b"{}", headers={"content-type": kind}), 415)
    body = b'{"prompt": "a", "max_tokens": 1, "user": "%s"}'
    fitting = serving.BODY_BYTES - len(body) + 2
    assert post(content=body % (b"x" * fitting), headers=json_type).status_code == 200
    response = post(content=body % (b"x" * (fitting + 1)), headers=json_type)
    assert error(response, 413) and response.headers["connection"] == "close"


def test_a_body_that_never_ends_is_given_up(served, monkeypatch):
    monkeypatch.setattr(serving, "BODY_S", 0.1)

    async def slowly():
        yield b"{"
        await asyncio.sleep(20)

    assert error(
        ask(served, "POST", "/v1/completions", content=slowly(), headers={"content-type": "application/json"}), 408
    )


GOOD_HOSTS = ["localhost", "localhost:9", "127.0.0.1:8000", "[::1]", "[::1]:80", "LOCALHOST"]
BAD_HOSTS = [
    "evil.com",
    "localhost.evil.com",
    "127.0.0.1.evil.com",
    "localhost:80:80",
    "localhost:x",
    "",
    "0.0.0.0",
    "::1",
]


@pytest.mark.parametrize("host", GOOD_HOSTS + BAD_HOSTS)
def test_host(served, host):
    response = ask(served, "GET", "/v1/models", headers={"host": host})
    assert response.status_code == (200 if host in GOOD_HOSTS else 403)
    if host == "evil.com":
        assert "--allowed-host" in error(response, 403)["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("https://127.0.0.1", 200), ("null", 403), ("http://evil.com", 403), ("", 403),
     ("http://localhost@evil.com", 403), ("file://", 403), ("http://[", 403), ("localhost", 403)],
)  # fmt: skip
def test_origin(served, origin, status):
    response = ask(served, "GET", "/v1/models", headers={"origin": origin})
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers


def test_one_origin_can_be_let_in(served, byte_tokenizer):
    with_cors = Served("tale", byte_tokenizer, BLOCK, served.engine, api_key="k", cors="https://a.example")
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    answer = ask(with_cors, "OPTIONS", "/v1/completions", headers=asked)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://a.example"
    assert ask(with_cors, "OPTIONS", "/v1/completions", headers={"origin": "https://b.example"}).status_code == 403
    answer = ask(with_cors, "GET", "/v1/models", headers={"origin": "https://a.example", "authorization": "Bearer k"})
    assert answer.status_code == 200 and "access-control-allow-origin" in answer.headers


def test_other_hosts_can_be_let_in(served, byte_tokenizer):
    named = Served("tale", byte_tokenizer, BLOCK, served.engine, allowed_hosts=["Box.lan"])
    assert ask(named, "GET", "/v1/models", headers={"host": "box.lan:8000"}).status_code == 200
    assert ask(named, "GET", "/v1/models", headers={"host": "evil.com"}).status_code == 403
    every = Served("tale", byte_tokenizer, BLOCK, served.engine, allowed_hosts=["*"])
    assert ask(every, "GET", "/v1/models", headers={"host": "evil.com"}).status_code == 200


def test_a_key_is_demanded_of_everything_below_v1(served, byte_tokenizer, caplog):
    locked = Served("tale", byte_tokenizer, BLOCK, served.engine, api_key="sé-cret")
    assert ask(locked, "GET", "/health").status_code == 200
    for word in (None, "Bearer", "Bearer x", "Basic sé-cret"):
        headers = {} if word is None else {"authorization": word.encode()}
        response = ask(locked, "GET", "/v1/models", headers=headers)
        assert error(response, 401)["code"] == "invalid_api_key" and response.headers["www-authenticate"] == "Bearer"
    assert ask(locked, "GET", "/v1/models", headers={"authorization": "bearer sé-cret".encode()}).status_code == 200
    assert "cret" not in caplog.text


def test_the_log_holds_one_line_whatever_the_path(served, caplog):
    with caplog.at_level("INFO", "tinygpt.serve"):
        ask(served, "GET", "/v1/models/%1b%5b31m%0a%0dforged%00")
    [record] = caplog.records
    assert record.getMessage().isprintable()


def test_addresses_of_others_need_a_key():
    with pytest.raises(UserError, match="TINYGPT_API_KEY") as caught:
        bind("0.0.0.0", 0, "")
    assert caught.value.exit_code == UNSAFE
    bind("0.0.0.0", 0, "key").close()
    bind("localhost", 0, "").close()


def test_a_port_that_is_taken_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="--port") as caught:
            bind("127.0.0.1", taken.getsockname()[1], "")
    assert caught.value.exit_code == IO_ERROR
    with pytest.raises(UserError, match=r"cannot listen on no\.such.host.invalid"):
        bind("no.such.host.invalid", 0, "key")


def test_a_failing_model_ends_the_answer_with_an_error(served, monkeypatch):
    def fail(*args):
        raise RuntimeError("no")

    monkeypatch.setattr(served.engine, "rows", SimpleNamespace(logits=fail))
    assert error(complete(served), 500)
    lines = complete(served, stream=True).text.strip().split("\n\n")
    assert "failed" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
