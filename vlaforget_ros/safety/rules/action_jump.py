"""Action jump: what the policy commands must not leap from one tick to the next, nor from one chunk to the next."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.rules.per_dimension import Numbers, spread
from vlaforget_ros.safety.samples import ActionSample


class ActionJumpSettings(RuleSettings):
    """Largest change of an action in each dimension; ``slow_from`` is a share of the limit, 0..1.

    Args:
        limit: largest change within a chunk, one for all dimensions or a list [robot units].
        chunk_limit: largest change from the last action of a chunk to the first of the next; as ``limit`` when absent.
        chunk: actions in a chunk, where the policy makes several at once: every step that this divides begins one.
            0: only samples that say so.
        skip: dimensions that may leap, such as a gripper that opens at once.
    """

    type: Literal["action_jump"] = "action_jump"
    limit: Numbers
    chunk_limit: Numbers | None = None
    chunk: int = Field(default=0, ge=0, le=1000)
    skip: tuple[int, ...] = ()

    def slow_until(self) -> float | None:
        """The whole share."""
        return 1.0

    @model_validator(mode="after")
    def _positive(self) -> ActionJumpSettings:
        for name, numbers in (("limit", self.limit), ("chunk_limit", self.chunk_limit)):
            each = numbers if isinstance(numbers, tuple) else (numbers,)
            if any(number is not None and number <= 0.0 for number in each):
                raise ValueError(f"{name} {numbers} must be above 0 in every dimension")
        return self


class ActionJump:
    """Broken when an action differs from that of the step before by more than the limit in any dimension."""

    judges: ClassVar[tuple[type, ...]] = (ActionSample,)

    def __init__(self, settings: ActionJumpSettings) -> None:
        self.settings = settings
        self._last: ActionSample | None = None

    def check(self, sample: ActionSample) -> Reading | None:
        """The largest change since the step before, as a share of its limit; ``None`` without such a step.

        A hold action (one with a fault) may come at any moment and is no jump; the next action starts anew.
        """
        last = self._last
        self._last = None if sample.fault else sample
        if sample.fault or last is None:
            return None
        if last.rollout_id != sample.rollout_id or sample.step != last.step + 1:
            return None
        if len(last.action) != len(sample.action) or not (sample.finite and last.finite):
            text = f"action {sample.step} cannot be compared with the one before"
            return Reading(True, math.inf, 0.0, "", text, math.inf)
        return self._compare(last, sample)

    def restart(self) -> None:
        """The next action starts anew."""
        self._last = None

    def _compare(self, last: ActionSample, sample: ActionSample) -> Reading | None:
        chunk = self.settings.chunk
        starts = sample.chunk_start or (chunk > 0 and sample.step % chunk == 0)
        numbers = self.settings.chunk_limit if starts else None
        limits = spread(self.settings.limit if numbers is None else numbers, len(sample.action))
        if limits is None:
            text = f"action {sample.step} has {len(sample.action)} numbers, its limits have another count"
            return Reading(True, math.inf, 0.0, "", text, math.inf)
        changes = [abs(a - b) for a, b in zip(sample.action, last.action, strict=True)]
        judged = [i for i in range(len(changes)) if i not in self.settings.skip]
        if not judged:
            return None
        worst = max(judged, key=lambda i: changes[i] / limits[i])
        value, limit = changes[worst], limits[worst]
        where = "between chunks" if starts else "between ticks"
        text = f"action {sample.step} leaps by {value:.4g} in dimension {worst} {where}"
        return Reading(value > limit, value, limit, "", text, value / limit)
