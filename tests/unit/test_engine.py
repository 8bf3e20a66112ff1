"""Texts that are written together: the same greedy text as alone, room for all in turn, nothing for those who left."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from tinygpt.inference import Continuation, generate
from tinygpt.sampling import Sampling
from tinygpt.serve.engine import MOST_UNREAD, Closing, Engine, Full, PlainRows, Written

PROMPTS = ["a", "The fox", "é", "Tom lost", "x y z", "aaaa", "Old Mia", "0"]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("modern", block_size=64)


@pytest.fixture
def engine(model):
    engine = Engine(PlainRows(model), 3, 8)
    yield engine
    engine.close()


def text(tokenizer, prompt="a", length=12, **more) -> Continuation:
    return Continuation(tokenizer, tokenizer.encode(prompt), length, **more)


async def whole(ticket) -> list[str]:
    """The texts of a request."""
    found = [""] * ticket.open
    async for event in ticket:
        assert not event.failure
        found[event.choice] += event.piece
    return found


def test_together_and_alone_give_the_same_greedy_text(engine, model, byte_tokenizer):
    """More texts than slots: they join and leave at different steps."""
    alone = [generate(model, byte_tokenizer, p, 6 + i)[len(p) :] for i, p in enumerate(PROMPTS)]

    async def ask():
        tickets = [engine.submit([text(byte_tokenizer, p, 6 + i)]) for i, p in enumerate(PROMPTS)]
        return [(await whole(ticket))[0] for ticket in tickets]

    assert asyncio.run(ask()) == alone


def test_the_seed_decides_whatever_the_neighbours(engine, model, byte_tokenizer):
    sampling = Sampling(temperature=1.0)
    alone = [generate(model, byte_tokenizer, "a", 9, seed=seed, temperature=1.0)[1:] for seed in range(4)]

    async def ask():
        texts = [text(byte_tokenizer, "a", 9, sampling=sampling, seed=seed) for seed in range(4)]
        return await whole(engine.submit(texts))

    assert asyncio.run(ask()) == alone and len(set(alone)) > 1


def test_plain_rows_give_the_models_logits_in_any_company(model):
    rows, ids = PlainRows(model), [[5, 6, 7, 8], [9, 10]]
    with torch.inference_mode():
        expected = [model(torch.tensor([i]))[0] for i in ids]
    first = rows.logits([5, 6, 9, 10], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 3])
    torch.testing.assert_close(first, torch.stack([expected[0][0], expected[0][1], expected[1][1]]))
    torch.testing.assert_close(rows.logits([7], [2], [0], [0]), expected[0][2:3])
    torch.testing.assert_close(rows.logits([8], [3], [0], [0]), expected[0][3:4])
    again = rows.logits([9, 10], [0, 1], [0, 0], [1])  # a slot that is used again
    torch.testing.assert_close(again, expected[1][1:])


def test_a_request_is_taken_whole_or_not_at_all(engine, byte_tokenizer):
    async def ask():
        with pytest.raises(Full):
            engine.submit([text(byte_tokenizer)] * 12)
        ticket = engine.submit([text(byte_tokenizer) for _ in range(11)])
        with pytest.raises(Full):
            engine.submit([text(byte_tokenizer, length=2)])
        return await whole(ticket)

    assert len(asyncio.run(ask())) == 11
    assert engine.running == [] and not engine.waiting and sorted(engine.free) == [0, 1, 2]


def test_nothing_is_written_for_a_request_that_was_cancelled(model, byte_tokenizer):
    """Running and waiting ones; the engine is held before its next step while both are cancelled."""
    go, steps = threading.Event(), []

    class Held(PlainRows):
        def logits(self, *args):
            steps.append(len(args[0]))
            if len(steps) > 2:
                assert go.wait(20)
            return super().logits(*args)

    engine = Engine(Held(model), 1, 8)

    async def ask():
        running, waiting = (engine.submit([text(byte_tokenizer, length=40)]) for _ in range(2))
        while len(steps) < 3:
            await asyncio.sleep(0.01)
        running.cancel()
        waiting.cancel()
        go.set()
        after = await whole(engine.submit([text(byte_tokenizer, length=3)]))
        return running, waiting, after

    running, waiting, after = asyncio.run(ask())
    engine.close()
    assert engine.tokens == 2 + 3 and running.open and waiting.open and len(after) == 1


def test_long_prompts_join_one_after_the_other(model, byte_tokenizer, monkeypatch):
    """So that the texts that run are not held up: 30 rows of prompts a step, or one prompt that is longer."""
    monkeypatch.setattr("tinygpt.serve.engine.JOINING_ROWS", 30)
    prompts = []

    class Counted(PlainRows):
        def logits(self, tokens, positions, slots, wanted):
            prompts.append(positions.count(0))
            return super().logits(tokens, positions, slots, wanted)

    engine = Engine(Counted(model), 5, 0)

    async def ask():
        return await whole(engine.submit([text(byte_tokenizer, "a" * n, 6) for n in (40, 20, 10, 5, 5)]))

    assert len(asyncio.run(ask())) == 5
    engine.close()
    assert prompts[:3] == [1, 2, 2]


def test_a_client_that_reads_nothing_is_dropped(engine, byte_tokenizer):
    async def ask():
        ticket = engine.submit([text(byte_tokenizer, length=1)])
        ticket.tell([Written(0, "x", "", 1)] * MOST_UNREAD)
        assert not ticket.cancelled
        ticket.tell([Written(0, "x", "", 1)])
        assert ticket.cancelled

    asyncio.run(ask())


def test_a_step_that_fails_ends_its_texts_and_no_others(model, byte_tokenizer, caplog):
    class Failing(PlainRows):
        broken = True

        def logits(self, *args):
            if self.broken:
                self.broken = False
                raise RuntimeError("no")
            return super().logits(*args)

    engine = Engine(Failing(model), 1, 8)

    async def ask():
        first, second = (engine.submit([text(byte_tokenizer, length=2)]) for _ in range(2))
        [event] = [event async for event in first]
        assert event.failure == "the model failed"
        return await whole(second)

    assert len(asyncio.run(ask())) == 1
    engine.close()
    assert "a step of the engine failed" in caplog.text


def test_a_closed_engine_takes_nothing(engine, byte_tokenizer):
    engine.close()

    async def ask():
        with pytest.raises(Closing):
            engine.submit([text(byte_tokenizer)])

    asyncio.run(ask())
    assert not engine.thread.is_alive()


def test_chances_of_prompt_and_text(engine, model, byte_tokenizer):
    """By the definition: log-softmax of the logits after everything that stands before."""

    async def ask():
        ticket = engine.submit([text(byte_tokenizer, "Tom", 4, logprobs=2)], echo=2)
        return [event async for event in ticket]

    found = [entry for event in asyncio.run(ask()) for entry in event.chances or []]
    ids = [entry["id"] for entry in found]
    assert ids[:3] == byte_tokenizer.encode("Tom") and len(ids) == 7
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0].log_softmax(-1)
    assert found[0]["logprob"] is None and found[0]["top"] == []
    for place in range(1, 7):
        assert found[place]["logprob"] == pytest.approx(expected[place - 1, ids[place]].item(), abs=1e-4)
        best = expected[place - 1].topk(2)
        assert [likely["id"] for likely in found[place]["top"]] == best.indices.tolist()


def test_no_tokens_asked_for_is_an_answer_too(engine, byte_tokenizer):
    async def ask():
        return [event async for event in engine.submit([text(byte_tokenizer, "Tom", 0)])]

    [event] = asyncio.run(ask())
    assert (event.piece, event.finished, event.tokens) == ("", "length", 0)
