"""What the monitor judges: one small value a message, each with its stamp and the input it came from.

A sample that cannot be judged says why in ``problem``; the monitor then takes it for none at all, so that an input
which only sends such samples goes stale and the arm holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

Point = tuple[float, float, float]
"""x y z."""


@dataclass(frozen=True)
class PoseSample:
    """One end-effector pose.

    Args:
        stamp_s: when it was measured [s], on the clock of the data.
        position: x y z [m] in ``frame``.
        frame: coordinate frame of the position.
    """

    input: ClassVar[str] = "ee_pose"
    stamp_s: float
    position: Point
    frame: str

    @property
    def problem(self) -> str:
        """Why it cannot be judged, "" when it can."""
        return "" if _finite((self.stamp_s, *self.position)) else "the pose is not finite"


@dataclass(frozen=True)
class JointSample:
    """Joints of the arm, or of a part of it.

    Args:
        stamp_s: when it was measured [s].
        names: joint names, each once.
        positions: one for each name [rad, or m for a sliding joint].
        velocities: one for each name [rad/s or m/s], or () where the driver reports none.
    """

    input: ClassVar[str] = "joint_states"
    stamp_s: float
    names: tuple[str, ...]
    positions: tuple[float, ...]
    velocities: tuple[float, ...] = ()

    @property
    def problem(self) -> str:
        """Why it cannot be judged, "" when it can."""
        if len(self.positions) != len(self.names) or len(self.velocities) not in (0, len(self.names)):
            return (
                f"{len(self.names)} joint names with {len(self.positions)} positions"
                f" and {len(self.velocities)} velocities"
            )
        if len(set(self.names)) != len(self.names):
            return "a joint is named twice"
        good = _finite((self.stamp_s, *self.positions, *self.velocities))
        return "" if good else "the joints are not finite"


@dataclass(frozen=True)
class WrenchSample:
    """Force and torque at the wrist.

    Args:
        stamp_s: when it was measured [s].
        force: x y z [N].
        torque: x y z [Nm].
    """

    input: ClassVar[str] = "wrench"
    stamp_s: float
    force: Point
    torque: Point

    @property
    def problem(self) -> str:
        """Why it cannot be judged, "" when it can."""
        return "" if _finite((self.stamp_s, *self.force, *self.torque)) else "the wrench is not finite"


@dataclass(frozen=True)
class DistanceSample:
    """Distance between a person and the robot.

    Args:
        stamp_s: when it was measured [s].
        distance_m: smallest distance [m], not negative.
        closing_m_s: how fast it shrinks [m/s], None where nobody measures it.
    """

    input: ClassVar[str] = "human_distance"
    stamp_s: float
    distance_m: float
    closing_m_s: float | None = None

    @property
    def problem(self) -> str:
        """Why it cannot be judged, "" when it can."""
        if not _finite((self.stamp_s, self.distance_m, self.closing_m_s or 0.0)):
            return "the distance is not finite"
        return "the distance is negative" if self.distance_m < 0.0 else ""


@dataclass(frozen=True)
class ActionSample:
    """One action of the policy.

    Its numbers may be non-finite: that is for rule ``action_range`` to judge.

    Args:
        stamp_s: when it was published [s].
        rollout_id: rollout it belongs to.
        step: control tick within the rollout, from 0.
        action: (A,) robot units.
        adapter_digest: adapter that made it, "" for the base model.
        fault: 0, or why this is the hold action.
        chunk_start: first action of a chunk, where somebody knows.
        observed_s: stamp of the image it was computed from [s], 0 where nobody knows.
    """

    input: ClassVar[str] = "action"
    stamp_s: float
    rollout_id: str
    step: int
    action: tuple[float, ...]
    adapter_digest: str = ""
    fault: int = 0
    chunk_start: bool = False
    observed_s: float = 0.0

    @property
    def moment(self) -> float | tuple[str, int]:
        """What it has in common with another policy's action for the same image."""
        return self.observed_s or (self.rollout_id, self.step)

    @property
    def finite(self) -> bool:
        """Whether every number of the action is finite."""
        return _finite(self.action)

    @property
    def problem(self) -> str:
        """Why it cannot be judged, "" when it can."""
        return "" if math.isfinite(self.stamp_s) else "the stamp of the action is not finite"


@dataclass(frozen=True)
class ReferenceSample(ActionSample):
    """What a reference policy would have done; nothing carries it out."""

    input: ClassVar[str] = "reference_action"


@dataclass(frozen=True)
class TickSample:
    """Time has passed; made by the monitor itself, for rules about what did *not* arrive.

    Args:
        stamp_s: now [s] on the steady clock, not on that of the data.
        ages: input to the time since its last usable sample, or since the watch or the rollout began [s].
        running: a rollout runs.
    """

    input: ClassVar[str] = ""
    stamp_s: float
    ages: Mapping[str, float] = field(default_factory=dict)
    running: bool = False

    @property
    def problem(self) -> str:
        """Nothing is ever wrong with it."""
        return ""


Sample = (
    PoseSample | JointSample | WrenchSample | DistanceSample | ActionSample | ReferenceSample | TickSample
)
"""Anything that a rule may judge."""

INPUTS: dict[str, type] = {
    kind.input: kind
    for kind in (PoseSample, JointSample, WrenchSample, DistanceSample, ActionSample, ReferenceSample)
}
"""Input, as its topic is called where it has one, to the samples it gives."""

NAMES: dict[type, str] = {kind: name for name, kind in INPUTS.items()}
"""The other way round; a :class:`TickSample` comes from no input."""

SENSORS = frozenset({"ee_pose", "joint_states", "wrench", "human_distance"})
"""Inputs that show the arm and the people: a rollout without them runs blind. The others are what the policy says."""


def _finite(numbers: Iterable[float]) -> bool:
    return all(math.isfinite(number) for number in numbers)
