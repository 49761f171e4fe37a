"""An edited policy against its base on the same episodes of a scenario: figures, and the gates that need rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.attacks.outcomes import of_situations, outcomes, percent
from vlaforget_ros.bench.strips import strips_of
from vlaforget_ros.cell.rollouts import PolicySpec, RolloutJob, RolloutResult, jobs_for, run
from vlaforget_ros.cell.situations import RETAIN, Scenario, scenario
from vlaforget_ros.demo.plan import make_plan
from vlaforget_ros.figures import Figure
from vlaforget_ros.report.pictures import save_strips
from vlaforget_ros.unlearning.gates import GateResult, Gates, at_least, closed_loop_gates
from vlaforget_ros.unlearning.rates import (
    Outcome,
    Paired,
    Rate,
    bsr,
    forget_completeness,
    fts,
    paired_success,
    retain_completeness,
    sbu,
    svr,
    tsr,
)

# Forget situations in pictures: enough to see what changed.
SHOWN = 2
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """Rates of a policy after an edit, and of its base, on the same situations and seeds.

    Args:
        scenario: what was edited.
        before: episodes of the base.
        after: episodes of the edited policy.
        reference: forget episodes of the never-saw reference, none where there is no such checkpoint.
    """

    scenario: Scenario
    before: Sequence[Outcome]
    after: Sequence[Outcome]
    reference: Sequence[Outcome] = field(default=())

    def inside(self, told: Sequence[Outcome]) -> list[Outcome]:
        """Episodes of the forget situations."""
        return of_situations(told, self.scenario.forget)

    def kept(self, told: Sequence[Outcome]) -> list[Outcome]:
        """Episodes of retained tasks."""
        return of_situations(told, RETAIN)

    def near(self, told: Sequence[Outcome]) -> list[Outcome]:
        """Episodes of near neighbours that are no retained task."""
        return [o for o in of_situations(told, self.scenario.boundary) if o.situation not in RETAIN]

    def targeted(self, told: Sequence[Outcome]) -> Rate:
        """BSR: share of forget episodes in which the targeted rule is broken."""
        return bsr(self.inside(told), self.scenario.rule)

    @cached_property
    def fc(self) -> Rate | None:
        """Forget completeness, rollout form."""
        return forget_completeness(self.targeted(self.before), self.targeted(self.after))

    @cached_property
    def rc(self) -> Rate | None:
        """Retain completeness, rollout form."""
        return retain_completeness(tsr(self.kept(self.before)), tsr(self.kept(self.after)))

    @cached_property
    def loss(self) -> Paired:
        """Success lost on retained tasks, same situations and seeds."""
        return paired_success(self.kept(self.before), self.kept(self.after))

    def gates(self, gates: Gates) -> list[GateResult]:
        """Verdicts on rollouts; what was not measured says so."""
        kept = [self.kept(told) for told in (self.before, self.after)]
        found = {
            "tsr_loss": 100 * self.loss.loss,
            "svr_rise": 100 * (svr(kept[1]).value - svr(kept[0]).value),
            "sbu_rise": 100 * (sbu(kept[1]).value - sbu(kept[0]).value),
        }
        best = fts(self.inside(self.reference)).value
        if best > 0:
            found["fts_share"] = 100 * fts(self.inside(self.after)).value / best
        fc, rc = self.fc, self.rc
        share = None if fc is None else (100 * fc.low, 100 * fc.high)
        return [
            at_least("fc_min", _percent(fc), gates.fc_min, fc.n if fc else None, share or (None, None)),
            at_least("fc_low_min", share[0] if share else None, gates.fc_low_min, fc.n if fc else None),
            at_least(
                "rc_min",
                _percent(rc),
                gates.rc_min,
                rc.n if rc else None,
                (100 * rc.low, 100 * rc.high) if rc else (None, None),
            ),
            *closed_loop_gates(gates, found),
        ]

    def figures(self) -> list[Figure]:
        """All rates, with intervals and counts."""
        inside = [self.inside(told) for told in (self.before, self.after)]
        kept = [self.kept(told) for told in (self.before, self.after)]
        found = [
            *(percent(name, rate) for name, rate in (("fc", self.fc), ("rc", self.rc)) if rate is not None),
            percent("svr_before", self.targeted(self.before)),
            percent("svr_after", self.targeted(self.after)),
            percent("any_violation_after", svr(inside[1])),
            percent("fts_before", fts(inside[0])),
            percent("fts_after", fts(inside[1])),
            percent("sbu_before", sbu(inside[0])),
            percent("sbu_after", sbu(inside[1])),
            percent("tsr_before", tsr(kept[0])),
            percent("tsr_after", tsr(kept[1])),
            Figure("tsr_loss", round(100 * self.loss.loss, 2), "percent", self.loss.pairs),
            Figure("tsr_loss_p", round(self.loss.p_value, 4), "ratio", self.loss.pairs),
            percent("svr_retain_before", svr(kept[0])),
            percent("svr_retain_after", svr(kept[1])),
        ]
        if self.near(self.after):
            found.append(percent("tsr_near_before", tsr(self.near(self.before))))
            found.append(percent("tsr_near_after", tsr(self.near(self.after))))
        if self.reference:
            found.append(percent("fts_never_saw", fts(self.inside(self.reference))))
        return found


def _percent(rate: Rate | None) -> float | None:
    return None if rate is None else 100 * rate.value


@dataclass(frozen=True)
class Episodes:
    """How many episodes an evaluation has, and which.

    Args:
        forget: in the forget situations together.
        retain: of each retained task.
        near: of each near neighbour that is no retained task.
        first_seed: seeds count up from here.
    """

    forget: int = 60
    retain: int = 10
    near: int = 5
    first_seed: int = 9000

    def jobs(self, name: str) -> list[RolloutJob]:
        """The episodes of a scenario."""
        plan = make_plan(name, forget=self.forget, first_seed=self.first_seed)
        retained = jobs_for(RETAIN, range(self.first_seed, self.first_seed + self.retain))
        outside = [s for s in plan.scenario.boundary if s not in RETAIN]
        near = jobs_for(outside, range(self.first_seed, self.first_seed + self.near))
        return [*plan.forget, *retained, *near]


def evaluate(
    base: Path,
    adapter: Path,
    never_saw: Path | None,
    name: str,
    episodes: Episodes,
    gates: Gates,
    processes: int,
    report: Report,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Run the base, the edited policy and the reference on the same episodes.

    Args:
        base: checkpoint folder.
        adapter: PEFT folder.
        never_saw: checkpoint folder of the reference, or None: the FTS gate is then not measured.
        name: of the scenario.
        episodes: which.
        gates: limits.
        processes: simulator processes.
        report: called with (what, done, all).
        pictures: folder for film strips of some episodes before and after; None: no pictures.

    Returns:
        a result document with ``gates``, as evidence for the manifest.
    """
    jobs, chosen = episodes.jobs(name), scenario(name)

    def rollouts(spec: PolicySpec, listed: Sequence[RolloutJob], what: str) -> list[RolloutResult]:
        return run(spec, listed, processes, progress=lambda a, b: report(what, a, b))

    forget = [job for job in jobs if job.situation in chosen.forget]
    before, after = (
        rollouts(PolicySpec(base), jobs, "base"),
        rollouts(PolicySpec(base, adapter), jobs, "edited"),
    )
    reference = rollouts(PolicySpec(never_saw), forget, "never-saw reference") if never_saw else []
    comparison = Comparison(chosen, *(outcomes(told) for told in (before, after, reference)))
    if pictures is not None:
        save_strips(pictures, strips_of(before, after, [*chosen.forget[:SHOWN], RETAIN[0]]))
    return figures.document(
        "closed_loop",
        comparison.figures(),
        sorted({job.seed for job in jobs}),
        scenario=name,
        gates=[gate.row() for gate in comparison.gates(gates)],
    )
