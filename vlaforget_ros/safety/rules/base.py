"""What every rule shares: the reading it gives, the settings all rules have, and how a slow-down is graded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlaforget_ros.safety.samples import Point


class Severity(IntEnum):
    """What a broken rule does to the arm; the numbers of SafetyViolation.severity."""

    WARN = 0
    """Counted, the arm goes on."""
    SLOW = 1
    """Counted, and commanded motion is scaled down while it lasts."""
    STOP = 2
    """Counted, and the arm holds until an operator releases it."""


@dataclass(frozen=True)
class Reading:
    """What a rule says about one sample.

    Args:
        broken: the sample breaks the rule.
        value: what was measured, in ``unit``.
        limit: what is allowed, in ``unit``.
        unit: SI unit.
        message: one clause for a person.
        share: ``value`` as a share of ``limit``, from rules whose parts have different units: their ``slow_from``
            is a share, too.
    """

    broken: bool
    value: float
    limit: float
    unit: str
    message: str
    share: float | None = None


class RuleSettings(BaseModel):
    """Settings that every rule has.

    Args:
        type: which rule this is, a key of the registry.
        id: name in messages and statistics, e.g. ``keep_out/hand_zone``.
        severity: warn, slow or stop.
        trigger_s: the rule must be broken this long before it counts [s].
        release_s: the rule must be kept this long before it can count again [s].
        speed_scale: commanded motion is multiplied by this while a ``slow`` rule is broken, 0..1.
        slow_from: motion is slowed from this value on, in the unit of the rule's limit: the factor falls from 1
            here to ``speed_scale`` at the limit, and stays there beyond. Slowing is no violation. None: no slowing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: str
    id: str = Field(min_length=1)
    severity: Literal["warn", "slow", "stop"] = "warn"
    trigger_s: float = Field(default=0.0, ge=0.0, le=60.0)
    release_s: float = Field(default=0.5, ge=0.0, le=60.0)
    speed_scale: float = Field(default=0.3, ge=0.0, le=1.0)
    slow_from: float | None = None

    falls: ClassVar[bool] = False
    """The rule is broken below its limit (a distance), not above it."""

    @property
    def level(self) -> Severity:
        """The severity as its number."""
        return Severity[self.severity.upper()]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs to subscribe to beyond those of the samples that the rule judges."""
        return ()

    def slow_until(self) -> float | None:
        """Value at which slowing ends: the limit, or the one nearest to ``slow_from``; None: it cannot be graded."""
        return None

    @model_validator(mode="after")
    def _slows_before_the_limit(self) -> RuleSettings:
        if self.slow_from is None:
            return self
        limit = self.slow_until()
        if limit is None:
            raise ValueError(
                f"slow_from {self.slow_from:g}: a rule of type {self.type} is kept or broken only"
            )
        if self.slow_from <= limit if self.falls else self.slow_from >= limit:
            side = "above" if self.falls else "below"
            raise ValueError(f"slow_from {self.slow_from:g} must be {side} the limit {limit:g}")
        return self


class Rule(Protocol):
    """One rule. Not thread-safe: the monitor's thread calls it."""

    judges: ClassVar[tuple[type, ...]]
    """Sample types that :meth:`check` is given."""

    @property
    def settings(self) -> RuleSettings:
        """The settings it was made from."""

    def check(self, sample: Any) -> Reading | None:
        """Judge a usable sample of :attr:`judges`; ``None`` when there is not enough history for a judgement."""

    def restart(self) -> None:
        """Forget history: a new rollout, a jump of the clock or of the arm."""


@runtime_checkable
class Places(Protocol):
    """A rule about one position and nothing else, so that it can be asked what would be."""

    judges: ClassVar[tuple[type, ...]]
    settings: RuleSettings

    def at(self, position: Point) -> Reading:
        """Judge a position [m]; the same as checking a pose there, and without memory."""


@runtime_checkable
class ExpectsAdapter(Protocol):
    """A rule that has to know which adapter shall drive."""

    def expect(self, digest: str | None) -> None:
        """The adapter's digest, "" for the base model, None for no expectation."""


def slow_scale(settings: RuleSettings, reading: Reading) -> float:
    """Factor on motion that a reading calls for, before or at the limit, in ``speed_scale``..1."""
    start = settings.slow_from
    if start is None:
        return 1.0
    value, limit = (reading.value, reading.limit) if reading.share is None else (reading.share, 1.0)
    if not math.isfinite(value):
        return settings.speed_scale
    if settings.falls:
        value, limit, start = -value, -limit, -start
    if value >= limit:
        return settings.speed_scale
    if value <= start:
        return 1.0
    return 1.0 - (1.0 - settings.speed_scale) * (value - start) / (limit - start)
