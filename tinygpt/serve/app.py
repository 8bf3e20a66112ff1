"""The server itself: routes, who may ask, and limits. One status per cause, one outcome per request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastapi import Request
from fastapi.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

import tinygpt
from tinygpt import web
from tinygpt.errors import UserError
from tinygpt.inference import Continuation, encode_prompt
from tinygpt.serve import protocol
from tinygpt.serve.engine import Closing, Engine, Full, Ticket
from tinygpt.serve.protocol import Asked, AskedT, ChatAsked, Choice, CompletionAsked, Completions
from tinygpt.tokenizer import Tokenizer
from tinygpt.web import PLAIN_HEADERS, SHUTTING_DOWN, ApiError, json_response, plain_app, refusal

BODY_BYTES, BODY_S = 1 << 20, 30.0  # largest body, and the time that a client has for sending it
LOGGER = logging.getLogger("tinygpt.serve")


@dataclass
class Served:
    """The model on offer, and who may ask for it."""

    name: str
    tokenizer: Tokenizer
    block_size: int
    engine: Engine
    api_key: str = ""
    allowed_hosts: Sequence[str] = ()
    cors: str = ""  # an origin whose pages may use the server
    created: int = field(default_factory=lambda: int(time.time()))
    outcomes: Counter[str] = field(default_factory=Counter)  # done, cancelled, refused or failed

    @cached_property
    def most_bytes(self) -> int:
        """Of the longest prompt: one of more characters cannot fit, whatever its tokens are."""
        return self.block_size * int(self.tokenizer.n_bytes().max())


# --- what is asked, as texts to write --------------------------------------------------------------------------------


def to_texts(
    asked: Asked, prompts: Sequence[list[int]], wanted: int | None, logprobs: int | None, served: Served
) -> list[Continuation]:
    """prompts * n texts of at most `wanted` tokens, or as many as there is room for. ApiError where they do not fit."""
    n, seed = asked.n or 1, asked.first_seed()
    if len(prompts) * n > protocol.MAX_CHOICES:
        raise ApiError(
            400,
            f"{len(prompts)} prompts times n={n} are more than {protocol.MAX_CHOICES} texts; send them in parts.",
            "n",
        )
    sampling = asked.sampling(served.tokenizer.vocab_size)
    texts: list[Continuation] = []
    for ids in prompts:
        room = served.block_size - len(ids)
        if room < (0 if wanted == 0 else 1) or (wanted or 0) > room:
            sum_told = f"{len(ids)} tokens of prompt" + (f" and max_tokens={wanted}" if wanted is not None else "")
            raise ApiError(
                400, f"{sum_told} do not fit into the context of {served.block_size} tokens; shorten one of them.",
                "max_tokens" if wanted and len(ids) < served.block_size else "prompt", "context_length_exceeded",
            )  # fmt: skip
        for _ in range(n):
            texts.append(
                Continuation(
                    served.tokenizer, ids, room if wanted is None else wanted, sampling,
                    seed=(seed + len(texts)) % 2**63, stop=asked.stops(), logprobs=logprobs,
                )
            )  # fmt: skip
    return texts


async def encode_all(served: Served, prompts: Sequence[str | list[int]], param: str) -> list[list[int]]:
    """Ids of the prompts, cut off the event loop. ApiError for a text that is too long whatever its tokens are."""
    for prompt in prompts:
        if isinstance(prompt, str) and len(prompt) > served.most_bytes:
            raise ApiError(
                400, f"{len(prompt):,} characters of prompt do not fit into the context of {served.block_size} tokens; "
                "shorten them.", param, "context_length_exceeded",
            )  # fmt: skip
    return await asyncio.to_thread(lambda: [encode(served.tokenizer, prompt, param) for prompt in prompts])


def encode(tokenizer: Tokenizer, prompt: str | list[int], param: str) -> list[int]:
    """Ids of a prompt; of text no special ones. ApiError for ids that there are not and text that is no Unicode."""
    if isinstance(prompt, str):
        try:
            return encode_prompt(tokenizer, prompt)
        except (UserError, UnicodeError) as error:
            raise ApiError(400, f"{param}: {str(error).rstrip('.')}.", param) from None
    wrong = next((id for id in prompt if id >= tokenizer.vocab_size), None)
    if wrong is not None:
        raise ApiError(400, f"{param}: {wrong} is no token id; they go from 0 to {tokenizer.vocab_size - 1}.", param)
    return prompt


# --- answers ---------------------------------------------------------------------------------------------------------


class Answer(Response):
    """What the engine writes for one request, streamed or whole. A client that leaves cancels it."""

    def __init__(self, served: Served, ticket: Ticket, form: Completions, prompt_tokens: int, asked: Asked) -> None:
        self.served, self.ticket, self.form, self.prompt_tokens = served, ticket, form, prompt_tokens
        self.streamed = bool(asked.stream)
        self.usage_wanted = bool(asked.stream_options and asked.stream_options.include_usage)
        self.tokens = [0] * ticket.open  # written so far, of each text
        self.failed = False
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self.watch(receive))
        try:
            await (self.stream(send) if self.streamed else self.whole(scope, receive, send))
        finally:
            self.served.outcomes["failed" if self.failed else "cancelled" if self.ticket.open else "done"] += 1
            self.ticket.cancel()
            watcher.cancel()

    async def watch(self, receive: Receive) -> None:
        """Cancel when the client leaves."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.ticket.cancel()

    def usage(self) -> dict[str, int]:
        """Counts of the whole request; a prompt counts once, whatever n."""
        return protocol.usage(self.prompt_tokens, sum(self.tokens))

    async def parts(self) -> AsyncIterator[tuple[int, Choice]]:
        """The pieces of all texts as they come. ApiError where the model failed."""
        async for event in self.ticket:
            if event.failure:
                self.failed = True
                if event.failure == SHUTTING_DOWN:
                    raise ApiError(503, f"{SHUTTING_DOWN}.")
                raise ApiError(500, f"{event.failure}; the server's log says more.")
            self.tokens[event.choice] = event.tokens
            yield event.choice, Choice(event.piece, event.chances, event.finished or None)

    async def whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One JSON object at the end."""
        choices = [Choice() for _ in self.tokens]
        try:
            async for index, part in self.parts():
                choice = choices[index]
                choice.text += part.text
                choice.finish_reason = part.finish_reason
                if part.chances is not None:
                    choice.chances = (choice.chances or []) + part.chances
        except ApiError as error:
            return await refusal(error)(scope, receive, send)
        if self.ticket.open:  # the client is gone
            return
        answer = self.form.envelope(self.form.whole(choices), self.usage(), whole=True)
        await json_response(answer)(scope, receive, send)

    async def stream(self, send: Send) -> None:
        """Server-sent events: a piece each, then the counts if asked for, then [DONE]."""
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", **PLAIN_HEADERS}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        none = {"usage": None} if self.usage_wanted else {}

        async def tell(value: Any) -> None:
            data = value if isinstance(value, bytes) else web.write_json(value)
            await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

        try:
            for index in range(len(self.tokens)):
                for piece in self.form.first(index):
                    await tell(self.form.envelope([piece], None, whole=False) | none)
            async for index, part in self.parts():
                for piece in self.form.piece(index, part):
                    await tell(self.form.envelope([piece], None, whole=False) | none)
        except ApiError as error:
            await tell(error.body())
        else:
            if self.ticket.open:  # the client is gone, or was dropped
                return
            if self.usage_wanted:
                await tell(self.form.envelope([], self.usage(), whole=False))
            await tell(b"[DONE]")
        await send({"type": "http.response.body", "body": b""})


# --- who may ask -----------------------------------------------------------------------------------------------------


class Guard(web.Guard):
    """Counts what it refuses, and asks for the key."""

    def __init__(self, app: ASGIApp, served: Served) -> None:
        super().__init__(app, LOGGER, served.allowed_hosts, served.cors)
        self.served = served

    def note_refusal(self) -> None:
        self.served.outcomes["refused"] += 1

    def check_key(self, scope: Scope, headers: dict[str, str]) -> None:
        key = self.served.api_key
        if key and scope["path"].startswith("/v1"):
            scheme, _, word = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                word.strip(" \t").encode("latin-1"),
                key.encode(errors="surrogateescape"),  # the bytes that were sent
            ):
                raise ApiError(401, "the API key is missing or wrong: send 'Authorization: Bearer KEY'.", None,
                               "invalid_api_key")  # fmt: skip


async def read_body(request: Request) -> bytes:
    """The whole body. ApiError beyond BODY_BYTES or BODY_S."""
    return await web.read_body(request, BODY_BYTES, BODY_S)


# --- routes ----------------------------------------------------------------------------------------------------------


def make_app(served: Served) -> Guard:
    """The ASGI application that serves one model."""
    app = plain_app(
        title="tinygpt", version=tinygpt.__version__, description="OpenAI's API for one tiny language model."
    )

    def check_model(name: str | None) -> None:
        if name is not None and name != served.name:
            raise ApiError(
                404, f"there is no model {name[:100]!r} here, only {served.name!r}.", "model", "model_not_found"
            )

    async def read(kind: type[AskedT], request: Request) -> AskedT:
        asked = protocol.read_request(kind, await read_body(request))
        check_model(asked.model)
        return asked

    def submit(texts: list[Continuation], echo: int | None = None) -> Ticket:
        try:
            return served.engine.submit(texts, echo)
        except Full:
            raise ApiError(429, "as many texts run and wait as may; try again in a second.", None,
                           "rate_limit_exceeded") from None  # fmt: skip
        except Closing:
            raise ApiError(503, f"{SHUTTING_DOWN}.") from None

    @app.post("/v1/completions", **described(CompletionAsked))
    async def completions(request: Request) -> Response:
        """Continue one or several prompts."""
        asked = await read(CompletionAsked, request)
        prompts = await encode_all(served, asked.prompts(), "prompt")
        texts = to_texts(asked, prompts, asked.max_tokens, asked.logprobs, served)
        ticket = submit(texts, asked.logprobs if asked.echo else None)
        told = [served.tokenizer.decode(ids) for ids in prompts for _ in range(asked.n or 1)]
        form = Completions(served.name, told if asked.echo else ())
        return Answer(served, ticket, form, sum(map(len, prompts)), asked)

    @app.post("/v1/chat/completions", **described(ChatAsked))
    async def chat_completions(request: Request) -> Response:
        """Continue the text of a conversation. A base model does not answer, it writes on."""
        asked = await read(ChatAsked, request)
        if asked.top_logprobs and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", "top_logprobs")
        wanted = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        (prompt,) = await encode_all(served, [asked.text()], "messages")
        texts = to_texts(asked, [prompt], wanted, logprobs, served)
        return Answer(served, submit(texts), protocol.Chat(served.name), len(prompt), asked)

    def card() -> dict[str, Any]:
        return {"id": served.name, "object": "model", "created": served.created, "owned_by": "tinygpt",
                "max_model_len": served.block_size}  # fmt: skip

    @app.get("/v1/models", responses=ERRORS)
    async def models() -> Response:
        """The one model that is served."""
        return json_response({"object": "list", "data": [card()]})

    @app.get("/v1/models/{name}", responses=ERRORS)
    async def model(name: str) -> Response:
        """One model by its name."""
        check_model(name)
        return json_response(card())

    @app.get("/health", responses=ERRORS)
    async def health() -> Response:
        """Whether requests are taken."""
        if served.engine.closing:
            raise ApiError(503, f"{SHUTTING_DOWN}.")
        return json_response({"status": "ok"})

    @app.get("/metrics", response_class=PlainTextResponse, responses=ERRORS)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(figures(served), headers=PLAIN_HEADERS)

    return Guard(app, served)


def figures(served: Served) -> str:
    """Prometheus' text format."""
    engine = served.engine
    values = [
        ("texts_active", "gauge", "texts that are being written", len(engine.running)),
        ("texts_queued", "gauge", "texts that wait", len(engine.waiting)),
        ("tokens_total", "counter", "tokens written", engine.tokens),
        *((f"requests_{name}_total", "counter", f"requests that ended {name}", served.outcomes[name])
          for name in ("done", "cancelled", "refused", "failed")),
    ]  # fmt: skip
    return "".join(
        f"# HELP tinygpt_{name} {meaning}\n# TYPE tinygpt_{name} {kind}\ntinygpt_{name} {value}\n"
        for name, kind, meaning, value in values
    )


ERROR_SCHEMA = {
    "type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"], "properties": {
            "message": {"type": "string"}, "type": {"type": "string"},
            "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
        }}},
}  # fmt: skip
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "content": {"application/json": {"schema": ERROR_SCHEMA}}}
    for status, meaning in {
        400: "a value that cannot be", 401: "no key or a wrong one", 403: "Host or Origin not allowed",
        404: "no such model or path", 405: "another method", 408: "the body came too slowly",
        413: "the body is too large",
        415: "not JSON", 429: "too many requests", 503: "shutting down",
    }.items()
}  # fmt: skip


def described(kind: type[Asked]) -> dict[str, Any]:
    """What the OpenAPI document says about a route that reads its body by itself."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    body = {"required": True, "content": {"application/json": {"schema": inlined(schema, definitions)}}}
    event = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
    stream = {"text/event-stream": {"schema": event}, "application/json": {"schema": {"type": "object"}}}
    return {
        "openapi_extra": {"requestBody": body},
        "responses": {**ERRORS, 200: {"description": "the continuation", "content": stream}},
    }


def inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema with its references replaced by what they name."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
        return {name: inlined(value, definitions) for name, value in schema.items()}
    return [inlined(value, definitions) for value in schema] if isinstance(schema, list) else schema
