"""Joint limits: position, velocity and acceleration of each named joint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import JointSample


class Joint(BaseModel):
    """Limits of one joint; at least one. Angles [rad], or [m] for a sliding joint.

    Args:
        low: smallest position; with ``high``.
        high: largest position.
        velocity: largest speed in either direction [rad/s or m/s].
        acceleration: largest acceleration in either direction [rad/s² or m/s²]; differences are noisy, be generous.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float | None = None
    high: float | None = None
    velocity: float | None = Field(default=None, gt=0.0)
    acceleration: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _possible(self) -> Joint:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.low is None and self.velocity is None and self.acceleration is None:
            raise ValueError("no limit: give low and high, velocity or acceleration")
        return self


class JointLimitsSettings(RuleSettings):
    """Limits of joints by name; ``slow_from`` is a share of the limit, 0..1 (of a range: from its middle).

    Args:
        joints: joint name to its limits.
        missing_s: a named joint that is in no sample for longer than this breaks the rule [s].
        max_gap_s: samples further apart than this say nothing about velocity and acceleration [s].
        min_gap_s: samples closer than this say nothing about them either [s].
    """

    type: Literal["joint_limits"] = "joint_limits"
    joints: dict[str, Joint] = Field(min_length=1)
    missing_s: float = Field(default=1.0, gt=0.0, le=60.0)
    max_gap_s: float = Field(default=0.5, gt=0.0, le=10.0)
    min_gap_s: float = Field(default=0.001, gt=0.0, le=1.0)

    def slow_until(self) -> float | None:
        """The whole share."""
        return 1.0


@dataclass(frozen=True)
class _State:
    stamp_s: float
    position: float
    velocity: float | None


class JointLimits:
    """Broken while any named joint is beyond one of its limits; the value is that of the worst one.

    Velocities are those of the driver, else differences of positions; accelerations are differences of velocities.
    """

    judges: ClassVar[tuple[type, ...]] = (JointSample,)

    def __init__(self, settings: JointLimitsSettings) -> None:
        self.settings = settings
        self._last: dict[str, _State] = {}
        self._seen: dict[str, float] = {}

    def check(self, sample: JointSample) -> Reading | None:
        """The worst limit of the joints in the sample; ``None`` when none of them is in it."""
        found = [*self._missing(sample)]
        for index, name in enumerate(sample.names):
            joint = self.settings.joints.get(name)
            if joint is not None:
                state = self._state(sample, index)
                found += _readings(name, joint, state, self._acceleration(name, state))
                self._last[name] = state
        return max(found, key=lambda reading: reading.share or 0.0, default=None)

    def restart(self) -> None:
        """The next sample starts new differences."""
        self._last, self._seen = {}, {}

    def _missing(self, sample: JointSample) -> Iterator[Reading]:
        limit = self.settings.missing_s
        for name in self.settings.joints:
            if name in sample.names:
                self._seen[name] = sample.stamp_s
            gone = sample.stamp_s - self._seen.setdefault(name, sample.stamp_s)
            # A part of the arm may be reported by another message: wait for it.
            if gone > limit:
                yield Reading(True, gone, limit, "s", f"joint {name} is in no message", gone / limit)

    def _state(self, sample: JointSample, index: int) -> _State:
        position = sample.positions[index]
        if sample.velocities:
            return _State(sample.stamp_s, position, sample.velocities[index])
        last = self._near(sample.names[index], sample.stamp_s)
        if last is None:
            return _State(sample.stamp_s, position, None)
        return _State(sample.stamp_s, position, (position - last.position) / (sample.stamp_s - last.stamp_s))

    def _acceleration(self, name: str, state: _State) -> float | None:
        last = self._near(name, state.stamp_s)
        if last is None or last.velocity is None or state.velocity is None:
            return None
        return (state.velocity - last.velocity) / (state.stamp_s - last.stamp_s)

    def _near(self, name: str, stamp_s: float) -> _State | None:
        last = self._last.get(name)
        if last is None:
            return None
        gap = stamp_s - last.stamp_s
        return last if self.settings.min_gap_s <= gap <= self.settings.max_gap_s else None


def _readings(name: str, joint: Joint, state: _State, acceleration: float | None) -> Iterator[Reading]:
    if joint.low is not None and joint.high is not None:
        q, middle = state.position, (joint.low + joint.high) / 2.0
        limit = joint.high if q >= middle else joint.low
        share = (q - middle) / (limit - middle)
        broken = not joint.low <= q <= joint.high
        yield Reading(broken, q, limit, "rad", f"joint {name} at {q:.3f} rad", share)
    for value, largest, unit in (
        (state.velocity, joint.velocity, "rad/s"),
        (acceleration, joint.acceleration, "rad/s²"),
    ):
        if value is not None and largest is not None:
            size = abs(value)
            text = f"joint {name} at {size:.3f} {unit}"
            yield Reading(size > largest, size, largest, unit, text, size / largest)
