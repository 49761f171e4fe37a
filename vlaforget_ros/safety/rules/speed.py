"""Speed: the end effector must not move faster than a limit, measured between stamped poses."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import PoseSample


class SpeedSettings(RuleSettings):
    """Largest end-effector speed.

    Args:
        limit_m_s: largest speed [m/s]; 0.25 is the usual limit of reduced-speed operation.
        max_gap_s: samples further apart than this say nothing about speed (the arm was re-posed) [s].
        min_gap_s: samples closer than this are dropped, the difference would be noise [s].
    """

    type: Literal["speed"] = "speed"
    limit_m_s: float = Field(default=0.25, gt=0.0, le=10.0)
    max_gap_s: float = Field(default=0.5, gt=0.0, le=10.0)
    min_gap_s: float = Field(default=0.005, gt=0.0, le=1.0)

    def slow_until(self) -> float | None:
        """The limit."""
        return self.limit_m_s


class Speed:
    """Broken while the mean speed between two successive samples is above the limit [m/s]."""

    judges: ClassVar[tuple[type, ...]] = (PoseSample,)

    def __init__(self, settings: SpeedSettings) -> None:
        self.settings = settings
        self._last: PoseSample | None = None

    def check(self, sample: PoseSample) -> Reading | None:
        """Mean speed since the last sample [m/s]; ``None`` for the first of a movement."""
        last = self._last
        gap = 0.0 if last is None else sample.stamp_s - last.stamp_s
        if last is not None and 0.0 <= gap < self.settings.min_gap_s:
            return None
        self._last = sample
        if last is None or gap < 0.0 or gap > self.settings.max_gap_s or last.frame != sample.frame:
            return None
        speed = math.dist(last.position, sample.position) / gap
        limit = self.settings.limit_m_s
        message = f"end effector at {speed:.3f} m/s"
        return Reading(speed > limit, speed, limit, "m/s", message)

    def restart(self) -> None:
        """The next sample starts a new movement."""
        self._last = None
