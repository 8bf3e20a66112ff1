"""Arguments of the functions of `tinygpt.inspect` that are one of several words."""

from typing import Literal

import pytest

from tinygpt.errors import UserError
from tinygpt.inspect.result import Result, arguments_of


def near(m: None, metric: Literal["cosine", "dot"] = "cosine", part: Literal["a", "b"] | None = None) -> Result:
    return Result()


def test_a_word_is_read_as_it_stands() -> None:
    assert arguments_of(near, {"metric": "dot", "part": "b"}) == {"metric": "dot", "part": "b"}


def test_another_word_is_refused_with_the_words_there_are() -> None:
    with pytest.raises(UserError, match=r"metric='manhattan' must be 'cosine' or 'dot'\."):
        arguments_of(near, {"metric": "manhattan"})
