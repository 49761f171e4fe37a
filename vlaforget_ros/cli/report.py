"""``vlaforget report``: a finished edit as one HTML page and one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlaforget_ros.cli.output import console

if TYPE_CHECKING:
    from vlaforget_ros.report.material import Material


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(report)


def report(
    edit: Path = typer.Argument(..., help="Folder of a finished edit, with edit.json in it."),
    attacks: Path | None = typer.Option(
        None, help="JSON file: figures of attacks on the adapter; the store's evidence when not given."
    ),
    closed_loop: Path | None = typer.Option(
        None, help="JSON file: figures of rollouts with the adapter; the store's evidence when not given."
    ),
    store: Path = typer.Option(Path("runs/adapters"), help="Adapter store, for what was measured since."),
    against: list[Path] = typer.Option([], help="Folder of another edit of the same request. Repeatable."),
    pictures: Path | None = typer.Option(
        None,
        help="Folder of rollout pictures: NAME-before and NAME-after, each a picture or a folder of frames.",
    ),
    out: Path | None = typer.Option(None, help="HTML file; report.html in the edit's folder when not given."),
) -> None:
    """Write the report of an edit: verdict first, then figures, other methods, what was edited, what is not proven.

    What `evaluate` and `attack` attached to the adapter in the store is in it. The page needs no other file. The same
    content is written as JSON beside it.
    """
    from vlaforget_ros.report.material import read_material
    from vlaforget_ros.report.page import PAGE
    from vlaforget_ros.report.pictures import read_strips

    strips = [] if pictures is None else read_strips(pictures)
    write(read_material(edit, against, closed_loop, attacks, strips, store), out or edit / PAGE)


def write(material: Material, page: Path) -> None:
    """Write a report and say where it is, verdict first."""
    from vlaforget_ros.report.page import write_report

    content = write_report(material, page)
    console.print(content["verdict"]["sentence"], highlight=False, soft_wrap=True)
    console.print(f"report {page}, {page.with_suffix('.json').name} beside it", soft_wrap=True)
