"""R13 and R20 for the studio: `tinygpt studio` in a process, asked over sockets and by a headless browser.

names() and origins() are what the rows `names` and `origins` add to their own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.browser import browser_path, chromium
from benchmarks.reliability.common import Row, Scale, environment
from benchmarks.reliability.data import tree
from benchmarks.reliability.server import NAME, Server, random_run, request, status_of, wait_until

CSP = b"content-security-policy: default-src 'self';"
NAME_PLACES = (  # where a name may stand
    "/api/runs/{}/records", "/api/runs/{}/events", f"/api/runs/{NAME}/{{}}", "/api/models/{}@0/architecture",
    "/api/models/{}/architecture", f"/api/models/{NAME}@{{}}/architecture", f"/api/models/{NAME}@0/{{}}",
    "/api/models/{}@0/generate/stream", "/static/{}", "/static/pages/{}", "/{}",
)  # fmt: skip
LEADS_HOME = re.compile(rb"/?|/api/(jobs|runs|runs/" + NAME.encode() + rb")/?|/static/?")
SCRIPTS = (
    "<script>document.title='taken'</script>", '"><script>document.title="taken"</script>',
    "<img src=x onerror=\"document.title='taken'\">", "</script><svg onload=\"document.title='taken'\">",
    "<iframe srcdoc='<script>parent.document.title=1</script>'>", "<body onload=document.title=1>", "<!--<script>",
    "javascript:document.title=1", "\u2028<script>document.title=1</script>", "<ScRiPt>document.title=1</sCrIpT >",
)  # fmt: skip


class StudioServer(Server):
    """A running studio, and the token of its start."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process, self.said = process, said
        wait_until(lambda: process.poll() is not None or "Ctrl-C" in self.log())
        found = re.search(r"http://127\.0\.0\.1:(\d+)/#token=(\S+)", self.log())
        if not found:
            raise RuntimeError(f"no studio: {self.log()[-500:]}")
        self.port, self.token = int(found[1]), found[2]
        self.url = f"http://127.0.0.1:{self.port}"

    def allowed(self, token: str | None = None) -> dict[str, str]:
        """Headers of a request that may change something."""
        return {"X-Tinygpt-Token": self.token if token is None else token, "X-Tinygpt-Once": secrets.token_hex(16)}

    def check_sound(self, row: Row, after: str) -> None:
        answers = self.process.poll() is None and self.ask("GET", "/api/runs").status == 200
        row.check(answers and "Traceback" not in self.log(), f"{after}: {self.log()[-1500:]}")


@contextlib.contextmanager
def studio(folder: Path, code: str = "", runs: Path | None = None, threads: int = 1) -> Iterator[StudioServer]:
    """`tinygpt studio` over folder/runs, or `runs`; code: Python that runs in the process before the command."""
    program = ["-c", f"{code}\nfrom tinygpt.cli import main\nmain()"] if code else ["-m", "tinygpt"]
    words = [sys.executable, *program, "studio", *([str(runs)] if runs else []), "--port", "0", "--no-browser"]
    variables = {**environment(), "OMP_NUM_THREADS": str(threads)}
    said = folder / f"said-{time.monotonic_ns()}"
    with said.open("wb") as out:
        process = subprocess.Popen(words, cwd=folder, env=variables, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield StudioServer(process, said)
    finally:
        process.kill()
        process.wait()


# --- R13 -------------------------------------------------------------------------------------------------------------


def names(scale: Scale, payloads: list[str | bytes], draw: random.Random, quoted: Any, sentinel: str) -> Row:
    """Payloads where a name may stand in a path or a body; files with the sentinel stand where they point to."""
    result = Row("R13", "studio")
    run = random_run(scale.folder, block_size=32)
    outside = scale.folder / "outside"
    shutil.copytree(run, outside)
    (run.parent / "linked").symlink_to(outside)
    for place in (scale.folder, run.parent, run, outside):
        (place / "sentinel.txt").write_text(sentinel)

    def contents() -> object:
        return {path: data for path, data in tree(scale.folder).items() if "said-" not in str(path)}

    with studio(scale.folder) as server:
        server.ask("GET", "/api/runs")
        before = contents()
        for number, payload in enumerate(payloads):
            target = payload if isinstance(payload, bytes) else quoted(payload, draw)
            wires = []
            for place in NAME_PLACES if scale.full else [NAME_PLACES[number % len(NAME_PLACES)]]:
                path = place.encode().replace(b"{}", target)
                wires.append((path, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
            name = payload.decode() if isinstance(payload, bytes) else payload
            name = f"../{name}" if re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) else name
            bodies = (("/api/intervene", {"model": f"{name}@0", "prompt": "a", "edits": []}),
                      ("/api/jobs", {"kind": "train", "run": name}),
                      ("/api/jobs", {"kind": "train", "text": "a b c", "name": name}),
                      ("/api/compare", {"runs": [NAME, name]}))  # fmt: skip
            for path, body in bodies if scale.full else [bodies[number % len(bodies)]]:
                headers = {**server.allowed(), "Connection": "close"}
                wires.append((path.encode(), request(path, json.dumps(body).encode(), **headers)))
            for path, wire in wires:
                answer = server.raw(wire)
                homely = LEADS_HOME.fullmatch(re.split(rb"[?#]", path)[0])  # nothing is left of the name
                fine = status_of(answer) in ((200, 400, 404, 405) if homely else (400, 404))
                result.check(fine and sentinel.encode() not in answer, f"{wire[:160]!r}: {answer[:300]!r}")
        result.check(contents() == before, "studio: a file was made or changed")
        result.check(server.ask("GET", f"/api/runs/{NAME}/checkpoints").status == 200, "the right name is not found")
        listed = [run["name"] for run in server.ask("GET", "/api/runs").json["runs"]]
        result.check(listed == [NAME], f"a link is listed as a run: {listed}")
        server.check_sound(result, "names in the studio")
    return result


# --- R20 -------------------------------------------------------------------------------------------------------------

FORMS = (  # method, path, content type, status where host and origin are good
    ("GET", "/api/runs", "", 200), ("POST", f"/api/runs/{NAME}/records", "application/json", 200),
    ("POST", f"/api/runs/{NAME}/records", "text/plain", 415), ("GET", "/", "", 200),
    ("GET", "/static/app.js", "", 200), ("POST", "/api/jobs", "application/json", 400),
    ("POST", "/api/jobs", "application/x-www-form-urlencoded", 415), ("DELETE", "/api/jobs/nobody", "", 404),
)  # fmt: skip


ORIGINS = {  # -> allowed; another port of this machine serves somebody else's pages
    "": True, "http://{host}": True, "http://localhost:3000": False, "https://evil.example": False, "null": False,
}  # fmt: skip


def origins(scale: Scale, hosts: Mapping[str, bool]) -> Row:
    """Host x Origin x method and content type, also static files and streams; the token; strings of script."""
    result = Row("R20", "studio")
    random_run(scale.folder, block_size=32)
    with studio(scale.folder) as server:
        cases(result, server, hosts)
        streams(result, server)
        tokens(result, server, scale.pick(4, 20))
        server.check_sound(result, "the studio's hosts, origins and tokens")
        strings(result, scale, server)
    return result


def cases(result: Row, server: StudioServer, hosts: Mapping[str, bool]) -> None:
    """The 48 and more."""
    for (host, good), (origin, known), (method, path, kind, status) in itertools.product(
        hosts.items(), ORIGINS.items(), FORMS
    ):
        host = host.format(port=server.port)
        fields = {"Host": host, "Origin": origin.format(host=host), "Content-Type": kind, **server.allowed(),
                  "Content-Length": "2" if method == "POST" else "", "Connection": "close"}  # fmt: skip
        told = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        version, body = "1.1" if host else "1.0", "{}" if method == "POST" else ""
        answer = server.raw(f"{method} {path} HTTP/{version}\r\n{told}\r\n{body}".encode())
        wanted = status if good and known else 403
        label = f"studio: {method} {path} {kind} for Host {host!r} from Origin {origin!r}"
        result.check(status_of(answer) == wanted, f"{label} must give {wanted}: {answer[:300]!r}")
        head = answer.lower().partition(b"\r\n\r\n")[0]
        result.check(CSP in head and b"access-control" not in head, f"{label}: {head!r}")


def streams(result: Row, server: StudioServer) -> None:
    """A stream is refused before it begins."""
    for path in (f"/api/runs/{NAME}/events", f"/api/models/{NAME}@0/generate/stream?prompt=a"):
        for field in ("Host: evil.example", "Host: localhost\r\nOrigin: null"):
            answer = server.raw(f"GET {path} HTTP/1.1\r\n{field}\r\nConnection: close\r\n\r\n".encode())
            result.check(status_of(answer) == 403, f"studio: {path} with {field} must give 403: {answer[:200]!r}")


def tokens(result: Row, server: StudioServer, count: int) -> None:
    """Missing, old and replayed ones start nothing."""
    body = json.dumps({"kind": "train", "text": "a b c", "settings": {"n_embd": 1}}).encode()
    for number in range(count):
        good = server.allowed()
        bad = [{}, server.allowed(secrets.token_urlsafe(32)), {"X-Tinygpt-Token": server.token}, good][number % 4]
        if bad is good:
            first = server.raw(request("/api/jobs", body, Connection="close", **good))
            result.check(status_of(first) == 400, f"studio: the good token must be heard: {first[:200]!r}")
        answer = server.raw(request("/api/jobs", body, Connection="close", **bad))
        result.check(status_of(answer) == 403, f"studio: {sorted(bad)} must give 403: {answer[:200]!r}")
    jobs = server.ask("GET", "/api/jobs").json["jobs"]
    result.check(jobs == [], f"studio: jobs were started: {jobs}")


def strings(result: Row, scale: Scale, server: StudioServer) -> None:
    """Strings of script as prompt and run: in the replies only as JSON; in full also in the pages of a browser."""
    for script in SCRIPTS:
        answer = server.ask("POST", f"/api/models/{NAME}@0/tokenize", {"text": script})
        kind = answer.headers["content-type"]
        result.check((answer.status, kind) == (200, "application/json"), f"studio: {script!r} comes back as {kind}")
        answer = server.ask("GET", f"/api/runs/{quote(script, safe='')}/records")
        result.check((answer.status, answer.headers["content-type"]) == (404, "application/json"), f"run {script!r}")
    if not scale.full:
        return
    path = browser_path()
    if path is None:
        result.lowered = "no browser here: script strings only in replies"
        return
    with chromium(path) as browser:
        page = browser.new_page()
        for number in range(200):
            script = SCRIPTS[number % len(SCRIPTS)] + (f" {number}" if number >= len(SCRIPTS) else "")
            where = ("tokenizer", "forward", "attention", "generate", "memorisation")[number // len(SCRIPTS) % 5]
            run = script if number % 7 == 6 else NAME
            query = f"run={quote(run)}&prompt={quote(script)}&text={quote(script)}"
            page.goto(f"{server.url}/{where}?{query}", wait_until="networkidle")
            found = page.evaluate(
                "() => [document.scripts.length, document.title, [...document.querySelectorAll('*')]"
                ".filter((e) => [...e.attributes].some((a) => a.name.startsWith('on'))).length]"
            )
            fine = found[0] == 1 and "taken" not in found[1] and found[1] != "1" and found[2] == 0
            result.check(fine, f"studio: {where} with {script!r}: {found}")
    result.measured["script strings in a browser"] = "200 over five pages"
