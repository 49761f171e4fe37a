"""One cell of the comparison: one variant on one scenario with one seed, edited and measured in closed loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros import figures
from vlaforget_ros.bench.closed_loop import Episodes
from vlaforget_ros.bench.outcomes import outcomes
from vlaforget_ros.bench.recording import record
from vlaforget_ros.bench.unlearning.variants import REFERENCES, Variant
from vlaforget_ros.cell.rollouts import PolicySpec, run
from vlaforget_ros.demo.plan import Plan, make_plan, request
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.unlearning.process import CHILD, EditProcess, Progress, edit_command

RECORDING_SEED = 10_000
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is the same for all cells.

    Args:
        base: checkpoint folder.
        never_saw: folder of the reference that was trained without the planted behaviours.
        out: folder of bags, edits and cells; what is there already is not made again.
        episodes: that every policy is measured on.
        recorded: forget, retained and boundary episodes of the bag of a scenario.
        processes: simulator processes.
        budget_s: time budget of each edit [s].
    """

    base: Path
    never_saw: Path
    out: Path
    episodes: Episodes = field(default_factory=Episodes)
    recorded: tuple[int, int, int] = (40, 48, 16)
    processes: int = 2
    budget_s: float = 240.0

    def plan(self, scenario: str) -> Plan:
        """Episodes that are recorded for a scenario."""
        return make_plan(scenario, *self.recorded, first_seed=RECORDING_SEED)


def record_bag(settings: Settings, scenario: str, report: Report) -> Path:
    """The bag of a scenario, recorded with the base policy, and the request that goes with it; made once.

    Returns:
        the request file.
    """
    folder = settings.out / scenario
    document = folder / "request.yaml"
    if document.is_file():
        return document
    folder.mkdir(parents=True, exist_ok=True)
    plan = settings.plan(scenario)
    jobs, spec = plan.jobs(), PolicySpec(settings.base)
    results = run(spec, jobs, settings.processes, True, lambda a, b: report(f"{scenario}: recording", a, b))
    unfinished = folder / "bag"
    ids = record(unfinished, results, spec.row()["base_digest"])
    near = [i for i, job in zip(ids, jobs, strict=True) if job.situation in plan.scenario.boundary]
    values = request(plan, settings.base.resolve(), [unfinished.resolve()], near, scenario)
    document.write_text(yaml.safe_dump(values, sort_keys=False))
    return document


def run_cell(
    settings: Settings, variant: Variant, scenario: str, seed: int, report: Report
) -> dict[str, Any]:
    """A cell, from its file where it was made before."""
    name = f"{variant.name}-{scenario}-{seed}"
    path = settings.out / "cells" / f"{name}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    cell: dict[str, Any] = {"variant": variant.name, "scenario": scenario, "seed": seed}
    cell |= {"commit": figures.commit(), "error": None, "edit": None, "adapter": None}
    spec = PolicySpec(settings.never_saw if variant.name == "retrain" else settings.base)
    if variant.name not in REFERENCES:
        try:
            cell["edit"] = _edit(settings, variant, scenario, seed, name, report)
            adapter = settings.out / "edits" / name / "adapter"
            cell["adapter"] = str(adapter)
            spec = PolicySpec(settings.base, adapter)
        except UnlearningError as error:
            # No adapter: the policy stays as it was, and is measured as that.
            cell["error"] = str(error)
    told = outcomes(
        run(
            spec,
            settings.episodes.jobs(scenario),
            settings.processes,
            progress=lambda a, b: report(f"{name}: episodes", a, b),
        )
    )
    cell["outcomes"] = [asdict(outcome) for outcome in told]
    figures.write(path, cell)
    return cell


def _edit(
    settings: Settings, variant: Variant, scenario: str, seed: int, name: str, report: Report
) -> dict[str, Any]:
    values = yaml.safe_load(record_bag(settings, scenario, report).read_text())
    values |= {"name": name, "method": variant.method, "parameters": variant.parameters, "seed": seed}
    values["budget"] = {"seconds": settings.budget_s}
    if not variant.counterfactual:
        values["counterfactual"] = []
    folder = settings.out / "edits" / name
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "request.yaml"
    document.write_text(yaml.safe_dump(values, sort_keys=False))
    command = edit_command(CHILD, document, folder, settings.out / "store", resume=True)
    for event in EditProcess(command, folder / "child.log").events():
        if isinstance(event, Progress):
            report(f"{name}: edit", event.step, event.total_steps)
    record: dict[str, Any] = json.loads((folder / "edit.json").read_text())
    wanted = ("seconds", "peak_mb", "adapter_bytes", "gates_passed", "remarks", "layers", "components")
    kept = {key: record[key] for key in wanted}
    kept["rounds"] = [
        {k: r[k] for k in ("stage", "round", "kept", "reason", "steps")} for r in record["rounds"]
    ]
    return {**kept, "offline": record["after"]["metrics"]}
