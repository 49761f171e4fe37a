"""Drift: the policy must not act too differently from a reference policy that is shown the same images."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.rules.per_dimension import Numbers, spread
from vlaforget_ros.safety.samples import ActionSample, ReferenceSample

_WAITING = 64
"""Actions that may wait for their counterpart: the slower policy may be that far behind."""


class DriftSettings(RuleSettings):
    """Largest distance to the reference.

    Args:
        limit: normalised distance of the two actions, 0..1.
        span: difference that counts as 1, one for all dimensions or a list [robot units]; larger ones count as 1 too.
            The distance is the mean over the dimensions.
    """

    type: Literal["drift"] = "drift"
    limit: float = Field(gt=0.0, le=1.0)
    span: Numbers

    def slow_until(self) -> float | None:
        """The limit."""
        return self.limit

    @model_validator(mode="after")
    def _positive(self) -> DriftSettings:
        if any(number <= 0.0 for number in (self.span if isinstance(self.span, tuple) else (self.span,))):
            raise ValueError(f"span {self.span} must be above 0 in every dimension")
        return self


class Drift:
    """Broken while the distance of the two actions for one image is above the limit.

    They are paired by the stamp of their image (without one by rollout and step), whichever comes first. Hold actions
    say nothing about a policy. An action for which the reference gives none is not judged: ``stale_input`` of
    ``reference_action`` watches that the reference is there.
    """

    judges: ClassVar[tuple[type, ...]] = (ActionSample, ReferenceSample)

    def __init__(self, settings: DriftSettings) -> None:
        self.settings = settings
        self._waiting: dict[tuple[bool, float | tuple[str, int]], ActionSample] = {}

    def check(self, sample: ActionSample) -> Reading | None:
        """The distance against the limit, once both actions are there."""
        if sample.fault:
            return None
        ours = not isinstance(sample, ReferenceSample)
        other = self._waiting.pop((not ours, sample.moment), None)
        if other is None:
            self._waiting[ours, sample.moment] = sample
            if len(self._waiting) > _WAITING:
                del self._waiting[next(iter(self._waiting))]
            return None
        action, reference = (sample, other) if ours else (other, sample)
        distance = self._distance(action, reference)
        text = f"action {action.step} differs from the reference by {distance:.3f}"
        if math.isinf(distance):
            text = f"action {action.step} cannot be compared with the reference"
        return Reading(distance > self.settings.limit, distance, self.settings.limit, "", text)

    def restart(self) -> None:
        """Actions of before are paired with none."""
        self._waiting.clear()

    def _distance(self, action: ActionSample, reference: ActionSample) -> float:
        spans = spread(self.settings.span, len(action.action))
        if len(action.action) != len(reference.action) or not (action.finite and reference.finite):
            return math.inf
        if not spans:
            return math.inf
        shares = [
            min(abs(a - r) / span, 1.0)
            for a, r, span in zip(action.action, reference.action, spans, strict=True)
        ]
        return sum(shares) / len(shares)
