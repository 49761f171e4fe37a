"""Action range: what the policy commands must be finite and within bounds in every dimension."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.rules.per_dimension import Numbers, spread
from vlaforget_ros.safety.samples import ActionSample


class ActionRangeSettings(RuleSettings):
    """Bounds of an action; ``slow_from`` is a share of the bound, 0..1, from the middle of the range.

    Args:
        low: smallest value, one for all dimensions or a list [robot units].
        high: largest value, likewise.
    """

    type: Literal["action_range"] = "action_range"
    low: Numbers
    high: Numbers

    def slow_until(self) -> float | None:
        """The whole share."""
        return 1.0

    @model_validator(mode="after")
    def _ordered(self) -> ActionRangeSettings:
        size = max(len(n) if isinstance(n, tuple) else 1 for n in (self.low, self.high))
        lows, highs = spread(self.low, size), spread(self.high, size)
        if lows is None or highs is None:
            raise ValueError(f"low {self.low} and high {self.high} must have one length")
        if any(low >= high for low, high in zip(lows, highs, strict=True)):
            raise ValueError(f"low {self.low} must be below high {self.high} in every dimension")
        return self


class ActionRange:
    """Broken by a number that is not finite or out of its bounds, and by an action of another size than the bounds."""

    judges: ClassVar[tuple[type, ...]] = (ActionSample,)

    def __init__(self, settings: ActionRangeSettings) -> None:
        self.settings = settings

    def check(self, sample: ActionSample) -> Reading | None:
        """The worst dimension; ``None`` for an empty action that carries a fault (nothing was commanded)."""
        values = sample.action
        if not values and sample.fault:
            return None
        if not sample.finite:
            text = f"action {sample.step} has a number that is not finite"
            return Reading(True, float("inf"), 0.0, "", text, float("inf"))
        lows, highs = spread(self.settings.low, len(values)), spread(self.settings.high, len(values))
        if lows is None or highs is None or not values:
            bounds = self.settings.low if isinstance(self.settings.low, tuple) else self.settings.high
            size = len(bounds) if isinstance(bounds, tuple) else 1
            text = f"action {sample.step} has {len(values)} numbers"
            return Reading(True, float(len(values)), float(size), "", text, float("inf"))
        worst = max(range(len(values)), key=lambda i: _share(lows[i], values[i], highs[i]))
        low, value, high = lows[worst], values[worst], highs[worst]
        limit = high if value >= (low + high) / 2.0 else low
        text = f"action {sample.step} commands {value:.4g} in dimension {worst}"
        broken = any(not a <= v <= b for a, v, b in zip(lows, values, highs, strict=True))
        return Reading(broken, value, limit, "", text, _share(low, value, high))

    def restart(self) -> None:
        """Nothing to forget."""


def _share(low: float, value: float, high: float) -> float:
    return abs(value - (low + high) / 2.0) / ((high - low) / 2.0)
