"""The policy as a lifecycle node: instructions in, one action per image out, adapters swapped meanwhile."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from sensor_msgs.msg import CompressedImage, Image

from vlaforget_ros.action import ExecuteInstruction
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import ErrorCode, PolicyError, VlaForgetError
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
from vlaforget_ros.nodes.adapter_services import AdapterServices
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.control import Phase, RolloutControl, SafetyView, SafetyWatch, TickMeter
from vlaforget_ros.nodes.model_share import ModelShare
from vlaforget_ros.nodes.parameters import names_in
from vlaforget_ros.nodes.policy_messages import (
    feedback_message,
    fill_result,
    rollout_message,
    status_message,
)
from vlaforget_ros.nodes.policy_parameters import CHECKS, PARAMETERS
from vlaforget_ros.nodes.responder import Responder
from vlaforget_ros.nodes.routing import CanaryView, Route, Router
from vlaforget_ros.nodes.views import Views
from vlaforget_ros.policy import boot
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.memory import settle

_LAST_OUTCOME_S = 1.0
_LATE_VIOLATIONS_S = 0.05
_GOAL_END_S = 3.0


class PolicyNode(VlaNode):
    """Threads: images are processed one at a time; swaps, goals and status run beside them. The engine's own
    thread owns the model, so a swap lies between two inferences.

    Args:
        namespace: where its relative names begin; None: as the command line says.
        share: gives the model, which nodes of other arms in this process may share; None: its own.
    """

    specs = PARAMETERS
    threads = 6

    def __init__(self, namespace: str | None = None, share: ModelShare | None = None) -> None:
        super().__init__("policy_node", namespace)
        self._share = share or ModelShare(self.get_logger().info)
        self._engine: InferenceEngine | None = None
        self._active = False
        self._rollout: RolloutControl | None = None
        self._route = Route()
        self._latest: Image | CompressedImage | None = None
        self._tick_lock = threading.Lock()
        self._goal_lock = threading.Lock()
        self._status_lock = threading.Lock()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Load the base weights and make the topics."""
        self._values = values
        if values["compile"]:
            self.get_logger().info("compiling the model's functions: this can take minutes")
        self._policy, engine = self._share.take(values)
        if engine.compile_seconds is not None:
            self.get_logger().info(f"compiled in {engine.compile_seconds:.1f} s")
        try:
            aliases = AdapterStore(Path(values["store"])).aliases()
            boot.start(engine, aliases, values["adapter"], values["allow_base"], self.get_logger().error)
        except VlaForgetError:
            self._share.give_back(engine)
            raise
        self._engine = engine
        self._views = Views(
            self._policy.config,
            names_in(values["cameras"]),
            values["state"],
            values["stale_after_s"],
            lambda: self.get_clock().now().to_msg(),
        )
        self._responder = Responder(
            engine,
            self._policy,
            self._views,
            values["frame"],
            values["stale_after_s"],
            lambda: self.get_clock().now().to_msg(),
        )
        self._meter = TickMeter(values["tick_s"])
        self._safety = SafetyWatch(values["monitor_timeout_s"], time.monotonic)
        self._router = Router(values["canary_timeout_s"], time.monotonic)
        self._actions = self.create_lifecycle_publisher(PolicyAction, "action", qos.ACTION)
        self._shadows = self.create_lifecycle_publisher(PolicyAction, "shadow_action", qos.ACTION)
        self._rollouts = self.create_lifecycle_publisher(Rollout, "rollout", qos.LATCHED)
        self._status = self.create_lifecycle_publisher(PolicyStatus, "policy/status", qos.LATCHED)
        self._listen()
        beside = ReentrantCallbackGroup()
        self._adapter_services = AdapterServices(self, engine, self._publish_status, beside)
        self._server = ActionServer(
            self,
            ExecuteInstruction,
            "policy/execute",
            self._execute,
            callback_group=beside,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        self._heartbeat = self.create_timer(
            1.0, self._publish_status, callback_group=beside, clock=self.steady
        )
        settle()

    def _listen(self) -> None:
        images, others = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self._subscriptions_made = [
            self.create_subscription(Image, "image", self._on_image, qos.IMAGE, callback_group=images),
            self.create_subscription(
                CompressedImage, "image/compressed", self._on_image, qos.IMAGE, callback_group=images
            ),
            self.create_subscription(
                SafetyViolation, "safety/violation", self._on_violation, qos.VIOLATION, callback_group=others
            ),
            self.create_subscription(
                RolloutOutcome, "outcome", self._on_outcome, qos.STATE, callback_group=others
            ),
            self.create_subscription(
                SafetyStatus, "safety/status", self._on_safety, qos.LATCHED, callback_group=others
            ),
            self.create_subscription(
                CanaryStatus, "canary/status", self._on_canary, qos.LATCHED, callback_group=others
            ),
            *self._views.listen(self, others),
        ]

    def check(self, name: str, value: Any) -> None:
        """Refuse a checkpoint or a device that could not be served, before the policy that serves now is given up."""
        if name in CHECKS:
            CHECKS[name](value)

    def activate(self) -> None:
        """Accept goals."""
        self._active = True

    def deactivate(self) -> None:
        """Abort the running rollout; the model stays loaded."""
        self._active = False
        if self._rollout is not None:
            self._rollout.abort(ErrorCode.POLICY_NOT_ACTIVE, "the policy node was deactivated")
        # Let the goal say so before its topics go.
        if self._goal_lock.acquire(timeout=_GOAL_END_S):
            self._goal_lock.release()

    def release(self) -> None:
        """Free the model and the topics."""
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        self._adapter_services.close()
        self._server.destroy()
        self.destroy_timer(self._heartbeat)
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        for publisher in (self._actions, self._shadows, self._rollouts, self._status):
            self.destroy_lifecycle_publisher(publisher)
        self._share.give_back(engine)

    # --- goals

    def _execute(self, handle: Any) -> ExecuteInstruction.Result:
        result = ExecuteInstruction.Result(outcome=ExecuteInstruction.Result.OUTCOME_ABORTED)
        if not self._goal_lock.acquire(blocking=False):
            return self._refuse(
                handle, result, self._not_active("another rollout is running", "cancel it first")
            )
        try:
            rollout, arm = self._begin(handle.request)
        except VlaForgetError as error:
            self._goal_lock.release()
            return self._refuse(handle, result, error)
        try:
            self._run(handle, rollout, arm)
            return self._conclude(handle, rollout, arm, result)
        finally:
            self._rollout = None
            # However it ended: no candidate stays on the arm.
            try:
                self._leave_route()
            finally:
                self._goal_lock.release()

    def _begin(self, goal: ExecuteInstruction.Goal) -> tuple[RolloutControl, int]:
        """Check everything before anything changes, the adapter last."""
        engine = self._engine
        if engine is None or not self._active:
            raise self._not_active("the policy node is not active", "activate it")
        self._policy.check_instruction(goal.instruction)
        self._route = Route()
        arm = Rollout.ARM_PINNED
        if goal.adapter:
            engine.swap(goal.adapter)
        else:
            arm = self._routed(engine)
        steps = int(goal.max_steps) or int(self._values["max_steps"])
        digest = engine.active_digest
        return RolloutControl(uuid.uuid4().hex, goal.instruction, steps, digest, time.monotonic()), arm

    def _routed(self, engine: InferenceEngine) -> int:
        """Make ready what the canary wants of this rollout; a candidate that cannot serve leaves the active adapter."""
        route = self._router.next()
        try:
            if route.candidate is not None:
                engine.route(route.candidate)
            elif route.shadow is not None:
                engine.prepare(route.shadow)
        except VlaForgetError as error:
            self.get_logger().error(f"the candidate cannot serve, the active adapter does: {error}")
            return int(Rollout.ARM_STABLE)
        self._route = route
        return int(Rollout.ARM_STABLE if route.candidate is None else Rollout.ARM_CANDIDATE)

    def _leave_route(self) -> None:
        route, self._route = self._route, Route()
        if route.candidate is not None and self._engine is not None:
            self._engine.unroute()

    def _run(self, handle: Any, rollout: RolloutControl, arm: int) -> None:
        self._publish_rollout(rollout, arm, Phase.STARTED)
        self._goal = handle
        with self._tick_lock:
            self._rollout = rollout
            latest = self._latest
        self._publish_status()
        # The image that is already there is the first observation: in lockstep no other comes before an
        # action. A camera's picture from before the goal is no observation.
        if latest is not None and self._responder.fresh(latest):
            self._tick(latest, time.monotonic())
        while not rollout.wait(0.02):
            quiet_s = time.monotonic() - rollout.image_s
            if handle.is_cancel_requested:
                rollout.abort(ErrorCode.NONE, "cancelled")
            elif rollout.exhausted and quiet_s > _LAST_OUTCOME_S:
                rollout.finish(False, f"{rollout.steps} steps without success")
            elif quiet_s > self._values["image_timeout_s"]:
                limit = self._values["image_timeout_s"]
                rollout.abort(
                    ErrorCode.POLICY_STALE_IMAGE, f"no image for {quiet_s:.1f} s (limit {limit:g} s)"
                )

    def _conclude(
        self, handle: Any, rollout: RolloutControl, arm: int, result: ExecuteInstruction.Result
    ) -> ExecuteInstruction.Result:
        ending = rollout.ending
        if ending is None:
            raise PolicyError(
                ErrorCode.POLICY_NOT_ACTIVE, "the rollout did not end", value=rollout.rollout_id
            )
        # Violations of the last tick travel on another topic than the outcome: give them a moment.
        threading.Event().wait(_LATE_VIOLATIONS_S)
        self._rollout = None
        self._meter.rollout(rollout.steps, time.monotonic() - rollout.started_s)
        if self._engine is not None:
            self._leave_route()
            self._engine.rollout_ended()
        self._publish_rollout(rollout, arm, ending.phase)
        self._publish_status()
        fill_result(result, rollout, ending)
        if handle.is_cancel_requested:
            handle.canceled()
        elif ending.phase is Phase.ABORTED:
            handle.abort()
        else:
            handle.succeed()
        return result

    def _refuse(self, handle: Any, result: ExecuteInstruction.Result, error: VlaForgetError) -> Any:
        self.get_logger().warning(f"goal refused: {error}")
        result.error_code, result.message = int(error.code), str(error)
        handle.abort()
        return result

    # --- control ticks

    def _on_image(self, message: Image | CompressedImage) -> None:
        if self._active:
            self._tick(message, time.monotonic())

    def _tick(self, message: Image | CompressedImage, received_s: float) -> None:
        """Answer one image; a camera or a lockstep cell that sends one twice gets the same answer twice."""
        with self._tick_lock:
            self._latest = message
            rollout = self._rollout
            if rollout is None or rollout.ending is not None:
                return
            given = self._responder.given(rollout, message)
            if given is not None:
                self._actions.publish(given)
                return
            if rollout.exhausted:
                rollout.finish(False, f"{rollout.steps} steps without success")
                return
            answer, why = self._responder.answer(rollout, message, self._safety.view())
            rollout.ticked(answer.adapter_digest, answer.fault, why, time.monotonic())
            self._actions.publish(answer)
            self._meter.tick(time.monotonic() - received_s, answer.fault)
            self._goal.publish_feedback(feedback_message(answer))
            # The arm has its action: now what the candidate would have done.
            candidate = self._route.shadow
            if candidate is not None and self._router.shadowing():
                shadow = self._responder.shadow(answer, rollout.instruction, candidate)
                if shadow is not None:
                    self._shadows.publish(shadow)

    # --- what others say

    def _on_outcome(self, message: RolloutOutcome) -> None:
        rollout = self._rollout
        if rollout is not None and message.rollout_id == rollout.rollout_id:
            rollout.finish(message.success, f"outcome from {message.source}")

    def _on_violation(self, message: SafetyViolation) -> None:
        if self._rollout is not None:
            self._rollout.violated(message.rollout_id, message.rule)

    def _on_safety(self, message: SafetyStatus) -> None:
        stopped = message.state == SafetyStatus.STATE_STOPPED
        if self._safety.heard(SafetyView(stopped, float(message.speed_scale), message.reason)):
            self.get_logger().warning(f"stopped: {message.reason}" if stopped else "released")

    def _on_canary(self, message: CanaryStatus) -> None:
        self._router.heard(
            CanaryView(
                message.canary_id,
                message.candidate_digest,
                int(message.seed),
                float(message.weight),
                shadow=message.phase == CanaryStatus.PHASE_SHADOW,
                running=bool(message.canary_id) and message.verdict == CanaryStatus.VERDICT_RUNNING,
            )
        )

    # --- what this node says

    def _publish_rollout(self, rollout: RolloutControl, arm: int, phase: Phase) -> None:
        self._rollouts.publish(rollout_message(rollout, arm, phase, self.get_clock().now().to_msg()))

    def _publish_status(self) -> None:
        engine = self._engine
        if engine is None:
            return
        # Heartbeat, goals and services say it from threads of their own: what was made earlier must not be said later.
        with self._status_lock:
            stamp = self.get_clock().now().to_msg()
            self._status.publish(status_message(self._state(), self._policy, engine, self._meter, stamp))

    def _state(self) -> int:
        if not self._active:
            return int(PolicyStatus.STATE_INACTIVE)
        if self._safety.view().stopped:
            return int(PolicyStatus.STATE_STOPPED)
        return int(PolicyStatus.STATE_IDLE if self._rollout is None else PolicyStatus.STATE_RUNNING)

    def _not_active(self, message: str, remedy: str) -> PolicyError:
        return PolicyError(ErrorCode.POLICY_NOT_ACTIVE, message, remedy=remedy)
