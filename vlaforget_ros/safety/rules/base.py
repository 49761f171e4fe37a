"""What every rule shares: the sample it judges, the reading it gives, the settings all rules have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Severity(IntEnum):
    """What a broken rule does to the arm; the numbers of SafetyViolation.severity."""

    WARN = 0
    """Counted, the arm goes on."""
    SLOW = 1
    """Counted, and commanded motion is scaled down while it lasts."""
    STOP = 2
    """Counted, and the arm holds until an operator releases it."""


@dataclass(frozen=True)
class PoseSample:
    """One end-effector pose.

    Args:
        stamp_s: when it was measured [s], on the clock of the data.
        position: x y z [m] in ``frame``.
        frame: coordinate frame of the position.
    """

    stamp_s: float
    position: tuple[float, float, float]
    frame: str

    @property
    def finite(self) -> bool:
        """Whether stamp and position are usable numbers."""
        return math.isfinite(self.stamp_s) and all(math.isfinite(p) for p in self.position)


@dataclass(frozen=True)
class Reading:
    """What a rule says about one sample.

    Args:
        broken: the sample breaks the rule.
        value: what was measured, in ``unit``.
        limit: what is allowed, in ``unit``.
        unit: SI unit.
        message: one clause for a person.
    """

    broken: bool
    value: float
    limit: float
    unit: str
    message: str


class RuleSettings(BaseModel):
    """Settings that every rule has.

    Args:
        type: which rule this is, a key of the registry.
        id: name in messages and statistics, e.g. ``keep_out/hand_zone``.
        severity: warn, slow or stop.
        trigger_s: the rule must be broken this long before it counts [s].
        release_s: the rule must be kept this long before it can count again [s].
        speed_scale: commanded motion is multiplied by this while a ``slow`` rule is broken, 0..1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    id: str = Field(min_length=1)
    severity: Literal["warn", "slow", "stop"] = "warn"
    trigger_s: float = Field(default=0.0, ge=0.0, le=60.0)
    release_s: float = Field(default=0.5, ge=0.0, le=60.0)
    speed_scale: float = Field(default=0.3, ge=0.0, le=1.0)

    @property
    def level(self) -> Severity:
        """The severity as its number."""
        return Severity[self.severity.upper()]


class Rule(Protocol):
    """One rule. Not thread-safe: the monitor's thread calls it."""

    @property
    def settings(self) -> RuleSettings:
        """The settings it was made from."""

    def check(self, sample: PoseSample) -> Reading | None:
        """Judge a finite sample; ``None`` when there is not enough history for a judgement."""

    def restart(self) -> None:
        """Forget history: a new rollout, a jump of the clock or of the arm."""
