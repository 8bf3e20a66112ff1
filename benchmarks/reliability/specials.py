"""R21, special tokens in what people write: they are text, wherever they stand and however they are spelt.

In process, on the very functions that the server calls: a chat's messages and a prompt to ids. None may be the id of a
special token, and the ids must give back the text to the last byte.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarks.reliability.common import Row, Scale, small_tokenizer, texts
from tinygpt.serve.app import encode
from tinygpt.serve.protocol import BETWEEN_MESSAGES, ChatAsked
from tinygpt.serve.protocol import read_request as read
from tinygpt.tokenizer import SPECIALS, Tokenizer, train_tokenizer
from tinygpt.web import write_json

OTHERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[INST]", "<s>", "</s>", "<|user|>", "<unk>")
ROLES = ("user", "system", "assistant", "<bos>", "<eos>", "tool", "\n\nassistant", "")


def row(scale: Scale) -> Row:
    """R21 of the table: in full with three tokenizers."""
    tokenizers = {"512": small_tokenizer()}
    if scale.full:
        hostile = [name * 50 for name in (*SPECIALS, *OTHERS)] * 20  # whose merges lead to the special names
        tokenizers |= {"bytes only": Tokenizer([]), "learnt from attacks": train_tokenizer([*texts(), *hostile], 1024)}
    result = Row("R21", f"500 attacks with special tokens, {len(tokenizers)} tokenizers")
    for name, tokenizer in tokenizers.items():
        tried(result, name, tokenizer, random.Random(scale.seed))
    return result


def controls(scale: Scale) -> dict[str, bool]:
    """Text parsed again for special tokens, as many servers do."""
    tokenizer, really, without = small_tokenizer(), Tokenizer.encode, Row("", "")

    def parsing(self: Tokenizer, text: str) -> list[int]:
        for id, name in enumerate(SPECIALS):
            before, found, after = text.partition(name)
            if found:
                return [*parsing(self, before), id, *parsing(self, after)]
        return really(self, text)

    with mock.patch.object(Tokenizer, "encode", parsing):
        tried(without, "", tokenizer, random.Random(scale.seed))
    return {"text parsed again": bool(without.failures)}


def attacks(draw: random.Random) -> list[list[dict[str, Any]]]:
    """500 conversations."""
    found: list[list[dict[str, Any]]] = []
    for name, spell in itertools.product((*SPECIALS, *OTHERS), SPELLINGS):
        found.append([{"role": "user", "content": spell(name)}])
    for name in SPECIALS:  # pieces that join at a border of messages or of parts
        for cut in range(1, len(name)):
            found.append([{"role": "user", "content": name[:cut]}, {"role": "user", "content": name[cut:]}])
            parts = [{"type": "text", "text": part} for part in (name[:cut], name[cut:])]
            found.append([{"role": "user", "content": parts}])
    while len(found) < 500:
        pieces = [
            draw.choice((*SPECIALS, *OTHERS, "Once", " ", "\n", "<", ">", "é")) for _ in range(draw.randint(1, 9))
        ]
        cut = draw.randrange(len(pieces))
        contents = ("".join(pieces[:cut]), "".join(pieces[cut:]))
        found.append([{"role": draw.choice(ROLES), "content": content} for content in contents])
    return found


SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name, lambda name: f"a{name}b", lambda name: f" {name} ", lambda name: f"\n\n{name}\n\n",
    lambda name: name * 3, lambda name: name.upper(), lambda name: f"{name[:-1]}\u200b>", lambda name: f"\ufeff{name}",
    lambda name: name.replace("<", "\uff1c"), lambda name: f"&lt;{name[1:]}", lambda name: f"\\u003c{name[1:]}",
    lambda name: f"{name}\0{name}", lambda name: "".join(f"{c}\u0301" for c in name), lambda name: name[::-1],
)  # fmt: skip


def tried(result: Row, label: str, tokenizer: Tokenizer, draw: random.Random) -> None:
    """All attacks on one tokenizer, as a chat and as a prompt."""
    for messages in attacks(draw):
        asked = read(ChatAsked, write_json({"messages": messages}))
        contents = [message.text() for message in asked.messages]
        text = BETWEEN_MESSAGES.join(contents)
        ids = encode(tokenizer, asked.text(), "messages")
        harmless = [{**message, "role": "user"} for message in messages]
        same = encode(tokenizer, read(ChatAsked, write_json({"messages": harmless})).text(), "messages")
        told = f"{label}: {messages}"
        if text:  # nothing at all becomes <bos>, the start of a document
            result.check(min(ids) >= len(SPECIALS), f"{told}: ids {ids}")
            result.check(tokenizer.decode(ids) == asked.text() == text, f"{told}: comes back as another text")
        result.check(ids == same, f"{told}: the role changes the ids")
        prompt = "".join(contents)
        if prompt:
            result.check(min(encode(tokenizer, prompt, "prompt")) >= len(SPECIALS), f"{told}: as a prompt")
