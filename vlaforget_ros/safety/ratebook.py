"""Which rollouts of which adapter violated or succeeded: the counts behind SVR, TSR and SBU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlaforget_ros.safety.rate_state import RateState, read_state, state_of
from vlaforget_ros.safety.rates import Interval, sequence_interval
from vlaforget_ros.safety.rules.base import Severity
from vlaforget_ros.safety.totals import Breakdown, RolloutRecord, Totals, broken_down

_REMEMBERED = 4096
"""Finished rollouts that a late message can still reach."""


@dataclass(frozen=True)
class RateEstimate:
    """Rates of one adapter.

    Args:
        adapter_digest: "" for the base model.
        rollouts: rollouts that counted.
        violated: of these, with at least one violation.
        succeeded: of these, successful.
        unsafe_successes: of these, successful with a violation.
        svr: violated / rollouts with its always-valid bounds.
        tsr: succeeded / rollouts with its always-valid bounds.
        sbu: unsafe successes / rollouts with its always-valid bounds.
        level: confidence level of the bounds.
    """

    adapter_digest: str
    rollouts: int
    violated: int
    succeeded: int
    unsafe_successes: int
    svr: Interval
    tsr: Interval
    sbu: Interval
    level: float


class RateBook:
    """Counts each (rollout, rule) once, whoever reports it and in whatever order messages arrive.

    A rollout counts once it ended: succeeded or failed, or aborted after a violation. One in which the
    adapter was swapped belongs to neither adapter and counts for none.

    Args:
        level: confidence level of the bounds.
    """

    def __init__(self, level: float = 0.95) -> None:
        self._level = level
        self._open: OrderedDict[str, RolloutRecord] = OrderedDict()
        self._settled: dict[str, Totals] = {}
        self._ends = 0

    def start(self, rollout_id: str, digest: str) -> None:
        """A rollout began with this adapter."""
        self._rollout(rollout_id, digest).digest = digest

    def violation(self, rollout_id: str, digest: str, rule: str, severity: Severity = Severity.WARN) -> bool:
        """A rule was broken in a rollout, running or finished; returns whether this is news."""
        rollout = self._rollout(rollout_id, digest)
        news = rule not in rollout.rules
        rollout.rules[rule] = max(severity, rollout.rules.get(rule, severity))
        return news

    def end(self, rollout_id: str, digest: str, success: bool | None) -> None:
        """A rollout ended with this adapter; ``success`` is None when it was aborted."""
        rollout = self._rollout(rollout_id, digest)
        rollout.mixed = rollout.mixed or rollout.digest != digest
        if not rollout.ended:
            self._ends += 1
            rollout.ended = self._ends
        rollout.success = success
        self._settle_oldest()

    def rules_broken(self, rollout_id: str) -> frozenset[str]:
        """Rules broken in a rollout so far."""
        rollout = self._open.get(rollout_id)
        return frozenset(rollout.rules) if rollout else frozenset()

    def estimates(self) -> tuple[RateEstimate, ...]:
        """One per adapter that has been seen, in order of first sight."""
        return tuple(self._estimate(digest, totals) for digest, totals in self._totals().items())

    def breakdown(self, last: int = 0) -> tuple[Breakdown, ...]:
        """The rates by rule and by severity, one per adapter that has been seen.

        Args:
            last: of only so many rollouts of each adapter, those that ended last and counted; 0: of all. Not more
                than the last 4096 are remembered one by one.
        """
        totals = self._totals() if last <= 0 else self._window(last)
        return tuple(broken_down(digest, sums, self._level) for digest, sums in totals.items())

    def state(self) -> dict[str, Any]:
        """All counts as a value for JSON, which :meth:`restore` takes."""
        return state_of(RateState(self._open, self._settled, self._ends))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; what was counted before is forgotten.

        Raises:
            SafetyError: 404 for a value that is none; the counts stay as they were.
        """
        found = read_state(state)
        self._open, self._settled, self._ends = found.open, found.settled, found.ends

    def _totals(self) -> dict[str, Totals]:
        totals = {digest: sums.copy() for digest, sums in self._settled.items()}
        for rollout in self._open.values():
            totals.setdefault(rollout.digest, Totals()).add(rollout)
        return totals

    def _window(self, last: int) -> dict[str, Totals]:
        totals = {digest: Totals() for digest in self._totals()}
        for rollout in sorted(self._open.values(), key=lambda one: -one.ended):
            sums = totals[rollout.digest]
            if sums.rollouts < last:
                sums.add(rollout)
        return totals

    def _estimate(self, digest: str, totals: Totals) -> RateEstimate:
        rollouts, level = totals.rollouts, self._level
        svr = sequence_interval(totals.violated, rollouts, level)
        tsr = sequence_interval(totals.succeeded, rollouts, level)
        sbu = sequence_interval(totals.unsafe_successes, rollouts, level)
        counts = (rollouts, totals.violated, totals.succeeded, totals.unsafe_successes)
        return RateEstimate(digest, *counts, svr, tsr, sbu, level)

    def _rollout(self, rollout_id: str, digest: str) -> RolloutRecord:
        if rollout_id not in self._open:
            self._open[rollout_id] = RolloutRecord(digest)
        return self._open[rollout_id]

    def _settle_oldest(self) -> None:
        while len(self._open) > _REMEMBERED:
            _, rollout = self._open.popitem(last=False)
            self._settled.setdefault(rollout.digest, Totals()).add(rollout)
