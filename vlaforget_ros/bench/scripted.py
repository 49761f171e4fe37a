"""A scripted run of an arm as messages with receipt times: to be recorded, or fed to a monitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlaforget_ros.episodes import BagSink
from vlaforget_ros.episodes.messages import (
    JOINT_STATE,
    POLICY_ACTION,
    POSE,
    RANGE,
    ROLLOUT,
    ROLLOUT_OUTCOME,
    SAFETY_VIOLATION,
    WRENCH,
    ns_to_stamp,
    typestore,
)
from vlaforget_ros.safety.config import SafetyConfig
from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.feed import feed
from vlaforget_ros.safety.monitor import SafetyMonitor
from vlaforget_ros.safety.replay import TICK_NS

SECOND = 1_000_000_000
DELAY_NS = 2_000_000
"""From the stamp of a message to its receipt [ns]."""

TYPES = {
    "ee_pose": POSE,
    "joint_states": JOINT_STATE,
    "wrench": WRENCH,
    "human_distance": RANGE,
    "action": POLICY_ACTION,
    "rollout": ROLLOUT,
    "outcome": ROLLOUT_OUTCOME,
    "safety/violation": SAFETY_VIOLATION,
}

Received = tuple[int, str, Any]
"""Receipt time [ns], relative topic, message."""


@dataclass
class Script:
    """Messages in order of receipt; every method that adds or waits gives the script back.

    Args:
        start_ns: receipt time at the beginning [ns].
        frame: of positions.
    """

    start_ns: int = 1_000 * SECOND
    frame: str = "cell"
    messages: list[Received] = field(default_factory=list)
    now_ns: int = 0
    rollout_id: str = ""
    digest: str = ""
    step: int = 0

    def wait(self, seconds: float) -> Script:
        """Time passes [s]."""
        self.now_ns += round(seconds * SECOND)
        return self

    def until(self, now_ns: int) -> Script:
        """Time passes up to a moment after the beginning [ns]."""
        self.now_ns = max(self.now_ns, now_ns)
        return self

    def put(self, topic: str, message: Any) -> Script:
        """A message is received now."""
        self.messages.append((self.start_ns + self.now_ns, topic, message))
        return self

    def begin(self, rollout_id: str, digest: str = "") -> Script:
        """A rollout starts."""
        self.rollout_id, self.digest, self.step = rollout_id, digest, 0
        return self._rollout(0)

    def end(self, phase: int) -> Script:
        """The rollout ends: 1 succeeded, 2 failed, 3 aborted."""
        self._rollout(phase)
        self.rollout_id = ""
        return self

    def pose(self, x: float, y: float = 0.0, z: float = 0.0, frame: str | None = None) -> Script:
        """End effector [m]."""
        point = _new("geometry_msgs/msg/Point", float(x), float(y), float(z))
        upright = _new("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0)
        pose = _new("geometry_msgs/msg/Pose", point, upright)
        return self.put("ee_pose", _new(POSE, self._header(frame), pose))

    def joints(
        self, names: Sequence[str], positions: Sequence[float], velocities: Sequence[float] = ()
    ) -> Script:
        """Joint positions [rad] and, where given, velocities [rad/s]."""
        values = [np.array(one, dtype=np.float64) for one in (positions, velocities, ())]
        return self.put("joint_states", _new(JOINT_STATE, self._header(), list(names), *values))

    def wrench(self, *force: float) -> Script:
        """Force x y z [N]."""
        vectors = [_new("geometry_msgs/msg/Vector3", *(float(v) for v in one)) for one in (force, (0, 0, 0))]
        return self.put("wrench", _new(WRENCH, self._header(), _new("geometry_msgs/msg/Wrench", *vectors)))

    def person(self, distance: float) -> Script:
        """Distance of the nearest person [m]."""
        limits = {"field_of_view": 0.5, "min_range": 0.125, "max_range": 5.0, "variance": 0.0}
        # What the message can hold, so that a bag gives back what was fed.
        kept = float(np.float32(distance))
        message = _new(RANGE, header=self._header(), radiation_type=1, range=kept, **limits)
        return self.put("human_distance", message)

    def action(self, *values: float, fault: int = 0) -> Script:
        """An action of the running rollout [robot units]."""
        message = _new(
            POLICY_ACTION,
            header=self._header(),
            observation_stamp=ns_to_stamp(self._stamp_ns),
            rollout_id=self.rollout_id,
            step=self.step,
            action=np.array(values, dtype=np.float32),
            adapter_digest=self.digest,
            base_digest="",
            speed_scale=1.0,
            inference_ms=1.0,
            fault=fault,
        )
        self.step += 1
        return self.put("action", message)

    def seen(self, rule: str, severity: int = 0) -> Script:
        """Somebody else reports a violation."""
        message = _new(
            SAFETY_VIOLATION,
            header=self._header(),
            rollout_id=self.rollout_id,
            adapter_digest=self.digest,
            rule=rule,
            severity=severity,
            value=1.0,
            limit=0.0,
            unit="",
            message="seen",
        )
        return self.put("safety/violation", message)

    def record(
        self, path: Path, namespace: str = "", storage: Literal["mcap", "sqlite3"] = "mcap", lacking: str = ""
    ) -> Path:
        """Write all messages, but those of one topic, to a new bag; returns its path.

        Raises:
            UnlearningError: 310 when the folder exists or cannot be made.
        """
        prefix = f"/{namespace}/" if namespace else "/"
        with BagSink(path, storage=storage, flush_every_s=0) as sink:
            for time_ns, topic, message in self.messages:
                if topic != lacking:
                    sink.add_topic(prefix + topic, TYPES[topic])
                    sink.write(prefix + topic, typestore().serialize_cdr(message, TYPES[topic]), time_ns)
        return path

    @property
    def _stamp_ns(self) -> int:
        return self.start_ns + self.now_ns - DELAY_NS

    def _header(self, frame: str | None = None) -> Any:
        name = self.frame if frame is None else frame
        return _new("std_msgs/msg/Header", ns_to_stamp(self._stamp_ns), name)

    def _rollout(self, phase: int) -> Script:
        message = _new(
            ROLLOUT,
            header=self._header(),
            rollout_id=self.rollout_id,
            instruction="open the faucet",
            adapter_digest=self.digest,
            arm=0,
            phase=phase,
            steps=self.step,
        )
        return self.put("rollout", message)


def live(config: SafetyConfig, messages: Sequence[Received]) -> tuple[list[tuple[int, Event]], SafetyMonitor]:
    """What the node does: each message when it arrives, and a tick of its steady timer in between.

    Args:
        config: rules.
        messages: in order of receipt.

    Returns:
        Events with the time at which they were seen [ns], and the monitor.
    """
    now_ns = 0
    monitor = SafetyMonitor(config, lambda: now_ns / SECOND)
    start_ns, events = messages[0][0], []
    for time_ns, topic, message in messages:
        goal = time_ns - start_ns
        for tick in range((now_ns // TICK_NS + 1) * TICK_NS, goal + 1, TICK_NS):
            now_ns = tick
            events += [(start_ns + tick, event) for event in monitor.tick()]
        now_ns = goal
        events += [(time_ns, event) for event in feed(monitor, topic, message)]
    return events, monitor


def _new(msgtype: str, *values: Any, **fields: Any) -> Any:
    return typestore().types[msgtype](*values, **fields)
