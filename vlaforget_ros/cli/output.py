"""How the command prints: one console, tables of figures, progress bars."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from vlaforget_ros import figures

# A pipe has no width: the library would wrap at 80 columns.
PIPE_WIDTH = 200
# Longest that a pipe hears nothing of work that goes on.
SILENCE_S = 30.0


def console_for(stream: TextIO) -> Console:
    """A console for a stream that may be a pipe; ``COLUMNS`` in the environment says how wide one is."""
    return Console(width=None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH)


console = console_for(sys.stdout)
# Long texts on a narrow terminal wrap; a pipe gets whole lines.
errors = Console(stderr=True, soft_wrap=True)


class Update(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None: ...


@contextmanager
def bar(title: str, unit: str = "", parts: bool = False, remaining: bool = True) -> Iterator[Update]:
    """A progress bar as a callback of (done, all) and a note.

    A pipe gets a line for each tenth, and where it heard nothing for long.

    Args:
        title: what is being done.
        unit: of the count.
        parts: the note names a part of the work, each with tenths of its own.
        remaining: show the time left as the bar estimates it; False where the note says it.
    """
    left = (TextColumn("left"), TimeRemainingColumn()) if remaining else ()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        *left,
        console=errors,
    )
    with progress:
        task = progress.add_task(title, total=None, note="")

        said: tuple[str, int] | None = None
        spoke = 0.0

        def update(done: int, total: int, note: str = "", /) -> None:
            nonlocal said, spoke
            progress.update(task, completed=done, total=total, note=note)
            now = (note if parts else "", 10 * done // max(total, 1))
            due = now != said or time.monotonic() - spoke > SILENCE_S
            if not errors.is_terminal and due:
                said, spoke = now, time.monotonic()
                errors.print(f"{title} {done}/{total} {unit} {note}".rstrip(), highlight=False)

        yield update


def figure_table(document: Mapping[str, Any], title: str = "") -> Table:
    """The figures of a result document as a table."""
    table = Table(title=title or str(document["benchmark"]), title_justify="left")
    table.add_column("figure")
    for column in ("value", "unit", "n", "95 % interval"):
        table.add_column(column, justify="right" if column != "unit" else "left")
    for figure in document["figures"]:
        interval = "" if figure["low"] is None else f"{figure['low']:.4g} .. {figure['high']:.4g}"
        table.add_row(figure["name"], f"{figure['value']:.4g}", figure["unit"], str(figure["n"]), interval)
    return table


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """A table of texts; one that is too long for its column goes on in the next line."""
    table = Table(
        *(Column(name, overflow="fold") for name in columns), title=title or None, title_justify="left"
    )
    for row in rows:
        table.add_row(*row)
    return table


def event_table(events: Sequence[Mapping[str, Any]]) -> Table:
    """Events of a store's history, oldest first."""
    rows = []
    for event in events:
        more = {k: v for k, v in event.items() if k not in ("time", "event", "digest")}
        text = " ".join(f"{k}={_short(k, v)}" for k, v in more.items())
        rows.append([str(event["time"])[:19], str(event["event"]), str(event["digest"])[:12] or "base", text])
    return plain_table(["time", "event", "adapter", "more"], rows)


def _short(name: str, value: Any) -> str:
    """Digests to 12 digits; "" is the base model, and None is nothing at all."""
    if not name.endswith("_digest") or value is None:
        return "none" if value is None else str(value)
    return str(value)[:12] or "base"


def show(document: dict[str, Any], json_path: Path | None, title: str = "") -> None:
    """Print a result document as a table, and write its JSON where ``json_path`` says."""
    console.print(figure_table(document, title))
    if json_path is not None:
        figures.write(json_path, document)
        errors.print(f"JSON: {json_path}")


def print_json(value: Any) -> None:
    """JSON for programs, without colours or wrapping."""
    console.out(json.dumps(value, indent=2, default=str), highlight=False)
