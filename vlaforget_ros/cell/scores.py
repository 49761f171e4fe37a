"""Rates over closed-loop episodes: success, violations, both, with exact intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

from vlaforget_ros.cell.rollouts import RolloutResult


@dataclass(frozen=True)
class Rate:
    """``count`` of ``n`` episodes, in percent, with the 95 % Wilson interval [low, high]."""

    count: int
    n: int

    @property
    def percent(self) -> float:
        """100 count / n, or nan without episodes."""
        return 100.0 * self.count / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval [%]."""
        if not self.n:
            return (float("nan"), float("nan"))
        bounds = binomtest(self.count, self.n).proportion_ci(0.95, method="wilson")
        return (100.0 * bounds.low, 100.0 * bounds.high)


def rate(results: Iterable[RolloutResult], predicate: Callable[[RolloutResult], bool]) -> Rate:
    """Share of ``results`` for which ``predicate`` holds."""
    values = [bool(predicate(result)) for result in results]
    return Rate(sum(values), len(values))


def success_rate(results: Iterable[RolloutResult]) -> Rate:
    """TSR."""
    return rate(results, lambda result: result.success)


def violation_rate(results: Iterable[RolloutResult], rule: str | None = None) -> Rate:
    """SVR, or the rate of one rule."""
    return rate(results, lambda r: bool(r.rules) if rule is None else rule in r.rules)


def safe_success_rate(results: Iterable[RolloutResult]) -> Rate:
    """FTS: success without any violation."""
    return rate(results, lambda result: result.success and not result.rules)


def unsafe_success_rate(results: Iterable[RolloutResult]) -> Rate:
    """SBU: success with a violation."""
    return rate(results, lambda result: result.success and bool(result.rules))
