"""Messages to samples, for live messages and for those of a bag alike: only their fields are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.rules.base import Severity
from vlaforget_ros.safety.samples import (
    ActionSample,
    DistanceSample,
    JointSample,
    Point,
    PoseSample,
    ReferenceSample,
    Sample,
    WrenchSample,
)


def seconds(stamp: Any) -> float:
    """builtin_interfaces/Time in seconds."""
    return (int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)) / 1_000_000_000


def pose_sample(message: Any) -> PoseSample:
    """geometry_msgs/PoseStamped."""
    return PoseSample(
        seconds(message.header.stamp), _point(message.pose.position), str(message.header.frame_id)
    )


def joint_sample(message: Any) -> JointSample:
    """sensor_msgs/JointState. Velocities that are not all there, or not finite, count as not reported."""
    positions = tuple(float(value) for value in message.position)
    velocities = tuple(float(value) for value in message.velocity)
    # Some drivers fill the field with NaN where they measure nothing.
    if len(velocities) != len(positions) or not all(math.isfinite(value) for value in velocities):
        velocities = ()
    names = tuple(str(name) for name in message.name)
    return JointSample(seconds(message.header.stamp), names, positions, velocities)


def wrench_sample(message: Any) -> WrenchSample:
    """geometry_msgs/WrenchStamped."""
    wrench = message.wrench
    return WrenchSample(seconds(message.header.stamp), _point(wrench.force), _point(wrench.torque))


def distance_sample(message: Any) -> DistanceSample:
    """sensor_msgs/Range, with the infinities of REP 117.

    Nothing in range (+inf, or beyond ``max_range``) is a person at ``max_range``; too near to be measured (-inf, or
    under ``min_range``) is one at 0 m. NaN stays: it cannot be judged.
    """
    distance, nearest, farthest = (
        float(value) for value in (message.range, message.min_range, message.max_range)
    )
    if distance < nearest:
        distance = 0.0
    elif distance > farthest:
        distance = farthest
    return DistanceSample(seconds(message.header.stamp), distance)


def action_sample(message: Any, kind: type[ActionSample] = ActionSample) -> ActionSample:
    """vlaforget_ros/PolicyAction."""
    return kind(
        seconds(message.header.stamp),
        str(message.rollout_id),
        int(message.step),
        tuple(float(value) for value in message.action),
        str(message.adapter_digest),
        int(message.fault),
        observed_s=seconds(message.observation_stamp),
    )


READERS: dict[str, Callable[[Any], Sample]] = {
    "ee_pose": pose_sample,
    "joint_states": joint_sample,
    "wrench": wrench_sample,
    "human_distance": distance_sample,
    "action": action_sample,
    "reference_action": partial(action_sample, kind=ReferenceSample),
}
"""Input, which is also the relative name of its topic, to how its messages are read."""


def event_of(message: Any) -> Event:
    """vlaforget_ros/SafetyViolation as the monitor's event."""
    return Event(
        str(message.rule),
        Severity(min(max(int(message.severity), 0), int(Severity.STOP))),
        seconds(message.header.stamp),
        float(message.value),
        float(message.limit),
        str(message.unit),
        str(message.message),
        str(message.rollout_id),
        str(message.adapter_digest),
    )


ENDS: dict[int, bool | None] = {1: True, 2: False, 3: None}
"""Rollout.phase of an end to whether it was a success; None when it was aborted. 0 is a start."""


def _point(vector: Any) -> Point:
    return float(vector.x), float(vector.y), float(vector.z)
