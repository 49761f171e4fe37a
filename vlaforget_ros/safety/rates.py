"""How often: rates of violations and successes per adapter, with intervals that survive continuous looking.

The interval is a confidence sequence: with probability at least ``level`` it contains the true rate at
*every* number of rollouts at once, so it may be read after each rollout and acted upon. Construction: for a
Bernoulli(p) stream with s successes in n trials the uniform mixture

    M_n(p) = B(s + 1, n - s + 1) / (B(1, 1) p^s (1 - p)^(n - s))

is a non-negative martingale with mean 1 under p, so by Ville's inequality P(exists n: M_n(p) >= 1/alpha) <=
alpha. All p with M_n(p) < 1/alpha form the interval (Robbins, "Statistical methods related to the law of the
iterated logarithm", 1970; Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", 2021, section 3). log M_n is convex in p with its minimum at s/n, so both ends are
single roots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy.optimize import brentq
from scipy.special import betaln

_TINY = 1e-12


@dataclass(frozen=True)
class Interval:
    """A rate with its bounds, all 0..1; the estimate is NaN without trials."""

    estimate: float
    low: float
    high: float


def log_mixture(successes: int, trials: int, rate: float) -> float:
    """log M_n(rate): evidence against ``rate`` in (0, 1) after ``trials`` with ``successes``."""
    failures = trials - successes
    evidence = betaln(successes + 1.0, failures + 1.0) - betaln(1.0, 1.0)
    return float(evidence - successes * math.log(rate) - failures * math.log1p(-rate))


def require_counts(successes: int, trials: int, level: float) -> None:
    """Raises ValueError for counts or a level that cannot be."""
    if not 0 <= successes <= trials:
        raise ValueError(f"successes {successes} must be within 0..trials {trials}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} must be within (0, 1)")


# A status is made far more often than a rollout ends.
@lru_cache(maxsize=4096)
def sequence_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """The confidence sequence's interval after ``trials`` Bernoulli trials.

    Args:
        successes: how often the event happened, 0..trials.
        trials: how often it could have.
        level: probability, over the whole stream, of never missing the true rate; in (0, 1).

    Raises:
        ValueError: for counts or a level that cannot be.
    """
    require_counts(successes, trials, level)
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    estimate = successes / trials
    threshold = -math.log(1.0 - level)

    def excess(rate: float) -> float:
        return log_mixture(successes, trials, rate) - threshold

    low = 0.0
    if successes > 0 and excess(_TINY) > 0.0:
        low = brentq(excess, _TINY, min(estimate, 1.0 - _TINY), xtol=1e-12)
    high = 1.0
    if successes < trials and excess(1.0 - _TINY) > 0.0:
        high = brentq(excess, max(estimate, _TINY), 1.0 - _TINY, xtol=1e-12)
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))
