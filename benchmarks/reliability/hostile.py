"""R27, a run folder from a stranger: its config.json is refused before anything is allocated, or says nothing.

Given to every command that opens a run, the server among them. And text that a template engine would carry out is
text, since there is none.
"""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import Row, Scale, command, one_sentence, small_tokenizer
from benchmarks.reliability.data import in_process
from benchmarks.reliability.server import NAME, random_run
from tinygpt.errors import BAD_CONFIG, BAD_INPUT, MISMATCH
from tinygpt.serve.app import encode
from tinygpt.serve.protocol import ChatAsked, read_request
from tinygpt.web import write_json

COMMANDS = {
    "serve": ("serve", "hostile", "--port", "0"),
    "generate": ("generate", "hostile", "--max-new-tokens", "2"),
    "train --resume": ("train", "--resume", "--run", "hostile"),
    "eval": ("eval", "hostile", "--device", "cpu"),
    "doctor": ("doctor", "hostile"),
    "export": ("export", "hostile", "--to", "hf"),
}
HUGE = 10**12
VALUES: dict[str, list[Any]] = {
    "n_layers": [HUGE, -1, 0, 1.5, "2", None, [2], {"a": 1}, True, 10**400], "n_embd": [HUGE, 33, "32"],
    "vocab_size": [HUGE, 2**31], "block_size": [HUGE, 0], "n_heads": [HUGE, 3, 0],
}  # fmt: skip
RAW = ("{", "[]", "null", '"x"', '{"model": NaN}', "[" * 100_000, '{"a":' * 50_000, "\0", "", "{}", '{"model": {}}')
TEMPLATES = (
    "{{ 7 * 7 }}", "{% for x in range(9) %}x{% endfor %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}", "{%- include '/etc/passwd' -%}", "${7*7}",
    "#{7*7}", "<%= 7*7 %>", "{0.__class__}", "%(x)s", "%s%n", "{{", "}}", "{% raw %}", "{#", "$(touch canary)",
    "`touch canary`", "${jndi:ldap://localhost/a}", "{{config}}", "{{request}}", "{{lipsum.__globals__}}", "@{7*7}",
    "*{T(java.lang.Runtime)}", "{{'a'|upper}}", "{% set x = 1 %}{{x}}", "{{ self }}", "[[${7*7}]]", "{php}{/php}",
    "{{#with a}}{{/with}}", "\\u007b\\u007b7*7\\u007d\\u007d",
)  # fmt: skip


def row(scale: Scale) -> Row:
    """R27 of the table: every config through the server and one other command in turn, in full through all."""
    result = Row("R27", "hostile config.json to every command that opens a run; templates in messages")
    run = random_run(scale.folder, block_size=32)
    config = json.loads((run / "config.json").read_text())
    others = [name for name in COMMANDS if name != "serve"]
    for number, (label, text) in enumerate(configs(config)):
        chosen = COMMANDS if scale.full else ("serve", others[number % len(others)])
        for name in chosen:
            refused(result, scale.folder, label, text, name)
    if scale.full:  # for a look from outside
        code, said = command(*COMMANDS["serve"], cwd=scale.folder)
        result.check(code == BAD_CONFIG and one_sentence(said), f"as a process: {code}, {said[-300:]}")
    templates(result, scale.folder)
    return result


def configs(config: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands in config.json, with a name for it."""
    found = [(f"{text[:20]!r} ...", text) for text in RAW]
    place = next(key for key, value in config.items() if isinstance(value, dict) and "n_layers" in value)
    for field, values in VALUES.items():
        for value in values:
            told = {**config, place: {**config[place], field: value}}
            found.append((f"{field} = {str(value)[:20]}", json.dumps(told)))
    infinite = json.dumps({**config, place: {**config[place], "dropout": 12345}})
    return found + [(f"dropout = {word}", infinite.replace("12345", word)) for word in ("NaN", "Infinity", "1e999")]


def refused(result: Row, folder: Path, label: str, text: str, name: str) -> None:
    """One sentence, the exit code, no memory taken, nothing written."""
    run = folder / "runs" / "hostile"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(folder / "runs" / NAME, run, ignore=shutil.ignore_patterns(".lock", ".owner.json"))
    (run / "config.json").write_text(text)
    tracemalloc.start()
    code, said = in_process(*COMMANDS[name], cwd=folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    good = code in (BAD_CONFIG, MISMATCH, BAD_INPUT) and (name == "doctor" or one_sentence(said))
    result.check(good, f"{name}, {label}: exit code {code}: {said.strip()[-300:]}")
    result.check(peak < 100e6, f"{name}, {label}: {peak / 1e6:.0f} MB were taken")


def templates(result: Row, folder: Path) -> None:
    """As a prompt and in the role they are what they are."""
    tokenizer = small_tokenizer()
    for text in TEMPLATES:
        asked = read_request(ChatAsked, write_json({"messages": [{"role": text[:64], "content": text}]}))
        result.check(tokenizer.decode(encode(tokenizer, asked.text(), "messages")) == text, f"{text} becomes something")
    result.check(not [*folder.rglob("canary")], "a canary was made")
