"""What a person sees: exact times, safe text, lines and panel that fit, and a training that is never stopped by it."""

import io
import sys
import threading

import pytest
from rich.console import Console

from tinygpt import display
from tinygpt.display import (
    Display,
    Eta,
    LiveDisplay,
    PlainDisplay,
    chart,
    compact,
    duration,
    encodable,
    make_display,
    safe_text,
    sparkline,
    time_left,
)

NAN = float("nan")
MARKS = {"uniform": 8.0, "unigram": 3.41, "bigram": 2.60, "xz": 2.02, "floor": 0.61}


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def train(step, loss=4.812, **more):
    return {"kind": "train", "step": step, "loss": loss, "lr": 0.003, "tokens_per_s": 12_345.0, **more}


def evaluation(step, val, best=True, **more):
    return {"kind": "eval", "step": step, "val_bpb": val, "best": best, **more}


def live(width=80, height=24, **options):
    clock = FakeClock()
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)
    return LiveDisplay(console, clock), console.file, clock


def panel(shown):
    """The panel as lines of plain text, drawn on a fresh console of the same size."""
    console = shown._console
    page = Console(file=io.StringIO(), width=console.width, height=console.height, force_terminal=False)
    page.print(shown._frame())
    return page.file.getvalue().rstrip("\n").split("\n")


# ---- text and numbers ------------------------------------------------------------------------------------------


def test_control_characters_become_visible():
    assert safe_text("a\x1b[31mb\x00\x07\r\x7f\x9bJ\u202e\u2028\ud800") == (
        "a\\x1b[31mb\\x00\\x07\\x0d\\x7f\\x9bJ\\u202e\\u2028\\ud800"
    )
    assert safe_text("tab\tline\n Grüße 你好 😀 [red]") == "tab\tline\n Grüße 你好 😀 [red]"
    assert safe_text("one\ntwo\t", lines=False) == "one\\ntwo\\t"
    every = safe_text("".join(map(chr, range(0x300))))
    assert {char for char in every if ord(char) < 32 or 0x7F <= ord(char) < 0xA0} == {"\n", "\t"}


def test_a_narrow_encoding_gets_ascii_drawings_and_question_marks():
    assert encodable("é ─│ 你", "cp1252") == "é -| ?"
    assert encodable("▶ · …", "ascii") == "> - ."
    assert encodable("▶ 你", "utf-8") == "▶ 你" == encodable("▶ 你", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (48, "48 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3780, "1 h 03 min"),
        (7199, "2 h 00 min"),
        (4_000_000, "1,111 h 07 min"),
        (NAN, "unknown"),
        (float("inf"), "unknown"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999.4, "999"), (999.6, "1.0k"), (12_345, "12.3k"), (999_960, "1.00M"), (1.24e6, "1.24M")],
)
def test_compact(number, text):
    assert compact(number) == text


# ---- time left -------------------------------------------------------------------------------------------------


def test_time_left_with_equal_steps_is_exact():
    assert time_left([(10, 100.0), (20, 105.0), (30, 110.0)], 130) == 50.0
    assert time_left([(10, 100.0), (20, 105.0)], 20) == 0.0
    assert time_left([(10, 100.0), (20, 105.0)], 15) == 0.0
    assert time_left([(10, 100.0)], 20) is None and time_left([], 20) is None
    assert time_left([(1, 5.0), (2, 5.0)], 9) == 0.0  # a clock too coarse to see a step


def test_evaluation_pauses_count_at_their_true_share():
    # 0.5 s a step, and 4 s after every 40 steps: 0.6 s a step in the long run
    readings = [(step, 0.5 * step + 4 * (step // 40)) for step in range(0, 401, 10)]
    assert time_left(readings, 1400) == pytest.approx(600.0)


def test_a_slower_machine_is_followed_and_a_hiccup_is_not():
    slower = [(step, 0.5 * step if step <= 300 else 150 + 1.0 * (step - 300)) for step in range(0, 501, 10)]
    # overall 350 s / 500 steps; the recent median is twice the median of all
    assert time_left(slower, 600) == pytest.approx(100 * (350 / 500) * 2)
    hiccup = [(step, 1.0 * step + (30 if step > 250 else 0)) for step in range(0, 301, 10)]
    assert time_left(hiccup, 400) == pytest.approx(100 * 330 / 300)


def test_compilation_before_the_first_record_is_not_extrapolated():
    shown, _, clock = live()
    shown.start("r", 100, {})
    for step, now in ((10, 1090.0), (20, 1100.0)):
        clock.now = now
        shown.train(train(step))
    assert "1 min 20 s left" in "\n".join(panel(shown))  # 80 steps of 1 s, not of 5 s
    assert "1 min 40 s so far" in "\n".join(panel(shown))


def test_eta_starts_anew_after_a_rewind_and_ignores_a_repeated_step():
    eta = Eta()
    for step, now in ((10, 0.0), (20, 10.0), (20, 11.0)):
        eta.add(step, now)
    assert eta.left_s(30) == 10.0
    eta.add(5, 100.0)
    assert eta.left_s(30) is None
    eta.add(10, 110.0)
    assert eta.left_s(30) == 40.0


# ---- curves ----------------------------------------------------------------------------------------------------


def test_sparkline():
    assert sparkline([], 10) == "" == sparkline([1.0], 0) == sparkline([1.0], -3)
    assert sparkline([3.0], 10) == "▁" and sparkline([2.0, 2.0], 10) == "▁▁"
    assert sparkline([8.0, 1.0, 4.4], 10) == "█▁▄"
    assert sparkline([0.0, 2.0, 9.0, 11.0], 2) == "▁█"  # means 1 and 10
    assert len(sparkline([float(i % 7) for i in range(1000)], 33)) == 33


def test_chart_shape_and_marks():
    lines = chart([(0, 3.0), (500, 1.5), (1000, 1.0)], 60, 12, {"uniform": 8.0, "unigram": 3.4, "floor": 0.5}).split(
        "\n"
    )
    assert len(lines) == 12 and max(map(len, lines)) <= 60
    assert "unigram 3.40" in lines[0] and "3.40" in lines[0][:5] and "┄" in lines[0]
    assert "floor 0.50" in lines[9] and "0.50" in lines[9][:6]
    assert not any("uniform" in line for line in lines)  # beaten long ago: it would flatten the curve
    rows = [row for row, line in enumerate(lines) if "•" in line]
    firsts = [lines[row].index("•") for row in rows]
    assert firsts == sorted(firsts) and firsts[0] == 7  # falls from the left edge to the right
    assert "◀ 1.00" in lines[rows[-1]]
    assert lines[-1].split() == ["0", "1,000", "steps"]


def test_chart_has_no_hole_in_a_steep_curve():
    lines = chart([(0, 9.0), (1, 1.0), (100, 1.0)], 40, 12, {}).split("\n")[:-2]
    assert all("•" in line or "│" in line[7:] for line in lines)
    rising = chart([(0, 1.0), (1, 9.0)], 40, 12, {}).split("\n")[:-2]
    assert [line[7:8] for line in rising if line[7:8].strip()] == ["•"]  # nothing hangs over the first point


def test_chart_labels_stay_inside_the_width():
    names = {f"{i} rather long": 2.0 for i in range(5)}
    assert max(map(len, chart([(0, 2.0), (9, 1.0)], 50, 8, names).split("\n"))) <= 50


@pytest.mark.parametrize("points", [[], [(1, NAN)], [(NAN, 1.0)]])
def test_chart_without_points(points):
    assert chart(points, 60, 10, MARKS) == "no evaluation to draw yet"


def test_chart_of_one_point_and_of_equal_values():
    assert chart([(5, 2.0)], 60, 10, {}).count("•") == 1
    flat = chart([(0, 2.0), (9, 2.0)], 60, 9, {"a": 2.0, "bad": NAN}).split("\n")
    assert [line for line in flat if "•" in line] == [flat[3]] and "◀ 2.00, a 2.00" in flat[3]
    assert chart([(0, 2.0), (0, 2.0)], 1, 1, {}).count("\n") == 4  # the smallest size, not a crash


# ---- plain lines -----------------------------------------------------------------------------------------------


def plain(encoding="utf-8"):
    raw, clock = io.BytesIO(), FakeClock()
    return PlainDisplay(io.TextIOWrapper(raw, encoding=encoding, newline="\n"), clock), raw, clock


def test_plain_lines():
    shown, raw, clock = plain()
    with shown:
        shown.start("tales", 1200, {"xz": 2.02, "unigram": 3.41})
        clock.now += 11
        shown.train(train(50, 5.9))
        clock.now += 5
        shown.train(train(100))
        shown.eval(evaluation(100, 2.311, train_bpb=2.28))
        shown.eval(evaluation(1000, 2.5, best=False))
        shown.train(train(1200, NAN, lr=3e-5))
        shown.sample({"step": 100, "prompt": "Once", "text": "Once upon\n\n" + "word " * 20})
    lines = raw.getvalue().decode().split("\n")
    assert lines[0] == "Training tales for 1,200 steps. Lower is better, for both figures:"
    assert lines[3:5] == ["          unigram  3.410", "          xz       2.020"]
    assert lines[5:] == [
        "  step    50/1,200   loss 5.900   lr 0.00300   12.3k tokens/s   11 s so far   time left: measuring",
        "  step   100/1,200   loss 4.812   lr 0.00300   12.3k tokens/s   16 s so far   1 min 50 s left",
        "  step   100/1,200   val  2.311 bits/byte (best)   train 2.280",
        "  step 1,000/1,200   val  2.500 bits/byte (best 2.311 at step 100)",
        "  step 1,200/1,200   loss   nan   lr 3.0e-05   12.3k tokens/s   16 s so far   done",
        '  --- sample at step 100, prompt "Once" ' + "-" * 39,
        "      Once upon",
        "",
        "      " + "word " * 12 + "word",
        "      " + "word " * 6 + "word",
        "",
    ]


def test_a_long_prompt_is_shortened_in_the_heading():
    shown, raw, _ = plain()
    shown.sample({"step": 5, "prompt": "x" * 41, "text": ""})
    assert f'prompt "{"x" * 39}…" ---' in raw.getvalue().decode()


def test_a_record_read_back_from_the_log_shows_its_null_as_nan():
    shown, raw, _ = plain()
    shown.start("r", 10, {})
    shown.train({"step": 1, "loss": None, "non_finite": ["loss"]})
    shown.eval({"step": 1, "val_bpb": None})
    text = raw.getvalue().decode()
    assert "loss   nan   0 s so far" in text and "val    nan bits/byte (not a number)" in text


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_stream_that_cannot_show_a_character_gets_a_replacement(encoding):
    shown, raw, _ = plain(encoding)
    shown.start("你好", 10, {"größe": 1.0})
    shown.say("done · ✓")
    shown.say(chart([(0, 2.0), (9, 1.0)], 50, 8, {}))
    shown.sample({"step": 1, "prompt": "“", "text": "你好 \ud800 end"})
    text = raw.getvalue().decode(encoding)
    assert "Training ??" in text and "?? \\ud800 end" in text and "+" in text and "o" in text


def test_text_from_outside_cannot_forge_a_line_or_drive_the_terminal():
    shown, raw, _ = plain()
    shown.start("run\n  step 9/9", 10, {"a\x1b]0;x\x07": 1.0})
    shown.say("bad \x1b[2J \x9b1A")
    shown.sample({"step": 1, "prompt": "p\nq", "text": "t\x1b[1m\r[red]x[/red]"})
    text = raw.getvalue().decode()
    assert not any(char in text for char in "\x1b\x07\x9b\r")
    assert "Training run\\n  step 9/9 for" in text and 'prompt "p\\nq"' in text and "t\\x1b[1m\\x0d[red]x[/red]" in text


class BrokenStream(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_stream_that_went_away_does_not_stop_the_training():
    shown = PlainDisplay(BrokenStream(), FakeClock())
    shown.start("r", 10, {})
    shown.train(train(1))


class HungUp(Terminal):
    def write(self, text):
        raise OSError(5, "terminal hung up")


def test_a_terminal_that_hung_up_gives_the_standard_streams_back(monkeypatch):
    mine = Terminal()
    monkeypatch.setattr(sys, "stdout", mine)
    shown, _, clock = live()
    with shown:
        shown.start("r", 10, {})
        assert sys.stdout is not mine  # prints scroll above the panel
        shown._console.file = HungUp()
        clock.now += 1
        shown.train(train(1))
        shown.say("nobody there")
    assert sys.stdout is mine


def test_standard_output_in_a_pipe_stays_there_while_the_panel_is_shown(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    shown, file, _ = live()
    with shown:
        shown.start("r", 10, {})
        print('{"json": true}')
    assert pipe.getvalue() == '{"json": true}\n' and "json" not in file.getvalue()


def test_quiet_says_sentences_only():
    stream = io.StringIO()
    shown = make_display(stream, quiet=True, terminal=True)
    with shown:
        shown.start("r", 10, MARKS)
        shown.train(train(1))
        shown.eval(evaluation(1, 2.0))
        shown.sample({"step": 1, "text": "x"})
        shown.say("checkpoint step-5 is damaged")
    assert type(shown) is Display and stream.getvalue() == "checkpoint step-5 is damaged\n"


def test_which_display_is_made(monkeypatch):
    assert type(make_display(io.StringIO())) is PlainDisplay
    assert type(make_display(Terminal())) is LiveDisplay
    assert type(make_display(Terminal(), terminal=False)) is PlainDisplay
    assert type(make_display(io.StringIO(), terminal=True)) is LiveDisplay
    narrow = Terminal()
    narrow.encoding = "cp1252"
    assert type(make_display(narrow, terminal=True)) is PlainDisplay  # rich would raise on a block character
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_display(Terminal())) is PlainDisplay


# ---- panel -----------------------------------------------------------------------------------------------------


def busy(width, height, text="word " * 200):
    shown, file, clock = live(width, height)
    shown.start("tales", 1200, MARKS)
    for step in range(20, 701, 20):
        clock.now += 2
        shown.train(train(step, 9 - step / 100))
        if step % 100 == 0:
            shown.eval(evaluation(step, 3.2 - step / 500))
    shown.sample({"step": 700, "prompt": "Once upon a time in a land " * 3, "text": text})
    return shown, file, clock


@pytest.mark.parametrize(
    ("width", "height"), [(200, 60), (100, 30), (80, 20), (60, 20), (40, 20), (40, 15), (30, 8), (20, 4)]
)
def test_the_panel_fits(width, height):
    shown, _, _ = busy(width, height, text="漢字" * 300)
    from rich.cells import cell_len

    lines = panel(shown)
    shown.stop()
    assert len(lines) <= height - 1
    assert {cell_len(line) for line in lines} == {min(width, 100)}


def test_the_panel_fits_at_every_height():
    shown, _, _ = busy(60, 30)
    for height in range(1, 31):
        shown._console.height = height
        lines = panel(shown)
        assert len(lines) <= max(3, height - 1)
        assert ("lr 0.00300" in "\n".join(lines)) == (height > 15)  # gives way first
        assert ("sample at" in "\n".join(lines)) == (height >= 12)
    shown.stop()


@pytest.mark.parametrize(("width", "height"), [(100, 30), (40, 20)])
def test_the_panel_says_what_matters(width, height):
    shown, _, _ = busy(width, height)
    text = "\n".join(panel(shown))
    shown.stop()
    for words in (
        "tales",
        "58 %",
        "step 700 of 1,200",
        "1 min 10 s so far",
        "50 s left",
        "12.3k tokens/s",
        "lr 0.00300",
    ):
        assert words in text
    for words in ("loss 2.000  best 2.000", "val  1.800  best 1.800", "█", "▁", "✓ unigram 3.41", "▶ this run 1.80"):
        assert words in text
    assert "✓ xz 2.02" in text and "✓ floor" not in text
    order = [text.index(name) for name in ("uniform", "unigram", "bigram", "xz", "this run", "floor")]
    assert order == sorted(order)
    assert "sample at step 700" in text and "word word" in text


def test_the_curve_fills_its_row_and_ends_with_the_newest_value():
    shown, _, _ = busy(40, 20)
    row = next(line for line in panel(shown) if "loss" in line)
    shown.stop()
    assert len(row) == 40 and row.endswith("▁ │") and row[26] == "█"  # falls in a straight line


def test_a_long_sample_is_cut_to_eight_lines_and_a_small_terminal_to_fewer():
    for height, count in ((40, 8), (15, 2)):
        shown, _, _ = busy(40, height)
        lines = [line for line in panel(shown) if "word" in line]
        shown.stop()
        assert len(lines) == count and lines[-1].rstrip(" │").endswith("word …")


def test_the_bar_is_full_only_at_the_end():
    shown, _, _ = live()
    shown.start("r", 1000, {})
    assert "waiting" in "\n".join(panel(shown)) and "  0 %" in panel(shown)[1]
    shown.train(train(999))
    assert " 99 %" in panel(shown)[1] and "─" in panel(shown)[1][2:-2]
    shown.train(train(1000))
    assert "100 %" in panel(shown)[1] and "─" not in panel(shown)[1] and "done" in panel(shown)[2]
    shown.stop()


def test_nothing_in_a_text_is_markup_or_an_escape():
    shown, file, clock = busy(80, 30, text="[red]alarm[/x] \x1b[31mred :smile:")
    shown.say("notice [bold]x[/] [/x] \x1b[2J")
    clock.now += 1
    shown.start("[red]name[/red]", 10, {"[b]": 1.0})
    shown.sample({"step": 1, "prompt": "[/y]", "text": "[red]alarm[/x] \x1b[31mred :smile:"})
    shown.stop()
    text = file.getvalue()
    for words in (
        "[red]alarm[/x] \\x1b[31mred :smile:",
        "notice [bold]x[/] [/x] \\x1b[2J",
        "[red]name[/red]",
        "[b]",
        "[/y]",
    ):
        assert words in text
    assert "\x1b[2J" not in text


def test_a_loss_that_is_not_a_number_is_shown_and_leaves_the_curve_alone():
    shown, _, _ = live()
    shown.start("r", 100, MARKS)
    for step, loss in ((1, 5.0), (2, 4.0), (3, NAN)):
        shown.train(train(step, loss))
    shown.eval(evaluation(3, NAN))
    text = "\n".join(panel(shown))
    shown.stop()
    assert "loss   nan  best 4.000  █▁" in text and "val    nan  best   nan" in text and "this run" not in text


def test_at_most_eight_drawings_a_second_by_the_clock(monkeypatch):
    shown, _, clock = live()
    shown.start("r", 10_000, MARKS)
    drawn = []
    monkeypatch.setattr(shown._live, "refresh", lambda: drawn.append(clock.now))
    for step in range(1, 1001):  # ten seconds in steps of 1/100
        clock.now = 1000 + step / 100
        shown.train(train(step))
    monkeypatch.undo()
    shown.stop()
    assert 70 <= len(drawn) <= 80


def test_no_thread_and_a_clean_terminal_after_an_interruption():
    shown, file, _ = live()
    threads, stdout = set(threading.enumerate()), sys.stdout
    with pytest.raises(KeyboardInterrupt), shown:
        shown.start("r", 10, {})
        assert set(threading.enumerate()) <= threads
        raise KeyboardInterrupt
    shown.stop()
    text = file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l") and text.endswith(("\n", "\x1b[?25h"))
    assert sys.stdout is stdout
    shown.say("after")
    assert file.getvalue().endswith("after\n")


def test_no_color_is_honoured(monkeypatch):
    def drawn():
        clock = FakeClock()
        stream = Terminal()
        with make_display(stream, clock=clock) as shown:
            shown.start("r", 10, MARKS)
            clock.now += 1
            shown.train(train(5))
        return stream.getvalue()

    assert "\x1b[32m" in drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in drawn() and "━" in drawn()


def test_a_resumed_run_keeps_its_curve_and_its_best_but_not_its_times():
    shown, _, _ = live()
    shown.start(
        "r", 100, MARKS, history=[train(10, 6.0), train(20, 5.0), evaluation(20, 1.5), {"kind": "event", "step": 20}]
    )
    shown.train(train(30, 5.5))
    shown.eval(evaluation(30, 1.7, best=False))
    text = "\n".join(panel(shown))
    shown.stop()
    assert "best 5.000  █▁▅" in text and "val  1.700  best 1.500" in text and "measuring" in text


def test_rich_is_imported_only_for_the_panel():
    import subprocess

    code = "import sys, io, tinygpt.display as d; d.make_display(io.StringIO()).say('x'); print('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    assert "torch" not in vars(display)
