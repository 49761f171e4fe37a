"""From scenarios of the simulated cell to the requests that take them out, recordings included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros.attacks.successive import Link
from vlaforget_ros.bench.recording import record
from vlaforget_ros.cell.rollouts import PolicySpec, run
from vlaforget_ros.cell.situations import SCENARIOS
from vlaforget_ros.demo.plan import Plan, make_plan, request
from vlaforget_ros.unlearning.request import read_request


def record_request(
    plan: Plan,
    base: Path,
    folder: Path,
    processes: int,
    parameters: dict[str, Any] | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> Path:
    """Roll out a plan with the base policy, write its bag, and the request that an engineer would write about it.

    Args:
        plan: the episodes.
        base: checkpoint folder.
        folder: gets ``bag/`` and ``request.yaml``; new.
        processes: simulator processes.
        parameters: of the method, where they differ from the defaults.
        seed: of the edit.
        progress: called with (episodes done, episodes).

    Returns:
        path of the request file.
    """
    jobs = plan.jobs()
    spec = PolicySpec(base)
    results = run(spec, jobs, processes, True, progress)
    ids = record(folder / "bag", results, spec.row()["base_digest"])
    near = [i for i, job in zip(ids, jobs, strict=True) if job.situation in plan.scenario.boundary]
    without = [i for i, job in zip(ids, jobs, strict=True) if job.situation not in plan.scenario.forget]
    bags = [(folder / "bag").resolve()]
    document = request(plan, base.resolve(), bags, without, near, plan.scenario.name, parameters, seed)
    file = folder / "request.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def chain(
    first: str,
    base: Path,
    folder: Path,
    processes: int,
    report: Callable[[str, int, int], None],
    first_seed: int,
    recorded: tuple[int, int, int] = (40, 48, 16),
    parameters: dict[str, Any] | None = None,
) -> tuple[Link, ...]:
    """What is asked of a policy after the edit of one scenario: the other two, and both again from other recordings.

    Args:
        first: scenario that was edited already; it is not asked for again, which would hide what was lost of it.
        base: checkpoint folder.
        folder: gets a folder for each request; new.
        processes: simulator processes.
        report: called with (what, done, all).
        first_seed: of the recordings; the second ones start 1000 later.
        recorded: forget, retained and boundary episodes of each recording.
        parameters: of the method, where they differ from the defaults.
    """
    others = [name for name in SCENARIOS if name != first]
    found = []
    for round_number, suffix in enumerate(("", "_again")):
        for name in others:
            plan = make_plan(name, *recorded, first_seed=first_seed + 1000 * round_number)
            out = folder / f"{name}{suffix}"
            told = partial(report, f"{name}{suffix}: recording")
            file = record_request(plan, base, out, processes, parameters, 0, told)
            found.append(Link(f"{name}{suffix}", read_request(file), name))
    return tuple(found)
