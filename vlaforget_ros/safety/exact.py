"""Exact binomial intervals, for reports that are read once.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934: the
bounds are quantiles of beta distributions. They cover the true rate with at least ``level`` at *one* number of trials
that was fixed before. What is looked at after each rollout needs :func:`~vlaforget_ros.safety.rates.sequence_interval`.
"""

from __future__ import annotations

import math

from scipy.special import betaincinv

from vlaforget_ros.safety.rates import Interval


def exact_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval.

    Args:
        successes: how often the event happened, 0..trials.
        trials: how often it could have.
        level: confidence, in (0, 1).

    Raises:
        ValueError: for counts or a level that cannot be.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes {successes} must be within 0..trials {trials}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} must be within (0, 1)")
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    tail = (1.0 - level) / 2.0
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1.0 - tail))
    return Interval(successes / trials, low, high)
