"""``vlaforget monitor``: the safety monitor over recorded bags, and what a live one has counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlaforget_ros.cli.output import Update, bar, console, errors, plain_table

if TYPE_CHECKING:
    from vlaforget_ros.safety.replay import Replay

app = typer.Typer(no_args_is_help=True, help="The safety monitor, without an arm.")


@app.callback()
def _root() -> None:
    pass


@app.command()
def replay(
    bags: list[Path] = typer.Argument(..., help="Bags (folder, .mcap or .db3), played one after the other."),
    rules: Path | None = typer.Option(None, help="Rules (YAML); those of the embedded cell when not given."),
    out: Path | None = typer.Option(None, help="New bag with the violations, topic safety/violation."),
    json_path: Path | None = typer.Option(None, "--json", help="Write events, table and rates here as well."),
    namespace: str | None = typer.Option(None, help="Namespace of the robot, where a bag has several."),
    recorded: bool = typer.Option(
        True, help="Hear recorded violations as the live monitor did; --no-recorded judges anew."
    ),
) -> None:
    """What the safety monitor says of recorded bags: the same code, the same events as live.

    Rules that lack their input are listed as not judged. Nothing is published, and no ROS is needed.
    """
    from vlaforget_ros.safety import violation_bag
    from vlaforget_ros.safety.config import default_config, load_config
    from vlaforget_ros.safety.replay import Replayer

    config = load_config(rules) if rules is not None else default_config()
    player = Replayer(config, namespace, recorded)
    with bar("replay", "messages", parts=True) as update:
        for bag in bags:
            player.play(bag, _named(update, bag.name))
    result = player.result()
    _show(result)
    if out is not None:
        violation_bag.write(out, result.found, config.frame)
        errors.print(f"bag: {out}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result.document(), indent=2) + "\n", encoding="utf-8")
        errors.print(f"JSON: {json_path}")


@app.command()
def rates(
    state_file: Path = typer.Argument(..., help="File of the monitor's parameter state_file."),
    last: int = typer.Option(
        0, min=0, max=4096, help="Only the newest so many rollouts of each adapter; 0: all."
    ),
    level: float = typer.Option(0.95, min=0.5, max=0.9999, help="Confidence level of the intervals."),
    json_path: Path | None = typer.Option(None, "--json", help="Write the rates here as well."),
) -> None:
    """What a monitor has counted so far: rates of each adapter, by rule and by severity, with exact intervals.

    The intervals hold for a table that is read once. To decide after each rollout use the always-valid ones of
    `vlaforget watch`, or a canary. The monitor may be running: its file is always whole. Example:

        vlaforget monitor rates /var/lib/vlaforget/rates.json --last 100
    """
    from vlaforget_ros.safety.kept_file import read
    from vlaforget_ros.safety.ratebook import RateBook
    from vlaforget_ros.safety.replay import finite

    book = RateBook(level)
    book.restore(read(state_file))
    found = book.breakdown(last)
    rows = []
    for one in found:
        name = one.adapter_digest[:12] or "base"
        parts = {"SVR": one.svr, "TSR": one.tsr, "unsafe successes": one.sbu, **one.by_rule}
        parts |= {f"worst: {severity.lower()}": rate for severity, rate in one.by_severity.items()}
        for part, rate in parts.items():
            rows.append(
                [name, str(one.rollouts), part, f"{rate.estimate:.3f}", f"{rate.low:.3f}..{rate.high:.3f}"]
            )
    console.print(plain_table(["adapter", "rollouts", "rate", "value", f"{level:.0%} interval"], rows))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        document = {"last": last, "level": level, "adapters": finite([asdict(one) for one in found])}
        json_path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        errors.print(f"JSON: {json_path}")


def _named(update: Update, name: str) -> Callable[[int, int], None]:
    return lambda done, total: update(done, total, name)


def _show(result: Replay) -> None:
    rows = []
    for row in result.rules:
        first = "" if row.first_s is None else f"{row.first_s:.3f}"
        rollouts = ", ".join(row.rollouts[:3]) + (
            f" and {more} more" if (more := len(row.rollouts) - 3) > 0 else ""
        )
        count = f"not judged: {row.not_judged}" if row.not_judged and not row.count else str(row.count)
        rows.append([row.rule, count, first, rollouts])
    console.print(plain_table(["rule", "violations", "first at [s]", "rollouts"], rows))
    for one in result.breakdown:
        name = one.adapter_digest[:12] or "base"
        if one.rollouts:
            console.print(
                f"{name}: {one.rollouts} rollouts, SVR {one.svr.estimate:.3f}"
                f" ({one.svr.low:.3f}..{one.svr.high:.3f}), TSR {one.tsr.estimate:.3f}"
                f" ({one.tsr.low:.3f}..{one.tsr.high:.3f})",
                highlight=False,
                soft_wrap=True,
            )
    for problem in result.problems:
        errors.print(f"{problem.source}: {problem.message}", highlight=False)
