"""From rollouts to figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlaforget_ros.cell.rollouts import RolloutResult
from vlaforget_ros.figures import Figure
from vlaforget_ros.unlearning.rates import Outcome, Rate


def outcomes(results: Iterable[RolloutResult]) -> list[Outcome]:
    """How rollouts of the cell ended, by its own ground truth."""
    return [Outcome(r.situation, r.seed, r.success, r.rules) for r in results]


def of_situations(told: Iterable[Outcome], names: Sequence[str]) -> list[Outcome]:
    """Those of the named situations."""
    return [outcome for outcome in told if outcome.situation in names]


def percent(name: str, rate: Rate) -> Figure:
    """A rate as a figure in percent with its 95 % Wilson interval."""
    return Figure(
        name,
        round(100 * rate.value, 2),
        "percent",
        rate.n,
        round(100 * rate.low, 2),
        round(100 * rate.high, 2),
    )


def snake(name: str) -> str:
    """A situation's name as part of a figure's name."""
    return name.replace("-", "_").replace("+", "_")
