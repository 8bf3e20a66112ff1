"""The studio's routes in process, and its trainings as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from command_line import refused

import tinygpt.inspect as ti
from tinygpt import checkpoint, runs
from tinygpt.studio import answers as answering
from tinygpt.studio import jobs as working
from tinygpt.studio.answers import Replies, Worker
from tinygpt.studio.app import Studio
from tinygpt.studio.jobs import Jobs
from tinygpt.web import ApiError

TOKEN = "the token of a test"
TINY = {
    "n_layers": 1, "n_embd": 16, "n_heads": 2, "block_size": 16, "vocab_size": 300, "threads": 1, "device": "cpu",
    "compiled": "no",
}  # fmt: skip
HANG_S = 120


@pytest.fixture(scope="module")
def root(tmp_path_factory, trained):
    """A folder with one trained run, mine."""
    folder = tmp_path_factory.mktemp("studio") / "runs"
    shutil.copytree(trained, folder / "mine")
    return folder


@pytest.fixture
def studio(root):
    return Studio(root, token=TOKEN)


def ask(studio: Studio, method: str, path: str, **how) -> httpx.Response:
    """One request to the application."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(studio.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.request(method, path, **how)

    return asyncio.run(send())


def work(studio: Studio, method: str, path: str = "/api/jobs", **how) -> httpx.Response:
    """A request that changes something."""
    headers = {"X-Tinygpt-Token": studio.token, "X-Tinygpt-Once": os.urandom(16).hex()}
    return ask(studio, method, path, headers=headers, **how)


def error(response: httpx.Response, status: int) -> str:
    """The sentence of a refusal."""
    assert response.status_code == status, response.text
    told = response.json()["error"]
    assert told["message"].endswith(".") and told["type"]
    return told["message"]


def stream(studio: Studio, path: str, enough, idle=lambda: True) -> list[dict]:
    """The events of a stream until `enough` of them came; then the client leaves, and the stream must end, `idle`."""

    async def follow() -> list[dict]:
        gone, text = asyncio.Event(), bytearray()
        path_only, _, query = path.partition("?")
        scope = {"type": "http", "method": "GET", "path": path_only, "raw_path": path_only.encode(), "root_path": "",
                 "query_string": query.encode(), "headers": [(b"host", b"localhost")], "scheme": "http",
                 "server": ("localhost", 80), "client": ("localhost", 1), "http_version": "1.1"}  # fmt: skip
        first = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            if first:
                return first.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            text.extend(message.get("body", b""))
            if enough(events_of(bytes(text))):
                gone.set()

        await asyncio.wait_for(studio.app(scope, receive, send), HANG_S)
        while not idle():
            await asyncio.sleep(0.01)
        return events_of(bytes(text))

    return asyncio.run(follow())


def events_of(text: bytes) -> list[dict]:
    found = []
    for block in text.decode().split("\n\n")[:-1]:
        lines = dict(line.partition(": ")[::2] for line in block.split("\n"))
        if "data" in lines:
            found.append({"event": lines.get("event", "message"), "data": json.loads(lines["data"])})
    return found


# --- runs and functions ----------------------------------------------------------------------------------------------


def test_runs_are_listed_with_their_steps(studio, root):
    told = ask(studio, "GET", "/api/runs").json()
    assert told["job"] is None and told["broken"] == []
    (run,) = told["runs"]
    config = runs.open_run(root / "mine")[0].config
    assert (run["name"], run["preset"], run["training"], run["finished"]) == ("mine", "modern", False, True)
    assert (run["step"], run["max_steps"]) == (60, 60) and run["n_layers"] == config.model.n_layers
    assert [entry["step"] for entry in run["steps"]] == checkpoint.steps_kept(root / "mine")
    assert sum(entry["best"] for entry in run["steps"]) == 1
    best = next(entry for entry in run["steps"] if entry["best"])
    assert best["val_bpb"] == run["val_bpb"] and best["kind"] == "checkpoint"
    assert {entry["kind"] for entry in run["steps"]} == {"checkpoint", "snapshot"}
    assert run["start"] == "pairs"  # start=auto, and the shape can hold them


def test_a_run_that_began_with_another_model_says_so(tmp_path, root):
    """Pins: the pages tell of counted or random first weights, which such a run never had."""
    shutil.copytree(root, tmp_path / "runs")
    path = tmp_path / "runs" / "mine" / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "from": {"source": "letters", "step": 3, "sha256": "a" * 64}}))
    (run,) = ask(Studio(tmp_path / "runs"), "GET", "/api/runs").json()["runs"]
    assert run["start"] == "another model"


def test_a_run_that_stopped_early_is_finished_for_all_who_say_so(tmp_path, root):
    """Pins: Home said "stopped" where Training said "finished", and a save without a record did not count as steps."""
    shutil.copytree(root, tmp_path / "runs")
    mine = tmp_path / "runs" / "mine"
    stored = json.loads((mine / "config.json").read_text())
    stored["train"] = {**stored["train"], "max_steps": 500, "patience": 2}
    (mine / "config.json").write_text(json.dumps(stored))

    def told() -> dict:
        return ask(Studio(tmp_path / "runs"), "GET", "/api/runs").json()["runs"][0]

    assert told()["finished"] is False
    with (mine / "metrics.jsonl").open("a") as file:
        for step in (61, 62):
            record = {"kind": "eval", "step": step, "val_loss": 9.0, "val_bpb": 9.0, "best": False}
            file.write(json.dumps(record) + "\n")
    assert told()["finished"] is True is ti.records(str(mine))["finished"]
    lines = (mine / "metrics.jsonl").read_text().splitlines(keepends=True)
    (mine / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line).get("step", 0) < 50))
    assert told()["step"] == 60  # its last checkpoint


def test_a_run_that_vanishes_while_runs_are_listed_spoils_nothing(tmp_path, root, monkeypatch):
    shutil.copytree(root, tmp_path / "runs")
    studio = Studio(tmp_path / "runs")

    def gone(path):
        shutil.rmtree(path, ignore_errors=True)
        return False

    monkeypatch.setattr(answering, "leads_out", gone)
    assert ask(studio, "GET", "/api/runs").json()["runs"] == []


def test_the_pages_begin_with_words_of_the_unseen_text(tmp_path, root):
    """Pins: they began with what the run had written last, which may be any garbage; a damaged text is no error."""
    shutil.copytree(root, tmp_path / "runs")
    mine, studio = tmp_path / "runs" / "mine", Studio(tmp_path / "runs")
    run = runs.open_run(mine)[0]
    (told,) = ask(studio, "GET", "/api/runs").json()["runs"]
    words = told["opening"].split()
    assert words and runs.documents(run, "val")[0].split()[: len(words) - 1] == words[:-1]
    assert len(run.tokenizer.encode(told["opening"])) <= run.config.model.block_size
    (mine / "data" / "val.tokens").write_bytes(b"no tokens")
    os.utime(mine / "config.json")
    (told,) = ask(studio, "GET", "/api/runs").json()["runs"]
    assert told["opening"] == ""


def test_a_run_that_cannot_be_read_is_named_and_spoils_nothing(tmp_path, root):
    shutil.copytree(root, tmp_path / "runs")
    (tmp_path / "runs" / "sick").mkdir()
    (tmp_path / "runs" / "sick" / "config.json").write_text("{")
    (tmp_path / "runs" / "none").mkdir()
    told = ask(Studio(tmp_path / "runs"), "GET", "/api/runs").json()
    assert [run["name"] for run in told["runs"]] == ["mine"] and told["broken"][0]["name"] == "sick"


def test_no_runs_and_no_folder_are_fine(tmp_path):
    studio = Studio(tmp_path / "nowhere")
    assert ask(studio, "GET", "/api/runs").json() == {"runs": [], "job": None, "broken": []}
    assert "no runs here yet" in error(ask(studio, "GET", "/api/models/a@best/architecture"), 404)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("how", ["query", "body"])
def test_a_reply_is_the_bytes_of_the_function(studio, root, how):
    given = {"prompt": "The fox", "layer": 1, "head": 0}
    path = "/api/models/mine@60/attention"
    response = ask(studio, "GET", path, params=given) if how == "query" else ask(studio, "POST", path, json=given)
    m = ti.load(f"{root.as_posix()}/mine@60")
    assert response.content == ti.attention(m, "The fox", layer=1, head=0).to_json()
    assert response.headers["content-type"] == "application/json"


def test_a_kept_reply_answers_the_same_question_alone(studio, root):
    """Pins: another prompt, function, step or run answered with what was kept for the one before."""
    asked = [
        ("GET", f"/api/models/mine@{step}/{name}", {"prompt": prompt})
        for step in (0, 60) for name in ("lens", "attention") for prompt in ("The fox", "A small owl")
    ] + [("GET", "/api/runs/mine/records", {"since": since}) for since in (0, 5)]  # fmt: skip
    first = [ask(studio, method, path, params=given).content for method, path, given in asked]
    assert len(set(first)) == len(asked)
    assert [ask(studio, method, path, params=given).content for method, path, given in reversed(asked)] == first[::-1]


def test_best_and_last_are_their_steps(studio, root):
    best = ask(studio, "GET", "/api/models/mine@best/architecture")
    step = best.json()["model"]["step"]
    assert best.content == ask(studio, "GET", f"/api/models/mine@{step}/architecture").content
    last = ask(studio, "GET", "/api/models/mine@last/architecture").json()
    assert last["model"]["step"] == 60
    assert list(studio.answers.models) == [f"{root.as_posix()}/mine@{n}" for n in dict.fromkeys([step, 60])]


def test_functions_of_a_run_and_of_several(studio, root):
    told = ask(studio, "GET", "/api/runs/mine/records", params={"since": 3})
    assert told.content == ti.records(runs.open_run(root / "mine")[0], since=3).to_json()
    told = ask(studio, "GET", "/api/compare", params={"runs": '["mine", "mine"]'})
    assert told.content == ti.compare([f"{root.as_posix()}/mine"] * 2).to_json()
    for wrong in ("mine", "[1]", "{}", "[["):
        assert "JSON list" in error(ask(studio, "GET", "/api/compare", params={"runs": wrong}), 400)


def test_intervene_changes_nothing(studio, root):
    edits = [{"layer": 0, "part": "head", "index": 1, "op": "zero"}]
    told = ask(studio, "POST", "/api/intervene", json={"model": "mine@60", "prompt": "The fox", "edits": edits})
    plain = ti.load(f"{root.as_posix()}/mine@60")
    assert told.content == ti.intervene(plain, "The fox", edits).to_json()
    assert studio.answers.models.popitem()[1][1].sha256 == plain.sha256
    assert "model must be" in error(ask(studio, "POST", "/api/intervene", json={"prompt": "x"}), 400)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/models/mine@60/atention", 404, "did you mean attention"),
        ("/api/models/mine@60/records", 404, "no function 'records' of a checkpoint"),
        ("/api/runs/mine/attention", 404, "no function 'attention' of a run"),
        ("/api/models/mnie@60/attention", 404, "did you mean mine"),
        ("/api/models/mine@5/attention", 404, "no weights of step 5; steps there: 0"),
        ("/api/models/mine@-1/attention", 404, "best, last or a step"),
        ("/api/models/mine@٦٠/attention", 404, "best, last or a step"),
        ("/api/models/mine/attention", 404, "no run ''"),
        ("/api/models/mine@60/attention", 400, "needs prompt"),
        ("/api/models/mine@60/attention?prompt=x&lyaer=1", 400, "did you mean layer"),
        ("/api/models/mine@60/attention?prompt=x&layer=one", 400, "must be a whole number"),
        ("/api/models/mine@60/attention?prompt=x&layer=99", 400, "layer"),
        ("/api/models/mine@60/attention?prompt=" + "fox+" * 100, 400, "32"),
        ("/api/runs/mine/records?since=-1", 400, "0 or more"),
        ("/api/runs/mine/events?since=x", 400, "whole number"),
        ("/api/runs/nobody/events", 404, "no run 'nobody'"),
        ("/api/run", 404, "there is no /api/run"),
        ("/nowhere", 404, "no page 'nowhere'"),
        ("/static/nothing.js", 404, "no file"),
    ],
)
def test_what_cannot_be_is_one_sentence(studio, path, status, words):
    assert words in error(ask(studio, "GET", path), status)


def test_methods_bodies_and_their_limits(studio):
    path, json_type = "/api/models/mine@60/forward", {"content-type": "application/json"}
    assert error(ask(studio, "PUT", path), 405) and error(ask(studio, "POST", "/api/runs", json={}), 405)
    assert error(ask(studio, "POST", path, content=b"{", headers=json_type), 400)
    assert "JSON object" in error(ask(studio, "POST", path, json=["text"]), 400)
    assert error(ask(studio, "POST", path, content=b'{"text": "' + b"a" * (2 << 20) + b'"}', headers=json_type), 413)
    assert error(ask(studio, "POST", path, content=b'{"prompt": "\\ud800"}', headers=json_type), 400)
    assert error(ask(studio, "POST", path, content=b'{"text": "a"}', headers={"content-type": "text/plain"}), 415)


# --- caches and the worker -------------------------------------------------------------------------------------------


def test_a_reply_is_computed_once(studio, monkeypatch):
    loads = []
    monkeypatch.setattr(ti, "load", lambda reference, load=ti.load: loads.append(reference) or load(reference))
    first = ask(studio, "GET", "/api/models/mine@60/lens", params={"prompt": "The"})
    monkeypatch.setattr(ti, "lens", None)  # a second call would fail
    assert ask(studio, "POST", "/api/models/mine@60/lens", json={"prompt": "The"}).status_code == 500
    monkeypatch.undo()
    assert first.status_code == 200 and len(loads) == 1


def test_kept_replies_and_models_are_forgotten_by_size_and_number(studio, root):
    replies = Replies(most_bytes=10)
    for key, size in (("a", 4), ("b", 4), ("a", 4), ("c", 5)):
        replies.get(key), replies.put(key, b"x" * size)
    assert list(replies.kept) == ["a", "c"] and replies.bytes == 9
    replies.put("d", b"x" * 11)
    assert not replies.kept and replies.bytes == 0
    for step in checkpoint.steps_kept(root / "mine")[:6]:
        ask(studio, "GET", f"/api/models/mine@{step}/architecture")
    assert len(studio.answers.models) == answering.MODELS_KEPT


def test_weights_that_are_written_anew_are_read_anew(tmp_path, root):
    """A run resumed from an earlier checkpoint writes other weights for a step that was looked at already."""
    shutil.copytree(root, tmp_path / "runs")
    studio, folder = Studio(tmp_path / "runs"), tmp_path / "runs" / "mine"

    def seen(which: str) -> str:
        return ask(studio, "GET", f"/api/models/mine@{which}/architecture").json()["model"]["sha256"]

    before = seen("last")
    snapshot = checkpoint.steps_kept(folder)[1]
    early = seen(str(snapshot))
    assert early != before
    path = folder / "snapshots" / f"step-{snapshot:08d}.safetensors"
    shutil.copy(folder / "checkpoints" / "step-00000060" / "model.safetensors", path)
    assert seen(str(snapshot)) == before
    shutil.rmtree(folder / "checkpoints" / "step-00000060")
    assert seen("last") != before


def test_records_of_a_run_that_goes_on_are_not_kept(tmp_path, root):
    shutil.copytree(root, tmp_path / "runs")
    studio, log = Studio(tmp_path / "runs"), tmp_path / "runs" / "mine" / "metrics.jsonl"
    before = ask(studio, "GET", "/api/runs/mine/records").json()["data"]["next"]
    with log.open("a") as file:
        file.write('{"kind": "event", "step": 60, "text": "more"}\n')
    assert ask(studio, "GET", "/api/runs/mine/records").json()["data"]["next"] == before + 1


def test_no_more_than_four_forwards_run_or_wait():
    async def crowd() -> tuple[int, int]:
        worker, go = Worker(4), threading.Event()
        waiting = [worker.submit(go.wait) for _ in range(4)]
        with pytest.raises(ApiError) as refused:
            worker.submit(go.wait)
        waiting[3].cancel()  # its client has left before its turn
        await asyncio.sleep(0)
        again = worker.submit(go.wait)
        go.set()
        await asyncio.gather(*waiting[:3], again)
        for _ in range(100):
            await asyncio.sleep(0.01 if worker.busy else 0)
        return refused.value.status, worker.busy

    assert asyncio.run(asyncio.wait_for(crowd(), HANG_S)) == (429, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_forwards_give_way_and_the_rest_does_not():
    import torch

    def priorities() -> tuple[int, set[int]]:
        torch.set_num_threads(2)
        before = {path.name for path in Path("/proc/self/task").iterdir()}
        torch.ones(400, 400) @ torch.ones(400, 400)
        started = {path.name for path in Path("/proc/self/task").iterdir()} - before
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), {
            os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in started
        }

    async def ask_worker():
        return await Worker(1).submit(priorities)

    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    own, started = asyncio.run(ask_worker())
    assert own == answering.LOWEST > here and started <= {answering.LOWEST}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here


def test_a_client_that_leaves_gives_up_its_place(studio):
    """The slider sends a request for each checkpoint that it passes, and leaves most of them."""

    async def leave() -> int:
        go = threading.Event()
        first = studio.answers.forwards.submit(go.wait)

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "GET", "path": "/api/models/mine@0/lens", "query_string": b"prompt=The",
                 "headers": [(b"host", b"localhost")], "raw_path": b"", "root_path": "", "scheme": "http",
                 "server": ("localhost", 80), "client": ("localhost", 1), "http_version": "1.1"}  # fmt: skip
        await asyncio.wait_for(studio.app(scope, receive, send), HANG_S)
        busy = studio.answers.forwards.busy
        go.set()
        await first
        return busy

    assert asyncio.run(leave()) == 1


# --- streams ---------------------------------------------------------------------------------------------------------


def test_records_come_as_events_and_end_when_the_client_leaves(tmp_path, root, monkeypatch):
    monkeypatch.setattr("tinygpt.studio.app.POLL_S", 0.02)
    shutil.copytree(root, tmp_path / "runs")
    studio, log = Studio(tmp_path / "runs"), tmp_path / "runs" / "mine" / "metrics.jsonl"
    everything = ask(studio, "GET", "/api/runs/mine/records").json()["data"]

    def enough(events: list[dict]) -> bool:
        if len(events) == 1 and "more" not in log.read_text():
            with log.open("a") as file:
                file.write('{"kind": "event", "step": 60, "text": "more"}\n')
        return len(events) == 2

    first, second = stream(studio, "/api/runs/mine/events?since=2", enough)
    assert first["data"]["records"] == everything["records"][2:] and first["data"]["next"] == everything["next"]
    assert [record["text"] for record in second["data"]["records"]] == ["more"] and not second["data"]["training"]
    assert studio.streams == 0


def test_an_idle_stream_gives_a_sign_of_life_and_ends_with_the_studio(studio, monkeypatch):
    monkeypatch.setattr("tinygpt.studio.app.POLL_S", 0.02)
    monkeypatch.setattr("tinygpt.studio.app.HEARTBEAT_S", 0.05)

    async def follow() -> list[bytes]:
        told = []
        async for event in studio.follow(studio.folder.run("mine"), 0):
            told.append(event)
            if len(told) == 3:
                studio.close()
        return told

    told = asyncio.run(asyncio.wait_for(follow(), HANG_S))
    assert told[0].startswith(b"data: {") and told[1:] == [b": still here\n\n"] * 2


def test_too_many_streams_are_refused(studio, monkeypatch):
    monkeypatch.setattr("tinygpt.studio.app.MOST_STREAMS", 0)
    assert error(ask(studio, "GET", "/api/runs/mine/events"), 429)


def test_a_text_that_is_written_comes_as_steps(studio):
    how = {"prompt": "The", "max_new_tokens": 5}
    whole = ask(studio, "GET", "/api/models/mine@60/generate", params=how).json()["data"]
    told = stream(studio, "/api/models/mine@60/generate/stream?prompt=The&max_new_tokens=5",
                  lambda events: events[-1:] and events[-1]["event"] == "end")  # fmt: skip
    assert [event["data"] for event in told[:-1]] == whole["steps"] and told[-1]["event"] == "end"
    told = stream(studio, "/api/models/mine@60/generate/stream?prompt=The&max_new_tokens=-5",
                  lambda events: events[-1:] and events[-1]["event"] == "end")  # fmt: skip
    assert [event["event"] for event in told] == ["failed", "end"]


def test_nothing_more_is_written_for_a_client_that_left(studio, monkeypatch):
    def endless(m, prompt):
        written.append(0)
        while written[-1] < 10**5:
            written.append(written[-1] + 1)
            yield {"id": written[-1]}
            time.sleep(0.001)  # so that however busy the machine is, the client has left long before the end

    written: list[int] = []
    monkeypatch.setattr(answering.text, "writing", lambda m, prompt: (None, endless(m, prompt)))
    told = stream(studio, "/api/models/mine@60/generate/stream?prompt=x", lambda events: len(events) >= 3,
                  lambda: studio.answers.forwards.busy == 0)  # fmt: skip
    assert [event["data"]["id"] for event in told[:3]] == [1, 2, 3]
    assert written[-1] < 10**5


# --- pages -----------------------------------------------------------------------------------------------------------


def test_pages_and_files(studio):
    for path in ("/", *(f"/{page}" for page in studio.pages)):
        response = ask(studio, "GET", path)
        assert response.headers["content-type"] == "text/html; charset=utf-8" and "tinygpt studio" in response.text
    astray = ask(studio, "GET", "/nowhere", headers={"accept": "text/html,*/*"})  # a browser gets a page that leads on
    assert (astray.status_code, astray.content) == (404, studio.files["index.html"].read_bytes())
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    for name, path in studio.files.items():
        response = ask(studio, "GET", f"/static/{name}")
        assert response.content == path.read_bytes()
        assert response.headers["content-type"] == kinds.get(path.suffix, "text/html; charset=utf-8")
        assert response.headers["cache-control"] == "no-cache"
        again = ask(studio, "GET", f"/static/{name}", headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert {"index.html", "style.css", "app.js"} <= studio.files.keys()


# --- trainings -------------------------------------------------------------------------------------------------------


def until(true, seconds: float = HANG_S):
    """What `true` gives once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("waited too long")


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No settings of the person who tests; and whatever process was started ends with the test."""
    started: list[subprocess.Popen] = []
    really = subprocess.Popen

    def noting(*words, **how):
        started.append(really(*words, **how))
        return started[-1]

    monkeypatch.setattr(working.subprocess, "Popen", noting)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for process in started:
        process.kill()
        process.wait()


def test_a_training_and_its_fork(tmp_path, texts, environment):
    """Pins: a fork that learns another tokenizer, splits anew, or forgets a setting; names outside of RUNS_DIR."""
    studio = Studio(tmp_path / "other", token=TOKEN)
    given = {"kind": "train", "text": "\n\n\n".join(texts), "steps": 6, "name": "first",
             "settings": {**TINY, "lr": 0.003, "tied": True, "log_every": 1}}  # fmt: skip
    response = work(studio, "POST", json=given)
    assert response.status_code == 201, response.text
    job = response.json()["job"]
    assert (job["run"], job["state"], job["kind"], job["parent"]) == ("first", "running", "train", None)
    assert "is being trained" in error(work(studio, "POST", json=given), 409)
    ended = until(lambda: (j := ask(studio, "GET", "/api/jobs").json()["job"])["state"] == "ended" and j)
    assert (ended["code"], ended["message"]) == (0, ""), ended
    run = runs.open_run(tmp_path / "other" / "first")[0]
    assert (run.config.train.max_steps, run.config.train.lr, run.config.model.tied) == (6, 0.003, True)
    assert sorted(path.suffix for path in (tmp_path / "other" / ".studio").iterdir()) == [".json", ".lock", ".log"]
    assert [run["name"] for run in ask(studio, "GET", "/api/runs").json()["runs"]] == ["first"]
    assert "a run first already" in error(work(studio, "POST", json=given), 400)

    fork = {"kind": "train", "run": "first", "settings": {"lr": 0.001, "n_embd": 32}}
    assert work(studio, "POST", json=fork).json()["job"]["run"] == "first-2"
    ended = until(lambda: (j := ask(studio, "GET", "/api/jobs").json()["job"])["state"] == "ended" and j)
    assert (ended["code"], ended["parent"]) == (0, "first"), ended
    child = runs.open_run(tmp_path / "other" / "first-2")[0]
    assert child.tokenizer.sha256 == run.tokenizer.sha256 and child.digests == run.digests
    assert (child.config.train.lr, child.config.model.n_embd, child.config.model.d_ff) == (0.001, 32, 128)
    same = ("max_steps", "muon_lr", "warmup_steps", "seed", "batch_size", "log_every", "precision", "save_every")
    assert all(getattr(child.config.train, name) == getattr(run.config.train, name) for name in same)
    assert not (tmp_path / "runs").exists() and Jobs(tmp_path / "other").made == ["first", "first-2"]


def test_a_training_outlives_the_studio_and_is_stopped_by_the_next(tmp_path, texts, environment):
    first = Studio(tmp_path / "runs", token=TOKEN)
    given = {"kind": "train", "text": "\n\n\n".join(texts), "steps": 10**6, "settings": TINY}
    job = work(first, "POST", json=given).json()["job"]
    process = first.jobs.process
    try:
        assert os.getsid(process.pid) == process.pid
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        until(lambda: (tmp_path / "runs" / "text" / "metrics.jsonl").exists())
        second = Studio(tmp_path / "runs", token=TOKEN)  # knows the process by the lock of its run alone
        told = ask(second, "GET", "/api/runs").json()
        assert told["job"]["state"] == "running" and told["runs"][0]["training"] and not told["runs"][0]["finished"]
        assert "is being trained" in error(work(second, "POST", json=given), 409)
        assert "no job" in error(work(second, "DELETE", "/api/jobs/other"), 404)
        assert work(second, "DELETE", f"/api/jobs/{job['id']}").json()["job"]["state"] == "stopping"
        process.wait(HANG_S)
        assert process.returncode == 143
        assert ask(second, "GET", "/api/jobs").json()["job"]["state"] == "ended"
        assert "ended already" in error(work(second, "DELETE", f"/api/jobs/{job['id']}"), 409)
    finally:
        process.kill()
        process.wait()
    loaded, rejected = checkpoint.load(tmp_path / "runs" / "text")
    assert loaded.step > 0 and rejected == []
    assert Jobs(tmp_path / "runs").current()["state"] == "ended"


def test_two_studios_of_one_folder_start_one_training_and_forget_none(tmp_path, monkeypatch):
    """Pins: each read job.json once, at its start, and wrote over what the other had noted."""
    started, popen = [], subprocess.Popen

    def sleeper(words, **how):
        started.append(popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", sleeper)
    a, b = Jobs(tmp_path / "runs"), Jobs(tmp_path / "runs")
    first = a.start({"kind": "train", "text": "one", "name": "one"})
    with pytest.raises(ApiError, match="one is being trained"):
        b.start({"kind": "train", "text": "two", "name": "two"})
    assert b.current()["id"] == first["id"]
    started[0].communicate()
    assert a.current()["state"] == "ended"
    second = b.start({"kind": "train", "text": "two", "name": "two"})
    assert [job["id"] for job in a.listing()["jobs"]] == [second["id"], first["id"]]
    assert Jobs(tmp_path / "runs").made == ["one", "two"]
    with pytest.raises(ApiError, match="two is being trained"):
        a.start({"kind": "train", "text": "three"})
    started[1].communicate()
    assert (b.current()["state"], a.current()["state"], len(started)) == ("ended", "ended", 2)


def test_a_training_stops_beyond_the_quota_and_none_begins(tmp_path, texts, environment):
    jobs = Jobs(tmp_path / "runs")
    given = {"kind": "train", "text": "\n\n\n".join(texts), "steps": 10**6, "settings": TINY}
    jobs.start(given)
    process = jobs.process
    try:
        jobs.look()
        assert jobs.current()["state"] == "running"
        until(lambda: (tmp_path / "runs" / "text" / "metrics.jsonl").exists())
        jobs.quota_bytes = 1000
        jobs.look()
        assert jobs.current()["state"] == "stopping" and "more than" in jobs.current()["message"]
        process.wait(HANG_S)
        assert "Stopped and saved" in jobs.current()["message"] and jobs.current()["code"] == 143
        with pytest.raises(ApiError, match="they may have; delete some") as refused:
            jobs.start(given)
        assert refused.value.status == 409
    finally:
        process.kill()
        process.wait()


def test_a_training_that_fails_says_why(tmp_path, environment):
    jobs = Jobs(tmp_path / "runs")
    jobs.start({"kind": "train", "text": "too short", "steps": 1, "settings": TINY})
    until(lambda: jobs.current()["state"] == "ended")
    told = jobs.current()
    assert told["code"] == 65 and told["message"].startswith("tinygpt: the training text has 11 tokens")
    assert not (tmp_path / "runs" / "text").exists()


def test_only_the_process_that_holds_the_run_gets_a_signal(tmp_path, root, monkeypatch):
    """The number of a process that has ended may be another one's by then."""
    shutil.copytree(root, tmp_path / "runs")
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        job = {"id": "a", "run": "mine", "words": [], "began": time.time(), "pid": innocent.pid}
        place = tmp_path / "runs" / ".studio"
        place.mkdir()
        (place / "job.json").write_text(json.dumps({"jobs": [job], "made": []}))
        studio = Studio(tmp_path / "runs", token=TOKEN)
        assert "still being prepared" in error(work(studio, "DELETE", "/api/jobs/a"), 409)
        (tmp_path / "runs" / "mine" / ".owner.json").write_text(
            json.dumps({"pid": innocent.pid, "host": working.platform.node(), "since": "x"})
        )
        assert "still being prepared" in error(work(studio, "DELETE", "/api/jobs/a"), 409)  # nobody holds the lock
        monkeypatch.setattr(working, "LOCKING_S", 0.0)
        assert "ended already" in error(work(studio, "DELETE", "/api/jobs/a"), 409)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"settings": {"n_embed": 8}}, 400, "no field 'n_embed' (did you mean n_embd"),
        ({"settings": {"n_embd": 7}}, 400, "outside 8 to 4096"),
        ({"settings": {"n_embd": "many"}}, 400, "n_embd=many is not a whole number"),
        ({"settings": {"steps": 5}}, 400, "write --steps 5"),
        ({"settings": {"max_steps": 5}, "steps": 5}, 400, "max_steps excludes"),
        ({"settings": {"lr": [1]}}, 400, "settings.lr"),
        ({"preset": "gtp2"}, 400, "did you mean gpt2"),
        ({"name": "../x"}, 400, "run name '../x' must be"),
        ({"name": "mine"}, 400, "a run mine already"),
        ({"minutes": 0}, 400, "minutes"),
        ({"steps": 1.5}, 400, "steps"),
        ({"minutes": 1, "steps": 5}, 400, "steps"),
        ({"kind": "shell"}, 400, "kind"),
        ({"command": "x"}, 400, "command"),
        ({"text": ""}, 400, "text"),
        ({"text": None}, 400, "exactly one of text, corpus and run"),
        ({"run": "mine"}, 400, "exactly one of text, corpus and run"),
        ({"text": None, "run": "nobody"}, 404, "no run 'nobody'"),
        ({"text": None, "run": "../mine"}, 404, "no run '../mine'"),
        ({"text": None, "corpus": "/etc/passwd"}, 400, "corpus"),
        ({"text": "ä" * 500_001}, 413, "more than 1,000,000 bytes"),
        ({"text": "\ud800"}, 400, "unicode"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_anything_is_written(tmp_path, root, change, status, words):
    shutil.copytree(root, tmp_path / "runs")
    studio = Studio(tmp_path / "runs", token=TOKEN)
    given = {"kind": "train", "text": "a story", **change}
    body = json.dumps({name: value for name, value in given.items() if value is not None}, ensure_ascii=False)
    headers = {"X-Tinygpt-Token": TOKEN, "X-Tinygpt-Once": "abcdefgh", "Content-Type": "application/json"}
    response = ask(studio, "POST", "/api/jobs", content=body.replace("\ud800", "\\ud800").encode(), headers=headers)
    assert words in error(response, status)
    assert not (tmp_path / "runs" / ".studio").exists() and studio.jobs.process is None


def test_a_job_of_tales_uses_its_own_copy(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path / "runs")
    monkeypatch.setattr(working.tales, "write", lambda path: path.parent.mkdir(parents=True) or path.write_text("x"))
    name, words, files = jobs.plan(working.read_asked({"kind": "train", "corpus": "tales", "minutes": 1}), "id")
    assert (name, files) == ("tales", {}) and words[:2] == ["train", "tales.txt"] and "1" in words
    assert (tmp_path / "runs" / ".studio" / "tales.txt").read_text() == "x"


def test_a_damaged_list_of_jobs_is_forgotten(tmp_path):
    place = tmp_path / "runs" / ".studio"
    place.mkdir(parents=True)
    for text in ("{", "[]", '{"jobs": [{"id": 1}], "made": []}', '{"jobs": [], "made": ["../x"]}'):
        (place / "job.json").write_text(text)
        assert Jobs(tmp_path / "runs").current() is None


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_its_address_answers_and_ends(tmp_path):
    """Loopback only; the next free port when the first is taken; Ctrl-C ends it while a page follows a run."""
    code = ("from tinygpt.studio import run; run.PORT = int(__import__('sys').argv.pop()); "
            "from tinygpt.cli import main; main()")  # fmt: skip
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "studio", str(tmp_path / "none"), "--no-browser", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        url = httpx.URL(line.removeprefix("The studio is open at ").strip())
        assert url.host == "127.0.0.1" and url.port > port and len(url.fragment.removeprefix("token=")) > 30
        assert "Ctrl-C ends it" in process.stdout.readline()
        assert httpx.get(f"http://127.0.0.1:{url.port}/api/runs").json()["runs"] == []
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_S)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        taken.close()
        process.kill()
        process.wait()


def test_the_command_refuses_what_is_no_folder_of_runs(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    from tinygpt.cli import studio as command

    refused(2, "is no folder", command, tmp_path / "file")
    refused(2, "is a run", command, root / "mine")
