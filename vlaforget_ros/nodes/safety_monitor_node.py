"""The safety monitor as a lifecycle node: poses in; violations, state and rates out. Not safety-rated."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, KeyValue
from std_srvs.srv import Trigger

from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.adapters.trust import TrustPolicy
from vlaforget_ros.errors import ErrorCode, SafetyError, VlaForgetError
from vlaforget_ros.msg import Rollout, RolloutOutcome, SafetyStatus, SafetyViolation
from vlaforget_ros.nodes import convert, diagnosis, qos
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.canary_server import CanaryServer
from vlaforget_ros.nodes.gate_relay import GateRelay
from vlaforget_ros.nodes.parameters import Parameter
from vlaforget_ros.nodes.safety_inputs import SafetyInputs
from vlaforget_ros.nodes.state_keeper import StateKeeper
from vlaforget_ros.safety.command import CommandGate
from vlaforget_ros.safety.config import default_config, load_config
from vlaforget_ros.safety.messages import event_of
from vlaforget_ros.safety.monitor import ArmState, Event, MonitorStatus, SafetyMonitor
from vlaforget_ros.srv import FlagViolation

PARAMETERS = (
    Parameter("rules_file", "", "Rules (YAML); empty uses those of the embedded cell."),
    Parameter("store", "", "Adapter store, for the aliases in the estimates; empty shows none."),
    Parameter(
        "trust", "", "File of the trust policy: who must have signed what a canary promotes; empty: nobody."
    ),
    Parameter(
        "state_file", "", "File that keeps counts, a stop and a canary over a restart; empty: in memory only."
    ),
    Parameter("heartbeat_s", 0.5, "Status is sent at least this often.", "s", 0.02, 10.0),
    Parameter("command_gate", False, "Stand between policy and arm: action in, action_checked out."),
    Parameter(
        "action_kind",
        "displacement",
        "What the policy's actions are; the command gate cannot scale positions.",
        choices=("displacement", "position"),
    ),
    Parameter("canaries", "runs/canary", "Folder of the reports of canaries."),
    Parameter("gripper_last", True, "The last number of an action is a gripper's position."),
)

_ENDED = {Rollout.PHASE_SUCCEEDED: True, Rollout.PHASE_FAILED: False, Rollout.PHASE_ABORTED: None}


class SafetyMonitorNode(VlaNode):
    """One thread: the monitor is not thread-safe and needs microseconds a pose."""

    specs = PARAMETERS
    threads = 1

    def __init__(self) -> None:
        super().__init__("safety_monitor_node")
        self._monitor: SafetyMonitor | None = None
        self._active = False
        self._said: tuple[ArmState, float] | None = None
        self._diagnosed: ArmState | None = None
        self._parts: tuple[KeyValue, ...] = ()
        self._counted = True
        self._flags = 0

    def configure(self, values: Mapping[str, Any]) -> None:
        """Read the rules and make the topics."""
        rules = values["rules_file"]
        config = load_config(Path(rules)) if rules else default_config()
        self._frame = config.frame
        trust = TrustPolicy.load(Path(values["trust"])) if values["trust"] else None
        self._store = AdapterStore(Path(values["store"]), trust=trust) if values["store"] else None
        self._aliases: dict[str, str] = {}
        self._stable: str | None = None
        self._monitor = SafetyMonitor(config, time.monotonic)
        rates = self._monitor.rates
        self._keeper = StateKeeper(_beside(values["state_file"], ""), "the counts", rates.state, self._warn)
        self._keeper.load(rates.restore)
        self._stops = StateKeeper(_beside(values["state_file"], ".stop"), "the stop", self._stop, self._warn)
        self._stop_kept = ""
        if not self._stops.load(self._stop_again):
            self._monitor.stop("whether the arm was stopped before the restart cannot be read")
        self._violations = self.create_lifecycle_publisher(SafetyViolation, "safety/violation", qos.VIOLATION)
        self._status = self.create_lifecycle_publisher(SafetyStatus, "safety/status", qos.LATCHED)
        self._diagnostics = self.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", qos.STATE)
        self._samples = SafetyInputs(self, self._monitor, config.inputs(), self._on_events)
        self._inputs: list[Any] = [
            self.create_subscription(Rollout, "rollout", self._on_rollout, qos.LATCHED),
            self.create_subscription(RolloutOutcome, "outcome", self._on_outcome, qos.STATE),
            self.create_subscription(SafetyViolation, "safety/violation", self._on_violation, qos.VIOLATION),
        ]
        kept = _beside(values["state_file"], ".canary")
        self._canary = CanaryServer(self, self._monitor, self._store, values, self._publish_change, kept)
        self._gate: GateRelay | None = None
        if values["command_gate"]:
            gate = CommandGate(values["action_kind"], values["gripper_last"])
            self._gate = GateRelay(self, gate, partial(self._samples.take, "action"), self._motion)
        self._own_services = [
            self.create_service(FlagViolation, "safety/flag", self._on_flag),
            self.create_service(Trigger, "safety/release", self._on_release),
        ]
        self._heartbeat = self.create_timer(values["heartbeat_s"], self._beat, clock=self.steady)

    def activate(self) -> None:
        """Begin to judge."""
        self._active = self._samples.active = True
        self._canary.resume()
        self._publish()

    def deactivate(self) -> None:
        """Stop judging; what was counted stays."""
        self._active = False
        if self._monitor is not None:
            self._samples.active = False
            self._canary.cancel("the safety monitor was deactivated")

    def close(self) -> None:
        """The process ends: a canary that runs is not cancelled where a file keeps it for the next start."""
        if self._monitor is not None:
            self._canary.suspend()
        super().close()

    def release(self) -> None:
        """Free the topics."""
        if self._monitor is None:
            return
        self._canary.close()
        self._stops.close()
        self._monitor = None
        self._keeper.close()
        self._samples.close()
        self.destroy_timer(self._heartbeat)
        if self._gate is not None:
            self._gate.close()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for service in self._own_services:
            self.destroy_service(service)
        for publisher in (self._violations, self._status, self._diagnostics):
            self.destroy_lifecycle_publisher(publisher)

    # --- inputs

    def _on_events(self, events: tuple[Event, ...]) -> None:
        """After each sample and each tick."""
        for event in events:
            self._tell(event)
        if events:
            self._rates_changed()
        self._publish_change()

    def _on_rollout(self, message: Rollout) -> None:
        if self._monitor is None:
            return
        if message.phase == Rollout.PHASE_STARTED:
            self._monitor.rollout_started(message.rollout_id, message.adapter_digest)
        else:
            success = _ENDED.get(message.phase)
            self._monitor.rollout_ended(message.rollout_id, message.adapter_digest, success)
        self._canary.rollout(message)
        self._rates_changed()
        self._refresh_aliases()
        self._monitor.expect(self._expected(message))
        self._publish()

    def _on_outcome(self, message: RolloutOutcome) -> None:
        if self._monitor is not None:
            self._monitor.outcome(message.rollout_id, message.success)
            self._rates_changed()

    def _on_violation(self, message: SafetyViolation) -> None:
        """What others saw; what this node published itself comes back here and is no news."""
        if self._monitor is None or not self._active:
            return
        event = event_of(message)
        self._canary.violation(event)
        if self._monitor.violation(event):
            self._rates_changed()
            self._publish()

    def _motion(self) -> tuple[ArmState, float] | None:
        return self._monitor.motion() if self._monitor is not None and self._active else None

    # --- services

    def _on_flag(
        self, request: FlagViolation.Request, response: FlagViolation.Response
    ) -> FlagViolation.Response:
        try:
            event = self._ready().flag(request.rule, request.note)
        except VlaForgetError as error:
            response.error_code, response.message = int(error.code), str(error)
            return response
        self._flags += 1
        response.success = True
        response.violation_id = f"{event.rollout_id or 'no-rollout'}/{event.rule}/{self._flags}"
        response.message = f"recorded {response.violation_id}"
        self._tell(event)
        self._rates_changed()
        self._publish()
        return response

    def _on_release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            reason = self._ready().release()
        except VlaForgetError as error:
            response.message = str(error)
            return response
        response.success = True
        response.message = f"released: {reason}" if reason else "nothing was stopped"
        self.get_logger().info(response.message)
        self._publish()
        return response

    def _ready(self) -> SafetyMonitor:
        if self._monitor is None or not self._active:
            raise SafetyError(
                ErrorCode.POLICY_NOT_ACTIVE, "the safety monitor is not active", remedy="activate it"
            )
        return self._monitor

    # --- outputs

    def _stop(self) -> dict[str, Any] | None:
        return {"form": 1, "reason": self._stop_kept} if self._stop_kept else None

    def _stop_again(self, value: Any) -> None:
        """What was latched when the process ended is released by an operator, not by a restart."""
        if not isinstance(value, dict) or not isinstance(value.get("reason"), str) or not value["reason"]:
            raise ValueError("not a stop")
        if self._monitor is not None:
            self._monitor.stop(value["reason"])
            self._stop_kept = value["reason"]

    def _rates_changed(self) -> None:
        self._counted = True
        self._keeper.changed()

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text)

    def _tell(self, event: Event) -> None:
        self._canary.violation(event)
        self._violations.publish(convert.violation_message(event, self._frame))
        self.get_logger().warning(
            f"{event.severity.name} {event.rule}: {event.message}"
            f" ({event.value:.3f} against {event.limit:.3f} {event.unit})"
        )

    def _beat(self) -> None:
        if self._monitor is not None:
            if self._counted:
                # Exact intervals of every rule take a while: not after each event.
                self._counted, self._parts = False, diagnosis.breakdown_values(self._monitor.rates)
            self._keeper.beat()
            self._stops.beat()
            self._canary.beat()
        # The rates on /diagnostics are as old as a heartbeat at the most; a state is news at once.
        self._diagnosed = None
        if self._active:
            self._publish()

    def _publish_change(self) -> None:
        if self._monitor is not None and self._monitor.motion() != self._said:
            self._publish()

    def _publish(self) -> None:
        if self._monitor is None or not self._active:
            return
        status = self._monitor.status()
        self._said = self._monitor.motion()
        if self._monitor.latched != self._stop_kept:
            self._stop_kept = self._monitor.latched
            self._stops.changed_now()
        message = SafetyStatus(state=int(status.state), speed_scale=status.speed_scale, reason=status.reason)
        message.header.stamp = self.get_clock().now().to_msg()
        message.estimates = [
            convert.estimate_message(e, self._aliases.get(e.adapter_digest, "")) for e in status.estimates
        ]
        self._status.publish(message)
        if status.state is not self._diagnosed:
            self._diagnosed = status.state
            self._diagnose(status)

    def _diagnose(self, status: MonitorStatus) -> None:
        entry = diagnosis.monitor_status(status, self.get_namespace(), self._parts)
        canary = self._canary.diagnosis()
        array = DiagnosticArray(status=[entry] if canary is None else [entry, canary])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _expected(self, rollout: Rollout) -> str | None:
        """Which adapter may drive: in a stable rollout the one that the store calls so; None: any."""
        if rollout.phase != Rollout.PHASE_STARTED:
            return None
        if rollout.arm == Rollout.ARM_CANDIDATE:
            return self._canary.candidate
        return self._stable if rollout.arm == Rollout.ARM_STABLE else None

    def _refresh_aliases(self) -> None:
        if self._store is None:
            return
        try:
            aliases = self._store.aliases()
            self._aliases = {digest: alias for alias, digest in sorted(aliases.items())}
            self._stable = aliases.get("stable")
        except VlaForgetError as error:
            self.get_logger().warning(f"estimates show no aliases: {error}")


def _beside(state_file: str, ending: str) -> Path | None:
    return Path(f"{state_file}{ending}") if state_file else None
