"""``vlaforget bench bags``: reading, indexing, recording and rescuing bags."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, console, plain_table, show


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(bags)


def bags(
    json_path: Path | None = typer.Option(None, "--json", help="Write the figures here as well."),
    only: str = typer.Option(
        "read,index,record,damage",
        help="Parts, with commas between; record needs ROS and takes --record-seconds.",
    ),
    gb: float = typer.Option(2.0, min=0.001, help="Images of the bag that is streamed [GB]."),
    hours: float = typer.Option(
        1.0, min=0.001, help="Length of the bag that is indexed, at 10 Hz: 5.4 GB an hour."
    ),
    record_seconds: float = typer.Option(300.0, min=1.0, help="How long the recorder is under load [s]."),
    pairs: int = typer.Option(7, min=1, help="Timed pairs of raw iteration and batches."),
    folder: Path | None = typer.Option(
        None, help="Where to write the bags, which are deleted again; the system's folder when not given."
    ),
    seed: int = typer.Option(0, min=0, help="Of pictures and actions."),
    quick: bool = typer.Option(False, help="Small bags and a short recording: does it run at all?"),
) -> None:
    """Bags: batches beside raw iteration, memory, indexing, recording under load, what damage costs.

    read: training batches of 224x224 images with their actions, beside rosbags' bare iteration over the messages of the
    same bag; a ratio of 1 is as fast as that. The memory is that of a process of its own, for a bag and for a
    quarter of it. index: a long bag, first from the disk, then from the page cache. record: 640x480 at 30 Hz and
    states for five minutes. damage: cut and flipped files against what must be left.

    Example: vlaforget bench bags --only read,index --json runs/bags.json
    """
    from vlaforget_ros.bench.bags import PARTS, Settings, measure

    parts = [part.strip() for part in only.split(",") if part.strip()]
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'}: use {', '.join(PARTS)}", param_hint="--only"
        )
    if "record" in parts:
        from vlaforget_ros.nodes.start import require_ros

        # Said now, not after the other figures.
        require_ros()
    settings = Settings(
        folder or Path(tempfile.gettempdir()), parts, gb, hours, record_seconds, pairs, seed=seed
    )
    if quick:
        settings = replace(settings, gigabytes=0.04, hours=0.02, record_seconds=5.0, pairs=3)
    with bar("bags", parts=True) as update:
        document = measure(settings, lambda what, done, total: update(done, total, what))
    if "reading" in document:
        rows = [
            [
                row["bag"],
                str(row["frames"]),
                f"{row['raw_s']:.2f}",
                f"{row['stream_s']:.2f}",
                f"{row['ratio']:.2f}",
            ]
            for row in document["reading"]
        ]
        console.print(
            plain_table(["bag", "frames", "raw s", "batches s", "ratio"], rows, "medians of the pairs")
        )
    show(document, json_path, "bags")
