"""Drift: the policy must not act too differently from a reference policy."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import DriftSample


class DriftSettings(RuleSettings):
    """Largest distance to the reference.

    Args:
        limit: normalised distance of the two actions, 0..1.
    """

    type: Literal["drift"] = "drift"
    limit: float = Field(gt=0.0, le=1.0)

    def slow_until(self) -> float | None:
        """The limit."""
        return self.limit


class Drift:
    """Broken while the distance is above the limit. Whoever runs the reference policy gives the samples."""

    judges: ClassVar[tuple[type, ...]] = (DriftSample,)

    def __init__(self, settings: DriftSettings) -> None:
        self.settings = settings

    def check(self, sample: DriftSample) -> Reading:
        """The distance against the limit."""
        limit = self.settings.limit
        text = f"action differs from the reference by {sample.distance:.3f}"
        return Reading(sample.distance > limit, sample.distance, limit, "", text)

    def restart(self) -> None:
        """Nothing to forget."""
