"""Workspace: the end effector must stay inside an axis-aligned box."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vlaforget_ros.safety.rules.base import PoseSample, Reading, RuleSettings

Point = tuple[float, float, float]


class WorkspaceSettings(RuleSettings):
    """The box the arm works in.

    Args:
        low_m: smallest corner [m].
        high_m: largest corner [m].
    """

    type: Literal["workspace"] = "workspace"
    low_m: Point
    high_m: Point

    @model_validator(mode="after")
    def _ordered(self) -> WorkspaceSettings:
        if any(low >= high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise ValueError(f"low_m {self.low_m} must be below high_m {self.high_m} on every axis")
        return self


class Workspace:
    """Broken while the point is outside the box; the value is how far outside on the worst axis [m]."""

    def __init__(self, settings: WorkspaceSettings) -> None:
        self.settings = settings

    def check(self, sample: PoseSample) -> Reading:
        """How far the point is outside the box [m]; negative inside."""
        outside = max(
            max(low - p, p - high)
            for low, p, high in zip(self.settings.low_m, sample.position, self.settings.high_m, strict=True)
        )
        where = ", ".join(f"{p:.3f}" for p in sample.position)
        return Reading(outside > 0.0, outside, 0.0, "m", f"end effector at ({where}) m left the workspace")

    def restart(self) -> None:
        """Nothing to forget."""
