"""The table of the unlearning benchmark: one row for each method, one column for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.cli.output import console, errors, plain_table

_COLUMNS = {
    "fc": "FC %",
    "svr": "SVR %",
    "fts": "FTS %",
    "sbu": "SBU %",
    "tsr": "TSR %",
    "rc": "RC %",
    "tsr_near": "near %",
    "fad": "FAD",
    "rad": "RAD",
    "qrr_int8": "QRR 8",
    "qrr_int4": "QRR 4",
    "qrr_nf4": "QRR nf4",
    "rls": "RLS",
    "relearn_steps": "relearnt",
    "seconds": "s",
    "peak_mb": "MB",
}


def show_methods(document: dict[str, Any], variants: Sequence[str], json_path: Path | None) -> None:
    """Print the table, and write the JSON where ``json_path`` says."""
    by_name = {figure["name"]: figure for figure in document["figures"]}
    metrics = [name for name in _COLUMNS if any(f"{name}_{variant}" in by_name for variant in variants)]
    rows = [
        [variant, *(_text(by_name.get(f"{name}_{variant}"), name) for name in metrics)]
        for variant in variants
    ]
    cells = len({figure for figure in by_name if figure.startswith("fc_vla_forget_")})
    title = f"means over scenarios and seeds (95 % intervals in the JSON); vla_forget: {cells} edits"
    console.print(plain_table(["", *(_COLUMNS[name] for name in metrics)], rows, title))
    better = document["better_on_both"]
    console.print(f"better than vla_forget in both FC and TSR: {', '.join(better) or 'none'}")
    for name, why in document["errors"].items():
        console.print(f"{name}: no adapter ({why.splitlines()[0]})", highlight=False, soft_wrap=True)
    if json_path is not None:
        figures.write(json_path, document)
        errors.print(f"JSON: {json_path}")


def _text(figure: Mapping[str, Any] | None, name: str) -> str:
    if figure is None:
        return ""
    small = name in ("fad", "rad", "rls") or name.startswith("qrr")
    return f"{figure['value']:.3f}" if small else f"{figure['value']:.1f}"
