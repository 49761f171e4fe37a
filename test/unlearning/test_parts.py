"""The package's docstring says which part may call which, and it is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from vlaforget_ros import unlearning

PREFIX = "vlaforget_ros.unlearning"
FOLDER = Path(unlearning.__file__).parent
LINES = [line[4:] for line in (unlearning.__doc__ or "").splitlines() if line.startswith("    ")]
# Names, then two or more spaces, then what they are.
LEVELS = [re.split(r" {2,}", line)[0].split() for line in LINES]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def called(path: Path) -> Iterator[str]:
    """Parts that a module imports when it runs (what is imported for types only is no call)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in only_types:
            module = node.module or ""
            if module == PREFIX:
                yield from (alias.name for alias in node.names)
            elif module.startswith(f"{PREFIX}."):
                yield module.removeprefix(f"{PREFIX}.").split(".")[0]


def parts() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in FOLDER.rglob("*.py"):
        part = path.relative_to(FOLDER).parts[0].removesuffix(".py")
        if part != "__init__":
            found.setdefault(part, set()).update(set(called(path)) - {part})
    return found


def test_every_part_is_named_once() -> None:
    names = [name for level in LEVELS for name in level]
    assert sorted(names) == sorted(parts())


def test_no_part_calls_upwards() -> None:
    calls = [(part, other) for part, others in parts().items() for other in others]
    assert len(calls) > 50
    assert [call for call in calls if LEVEL[call[1]] < LEVEL[call[0]]] == []


def test_methods_touch_neither_files_nor_requests() -> None:
    assert not parts()["methods"] & {"journal", "request", "sources", "output", "child", "edit"}
