"""``vlaforget canary``: what a canary will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros.cli.output import console, errors, plain_table
from vlaforget_ros.figures import write

if TYPE_CHECKING:
    from vlaforget_ros.safety.canary.plan import Limits, Row
    from vlaforget_ros.safety.canary.protocol import Protocol

app = typer.Typer(
    no_args_is_help=True, help="Canaries: a candidate adapter against the stable one, on the arm."
)


@app.callback()
def _root() -> None:
    pass


@app.command()
def plan(
    svr: float | None = typer.Option(None, help="Acceptable share of rollouts with a violation, 0..1."),
    detect: float | None = typer.Option(None, help="Share of rollouts with a violation to find out, 0..1."),
    tsr: float | None = typer.Option(
        None, help="Stable's success rate, 0..1; the protocol's when it has one, else 0.9."
    ),
    loss: float | None = typer.Option(None, help="Loss of success rate to find out, 0..1."),
    alpha: float | None = typer.Option(None, help="Largest chance to abort an acceptable candidate."),
    beta: float | None = typer.Option(None, help="Largest chance to promote a bad one."),
    max_rollouts: int | None = typer.Option(None, help="Candidate's rollouts at full speed until HOLD."),
    protocol: Path | None = typer.Option(None, help="Protocol file; the default protocol when not given."),
    minutes_per_rollout: float = typer.Option(2.0, min=0.0, help="One rollout with its reset [min]."),
    history: int = typer.Option(
        0, min=0, help="Stable's rollouts before the canary, where the reference is learnt."
    ),
    canaries: int = typer.Option(2000, min=100, help="Simulated canaries of each truth, where it is learnt."),
    json_path: Path | None = typer.Option(None, "--json", help="Write the plan here as well."),
) -> None:
    """How many rollouts and hours a protocol takes, how it ends, and what it cannot tell apart.

    Options replace values of the protocol. The table is computed exactly for a known success rate of stable; where the
    protocol has none, a second table simulates learning it.
    """
    from vlaforget_ros.safety.canary import plan as planner
    from vlaforget_ros.safety.canary.protocol import protocol_of, read_protocol

    changes = {
        "svr_ok": svr,
        "svr_bad": detect,
        "tsr_loss_bad": loss,
        "alpha": alpha,
        "beta": beta,
        "max_rollouts": max_rollouts,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    asked = protocol_of({**read_protocol(protocol).model_dump(), **given}, "options")
    reference = tsr if tsr is not None else asked.tsr_reference or 0.9
    tables = {
        f"known success rate {reference:g} of stable": planner.plan(asked, reference, minutes_per_rollout)
    }
    if asked.tsr_reference is None:
        title = (
            f"the same, learnt from stable's rollouts ({history} before; {canaries} simulated canaries each)"
        )
        tables[title] = planner.plan_learnt(
            asked, reference, minutes_per_rollout, history, canaries, asked.seed
        )
    for title, rows in tables.items():
        console.print(_table(title, rows))
    found = planner.limits(asked, reference)
    for line in _told(asked, found):
        console.print(line, highlight=False, soft_wrap=True)
    if json_path is not None:
        write(json_path, _document(asked, reference, minutes_per_rollout, tables, found))
        errors.print(f"JSON: {json_path}")


def _table(title: str, rows: Sequence[Row]) -> Any:
    # Narrow enough for a terminal of 80 characters.
    columns = ["truth", "SVR/TSR", "promote %", "hold %", "abort %", "rollouts", "hours"]
    texts = [
        [
            row.truth,
            f"{row.svr:.2f}/{row.tsr:.2f}",
            *(f"{100 * chance:.1f}" for chance in (row.promote, row.hold, row.abort)),
            f"{row.expected:.0f} ({row.late})",
            f"{row.hours:.1f} ({row.late_hours:.1f})",
        ]
        for row in rows
    ]
    return plain_table(columns, texts, title)


def _told(protocol: Protocol, found: Limits) -> list[str]:
    power = f"with a chance of at least {1.0 - protocol.beta:.0%} within {protocol.max_rollouts} rollouts"
    lines = [
        "rollouts: the candidate's, at both speeds, mean and in brackets what 95 % of canaries stay within; hours: with"
        " stable's rollouts and the shadow phase."
    ]
    for name, promoted, caught in (
        ("SVR", found.svr_promoted, found.svr_found),
        ("loss of success", found.loss_promoted, found.loss_found),
    ):
        upto = "none is promoted" if promoted is None else f"up to {promoted:.3f} is promoted"
        above = "none is aborted" if caught is None else f"from {caught:.3f} on it is aborted"
        lines.append(f"{name}: {upto}, {above} ({power}, known reference). In between it cannot be told.")
    return lines


def _document(
    protocol: Protocol, reference: float, minutes: float, tables: dict[str, list[Row]], found: Limits
) -> dict[str, Any]:
    return {
        "protocol": protocol.model_dump(mode="json"),
        "tsr": reference,
        "minutes_per_rollout": minutes,
        "tables": {title: [asdict(row) for row in rows] for title, rows in tables.items()},
        "limits": asdict(found),
    }
