"""What every public function of `tinygpt.inspect` returns: plain data with named axes, and the line that gives it.

    result = ti.attention(ti.load("runs/alice@2000"), "the cat sat", layer=1, head=3)
    result["pattern"][2]          a row of an array, float32
    result.arrays["pattern"]      ("query", "key"): the names of its axes
    result.python                 the line above, whatever the call was made by
    result.to_json()              the body of the studio's reply and what `tinygpt inspect attention ... --json` prints

The JSON is {"function", "python", "model": {"run", "step", "sha256", "parts"} or null, "truncated": null or the rule,
"arrays": {name: {"axes", "shape", "dtype"}}, "data": {...}}. Arrays are nested lists in "data"; a number that is not
finite, such as a masked score, is null there. float32 is written so that it reads back exactly.
"""

from __future__ import annotations

import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pydantic

from tinygpt.errors import UserError, did_you_mean

MOST_BYTES = 2_000_000  # of the JSON of one result
NUMBER_BYTES = 12  # of a float32 in JSON, about
MOST_NUMBERS = MOST_BYTES // NUMBER_BYTES


class Result(dict[str, Any]):
    """Plain data by name: numbers, texts, lists, dicts, and numpy arrays, each with named axes."""

    def __init__(self, axes: Mapping[str, str] | None = None, truncated: str | None = None, **data: Any) -> None:
        """axes: "query key" for each array in `data`. ValueError for an array without them, or with too few."""
        self.arrays = {name: tuple(names.split()) for name, names in (axes or {}).items()}
        self.truncated = truncated  # the rule, if something was left out to stay below MOST_BYTES
        self.function, self.python, self.model = "", "", None  # filled in by `public`
        for name, value in data.items():
            if isinstance(value, np.ndarray):
                if value.ndim != len(self.arrays.get(name, ())):
                    raise ValueError(f"{name} has {value.ndim} axes, named {self.arrays.get(name)}")
                data[name] = value.astype(np.float32) if value.dtype.kind == "f" else value
        super().__init__(data)

    def to_json(self) -> bytes:
        """One line of UTF-8 JSON."""
        arrays = {
            name: {"axes": axes, "shape": self[name].shape, "dtype": str(self[name].dtype)}
            for name, axes in self.arrays.items()
        }
        body = {
            "function": self.function, "python": self.python, "model": self.model, "truncated": self.truncated,
            "arrays": arrays, "data": {name: _contiguous(value) for name, value in self.items()},
        }  # fmt: skip
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _contiguous(value: Any) -> Any:
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value


Function = TypeVar("Function", bound=Callable[..., Result])


def public(function: Function) -> Function:
    """A function of the studio, the command line and Python alike: its result knows the line that gives it again."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Result:
        bound = signature.bind(*args, **kwargs)
        result = function(*args, **kwargs)
        result.function, result.python = function.__name__, f"ti.{function.__name__}({_written(bound, signature)})"
        subject = next(iter(bound.arguments.values()), None)
        result.model = getattr(subject, "identity", None)
        return result

    return typing.cast(Function, wrapper)


def _written(bound: inspect.BoundArguments, signature: inspect.Signature) -> str:
    """The arguments as Python; those that have their default are left out."""
    words: list[str] = []
    for i, (name, value) in enumerate(bound.arguments.items()):
        parameter = signature.parameters[name]
        if parameter.default is not parameter.empty and value == parameter.default:
            continue
        shown = repr(value)
        if hasattr(value, "reference"):  # a checkpoint
            shown = f"ti.load({value.reference!r})"
        elif isinstance(folder := getattr(value, "folder", None), Path):  # a run
            shown = repr(folder.as_posix())
        words.append(shown if parameter.default is parameter.empty and i == len(words) else f"{name}={shown}")
    return ", ".join(words)


def arguments_of(function: Callable[..., Result], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name for all parameters but the first, from text or JSON values, each read by its annotation.

    A text for a parameter that is no text is read as JSON: "3", "[0, 1]", "null". UserError for a name or value that
    the function does not take, or one that it lacks.
    """
    known = dict(list(inspect.signature(function).parameters.items())[1:])
    hints, arguments = typing.get_type_hints(inspect.unwrap(function)), {}
    for name, value in given.items():
        if name not in known:
            takes = ", ".join(known) or "nothing"
            raise UserError(f"{function.__name__} has no {name!r}{did_you_mean(name, known)}; it takes {takes}.")
        if isinstance(value, str) and not _takes_text(hints[name]):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise UserError(f"{name}={value[:100]!r} must be {_called(hints[name])}.") from None
        try:
            arguments[name] = pydantic.TypeAdapter(hints[name]).validate_python(value)
        except pydantic.ValidationError:
            raise UserError(f"{name}={str(value)[:100]!r} must be {_called(hints[name])}.") from None
    missing = [name for name, p in known.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise UserError(f"{function.__name__} needs {', '.join(missing)}.")
    return arguments


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _words(kind: Any) -> list[str]:
    """The texts that a Literal allows."""
    values = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return [value for value in values if isinstance(value, str)]


def _takes_text(hint: Any) -> bool:
    return any(kind is str or _words(kind) for kind in _kinds(hint))


def _called(hint: Any) -> str:
    """An annotation in words: "a whole number", "a number", ..."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return " or ".join(
        " or ".join(map(repr, _words(kind))) or names.get(kind, "a JSON list or object") for kind in _kinds(hint)
    )
