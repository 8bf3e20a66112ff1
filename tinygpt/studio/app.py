"""Routes of the studio and who may use them. Every reply of a function is exactly its `Result.to_json()`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import tinygpt.inspect as ti
from tinygpt import runs, web
from tinygpt.folders import is_locked
from tinygpt.records import METRICS, SAMPLES
from tinygpt.storage import stamps
from tinygpt.studio.answers import READERS, Answers, Folder, Worker, told
from tinygpt.studio.jobs import Jobs
from tinygpt.web import ApiError, json_response, plain_app, read_json, write_json

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
BODY_BYTES, BODY_S = 2 << 20, 30.0  # a text of 1 MB as JSON, and the time for sending it
POLL_S, HEARTBEAT_S = 1.0, 15.0  # between two looks at the logs of a run; between two signs of life
MOST_STREAMS = 16
ONCE = (8, 128)  # characters of a value that is used once
LOGGER = logging.getLogger("tinygpt.studio")


class Guard(web.Guard):
    """Only pages of this studio may ask, and only a window that has the token of this start may change anything."""

    host_advice = "open the address that tinygpt studio has printed"
    origin_advice = "only the studio's own pages may ask it"
    headers = (
        (b"content-security-policy",
         b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )  # fmt: skip

    def __init__(self, app: ASGIApp, token: str) -> None:
        super().__init__(app, LOGGER)
        self.token, self.used = token, set[str]()

    def welcome(self, origin: str, host: str) -> bool:
        """Its own alone: another port of this machine serves somebody else's pages."""
        return origin == f"http://{host}"

    def check_key(self, scope: Scope, headers: dict[str, str]) -> None:
        """ApiError for a request from another page, and for a change without the token or with a used value."""
        if scope["path"].startswith("/api/") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ApiError(403, "a page of another site, or of another port of this machine, cannot ask the studio.")
        if not scope["path"].startswith("/api/jobs") or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return
        sent = headers.get("x-tinygpt-token", "").encode("latin-1")
        if not hmac.compare_digest(sent, self.token.encode()):
            raise ApiError(403, "the token of this start is missing or old; open the address that was printed last.")
        once = headers.get("x-tinygpt-once", "")
        if not ONCE[0] <= len(once) <= ONCE[1] or once in self.used:
            raise ApiError(403, "X-Tinygpt-Once must be a fresh random text of 8 to 128 characters in each request.")
        self.used.add(once)


class Events(Response):
    """Server-sent events until their source ends or the client leaves."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self.source, self.background, self.status_code = source, None, 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", **web.PLAIN_HEADERS}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

        async def tell() -> None:
            async for event in self.source:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        telling, leaving = asyncio.create_task(tell()), asyncio.create_task(left(receive))
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, leaving):
                task.cancel()
            ends = await asyncio.gather(telling, leaving, return_exceptions=True)
        if isinstance(ends[0], Exception):
            raise ends[0]


def event(data: bytes, name: str = "") -> bytes:
    """One event; data is one line of JSON."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data.strip() + b"\n\n"


async def left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


# --- routes ----------------------------------------------------------------------------------------------------------


class Studio:
    """The runs of one folder, and the application that shows them."""

    def __init__(self, root: Path, static: Path = STATIC, token: str | None = None) -> None:
        self.folder = Folder(root)
        self.answers, self.jobs = Answers(self.folder), Jobs(root)
        self.token = token or secrets.token_urlsafe(32)
        self.streams, self.closing = 0, asyncio.Event()
        self.files = {path.relative_to(static).as_posix(): path for path in sorted(static.rglob("*"))
                      if path.suffix in TYPES and path.is_file() and not path.is_symlink()}  # fmt: skip
        self.pages = {Path(name).stem for name in self.files if name.startswith("pages/")}
        self.app = Guard(self.routes(), self.token)

    async def ask(self, request: Request, worker: Worker, asked: tuple[Any, Callable[[], bytes]]) -> Response:
        """The reply that is kept, or one computed now; ApiError where the function refuses its arguments."""
        key, compute = asked
        reply = self.answers.replies.get(key)
        if reply is None:
            reply = await unless_left(request, worker.submit(lambda: told(compute)))
            self.answers.replies.put(key, reply)
        return json_response(reply, headers={"cache-control": "no-store"})

    def worker(self, function: str) -> Worker:
        return self.answers.readers if function in READERS else self.answers.forwards

    def routes(self) -> ASGIApp:
        """Everything that can be asked."""
        app = plain_app(openapi_url=None)

        def both(path: str) -> Callable[[Any], Any]:
            return app.api_route(path, methods=["GET", "POST"])

        @app.get("/api/runs")
        async def listed() -> Response:
            return json_response(await asyncio.to_thread(self.listing), headers={"cache-control": "no-store"})

        @app.get("/api/runs/{run}/events")
        async def events(run: str, request: Request) -> Response:
            since = request.query_params.get("since", "0")
            if not (since.isascii() and since.isdecimal() and len(since) < 10):
                raise ApiError(400, f"since={since[:100]!r} must be a whole number.")
            if self.streams >= MOST_STREAMS:
                raise ApiError(429, f"{MOST_STREAMS} pages follow runs; close one of them.")
            return Events(self.follow(await asyncio.to_thread(self.folder.run, run), int(since)))

        @both("/api/runs/{run}/{function}")
        async def run_function(run: str, function: str, request: Request) -> Response:
            given = await arguments(request)
            asked = await asyncio.to_thread(self.answers.of_run, run, function, given)
            return await self.ask(request, self.worker(function), asked)

        @both("/api/compare")
        async def compare(request: Request) -> Response:
            asked = await asyncio.to_thread(self.answers.of_runs, "compare", await arguments(request))
            return await self.ask(request, self.answers.forwards, asked)

        @app.get("/api/models/{reference}/generate/stream")
        async def stream(reference: str, request: Request) -> Response:
            return Events(
                self.write(await asyncio.to_thread(self.answers.writing, reference, await arguments(request)))
            )

        @both("/api/models/{reference}/{function}")
        async def model_function(reference: str, function: str, request: Request) -> Response:
            given = await arguments(request)
            asked = await asyncio.to_thread(self.answers.of_model, reference, function, given)
            return await self.ask(request, self.answers.forwards, asked)

        @app.post("/api/intervene")
        async def intervene(request: Request) -> Response:
            given = await arguments(request)
            reference = given.pop("model", None)
            if not isinstance(reference, str):
                raise ApiError(400, "model must be RUN@STEP.")
            asked = await asyncio.to_thread(self.answers.of_model, reference, "intervene", given)
            return await self.ask(request, self.answers.forwards, asked)

        @app.get("/api/jobs")
        async def jobs() -> Response:
            return json_response(await asyncio.to_thread(self.jobs.listing), headers={"cache-control": "no-store"})

        @app.post("/api/jobs")
        async def start(request: Request) -> Response:
            given = await arguments(request)
            return json_response({"job": await asyncio.to_thread(self.jobs.start, given)}, 201)

        @app.delete("/api/jobs/{id}")
        async def stop(id: str) -> Response:
            return json_response({"job": await asyncio.to_thread(self.jobs.stop, id)})

        @app.get("/static/{name:path}")
        async def static(name: str, request: Request) -> Response:
            return self.file(name, request)

        @app.get("/")
        async def home(request: Request) -> Response:
            return self.file("index.html", request)

        @app.get("/{page}")
        async def page(page: str, request: Request) -> Response:
            if page not in self.pages:
                if "text/html" in request.headers.get("accept", ""):  # a browser: the pages say it, and lead on
                    return self.file("index.html", request, status=404)
                raise ApiError(404, f"there is no page {page[:100]!r}; there are {', '.join(sorted(self.pages))}.")
            return self.file("index.html", request)

        return app

    def file(self, name: str, request: Request, status: int = 200) -> Response:
        """One of the files of the pages; 304 if the browser has it already."""
        if name not in self.files:
            raise ApiError(404, f"there is no file {name[:100]!r}.")
        path = self.files[name]
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"cache-control": "no-cache", "etag": tag, **web.PLAIN_HEADERS}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(data, status, headers=headers, media_type=TYPES[path.suffix])

    def listing(self) -> dict[str, Any]:
        """All runs, the job that runs or ran last, and runs that cannot be read."""
        cards, broken = [], []
        for name in self.folder.names():
            try:
                cards.append(self.folder.card(name))
            except (OSError, ValueError, KeyError, TypeError) as error:
                broken.append({"name": name, "message": f"{name} cannot be read: {error or type(error).__name__}."})
        return {"runs": cards, "job": self.jobs.current(), "broken": broken}

    async def follow(self, folder: Path, since: int) -> AsyncIterator[bytes]:
        """A run's records after `since` and what comes, as events; a comment now and then while nothing comes."""
        self.streams += 1
        try:
            run: runs.Run | None = None
            seen: Any = None
            silent_s = 0.0
            while not self.closing.is_set():
                state = stamps(folder / METRICS, folder / SAMPLES), await asyncio.to_thread(is_locked, folder)
                if state != seen:
                    run, news, whole = await self.answers.readers.submit(
                        partial(told, partial(news_of, run or folder, since))
                    )
                    seen, since, silent_s = state if whole else None, news["next"], 0.0
                    yield event(write_json(news))
                elif silent_s >= HEARTBEAT_S:
                    silent_s = 0.0
                    yield b": still here\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.closing.wait(), POLL_S)
                silent_s += POLL_S
        except ApiError as error:
            yield event(write_json(error.body()), "failed")
            yield event(b"{}", "end")
        finally:
            self.streams -= 1

    async def write(self, writing: Callable[[], Iterator[dict[str, Any]]]) -> AsyncIterator[bytes]:
        """The steps of a text as events, each when it is written; no further one for a client that has left."""
        loop, steps, gone = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None](), threading.Event()

        def work() -> None:
            try:
                for step in told(writing):
                    loop.call_soon_threadsafe(steps.put_nowait, step)
                    if gone.is_set():
                        break
            finally:
                loop.call_soon_threadsafe(steps.put_nowait, None)

        try:
            future = self.answers.forwards.submit(work)
            while step := await steps.get():
                yield event(write_json(step))
            await future
        except ApiError as error:
            yield event(write_json(error.body()), "failed")
        finally:
            gone.set()
        yield event(b"{}", "end")

    def close(self) -> None:
        """End the streams."""
        self.closing.set()


def news_of(run: runs.Run | Path, since: int) -> tuple[runs.Run, dict[str, Any], bool]:
    """The run, what a page draws of its records from `since` on, and whether these are all.

    run: its folder where it has not been opened yet.
    """
    run = run if isinstance(run, runs.Run) else runs.open_run(run)[0]
    found = ti.records(run, since=since)
    news = {name: found[name] for name in ("records", "samples", "first", "next", "training", "finished", "left_s")}
    return run, news, found.truncated is None


async def arguments(request: Request) -> dict[str, Any]:
    """Arguments by name from the query, or from a JSON object in the body."""
    if request.method == "GET":
        return dict(request.query_params)
    given = read_json(await web.read_body(request, BODY_BYTES, BODY_S, "send a shorter text"))
    if not isinstance(given, dict):
        raise ApiError(400, "the body must be a JSON object of arguments.")
    return given


async def unless_left(request: Request, future: asyncio.Future[bytes]) -> bytes:
    """The result; taken back, if it has not begun, when the client leaves."""
    leaving = asyncio.create_task(left(request.receive))
    try:
        both: set[asyncio.Future[Any]] = {future, leaving}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ApiError(400, "the client left before its answer was computed.")
        return future.result()
    finally:
        leaving.cancel()
        future.cancel()
