"""Quality of service per topic, as the interface documentation says."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
ACTION = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
STATE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
VIOLATION = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
CLOCK = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def recording(published: QoSProfile) -> QoSProfile:
    """What a recorder asks for: the publisher's promises and a deep queue, for the sake of slow disks."""
    return QoSProfile(depth=200, reliability=published.reliability, durability=published.durability)
