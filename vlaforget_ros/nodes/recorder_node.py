"""Records the graph's topics into a rosbag2 while active, message bytes untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from vlaforget_ros.episodes.sink import BagSink
from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.msg import (
    PolicyAction,
    PolicyStatus,
    Rollout,
    RolloutOutcome,
    SafetyStatus,
    SafetyViolation,
)
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.parameters import Parameter

PARAMETERS = (
    Parameter("bag", "", "Folder of the bag to write; empty makes one under out with the date as its name."),
    Parameter("out", "runs/bags", "Where bags without a name go."),
    Parameter("storage", "mcap", "Storage format.", choices=("mcap", "sqlite3")),
)

TOPICS: tuple[tuple[str, type, str, QoSProfile], ...] = (
    ("image", Image, "sensor_msgs/msg/Image", qos.IMAGE),
    ("image/compressed", CompressedImage, "sensor_msgs/msg/CompressedImage", qos.IMAGE),
    ("joint_states", JointState, "sensor_msgs/msg/JointState", qos.STATE),
    ("ee_pose", PoseStamped, "geometry_msgs/msg/PoseStamped", qos.STATE),
    ("instruction", String, "std_msgs/msg/String", qos.LATCHED),
    ("action", PolicyAction, "vlaforget_ros/msg/PolicyAction", qos.ACTION),
    ("rollout", Rollout, "vlaforget_ros/msg/Rollout", qos.LATCHED),
    ("outcome", RolloutOutcome, "vlaforget_ros/msg/RolloutOutcome", qos.STATE),
    ("safety/violation", SafetyViolation, "vlaforget_ros/msg/SafetyViolation", qos.VIOLATION),
    ("safety/status", SafetyStatus, "vlaforget_ros/msg/SafetyStatus", qos.LATCHED),
    ("policy/status", PolicyStatus, "vlaforget_ros/msg/PolicyStatus", qos.LATCHED),
)
# CDR: 4 bytes of encapsulation, then the header's stamp (two 32-bit numbers).
_STAMP = slice(4, 12)
_SENT_AGAIN = ("image", "image/compressed", "joint_states", "ee_pose")


class RecorderNode(VlaNode):
    """Active means recording: each activation writes one bag, and every way out of it closes the bag."""

    specs = PARAMETERS
    threads = 1

    def __init__(self) -> None:
        super().__init__("recorder_node")
        self._sink: BagSink | None = None
        self._inputs: list[Any] = []
        self._newest: dict[str, bytes] = {}
        self._values: Mapping[str, Any] = {}

    def configure(self, values: Mapping[str, Any]) -> None:
        """Take the parameters."""
        self._values = values

    def activate(self) -> None:
        """Open the bag and listen. Raises UnlearningError 310 when it cannot be made."""
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._newest = {}
        self._sink = BagSink(path, storage=self._values["storage"])
        for topic, message_type, name, profile in TOPICS:
            full = self.resolve_topic_name(topic)
            # A topic that nobody publishes is not in the bag: it is added with its first message.
            callback = self._writer(topic, full, name)
            self._inputs.append(
                self.create_subscription(message_type, topic, callback, qos.recording(profile), raw=True)
            )
        self.get_logger().info(f"recording into {path}")

    def deactivate(self) -> None:
        """Stop listening and close the bag."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except VlaForgetError as error:
            self.get_logger().error(str(error))
            return
        self.get_logger().info(f"closed {sink.path} with {sink.messages} messages")

    def _path(self) -> Path:
        if self._values["bag"]:
            return Path(self._values["bag"])
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return Path(self._values["out"]) / f"bag_{moment}"

    def _writer(self, topic: str, full: str, name: str) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            sink = self._sink
            if sink is None:
                return
            if topic in _SENT_AGAIN:
                # In lockstep an unanswered observation is sent again; once is enough in the bag.
                if self._newest.get(topic) == data[_STAMP]:
                    return
                self._newest[topic] = data[_STAMP]
            try:
                sink.add_topic(full, name)
                sink.write(full, data, self._now_ns())
            except VlaForgetError as error:
                self.get_logger().error(f"recording ends: {error}")
                self._sink = None
                sink.close()

        return write

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)
