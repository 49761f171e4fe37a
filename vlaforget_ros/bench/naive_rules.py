"""Rules that people use to stop a test early, for comparison: a window of violations, and a p-value looked at again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests
from vlaforget_ros.safety.canary.state import Verdict


@dataclass(frozen=True)
class Decided:
    """How a rule ended N tests.

    Args:
        verdict: (N,) numbers of Verdict.
        rollouts: (N,) of the candidate at full speed.
    """

    verdict: np.ndarray
    rollouts: np.ndarray


@dataclass(frozen=True)
class Window:
    """Abort when ``events`` of the last ``last`` rollouts violated; promote after ``rollouts`` without that.

    Success is judged once, at the end: its share must not be below the middle of what is acceptable and what is bad.
    """

    events: int = 2
    last: int = 10
    rollouts: int = 50

    def decide(self, protocol: Protocol, violated: np.ndarray, failed: np.ndarray) -> Decided:
        """Judge streams (N, T) of a candidate's rollouts at full speed, T >= ``rollouts``."""
        upto = min(self.rollouts, violated.shape[1])
        total = np.cumsum(violated[:, :upto], axis=1)
        before = np.pad(total, ((0, 0), (self.last, 0)))[:, :upto]
        aborts = total - before >= self.events
        test = CanaryTests.of(protocol).success.rate_test()
        kept = failed[:, :upto].mean(axis=1) <= (test.ok + test.bad) / 2.0
        promotes = np.zeros_like(aborts)
        promotes[:, -1] = kept
        return _first(aborts, promotes)


@dataclass(frozen=True)
class Peek:
    """One-sided binomial tests at fixed levels, as if the number of rollouts had been fixed, looked at after each one.

    Aborts where violations or failures are significantly above the acceptable rate; promotes where both are
    significantly below the bad one, after the same rollouts as the protocol asks for.

    Args:
        level: of each test that may abort; the protocol's beta is that of those that promote.
    """

    level: float

    def decide(self, protocol: Protocol, violated: np.ndarray, failed: np.ndarray) -> Decided:
        """Judge streams (N, T) of a candidate's rollouts at full speed."""
        tests = CanaryTests.of(protocol)
        trials = np.arange(1, violated.shape[1] + 1)
        aborts = np.zeros(violated.shape, bool)
        promotes = np.broadcast_to(trials >= protocol.earliest, violated.shape).copy()
        for test, events in ((tests.violations, violated), (tests.success.rate_test(), failed)):
            total = np.cumsum(events, axis=1)
            aborts |= total > binom.isf(self.level, trials, test.ok)
            promotes &= total < binom.ppf(protocol.beta, trials, test.bad)
        return _first(aborts, promotes)


def _first(aborts: np.ndarray, promotes: np.ndarray) -> Decided:
    """What comes first in each row decides; an abort where both come at once, HOLD where none does."""
    ends = aborts | promotes
    when = np.where(ends.any(axis=1), ends.argmax(axis=1), ends.shape[1] - 1)
    rows = np.arange(len(ends))
    verdict = np.where(
        aborts[rows, when], Verdict.ABORT, np.where(promotes[rows, when], Verdict.PROMOTE, Verdict.HOLD)
    )
    return Decided(verdict, when + 1)
