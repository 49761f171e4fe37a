"""canary/run, canary/approve and canary/status: the ROS side of the canary runner."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future
from std_srvs.srv import Trigger

from vlaforget_ros.action import RunCanary
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import ErrorCode, VlaForgetError
from vlaforget_ros.msg import CanaryStatus, PolicyAction, PolicyStatus, Rollout
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.canary_runner import CanaryRunner, Finished
from vlaforget_ros.nodes.diagnosis import CANARY, status_name
from vlaforget_ros.nodes.state_keeper import StateKeeper
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.state import Arm, ArmCounts, Verdict
from vlaforget_ros.safety.monitor import Event, SafetyMonitor
from vlaforget_ros.safety.shadow import Position
from vlaforget_ros.srv import RollbackAdapter, SwapAdapter

_POLICY_S = 3.0
_ARMS = {Rollout.ARM_STABLE: Arm.STABLE, Rollout.ARM_CANDIDATE: Arm.CANDIDATE}
_SUCCESS = {Rollout.PHASE_SUCCEEDED: True, Rollout.PHASE_FAILED: False}
_LEVELS = {
    Verdict.RUNNING: DiagnosticStatus.OK,
    Verdict.PROMOTE: DiagnosticStatus.OK,
    Verdict.HOLD: DiagnosticStatus.WARN,
    Verdict.ABORT: DiagnosticStatus.ERROR,
}


class _Report:
    """Writes a report beside the node's thread, which goes on judging."""

    def __init__(self, finished: Finished) -> None:
        self.done: Any = Future()
        self.trouble = ""
        self._finished = finished
        self._thread = threading.Thread(target=self._write, name="canary report", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it is written, or cannot be."""
        return not self._thread.is_alive()

    def _write(self) -> None:
        # Plots and templates are a second's import that no other part of the node needs.
        from vlaforget_ros.report.canary import write

        try:
            write(self._finished.folder, self._finished.document)
        except (OSError, VlaForgetError) as error:
            self.trouble = str(error)


class CanaryServer:
    """Everything of a canary that has to do with ROS. The node's one thread calls it.

    Args:
        node: owner of topics and services.
        monitor: what the arm may do, and the rates.
        store: as in :class:`CanaryRunner`.
        values: parameters of the node.
        changed: called when the monitor's status may have changed.
        kept: file that keeps a running canary over a restart; None keeps none.
    """

    def __init__(
        self,
        node: LifecycleNode,
        monitor: SafetyMonitor,
        store: AdapterStore | None,
        values: Mapping[str, Any],
        changed: Callable[[], None],
        kept: Path | None,
    ) -> None:
        self._node, self._monitor, self._changed = node, monitor, changed
        self._resumed_s = -math.inf
        self._mark: Any = None
        self._stable: str | None = None
        self._heard: Any = Future()
        self._asked_s: float | None = None
        self._report: _Report | None = None
        self._handle: Any = None
        self.newest: CanaryStatus | None = None
        displacement = values["action_kind"] == "displacement"
        self._runner = CanaryRunner(self, store, Path(values["canaries"]), displacement)
        self._keeper = StateKeeper(kept, "the running canary", self._runner.kept, self.log)
        self._status = node.create_lifecycle_publisher(CanaryStatus, "canary/status", qos.LATCHED)
        self._inputs = [
            node.create_subscription(PolicyStatus, "policy/status", self._on_policy, qos.LATCHED),
            node.create_subscription(PoseStamped, "ee_pose", self._on_pose, qos.STATE),
            node.create_subscription(PolicyAction, "action", self._on_action, qos.ACTION),
            node.create_subscription(PolicyAction, "shadow_action", self._on_shadow, qos.ACTION),
        ]
        self._swap: Any = node.create_client(SwapAdapter, "policy/swap_adapter")
        self._rollback: Any = node.create_client(RollbackAdapter, "policy/rollback")
        self._approve = node.create_service(Trigger, "canary/approve", self._on_approve)
        self._server = ActionServer(
            node,
            RunCanary,
            "canary/run",
            self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def resume(self) -> None:
        """Go on with the canary that a restart of the monitor interrupted, if there is one."""
        if self._runner.session is not None:
            return
        self._resumed_s = time.monotonic()
        self._keeper.load(lambda value: self._runner.resume(value, self._report_alone))

    def suspend(self) -> None:
        """The process ends: what runs is kept for the next one, where there is a file for it."""
        if self._keeper.keeps:
            self._keeper.changed()
            self._keeper.close()
            self._runner.suspend()

    def close(self) -> None:
        """End what runs with HOLD and take everything down."""
        self._runner.cancel("the safety monitor is going down")
        self._keeper.close()
        self._server.destroy()
        self._node.destroy_service(self._approve)
        for client in (self._swap, self._rollback):
            self._node.destroy_client(client)
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._node.destroy_lifecycle_publisher(self._status)

    # --- what the monitor node hears

    @property
    def candidate(self) -> str | None:
        """Digest of the adapter under test, None without a canary."""
        session = self._runner.session
        return session.canary.adapters[0] if session is not None else None

    def rollout(self, message: Rollout) -> None:
        """A rollout began or ended."""
        session = self._runner.session
        if session is None:
            return
        if message.phase == Rollout.PHASE_STARTED:
            session.began(message.rollout_id, _ARMS.get(message.arm, Arm.PINNED), message.adapter_digest)
        else:
            session.ended(message.rollout_id, message.adapter_digest, _SUCCESS.get(message.phase))
        self._runner.act()

    def violation(self, event: Event) -> None:
        """A rule was broken."""
        if self._runner.session is not None:
            self._runner.session.violated(event.rollout_id, event.rule, event.severity)
            self._runner.act()

    def cancel(self, reason: str) -> None:
        """End what runs with HOLD."""
        self._runner.cancel(reason)

    def beat(self) -> None:
        """The node's heartbeat."""
        if self._report is not None and self._report.over:
            report, self._report = self._report, None
            report.done.set_result(None)
        waited = self._asked_s is not None and time.monotonic() - self._asked_s > _POLICY_S
        if waited and not self._heard.done():
            self._heard.set_result(None)
        if self._handle is not None and self._handle.is_cancel_requested:
            self._runner.cancel("cancelled by whoever asked for it")
        self._runner.tick()
        self._keep()
        self._keeper.beat()

    def diagnosis(self) -> DiagnosticStatus | None:
        """For /diagnostics, once there was a canary."""
        newest = self.newest
        if newest is None:
            return None
        verdict = Verdict(newest.verdict)
        entry = DiagnosticStatus(level=_LEVELS[verdict], name=status_name(self._node.get_namespace(), CANARY))
        entry.message = f"{verdict.name.lower()}: {newest.reason}"
        entry.hardware_id = self._node.get_namespace()
        for arm in ("candidate", "stable"):
            for count in ("rollouts", "violated", "succeeded"):
                name = f"{arm}_{count}"
                entry.values.append(KeyValue(key=name.replace("_", " "), value=str(getattr(newest, name))))
        return entry

    def _on_policy(self, message: PolicyStatus) -> None:
        session = self._runner.session
        if not self._heard.done():
            self._heard.set_result(None)
        if session is None:
            self._stable = message.active_digest
        else:
            session.serves(message.active_digest)
            self._runner.act()

    def _on_action(self, message: PolicyAction) -> None:
        if self._runner.session is not None:
            self._runner.session.acted(message.rollout_id, message.step, message.action)

    def _on_pose(self, message: PoseStamped) -> None:
        if self._runner.session is not None:
            point = message.pose.position
            self._runner.session.pose((point.x, point.y, point.z))

    def _on_shadow(self, message: PolicyAction) -> None:
        if self._runner.session is not None:
            self._runner.session.shadowed(
                message.rollout_id, message.step, message.action, message.fault, message.adapter_digest
            )

    # --- who asks

    async def _execute(self, handle: Any) -> RunCanary.Result:
        result = RunCanary.Result()
        done: Any = Future()
        # Who asks right after the start may be faster than the policy's first word.
        self._asked_s = time.monotonic()
        await self._heard
        try:
            goal = handle.request
            if not self._runner.join(goal.candidate, goal.protocol, done.set_result):
                self._runner.start(goal.candidate, goal.protocol, self._stable, done.set_result)
        except VlaForgetError as error:
            self._node.get_logger().error(f"canary refused: {error}")
            result.error_code, result.reason = int(error.code), str(error)
            result.verdict = CanaryStatus.VERDICT_HOLD
            handle.abort()
            return result
        self._handle = handle
        finished: Finished = await done
        self._handle = None
        result.report = await self._written(finished)
        result.verdict, result.reason = int(finished.state.verdict), finished.reason
        result.error_code = 0 if finished.carried_out else int(ErrorCode.CANARY_REFUSED)
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.succeed()
        return result

    def _report_alone(self, finished: Finished) -> None:
        """The end of a canary that nobody waits for any more."""
        self._report = _Report(finished)
        self.log(f"canary ended: {finished.state.verdict.name}: {finished.reason}; report: {finished.folder}")

    def _keep(self) -> None:
        session = self._runner.session
        mark = None if session is None else session.mark
        if mark != self._mark:
            self._mark = mark
            self._keeper.changed_now()

    async def _written(self, finished: Finished) -> str:
        """Folder of the report, "" where it could not be written; plots take seconds, so a thread makes it."""
        self._report = report = _Report(finished)
        await report.done
        if report.trouble:
            self.log(f"no report: {report.trouble}")
        return "" if report.trouble else str(finished.folder)

    def _on_approve(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message = self._runner.approve("an operator")
        except VlaForgetError as error:
            response.message = str(error)
            return response
        response.success = True
        return response

    # --- what the runner needs: see ``canary_runner.Robot``

    def cap_speed(self, scale: float, reason: str) -> None:
        """Into the monitor."""
        self._monitor.cap_speed(scale, reason)
        self._changed()

    def stop(self, reason: str) -> None:
        """Into the monitor."""
        self._monitor.stop(reason)
        self._changed()

    def reachable(self) -> bool:
        """Right after a restart its services may not be found yet."""
        there = self._swap.service_is_ready() and self._rollback.service_is_ready()
        return there or time.monotonic() - self._resumed_s > _POLICY_S

    def counts(self, digest: str) -> ArmCounts:
        """Of the monitor's rates."""
        for estimate in self._monitor.status().estimates:
            if estimate.adapter_digest == digest:
                return ArmCounts(estimate.rollouts, estimate.violated, estimate.succeeded)
        return ArmCounts()

    def foresee(self, position: Position) -> tuple[str, ...]:
        """By the monitor's rules."""
        return self._monitor.foresee(position)

    def roll_back(self, reason: str, only_from: str, then: Callable[[str], None]) -> None:
        """Ask the policy. That another adapter serves by now is as good."""
        # What drives for the rest of the rollout is not what drove at its start, and rightly so.
        self._monitor.expect(None)
        request = RollbackAdapter.Request(reason=reason, automatic=True, only_from=only_from)
        self._ask(self._rollback, request, then, (int(ErrorCode.ADAPTER_SUPERSEDED),))

    def swap(self, digest: str, then: Callable[[str], None]) -> None:
        """Ask the policy."""
        self._ask(self._swap, SwapAdapter.Request(adapter=digest), then)

    def tell(self, canary_id: str, canary: Canary) -> None:
        """Publish where it stands, also to who asked."""
        message = status_message(canary_id, canary)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self.newest = message
        self._status.publish(message)
        self._keep()
        if self._handle is not None and self._handle.is_active:
            self._handle.publish_feedback(RunCanary.Feedback(status=message))

    def log(self, text: str) -> None:
        """Into the node's log."""
        self._node.get_logger().warning(text)

    def _ask(
        self, client: Any, request: Any, then: Callable[[str], None], as_good: tuple[int, ...] = ()
    ) -> None:
        if not client.service_is_ready():
            then(f"{client.srv_name} is not there: the policy could not be asked")
            return

        def answered(future: Any) -> None:
            response = future.result()
            fine = response.success or response.error_code in as_good
            then("" if fine else str(response.message))

        client.call_async(request).add_done_callback(answered)


def status_message(canary_id: str, canary: Canary) -> CanaryStatus:
    """Where a canary stands."""
    state, (candidate, stable) = canary.state, canary.adapters
    message = CanaryStatus(canary_id=canary_id, candidate_digest=candidate, stable_digest=stable)
    message.seed, message.phase, message.verdict = (
        canary.protocol.seed,
        int(state.phase),
        int(state.verdict),
    )
    message.weight, message.speed_scale, message.reason = state.weight, state.speed_scale, state.reason
    for name, counts in (("candidate", state.candidate), ("stable", state.stable)):
        setattr(message, f"{name}_rollouts", counts.rollouts)
        setattr(message, f"{name}_violated", counts.violated)
        setattr(message, f"{name}_succeeded", counts.succeeded)
    message.violation_statistic = state.violation.abort
    message.violation_threshold = state.violation.abort_threshold
    message.success_statistic = state.success.abort
    message.success_threshold = state.success.abort_threshold
    return message
