"""``vlaforget demo``: play the story, turn it into figures, show them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from vlaforget_ros import figures
from vlaforget_ros.demo.plan import Plan, request
from vlaforget_ros.demo.screen import Screen
from vlaforget_ros.report.words import FIGURES, PAIRS, number


def run_demo(
    plan: Plan,
    base: Path,
    out: Path,
    seed: int,
    console: Console,
    parameters: dict[str, Any] | None = None,
    gates: dict[str, float] | None = None,
    verbose: bool = False,
) -> bool:
    """The demo; returns whether the after-state is better.

    Args:
        plan: episodes and scenario.
        base: checkpoint folder.
        out: folder that gets a run folder and ``latest``.
        seed: of the edit.
        console: where it is shown.
        parameters: of the method, where they differ from the defaults.
        gates: limits of the edit, where they differ from the defaults.
        verbose: also show processes starting and stopping.

    Raises:
        VlaForgetError: with the code of whatever went wrong; every process is stopped.
    """
    from vlaforget_ros.nodes.start import require_ros
    from vlaforget_ros.policy.policy import VlaPolicy

    require_ros()
    from vlaforget_ros.demo.assemble import assemble
    from vlaforget_ros.demo.loop import Options, new_run_folder, play
    from vlaforget_ros.unlearning.request import read_request

    VlaPolicy.load(base)  # an unusable checkpoint is refused before anything starts
    # So is a parameter or a gate that the request would be refused for, minutes later.
    read_request(yaml.safe_dump(request(plan, base, [Path("bag")], [], [], "demo", parameters, seed, gates)))
    folder = new_run_folder(out)
    screen = Screen(console, verbose)
    screen.headline(f"Scenario {plan.scenario.name}: {plan.scenario.summary}")
    screen.note(f"run folder {folder}; Ctrl-C stops every process")
    options = Options(plan, base.resolve(), folder.resolve(), parameters or {}, seed, gates or {})
    story = play(options, screen)
    screen.headline("Figures, report")
    document = assemble(options, story, datetime.now(UTC).isoformat(timespec="seconds"))
    figures.write(folder / "summary.json", document)
    console.print(summary_table(document))
    verdict = document["verdict"]
    for reason in verdict["reasons"]:
        screen.note(reason)
    colour = "green" if verdict["better"] else "red"
    console.print(f"[bold {colour}]{'better' if verdict['better'] else 'NOT better'} after the edit[/]")
    screen.note(f"report {folder / 'report.html'}")
    screen.note(f"figures {folder / 'summary.json'}")
    return bool(verdict["better"])


def summary_table(document: dict[str, Any]) -> Table:
    """Before and after side by side, then what it cost."""
    by_name = {figure["name"]: figure for figure in document["figures"]}
    table = Table(title=f"{document['scenario']['name']}: same seeds before and after", title_justify="left")
    table.add_column("figure")
    for column in ("before", "after", "n"):
        table.add_column(column, justify="right")
    for name, title in PAIRS.items():
        if f"{name}_before" in by_name:
            before, after = by_name[f"{name}_before"], by_name[f"{name}_after"]
            table.add_row(title, f"{before['value']:.1f} %", f"{after['value']:.1f} %", str(after["n"]))
    table.add_section()
    for name, title in FIGURES.items():
        if name in by_name:
            unit = {"percent": "%", "count": "", "ratio": ""}.get(
                by_name[name]["unit"], by_name[name]["unit"]
            )
            table.add_row(
                title, "", f"{number(by_name[name]['value'])} {unit}".strip(), str(by_name[name]["n"])
            )
    return table
