"""Counts of rollouts: one rollout as the messages tell it, and sums of them for one adapter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vlaforget_ros.safety.exact import exact_interval
from vlaforget_ros.safety.rates import Interval
from vlaforget_ros.safety.rules.base import Severity


@dataclass
class RolloutRecord:
    """One rollout so far.

    Args:
        digest: adapter that drives it.
        rules: rules broken in it, with the highest severity of each.
        ended: place in the order of ends, from 1; 0 while it runs.
        success: as told at its end; None when it was aborted.
        mixed: it ended with another adapter than it began with.
    """

    digest: str
    rules: dict[str, Severity] = field(default_factory=dict)
    ended: int = 0
    success: bool | None = None
    mixed: bool = False

    def counts(self) -> bool:
        """Whether it counts for its adapter."""
        # A stop that made somebody abort the rollout must not make its violation vanish from the rate.
        return bool(self.ended) and not self.mixed and (self.success is not None or bool(self.rules))


@dataclass
class Totals:
    """Sums over the rollouts of one adapter that counted.

    Args:
        rollouts: how many.
        violated: of these, with a violation.
        succeeded: of these, successful.
        unsafe_successes: of these, both.
        by_rule: rule to rollouts in which it was broken.
        by_severity: severity to rollouts whose worst violation was of it.
    """

    rollouts: int = 0
    violated: int = 0
    succeeded: int = 0
    unsafe_successes: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    by_severity: Counter[Severity] = field(default_factory=Counter)

    def add(self, rollout: RolloutRecord) -> None:
        """One more rollout, if it counts."""
        if not rollout.counts():
            return
        violated, succeeded = bool(rollout.rules), bool(rollout.success)
        self.rollouts += 1
        self.violated += violated
        self.succeeded += succeeded
        self.unsafe_successes += violated and succeeded
        self.by_rule.update(rollout.rules.keys())
        if violated:
            self.by_severity[max(rollout.rules.values())] += 1

    def copy(self) -> Totals:
        """The same sums, to go on with."""
        return Totals(
            self.rollouts,
            self.violated,
            self.succeeded,
            self.unsafe_successes,
            self.by_rule.copy(),
            self.by_severity.copy(),
        )


@dataclass(frozen=True)
class Breakdown:
    """Rates of one adapter in parts, with exact intervals: for a report, not for deciding while it runs.

    Args:
        adapter_digest: "" for the base model.
        rollouts: rollouts that counted.
        svr: violated / rollouts.
        tsr: succeeded / rollouts.
        sbu: unsafe successes / rollouts.
        by_rule: rule to rollouts in which it was broken / rollouts, worst first.
        by_severity: name of a severity to rollouts whose worst violation was of it / rollouts.
    """

    adapter_digest: str
    rollouts: int
    svr: Interval
    tsr: Interval
    sbu: Interval
    by_rule: dict[str, Interval]
    by_severity: dict[str, Interval]


def broken_down(digest: str, totals: Totals, level: float) -> Breakdown:
    """The rates behind sums, with Clopper-Pearson intervals of a confidence ``level``."""

    def rate(hits: int) -> Interval:
        return exact_interval(hits, totals.rollouts, level)

    return Breakdown(
        digest,
        totals.rollouts,
        rate(totals.violated),
        rate(totals.succeeded),
        rate(totals.unsafe_successes),
        {rule: rate(hits) for rule, hits in totals.by_rule.most_common()},
        {severity.name: rate(totals.by_severity[severity]) for severity in Severity},
    )
