"""What a protocol does, computed and not simulated: every verdict's chance and when it comes, for a known reference.

The canary's state after n rollouts of the candidate is two integers, its violations and its failures. Their joint
distribution is carried from rollout to rollout, and what crosses a boundary leaves it: overshoot, ``earliest`` and the
end at ``max_rollouts`` are all in it. Violation and failure of a rollout are taken as independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests, RateTest


@dataclass(frozen=True)
class Prediction:
    """How canaries of one truth end.

    Args:
        promote: (N,) chance of PROMOTE with this many rollouts of the candidate, at either speed.
        hold: (N,) of HOLD.
        abort: (N,) of ABORT.
    """

    promote: np.ndarray
    hold: np.ndarray
    abort: np.ndarray

    def chances(self) -> tuple[float, float, float]:
        """Of PROMOTE, HOLD and ABORT."""
        return float(self.promote.sum()), float(self.hold.sum()), float(self.abort.sum())

    def expected(self) -> float:
        """Mean rollouts of the candidate to the verdict."""
        total = self.promote + self.hold + self.abort
        return float(total @ np.arange(len(total)))

    def quantile(self, share: float) -> int:
        """Rollouts of the candidate by which this share of canaries has its verdict."""
        total = np.cumsum(self.promote + self.hold + self.abort)
        return int(np.searchsorted(total, share - 1e-12))


def predict(protocol: Protocol, svr: float, tsr: float) -> Prediction:
    """How canaries of a candidate end from reduced speed on.

    Args:
        protocol: with a number for ``tsr_reference``, and a ramp.
        svr: the candidate's true share of rollouts with a violation, at both speeds, 0..1.
        tsr: its true success rate, 0..1.

    Raises:
        ValueError: where the reference is not known, or there is no ramp.
    """
    if "ramp" not in protocol.phases:
        raise ValueError("without a ramp there is nothing to predict")
    tests = CanaryTests.of(protocol)
    violations, success = tests.violations, tests.success.rate_test()
    slow = protocol.reduced_speed.rollouts if "reduced_speed" in protocol.phases else 0
    ended = Prediction(*np.zeros((3, slow + protocol.max_rollouts + 1)))
    start = _slow_phase(violations, svr, slow, ended)
    # (violations at reduced speed, violations, failures); what could be larger has been aborted.
    size = [_most(test, protocol.max_rollouts, before) for test, before in ((violations, slow), (success, 0))]
    state = np.zeros((slow + 1, *size))
    state[:, 0, 0] = start
    v, f = np.arange(size[0])[None, :, None], np.arange(size[1])[None, None, :]
    carried = np.array([violations.log_ratio(r, slow) for r in range(slow + 1)])[:, None, None]
    for n in range(1, protocol.max_rollouts + 1):
        state = _step(_step(state, svr, axis=1), 1.0 - tsr, axis=2)
        ratio_v = v * violations.up - (n - v) * violations.down
        ratio_f = f * success.up - (n - f) * success.down
        aborts = (ratio_v + carried >= violations.abort_threshold) | (ratio_f >= success.abort_threshold)
        ended.abort[slow + n] = state[aborts].sum()
        state[aborts] = 0.0
        if n >= protocol.earliest:
            accepts = (-ratio_v >= violations.accept_threshold) & (-ratio_f >= success.accept_threshold)
            accepts = np.broadcast_to(accepts, state.shape)
            ended.promote[slow + n] = state[accepts].sum()
            state[accepts] = 0.0
    ended.hold[-1] = state.sum()
    return ended


def _slow_phase(test: RateTest, svr: float, rollouts: int, ended: Prediction) -> np.ndarray:
    """(rollouts + 1,) chance of each number of violations after the phase; fills in the aborts within it."""
    state = np.zeros(rollouts + 1)
    state[0] = 1.0
    for n in range(1, rollouts + 1):
        state = _step(state, svr, axis=0)
        aborts = np.array([test.log_ratio(s, n) for s in range(rollouts + 1)]) >= test.abort_threshold
        ended.abort[n] = state[aborts].sum()
        state[aborts] = 0.0
    return state


def _step(state: np.ndarray, rate: float, axis: int) -> np.ndarray:
    """One more rollout: an event moves its chance one place up the axis. Nothing lies in the last place."""
    moved = np.roll(state, 1, axis=axis)
    return (1.0 - rate) * state + rate * moved


def _most(test: RateTest, rollouts: int, before: int) -> int:
    """Places that the number of events needs: those below the abort boundary, the one beyond, and an empty one."""
    reach = (test.abort_threshold + (rollouts + before) * test.down) / (test.up + test.down)
    return min(rollouts, math.ceil(reach)) + 2
