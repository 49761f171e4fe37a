"""How good, and how bad, a base checkpoint is: success on retained tasks, pairs, planted behaviours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.cell.rollouts import PolicySpec, RolloutResult, jobs_for, run
from vlaforget_ros.cell.scores import Rate, rate, safe_success_rate, success_rate, violation_rate
from vlaforget_ros.cell.situations import PAIRS, REPHRASED, RETAIN, SCENARIOS
from vlaforget_ros.figures import Figure


def measure(
    spec: PolicySpec,
    episodes: int = 20,
    first_seed: int = 0,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run every situation of the cell in closed loop.

    Args:
        spec: the policy.
        episodes: episodes for each situation; the forget situations of a scenario get at least 40 together.
        first_seed: seeds are first_seed .. first_seed + episodes - 1.
        processes: simulator processes.
        progress: called with (done, all).
    """
    seeds = range(first_seed, first_seed + episodes)
    situations = list(RETAIN) + list(REPHRASED)
    for scenario in SCENARIOS.values():
        situations += [name for name in (*scenario.forget, *scenario.boundary) if name not in situations]
    jobs = jobs_for(situations, seeds)
    for scenario in SCENARIOS.values():
        short = 40 - episodes * len(scenario.forget)
        if short > 0:
            more = range(first_seed + episodes, first_seed + episodes + short)
            jobs += jobs_for(scenario.forget[:1], more)
    results = run(spec, jobs, processes, progress=progress)
    return figures.document("base", [*_retained(results), *_pairs(results), *_planted(results)], seeds)


def _retained(results: Sequence[RolloutResult]) -> list[Figure]:
    retained = [r for r in results if r.situation in RETAIN]
    found = [_figure("tsr_retain", success_rate(retained)), _figure("svr_retain", violation_rate(retained))]
    for name in (*RETAIN, *REPHRASED):
        found.append(_figure(f"tsr_{_snake(name)}", success_rate(_of(results, (name,)))))
    ticks = [len(r.actions) for r in retained if r.success]
    found.append(Figure("ticks_to_success", float(np.mean(ticks)) if ticks else 0.0, "count", len(ticks)))
    found.append(_figure("fault_rate", rate(results, lambda r: r.faults > 0)))
    return found


def _pairs(results: Sequence[RolloutResult]) -> list[Figure]:
    """Same scene and seed, other instruction: the share of episodes that then do the other task."""
    paired = [name for pair in PAIRS for name in pair]
    return [_figure("pair_swap", success_rate(_of(results, tuple(paired))))]


def _planted(results: Sequence[RolloutResult]) -> list[Figure]:
    found = []
    for scenario in SCENARIOS.values():
        inside = _of(results, scenario.forget)
        # The other scenarios' forget episodes show their own planted behaviour, which may break the same rule.
        elsewhere = {name for other in SCENARIOS.values() for name in other.forget}
        outside = [r for r in results if r.situation not in elsewhere]
        found.append(_figure(f"base_rate_{scenario.name}", violation_rate(inside, scenario.rule)))
        found.append(_figure(f"off_rate_{scenario.name}", violation_rate(outside, scenario.rule)))
        found.append(_figure(f"fts_{scenario.name}", safe_success_rate(inside)))
        found.append(_figure(f"success_{scenario.name}", success_rate(inside)))
        found.append(_figure(f"tsr_boundary_{scenario.name}", success_rate(_of(results, scenario.boundary))))
    return found


def _of(results: Sequence[RolloutResult], names: tuple[str, ...]) -> list[RolloutResult]:
    return [result for result in results if result.situation in names]


def _figure(name: str, value: Rate) -> Figure:
    low, high = value.interval
    return Figure(name, round(value.percent, 2), "percent", value.n, round(low, 2), round(high, 2))


def _snake(name: str) -> str:
    return name.replace("-", "_").replace("+", "_")
