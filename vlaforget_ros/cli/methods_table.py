"""The table of the unlearning benchmark: one row for each method, one column for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    rows = [
        [variant, *(_text(by_name.get(f"{name}_{variant}"), COLUMNS[name][1]) for name in metrics)]
        for variant in variants
    ]
    edits = by_name[f"tsr_{OURS}"]["n"] if f"tsr_{OURS}" in by_name else 0
    title = f"means over scenarios and seeds (95 % intervals in the JSON); {OURS}: {edits} edits"
    console.print(plain_table(["", *(COLUMNS[name][0] for name in metrics)], rows, title))
    places = {"all scenarios": document["better_on_both"], **document["better_in_one"]}
    console.print(f"no worse than {OURS} in FC, FTS and TSR, and better in one of them:")
    for place, found in places.items():
        console.print(f"  {place}: {', '.join(found) or 'none'}")
    for name, why in document["errors"].items():
        console.print(f"{name}: no adapter ({why.splitlines()[0]})", highlight=False, soft_wrap=True)
    if json_path is not None:
        figures.write(json_path, document)
        errors.print(f"JSON: {json_path}")


def _text(figure: Mapping[str, Any] | None, digits: int) -> str:
    return "" if figure is None else f"{figure['value']:.{digits}f}"
