"""No option that nothing reads: every field of the configuration is used outside the file that defines it."""

from __future__ import annotations

import ast
import functools
from dataclasses import fields
from pathlib import Path

import pytest

from tinygpt.config import OWNER, PRESETS, SECTIONS, SIZES

PACKAGE = Path(__file__).parents[2] / "tinygpt"


@functools.cache
def attributes_read() -> set[str]:
    """Every name after a dot that is read (not assigned) in the package outside config.py."""
    return {
        node.attr
        for path in PACKAGE.rglob("*.py")
        if path.name != "config.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    } | {
        # getattr(config.train, name) in the planner, over a tuple of names
        element.value
        for element in ast.walk(ast.parse((PACKAGE / "plan.py").read_text()))
        if isinstance(element, ast.Constant) and element.value in ("eval_every", "sample_every")
    }


@pytest.mark.parametrize("name", OWNER)
def test_every_field_is_read(name: str):
    """Pins: a setting on the command line that changes nothing."""
    assert name in attributes_read(), f"{OWNER[name]}.{name} is never read"


def test_field_names_are_unique_across_sections():
    """field=value has no section, so a name may stand in one section only."""
    assert len(OWNER) == sum(len(fields(section)) for section in SECTIONS.values())


@pytest.mark.parametrize("name", OWNER)
def test_every_field_says_what_it_means(name: str):
    field = next(f for f in fields(SECTIONS[OWNER[name]]) if f.name == name)
    assert len(field.metadata["meaning"]) > 10


def test_presets_and_sizes_name_only_fields():
    for preset in PRESETS.values():
        for section, values in preset.items():
            assert values.keys() <= {f.name for f in fields(SECTIONS[section])}
    assert {name for size in SIZES.values() for name in size} <= OWNER.keys()
    assert all(size["n_embd"] % 64 == 0 for size in SIZES.values())
