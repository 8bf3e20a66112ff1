"""Every command and every Python block that README.md shows runs, in order, in one empty folder.

What is changed, and nothing else:
- a training is cut to STEPS steps (its --minutes, --steps, --epochs or max_steps is replaced), eval writes 4 tales;
- `data/tiny_corpus.txt` lies there with 100 kB of tales, because writing 4 MB takes seconds;
- a text that a command names and no command has made is written first (own.txt, notes/, ...).
What installs, needs a network or runs make is listed in ELSEWHERE with the place where it is checked.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from command_line import environment, inside, story_text, tinygpt

ROOT = Path(__file__).parents[2]
STEPS = 6
SHELLS = {"console", "sh", "bash", "shell", "shell-session"}
TEXT_ENDINGS = (".txt", ".md")

ELSEWHERE = {
    r"make \w+": "set-up: .ci/run runs make test; make demo is run by hand before a release",
    r"git clone|cd ": "the checkout itself",
    r"\.ci/run": "it runs this test",
    r"(python\S* -m )?(pip|uv|pipx) ": "installs: the Makefile does the same",
    r"python\S* -m venv|source |\. \.venv|\.venv\\": "makes or enters the environment",
    r"(sudo )?(apt|brew|winget|dnf) ": "the system's packages",
    r"tinygpt corpus (tinystories|sherlock|shakespeare)": "network: tests/unit/test_corpus_named.py, local server",
    r"(python\S* -m )?(pytest|benchmarks|ruff|mypy)": "the checks themselves",
    r"python\S* examples/": "tests/project/test_examples.py",
    r"python\S* -m benchmarks": "measures; prints figures",
    r"tinygpt studio": "runs until it is stopped: tests/browser",
    r"tinygpt serve ": "runs until it is stopped: tests/reference/test_openai_client.py",
    r"nvidia-smi|docker |ollama ": "other programs",
}


class Shown(NamedTuple):
    """One thing that the README tells a reader to run."""

    line: int
    kind: str  # "shell" or "python"
    code: str


def blocks(markdown: str) -> Iterator[tuple[int, str, str]]:
    """(line of the fence, language, content) of every fenced block."""
    opening = r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w-]*)[^\n]*\n"
    fence = re.compile(opening + r"(?P<body>.*?)^ *(?P=mark) *$", re.DOTALL | re.MULTILINE)
    for match in fence.finditer(markdown):
        indent = len(match["indent"])
        body = "\n".join(line[min(indent, len(line) - len(line.lstrip())) :] for line in match["body"].splitlines())
        yield markdown.count("\n", 0, match.start()) + 1, match["language"].lower(), body


def shown(markdown: str) -> list[Shown]:
    """Commands and Python blocks in reading order. In a console block commands follow `$ `, the rest is output."""
    found = []
    for line, language, body in blocks(markdown):
        if language in ("python", "py", "pycon"):
            found.append(Shown(line, "python", body))
        if language in SHELLS:
            rows = re.sub(r"[ \t]*\\\n\s*", " ", body).splitlines()
            prompted = [row.lstrip()[2:] for row in rows if row.lstrip().startswith("$ ")]
            plain = [] if language in ("console", "shell-session") else rows
            for row in prompted or plain:
                if row.strip() and not row.lstrip().startswith("#"):
                    found.append(Shown(line, "shell", row.strip()))
    return found


def elsewhere(command: str) -> bool:
    """Whether the command is checked in another place."""
    return any(re.match(pattern, command) for pattern in ELSEWHERE)


def shortened(command: str) -> str:
    """The command with its training cut to STEPS steps and its tales to 4."""
    if re.search(r"\btinygpt train\b", command) and "--resume" not in command:
        command = re.sub(r"\s(--(minutes|steps|epochs)[ =]|max_steps=)\S+", "", command)
        command = re.sub(r"\btinygpt train\b", f"tinygpt train --steps {STEPS}", command)
    return re.sub(r"\btinygpt eval\b", "tinygpt eval --tales 4", command) if "--tales" not in command else command


def provide_texts(command: str) -> None:
    """Write the texts that a training or evaluation names and that are not there, each a different one."""
    for word in shlex.split(command, comments=True)[2:]:
        if word.endswith(TEXT_ENDINGS) and not Path(word).exists() and "=" not in word:
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).write_text(story_text().replace("boat", Path(word).stem))
        elif word.endswith("/") and not Path(word).exists():
            Path(word).mkdir(parents=True)
            Path(word, "one.txt").write_text(story_text())


def run_shell(command: str, folder: Path) -> tuple[int, str]:
    """Exit code and everything printed; a plain tinygpt command runs in this process, which saves torch's import."""
    words = shlex.split(command, comments=True)
    if words[0] == "tinygpt" and not re.search(r"[|<>;&$`*]", command):
        outcome = tinygpt(*words[1:])
        return outcome.code, outcome.out + outcome.err
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env={**environment(folder), "PATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def run_python(code: str, namespace: dict) -> None:
    """Run a block in the namespace of the blocks before it; of a block with >>> the examples, without their output."""
    if ">>>" in code:
        code = "\n".join(example.source for example in doctest.DocTestParser().get_examples(code))
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "README.md", "exec"), namespace)


def run_all(markdown: str, folder: Path) -> None:
    """Run everything shown; AssertionError with the line, the command and its output for the first that fails."""
    from tinygpt.corpus import tales

    namespace: dict = {"__name__": "__main__"}
    with inside(folder):
        Path("data").mkdir()
        tales.write(Path("data/tiny_corpus.txt"), n_bytes=100_000)
        for step in shown(markdown):
            if step.kind == "python":
                run_python(step.code, namespace)
            elif not elsewhere(step.code):
                command = shortened(step.code)
                if command.startswith("tinygpt train") or command.startswith("tinygpt eval"):
                    provide_texts(command)
                code, output = run_shell(command, folder)
                assert code == 0, f"README.md, block at line {step.line}: {command}\n{output[-2000:]}"


def test_readme_shows_the_two_commands_and_the_plain_way():
    commands = [step.code for step in shown((ROOT / "README.md").read_text())]
    for start in ("make demo", "make test", "tinygpt train", "tinygpt generate"):
        assert any(command.startswith(start) for command in commands), f"README.md does not show {start!r}"
    assert any("pip install" in command for command in commands)


def test_readme_commands_run(tmp_path: Path):
    run_all((ROOT / "README.md").read_text(), tmp_path)


def test_links_to_files_of_the_repository_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", (ROOT / name).read_text()):
            assert (ROOT / target).exists(), f"{name} links to {target}"


# --- the parser itself -----------------------------------------------------------------------------------------------

SAMPLE = r"""
# Title

```console
$ make demo
lots of output
$ tinygpt train own.txt \
    --minutes 3   # a comment
Device: cpu
```

- in a list:

  ```sh
  # a comment
  tinygpt generate own "Ana had" --max-new-tokens 3
  tinygpt corpus own.txt | head -n 1
  ```

```python
from tinygpt.config import ModelConfig
width = ModelConfig().n_embd
```

```
tinygpt train RUN syntax
```

```pycon
>>> width + 1
129
```
"""


def test_the_parser_finds_what_is_shown():
    assert [(step.kind, step.code) for step in shown(SAMPLE)] == [
        ("shell", "make demo"),
        ("shell", "tinygpt train own.txt --minutes 3   # a comment"),
        ("shell", 'tinygpt generate own "Ana had" --max-new-tokens 3'),
        ("shell", "tinygpt corpus own.txt | head -n 1"),
        ("python", "from tinygpt.config import ModelConfig\nwidth = ModelConfig().n_embd"),
        ("python", ">>> width + 1\n129"),
    ]
    assert [step.line for step in shown(SAMPLE)] == [4, 4, 14, 14, 20, 29]


def test_the_sample_runs_and_a_wrong_command_in_it_is_caught(tmp_path: Path):
    for name in ("good", "bad", "python"):
        (tmp_path / name).mkdir()
    run_all(SAMPLE, tmp_path / "good")
    assert (tmp_path / "good" / "runs" / "own").is_dir()
    with pytest.raises(AssertionError, match=r"line 4: tinygpt generate owm"):
        run_all("\n\n\n```sh\ntinygpt generate owm\n```\n", tmp_path / "bad")
    with pytest.raises(ImportError):
        run_all("```python\nfrom tinygpt import nothing_of_that_name\n```\n", tmp_path / "python")


def test_trainings_are_shortened_and_nothing_else():
    assert shortened("tinygpt train a.txt --minutes 3 lr=1") == f"tinygpt train --steps {STEPS} a.txt lr=1"
    assert shortened("tinygpt train --epochs=2 a.txt") == f"tinygpt train --steps {STEPS} a.txt"
    assert shortened("tinygpt train --resume --run a") == "tinygpt train --resume --run a"
    assert shortened("tinygpt generate a --seed 3") == "tinygpt generate a --seed 3"
    assert shortened("tinygpt eval a --json") == "tinygpt eval --tales 4 a --json"


@pytest.mark.parametrize(
    "command", ["tinygpt train my.txt", "tinygpt corpus tales", "tinygpt doctor", "maker", "cat x"]
)
def test_little_is_left_to_other_places(command: str):
    assert not elsewhere(command)
