"""Writing by turns at a terminal: the model writes on from what stands there, one's own lines included.

A model of this size was never taught to answer. It continues text, and this says so and makes that convenient.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinygpt.display import safe_text
from tinygpt.errors import UserError, did_you_mean
from tinygpt.inference import Continuation, Decoder, encode_prompt, write_on
from tinygpt.model import TinyGPT
from tinygpt.native import NativeDecoder
from tinygpt.sampling import Sampling
from tinygpt.tokenizer import Tokenizer

WELCOME = """\
{name} continues text; it does not answer. Type a beginning and it writes on from there and from all above; an empty
line lets it go on. /help lists the commands, Ctrl-C stops the writing, Ctrl-D leaves."""
COMMANDS = {
    "/retry": "the last piece again, with another seed",
    "/new": "forget the text and begin another",
    "/text": "the text so far",
    "/temp 0.8": "0 takes the likeliest token, 1 draws as the model says",
    "/seed 7": "the same seed and the same lines give the same text",
    "/length 100": "tokens it writes at most",
    "/help": "this list; a line of text that begins with / is typed with two",
    "/quit": "leave, like Ctrl-D",
}
LARGEST = 2**31 - 1  # of a number behind a command
ENDED = "(It ended the text here: the next line begins a new one.)"


@dataclass
class Chat:
    """A text that two write on: what stands there, how the model draws, and what the last turn changed."""

    model: TinyGPT
    tokenizer: Tokenizer
    sampling: Sampling
    max_new_tokens: int
    seed: int
    decoder: Decoder | NativeDecoder | None = None  # None: chosen anew for every turn
    text: str = ""
    before: str | None = None  # the text as the model found it at its last turn
    turns: int = 0  # each draws with a seed of its own
    ended: bool = False

    def say(self, line: str) -> Iterator[str]:
        """Put a line at the end of the text, after a space, and let the model write on; its pieces as they come."""
        if self.ended:
            self.text, self.ended = "", False
        between = " " if line and self.text and not self.text[-1].isspace() and not line[0].isspace() else ""
        self.text += between + line
        yield from self.write()

    def retry(self) -> Iterator[str]:
        """The last turn again, another one."""
        if self.before is None:
            raise UserError("/retry: nothing was written yet.")
        self.text, self.ended = self.before, False
        yield from self.write()

    def write(self) -> Iterator[str]:
        """One turn of the model. Whoever stops listening stops the writing; what came until then stays."""
        self.before, self.turns = self.text, self.turns + 1
        ids = encode_prompt(self.tokenizer, self.text)
        turn = Continuation(self.tokenizer, ids, self.max_new_tokens, self.sampling, seed=self.seed + self.turns - 1)
        for piece in write_on(self.model, turn, self.decoder):
            self.text += piece
            yield piece
        self.ended = turn.finished == "stop"

    def command(self, line: str) -> str:
        """Obey a line that begins with /; returns what to say. UserError for a wrong one, which changes nothing."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            return "\n".join(f"  {command:<12} {meaning}" for command, meaning in COMMANDS.items())
        if name == "/text":
            return self.text or "(nothing yet)"
        if name == "/new":
            self.text, self.before, self.turns, self.ended = "", None, 0, False
            return "(A new text.)"
        if name == "/temp":
            self.sampling = dataclasses.replace(self.sampling, temperature=number(line, value, float))
            return f"(temperature {self.sampling.temperature:g})"
        if name == "/seed":
            self.seed, self.turns = number(line, value, int), 0
            return f"(seed {self.seed})"
        if name == "/length":
            self.max_new_tokens = number(line, value, int)
            return f"(at most {self.max_new_tokens} tokens)"
        known = [command.split()[0] for command in COMMANDS]
        raise UserError(f"there is no command {name}{did_you_mean(name, known)}; /help lists them.")


def number(line: str, value: str, kind: type[int] | type[float]) -> Any:
    """The number behind a command, from 0 to LARGEST."""
    try:
        found = kind(value)
    except ValueError:
        found = -1
    if not 0 <= found <= LARGEST:
        raise UserError(f"{line}: a number from 0 to {LARGEST:,} must follow, as in {line.split()[0]} 1.")
    return found


def converse(chat: Chat, name: str) -> None:
    """Read lines until the end of the input; commands are obeyed, everything else is text to write on from."""
    by_hand = sys.stdin.isatty()
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # bytes that are no text are no traceback
    if by_hand:
        with contextlib.suppress(ImportError):  # Windows' consoles have their own
            import readline  # noqa: F401  (gives `input` editing and a history)
        print(WELCOME.format(name=name))
    while True:
        try:
            line = input("> " if by_hand else "")
        except EOFError:
            if by_hand:
                print()
            return
        except KeyboardInterrupt:  # a line begun by mistake
            print()
            continue
        if line.strip() == "/quit":
            return
        try:
            if line.strip() == "/retry":
                show(chat, chat.retry())
            elif line.startswith("/") and not line.startswith("//"):
                print(safe_text(chat.command(line.strip())))
            else:
                show(chat, chat.say(line[1:] if line.startswith("//") else line))
        except UserError as error:
            print(safe_text(f"({error})"))


def show(chat: Chat, pieces: Iterator[str]) -> None:
    """Print the pieces as they come; Ctrl-C ends this piece and not the program."""
    try:
        for piece in pieces:
            print(safe_text(piece), end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    print()
    if chat.ended:
        print(ENDED)
