"""OpenAI's API as plain data: what a request may say and what an answer looks like. No HTTP, no model.

Requests are checked by pydantic, strictly ("5" is no number), and unknown fields are ignored, as OpenAI does. Two forms
of answer, `Completions` and `Chat`, say the same in two ways. Source: https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinygpt.sampling import Sampling
from tinygpt.tokenizer import SPECIALS
from tinygpt.web import ApiError, read_json

MAX_CHOICES = 32  # prompts * n of one request
LARGEST = 2**31 - 1
BETWEEN_MESSAGES = "\n\n"  # a base model continues the messages as one text

Chances = list[dict[str, Any]]  # one per token, as Continuation.chances_told writes them


# --- requests --------------------------------------------------------------------------------------------------------

Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
StopWord = Annotated[str, Field(min_length=1, max_length=64)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
# fail_fast: a list that is wrong in 300,000 places is wrong in the first; each error takes a kilobyte.
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Ids = Annotated[list[Count], Field(min_length=1, fail_fast=True)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class Asked(BaseModel):
    """What both kinds of request share. Null means the default."""

    model_config = ConfigDict(strict=True)

    model: Annotated[str, Field(max_length=256)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stop: StopWord | Annotated[list[StopWord], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Finite], Field(max_length=300)] | None = None
    user: str | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST)] | None = None  # from here on vLLM's and llama.cpp's
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None

    def sampling(self, vocab_size: int) -> Sampling:
        """How to draw. ApiError for a bias of a token that there is not."""
        bias = {}
        for word, value in (self.logit_bias or {}).items():
            if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= vocab_size or not -100 <= value <= 100:
                raise ApiError(400, f"logit_bias {word[:20]}: {value:g} must map a token id from 0 to {vocab_size - 1} "
                                    "to a number from -100 to 100.", "logit_bias")  # fmt: skip
            bias[int(word)] = value
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            max(temperature, 1e-6) if temperature else 0.0, max(0, self.top_k or 0), given(self.top_p, 1.0),
            given(self.min_p, 0.0), given(self.repetition_penalty, 1.0), given(self.presence_penalty, 0.0),
            given(self.frequency_penalty, 0.0), bias,
        )  # fmt: skip

    def first_seed(self) -> int:
        """The seed of the first choice; another one each time where none was given."""
        return secrets.randbits(48) if self.seed is None else self.seed

    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class CompletionAsked(Asked):
    """Body of POST /v1/completions."""

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)] = ""
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """One text or list of ids for each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]  # all of them are
        return list(self.prompt)  # type: ignore[arg-type]


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Annotated[str, Field(max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatAsked(Asked):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def text(self) -> str:
        """What a base model continues: the messages joined by blank lines. Roles are nothing to it."""
        return BETWEEN_MESSAGES.join(message.text() for message in self.messages)


def given(value: Any, otherwise: Any) -> Any:
    """The value, or the default for null."""
    return otherwise if value is None else value


# What a union of types means, in words; pydantic would complain once for each of them.
RULES = {
    "prompt": f"must be a text, a list of at most {MAX_CHOICES} texts, a list of token ids, or a list of such lists",
    "stop": "must be a text of 1 to 64 characters, or a list of at most 4",
    "content": "must be a text, or a list of parts of type text",
}
AskedT = TypeVar("AskedT", bound=Asked)


def read_request(kind: type[AskedT], body: bytes) -> AskedT:
    """The request in a body. ApiError (400) with one sentence for what is no JSON or breaks a rule."""
    try:
        return kind.model_validate(read_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = [part for part in first["loc"] if isinstance(part, int) or part in FIELDS]
        param = ".".join(map(str, place)) or None
        named = next((name for name in reversed(place) if name in RULES), None)
        rule = RULES[str(named)] if named else first["msg"][:1].lower() + first["msg"][1:]
        raise ApiError(400, f"{param or 'the body'}: {rule}.", param) from None


FIELDS = {name for kind in (CompletionAsked, ChatAsked, StreamOptions, Message, TextPart) for name in kind.model_fields}


# --- answers ---------------------------------------------------------------------------------------------------------


@dataclass
class Choice:
    """One text of an answer, as far as it is written."""

    text: str = ""
    chances: Chances | None = None
    finish_reason: str | None = None


@dataclass
class Completions:
    """The answers of /v1/completions. `echoes`: what stands before each choice, if that was asked for."""

    model: str
    echoes: Sequence[str] = ()
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    kind: str = "text_completion"
    piece_kind: str = "text_completion"
    places: Counter[int] = field(default_factory=Counter)  # characters of each choice whose chances were told

    def choice(self, index: int, part: Choice) -> dict[str, Any]:
        """A whole choice, or a piece of one: both have one form here."""
        told = None if part.chances is None else legacy_chances(part.chances, self.places[index])
        self.places[index] += sum(len(entry["token"]) for entry in part.chances or ())
        return {"index": index, "text": part.text, "logprobs": told, "finish_reason": part.finish_reason}

    def first(self, index: int) -> list[dict[str, Any]]:
        """What a stream begins with."""
        echo = self.echoes[index] if self.echoes else ""
        return [self.choice(index, Choice(echo))] if echo else []

    def piece(self, index: int, part: Choice) -> list[dict[str, Any]]:
        """One piece of a stream."""
        return [self.choice(index, part)]

    def whole(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """The choices of an answer that is not streamed."""
        echoes = self.echoes or [""] * len(choices)
        told = [replace(choice, text=echo + choice.text) for echo, choice in zip(echoes, choices, strict=True)]
        return [self.choice(index, choice) for index, choice in enumerate(told)]

    def envelope(self, choices: list[dict[str, Any]], usage: Mapping[str, int] | None, whole: bool) -> dict[str, Any]:
        """The object around choices."""
        kind = self.kind if whole else self.piece_kind
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices} | (
            {} if usage is None else {"usage": usage}
        )


@dataclass
class Chat(Completions):
    """The answers of /v1/chat/completions."""

    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    kind: str = "chat.completion"
    piece_kind: str = "chat.completion.chunk"

    def first(self, index: int) -> list[dict[str, Any]]:
        return [{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]

    def piece(self, index: int, part: Choice) -> list[dict[str, Any]]:
        told = {} if part.chances is None else {"logprobs": {"content": chat_chances(part.chances)}}
        pieces = [{"index": index, "delta": {"content": part.text}, "finish_reason": None} | told] if part.text else []
        if part.finish_reason:
            last = {} if part.text else told
            pieces.append({"index": index, "delta": {}, "finish_reason": part.finish_reason} | last)
        return pieces

    def whole(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text},
                "logprobs": None if choice.chances is None else {"content": chat_chances(choice.chances)},
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]


def chat_chances(chances: Chances) -> list[dict[str, Any]]:
    """Log-probabilities as chat answers hold them."""

    def told(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {name: entry[name] for name in ("token", "logprob", "bytes")}

    return [told(entry) | {"top_logprobs": [told(likely) for likely in entry["top"]]} for entry in chances]


def legacy_chances(chances: Chances, place: int = 0) -> dict[str, Any]:
    """Log-probabilities as completions hold them; the first token of a prompt has none. `place`: of the first token."""
    offsets = []
    for entry in chances:
        offsets.append(place)
        place += len(entry["token"])
    return {
        "tokens": [name(entry) for entry in chances],
        "token_logprobs": [entry["logprob"] for entry in chances],
        "top_logprobs": [
            None if entry["logprob"] is None else {name(likely): likely["logprob"] for likely in entry["top"]}
            for entry in chances
        ],
        "text_offset": offsets,
    }


def name(entry: Mapping[str, Any]) -> str:
    """A token as a key, which no other one has: its text, bytes:\\xf0 where that is none, <eos> and the like."""
    if not entry["bytes"]:
        return SPECIALS[entry["id"]]
    try:
        return bytes(entry["bytes"]).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry["bytes"])


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The three counts of every answer."""
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }  # fmt: skip
