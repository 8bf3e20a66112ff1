"""What the studio costs, and how fast it is.

    python -m benchmarks.studio --row slowdown --repeats 5
    python -m benchmarks.studio --row slowdown --steps 2000 n_embd=256 threads=2

slowdown    steps a second of a training alone, and with the page Training open on it (the stream of its records, the
            list of runs every 5 s, health of its layers every 15 s) and one forward of 128 tokens every 10 s. Both arms
            are the same command with the same seed, in turns; the ratio is taken round by round.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.common import BenchmarkError, alternate, figures, parser, plain_errors, positive, record, report, say
from benchmarks.contenders import default_text, pace, snapshot_steps
from benchmarks.reliability.common import HANG_S
from benchmarks.reliability.studio import StudioServer, studio
from tinygpt.records import METRICS, read
from tinygpt.storage import read_json
from tinygpt.tokenizer import Tokenizer

NAME = "watched"
RUNS_EVERY_S, HEALTH_EVERY_S, FORWARD_EVERY_S = 5.0, 15.0, 10.0
PROMPT = "Once upon a time there was a little girl who lived by the sea. " * 20
TOKENS = 128
TRAINING = ["log_every=10", "eval_every=1000000", "save_every=1000000", "sample_every=1000000", "compiled=no"]


def train(text: Path, words: list[str], steps: int, watched: bool, round_: int) -> dict[str, Any]:
    """Speed of one training, and what a reader got from the studio meanwhile."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        server = stack.enter_context(studio(folder)) if watched else None
        command = [sys.executable, "-m", "tinygpt", "train", str(text), "--run", NAME, "--steps", str(steps),
                   "--quiet", f"seed={round_}", *TRAINING, *words]  # fmt: skip
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   start_new_session=True)  # fmt: skip
        try:
            reader = stack.enter_context(reading(server)) if server else None
            said, _ = process.communicate()
        finally:
            process.kill()
        if process.returncode:
            raise BenchmarkError(f"the training ended with code {process.returncode}: {said.strip()[-300:]}.")
        run = folder / "runs" / NAME
        answer: dict[str, Any] = {**pace(read(run / METRICS), tokens_of(run), snapshot_steps(run))}
        if reader is not None:
            if min(len(reader["forward_ms"]), reader["events"]) < 2:
                raise BenchmarkError("the training was over before the page had seen it; give more --steps.")
            answer |= {name: value for name, value in reader.items() if name != "failures"}
            if reader["failures"]:
                raise BenchmarkError(f"the studio refused: {reader['failures'][0]}.")
        return answer


def tokens_of(run: Path) -> int:
    """Of one step."""
    stored = read_json(run / "config.json")
    return int(stored["train"]["batch_size"] * stored["model"]["block_size"])


@contextlib.contextmanager
def reading(server: StudioServer) -> Iterator[dict[str, Any]]:
    """The page Training, and somebody who looks inside now and then, until the block ends."""
    over, seen = threading.Event(), {"forward_ms": [], "events": 0, "failures": []}  # type: dict[str, Any]

    def every(seconds: float, ask: Callable[[], Any]) -> None:
        while not over.wait(seconds):
            try:
                ask()
            except (OSError, http.client.HTTPException) as error:
                seen["failures"].append(str(error))

    def get(path: str) -> None:
        reply = server.ask("GET", path)
        if reply.status != 200:
            seen["failures"].append(f"{path[:80]}: {reply.status} {reply.body[:200]!r}")

    places = itertools.count()

    def forward() -> None:
        tokenizer, start = Tokenizer.load(server.said.parent / "runs" / NAME / "tokenizer.json"), next(places) % 20
        prompt = tokenizer.decode(tokenizer.encode(PROMPT)[start : start + TOKENS])
        began = time.perf_counter()
        get(f"/api/models/{NAME}@last/attention?{urlencode({'prompt': prompt})}")
        seen["forward_ms"].append(1e3 * (time.perf_counter() - began))

    def follow() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG_S)
        connection.request("GET", f"/api/runs/{NAME}/events?since=0")
        stream = connection.getresponse()
        while not over.is_set() and (line := stream.readline()):
            seen["events"] += line.startswith(b"data: ")

    def page() -> None:
        while not over.wait(0.5) and server.ask("GET", f"/api/runs/{NAME}/checkpoints").json.get("data") is None:
            pass
        while not over.wait(0.5) and not server.ask("GET", f"/api/runs/{NAME}/checkpoints").json["data"]["steps"]:
            pass
        asked = ((RUNS_EVERY_S, functools.partial(get, "/api/runs")), (FORWARD_EVERY_S, forward),
                 (HEALTH_EVERY_S, functools.partial(get, f"/api/runs/{NAME}/health")))  # fmt: skip
        for seconds, ask in asked:
            threading.Thread(target=every, args=(seconds, ask), daemon=True).start()
        follow()

    threading.Thread(target=page, daemon=True).start()
    try:
        yield seen
    finally:
        over.set()


def slowdown(args: Any, folder: Path) -> dict[str, Any]:
    """The row: a line for the history."""
    text = args.text or default_text(folder, 120.0)
    arms = {
        name: functools.partial(train, text.resolve(), args.settings, args.steps, watched)
        for name, watched in (("alone", False), ("watched", True))
    }
    results, errors = alternate(arms, args.repeats, say)
    speeds = {name: [1 / answer["step_s"] for answer in found] for name, found in results.items()}
    waits = {"watched": [ms for answer in results.get("watched", []) for ms in answer["forward_ms"]]}
    found = figures("training speed", "steps/s", speeds, "alone")
    found += figures("forward of 128 tokens beside a training", "ms", waits) if waits["watched"] else []
    return record("studio", {"row": "slowdown", "steps": args.steps, "settings": args.settings}, found, errors,
                  runs=results)  # fmt: skip


ROWS: dict[str, Callable[[Any, Path], dict[str, Any]]] = {"slowdown": slowdown}


def main(arguments: list[str] | None = None) -> None:
    """Run one row."""
    options = parser(__doc__)
    options.add_argument("--row", choices=list(ROWS), default="slowdown")
    options.add_argument("--text", type=Path, help="what is trained on (default: built-in tales)")
    options.add_argument("--steps", type=positive, default=1500, help="of each training (default: 1500)")
    options.add_argument("settings", nargs="*", metavar="field=value", help="settings of the training")
    args = options.parse_intermixed_args(arguments)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        report(ROWS[args.row](args, Path(temporary)), args.history)


if __name__ == "__main__":
    main()
