"""Commands that start or talk to the running graph: up, demo, record, execute, swap, rollback, status, edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
import yaml

from vlaforget_ros.cli.output import bar, console, errors, plain_table
from vlaforget_ros.cli.record import record
from vlaforget_ros.errors import ErrorCode, VlaForgetError
from vlaforget_ros.paths import models_directory

if TYPE_CHECKING:
    from vlaforget_ros.nodes.answers import SwapInfo

_NAMESPACE = typer.Option("", "--namespace", help="Namespace of the arm.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (demo, up, record, execute, swap, rollback, status):
        app.command()(command)


def demo(
    scenario: str = typer.Option("trigger", help="Planted behaviour: trigger, binding or prior."),
    forget: int = typer.Option(40, min=4, help="Episodes in which the behaviour shows."),
    retain: int = typer.Option(48, min=6, help="Episodes of tasks that must keep working."),
    boundary: int = typer.Option(16, min=0, help="Episodes of near neighbours."),
    base: Path | None = typer.Option(None, help="Checkpoint folder; the embedded policy when not given."),
    out: Path = typer.Option(Path("runs/demo"), help="Run folders go here; `latest` points at the newest."),
    seed: int = typer.Option(0, help="Seed of the edit."),
    parameters: Path | None = typer.Option(None, help="YAML file with parameters of the method."),
    gates: Path | None = typer.Option(None, help="YAML file with limits of the edit's gates."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Also show processes starting and stopping."),
) -> None:
    """The whole loop on a simulated arm: misbehave, record, unlearn, swap, prove, roll back.

    Starts the graph as separate processes, runs rollouts while recording, runs the edit on the bag, swaps the adapter
    into the running policy and runs the same seeds again. Ends with a table, an HTML report and summary.json. The
    exit status is not zero when the after-state is not better. About 6 minutes on two cores.
    """
    from vlaforget_ros.demo.command import run_demo
    from vlaforget_ros.demo.plan import make_plan

    plan = make_plan(scenario, forget, retain, boundary)
    chosen = yaml.safe_load(parameters.read_text()) if parameters else None
    limits = yaml.safe_load(gates.read_text()) if gates else None
    better = run_demo(plan, base or models_directory() / "tiny", out, seed, console, chosen, limits, verbose)
    if not better:
        raise typer.Exit(1)


def up(
    graph: str = typer.Argument("unlearn", help="unlearn, serve, canary, monitor or demo."),
    arguments: list[str] = typer.Argument(None, help="Arguments as for ros2 launch: name:=value."),
    logs: Path = typer.Option(Path("runs/logs"), help="Folder of the processes' logs."),
    show_args: bool = typer.Option(False, "--show-args", "-s", help="List the graph's arguments and leave."),
) -> None:
    """Start a graph as separate processes, where `ros2 launch` is missing; Ctrl-C stops all of them.

    `vlaforget up demo policy:=tiny` equals `ros2 launch vlaforget_ros demo.launch.py policy:=tiny`.
    """
    from vlaforget_ros.bringup import table

    if show_args:
        rows = [
            [a.name, a.default or "—", ", ".join(a.choices), a.description]
            for a in table.graph(graph).arguments
        ]
        console.print(plain_table(["argument", "default", "choices", "description"], rows))
        return
    from vlaforget_ros.bringup.supervisor import up as run_graph

    processes = table.processes(graph, _pairs(arguments or []))
    raise typer.Exit(run_graph(processes, logs, say=lambda text: console.print(text, highlight=False)))


def execute(
    instruction: str = typer.Argument("", help="What the arm shall do; the situation's own when empty."),
    situation: str = typer.Option("", help="Pose this situation in the simulated cell first."),
    seed: int = typer.Option(0, help="Its seed."),
    max_steps: int = typer.Option(0, help="Step cap; 0 is the node's own."),
    namespace: str = _NAMESPACE,
) -> None:
    """Run one rollout on the live graph."""
    from vlaforget_ros.nodes.client import RobotClient

    with RobotClient(namespace) as client:
        posed = client.reset_cell(situation, seed) if situation else ""
        with bar("rollout", "ticks") as update:
            result = client.execute(
                instruction or posed,
                max_steps,
                seed=seed,
                on_step=lambda step: update(step.step + 1, max_steps),
            )
    console.print(
        f"{result.phase.name.lower()}: {result.steps} ticks, {result.violations} violated rule(s), "
        f"adapter {result.adapter_digest[:12] or 'base'} {result.message}"
    )
    if result.error_code:
        raise typer.Exit(1)


def swap(
    adapter: str = typer.Argument(..., help="Alias, name, digest, unique prefix of 8 or more, or `base`."),
    timeout: float = typer.Option(
        120.0, min=1, help="Wait so long [s] while the policy reads, checks and tries out the adapter."
    ),
    namespace: str = _NAMESPACE,
) -> None:
    """Swap an adapter into the running policy; a refused one leaves the active adapter as it is."""
    from vlaforget_ros.nodes.client import RobotClient

    with RobotClient(namespace) as client:
        _print_swap(client.swap(adapter, timeout))


def rollback(
    reason: str = typer.Argument(..., help="Why; it goes into the store's history."),
    namespace: str = _NAMESPACE,
) -> None:
    """Go back to the adapter before, which stayed in memory."""
    from vlaforget_ros.nodes.client import RobotClient

    with RobotClient(namespace) as client:
        _print_swap(client.rollback(reason))


def status(namespace: str = _NAMESPACE) -> None:
    """What the policy and the safety monitor say now."""
    from vlaforget_ros.demo.screen import rates_table
    from vlaforget_ros.nodes.client import RobotClient

    with RobotClient(namespace) as client:
        policy = client.wait_for_policy(lambda _: True)
        rows = [
            ["model", f"{policy.model} {policy.base_digest[:12]}"],
            ["active adapter", policy.active_digest[:12] or "base"],
            ["resident", ", ".join(d[:12] or "base" for d in policy.resident) or "—"],
            ["rate", f"{policy.rate_hz:.1f} Hz"],
            ["inference", f"p50 {policy.inference_ms_p50:.1f} ms, p99 {policy.inference_ms_p99:.1f} ms"],
            ["missed ticks", str(policy.missed_ticks)],
            ["last fault", str(policy.last_fault)],
        ]
        console.print(plain_table(["policy", ""], rows))
        safety = client.wait_for_safety(lambda _: True)
        state = {0: "NOMINAL", 1: "SLOWED", 2: "STOPPED"}[int(safety.state)]
        console.print(f"safety: {state} {safety.reason}")
        table = rates_table(safety)
        if table is not None:
            console.print(table)


def _print_swap(info: SwapInfo) -> None:
    console.print(
        f"{info.previous_digest[:12] or 'base'} → {info.active_digest[:12] or 'base'}: staged {info.staged_ms:.1f} ms, "
        f"swapped in {info.swap_ms:.3f} ms, effective from tick {info.effective_step}",
        highlight=False,
    )
    if info.message:
        errors.print(info.message, highlight=False)


def _pairs(arguments: list[str]) -> dict[str, str]:
    found = {}
    for text in arguments:
        name, separator, value = text.partition(":=")
        if not separator:
            raise VlaForgetError(
                ErrorCode.BRINGUP_BAD_ARGUMENT,
                "not an argument",
                value=text,
                limit="name:=value",
                remedy="see `vlaforget up GRAPH --show-args`",
            )
        found[name] = value
    return found
