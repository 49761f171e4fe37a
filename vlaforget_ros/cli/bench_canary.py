"""``vlaforget bench canary``: how often a canary is wrong, and how long it takes."""

from __future__ import annotations

from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, console, plain_table, show


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(canary)


def canary(
    json_path: Path | None = typer.Option(None, "--json", help="Write the figures here as well."),
    protocol: Path | None = typer.Option(None, help="Protocol file; the default protocol when not given."),
    tsr: float = typer.Option(0.9, min=0.0, max=1.0, help="Stable's success rate."),
    canaries: int = typer.Option(20_000, min=100, help="Simulated canaries of each truth."),
    seed: int = typer.Option(0, min=0, help="Of the simulated rollouts."),
) -> None:
    """Simulated canaries, looked at after every rollout: wrong verdicts, rollouts to a verdict, beside naive rules."""
    from vlaforget_ros.bench.canary import measure
    from vlaforget_ros.safety.canary.protocol import read_protocol

    with bar("truths", parts=True) as update:
        document = measure(read_protocol(protocol), tsr, canaries, seed, update)
    rows = [
        [
            row["truth"],
            row["rule"],
            *(f"{100 * row[name]:.2f}" for name in ("promote", "hold", "abort", "stop")),
            f"{row['rollouts']:.1f}",
        ]
        for row in document["rows"]
    ]
    columns = ["truth", "rule", "promote %", "hold %", "abort %", "stop %", "rollouts"]
    console.print(plain_table(columns, rows, f"{canaries} canaries of each truth"))
    show(document, json_path, "canaries looked at after every rollout")
