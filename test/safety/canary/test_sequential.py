"""The tests: Wald's closed forms by hand, Ville's bound by simulation, and what an unknown reference costs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.canary import sequential
from vlaforget_ros.safety.canary.protocol import Protocol
from vlaforget_ros.safety.canary.sequential import CanaryTests, LossTest, RateTest, wald

FAIR = RateTest(
    0.25, 0.75, 0.05, 0.05
)  # a step of log 3 up or down: a walk that Wald's formulae describe by hand


def test_the_ratio_by_hand() -> None:
    found = RateTest(0.02, 0.10, 0.025, 0.05).evidence(2, 10)
    assert found.abort == pytest.approx(2 * math.log(5) + 8 * math.log(0.90 / 0.98))
    assert found.accept == pytest.approx(-found.abort)
    assert found.abort_threshold == pytest.approx(math.log(40))
    assert found.accept_threshold == pytest.approx(math.log(20))
    assert not found.aborts
    assert RateTest(0.02, 0.10, 0.025, 0.05).evidence(0, 36).accepts


def test_walds_formulae_by_hand() -> None:
    # At the middle the drift is 0 and E[n] = log(20)^2 / log(3)^2; at ok h = 1, at bad h = -1.
    middle = wald(FAIR, 0.5)
    assert middle.abort == pytest.approx(0.5)
    assert middle.expected == pytest.approx((math.log(20) / math.log(3)) ** 2)
    assert wald(FAIR, 0.25).abort == pytest.approx((1 - 1 / 20) / (20 - 1 / 20))
    assert wald(FAIR, 0.75).abort == pytest.approx(1 - (1 - 1 / 20) / (20 - 1 / 20))
    drift = 0.5 * math.log(3)
    chance = wald(FAIR, 0.75).abort
    assert wald(FAIR, 0.75).expected == pytest.approx((2 * chance - 1) * math.log(20) / drift)


@given(st.floats(0.001, 0.999))
def test_the_operating_characteristic_rises_with_the_rate(rate: float) -> None:
    near, far = wald(FAIR, rate), wald(FAIR, min(0.9995, rate + 0.01))
    assert -1e-9 <= near.abort <= far.abort + 1e-9 <= 1.0 + 2e-9
    assert near.expected > 0.0


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 0.5))
def test_both_directions_cannot_hold_at_once(events: int, others: int, ok: float) -> None:
    found = RateTest(ok, ok + 0.3, 0.05, 0.05).evidence(events, events + others)
    assert not (found.aborts and found.accepts)


def test_looking_after_every_rollout_keeps_the_errors() -> None:
    rng, test = np.random.default_rng(3), RateTest(0.1, 0.3, 0.05, 0.05)
    trials = np.arange(1, 301)
    for rate, sign, bound in ((0.1, 1, test.abort_threshold), (0.3, -1, test.accept_threshold)):
        events = np.cumsum(rng.random((4000, 300)) < rate, axis=1)
        ratio = sign * (events * test.up - (trials - events) * test.down)
        ever = float(np.mean(np.any(ratio >= bound, axis=1)))
        assert 0.01 < ever < 0.05


@pytest.mark.parametrize("stable_failure", [0.1, 0.4])
@pytest.mark.parametrize("late", [False, True])
def test_an_unknown_reference_keeps_the_errors_too(stable_failure: float, late: bool) -> None:
    """Candidate and stable take turns, or stable drives first; both at the border of the null hypothesis."""
    rng, test = np.random.default_rng(4), LossTest(0.05, 0.2, 0.05, 0.05)
    runs, turns = 400, 60
    for margin, which in ((0.05, 0), (0.2, 1)):
        ever = np.zeros(runs, bool)
        ours = np.cumsum(rng.random((runs, turns)) < stable_failure + margin, axis=1)
        theirs = np.cumsum(rng.random((runs, turns)) < stable_failure, axis=1)
        for n in range(4, turns, 4):
            m = turns - 1 if late else n
            counts = np.stack([ours[:, n], n + 1 - ours[:, n]], axis=1)
            stable = np.stack([theirs[:, m], m + 1 - theirs[:, m]], axis=1)
            ever |= test.evidences(counts, stable)[which] >= math.log(20)
        assert np.mean(ever) <= 0.05


def test_an_unknown_reference_says_nothing_without_stable_and_approaches_the_known_one_with_it() -> None:
    unknown = LossTest(0.05, 0.2, 0.025, 0.05)
    known = LossTest(0.05, 0.2, 0.025, 0.05, 0.1)
    nothing = unknown.evidence(30, 40)
    assert not nothing.aborts
    assert not nothing.accepts
    some, more = (unknown.evidence(30, 60, n // 10, n).abort for n in (100, 10_000))
    assert some < more < known.evidence(30, 60).abort
    assert more > known.evidence(30, 60).abort - 8.0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 80), st.integers(0, 80))
def test_the_grid_of_references_is_fine_enough(f: int, s: int, sf: int, ss: int) -> None:
    test = LossTest(0.05, 0.2, 0.025, 0.05)
    counts, stable = np.array([[f, s]]), np.array([[sf, ss]])
    coarse = test.evidences(counts, stable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "REFERENCES", sequential.references(20_000))
        fine = test.evidences(counts, stable)
    assert coarse[0] == pytest.approx(fine[0], abs=0.02)
    assert coarse[1] == pytest.approx(fine[1], abs=0.02)


def test_alpha_is_halved_between_the_tests_and_beta_is_not() -> None:
    tests = CanaryTests.of(Protocol(tsr_reference=0.9))
    assert tests.violations.alpha == tests.success.alpha == 0.025
    assert tests.violations.beta == tests.success.beta == 0.05
    rates = tests.success.rate_test()
    assert (rates.ok, rates.bad) == (pytest.approx(0.15), pytest.approx(0.30))
    with pytest.raises(ValueError, match="not known"):
        CanaryTests.of(Protocol()).success.rate_test()
