"""Wrench: force and torque at the wrist."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import WrenchSample


class WrenchSettings(RuleSettings):
    """Largest norms; at least one of them. ``slow_from`` is a share of the limit, 0..1.

    Args:
        limit_n: largest force [N].
        limit_nm: largest torque [Nm].
    """

    type: Literal["wrench"] = "wrench"
    limit_n: float | None = Field(default=None, gt=0.0)
    limit_nm: float | None = Field(default=None, gt=0.0)

    def slow_until(self) -> float | None:
        """The whole share."""
        return 1.0

    @model_validator(mode="after")
    def _some(self) -> WrenchSettings:
        if self.limit_n is None and self.limit_nm is None:
            raise ValueError("no limit: give limit_n, limit_nm or both")
        return self


class Wrench:
    """Broken while force or torque is above its limit; the value is that of the worse one."""

    judges: ClassVar[tuple[type, ...]] = (WrenchSample,)

    def __init__(self, settings: WrenchSettings) -> None:
        self.settings = settings

    def check(self, sample: WrenchSample) -> Reading | None:
        """Norms of force [N] and torque [Nm] against their limits."""
        found = []
        for name, vector, limit, unit in (
            ("force", sample.force, self.settings.limit_n, "N"),
            ("torque", sample.torque, self.settings.limit_nm, "Nm"),
        ):
            if limit is not None:
                size = math.hypot(*vector)
                found.append(
                    Reading(size > limit, size, limit, unit, f"{name} of {size:.2f} {unit}", size / limit)
                )
        return max(found, key=lambda reading: reading.share or 0.0)

    def restart(self) -> None:
        """Nothing to forget."""
