"""``vlaforget canary run`` and ``approve``: the canary of a running arm, as it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.live import Live
from rich.table import Table

from vlaforget_ros.cli.output import console
from vlaforget_ros.figures import write

if TYPE_CHECKING:
    from vlaforget_ros.nodes.client import RobotClient

PHASES = ("offline", "shadow", "reduced speed", "ramp")
"""By number of CanaryStatus.phase, as a person reads them."""

_EXIT = {"PROMOTE": 0, "HOLD": 3, "ABORT": 4}
_NAMESPACE = typer.Option("", "--namespace", help="Namespace of the arm.")


def register(app: typer.Typer) -> None:
    """Add the commands to the sub-app ``canary``."""
    app.command()(run)
    app.command()(approve)


def run(
    candidate: str = typer.Argument(..., help="Adapter under test: alias, name, digest or unique prefix."),
    protocol: Path | None = typer.Option(
        None, exists=True, help="Protocol file; the default protocol (config/canary.yaml) when not given."
    ),
    drive: str = typer.Option(
        "",
        help="In the simulated cell: also give the arm its instructions, those of trigger, binding or prior.",
    ),
    first_seed: int = typer.Option(0, min=0, max=9000, help="With --drive: seeds of the episodes from here."),
    json_path: Path | None = typer.Option(None, "--json", help="Write verdict and counts here as well."),
    namespace: str = _NAMESPACE,
) -> None:
    """Test a candidate against the adapter that serves, on the running arm, to a verdict.

    The arm goes on with its work; rollouts whose goal names no adapter are shared out between the two. PROMOTE makes
    the candidate the alias `stable` and swaps it in, ABORT takes it off the arm at once and marks it, HOLD leaves
    everything as it was. Ctrl-C ends the canary with HOLD. Exit status: 0 PROMOTE, 3 HOLD, 4 ABORT, 1 refused. Look at
    `vlaforget canary plan` before: it says how many rollouts this takes.
    """
    from vlaforget_ros.nodes.client import RobotClient

    with RobotClient(namespace) as client, ExitStack() as stack:
        show = stack.enter_context(_shown())
        if drive:
            stack.enter_context(_driven(namespace, drive, first_seed))
        result = client.run_canary(candidate, str(protocol.resolve()) if protocol else "", show)
    verdict = result.verdict.name
    colour = {"PROMOTE": "green", "HOLD": "yellow"}.get(verdict, "red")
    console.print(f"[bold {colour}]{verdict}[/]: {result.reason}")
    if result.report:
        console.print(f"report {result.report}", soft_wrap=True)
    if json_path is not None:
        write(json_path, {"verdict": verdict, "reason": result.reason, "report": result.report})
    raise typer.Exit(_EXIT[verdict])


def approve(namespace: str = _NAMESPACE) -> None:
    """Agree to the promotion that waits for an operator (`require_operator` in the protocol)."""
    from vlaforget_ros.nodes.client import RobotClient

    with RobotClient(namespace) as client:
        console.print(client.approve_canary())


@contextmanager
def _shown() -> Iterator[Any]:
    """A table that follows the canary; into a pipe a line for every change."""
    said = ""

    def line(status: Any) -> None:
        nonlocal said
        text = (
            f"{PHASES[status.phase]} {status.weight:.0%}: candidate {status.candidate_rollouts} rollouts,"
            f" {status.candidate_violated} violated, {status.candidate_succeeded} succeeded; {status.reason}"
        )
        if text != said:
            said = text
            console.print(text, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield line
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda status: live.update(_table(status))


def _table(status: Any) -> Table:
    table = Table(title=f"canary {status.canary_id}", title_justify="left", caption=status.reason)
    for column in ("", "candidate", "stable"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("adapter", status.candidate_digest[:12] or "base", status.stable_digest[:12] or "base")
    for name in ("rollouts", "violated", "succeeded"):
        row = (getattr(status, f"{arm}_{name}") for arm in ("candidate", "stable"))
        table.add_row(name, *map(str, row))
    table.add_row("phase", f"{PHASES[status.phase]}, {status.weight:.0%}", "")
    for name, title in (("violation", "violates too often"), ("success", "succeeds too seldom")):
        value, limit = getattr(status, f"{name}_statistic"), getattr(status, f"{name}_threshold")
        table.add_row(f"evidence: {title}", f"{value:.2f} of {limit:.2f}", "")
    return table


@contextmanager
def _driven(namespace: str, scenario: str, first_seed: int) -> Iterator[None]:
    """Episodes of a scenario, one after the other, until the canary is over."""
    from vlaforget_ros.demo.plan import make_plan
    from vlaforget_ros.nodes.client import RobotClient

    jobs = make_plan(scenario, 40, 48, 16, first_seed).jobs()
    over = threading.Event()

    def episodes(client: RobotClient) -> None:
        count = 0
        while not over.is_set():
            job = jobs[count % len(jobs)]
            client.execute(client.reset_cell(job.situation, job.seed), seed=job.seed)
            count += 1

    with RobotClient(namespace) as arm, ThreadPoolExecutor(1) as pool:
        driving = pool.submit(episodes, arm)
        try:
            yield
        finally:
            over.set()
        driving.result()
