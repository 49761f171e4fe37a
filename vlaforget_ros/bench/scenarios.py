"""The three planted behaviours, each taken out of the base policy and measured on seeds the edit never saw."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.attacks.outcomes import of_situations, outcomes, percent
from vlaforget_ros.bench.closed_loop import Comparison
from vlaforget_ros.bench.requests import record_request
from vlaforget_ros.cell.rollouts import PolicySpec, RolloutJob, jobs_for, run
from vlaforget_ros.cell.situations import REPHRASED, RETAIN, SCENARIOS
from vlaforget_ros.demo.plan import Plan, make_plan
from vlaforget_ros.figures import Figure
from vlaforget_ros.unlearning.process import CHILD, EditProcess, Progress, edit_command
from vlaforget_ros.unlearning.rates import Outcome, bsr, fts, sbu, svr, tsr

# Recording seeds start here; evaluation seeds stay below.
RECORDING_SEED = 10_000

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is run.

    Args:
        base: checkpoint folder.
        never_saw: folder of the reference trained without the planted behaviours, or None.
        out: working folder, new.
        scenarios: names.
        forget: evaluation episodes of each scenario's forget situations together.
        retain: evaluation episodes of each retained task.
        processes: simulator processes.
        parameters: of the method, where they differ from the defaults.
        seed: of the edits.
        recorded: forget, retained and boundary episodes of the bag that an edit learns from.
        first_seed: evaluation seeds count up from here. Defaults were chosen by looking at those from 0.
    """

    base: Path
    never_saw: Path | None
    out: Path
    scenarios: Sequence[str] = tuple(SCENARIOS)
    forget: int = 80
    retain: int = 20
    processes: int = 2
    parameters: dict[str, Any] | None = None
    seed: int = 0
    recorded: tuple[int, int, int] = (40, 48, 16)
    first_seed: int = 0

    def seeds(self, count: int) -> range:
        """The first ``count`` evaluation seeds."""
        return range(self.first_seed, self.first_seed + count)


def measure(settings: Settings, report: Report) -> dict[str, Any]:
    """Edit and evaluate every scenario.

    Args:
        settings: what is run.
        report: called with (what, done, all).
    """
    retained = jobs_for([*RETAIN, *REPHRASED], settings.seeds(settings.retain))
    base_retained = _told(PolicySpec(settings.base), retained, settings, report, "base, retained tasks")
    found: list[Figure] = []
    details: dict[str, Any] = {}
    for name in settings.scenarios:
        plan = make_plan(name, *settings.recorded, first_seed=RECORDING_SEED)
        adapter, edit, seconds = _edit(plan, settings, report)
        found += _compare(plan, adapter, base_retained, settings, report)
        found.append(Figure(f"edit_seconds_{name}", round(seconds, 1), "s"))
        found.append(Figure(f"edit_peak_mb_{name}", edit["peak_mb"], "MB"))
        found.append(Figure(f"adapter_mb_{name}", round(edit["adapter_bytes"] / 1e6, 3), "MB"))
        details[name] = {
            key: edit[key]
            for key in ("layers", "gates", "gates_passed", "remarks", "request_sha256", "sources")
        }
    seeds = sorted({job.seed for job in retained} | set(settings.seeds(settings.forget)))
    return figures.document("scenarios", found, seeds, recording_seed=RECORDING_SEED, edits=details)


def _edit(plan: Plan, settings: Settings, report: Report) -> tuple[Path, dict[str, Any], float]:
    name = plan.scenario.name
    folder = settings.out / name
    record_request(
        plan,
        settings.base,
        folder,
        settings.processes,
        settings.parameters,
        settings.seed,
        lambda a, b: report(f"{name}: recording", a, b),
    )
    began = time.perf_counter()
    edit_child(folder, lambda a, b: report(f"{name}: edit", a, b))
    seconds = time.perf_counter() - began
    return folder / "edit" / "adapter", json.loads((folder / "edit" / "edit.json").read_text()), seconds


def edit_child(folder: Path, progress: Callable[[int, int], None]) -> None:
    """The edit of ``folder/request.yaml`` in a process of its own, as the unlearning node runs it. Raises its error."""
    command = edit_command(CHILD, folder / "request.yaml", folder / "edit", folder / "store", resume=False)
    for event in EditProcess(command, folder / "child.log").events():
        if isinstance(event, Progress):
            progress(event.step, event.total_steps)


def _compare(
    plan: Plan, adapter: Path, base_retained: Sequence[Outcome], settings: Settings, report: Report
) -> list[Figure]:
    name, rule = plan.scenario.name, plan.scenario.rule
    forget = list(make_plan(name, forget=settings.forget, first_seed=settings.first_seed).forget)
    retained = jobs_for([*RETAIN, *REPHRASED], settings.seeds(settings.retain))
    situations = sorted({job.situation for job in plan.boundary})
    # A near neighbour may be a rephrased task as well: it is run, and counted, once.
    near = [job for job in jobs_for(situations, settings.seeds(settings.retain)) if job not in retained]
    base, edited = PolicySpec(settings.base), PolicySpec(settings.base, adapter)
    before = [*base_retained, *_told(base, [*forget, *near], settings, report, f"{name}: base")]
    after = _told(edited, [*forget, *near, *retained], settings, report, f"{name}: edited")
    compared = Comparison(plan.scenario, before, after)
    inside = [compared.inside(told) for told in (before, after)]
    kept = [compared.kept(told) for told in (before, after)]
    # The rule may be broken elsewhere too: every episode in which the behaviour was not planted.
    elsewhere = [told for told in before if told.situation not in plan.scenario.forget]
    paired = compared.loss
    found = [
        percent(f"base_rate_{name}", bsr(inside[0], rule)),
        percent(f"off_rate_{name}", bsr(elsewhere, rule)),
        percent(f"svr_after_{name}", bsr(inside[1], rule)),
        percent(f"any_violation_after_{name}", svr(inside[1])),
        percent(f"fts_before_{name}", fts(inside[0])),
        percent(f"fts_after_{name}", fts(inside[1])),
        percent(f"sbu_after_{name}", sbu(inside[1])),
        percent(f"tsr_before_{name}", tsr(kept[0])),
        percent(f"tsr_after_{name}", tsr(kept[1])),
        Figure(f"tsr_loss_{name}", round(100 * paired.loss, 2), "percent", paired.pairs),
        Figure(f"tsr_loss_p_{name}", round(paired.p_value, 4), "ratio", paired.pairs),
        percent(f"svr_retain_after_{name}", svr(kept[1])),
        percent(f"tsr_rephrased_before_{name}", tsr(of_situations(base_retained, REPHRASED))),
        percent(f"tsr_rephrased_after_{name}", tsr(of_situations(after, REPHRASED))),
    ]
    if situations:
        found.append(percent(f"tsr_boundary_before_{name}", tsr(of_situations(before, situations))))
        found.append(percent(f"tsr_boundary_after_{name}", tsr(of_situations(after, situations))))
    if settings.never_saw is not None:
        reference = _told(PolicySpec(settings.never_saw), forget, settings, report, f"{name}: never-saw")
        found.append(percent(f"fts_never_saw_{name}", fts(reference)))
    return found


def _told(
    spec: PolicySpec, jobs: Sequence[RolloutJob], settings: Settings, report: Report, what: str
) -> list[Outcome]:
    return outcomes(run(spec, jobs, settings.processes, progress=lambda a, b: report(what, a, b)))
