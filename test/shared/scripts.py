"""A scripted run of an arm as messages with receipt times, to be recorded or fed to a monitor."""

from __future__ import annotations

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

SECOND = 1_000_000_000
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


def new(msgtype: str, *values: Any, **fields: Any) -> Any:
    """A message of rosbags' typestore."""
    return typestore().types[msgtype](*values, **fields)


def header(stamp_ns: int, frame: str = "cell") -> Any:
    return new("std_msgs/msg/Header", ns_to_stamp(stamp_ns), frame)


def vector(*values: float) -> Any:
    return new("geometry_msgs/msg/Vector3", *(float(v) for v in values))


@dataclass
class Script:
    """Messages in order of receipt; each is stamped a little before it is received.

    Args:
        start_ns: first receipt time.
    """

    start_ns: int = 1_000 * SECOND
    messages: list[tuple[int, str, Any]] = field(default_factory=list)
    now_ns: int = 0
    rollout_id: str = ""
    digest: str = ""
    step: int = 0

    def wait(self, seconds: float) -> Script:
        self.now_ns += round(seconds * SECOND)
        return self

    def put(self, topic: str, message: Any) -> Script:
        self.messages.append((self.start_ns + self.now_ns, topic, message))
        return self

    @property
    def stamp_ns(self) -> int:
        return self.start_ns + self.now_ns - 2_000_000

    def begin(self, rollout_id: str, digest: str = "") -> Script:
        self.rollout_id, self.digest, self.step = rollout_id, digest, 0
        return self._rollout(0)

    def end(self, phase: int) -> Script:
        self._rollout(phase)
        self.rollout_id = ""
        return self

    def pose(self, x: float, y: float = 0.0, z: float = 0.0, frame: str = "cell") -> Script:
        point = new("geometry_msgs/msg/Point", float(x), float(y), float(z))
        upright = new("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0)
        pose = new("geometry_msgs/msg/Pose", point, upright)
        return self.put("ee_pose", new(POSE, header(self.stamp_ns, frame), pose))

    def joints(self, **positions: float) -> Script:
        values = np.array(list(positions.values()), dtype=np.float64)
        none = np.zeros(0)
        return self.put(
            "joint_states", new(JOINT_STATE, header(self.stamp_ns), list(positions), values, none, none)
        )

    def wrench(self, *force: float) -> Script:
        content = new("geometry_msgs/msg/Wrench", vector(*force), vector(0, 0, 0))
        return self.put("wrench", new(WRENCH, header(self.stamp_ns), content))

    def person(self, distance: float) -> Script:
        fields = {
            "radiation_type": 1,
            "field_of_view": 0.5,
            "min_range": 0.1,
            "max_range": 5.0,
            "variance": 0.0,
        }
        return self.put(
            "human_distance", new(RANGE, header=header(self.stamp_ns), range=float(distance), **fields)
        )

    def action(self, *values: float, fault: int = 0) -> Script:
        message = new(
            POLICY_ACTION,
            header=header(self.stamp_ns),
            observation_stamp=ns_to_stamp(self.stamp_ns),
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
        """Somebody else's violation."""
        message = new(
            SAFETY_VIOLATION,
            header=header(self.stamp_ns),
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
        """Write all messages but those of one topic."""
        prefix = f"/{namespace}/" if namespace else "/"
        with BagSink(path, storage=storage) as sink:
            for time_ns, topic, message in self.messages:
                if topic != lacking:
                    sink.add_topic(prefix + topic, TYPES[topic])
                    sink.write(prefix + topic, typestore().serialize_cdr(message, TYPES[topic]), time_ns)
        return path

    def _rollout(self, phase: int) -> Script:
        message = new(
            ROLLOUT,
            header=header(self.stamp_ns),
            rollout_id=self.rollout_id,
            instruction="open the faucet",
            adapter_digest=self.digest,
            arm=0,
            phase=phase,
            steps=self.step,
        )
        return self.put("rollout", message)
