"""The table of the unlearning benchmark: one row for each method, one column for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.cli.output import console, errors, plain_table


def show_methods(document: dict[str, Any], variants: Sequence[str], json_path: Path | None) -> None:
    """Print the table, and write the JSON where ``json_path`` says."""
    from vlaforget_ros.bench.unlearning.page import COLUMNS
    from vlaforget_ros.bench.unlearning.variants import OURS

    by_name = {figure["name"]: figure for figure in document["figures"]}
    metrics = [name for name in COLUMNS if any(f"{name}_{variant}" in by_name for variant in variants)]
    columns = [
        [
            COLUMNS[name][0],
            *(_text(by_name.get(f"{name}_{variant}"), COLUMNS[name][1]) for variant in variants),
        ]
        for name in metrics
    ]
    edits = by_name[f"tsr_{OURS}"]["n"] if f"tsr_{OURS}" in by_name else 0
    title = f"means over scenarios and seeds (95 % intervals in the JSON); {OURS}: {edits} edits"
    for part in parts(["", *variants], columns, console.width):
        console.print(plain_table([column[0] for column in part], list(zip(*part, strict=True))[1:], title))
        title = ""
    places = {"all scenarios": document["better_on_both"], **document["better_in_one"]}
    console.print(f"no worse than {OURS} in FC, FTS and TSR, and better in one of them:")
    for place, found in places.items():
        console.print(f"  {place}: {', '.join(found) or 'none'}")
    for name, why in document["errors"].items():
        console.print(f"{name}: no adapter ({why.splitlines()[0]})", highlight=False, soft_wrap=True)
    if json_path is not None:
        figures.write(json_path, document)
        errors.print(f"JSON: {json_path}")


def parts(names: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> list[list[Sequence[str]]]:
    """Columns in as many tables as a terminal of this width needs, so that nothing is cut; names stand in each.

    Args:
        names: the first column, its header first.
        columns: the others.
        width: of the terminal [characters].
    """
    taken = [0, *accumulate(_width(column) for column in columns)]
    found: list[list[Sequence[str]]] = []
    start = 0
    room = width - _width(names) - 1
    for end in range(1, len(columns) + 1):
        if end == len(columns) or taken[end + 1] - taken[start] > room:
            found.append([names, *columns[start:end]])
            start = end
    return found


def _width(column: Sequence[str]) -> int:
    """Characters of a column with its padding and border."""
    return max(map(len, column)) + 3


def _text(figure: Mapping[str, Any] | None, digits: int) -> str:
    return "" if figure is None else f"{figure['value']:.{digits}f}"
