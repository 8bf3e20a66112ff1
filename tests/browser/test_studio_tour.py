"""The guided tour by keyboard alone, in one browser: every stop is finished by doing the thing."""

from __future__ import annotations

import json

from conftest import Watched

# The choice that is guessed at each stop: mostly a wrong one, which is met by its own explanation.
GUESSES = [0, 1, 2, 0, 1, 1, 0, 2, 1, 0, 1]
BOOK = "".join(
    f"{name} the {kind} kept {count} {things} under the {place} and told nobody about it. "
    for name, kind, count, things, place in zip(
        ("Agnes", "Boris", "Clara", "Dmitri", "Esther", "Felix", "Greta", "Hugo"),
        ("baker", "sailor", "teacher", "gardener", "miller", "tailor", "painter", "doctor"),
        ("seven", "twelve", "forty", "three", "nineteen", "eleven", "sixty", "five"),
        ("buttons", "lanterns", "feathers", "kettles", "marbles", "umbrellas", "letters", "violins"),
        ("staircase", "harbour", "blackboard", "rosebush", "waterwheel", "table", "ladder", "bridge"),
        strict=True,
    )
)

# What has the focus, as a screen reader would call it.
FOCUSED = """(() => {
  const e = document.activeElement;
  if (!e || e === document.body) return "";
  const label = [...(e.labels ?? [])].map((l) => l.innerText).join(" ");
  return e.getAttribute("aria-label") || label || e.innerText || e.textContent || e.tagName;
})()"""


class Keyboard:
    """A person without a mouse: keys only. What is on the page is read, never touched."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.page = watched, watched.page

    def focused(self) -> str:
        return self.page.evaluate(FOCUSED)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, name: str, key: str = "Tab", most: int = 150) -> None:
        """Press Tab until what has the focus is called `name` (its beginning)."""
        seen = []
        for _ in range(most):
            self.press(key)
            seen.append(self.focused()[:60])
            if seen[-1].startswith(name[:60]):
                return
        raise AssertionError(f"no {name!r} within {most} times {key}: {seen}")

    def write(self, text: str) -> None:
        """In place of what stands in the field."""
        self.press("Control+a")
        self.page.keyboard.insert_text(text)

    def settle(self) -> None:
        self.watched.quiet()

    # --- the tour ---

    def tour(self) -> str:
        return self.page.locator(".tour").inner_text()

    def guess(self, stop: int) -> None:
        """Choose an answer of this stop; its own explanation answers, and the deed is told."""
        buttons = self.page.locator(".answers button")
        words = buttons.nth(GUESSES[stop]).inner_text()
        assert (self.focused(), self.page.url) == (buttons.nth(0).inner_text(), self.page.url)
        self.press(*["Tab"] * GUESSES[stop], "Enter")
        assert self.focused() == words, "the focus stays on the guess"
        said = self.page.locator("#live").inner_text()
        assert said in self.tour() and "Now do it." in self.tour()
        told.append((stop, words, said))

    def go_on(self, stop: int) -> None:
        """The stop is finished: back to the tour and on to the next."""
        self.page.wait_for_selector(".tour.finished")
        assert f"Stop {stop + 1} of" in self.tour()
        self.press("Alt+t")
        assert self.focused() in ("To the next stop", "Finish")
        self.press("Enter")
        self.settle()


told: list[tuple[int, str, str]] = []


def test_the_whole_tour_by_keyboard_alone(chromium, own_studio):
    """E4: all stops with Tab, arrows, Enter, Space and typing; wrong guesses are explained; no score is kept."""
    watched = Watched(chromium, own_studio, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    watched.page.goto(own_studio.with_token)
    watched.settle()
    keys, page = Keyboard(watched), watched.page
    keys.tab_to("Run")  # the run of the tour
    page.keyboard.type("story")
    keys.settle()
    assert page.locator("header select").input_value() == "story"
    keys.tab_to("Take the guided tour")
    keys.press("Enter")

    # 1: the own name in bytes. The guess comes first; until then nothing that is done counts.
    keys.guess(0)
    keys.tab_to("Go to the page.")
    keys.press("Enter")
    keys.settle()
    assert page.url.split("?")[0].endswith("/tokenizer") and keys.focused() == told[-1][1]
    keys.tab_to("Your text")
    keys.write("Zoë and the fox, the fox")
    keys.settle()
    keys.go_on(0)

    # 2: merges from bytes on.
    keys.guess(1)
    keys.tab_to("Merges applied")
    keys.press("ArrowRight")
    keys.settle()
    keys.press("Home")
    keys.settle()
    keys.tab_to("Next merge")
    keys.press("Enter")
    keys.go_on(1)

    # 3: the size of the vocabulary.
    keys.guess(2)
    keys.tab_to("Vocabulary")
    keys.press("ArrowRight")
    keys.go_on(2)

    # 4: neighbours at the first and the last step. A reload in the middle changes nothing.
    keys.guess(3)
    keys.tab_to("Find a token")
    keys.write("fox")
    keys.settle()
    page.reload()
    watched.settle()
    assert "Stop 4 of" in keys.tour() and told[-1][2] in keys.tour(), "a reload keeps the guess"
    keys.tab_to("Checkpoint")
    keys.press("Home")  # the last step has been seen before the reload
    keys.settle()
    keys.go_on(3)

    # 5: one's own guess of the next token.
    keys.guess(4)
    keys.tab_to("Prompt")
    keys.write("Once upon a")
    keys.tab_to("Your guess of the next token")
    page.keyboard.type("time")
    keys.press("Enter")
    keys.settle()
    assert page.locator(".guess-told").is_visible()
    keys.go_on(4)

    # 6: without the mask a later word moves an earlier prediction.
    keys.guess(5)
    keys.tab_to("Mask off")
    keys.press("Space")
    keys.settle()
    keys.tab_to("Prompt", "Shift+Tab")
    keys.press("End")
    page.keyboard.type(" dog")
    keys.settle()
    keys.go_on(5)

    # 7: the head that looks most at the token before, by its table, is silenced.
    page.get_by_text("…", exact=True).first.wait_for(state="detached")  # the heads have their labels
    keys.guess(6)
    keys.tab_to("0.0")
    while keys.focused() != "Table":
        keys.press("Shift+Tab")
    keys.press("Enter")
    rows = page.locator(".table tbody tr").all()
    cells = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
    columns = page.locator(".table thead th").all_inner_texts()
    score = columns.index("previous")
    best = max(cells, key=lambda row: float(row[score].replace("−", "-")))[0]
    layer, head = (int(part) for part in best.split("."))
    keys.tab_to("0.0")
    keys.press(*["ArrowDown"] * layer, *["ArrowRight"] * head)
    keys.settle()
    assert keys.focused().startswith(best)
    keys.tab_to("zero", "Shift+Tab")
    keys.press("Enter")
    keys.settle()
    keys.go_on(6)

    # 8: a cell of the lens.
    keys.guess(7)
    keys.tab_to("Lens: ")
    keys.press("ArrowDown", "ArrowDown", "ArrowRight", "Enter")
    keys.settle()
    assert "target=" in page.url
    keys.go_on(7)

    # 9: hotter.
    keys.guess(8)
    keys.tab_to("Temperature")
    keys.press(*["ArrowRight"] * 20)
    keys.settle()
    assert "temperature=1.6" in page.url
    keys.go_on(8)

    # 10: from the first checkpoint to the last.
    keys.guess(9)
    keys.tab_to("Checkpoint", "Shift+Tab")
    keys.press("Home")
    keys.settle()
    keys.press("End")
    keys.settle()
    keys.go_on(9)

    # 11: train on a small text, and find what is recited.
    keys.guess(10)
    keys.tab_to("Training", "Shift+Tab")
    keys.press("Enter")
    keys.settle()
    keys.tab_to("Train another run")
    keys.press("Enter")
    keys.tab_to("Learn from")
    keys.press("ArrowDown")
    keys.tab_to("Text")
    keys.write(BOOK)
    keys.tab_to("Length")
    keys.press("ArrowDown")
    keys.tab_to("")
    keys.write("300")
    keys.tab_to("Name")
    keys.write("by-heart")
    keys.tab_to("Start")
    keys.press("Enter")
    page.wait_for_url("**run=by-heart*", timeout=60_000)
    page.get_by_text("by-heart is finished.").wait_for(timeout=120_000)
    keys.settle()
    keys.press("Alt+t")
    keys.tab_to("Go to the page.")
    keys.press("Enter")
    keys.settle()
    keys.tab_to("Checkpoint", "Shift+Tab")
    keys.press("End")
    keys.settle()
    copied = page.locator(".copied mark.longest").inner_text()
    assert len(copied.encode()) >= 40 and copied in BOOK
    keys.go_on(10)

    assert "The tour is over" in keys.tour()
    stored = page.evaluate("Object.entries(localStorage)")
    assert [name for name, _ in stored] == ["tinygpt-tour"]
    assert set(json.loads(stored[0][1])) == {"stop", "open", "guess", "finished", "seen"}, "no score is kept anywhere"
    assert len({said for _, _, said in told}) == len(GUESSES)
    assert (watched.errors, watched.strangers) == ([], [])
    watched.close()
