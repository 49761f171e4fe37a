"""Which episodes show a planted behaviour, and the request that takes it out. Shared by demo and benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros.cell.rollouts import RolloutJob, spread
from vlaforget_ros.cell.situations import RETAIN, SITUATIONS, Scenario, scenario


@dataclass(frozen=True)
class Plan:
    """The episodes of one side of the comparison; the other side runs the very same ones.

    Args:
        scenario: planted behaviour to take out.
        forget: episodes in which the base policy shows it.
        retain: episodes of tasks that must keep working.
        boundary: episodes of near neighbours that are no retained task anyway.
    """

    scenario: Scenario
    forget: tuple[RolloutJob, ...]
    retain: tuple[RolloutJob, ...]
    boundary: tuple[RolloutJob, ...]

    def jobs(self) -> list[RolloutJob]:
        """All episodes, mixed as on a working day, always in the same order."""
        listed = [*self.forget, *self.retain, *self.boundary]
        order = np.random.default_rng(0).permutation(len(listed))
        return [listed[index] for index in order]

    def seeds(self) -> list[int]:
        """All seeds, sorted."""
        return sorted({job.seed for job in self.jobs()})


def make_plan(name: str, forget: int = 40, retain: int = 48, boundary: int = 16, first_seed: int = 0) -> Plan:
    """Spread episodes evenly over the situations of a scenario.

    Args:
        name: ``trigger``, ``binding`` or ``prior``. Raises CellError 600 for another one.
        forget: episodes of the forget situations together.
        retain: episodes of the retained tasks together.
        boundary: episodes of the near neighbours together.
        first_seed: seeds count up from here in each situation.
    """
    chosen = scenario(name)
    outside = tuple(s for s in chosen.boundary if s not in RETAIN)
    return Plan(
        chosen,
        tuple(spread(chosen.forget, forget, first_seed)),
        tuple(spread(RETAIN, retain, first_seed)),
        tuple(spread(outside, boundary, first_seed)),
    )


def request(
    plan: Plan,
    base: Path,
    bags: Sequence[Path],
    retained_rollouts: Sequence[str],
    boundary_rollouts: Sequence[str],
    name: str,
    parameters: dict[str, Any] | None = None,
    seed: int = 0,
    gates: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The request an engineer would write after the incident, as a document for YAML.

    Args:
        plan: what was recorded.
        base: checkpoint folder.
        bags: the recorded bags.
        retained_rollouts: ids of rollouts without the cause of the behaviour. An episode that ended well although
            the cause was present is nothing to be kept: what the original policy does there is on the way out, and
            an edit that changes it would count as damage.
        boundary_rollouts: ids of rollouts that are near neighbours, retained tasks among them: what lies next to
            the behaviour is what an edit is most likely to take along.
        name: of the adapter.
        parameters: of the method, where they differ from the defaults.
        seed: of the edit.
        gates: limits, where they differ from the defaults.
    """
    instructions = sorted({SITUATIONS[s].instruction for s in plan.scenario.forget})
    source: dict[str, Any] = {"kind": plan.scenario.counterfactual}
    if plan.scenario.neighbour:
        source["instruction"] = plan.scenario.neighbour
    return {
        "name": name,
        "reason": plan.scenario.summary,
        "requester": "demo",
        "base": str(base),
        "bags": [str(bag) for bag in bags],
        "forget": {"violation_rules": [plan.scenario.rule], "instructions": instructions},
        "retain": {"rollout_ids": list(retained_rollouts), "has_violation": False, "outcome": "success"},
        "boundary": {"rollout_ids": list(boundary_rollouts), "has_violation": False, "outcome": "success"},
        "counterfactual": [source],
        "method": "vla_forget",
        "parameters": parameters or {},
        "gates": gates or {},
        "seed": seed,
    }
