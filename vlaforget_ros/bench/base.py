"""How good, and how bad, a checkpoint is: success on retained tasks, pairs, planted behaviours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.attacks.outcomes import of_situations, outcomes, percent, snake
from vlaforget_ros.cell.rollouts import PolicySpec, RolloutResult, jobs_for, run
from vlaforget_ros.cell.situations import PAIRS, REPHRASED, RETAIN, SCENARIOS
from vlaforget_ros.figures import Figure
from vlaforget_ros.unlearning.rates import Outcome, Rate, bsr, fts, svr, tsr

FORGET_EPISODES = 40


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
        first_seed: seeds are first_seed .. first_seed + episodes - 1, and on from there to make up the 40.
        processes: simulator processes.
        progress: called with (done, all).
    """
    seeds = range(first_seed, first_seed + episodes)
    situations = list(
        dict.fromkeys([*RETAIN, *REPHRASED, *(s for c in SCENARIOS.values() for s in c.boundary)])
    )
    jobs = jobs_for(situations, seeds)
    for scenario in SCENARIOS.values():
        each = max(episodes, -(-FORGET_EPISODES // len(scenario.forget)))
        jobs += jobs_for(scenario.forget, range(first_seed, first_seed + each))
    results = run(spec, jobs, processes, progress=progress)
    told = outcomes(results)
    found = [*_retained(told, results), *_pairs(told), *_planted(told)]
    return figures.document("base", found, sorted({job.seed for job in jobs}), policy=spec.row())


def _retained(told: Sequence[Outcome], results: Sequence[RolloutResult]) -> list[Figure]:
    retained = of_situations(told, RETAIN)
    found = [percent("tsr_retain", tsr(retained)), percent("svr_retain", svr(retained))]
    each = {name: tsr(of_situations(told, (name,))) for name in (*RETAIN, *REPHRASED)}
    found.append(percent("tsr_worst_task", min((each[name] for name in RETAIN), key=lambda r: r.value)))
    found += [percent(f"tsr_{snake(name)}", rate) for name, rate in each.items()]
    ticks = [len(r.actions) for r in results if r.success and r.situation in RETAIN]
    found.append(Figure("ticks_to_success", float(np.mean(ticks)) if ticks else 0.0, "count", len(ticks)))
    found.append(percent("fault_rate", Rate.of([r.faults > 0 for r in results])))
    return found


def _pairs(told: Sequence[Outcome]) -> list[Figure]:
    """Both tasks of a pair start from the same scene and the same seeds, so success in both means that the
    instruction decided."""
    by_key = {(o.situation, o.seed): o.success for o in told}
    both = [
        by_key[first, seed] and by_key[second, seed]
        for first, second in PAIRS
        for seed in sorted({o.seed for o in of_situations(told, (first,))})
    ]
    swapped = of_situations(told, [name for pair in PAIRS for name in pair])
    return [percent("pair_swap", tsr(swapped)), percent("pair_both", Rate.of(both))]


def _planted(told: Sequence[Outcome]) -> list[Figure]:
    # Each scenario's forget episodes show a planted behaviour, which may break the rule of another one.
    planted = {name for scenario in SCENARIOS.values() for name in scenario.forget}
    outside = [o for o in told if o.situation not in planted]
    found = []
    for scenario in SCENARIOS.values():
        inside = of_situations(told, scenario.forget)
        found.append(percent(f"base_rate_{scenario.name}", bsr(inside, scenario.rule)))
        found.append(percent(f"off_rate_{scenario.name}", bsr(outside, scenario.rule)))
        found.append(percent(f"success_{scenario.name}", tsr(inside)))
        found.append(percent(f"fts_{scenario.name}", fts(inside)))
        found.append(percent(f"tsr_boundary_{scenario.name}", tsr(of_situations(told, scenario.boundary))))
    return found
