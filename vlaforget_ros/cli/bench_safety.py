"""``vlaforget bench monitor``: the benchmarks of the safety part."""

from __future__ import annotations

from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, show


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(monitor)


def monitor(
    json_path: Path | None = typer.Option(None, "--json", help="Write the figures here as well."),
    seconds: float = typer.Option(10.0, min=1.0, help="Real time of each timed part [s]."),
    repeats: int = typer.Option(5, min=1, help="Episodes of each violation."),
    episodes: int = typer.Option(100, min=1, help="Clean episodes."),
    seed: int = typer.Option(0, min=0, help="Of sensor noise and onsets."),
    dds: bool = typer.Option(True, help="Also run the node over DDS; --no-dds needs no ROS."),
) -> None:
    """The safety monitor: time to decide, processor, known violations live and replayed, false alarms."""
    from vlaforget_ros.bench.monitor import Settings, measure

    if dds:
        from vlaforget_ros.nodes.start import require_ros

        # Said now, not after the other figures.
        require_ros()
    with bar("monitor", parts=True) as update:
        document = measure(
            Settings(seconds, repeats, episodes, seed, dds),
            lambda what, done, total: update(done, total, what),
        )
    show(document, json_path, "the safety monitor, rules of config/rules/arm.yaml")
