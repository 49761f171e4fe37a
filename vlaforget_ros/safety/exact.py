"""Exact binomial intervals, for reports that are read once.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934: the
bounds are quantiles of beta distributions. They cover the true rate with at least ``level`` at *one* number of trials
that was fixed before. What is looked at after each rollout needs :func:`~vlaforget_ros.safety.rates.sequence_interval`.
"""

from __future__ import annotations

import math

from scipy.stats import binomtest

from vlaforget_ros.safety.rates import Interval, require_counts


def exact_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval.

    Args:
        successes: how often the event happened, 0..trials.
        trials: how often it could have.
        level: confidence, in (0, 1).

    Raises:
        ValueError: for counts or a level that cannot be.
    """
    require_counts(successes, trials, level)
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    found = binomtest(successes, trials).proportion_ci(level, method="exact")
    return Interval(successes / trials, float(found.low), float(found.high))
