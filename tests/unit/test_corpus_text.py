"""`inspect.corpus_text`: a text that can be edited and is cut into the same documents again."""

from pathlib import Path

import pytest

import tinygpt.inspect as ti
from tinygpt import runs
from tinygpt.corpus.files import Reader
from tinygpt.errors import UserError
from tinygpt.inspect.corpora import MOST_TEXT
from tinygpt.tokenizer import train_tokenizer

STORIES = [f"Story {i} of the owl.\n\nIt was night, and the moon was {'very ' * i}round." for i in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    """A run as far as its text goes."""
    tokenizer = train_tokenizer(STORIES, 300)
    ids = [tokenizer.encode_documents(part) for part in (STORIES[:10], STORIES[10:])]
    return runs.Run(tmp_path, None, tokenizer, {}, {}, *ids)  # type: ignore[arg-type]


def test_the_text_is_the_documents_and_is_cut_into_them_again(run: runs.Run, tmp_path: Path) -> None:
    result = ti.corpus_text(run)
    assert (result["documents"], result["of_documents"]) == (10, 10)
    path = tmp_path / "copy.txt"
    path.write_text(result["text"])
    again: list[str] = []
    with path.open("rb") as file:
        Reader("lf", "utf-8", file).read("-", again)  # type: ignore[arg-type]
    assert again == STORIES[:10]


@pytest.mark.parametrize("most", [60, 200, 555])
def test_documents_are_whole_and_no_further_one_would_fit(run: runs.Run, most: int) -> None:
    result = ti.corpus_text(run, most)
    n = result["documents"]
    joined = ["\n\n\n".join(STORIES[:count]) for count in (n, n + 1)]
    assert result["text"] == joined[0]
    assert result["bytes"] == len(joined[0].encode()) <= most < len(joined[1].encode())


@pytest.mark.parametrize(
    ("most", "message"), [(0, "between 1 and"), (MOST_TEXT + 1, "between 1 and"), (10, "more than most=10")]
)
def test_other_sizes_are_refused(run: runs.Run, most: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ti.corpus_text(run, most)
