"""Many canaries at once: the decisions of :class:`~vlaforget_ros.safety.canary.machine.Canary`, vectorised.

All canaries of a simulation share the protocol and its seed, hence the order in which candidate and stable drive; a
test compares them with the machine, rollout by rollout. They begin after the shadow phase, with the gates passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlaforget_ros.safety.canary.assignment import arm_of
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests, RateTest
from vlaforget_ros.safety.canary.state import Verdict


@dataclass(frozen=True)
class Truth:
    """What is simulated.

    Args:
        svr: the candidate's share of rollouts with a violation, 0..1.
        tsr: its success rate, independent of violations, 0..1.
        stable_svr: stable's.
        stable_tsr: stable's.
        history: stable's rollouts before the canary.
        breaks_after: full-speed rollouts of the candidate after which ``svr`` becomes ``broken_svr``; None: never.
        broken_svr: from then on.
    """

    svr: float
    tsr: float
    stable_svr: float = 0.0
    stable_tsr: float = 0.9
    history: int = 0
    breaks_after: int | None = None
    broken_svr: float = 0.5


@dataclass(frozen=True)
class Schedule:
    """Who drives, rollout by rollout.

    Args:
        candidate: (T,) driven by the candidate.
        full_speed: (T,) false for the candidate's rollouts at reduced speed.
    """

    candidate: np.ndarray
    full_speed: np.ndarray


@dataclass(frozen=True)
class Streams:
    """What rollouts give, whoever watches them.

    Args:
        violated: (N, T) truth values, N canaries and T rollouts of a schedule.
        failed: (N, T) truth values.
        history: (N, 2) how many of stable's ``before`` rollouts were violated and failed.
        before: stable's rollouts before the canary.
    """

    violated: np.ndarray
    failed: np.ndarray
    history: np.ndarray
    before: int


@dataclass(frozen=True)
class Runs:
    """How N canaries ended.

    Args:
        verdict: (N,) numbers of Verdict; RUNNING where the schedule ended first.
        rollouts: (N,) of the candidate at either speed, up to the verdict.
        total: (N,) of both.
        stop: (N,) stable failed.
    """

    verdict: np.ndarray
    rollouts: np.ndarray
    total: np.ndarray
    stop: np.ndarray

    def share(self, verdict: Verdict) -> float:
        """Share of canaries with this verdict."""
        return float(np.mean(self.verdict == verdict))


def schedule(protocol: Protocol) -> Schedule:
    """Who drives until the candidate has had ``max_rollouts`` at full speed."""
    slow = protocol.reduced_speed.rollouts if "reduced_speed" in protocol.phases else 0
    arms, full = [True] * slow, 0
    weights, each = protocol.ramp.weights, protocol.ramp.rollouts
    while full < protocol.max_rollouts:
        ours = arm_of(protocol.seed, len(arms), weights[min(full // each, len(weights) - 1)])
        arms.append(ours)
        full += ours
    candidate = np.array(arms)
    return Schedule(candidate, np.arange(len(arms)) >= slow)


def draw(truth: Truth, order: Schedule, count: int, rng: np.random.Generator) -> Streams:
    """Outcomes of ``count`` canaries, one for each rollout of the schedule."""
    svr = np.where(order.candidate, truth.svr, truth.stable_svr)
    if truth.breaks_after is not None:
        driven = np.cumsum(order.candidate & order.full_speed)
        svr = np.where(order.candidate & (driven > truth.breaks_after), truth.broken_svr, svr)
    tsr = np.where(order.candidate, truth.tsr, truth.stable_tsr)
    shape = (count, len(order.candidate))
    violated, failed = rng.random(shape) < svr, rng.random(shape) >= tsr
    rates = (truth.stable_svr, 1.0 - truth.stable_tsr)
    return Streams(violated, failed, rng.binomial(truth.history, rates, (count, 2)), truth.history)


def run(protocol: Protocol, order: Schedule, streams: Streams) -> Runs:
    """Decide about all canaries, looking after every rollout. Promotion does not wait for an operator."""
    tests, count = CanaryTests.of(protocol), len(streams.violated)
    runs = Runs(*(np.zeros(count, dtype=kind) for kind in (int, int, int, bool)))
    active = np.arange(count)
    slow, full, stable = np.zeros((count, 2), int), np.zeros((count, 2), int), streams.history.copy()
    trials = {"slow": 0, "full": 0, "stable": streams.before}
    for t, (ours, fast) in enumerate(zip(order.candidate, order.full_speed, strict=True)):
        name, into = ("stable", stable) if not ours else ("full", full) if fast else ("slow", slow)
        trials[name] += 1
        into[active, 0] += streams.violated[active, t]
        into[active, 1] += streams.failed[active, t]
        verdict, stop = _judge(protocol, tests, trials, slow[active], full[active], stable[active])
        ended = active[verdict != Verdict.RUNNING]
        runs.verdict[ended] = verdict[verdict != Verdict.RUNNING]
        runs.stop[ended] = stop[verdict != Verdict.RUNNING]
        runs.rollouts[ended], runs.total[ended] = trials["slow"] + trials["full"], t + 1
        active = active[verdict == Verdict.RUNNING]
        if not len(active):
            break
    return runs


def pair_rollouts(protocol: Protocol, order: Schedule, streams: Streams) -> np.ndarray:
    """(N,) rollouts of the candidate at full speed that two plain SPRTs side by side would take.

    Each decides once and for all: it takes until the first of them rejects, else until the later one accepts. For a
    known reference.

    Rollouts at reduced speed, the ramp and ``min_rollouts`` are no part of it; it ends at ``max_rollouts``.
    """
    tests = CanaryTests.of(protocol)
    ours = order.candidate & order.full_speed
    trials = np.arange(1, int(ours.sum()) + 1)
    rejected, accepted = [], []
    for test, events in ((tests.violations, streams.violated), (tests.success.rate_test(), streams.failed)):
        ratio = _log_ratio(test, np.cumsum(events[:, ours], axis=1), trials)
        first = [_first(ratio >= test.abort_threshold), _first(-ratio >= test.accept_threshold)]
        rejected.append(np.where(first[0] < first[1], first[0], np.inf))
        accepted.append(np.where(first[1] < first[0], first[1], np.inf))
    taken = np.minimum(np.minimum(*rejected), np.maximum(*accepted))
    return np.minimum(taken, protocol.max_rollouts)


def _first(reached: np.ndarray) -> np.ndarray:
    """(N,) number of the first rollout, from 1, at which it was reached in (N, T); infinity where it never was."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def simulate(protocol: Protocol, truth: Truth, count: int, seed: int) -> Runs:
    """Draw and decide ``count`` canaries."""
    order = schedule(protocol)
    return run(protocol, order, draw(truth, order, count, np.random.default_rng(seed)))


def _judge(
    protocol: Protocol,
    tests: CanaryTests,
    trials: dict[str, int],
    slow: np.ndarray,
    full: np.ndarray,
    stable: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Verdict and stop of each canary, in the machine's order; counts are (N, 2): violated, failed."""
    violations = _log_ratio(tests.violations, full[:, 0], trials["full"])
    against = violations + _log_ratio(tests.violations, slow[:, 0], trials["slow"])
    lost, kept = _success(tests, full[:, 1], trials["full"], stable[:, 1], trials["stable"])
    threshold, enough = tests.violations.abort_threshold, tests.violations.accept_threshold
    aborts = (against >= threshold) | (lost >= threshold)
    failing = _log_ratio(tests.stable, stable[:, 0], trials["stable"]) >= threshold
    accepts = (-violations >= enough) & (kept >= enough) & (trials["full"] >= protocol.earliest)
    over = np.full(len(full), trials["full"] >= protocol.max_rollouts)
    holds = failing & (protocol.stable_failing == "hold")
    verdict = np.select(
        [aborts, holds, accepts, over],
        [Verdict.ABORT, Verdict.HOLD, Verdict.PROMOTE, Verdict.HOLD],
        Verdict.RUNNING,
    )
    return verdict, failing & (verdict == Verdict.ABORT) | holds & (verdict == Verdict.HOLD)


def _log_ratio(test: RateTest, events: np.ndarray, trials: int | np.ndarray) -> np.ndarray:
    return events * test.up - (trials - events) * test.down


def _success(
    tests: CanaryTests, failed: np.ndarray, trials: int, stable: np.ndarray, stable_trials: int
) -> tuple[np.ndarray, np.ndarray]:
    """Evidence for a bad loss and against one. Few pairs of counts differ, so each is computed once."""
    if tests.success.reference is not None:
        ratio = _log_ratio(tests.success.rate_test(), failed, trials)
        return ratio, -ratio
    key, inverse = np.unique(failed * (stable_trials + 1) + stable, return_inverse=True)
    ours, theirs = np.divmod(key, stable_trials + 1)
    counts, others = np.stack([ours, trials - ours], 1), np.stack([theirs, stable_trials - theirs], 1)
    lost, kept = tests.success.evidences(counts, others)
    return lost[inverse], kept[inverse]
