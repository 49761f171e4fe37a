"""The command gate as topics: action in, action_checked out."""

from __future__ import annotations

import copy
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode

from vlaforget_ros.msg import PolicyAction
from vlaforget_ros.nodes import qos
from vlaforget_ros.safety.command import CommandGate
from vlaforget_ros.safety.monitor import ArmState


class GateRelay:
    """Every action of the policy goes through; with the monitor dead none does, and the arm's driver holds.

    Args:
        node: owner of the topics.
        gate: decides.
        judge: called with each action before the decision: a rule about actions may stop the arm with it.
        motion: what the arm may do now, and its speed scale; None while the monitor is not active: nothing passes.
    """

    def __init__(
        self,
        node: LifecycleNode,
        gate: CommandGate,
        judge: Callable[[PolicyAction], None],
        motion: Callable[[], tuple[ArmState, float] | None],
    ) -> None:
        self._node, self._gate, self._judge, self._motion = node, gate, judge, motion
        self._out = node.create_lifecycle_publisher(PolicyAction, "action_checked", qos.ACTION)
        self._in = node.create_subscription(PolicyAction, "action", self._on_action, qos.ACTION)

    def close(self) -> None:
        """Take the topics down."""
        self._node.destroy_subscription(self._in)
        self._node.destroy_lifecycle_publisher(self._out)

    def _on_action(self, message: PolicyAction) -> None:
        self._judge(message)
        now = self._motion()
        if now is None:
            return
        state, allowed = now
        checked = self._gate.check(message.action, message.fault, message.speed_scale, state, allowed)
        passed = copy.copy(message)
        passed.action, passed.fault = list(checked.action), checked.fault
        passed.speed_scale = checked.speed_scale
        self._out.publish(passed)
