"""The confidence sequence: covers under continuous looking, shrinks, and refuses impossible counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from vlaforget_ros.safety.rates import log_mixture, sequence_interval


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.9])
def test_the_true_rate_is_in_every_interval_of_most_streams(rate: float) -> None:
    streams, length, level = 300, 200, 0.9
    outcomes = np.random.default_rng(7).random((streams, length)) < rate
    missed = 0
    for stream in outcomes:
        successes = np.cumsum(stream)
        # Looking after every single rollout is what breaks a fixed-size interval.
        evidence = max(log_mixture(int(s), n + 1, rate) for n, s in enumerate(successes))
        missed += evidence >= -math.log(1.0 - level)
    # Binomial slack: 1 in 10,000 that a sequence with exactly 10 % misses fails here.
    assert missed <= binom.ppf(0.9999, streams, 1.0 - level)


def test_a_fixed_size_interval_would_fail_the_same_test() -> None:
    """Guards the test above: continuous looking does break the interval for a number fixed beforehand."""
    streams, length, rate = 300, 200, 0.5
    outcomes = np.random.default_rng(7).random((streams, length)) < rate
    trials = np.arange(1, length + 1)
    means = np.cumsum(outcomes, axis=1) / trials
    beyond = np.abs(means - rate)[:, 20:] > 1.645 * np.sqrt(rate * (1 - rate) / trials[20:])
    assert beyond.any(axis=1).mean() > 0.25


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0.5, 0.999))
def test_bounds_bracket_the_estimate(successes: int, trials: int, level: float) -> None:
    successes = min(successes, trials)
    interval = sequence_interval(successes, trials, level)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_higher_level_gives_a_wider_interval(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    narrow, wide = sequence_interval(successes, trials, 0.8), sequence_interval(successes, trials, 0.99)
    assert wide.low <= narrow.low + 1e-9
    assert narrow.high <= wide.high + 1e-9


@given(st.integers(0, 150), st.integers(1, 150))
def test_one_more_success_moves_both_bounds_up(successes: int, trials: int) -> None:
    successes = min(successes, trials - 1)
    before, after = sequence_interval(successes, trials), sequence_interval(successes + 1, trials)
    assert after.low >= before.low - 1e-9
    assert after.high >= before.high - 1e-9


@given(st.integers(0, 150), st.integers(1, 150))
def test_success_and_failure_are_mirror_images(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    one, other = sequence_interval(successes, trials), sequence_interval(trials - successes, trials)
    assert one.low == pytest.approx(1.0 - other.high, abs=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(2, 8))
def test_more_rollouts_at_the_same_rate_narrow_the_interval(unit: int, factor: int) -> None:
    few, many = sequence_interval(unit, 2 * unit), sequence_interval(factor * unit, 2 * factor * unit)
    assert many.high - many.low < few.high - few.low


def test_known_value() -> None:
    """No violation in n rollouts: p is excluded when 1 / ((n + 1) (1 - p)^n) >= 20."""
    interval = sequence_interval(0, 40)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(1.0 - (1.0 / (20.0 * 41.0)) ** (1.0 / 40.0), abs=1e-6)


def test_nothing_seen_says_nothing() -> None:
    interval = sequence_interval(0, 0)
    assert math.isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_impossible_counts_are_refused(successes: int, trials: int, level: float) -> None:
    with pytest.raises(ValueError, match="must be within"):
        sequence_interval(successes, trials, level)
