"""Keep-out zone: the end effector must stay out of an axis-aligned box."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlaforget_ros.safety.rules.base import PoseSample, Reading, RuleSettings

Point = tuple[float, float, float]


class KeepOutSettings(RuleSettings):
    """A box nobody's arm may enter.

    Args:
        low_m: smallest corner [m].
        high_m: largest corner [m].
        margin_m: the box is grown by this on every side [m].
    """

    type: Literal["keep_out"] = "keep_out"
    low_m: Point
    high_m: Point
    margin_m: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _ordered(self) -> KeepOutSettings:
        if any(low >= high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise ValueError(f"low_m {self.low_m} must be below high_m {self.high_m} on every axis")
        return self


class KeepOut:
    """Broken while the point is inside the box or on its border; the value is the depth inside [m]."""

    def __init__(self, settings: KeepOutSettings) -> None:
        self.settings = settings

    def check(self, sample: PoseSample) -> Reading:
        """Depth of the point inside the grown box [m]; negative outside (distance along the worst axis)."""
        margin = self.settings.margin_m
        depth = min(
            min(p - (low - margin), (high + margin) - p)
            for low, p, high in zip(self.settings.low_m, sample.position, self.settings.high_m, strict=True)
        )
        where = ", ".join(f"{p:.3f}" for p in sample.position)
        return Reading(depth >= 0.0, depth, 0.0, "m", f"end effector at ({where}) m is inside the zone")

    def restart(self) -> None:
        """Nothing to forget."""
