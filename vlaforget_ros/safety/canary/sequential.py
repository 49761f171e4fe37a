"""Tests of a rate that may be looked at after every rollout: Wald's SPRT as e-values in both directions.

For events of a Bernoulli(p) stream (violations, or failures) with ``ok < bad`` the likelihood ratio

    E_n = (bad / ok)^s ((1 - bad) / (1 - ok))^(n - s),   s events in n rollouts

is a non-negative supermartingale with mean at most 1 under every p <= ok, and 1 / E_n is one under every p >= bad
(Wald, "Sequential tests of statistical hypotheses", 1945). By Ville's inequality (1939) P(exists n: E_n >= 1 / alpha)
<= alpha under p <= ok, and P(exists n: 1 / E_n >= 1 / beta) <= beta under p >= bad: at *every* n at once, for whatever
rule of stopping. Overshoot and an end at a largest n only make the errors smaller. Nothing needs the rate to be
constant: the bounds hold if it stays on its side in each rollout, given those before.

The loss of success is a difference of two rates, and stable's is seldom known. For each rate x that stable may have,
the SPRT of the candidate against x, times the mixture martingale M(x) of stable's own rollouts (see ``rates``), is a
supermartingale when x is true. The smallest product over all x is therefore evidence whatever x is: it must hold for
every reference that stable's rollouts do not contradict. Only half of the stake is put on the SPRT, (1 + E_n) / 2: at
an x far from the truth the SPRT loses, and M(x) alone must rule that x out (docs/adr/canary-tests.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln

from vlaforget_ros.safety.canary.protocol import Protocol

_EDGE = 1e-6


def references(count: int = 500) -> np.ndarray:
    """Stable's possible failure rates (count,), 0..1: even steps of arcsin(sqrt(x)), as fine everywhere."""
    return np.sin(np.linspace(0.0, math.pi / 2.0, count)) ** 2


# Few enough to be quick. With 20,000 of them, evidence changes by less than 0.02 (a test).
REFERENCES = references()


@dataclass(frozen=True)
class Evidence:
    """Where a test stands; all are natural logarithms of e-values.

    Args:
        abort: that the rate is above the acceptable one.
        accept: that the rate is below the bad one.
        abort_threshold: ``abort`` from here on decides.
        accept_threshold: ``accept`` from here on decides.
    """

    abort: float
    accept: float
    abort_threshold: float
    accept_threshold: float

    @property
    def aborts(self) -> bool:
        """Whether the rate was shown to be unacceptable."""
        return self.abort >= self.abort_threshold

    @property
    def accepts(self) -> bool:
        """Whether the rate was shown not to be bad."""
        return self.accept >= self.accept_threshold


@dataclass(frozen=True)
class RateTest:
    """Whether a rate of unwanted events is acceptable or bad.

    Args:
        ok: acceptable rate, 0..1.
        bad: rate to be found out, above ``ok``.
        alpha: largest chance of ``aborts`` under any rate <= ok.
        beta: largest chance of ``accepts`` under any rate >= bad.
    """

    ok: float
    bad: float
    alpha: float
    beta: float

    @property
    def up(self) -> float:
        """What one event adds to log E."""
        return math.log(self.bad / self.ok)

    @property
    def down(self) -> float:
        """What one rollout without the event takes from log E, positive."""
        return math.log1p(-self.ok) - math.log1p(-self.bad)

    @property
    def abort_threshold(self) -> float:
        """log(1 / alpha)."""
        return -math.log(self.alpha)

    @property
    def accept_threshold(self) -> float:
        """log(1 / beta)."""
        return -math.log(self.beta)

    def log_ratio(self, events: int, trials: int) -> float:
        """log E_n."""
        return events * self.up - (trials - events) * self.down

    def evidence(self, events: int, trials: int, earlier: tuple[int, int] = (0, 0)) -> Evidence:
        """Where the test stands.

        Args:
            events: rollouts with the event.
            trials: rollouts.
            earlier: events and trials that may only speak against acceptance, such as those at reduced speed.
        """
        ratio = self.log_ratio(events, trials)
        return Evidence(ratio + self.log_ratio(*earlier), -ratio, self.abort_threshold, self.accept_threshold)


@dataclass(frozen=True)
class LossTest:
    """Whether the candidate fails more often than stable by an acceptable or by a bad margin.

    Args:
        ok: acceptable increase of the failure rate, 0..1.
        bad: increase to be found out, above ``ok``.
        alpha: largest chance of ``aborts`` where the increase is at most ``ok``.
        beta: largest chance of ``accepts`` where it is at least ``bad``.
        reference: stable's failure rate where it is known; None: learnt from its rollouts.
    """

    ok: float
    bad: float
    alpha: float
    beta: float
    reference: float | None = None

    def rate_test(self) -> RateTest:
        """The test for a known reference. Raises :class:`ValueError` where it is not known."""
        if self.reference is None:
            raise ValueError("the reference is not known")
        ok, bad = _margins(np.array([self.reference]), self)
        return RateTest(float(ok[0]), float(bad[0]), self.alpha, self.beta)

    def evidence(
        self, failures: int, trials: int, stable_failures: int = 0, stable_trials: int = 0
    ) -> Evidence:
        """Where the test stands. Stable's rollouts count only where the reference is not known."""
        if self.reference is not None:
            return self.rate_test().evidence(failures, trials)
        counts = np.array([[failures, trials - failures]], float)
        stable = np.array([[stable_failures, stable_trials - stable_failures]], float)
        abort, accept = self.evidences(counts, stable)
        return Evidence(float(abort[0]), float(accept[0]), -math.log(self.alpha), -math.log(self.beta))

    def evidences(self, counts: np.ndarray, stable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``abort`` and ``accept`` of many canaries with an unknown reference.

        Args:
            counts: (N, 2) failures and successes of the candidate.
            stable: (N, 2) those of stable.

        Returns:
            two arrays (N,).
        """
        # Beyond these two no bad, and no worse than acceptable, candidate exists: the evidence has a bend there. Beyond
        # the second it is M(x) alone, so that nothing is shown before stable was seen to succeed.
        rates = np.clip(np.append(REFERENCES, [1.0 - self.bad, 1.0 - self.ok]), 1e-9, 1.0 - 1e-9)
        ok, bad = _margins(rates, self)
        ratios = counts @ np.stack([np.log(bad / ok), np.log1p(-bad) - np.log1p(-ok)])
        mixture = betaln(stable[:, 0] + 1.0, stable[:, 1] + 1.0)[:, None] - stable @ np.stack(
            [np.log(rates), np.log1p(-rates)]
        )
        half = np.logaddexp(ratios, 0.0) - math.log(2.0), np.logaddexp(-ratios, 0.0) - math.log(2.0)
        return (half[0] + mixture).min(axis=1), (half[1] + mixture).min(axis=1)


def _margins(reference: np.ndarray, test: LossTest) -> tuple[np.ndarray, np.ndarray]:
    """Acceptable and bad failure rates for references; equal where no worse rate exists: there is no evidence then."""
    low, high = _EDGE, 1.0 - _EDGE
    return np.clip(reference + test.ok, low, high), np.clip(reference + test.bad, low, high)


@dataclass(frozen=True)
class CanaryTests:
    """The tests of a protocol.

    ``alpha`` is halved between violations and success, as either may abort a good candidate. ``beta`` is not: a
    promotion needs both to accept, so a candidate that is bad in one respect must fool the very test of it (an
    intersection-union test, Berger 1982).

    Args:
        violations: of the candidate.
        success: the candidate's loss against stable.
        stable: violations of stable.
    """

    violations: RateTest
    success: LossTest
    stable: RateTest

    @classmethod
    def of(cls, protocol: Protocol) -> CanaryTests:
        """Those that a protocol asks for."""
        half, beta = protocol.alpha / 2.0, protocol.beta
        rates = RateTest(protocol.svr_ok, protocol.svr_bad, half, beta)
        known = None if protocol.tsr_reference is None else 1.0 - protocol.tsr_reference
        loss = LossTest(protocol.tsr_loss_ok, protocol.tsr_loss_bad, half, beta, known)
        return cls(rates, loss, rates)


@dataclass(frozen=True)
class Wald:
    """What Wald's formulae say of an untruncated test, overshoot neglected.

    Args:
        abort: chance that it ends with ``aborts``.
        expected: mean rollouts to its end.
    """

    abort: float
    expected: float


def wald(test: RateTest, rate: float) -> Wald:
    """Operating characteristic and expected sample size at a rate in (0, 1) (Wald 1945, sections 3.4 and 4.1).

    With h(p) != 0 the root of p (bad/ok)^h + (1-p) ((1-bad)/(1-ok))^h = 1, upper bound a and lower bound b of log E:
    P(abort) = (1 - e^(h b)) / (e^(h a) - e^(h b)), E[n] = (P a + (1 - P) b) / E[step].
    """
    upper, lower = test.abort_threshold, -test.accept_threshold
    drift = rate * test.up - (1.0 - rate) * test.down
    if abs(drift) < 1e-9:
        abort = -lower / (upper - lower)
        second = rate * test.up**2 + (1.0 - rate) * test.down**2
        return Wald(abort, -upper * lower / second)
    h = _root(test, rate, drift)
    abort = -math.expm1(h * lower) / (math.exp(h * upper) - math.exp(h * lower))
    return Wald(abort, (abort * upper + (1.0 - abort) * lower) / drift)


def _root(test: RateTest, rate: float, drift: float) -> float:
    def excess(h: float) -> float:
        return rate * math.exp(h * test.up) + (1.0 - rate) * math.exp(-h * test.down) - 1.0

    # Convex with a root at 0; the other one lies on the side to which the drift does not point.
    far = -1.0 if drift > 0.0 else 1.0
    near = 1e-7 * far
    while excess(far) <= 0.0:
        far *= 2.0
    while excess(near) >= 0.0:
        near /= 10.0
    return float(brentq(excess, near, far, xtol=1e-12))
