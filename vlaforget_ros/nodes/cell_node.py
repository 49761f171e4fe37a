"""The simulated cell behind the topics of a real arm, in lockstep with the policy or at a fixed rate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from vlaforget_ros.cell.commands import CommandStream
from vlaforget_ros.cell.interface import Cell, CellObservation, GroundTruth, make_cell
from vlaforget_ros.errors import ErrorCode, VlaForgetError
from vlaforget_ros.msg import PolicyAction, RolloutOutcome, SafetyViolation
from vlaforget_ros.nodes import convert, qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.parameters import Parameter
from vlaforget_ros.srv import ResetCell

_RETRY_S = 0.25
_WARN_S = 5.0
# Re-posing takes a second of simulated time: no speed is seen in it, and no window reaches across it.
_REPOSE_NS = convert.NANOSECONDS
# The safety monitor wants the arm to stand still: its controller does that better than a motion of zero.
_HELD = (int(ErrorCode.SAFETY_STOPPED), int(ErrorCode.SAFETY_STALE_INPUT))
# Rules that the monitor can see for itself on ee_pose.
_VISIBLE = ("keep_out/", "workspace/", "speed/")

PARAMETERS = (
    Parameter("cell", "metaworld", "Which cell, as make_cell knows it."),
    Parameter(
        "mode", "lockstep", "Wait for each action, or step by the clock.", choices=("lockstep", "fixed_rate")
    ),
    Parameter("tick_s", 0.1, "Control period.", "s", 0.005, 10.0),
    Parameter(
        "hold_after_s",
        0.15,
        "At a fixed rate: the arm's controller holds once the newest action is this old; 0: never.",
        "s",
        0.0,
        10.0,
    ),
    Parameter("image_size", 64, "Height and width of the camera image.", "px", 16, 1024),
    Parameter("max_ticks", 110, "Step cap of an episode.", "ticks", 1, 100000),
    Parameter("frame", "cell", "Frame of poses and images."),
    Parameter(
        "ground_truth",
        "hidden",
        "Which violations the simulator reports: those no live topic shows, all, or none.",
        choices=("hidden", "all", "none"),
    ),
)


class CellNode(VlaNode):
    """One thread serves everything: simulators and their renderers are bound to the thread that made them.

    In lockstep the node is the clock: it publishes /clock and image k, waits for the action whose
    observation_stamp is image k's, steps, and goes on with image k + 1. An image nobody answers is sent
    again. At a fixed rate time goes on: with no action in time, or one that the safety monitor holds, the arm
    holds.
    """

    specs = PARAMETERS
    threads = 1

    def __init__(self) -> None:
        super().__init__("cell_node")
        self._cell: Cell | None = None
        self._shown: CellObservation | None = None
        self._stamp_ns = 0
        self._commands: CommandStream[PolicyAction] = CommandStream(0.0, time.monotonic)
        self._rollout = ("", "")
        self._active = False
        self._held_gripper = 0.0
        self._own_timers: list[Any] = []

    def configure(self, values: Mapping[str, Any]) -> None:
        """Make the cell, the topics and the reset service."""
        self._lockstep = values["mode"] == "lockstep"
        self._tick_ns = round(values["tick_s"] * convert.NANOSECONDS)
        self._frame = values["frame"]
        self._commands = CommandStream(values["hold_after_s"], time.monotonic)
        self._ground_truth = values["ground_truth"]
        self._cell = make_cell(values["cell"], image_size=values["image_size"], max_ticks=values["max_ticks"])
        # Simulated time starts at the wall clock's, so that bags carry real dates and never go back in time.
        self._stamp_ns = max(self._stamp_ns, time.time_ns())
        self._out = {
            "image": self._publisher(Image, "image", qos.IMAGE),
            "pose": self._publisher(PoseStamped, "ee_pose", qos.STATE),
            "joints": self._publisher(JointState, "joint_states", qos.STATE),
            "instruction": self._publisher(String, "instruction", qos.LATCHED),
            "outcome": self._publisher(RolloutOutcome, "outcome", qos.STATE),
            "violation": self._publisher(SafetyViolation, "safety/violation", qos.VIOLATION),
        }
        if self._lockstep:
            self._out["clock"] = self._publisher(ClockMessage, "/clock", qos.CLOCK)
        self._subscription = self.create_subscription(PolicyAction, "action", self._on_action, qos.ACTION)
        self._service = self.create_service(ResetCell, "cell/reset", self._on_reset)

    def activate(self) -> None:
        """Begin to publish."""
        self._active = True
        period = _RETRY_S if self._lockstep else self._tick_ns / convert.NANOSECONDS
        callback = self._retry if self._lockstep else self._fixed_tick
        self._own_timers = [self.create_timer(period, callback, clock=self.steady)]
        self._asked_at = time.monotonic()
        self._warned_at = self._asked_at

    def deactivate(self) -> None:
        """Stop publishing."""
        self._active = False
        for timer in self._own_timers:
            self.destroy_timer(timer)
        self._own_timers = []

    def release(self) -> None:
        """Free the simulator."""
        if self._cell is None:
            return
        self._cell.close()
        self._cell = None
        self._shown = None
        for publisher in self._out.values():
            self.destroy_lifecycle_publisher(publisher)
        self.destroy_subscription(self._subscription)
        self.destroy_service(self._service)

    def _publisher(self, message_type: type, topic: str, profile: QoSProfile) -> Any:
        return self.create_lifecycle_publisher(message_type, topic, profile)

    def _on_reset(self, request: ResetCell.Request, response: ResetCell.Response) -> ResetCell.Response:
        if self._cell is None or not self._active:
            response.message = "the cell node is not active"
            return response
        try:
            observation = self._cell.reset(request.situation, int(request.seed))
        except VlaForgetError as error:
            response.error_code, response.message = int(error.code), str(error)
            return response
        self._commands.clear()
        self._rollout = ("", "")
        self._held_gripper = 0.0
        # By the wall clock the pause makes itself, and a stamp ahead of it would stand still.
        if self._lockstep:
            self._stamp_ns += _REPOSE_NS
        self._show(observation)
        self._out["instruction"].publish(String(data=observation.instruction))
        response.success = True
        response.instruction = observation.instruction
        response.stamp = convert.time_message(self._stamp_ns)
        return response

    def _on_action(self, message: PolicyAction) -> None:
        if not self._active or self._shown is None or self._shown.done:
            return
        answers = convert.nanoseconds(message.observation_stamp) == self._stamp_ns
        if not self._lockstep:
            self._commands.heard(message)
        elif answers:
            self._step(np.asarray(message.action, dtype=np.float64), message)

    def _step(self, action: np.ndarray | None, message: PolicyAction | None) -> None:
        """One control tick with an action; without one the arm holds."""
        if self._cell is None:
            return
        if message is not None:
            self._rollout = (message.rollout_id, message.adapter_digest)
        try:
            observation = self._cell.hold() if action is None else self._cell.step(action)
        except VlaForgetError as error:
            self.get_logger().error(f"the action was not carried out: {error}")
            return
        self._show(observation)

    def _show(self, observation: CellObservation) -> None:
        """Publish one observation; in lockstep the outcome takes the place of the last image."""
        self._shown = observation
        self._stamp_ns = self._next_stamp()
        self._asked_at = time.monotonic()
        for truth in observation.violations:
            self._report(truth)
        if observation.done and self._rollout[0]:
            outcome = RolloutOutcome(rollout_id=self._rollout[0], success=observation.success)
            outcome.source = RolloutOutcome.SOURCE_SIMULATOR
            self._out["outcome"].publish(outcome)
        self._publish_observation()

    def _next_stamp(self) -> int:
        if self._lockstep:
            return self._stamp_ns + self._tick_ns
        return max(self._stamp_ns + 1, self.get_clock().now().nanoseconds)

    def _publish_observation(self) -> None:
        if self._shown is None:
            return
        stamp = convert.time_message(self._stamp_ns)
        if self._lockstep:
            self._out["clock"].publish(ClockMessage(clock=stamp))
        self._out["pose"].publish(convert.pose_message(self._shown.ee_position, stamp, self._frame))
        names, positions = self._shown.joint_names, self._shown.joint_positions
        self._out["joints"].publish(convert.joint_message(names, positions, stamp))
        if not (self._lockstep and self._shown.done):
            self._out["image"].publish(convert.image_message(self._shown.image, stamp, self._frame))

    def _report(self, truth: GroundTruth) -> None:
        if self._ground_truth == "none":
            return
        if self._ground_truth == "hidden" and truth.rule.startswith(_VISIBLE):
            return
        message = SafetyViolation(
            rollout_id=self._rollout[0], adapter_digest=self._rollout[1], rule=truth.rule
        )
        message.severity = SafetyViolation.SEVERITY_WARN
        message.value, message.limit, message.unit = float(truth.value), float(truth.limit), truth.unit
        message.message = truth.message
        message.header.stamp = convert.time_message(self._stamp_ns)
        message.header.frame_id = self._frame
        self._out["violation"].publish(message)

    def _retry(self) -> None:
        """Lockstep: keep the clock alive, and show an unanswered image again (best effort may lose one)."""
        if self._shown is None:
            self._out["clock"].publish(ClockMessage(clock=convert.time_message(self._stamp_ns)))
            return
        now = time.monotonic()
        if now - self._asked_at < _RETRY_S:
            return
        self._publish_observation()
        in_rollout = bool(self._rollout[0]) and not self._shown.done
        if in_rollout and now - self._asked_at > _WARN_S and now - self._warned_at > _WARN_S:
            self._warned_at = now
            self.get_logger().warning(
                f"no action for the present image since {now - self._asked_at:.0f} s: is the policy running?"
            )

    def _fixed_tick(self) -> None:
        """Fixed rate: one control tick with the newest action, or without motion when none came since the last one."""
        if self._shown is None:
            return
        if self._shown.done:
            self._publish_still()
            return
        message = self._commands.take()
        if message is None and not self._rollout[0]:
            self._publish_still()
            return
        action: np.ndarray | None = None
        if message is None and not self._commands.silent:
            action = np.array([0.0, 0.0, 0.0, self._held_gripper])
        elif message is not None and message.fault not in _HELD:
            action = np.asarray(message.action, dtype=np.float64)
            self._held_gripper = float(action[-1]) if action.size else 0.0
        self._step(action, message)

    def _publish_still(self) -> None:
        """The camera of an arm that does not move goes on sending."""
        self._stamp_ns = self._next_stamp()
        self._publish_observation()
