"""What a request may say, and the form of an answer (OpenAI's)."""

from __future__ import annotations

import json

import pytest

from tinygpt.serve.protocol import (
    Chat,
    ChatAsked,
    Choice,
    CompletionAsked,
    Completions,
    read_request,
    usage,
)
from tinygpt.web import MAX_DEPTH, ApiError, deepest, read_json, write_json


def body(**fields) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


def refused(kind, data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_request(kind, data)
    assert caught.value.status == 400
    return caught.value


EDGES = [  # field, a value at the edge, one beyond
    ("temperature", 2, 2.0001), ("temperature", 0, -0.1), ("top_p", 1, 1.01), ("top_p", 0.001, 0), ("n", 8, 9),
    ("n", 1, 0), ("stop", ["a"] * 4, ["a"] * 5),
    ("stop", "x" * 64, "x" * 65), ("stop", "x", ""), ("logprobs", 20, 21),
    ("max_tokens", 0, -1), ("seed", 2**63 - 1, 2**63), ("seed", -(2**63), -(2**63) - 1), ("min_p", 1, 1.1),
    ("presence_penalty", 2, 2.1), ("frequency_penalty", -2, -2.1), ("repetition_penalty", 0.01, 0), ("top_k", -1, -2),
    ("logit_bias", {str(i): 1 for i in range(300)}, {str(i): 1 for i in range(301)}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "good", "bad"), EDGES)
def test_each_limit_at_its_edge_and_one_beyond(field, good, bad):
    read_request(CompletionAsked, body(**{field: good}))
    error = refused(CompletionAsked, body(**{field: bad}))
    assert error.param.split(".")[0] == field and error.message.startswith(field)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", "1"), ("temperature", True), ("n", 1.5), ("n", "1"), ("stream", 1), ("prompt", 5),
     ("prompt", ["a", 3]), ("stop", [1]), ("max_tokens", 10**30), ("logit_bias", [1]), ("stream_options", 3),
     ("logprobs", True), ("user", 3)],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(field, value):
    error = refused(CompletionAsked, body(**{field: value}))
    assert error.param.split(".")[0] == field and error.message.endswith(".") and "\n" not in error.message


def test_null_is_the_default_and_unknown_fields_are_nothing():
    fields = dict.fromkeys(CompletionAsked.model_fields.keys() - {"prompt"})
    asked = read_request(CompletionAsked, body(**fields, best_of=3, suffix="x"))
    assert asked.sampling(259).temperature == 1.0 and asked.stops() == []


def test_a_whole_number_may_have_a_point():
    assert read_request(CompletionAsked, b'{"n": 2.0, "temperature": 1.0}').n == 2
    refused(CompletionAsked, b'{"n": 2.5}')


def test_zero_temperature_is_greedy_and_small_ones_are_not():
    assert read_request(CompletionAsked, body(temperature=0)).sampling(9).temperature == 0
    assert read_request(CompletionAsked, body(temperature=1e-300)).sampling(9).temperature > 0


def test_prompts():
    for prompt, expected in [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ]:
        assert read_request(CompletionAsked, body(prompt=prompt)).prompts() == expected
    assert refused(CompletionAsked, body(prompt=[])).param == "prompt"
    assert refused(CompletionAsked, body(prompt=[[]])).param.startswith("prompt")


def test_bias_must_name_tokens_that_there_are():
    assert read_request(CompletionAsked, body(logit_bias={"5": -100})).sampling(6).logit_bias == {5: -100}
    for bias in ({"6": 1}, {"-1": 1}, {"x": 1}, {"٣": 1}, {"1": 101}, {"9" * 5000: 1}):
        with pytest.raises(ApiError, match="logit_bias"):
            read_request(CompletionAsked, body(logit_bias=bias)).sampling(6)


def test_messages_become_one_text():
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": parts},
        {"role": "user", "content": None},
    ]
    assert read_request(ChatAsked, json.dumps({"messages": messages}).encode()).text() == "a\n\nbc\n\n"
    for wrong in (
        [],
        [{"role": "user"}, 3],
        [{"content": "x"}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ):
        error = refused(ChatAsked, json.dumps({"messages": wrong}).encode())
        assert error.param.startswith("messages")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1,]", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b"\xff",
     b'{"a": "\xc0\x80"}',     b'{"a":' + b"9" * 5000 + b"}", b"[" * 33 + b"]" * 33, b"[" * 200_000, b'\xef\xbb\xbf{}'],
)  # fmt: skip
def test_what_is_no_strict_json_is_refused(data):
    with pytest.raises(ApiError, match="no valid JSON") as caught:
        read_json(data)
    assert caught.value.status == 400 and len(caught.value.message) < 300


def test_depth_counts_brackets_outside_strings():
    assert deepest('{"[[[\\"[": [{}]}') == 3 and deepest("3") == 0
    assert read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert deepest('"' + "\\" * 100_000) == 0  # an unclosed string takes no time


def test_bodies_that_are_json_but_no_object():
    for data in (b"3", b"null", b"[]", b'"x"'):
        assert "the body" in refused(CompletionAsked, data).message


def test_half_a_surrogate_pair_can_be_quoted():
    assert json.loads(write_json({"a": "\ud800é"})) == {"a": "\ud800é"}


def test_errors_have_openais_form():
    told = ApiError(429, "later.", None, "rate_limit_exceeded").body()["error"]
    assert told == {"message": "later.", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    assert ApiError(400, "x").body()["error"]["type"] == "invalid_request_error"
    assert ApiError(503, "x").body()["error"]["type"] == "server_error"


CHANCES = [
    {"id": 1, "token": "On", "bytes": [79, 110], "logprob": None, "top": []},
    {"id": 2, "token": "ce", "bytes": [99, 101], "logprob": -0.5,
     "top": [{"id": 2, "token": "ce", "bytes": [99, 101], "logprob": -0.5}]},
]  # fmt: skip


def test_whole_answers():
    form = Completions("tale", ["Once"])
    told = form.envelope(form.whole([Choice(" upon", CHANCES, "stop")]), usage(1, 2), whole=True)
    assert told["object"] == "text_completion" and told["id"].startswith("cmpl-") and told["model"] == "tale"
    assert told["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    [choice] = told["choices"]
    assert choice["text"] == "Once upon" and choice["finish_reason"] == "stop" and choice["index"] == 0
    assert choice["logprobs"] == {
        "tokens": ["On", "ce"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"ce": -0.5}], 
        "text_offset": [0, 2],
    }  # fmt: skip

    chat = Chat("tale")
    told = chat.envelope(chat.whole([Choice("hi", CHANCES[1:], "length")]), usage(1, 2), whole=True)
    assert told["object"] == "chat.completion" and told["id"].startswith("chatcmpl-")
    [choice] = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hi"} and choice["finish_reason"] == "length"
    [content] = choice["logprobs"]["content"]
    assert content["token"] == "ce" and content["top_logprobs"] == [
        {"token": "ce", "logprob": -0.5, "bytes": [99, 101]}
    ]


def test_pieces_of_a_chat():
    chat = Chat("tale")
    assert chat.first(1)[0]["delta"] == {"role": "assistant", "content": ""}
    both = chat.piece(0, Choice("x", None, "stop"))
    assert [piece["delta"] for piece in both] == [{"content": "x"}, {}]
    assert [piece["finish_reason"] for piece in both] == [None, "stop"]
    assert chat.piece(0, Choice("", None, None)) == []
    assert chat.envelope(both, None, whole=False)["object"] == "chat.completion.chunk"
    [end] = chat.piece(0, Choice("", CHANCES, "length"))  # chances of what was held back are not lost
    assert len(end["logprobs"]["content"]) == 2
