"""Writing by turns: what stands in the text after each turn, the commands, and a real terminal with Ctrl-C."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import environment, tinygpt

from tinygpt.chat import ENDED, Chat
from tinygpt.errors import UserError
from tinygpt.inference import generate
from tinygpt.sampling import Sampling
from tinygpt.train import set_up, train


@pytest.fixture
def chat(make_model, tokenizer):
    return Chat(make_model(vocab_size=320), tokenizer, Sampling(1.0), max_new_tokens=6, seed=3)


def test_the_model_writes_on_from_all_that_stands_there(chat):
    first = "".join(chat.say("The fox"))
    assert chat.text == "The fox" + first == generate(chat.model, chat.tokenizer, "The fox", 6, seed=3, temperature=1.0)
    before = chat.text
    second = "".join(chat.say("and the dog"))
    joint = before + ("" if before[-1].isspace() else " ") + "and the dog"
    assert chat.text == joint + second == generate(chat.model, chat.tokenizer, joint, 6, seed=4, temperature=1.0)


def test_an_empty_line_lets_it_go_on(chat):
    "".join(chat.say("The fox"))
    before = chat.text
    assert chat.text == before and "".join(chat.say("")) == chat.text.removeprefix(before)


def test_retry_writes_something_else_from_the_same_place(chat):
    with pytest.raises(UserError, match="nothing was written yet"):
        list(chat.retry())
    first = "".join(chat.say("The fox"))
    again = "".join(chat.retry())
    assert again != first and chat.text == "The fox" + again


def test_who_stops_listening_keeps_what_came(chat):
    pieces = chat.say("The fox")
    got = next(pieces)
    pieces.close()
    assert chat.text == "The fox" + got


def test_the_same_seed_and_lines_give_the_same_text(chat):
    texts = []
    for _ in range(2):
        chat.command("/new")
        chat.command("/seed 9")
        for line in ("The fox", "", "ran"):
            "".join(chat.say(line))
        texts.append(chat.text)
    assert texts[0] == texts[1]


def test_commands(chat):
    assert chat.command("/temp 0.25") == "(temperature 0.25)" and chat.sampling.temperature == 0.25
    assert chat.command("/length 2") == "(at most 2 tokens)" and chat.max_new_tokens == 2
    assert chat.command("/text") == "(nothing yet)" and "/retry" in chat.command("/help")
    for wrong, sentence in (
        ("/temp", "/temp: a number from 0"), ("/temp hot", "/temp hot: a number"), ("/temp nan", "a number"),
        ("/seed -1", "/seed -1: a number"), ("/seed 99999999999", "a number from 0"), ("/temp 5000", "temperature"),
        ("/tmep 1", "did you mean /temp"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            chat.command(wrong)
    assert chat.sampling.temperature == 0.25


def test_lines_from_a_pipe(trained: Path):
    lines = b"Ana had\n/temp 0\n/nothing\n//5\n\n/retry\n/text\n/quit\nno\n"
    said = tinygpt("chat", trained, "--max-new-tokens", "4", "--engine", "plain", stdin=lines)
    assert said.code == 0 and said.err == ""
    assert "(temperature 0)" in said.out and "(there is no command /nothing; /help lists them.)" in said.out
    text = said.out.splitlines()[-1]
    assert "/5" in said.out and text and text != "no"


def test_bytes_that_are_no_text_and_control_characters_do_no_harm(trained: Path):
    lines = b"\xff\xfe Ana\n/no\x1b[2J\n"
    said = tinygpt("chat", trained, "--max-new-tokens", "2", "--engine", "plain", stdin=lines)
    assert said.code == 0 and said.err == "" and "\x1b" not in said.out and "there is no command /no" in said.out


def test_a_text_that_the_model_ends_is_followed_by_a_new_one(chat, monkeypatch, capsys):
    from tinygpt import chat as module

    monkeypatch.setattr(module, "write_on", lambda model, turn, decoder: iter([turn.finish("stop")]))
    module.show(chat, chat.say("The end"))
    assert capsys.readouterr().out.endswith(ENDED + "\n")
    monkeypatch.undo()
    "".join(chat.say("Another"))
    assert chat.text.startswith("Another")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a matter of POSIX")
def test_ctrl_c_stops_the_writing_and_not_the_program(make_run, machine, silent, tmp_path: Path):
    """A model that has learnt nothing, so that it does not end its text."""
    import pty

    train(set_up(make_run(tmp_path / "runs" / "mine", max_steps=1), machine, silent))
    leader, follower = pty.openpty()
    in_it = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from tinygpt.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", in_it, "chat", "mine", "--max-new-tokens", "100000", "--temperature", "100"],
        cwd=tmp_path, env=environment(tmp_path), stdin=follower, stdout=follower, stderr=follower,
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen = b""

    def listen() -> None:
        nonlocal seen
        if select.select([leader], [], [], 1.0)[0]:
            seen += os.read(leader, 4096)

    def until(what: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while what not in seen and time.monotonic() < end:
            listen()
        assert what in seen, seen
        seen = seen[seen.index(what) + len(what) :]

    try:
        until(b"Ctrl-D leaves")
        until(b"> ")
        time.sleep(0.5)
        os.write(leader, b"Ana had\n")
        until(b"Ana had\r\n")
        end = time.monotonic() + 60
        while len(seen) < 20 and time.monotonic() < end:  # it writes
            listen()
        os.write(leader, b"\x03")
        until(b" ...\r\n")
        until(b"> ")
        time.sleep(0.5)  # until readline listens: the terminal would take the line for itself
        os.write(leader, b"/seed 5\n")
        until(b"(seed 5)")
        until(b"> ")
        time.sleep(0.5)
        os.write(leader, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
