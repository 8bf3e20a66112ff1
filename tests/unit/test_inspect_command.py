"""`tinygpt inspect FUNCTION RUN`: the same words for every function, as text, as the studio's JSON, or drawn."""

import shutil

import numpy as np
import pytest
from command_line import refused, tinygpt

import tinygpt.inspect as ti
from tinygpt.inspect import command, png, show
from tinygpt.inspect.result import Result


@pytest.fixture(scope="module")
def here(trained, tmp_path_factory):
    """A folder with the run mine."""
    folder = tmp_path_factory.mktemp("inspect")
    shutil.copytree(trained, folder / "runs" / "mine")
    return folder


@pytest.fixture(autouse=True)
def in_it(here, monkeypatch):
    monkeypatch.chdir(here)


def test_every_function_has_its_command_and_its_help():
    listed = tinygpt("inspect", "--help").out
    for name, (_, _, what) in ti.FUNCTIONS.items():
        assert name in listed and what.split(",")[0].split(":")[0][1:20] in listed


@pytest.mark.parametrize("name", [n for n, (module, _, _) in ti.FUNCTIONS.items() if module in ("dynamics", "heads")])
def test_the_help_of_a_function_is_its_own_description(name):
    outcome = tinygpt("inspect", name, "--help")
    assert outcome.code == 0 and "Arguments:" in outcome.out
    first = getattr(ti, name).__doc__.split("\n")[0]
    assert " ".join(first.split())[:40] in " ".join(outcome.out.split())


def test_json_is_the_body_of_the_reply():
    for words, result in [
        (("checkpoints", "mine"), ti.checkpoints("runs/mine")),
        (("tables", "mine@0"), ti.tables(ti.load("mine@0"))),
        (("attention", "mine@0", "The fox", "layer=1", "head=2"), ti.attention(ti.load("mine@0"), "The fox", 1, 2)),
        (
            ("attention", "mine@0", "head=2", "layer=1", "prompt=The fox"),
            ti.attention(ti.load("mine@0"), "The fox", 1, 2),
        ),
        (("over_time", "mine", "tables", "field=unigram"), ti.over_time("runs/mine", "tables", field="unigram")),
        (("compare", "mine", "mine"), ti.compare(["mine", "mine"])),
        (("dynamics", "mine"), ti.health("runs/mine")),
    ]:
        outcome = tinygpt("inspect", *words, "--json")
        assert outcome.out.encode() == result.to_json(), (words, outcome.err)


def test_a_text_comes_from_standard_input_too():
    assert tinygpt("inspect", "attention", "mine@0", "-", "--json", stdin=b"The fox").out == tinygpt(
        "inspect", "attention", "mine@0", "The fox", "--json").out  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attention", "mine", "The fox", "and more"), "attention takes one text, prompt; 'and more' is one more"),
        (("attention", "mine", "The fox", "layer=two"), "layer='two' must be a whole number or null"),
        (("attention", "mine", "The fox", "lair=2"), "attention has no 'lair' (did you mean layer?)"),
        (("attention", "mine"), "attention needs prompt"),
        (("checkpoints", "mine", "extra"), "checkpoints takes no text"),
        (("checkpoints", "mine@3"), "leave out @3"),
        (("tables", "nobody"), "no run 'nobody'"),
        (("health", "mine", "--png", "x.jpg"), "--png x.jpg must end with .png"),
    ],
)
def test_bad_words_are_answered_with_a_sentence(words, said):
    outcome = tinygpt("inspect", *words)
    assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_a_token_may_be_given_as_its_text():
    m = ti.load("mine@0")
    known = next(i for i in range(300, 320) if m.tokenizer.token_bytes(i).startswith(b" "))
    text = m.tokenizer.decode([known])
    assert m.tokenizer.encode(text) == [known]
    assert command.token_of(m, "token", text) == command.token_of(m, "token", text.replace(" ", "·")) == str(known)
    assert command.token_of(m, "token", "7") == "7" and command.token_of(m, "target", "null") == "null"
    sentence = refused(2, "tokens here", command.token_of, m, "token", "Quetzalcoatl")
    assert "Q | " in sentence
    refused(2, "0 tokens here", command.token_of, m, "token", "")


def test_words_of_the_design_mean_functions():
    assert (
        command.called("embeddings", ["The"]) == "neighbours"
        and command.called("embeddings", ["token=5"]) == "neighbours"
    )
    assert command.called("embeddings", ["most=5"]) == "norms" and command.called("dynamics", []) == "health"
    assert command.called("lens", ["x"]) == "lens"


# --- as text ----------------------------------------------------------------------------------------------------------


def rendered(**data):
    axes = data.pop("axes", None)
    truncated = data.pop("truncated", None)
    return show.render(Result(axes, truncated, **data))


def test_every_kind_of_field_can_be_read():
    tokens = [{"id": 1, "shown": "The"}, {"id": 2, "shown": "·fox"}]
    text = rendered(
        axes={"pattern": "head query key", "share": "part"}, truncated="half of it", tokens=tokens, ratio=0.123456,
        many=1234567, nothing=None, yes=True, rows=[{"name": "a", "value": 1.5}, {"name": "bb", "value": 1000.25}],
        pattern=np.array([[[1.0, np.nan], [0.25, 0.75]]]), share=np.array([0.5, -0.5]), parts=["embedding", "head 0"],
        tree={"shown": "The", "probability": 1.0, "children": [{"shown": "·cat", "probability": 0.5, "children": []}]},
    )  # fmt: skip
    lines = text.splitlines()
    assert (
        "ratio    0.1235" in lines
        and "many     1,234,567" in lines
        and "nothing  -" in lines
        and "yes      yes" in lines
    )
    assert "  a       1.5" in lines and "  bb     1000" in lines
    assert "pattern  (head x query x key)" in lines and "  head 0" in lines
    assert "        The ·fox" in lines and "   The 1.00    ·" in lines and "  ·fox 0.25 0.75" in lines
    assert any(line.split() == ["embedding", "0.5"] for line in lines)
    assert "  The  probability 1" in lines and "    ·cat  probability 0.5" in lines
    assert "Left out: half of it." in lines
    assert max(map(len, lines)) <= show.WIDTH


def test_long_tables_and_wide_grids_are_cut_and_say_so():
    wide = rendered(axes={"a": "row column"}, a=np.random.default_rng(0).random((60, 300)))
    assert max(map(len, wide.splitlines())) <= show.WIDTH and "more rows" in wide and "more columns" in wide
    long = rendered(rows=[{"name": "x" * 100, "value": i} for i in range(100)])
    assert "... and 60 more rows (all with --json)" in long and max(map(len, long.splitlines())) <= show.WIDTH


def test_what_a_text_contains_cannot_drive_the_terminal():
    assert "\x1b" not in command.shown(Result(text="\x1b[2J", rows=[{"name": "\x1b[31m"}]))


@pytest.mark.parametrize("name", ["records", "checkpoints", "health"])
def test_the_text_of_a_function_has_its_python_line(name):
    outcome = tinygpt("inspect", name, "mine")
    assert outcome.code == 0 and outcome.out.rstrip().endswith(f"Python: ti.{name}('runs/mine')")


# --- drawn ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("records", "mine"), ("health", "mine"), ("compare", "mine", "mine"), ("attention", "mine", "The fox $x$ $"),
     ("attention", "mine", "The fox", "layer=0", "head=0"), ("over_time", "mine", "tables")],
)  # fmt: skip
def test_a_result_is_drawn(words, tmp_path):
    outcome = tinygpt("inspect", *words, "--png", tmp_path / "x.png")
    assert outcome.code == 0 and outcome.out == "" and "wrote" in outcome.err, outcome.err
    assert (tmp_path / "x.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def axes_of(result):
    return [axis for axis in png.figure_of(result).axes if axis.get_label() != "<colorbar>"]


def test_signs_get_a_diverging_scale_and_amounts_an_even_one():
    signed, plain = (Result({"a": "query key"}, a=np.array(rows)) for rows in ([[-1.0, 3.0]], [[1.0, 3.0]]))
    (image,) = axes_of(signed)[0].images
    assert image.get_cmap().name == "RdBu_r" and image.get_clim() == (-3.0, 3.0)
    assert axes_of(plain)[0].images[0].get_cmap().name == "viridis_r"


def test_a_heat_map_is_labelled_by_its_tokens_and_every_head_has_its_own():
    tokens = [{"id": 1, "shown": "The"}, {"id": 2, "shown": "·$fox"}]
    result = Result({"pattern": "layer head query key"}, tokens=tokens, pattern=np.ones((2, 3, 2, 2)))
    drawn = axes_of(result)
    assert len(drawn) == 6 and drawn[5].get_title() == "pattern: layer 1, head 2"
    assert [t.get_text() for t in drawn[0].get_xticklabels()] == ["The", r"·\$fox"]


def test_lines_points_and_bars():
    steps = Result({"a": "step layer"}, steps=[0, 10], layers=["x", "y"], a=np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert [list(line.get_xydata()[:, 1]) for line in axes_of(steps)[0].lines] == [[1.0, 3.0], [2.0, 4.0]]
    points = Result(
        {"xy": "token axis"}, points=[{"shown": "a"}, {"shown": "b"}], xy=np.array([[0.0, 1.0], [2.0, 3.0]])
    )
    assert [t.get_text() for t in axes_of(points)[0].texts] == ["a", "b"]
    bars = Result(rows=[{"shown": "a", "probability": 0.75}, {"shown": "b", "probability": 0.25}])
    assert [bar.get_width() for bar in axes_of(bars)[0].patches] == [0.75, 0.25]
    refused(2, "nothing to draw", png.figure_of, Result(a=1))
