"""docs/adapters.md names a test for every event and threat: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
_TESTS = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "test").rglob("test_*.py"))}
_NAMES = {name for text in _TESTS.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
_BUNDLES = next(text for path, text in _TESTS.items() if path.name == "test_bundle.py")


def _rows() -> list[tuple[str, list[str]]]:
    """What each row of a table with a column of tests is about, and the names in that column."""
    rows, inside = [], False
    for line in _PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[-1] == "test":
            inside = True
        elif inside and set(line) - set("|- "):
            rows.append((cells[0], re.findall(r"`([^`]+)`", cells[-1])))
    return rows


ROWS = _rows()


def test_every_table_was_found() -> None:
    assert len(ROWS) > 60
    assert _PAGE.count("| test |") == 5


@pytest.mark.parametrize(("about", "named"), ROWS, ids=[about[:60] for about, _ in ROWS])
def test_a_row_names_tests_that_are_there(about: str, named: list[str]) -> None:
    assert named, "a row without a test"
    for name in named:
        if "..." in name:
            # A part of a name; the row before it has the rest.
            assert any(name.strip(".") in known for known in _NAMES), name
        elif name.startswith("test_"):
            assert name in _NAMES, name
        else:
            assert f'"{name}"' in _BUNDLES, f"{name} is no parameter of a test of bundles"
