"""Many texts written at once: they join and leave the running batch at every token.

One thread owns the model. Each of its steps takes a row for every running text (its newest token) and all rows of a few
texts that join (their prompts), and gives each text its next token. A row's logits do not depend on its
neighbours (tests/exactness/test_native.py, tests/unit/test_engine.py), so a greedy answer does not either, and every
text has its own random numbers.

Nobody waits for a client: what was written goes to the event loop, which may drop it. Whether a client has left is
read before every token.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tinygpt.inference import Chance, Continuation
from tinygpt.model import KVCache, TinyGPT
from tinygpt.sampling import log_probabilities
from tinygpt.web import SHUTTING_DOWN

MOST_UNREAD = 4096  # pieces that wait for one client before it is dropped, far below 1 MiB of text
JOINING_ROWS = 256  # of prompts in one step: longer ones wait, so that running texts are not held up for long
LOGGER = logging.getLogger("tinygpt.serve")


class Full(Exception):
    """As many texts run and wait as may."""


class Closing(Exception):
    """The server is about to end."""


class Rows(Protocol):
    """What computes logits: `NativeModel` or `PlainRows`."""

    def logits(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], wanted: Sequence[int]
    ) -> Tensor: ...


class PlainRows:
    """`NativeModel`'s interface on the plain model, text by text: slower, on any device. A prompt comes in one call."""

    def __init__(self, model: TinyGPT) -> None:
        self.model = model
        self.caches: dict[int, KVCache] = {}  # by slot, from the first token of its first text on

    @torch.inference_mode()
    def logits(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """(R,) tokens, their positions and slots, W of them wanted -> (W, V) logits, on the CPU in fp32."""
        device, found, first = self.model.embedding.weight.device, [], 0
        while first < len(tokens):
            end = first + 1
            while end < len(tokens) and slots[end] == slots[first]:
                end += 1
            if positions[first] == 0:
                self.caches[slots[first]] = KVCache(self.model)
            ids = torch.tensor([tokens[first:end]], device=device)
            found.append(self.model(ids, self.caches[slots[first]])[0])  # (rows, V)
            first = end
        return torch.cat(found)[list(wanted)].float().cpu()


class Written(NamedTuple):
    """What a text gained in one step. `finished`: "" while it goes on. `failure`: what broke it off."""

    choice: int
    piece: str
    finished: str
    tokens: int
    chances: list[dict[str, Any]] | None = None
    failure: str = ""


class Ticket:
    """One request: its texts, and what the engine tells of them. To be used from the event loop."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, texts: Sequence[Continuation]) -> None:
        self.engine, self.loop, self.open = engine, loop, len(texts)
        self.events: asyncio.Queue[Written | None] = asyncio.Queue()
        self.cancelled = False  # read by the engine before every token

    def tell(self, events: list[Written]) -> None:
        """Take what was written; a client that reads far too slowly is dropped."""
        for event in events:
            self.events.put_nowait(event)
        if self.events.qsize() > MOST_UNREAD:
            self.cancel()

    def cancel(self) -> None:
        """Write no further token for this request. Ends the iteration too."""
        if not self.cancelled and self.open:
            self.cancelled = True
            self.events.put_nowait(None)
            self.engine.wake_up()

    async def __aiter__(self) -> AsyncIterator[Written]:
        """What is written, until all texts are finished or the request is cancelled."""
        while self.open:
            event = await self.events.get()
            if event is None:
                return
            self.open -= bool(event.finished or event.failure)
            yield event


class Job:
    """A text on its way: waiting without a slot, then running in one."""

    def __init__(self, ticket: Ticket, index: int, text: Continuation, echo: int | None) -> None:
        self.ticket, self.index, self.text, self.echo = ticket, index, text, echo
        self.slot, self.told = -1, 0

    def written(self, piece: str, before: list[dict[str, Any]] | None = None) -> Written:
        """The event for a step that wrote `piece`; `before`: chances of the prompt."""
        chances = None
        if self.text.logprobs is not None:
            chances = (before or []) + self.text.chances_told(self.told)
            self.told = len(self.text.chances)
        return Written(self.index, piece, self.text.finished, self.text.ids.shape[1] - self.text.prompt, chances)


class Engine:
    """A thread that writes all texts. `n_slots` run at once, `n_waiting` more may wait."""

    def __init__(self, rows: Rows, n_slots: int, n_waiting: int) -> None:
        self.rows, self.free, self.most = rows, list(range(n_slots)), n_slots + n_waiting
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.changed, self.closing = threading.Condition(), False
        self.tokens = 0  # written since the start
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self.thread.start()

    def submit(self, texts: Sequence[Continuation], echo: int | None = None) -> Ticket:
        """Queue the texts of one request, all or none. `echo`: also the chances of their prompts, with so many others.

        Raises Full, or Closing.
        """
        ticket = Ticket(self, asyncio.get_running_loop(), texts)
        with self.changed:
            if self.closing:
                raise Closing
            if len(self.waiting) + len(self.running) + len(texts) > self.most:
                raise Full
            self.waiting.extend(Job(ticket, index, text, echo) for index, text in enumerate(texts))
            self.changed.notify()
        return ticket

    def wake_up(self) -> None:
        """Look again at who has left."""
        with self.changed:
            self.changed.notify()

    def stop(self) -> None:
        """Take nothing more, write nothing more; every text that is not finished is told."""
        with self.changed:
            self.closing = True
            self.changed.notify()

    def close(self) -> None:
        """`stop`; returns when the thread has ended."""
        self.stop()
        self.thread.join()

    def run(self) -> None:
        """Step by step until closed; a step that fails ends the texts in it, and no others."""
        while True:
            with self.changed:
                self.drop_cancelled()
                while not (self.waiting or self.running or self.closing):
                    self.changed.wait()
                if self.closing:
                    break
                joining = self.join()
            try:
                events = self.step(joining)
            except Exception:
                LOGGER.exception("a step of the engine failed")
                events = [(job, Written(job.index, "", "", 0, failure="the model failed")) for job in self.running]
            self.deliver(events)
        left = [*self.running, *self.waiting]
        self.running, self.waiting = left, deque()
        self.deliver([(job, Written(job.index, "", "", 0, failure=SHUTTING_DOWN)) for job in list(left)])

    def join(self) -> set[Job]:
        """Give free slots to those who wait longest, as many as JOINING_ROWS of prompts allow, and at least one."""
        joining: set[Job] = set()
        rows = 0
        while self.waiting and self.free:
            rows += self.waiting[0].text.prompt
            if joining and rows > JOINING_ROWS:
                break
            job = self.waiting.popleft()
            job.slot = self.free.pop()
            joining.add(job)
            self.running.append(job)
        return joining

    def step(self, joining: set[Job]) -> list[tuple[Job, Written]]:
        """One token for every running text; those that join begin with their prompts."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        ends: list[int] = []
        for job in self.running:
            ids = job.text.ids[0].tolist() if job in joining else job.text.ids[0, -1:].tolist()
            first = job.text.ids.shape[1] - len(ids)
            tokens += ids
            positions += range(first, first + len(ids))
            slots += [job.slot] * len(ids)
            every = job in joining and job.echo is not None
            wanted += range(len(tokens) - (len(ids) if every else 1), len(tokens))
            ends.append(len(wanted))
        logits = self.rows.logits(tokens, positions, slots, wanted)  # (W, V)
        events = []
        for job, end in zip(self.running, ends, strict=True):
            if job.ticket.cancelled:
                continue
            before = None
            if job in joining and job.echo is not None:
                before = chances_of_prompt(job, logits[end - job.text.prompt : end])
            piece = ""
            if not job.text.finished:  # one that asked for no token at all is
                piece = job.text.add(logits[end - 1 : end])
                self.tokens += 1
            if piece or job.text.finished or before:
                events.append((job, job.written(piece, before)))
        return events

    def deliver(self, events: list[tuple[Job, Written]]) -> None:
        """Free the slots of what has ended and tell the event loop."""
        by_ticket: dict[Ticket, list[Written]] = {}
        with self.changed:
            for job, event in events:
                by_ticket.setdefault(job.ticket, []).append(event)
                if event.finished or event.failure:
                    self.leave(job)
        for ticket, told in by_ticket.items():
            if not ticket.loop.is_closed():
                ticket.loop.call_soon_threadsafe(ticket.tell, told)

    def drop_cancelled(self) -> None:
        """Forget the texts of clients that have left."""
        self.waiting = deque(job for job in self.waiting if not job.ticket.cancelled)
        for job in [job for job in self.running if job.ticket.cancelled]:
            self.leave(job)

    def leave(self, job: Job) -> None:
        """Out of the batch."""
        self.running.remove(job)
        self.free.append(job.slot)


def chances_of_prompt(job: Job, logits: Tensor) -> list[dict[str, Any]]:
    """The chance of every token of the prompt after the ones before it; none for the first. (P, V) logits."""
    ids = job.text.ids[0].tolist()
    found: list[Chance] = [(ids[0], None, [])]
    for row, id in enumerate(ids[1:]):
        found.append((id, *log_probabilities(logits[row], id, job.echo or 0)))
    return job.text.told(found)
