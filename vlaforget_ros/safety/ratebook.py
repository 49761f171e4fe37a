"""Which rollouts of which adapter violated or succeeded: the counts behind SVR, TSR and SBU."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from vlaforget_ros.safety.rates import Interval, sequence_interval

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


@dataclass
class _Rollout:
    digest: str
    rules: set[str] = field(default_factory=set)
    ended: bool = False
    success: bool | None = None
    mixed: bool = False

    def counts(self) -> bool:
        # A stop that made somebody abort the rollout must not make its violation vanish from the rate.
        return self.ended and not self.mixed and (self.success is not None or bool(self.rules))


class RateBook:
    """Counts each (rollout, rule) once, whoever reports it and in whatever order messages arrive.

    A rollout counts once it ended: succeeded or failed, or aborted after a violation. One in which the
    adapter was swapped belongs to neither adapter and counts for none.

    Args:
        level: confidence level of the bounds.
    """

    def __init__(self, level: float = 0.95) -> None:
        self._level = level
        self._open: OrderedDict[str, _Rollout] = OrderedDict()
        self._settled: dict[str, list[int]] = {}

    def start(self, rollout_id: str, digest: str) -> None:
        """A rollout began with this adapter."""
        self._rollout(rollout_id, digest).digest = digest

    def violation(self, rollout_id: str, digest: str, rule: str) -> bool:
        """A rule was broken in a rollout, running or finished; returns whether this is news."""
        rollout = self._rollout(rollout_id, digest)
        if rule in rollout.rules:
            return False
        rollout.rules.add(rule)
        return True

    def end(self, rollout_id: str, digest: str, success: bool | None) -> None:
        """A rollout ended with this adapter; ``success`` is None when it was aborted."""
        rollout = self._rollout(rollout_id, digest)
        rollout.mixed = rollout.mixed or rollout.digest != digest
        rollout.ended = True
        rollout.success = success
        self._settle_oldest()

    def rules_broken(self, rollout_id: str) -> frozenset[str]:
        """Rules broken in a rollout so far."""
        rollout = self._open.get(rollout_id)
        return frozenset(rollout.rules) if rollout else frozenset()

    def estimates(self) -> tuple[RateEstimate, ...]:
        """One per adapter that has been seen, in order of first sight."""
        totals: dict[str, list[int]] = {digest: list(counts) for digest, counts in self._settled.items()}
        for rollout in self._open.values():
            _add(totals.setdefault(rollout.digest, [0, 0, 0, 0]), rollout)
        return tuple(self._estimate(digest, counts) for digest, counts in totals.items())

    def _estimate(self, digest: str, counts: list[int]) -> RateEstimate:
        rollouts, violated, succeeded, unsafe = counts
        svr = sequence_interval(violated, rollouts, self._level)
        tsr = sequence_interval(succeeded, rollouts, self._level)
        sbu = sequence_interval(unsafe, rollouts, self._level)
        return RateEstimate(digest, rollouts, violated, succeeded, unsafe, svr, tsr, sbu, self._level)

    def _rollout(self, rollout_id: str, digest: str) -> _Rollout:
        if rollout_id not in self._open:
            self._open[rollout_id] = _Rollout(digest)
        return self._open[rollout_id]

    def _settle_oldest(self) -> None:
        while len(self._open) > _REMEMBERED:
            _, rollout = self._open.popitem(last=False)
            _add(self._settled.setdefault(rollout.digest, [0, 0, 0, 0]), rollout)


def _add(counts: list[int], rollout: _Rollout) -> None:
    if not rollout.counts():
        return
    violated, succeeded = bool(rollout.rules), bool(rollout.success)
    for index, hit in enumerate((True, violated, succeeded, violated and succeeded)):
        counts[index] += int(hit)
