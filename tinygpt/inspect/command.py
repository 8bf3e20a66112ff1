"""`tinygpt inspect FUNCTION RUN [WORDS ...]`: words in, a result out, the same way for every function of the table.

The help of a function is read from its source, so that it needs neither torch nor the model.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tinygpt.inspect as ti
from tinygpt.errors import UserError

SETTING = re.compile(r"[A-Za-z_]\w*=")
ONE_TOKEN = ("token", "other", "target")  # whole numbers that may be given as the text of a token


def called(word: str, words: Sequence[str]) -> str:
    """The function that a word of the command line means: its own name, or one of DESIGN.md's.

    "embeddings" with a piece of text is `neighbours`, alone `norms`; "dynamics" is `health`.
    """
    if word == "embeddings":
        return "neighbours" if any(not SETTING.match(w) or w.startswith("token=") for w in words) else "norms"
    return {"dynamics": "health"}.get(word, word)


def described(name: str) -> str:
    """What stands in the help of a function: its arguments with their defaults, and what it gives."""
    path = Path(__file__).with_name(f"{ti.FUNCTIONS[name][0]}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    arguments = [*node.args.args, *node.args.kwonlyargs][1:]
    given = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
    defaults = dict(zip([a.arg for a in arguments][len(arguments) - len(given) :], given, strict=True))
    words = [
        a.arg + (f"={ast.unparse(defaults[a.arg])}" if a.arg in defaults else "")
        + (f" ({ast.unparse(a.annotation)})" if a.annotation else "")
        for a in arguments
    ]  # fmt: skip
    takes = "Arguments: " + (", ".join(words) if words else "none") + "."
    return "\n\n".join([takes, *textwrap.dedent(ast.get_docstring(node) or "").split("\n\n")])


def run_function(name: str, subjects: Sequence[str], words: Sequence[str]) -> Any:
    """The result of a function for the RUN (or RUNs) and the words behind it.

    A word like layer=1 is an argument by name; others are texts, for the arguments that take text, in their order.
    UserError for what the function does not take.
    """
    kind = ti.FUNCTIONS[name][1]
    function = getattr(ti, name)
    from tinygpt.inspect.result import arguments_of

    texts = [word for word in words if not SETTING.match(word)]
    given: dict[str, Any] = dict(word.split("=", 1) for word in words if SETTING.match(word))
    if kind == "runs":
        return function([*subjects, *texts], **arguments_of(function, given))
    subject = subject_of(kind, subjects[0])
    known = dict(list(inspect.signature(function).parameters.items())[1:])
    hints = typing.get_type_hints(inspect.unwrap(function))
    waiting = [
        p
        for p in known
        if p not in given and (hints[p] is str or (p == "token" and known[p].default is inspect.Parameter.empty))
    ]
    waiting += [p for p in known if p not in given and p not in waiting and str in typing.get_args(hints[p])]
    if len(texts) > len(waiting):
        takes = f"one text, {waiting[0]}" if len(waiting) == 1 else f"{len(waiting)} texts" if waiting else "no text"
        raise UserError(f"{name} takes {takes}; {texts[len(waiting)]!r} is one more (put quotes around a text).")
    given |= dict(zip(waiting, texts, strict=False))
    for parameter in ONE_TOKEN:
        if parameter in given and hints.get(parameter) is not str:
            given[parameter] = token_of(subject, parameter, given[parameter])
    return function(subject, **arguments_of(function, given))


def subject_of(kind: str, reference: str) -> Any:
    """A checkpoint or a whole run."""
    if kind == "m":
        return ti.load(reference)
    from tinygpt.inspect.corpora import open_run

    return open_run(reference)


def token_of(m: Any, parameter: str, text: str) -> str:
    """The id of a token that is given as its text, as a word for `arguments_of`; numbers and null stay."""
    from tinygpt.inspect.tokens import NEWLINE, SPACE, visible

    if re.fullmatch(r"-?\d+|null", text):
        return text
    for written in (text, text.replace(SPACE, " ").replace(NEWLINE, "\n")):
        ids = m.tokenizer.encode(written)
        if len(ids) == 1:
            return str(ids[0])
    pieces = " | ".join(visible(m.tokenizer.token_bytes(i)) for i in ids) or "nothing"
    raise UserError(f"{parameter}={text!r} is {len(ids)} tokens here ({pieces}); give the text of one, or its number.")


def shown(result: Mapping[str, Any]) -> str:
    """A result as text for a terminal."""
    from tinygpt.display import safe_text
    from tinygpt.inspect.show import render

    return safe_text(render(result))
