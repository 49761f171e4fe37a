"""The graph's topics with their types and quality of service: what recorders and clients subscribe to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState, Range
from std_msgs.msg import String

from vlaforget_ros.msg import (
    CanaryStatus,
    PolicyAction,
    PolicyStatus,
    Rollout,
    RolloutOutcome,
    SafetyStatus,
    SafetyViolation,
)
from vlaforget_ros.nodes import qos


@dataclass(frozen=True)
class Topic:
    """One topic.

    Args:
        name: relative to the arm's namespace; with a slash at its head the same for all arms.
        type: message class.
        type_name: as bags call it.
        qos: as published.
    """

    name: str
    type: type
    type_name: str
    qos: QoSProfile


TOPICS = (
    Topic("image", Image, "sensor_msgs/msg/Image", qos.IMAGE),
    Topic("image/compressed", CompressedImage, "sensor_msgs/msg/CompressedImage", qos.IMAGE),
    Topic("joint_states", JointState, "sensor_msgs/msg/JointState", qos.STATE),
    Topic("ee_pose", PoseStamped, "geometry_msgs/msg/PoseStamped", qos.STATE),
    Topic("wrench", WrenchStamped, "geometry_msgs/msg/WrenchStamped", qos.STATE),
    # Sensors often publish best-effort; a best-effort reader hears both kinds.
    Topic("human_distance", Range, "sensor_msgs/msg/Range", qos.IMAGE),
    Topic("instruction", String, "std_msgs/msg/String", qos.LATCHED),
    Topic("action", PolicyAction, "vlaforget_ros/msg/PolicyAction", qos.ACTION),
    Topic("action_checked", PolicyAction, "vlaforget_ros/msg/PolicyAction", qos.ACTION),
    Topic("reference_action", PolicyAction, "vlaforget_ros/msg/PolicyAction", qos.ACTION),
    Topic("shadow_action", PolicyAction, "vlaforget_ros/msg/PolicyAction", qos.ACTION),
    Topic("rollout", Rollout, "vlaforget_ros/msg/Rollout", qos.LATCHED),
    Topic("outcome", RolloutOutcome, "vlaforget_ros/msg/RolloutOutcome", qos.STATE),
    Topic("safety/violation", SafetyViolation, "vlaforget_ros/msg/SafetyViolation", qos.VIOLATION),
    Topic("safety/status", SafetyStatus, "vlaforget_ros/msg/SafetyStatus", qos.LATCHED),
    Topic("canary/status", CanaryStatus, "vlaforget_ros/msg/CanaryStatus", qos.LATCHED),
    Topic("policy/status", PolicyStatus, "vlaforget_ros/msg/PolicyStatus", qos.LATCHED),
    # Drivers and other nodes of the robot report here as well.
    Topic("/diagnostics", DiagnosticArray, "diagnostic_msgs/msg/DiagnosticArray", qos.STATE),
)


def beside(cameras: Sequence[str], state: str) -> tuple[Topic, ...]:
    """What a policy is shown beside the main image; cameras raw and compressed.

    Args:
        cameras: topics of further cameras.
        state: topic of the robot's state, "" for none.
    """
    found = []
    for name in cameras:
        found.append(Topic(name, Image, "sensor_msgs/msg/Image", qos.IMAGE))
        compressed = f"{name}/compressed"
        found.append(Topic(compressed, CompressedImage, "sensor_msgs/msg/CompressedImage", qos.IMAGE))
    if state:
        found.append(Topic(state, JointState, "sensor_msgs/msg/JointState", qos.STATE))
    return tuple(found)
