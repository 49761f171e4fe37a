"""What the safety monitor listens to: a subscription for each input that some rule needs, and a steady timer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState, Range

from vlaforget_ros.msg import PolicyAction
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.messages import READERS
from vlaforget_ros.safety.monitor import SafetyMonitor

TICK_S = 0.05
"""Period of the timer for rules about what does not arrive [s]."""

_TOPICS: dict[str, tuple[type, QoSProfile]] = {
    "ee_pose": (PoseStamped, qos.STATE),
    "joint_states": (JointState, qos.STATE),
    "wrench": (WrenchStamped, qos.STATE),
    # Sensors often publish best-effort; a best-effort reader hears both kinds.
    "human_distance": (Range, qos.IMAGE),
    "action": (PolicyAction, qos.ACTION),
    "reference_action": (PolicyAction, qos.ACTION),
}


class SafetyInputs:
    """Feeds a monitor from topics and from time, on the node's thread.

    Args:
        node: its owner.
        monitor: takes the samples.
        names: inputs that some rule needs.
        tell: called with the events of each message and of each tick, also when there are none.
    """

    def __init__(
        self,
        node: VlaNode,
        monitor: SafetyMonitor,
        names: Iterable[str],
        tell: Callable[[tuple[Event, ...]], None],
    ) -> None:
        self._node, self._monitor, self._tell = node, monitor, tell
        self._names = frozenset(names)
        self.active = False
        self._subscriptions = [
            node.create_subscription(_TOPICS[name][0], name, partial(self.take, name), _TOPICS[name][1])
            for name in sorted(self._names)
        ]
        self._timer = node.create_timer(TICK_S, self._on_tick, clock=node.steady)

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def take(self, name: str, message: Any) -> None:
        """Judge a message now; one that was judged already is a duplicate, which the monitor ignores."""
        if self.active and name in self._names:
            self._tell(self._monitor.take(READERS[name](message)))

    def _on_tick(self) -> None:
        if self.active:
            self._tell(self._monitor.tick())
