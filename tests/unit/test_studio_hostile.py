"""Requests to the studio that want what they may not have: files, other people's pages, jobs without the token."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
from urllib.parse import quote, unquote

import httpx
import pytest

from benchmarks.reliability.names import SENTINEL, TARGETS, named, quoted
from benchmarks.reliability.origins import BAD_HOSTS, BAD_ORIGINS, GOOD_HOSTS
from tinygpt.studio.answers import Folder, is_name
from tinygpt.studio.app import Guard, Studio
from tinygpt.web import ApiError

TOKEN = "the token of a test"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def root(tmp_path_factory, trained):
    """runs/ with one run, and files with a sentence of their own wherever a path might lead."""
    home = tmp_path_factory.mktemp("hostile")
    shutil.copytree(trained, home / "runs" / "mine")
    for folder in (home, home / "runs", home / "runs" / "mine"):
        (folder / "sentinel.txt").write_text(SENTINEL)
    (home / "outside").mkdir()
    shutil.copytree(trained, home / "outside" / "other")
    (home / "runs" / "linked").symlink_to(home / "outside" / "other")
    shutil.copytree(trained, home / "runs" / "partly")
    shutil.rmtree(home / "runs" / "partly" / "snapshots")
    (home / "runs" / "partly" / "snapshots").symlink_to(home / "outside" / "other" / "snapshots")
    return home / "runs"


@pytest.fixture(scope="module")
def studio(root):
    return Studio(root, token=TOKEN)


def requests(studio: Studio, asked: list[tuple[str, str, dict]]) -> list[httpx.Response]:
    """All of them, one after the other."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(studio.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.request(method, path, **how) for method, path, how in asked]

    return asyncio.run(send())


def ask(studio: Studio, method: str, path: str, **how) -> httpx.Response:
    return requests(studio, [(method, path, how)])[0]


def allowed(token: str = TOKEN) -> dict[str, str]:
    return {"x-tinygpt-token": token, "x-tinygpt-once": os.urandom(16).hex()}


# --- names are no paths ----------------------------------------------------------------------------------------------

PLACES = (  # where a name may stand
    "/api/runs/{}/records", "/api/runs/{}/events", "/api/runs/mine/{}", "/api/models/{}@60/tokenize",
    "/api/models/{}/tokenize", "/api/models/mine@{}/tokenize", "/api/models/mine@60/{}",
    "/api/models/{}@60/generate/stream", "/static/{}", "/static/pages/{}", "/{}", "/api/jobs/{}",
)  # fmt: skip


def wire(studio: Studio, method: str, target: bytes, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Status and text of the answer to a request with these very bytes as its target, read as uvicorn reads them."""
    raw_path, _, query = target.partition(b"?")
    sent = {"host": "localhost", **headers}
    scope = {"type": "http", "method": method, "path": unquote(raw_path.decode("ascii", "replace")),
             "raw_path": raw_path, "query_string": query, "root_path": "", "scheme": "http", "http_version": "1.1",
             "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
             "server": ("localhost", 80), "client": ("localhost", 1)}  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    told: list[dict] = []

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.sleep(60)

    async def send(message):
        told.append(message)

    asyncio.run(asyncio.wait_for(studio.app(scope, receive, send), 60))
    return told[0]["status"], b"".join(message.get("body", b"") for message in told).decode()


def test_a_thousand_paths_as_names_open_nothing(studio, root):
    draw = random.Random(0)
    before = {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()}
    tried = 0
    for number, payload in enumerate(named(draw, 1_000)):
        target = payload if isinstance(payload, bytes) else quoted(payload, draw)
        place = PLACES[number % len(PLACES)]
        method, headers = ("DELETE", allowed()) if "jobs" in place else ("GET", {})
        name = payload.decode("latin-1") if isinstance(payload, bytes) else payload
        name = f"../{name}" if is_name(name) else name
        path, body = [("/api/intervene", {"model": f"{name}@60", "prompt": "a", "edits": []}),
                      ("/api/jobs", {"kind": "train", "run": name}),
                      ("/api/jobs", {"kind": "train", "text": "a b c", "name": name}),
                      ("/api/compare", {"runs": ["mine", name]})][number % 4]  # fmt: skip
        asked = [(method, place.encode().replace(b"{}", target), b"", headers),
                 ("POST", path.encode(), json.dumps(body).encode(), {**JSON, **allowed()})]  # fmt: skip
        for request in asked:
            status, text = wire(studio, *request)
            homely = request[1].partition(b"?")[0].rstrip(b"/") in (b"", b"/api/jobs", b"/api/runs/mine")
            assert status in (400, 404, 405) if homely else status in (400, 404), f"{request}: {status} {text[:200]}"
            assert SENTINEL not in text, request
            tried += 1
    assert {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()} == before
    assert tried == 2_000 and studio.jobs.process is None
    assert ask(studio, "GET", "/api/runs/mine/checkpoints").status_code == 200


def test_links_are_not_followed(studio, root):
    """A run that is a link, and one with a folder inside that is."""
    assert [run["name"] for run in ask(studio, "GET", "/api/runs").json()["runs"]] == ["mine"]
    for name in ("linked", "partly"):
        for path in (f"/api/runs/{name}/records", f"/api/models/{name}@0/architecture"):
            response = ask(studio, "GET", path)
            assert response.status_code == 404 and "runs here: mine" in response.text


def test_a_link_that_stays_inside_is_fine(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "mine" / "kept").symlink_to(tmp_path / "runs" / "mine" / "checkpoints")
    assert Folder(tmp_path / "runs").run("mine") == tmp_path / "runs" / "mine"


def test_names_beside_runs_are_no_runs(studio, root):
    for name in (".studio", ".", "..", "", "sentinel.txt", "mine/", "mine/checkpoints", "nul", "mine."):
        with pytest.raises(ApiError) as refused:
            Folder(root).run(name)
        assert refused.value.status == 404


# --- who may ask -----------------------------------------------------------------------------------------------------

HOSTS = {"127.0.0.1:7860": True, "localhost": True, "evil.example:7860": False, "": False}
ORIGINS = {None: True, "http://{host}": True, "https://evil.example": False, "null": False}
FORMS = {
    "read": [("GET", "/api/runs", None), ("POST", "/api/runs/mine/records", JSON), ("POST", "/api/runs/mine/records",
             {"content-type": "text/plain"})],
    "pages": [("GET", "/", None), ("GET", "/static/app.js", None), ("GET", "/attention", None)],
    "work": [("POST", "/api/jobs", JSON), ("POST", "/api/jobs", {"content-type": "text/plain"}),
             ("DELETE", "/api/jobs/nobody", None)],
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMS)
def test_forty_eight_cases_each_of_host_origin_method_and_content_type(studio, kind):
    for (host, good), (origin, known), (method, path, headers) in itertools.product(
        HOSTS.items(), ORIGINS.items(), FORMS[kind]
    ):
        sent = {
            **(headers or {}),
            "host": host,
            **({"origin": origin.format(host=host)} if origin else {}),
            **allowed(),
        }
        wanted = 403
        if good and known:
            wanted = (
                415 if headers and headers is not JSON else {"/api/jobs": 400, "/api/jobs/nobody": 404}.get(path, 200)
            )
        response = ask(studio, method, path, content=b"{}" if method == "POST" else None, headers=sent)
        assert response.status_code == wanted, f"{method} {path} {sent}: {response.text[:200]}"
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["content-security-policy"].startswith("default-src 'self';")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert (response.headers["referrer-policy"], response.headers["x-frame-options"]) == ("no-referrer", "DENY")
    assert studio.jobs.process is None


def test_streams_are_refused_alike(studio):
    for path in ("/api/runs/mine/events", "/api/models/mine@60/generate/stream?prompt=x"):
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert ask(studio, "GET", path, headers=headers).status_code == 403


def test_names_that_only_look_like_this_machine(studio):
    for host in GOOD_HOSTS:
        assert ask(studio, "GET", "/api/runs", headers={"host": host}).status_code == 200, host
    for host in BAD_HOSTS:
        assert ask(studio, "GET", "/static/app.js", headers={"host": host}).status_code == 403, host
    for origin in BAD_ORIGINS:
        assert ask(studio, "GET", "/api/runs", headers={"origin": origin}).status_code == 403, origin


def test_pages_of_other_sites_cannot_make_it_work(studio):
    """An <img> of another page sends no Origin; browsers say where it comes from all the same."""
    for site in ("cross-site", "same-site"):
        foreign = {"sec-fetch-site": site}
        assert ask(studio, "GET", "/api/models/mine@60/architecture", headers=foreign).status_code == 403
        assert ask(studio, "GET", "/attention", headers=foreign).status_code == 200  # a link may be followed


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:9", "https://127.0.0.1:7860"])
def test_pages_of_other_ports_of_this_machine_are_foreign(studio, origin):
    """Pins: any page that this machine served could make the studio compute."""
    assert ask(studio, "GET", "/api/runs", headers={"origin": origin}).status_code == 403
    assert (
        ask(studio, "POST", "/api/jobs", content=b"{}", headers={**JSON, **allowed(), "origin": origin}).status_code
        == 403
    )


def test_other_methods_and_an_upgrade_change_nothing(studio):
    for method, path in itertools.product(("PUT", "PATCH", "OPTIONS", "TRACE"), ("/api/runs", "/", "/static/app.js")):
        assert ask(studio, method, path).status_code == 405
    upgrade = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    assert ask(studio, "GET", "/api/runs", headers=upgrade).status_code == 200


# --- the token -------------------------------------------------------------------------------------------------------


def test_nothing_is_started_or_stopped_without_the_token_of_this_start(studio, root, tmp_path):
    """20 requests: missing, of an earlier start, nearly right, and each good one sent again."""
    old = Studio(root).token
    body = json.dumps({"kind": "train", "text": "x", "settings": {"n_embd": 1}}).encode()  # refused later, with 400
    asked = [("POST", "/api/jobs", body), ("DELETE", "/api/jobs/nobody", None)]
    bad = [
        {}, allowed(""), allowed(old), allowed(TOKEN[:-1]), allowed(TOKEN + "x"), allowed(TOKEN.upper()),
        {"x-tinygpt-token": TOKEN}, {**allowed(), "x-tinygpt-once": "short"},
        {**allowed(), "x-tinygpt-once": "x" * 129},
    ]  # fmt: skip
    refused = 0
    for (method, path, content), headers in itertools.product(asked, bad):
        assert ask(studio, method, path, content=content, headers={**JSON, **headers}).status_code == 403, headers
        refused += 1
    for method, path, content in asked:
        headers = {**JSON, **allowed()}
        assert ask(studio, method, path, content=content, headers=headers).status_code in (400, 404)
        again = ask(studio, method, path, content=content, headers=headers)
        assert again.status_code == 403 and "fresh random text" in again.text
        refused += 1
    assert refused == 20 and not (root / ".studio").exists()
    assert len(old) > 40 and old != Studio(root).token


def test_a_token_beyond_ascii_is_refused_and_no_failure(studio):
    headers = [(b"host", b"localhost"), (b"x-tinygpt-token", "é".encode()), (b"x-tinygpt-once", b"12345678")]
    guard = Guard(None, TOKEN)
    told = {name.decode(): value.decode("latin-1") for name, value in headers}
    with pytest.raises(ApiError, match="missing or old"):
        guard.check({"method": "DELETE", "path": "/api/jobs/x", "headers": headers}, told, keyless=False)


# --- script strings --------------------------------------------------------------------------------------------------

SCRIPTS = [
    "<script>alert(1)</script>", '"><script>alert(1)</script>', "<img src=x onerror=alert(1)>",
    "</script><svg/onload=x>", "javascript:alert(1)", "<!--<script>", "{{constructor.constructor('x')()}}",
    "\u2028<script>", "<ScRiPt>x</sCrIpT >", "'-alert(1)-'",
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_strings_are_no_names_and_stay_text(studio, script):
    """They come back as JSON alone, which no browser takes for a page."""
    good = {**JSON, **allowed()}
    body = json.dumps({"kind": "train", "text": "x", "name": script}).encode()
    response = ask(studio, "POST", "/api/jobs", content=body, headers=good)
    assert response.status_code == 400 and response.headers["content-type"] == "application/json"
    response = ask(studio, "GET", f"/api/runs/{quote(script, safe='')}/records")
    assert response.status_code == 404 and response.headers["content-type"] == "application/json"
    response = ask(studio, "POST", "/api/models/mine@60/tokenize", json={"text": script})
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    pieces = response.json()["data"]["pieces"]
    assert bytes.fromhex("".join(piece["bytes"] for piece in pieces)).decode() == script
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_pages_load_nothing_from_elsewhere_and_hold_no_script(studio):
    page = studio.files["index.html"].read_text()
    assert "<script>" not in page and " on" not in page.replace(" on ", " ") and "style=" not in page
    for name, path in studio.files.items():
        assert "http://" not in path.read_text().replace("http://www.w3.org/", "").replace("http://127.0.0.1", ""), name
        assert "https://" not in path.read_text(), name


def test_every_target_is_one_that_a_traversal_could_reach(root):
    """The sentinels are where the payloads point to, so that the trial means something."""
    assert {"sentinel.txt"} <= set(TARGETS) and (root / ".." / "sentinel.txt").read_text() == SENTINEL
