"""Every page of the studio in a real browser: without an error, for everyone, and true to its Python lines."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
from command_line import environment
from conftest import Watched

PAGES = [
    "home", "data", "tokenizer", "embeddings", "forward", "attention", "lens", "generate", "memorisation", "training",
    "compare",
]  # fmt: skip
PROMPT = "The fox found a red kite"
LINES_OF_A_FRESH_PROCESS = """
import json, sys
import torch
torch.set_num_threads(1)
import tinygpt.inspect as ti
for line in json.load(sys.stdin):
    print(json.dumps([line, eval(line).to_json().decode()]))
"""


def path(page: str) -> str:
    return "/" if page == "home" else f"/{page}"


def with_state(watched, page: str, **query) -> None:
    watched.open(path(page), run="story", prompt=PROMPT, runs=json.dumps(["story", "gpt2"]), **query)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_error_and_fits_wide_and_narrow_light_and_dark(watch, page):
    """E4, E7: 360 px without sideways scroll, no console error, no request off the machine, nothing serious for axe."""
    from axe_playwright_python.sync_playwright import Axe

    for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")):
        watched = watch(viewport={"width": width, "height": 900}, color_scheme=scheme)
        with_state(watched, page)
        here = f"{page} at {width} px, {scheme}"
        assert watched.errors == [], here
        assert watched.strangers == [], here
        assert watched.page.locator("main .error").all_inner_texts() == [], here
        assert len(watched.page.locator("main .about").first.inner_text().split()) > 12, (
            f"{here}: it says what one looks at"
        )
        assert watched.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (
            f"{here}: scrolls sideways"
        )
        found = Axe().run(watched.page).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], here
        watched.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_python_lines_of_a_page_give_its_numbers(watch, studio, page):
    """E1: every reply that a page drew is given again, byte for byte, by its Python line in a fresh process."""
    watched = watch()
    with_state(watched, page)
    bodies = watched.bodies()
    assert bodies, "a page without one number"
    done = subprocess.run(
        [sys.executable, "-c", LINES_OF_A_FRESH_PROCESS], input=json.dumps(list(bodies)), cwd=studio.home,
        env=environment(studio.home), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = dict(json.loads(line) for line in done.stdout.splitlines())
    for line, body in bodies.items():
        assert again[line] == body.decode(), line


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_has_its_python_line_and_table(watch, page):
    watched = watch()
    with_state(watched, page)
    figures = watched.page.locator("figure.figure:visible")
    assert figures.count() > 0
    for i in range(figures.count()):
        button = figures.nth(i).get_by_role("button", name="Python", exact=True)
        if button.is_enabled():
            button.click()
            assert "ti." in figures.nth(i).locator(".python pre").inner_text()
    assert watched.page.locator("figure .python pre").count() > 0
    assert watched.errors == []


def test_the_slider_and_the_pin_drive_the_page(watch):
    watched = watch()
    watched.open("/attention", run="story", prompt=PROMPT)
    page = watched.page
    slider = page.get_by_role("slider", name="Checkpoint")
    slider.focus()
    slider.press("Home")
    watched.quiet()
    assert "step=0" in page.url
    page.get_by_role("button", name="Pin").click()
    slider.press("End")
    watched.quiet()
    assert page.locator(".pane").count() == 2
    asked = {body.split(b'"step":')[1].split(b",")[0] for body in watched.bodies().values()}
    assert {b"0", b"60"} <= asked
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Checkpoint", "the focus stays"
    page.reload()
    watched.settle()
    assert page.locator(".pane").count() == 2, "the address holds the state"
    assert watched.errors == []


@pytest.mark.parametrize("name", ["attention", "training", "generate"])
def test_the_slider_is_dragged_with_the_mouse(watch, name):
    """Pins: every step drew the header anew, so the slider was torn out of the hand after the first."""
    watched = watch(viewport={"width": 1280, "height": 900})
    watched.open(path(name), run="story", step=0, prompt=PROMPT)
    page = watched.page
    box = page.get_by_role("slider", name="Checkpoint").bounding_box()
    steps = []
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(1, 11):
        page.mouse.move(box["x"] + 8 + i * (box["width"] - 16) / 10, box["y"] + box["height"] / 2)
        page.wait_for_timeout(60)
        steps.append(int(parse_qs(urlsplit(page.url).query)["step"][0]))
    page.mouse.up()
    watched.quiet()
    assert steps == sorted(steps) and len(set(steps)) > 4 and steps[-1] == 60, steps
    assert page.locator(".step-value").inner_text().startswith("60") and watched.errors == []


def test_a_pin_without_weights_says_so_and_pages_without_panes_have_none(watch):
    watched = watch()
    watched.open("/attention", run="story", pin=12345)
    page = watched.page
    assert "No weights of step “12345”" in page.locator("main .error").inner_text()
    page.get_by_role("button", name="Unpin it").click()
    watched.quiet()
    assert page.locator("main .error").count() == 0 and "pin" not in page.url
    assert page.get_by_role("button", name="Pin", exact=True).is_visible()
    page.get_by_role("link", name="Home", exact=True).click()
    page.get_by_role("heading", name="Home", exact=True).wait_for()
    watched.settle()
    assert not page.get_by_role("button", name="Pin", exact=True).is_visible()


def test_what_answers_an_earlier_question_is_faded(watch):
    """Pins: under the refusal of a long prompt stood the figures of the one before, as if they were its own."""
    watched = watch()
    watched.open("/attention", run="story", prompt=PROMPT)
    page = watched.page
    page.locator("[data-prompt]").fill("the " * 300)
    page.locator(".pane > div > .error").wait_for()
    assert "tokens, and this model reads at most 64" in page.locator(".pane > div > .error").inner_text()
    assert page.locator(".pane-body.stale").count() == 1
    page.locator("[data-prompt]").fill("the fox")
    watched.quiet()
    assert page.locator(".stale, .pane > div > .error").count() == 0


def test_a_text_is_written_no_further_than_the_model_reads(watch):
    """Pins: the second "Write on" went beyond block_size, and bars and tree became errors."""
    watched = watch()
    watched.open("/generate", run="story", prompt=PROMPT, predict="off", temperature=0)
    page = watched.page
    more = page.get_by_role("button", name="Write on")
    for _ in range(2):
        if more.is_enabled():
            more.click()
            watched.quiet(400)
    assert page.locator("main .error").all_inner_texts() == []
    assert page.locator(".written-text .piece").count() <= 64


def test_a_sample_is_that_of_its_button(chromium, own_studio):
    """Pins: a button went to the nearest weights, and showed the sample before those."""
    with (own_studio.home / "runs" / "story" / "samples.jsonl").open("a") as file:
        for step in (61, 63, 66):  # no weights were kept there
            file.write(json.dumps({"step": step, "prompt": "", "text": "Once", "seed": 0, "temperature": 1}) + "\n")
    watched = Watched(chromium, own_studio)
    watched.open("/training", run="story")
    buttons = watched.page.locator("[aria-label='Steps with a sample'] button")
    steps = buttons.all_inner_texts()
    assert {"61", "63", "66"} < set(steps)
    for i, step in enumerate(steps):
        buttons.nth(i).click()
        watched.quiet()
        assert watched.page.locator(".sample-head").inner_text().startswith(f"Step {step},")
    watched.page.get_by_role("slider", name="Checkpoint").press("Home")
    watched.quiet()
    assert watched.page.locator(".sample-head").inner_text().startswith("Step 0,")
    assert watched.errors == []
    watched.close()


def test_two_clicks_at_once_open_one_page(watch):
    """Pins: both opened it, and what the first had begun to listen to was never ended."""
    watched = watch()
    watched.open("/", run="story", prompt=PROMPT)
    page = watched.page
    page.evaluate("for (let i = 0; i < 2; i += 1) document.querySelector('nav a[href^=\"/forward\"]').click()")
    page.get_by_role("heading", name="Forward pass", exact=True).wait_for()
    watched.quiet(500)
    asked = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path.rpartition("/")[2]))
    page.locator("[data-prompt]").press_sequentially("x")
    watched.quiet(500)
    assert sorted(name for name in asked if name != "icon.svg") == ["explain", "forward"]


def test_back_to_the_own_size_is_the_own_size(watch):
    watched = watch()
    watched.open("/", run="story", vocab=1024, width=64)
    page = watched.page
    page.get_by_role("button", name="Back to this run’s size").click()
    watched.quiet()
    shown = {
        name: page.locator(".sizes .control", has_text=name).locator("output").inner_text()
        for name in ("Width", "Vocabulary")
    }
    assert shown == {"Width": "48", "Vocabulary": "420"}


def test_a_run_that_came_from_elsewhere_is_listed_on_the_next_page(chromium, own_studio):
    watched = Watched(chromium, own_studio)
    watched.open("/", run="story")
    shutil.copytree(own_studio.home / "runs" / "gpt2", own_studio.home / "runs" / "newcomer")
    watched.page.get_by_role("link", name="Compare", exact=True).first.click()
    watched.page.get_by_role("heading", name="Compare", exact=True).wait_for()
    watched.settle()
    assert "newcomer" in watched.page.get_by_label("Run", exact=True).inner_text()
    watched.close()


def test_a_heat_map_is_walked_by_keys_and_speaks(watch):
    watched = watch()
    watched.open("/attention", run="story", prompt=PROMPT)
    page = watched.page
    canvas = page.locator("canvas[tabindex='0']").last
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        canvas.press(key)
    first = page.locator("#live").inner_text()
    canvas.press("ArrowUp")
    assert first and page.locator("#live").inner_text() not in ("", first)


@pytest.mark.parametrize("deficiency", ["protanopia", "deuteranopia", "tritanopia", "achromatopsia"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_scale_stays_a_scale_without_colour_vision(watch, deficiency, scheme):
    """Every step of the ramp differs in lightness from the one before, in one direction, whatever eyes look at it."""
    from matplotlib.image import imread

    watched = watch(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    watched.open("/attention", run="story", prompt=PROMPT)
    session = watched.context.new_cdp_session(watched.page)
    session.send("Emulation.setEmulatedVisionDeficiency", {"type": deficiency})
    ramp = watched.page.locator(".ramp").first
    ramp.scroll_into_view_if_needed()
    picture = imread(io.BytesIO(ramp.screenshot()))[..., :3] @ (0.2126, 0.7152, 0.0722)  # (height, width)
    n = watched.page.locator(".ramp").first.locator("span").count()
    row = [picture[len(picture) // 2, int((i + 0.5) * picture.shape[1] / n)] for i in range(n)]
    steps = [b - a for a, b in pairwise(row)]
    assert all(step < 0 for step in steps) or all(step > 0 for step in steps), row


def test_text_is_never_markup(watch):
    """R20: script strings as prompts make no script node, no dialog, no request, and stand there as text."""
    attacks = [
        "<script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", "</textarea><svg onload=window.hit=1>",
        "javascript:window.hit=1", "\"><iframe srcdoc='<script>parent.hit=1</script>'>", "{{constructor}}", "</script>",
    ]  # fmt: skip
    watched = watch()
    dialogs = []
    watched.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for page in ("tokenizer", "attention", "generate", "lens", "memorisation"):
        for attack in attacks:
            watched.open(path(page), run="story", prompt=attack, text=attack)
            assert watched.page.evaluate("document.scripts.length") == 1
            assert watched.page.evaluate("document.querySelectorAll('iframe, main img, main script').length") == 0
            assert watched.page.evaluate("window.hit") is None
    assert (dialogs, watched.strangers) == ([], [])


def test_all_of_a_page_can_be_reached_by_tab(watch):
    """E4: no button, field or link of a page lies out of the keyboard's way."""
    watched = watch()
    for name in PAGES:
        with_state(watched, name)
        watched.quiet(500)  # what is drawn again on the way would have to be reached again
        page = watched.page
        page.evaluate("document.activeElement.blur()")
        for _ in range(250):
            page.keyboard.press("Tab")
            new = page.evaluate(
                "(() => { const e = document.activeElement; if (!e || e === document.body || e.dataset.reached)"
                " return false; e.dataset.reached = '1'; return true; })()"
            )
            if not new:
                break
        # where arrow keys move the choice (pieces, radio buttons), one of the group is in the way of Tab
        left = page.evaluate(
            "[...document.querySelectorAll('main :is(button, a[href], input, select, textarea, canvas)')].filter((e) =>"
            " !e.dataset.reached && !e.disabled && e.tabIndex >= 0 && e.offsetParent && e.type !== 'radio')"
            ".map((e) => e.outerHTML.slice(0, 120))"
        )
        assert left == [], name


def test_the_tour_says_what_holds_for_the_run_at_hand(watch):
    """Where first weights are counted from pairs, the first neighbours are no chance, and the page says so too."""
    said = {"pairs": "were counted", "random": "random first vectors have neighbours by chance"}
    noted = {"pairs": "counted from pairs", "random": "neighbours by chance"}
    runs = {}
    for name in ("story", "gpt2"):
        watched = watch()
        watched.page.add_init_script("localStorage.setItem('tinygpt-tour', JSON.stringify({stop: 3, open: true}))")
        watched.open("/embeddings", run=name, step=0)
        listed = watched.page.evaluate("fetch('/api/runs').then((reply) => reply.json())")["runs"]
        start = runs[name] = next(run["start"] for run in listed if run["name"] == name)
        watched.page.get_by_role("button", name="whatever chance put there").click()
        assert said[start] in watched.page.locator(".tour").inner_text()
        watched.page.wait_for_function(f"document.body.innerText.includes({noted[start]!r})")
        assert watched.errors == []
    assert runs == {"story": "pairs", "gpt2": "random"}
