"""Messages as they lie in a bag: the type of each topic, and the typestore that reads and writes their bytes.

The standard types are those of ROS 2 Kilted (rosbags carries them); this package's own are parsed from its
``msg`` folder, so that bags can be read and written on a machine without ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlaforget_ros.paths import share_directory

PACKAGE = "vlaforget_ros"

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
POSE = "geometry_msgs/msg/PoseStamped"
JOINT_STATE = "sensor_msgs/msg/JointState"
WRENCH = "geometry_msgs/msg/WrenchStamped"
RANGE = "sensor_msgs/msg/Range"
CLOCK = "rosgraph_msgs/msg/Clock"
POLICY_ACTION = "vlaforget_ros/msg/PolicyAction"
POLICY_STATUS = "vlaforget_ros/msg/PolicyStatus"
ROLLOUT = "vlaforget_ros/msg/Rollout"
ROLLOUT_OUTCOME = "vlaforget_ros/msg/RolloutOutcome"
SAFETY_VIOLATION = "vlaforget_ros/msg/SafetyViolation"
SAFETY_STATUS = "vlaforget_ros/msg/SafetyStatus"

TOPIC_TYPES: dict[str, tuple[str, ...]] = {
    "image": (IMAGE, COMPRESSED_IMAGE),
    "joint_states": (JOINT_STATE,),
    "ee_pose": (POSE,),
    "wrench": (WRENCH,),
    "human_distance": (RANGE,),
    "instruction": (STRING,),
    "action": (POLICY_ACTION,),
    "rollout": (ROLLOUT,),
    "outcome": (ROLLOUT_OUTCOME,),
    "safety/violation": (SAFETY_VIOLATION,),
    "safety/status": (SAFETY_STATUS,),
    "policy/status": (POLICY_STATUS,),
}
"""Topics of the live graph, relative to the robot's namespace, and the message types each may carry."""

ADDED_LATER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        POLICY_ACTION: frozenset({"speed_scale"}),
        f"{PACKAGE}/msg/SvrEstimate": frozenset({"sbu", "sbu_low", "sbu_high"}),
    }
)
"""Fields that bags of earlier versions lack; nothing here reads them."""

RECORDED_TOPICS: tuple[str, ...] = tuple(TOPIC_TYPES)
"""What a recorder subscribes to so that episodes can be read back in full."""

_LATCHED = ("instruction", "rollout", "safety/status", "policy/status", "canary/status")

_STARTED = 0  # Rollout.PHASE_STARTED


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Types of ROS 2 Kilted and of this package. One object for all: treat it as read-only."""
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for file in sorted(message_folder().glob("*.msg")):
        types.update(get_types_from_msg(file.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{file.stem}"))
    store.register(types)
    return store


def message_folder() -> Path:
    """Folder with this package's .msg files: in the source tree, or in the share folder of an installation.

    Raises:
        VlaForgetError: 604 when the package is not installed whole.
    """
    return share_directory() / "msg"


def relative_topic(topic: str) -> str:
    """The entry of :data:`TOPIC_TYPES` that a full topic name ends in, or "" when it is none of them."""
    return next((name for name in TOPIC_TYPES if f"/{topic.lstrip('/')}".endswith(f"/{name}")), "")


def recorded_qos(topic: str, msgtype: str = "") -> Qos:
    """Quality of service that ``ros2 bag play`` shall offer for a topic, as the live graph does.

    Args:
        topic: full name.
        msgtype: further cameras have names of their own: they are known by their type.
    """
    name = next(
        (name for name in _LATCHED if f"/{topic.lstrip('/')}".endswith(f"/{name}")), relative_topic(topic)
    )
    is_image = name == "image" or msgtype in TOPIC_TYPES["image"]
    reliability = QosReliability.BEST_EFFORT if is_image else QosReliability.RELIABLE
    durability = QosDurability.TRANSIENT_LOCAL if name in _LATCHED else QosDurability.VOLATILE
    depth = 100 if name == "safety/violation" else 1
    # What the middleware says when a limit was never set: the largest duration.
    unset = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        reliability,
        durability,
        unset,
        unset,
        QosLiveliness.AUTOMATIC,
        unset,
        False,
    )


def still_holds(msgtype: str, data: bytes) -> bool:
    """Whether a latched message says something of the time after it: a rollout that ended is no state any more.

    Args:
        msgtype: as bags call it.
        data: CDR bytes.
    """
    if msgtype != ROLLOUT:
        return True
    try:
        message: Any = typestore().deserialize_cdr(data, msgtype)
    except SerdeError:
        return False
    return int(message.phase) == _STARTED


def stamp_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time to nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Any:
    """Nanoseconds to builtin_interfaces/Time."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return typestore().types["builtin_interfaces/msg/Time"](seconds, rest)
