"""What the policy node says about a rollout and about itself, as messages."""

from __future__ import annotations

from builtin_interfaces.msg import Time

from vlaforget_ros.action import ExecuteInstruction
from vlaforget_ros.msg import PolicyAction, PolicyStatus, Rollout
from vlaforget_ros.nodes.control import Ending, Phase, RolloutControl, TickMeter
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy


def rollout_message(rollout: RolloutControl, arm: int, phase: Phase, stamp: Time) -> Rollout:
    """Start or end of a rollout."""
    message = Rollout(rollout_id=rollout.rollout_id, instruction=rollout.instruction, arm=arm)
    message.header.stamp = stamp
    message.adapter_digest, message.phase, message.steps = rollout.digest, int(phase), rollout.steps
    return message


def status_message(
    state: int, policy: VlaPolicy, engine: InferenceEngine, meter: TickMeter, stamp: Time
) -> PolicyStatus:
    """The heartbeat; ``state`` is one of PolicyStatus.STATE_*."""
    message = PolicyStatus(state=state, model=policy.config.name, base_digest=policy.base_digest)
    message.header.stamp = stamp
    message.active_digest, message.resident = engine.active_digest, list(engine.resident)
    latency = engine.latency()
    message.inference_ms_p50, message.inference_ms_p99 = latency.p50_ms, latency.p99_ms
    message.rate_hz, message.missed_ticks, message.last_fault = meter.rate_hz, meter.missed, meter.last_fault
    return message


def feedback_message(answer: PolicyAction) -> ExecuteInstruction.Feedback:
    """One control tick for whoever gave the goal."""
    feedback = ExecuteInstruction.Feedback(rollout_id=answer.rollout_id, step=answer.step)
    feedback.action, feedback.fault = answer.action, answer.fault
    feedback.adapter_digest = answer.adapter_digest
    return feedback


def fill_result(result: ExecuteInstruction.Result, rollout: RolloutControl, ending: Ending) -> None:
    """The end of a rollout for whoever gave the goal."""
    result.rollout_id, result.outcome, result.steps = rollout.rollout_id, int(ending.phase), rollout.steps
    result.adapter_digest, result.violations = rollout.digest, rollout.violations
    result.error_code, result.message = ending.code, ending.message
