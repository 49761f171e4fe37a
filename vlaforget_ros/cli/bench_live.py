"""``vlaforget bench canary-live`` and ``stop``: safety benchmarks on the running graph."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import typer

from vlaforget_ros.cli.output import bar, console, errors, plain_table, show
from vlaforget_ros.paths import models_directory

_JSON = typer.Option(None, "--json", help="Write the figures here as well.")
_BASE = typer.Option(None, "--base", help="Checkpoint folder; the embedded policy when not given.")
_OUT = typer.Option(None, help="New folder for logs of the graph; under runs/bench without it.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(canary_live)
    app.command()(stop)


def canary_live(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    scenario: str = typer.Option("trigger", help="Planted behaviour: trigger, binding or prior."),
    runs: int = typer.Option(10, min=1, help="Canaries of each candidate."),
    adapters: Path = typer.Option(
        Path("runs/bench/canary_adapters"),
        help="Adapters under test: made here by three edits where they are missing.",
    ),
    out: Path | None = _OUT,
) -> None:
    """Canaries of a good, a ruined and a re-broken edit on the simulated arm, at most 60 rollouts each.

    Stable is an edit of its own (`corrected`); the good candidate is VLA-Forget's edit, the ruined one gradient
    ascent's, the re-broken one 2 % of the good one. Every canary runs offline, shadow, reduced speed and the ramp over
    real nodes, with the monitor in the command path. About 40 s a canary, and 10 minutes for the edits, on two cores.
    """
    from vlaforget_ros.nodes.start import require_ros

    require_ros()
    from vlaforget_ros.bench.canary_live import make_adapters, measure, play

    checkpoint = base or models_directory() / "tiny"
    with bar("canaries", parts=True, remaining=False) as update:

        def told(what: str, done: int, total: int) -> None:
            update(done, total, what)

        make_adapters(checkpoint, adapters, scenario, told)
        outcomes = play(checkpoint, _folder(out, "canary"), adapters, scenario, runs, told, _quiet)
    document = measure(outcomes, scenario)
    rows = [
        [o.candidate, str(o.run), o.verdict, str(o.rollouts), f"{o.seconds:.0f}", o.reason] for o in outcomes
    ]
    console.print(plain_table(["candidate", "run", "verdict", "rollouts", "s", "reason"], rows))
    show(document, json_path, f"canaries on the simulated arm, {scenario}")


def stop(
    json_path: Path | None = _JSON,
    base: Path | None = _BASE,
    trials: int = typer.Option(100, min=1, help="Violations of severity stop."),
    kills: int = typer.Option(10, min=0, help="Times that the monitor is killed with -9."),
    out: Path | None = _OUT,
) -> None:
    """How long the arm goes on after a violation, and after its monitor was killed, at 10 Hz of the wall clock."""
    from vlaforget_ros.nodes.start import require_ros

    require_ros()
    from vlaforget_ros.bench.stop import measure

    with bar("trials", parts=True) as update:
        document = measure(
            base or models_directory() / "tiny",
            _folder(out, "stop"),
            trials,
            kills,
            lambda what, done, total: update(done, total, what),
            _quiet,
        )
    show(document, json_path, "stops through the monitor in the command path")


def _folder(out: Path | None, name: str) -> Path:
    folder = out or Path("runs/bench") / f"{name}-{datetime.now():%Y%m%dT%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _quiet(line: str) -> None:
    if "ended" in line:
        errors.print(line, highlight=False)
