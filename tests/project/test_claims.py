"""The table of claims in docs/studio.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_claim_has_its_test():
    table = (ROOT / "docs/studio.md").read_text().partition("## What the pages claim")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    tests = "".join(path.read_text() for path in ROOT.glob("tests/*/test_*.py"))
    names = re.findall(r"def test_(\w+)", tests)
    for row in rows:
        for part in row[-1].split(": ")[-1].split(", "):
            assert any(part in name for name in names), f"{row}: no test is called like {part}"
