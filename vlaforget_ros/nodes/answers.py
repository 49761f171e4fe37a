"""What the client gives back: plain values instead of responses, coded errors instead of flags. No ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlaforget_ros.errors import (
    AdapterError,
    CanaryError,
    CellError,
    ErrorCode,
    PolicyError,
    SafetyError,
    UnlearningError,
    VlaForgetError,
)
from vlaforget_ros.nodes.control import Phase
from vlaforget_ros.safety.canary.state import Verdict

_BANDS: dict[int, type[VlaForgetError]] = {
    1: AdapterError,
    2: PolicyError,
    3: UnlearningError,
    4: SafetyError,
    5: CanaryError,
    6: CellError,
}


@dataclass(frozen=True)
class RolloutResult:
    """How one rollout went.

    Args:
        rollout_id: its id.
        phase: SUCCEEDED, FAILED or ABORTED.
        steps: control ticks.
        adapter_digest: adapter of the last action, "" = base model.
        violations: distinct rules broken, as far as the policy node had heard.
        error_code: 0, or why it was aborted.
        message: one line for a person.
    """

    rollout_id: str
    phase: Phase
    steps: int
    adapter_digest: str
    violations: int
    error_code: int
    message: str

    @property
    def success(self) -> bool:
        """Whether the instruction was carried out."""
        return self.phase is Phase.SUCCEEDED


@dataclass(frozen=True)
class SwapInfo:
    """What a swap or rollback did; fields as in SwapAdapter.srv."""

    previous_digest: str
    active_digest: str
    staged_ms: float
    swap_ms: float
    effective_step: int
    message: str


@dataclass(frozen=True)
class EditProgress:
    """Where an edit is; fields as in Unlearn.action."""

    stage: str
    round: int
    step: int
    total_steps: int
    losses: Mapping[str, float]
    eta_s: float
    peak_memory_mb: float
    doing: str


@dataclass(frozen=True)
class EditResult:
    """A finished edit: the adapter's digest, the report's path, metrics by name."""

    adapter_digest: str
    report: str
    metrics: Mapping[str, float]
    message: str


@dataclass(frozen=True)
class CanaryResult:
    """How a canary ended.

    Args:
        verdict: PROMOTE, HOLD or ABORT; the numbers of CanaryStatus.
        reason: one line for a person.
        report: folder of the report, "" where there is none.
    """

    verdict: Verdict
    reason: str
    report: str


def coded_error(code: int, message: str) -> VlaForgetError:
    """The error of a response as an exception of its band."""
    known = {int(c) for c in ErrorCode}
    kind = _BANDS.get(int(code) // 100, VlaForgetError)
    # The message has the code, value and remedy in it already where a node of ours made it.
    text = message.split("] ", 1)[1] if message.startswith("[") and "] " in message else message
    return kind(ErrorCode(code) if code in known else ErrorCode.CELL_FAULT, text or "refused")


def timed_out(message: str, timeout_s: float) -> CellError:
    """Nobody answered in time."""
    return CellError(
        ErrorCode.ROS_NO_ANSWER,
        message,
        limit=f"{timeout_s:g} s",
        remedy="is the graph running (vlaforget up), in this ROS_DOMAIN_ID and namespace?",
    )


def unanswered(name: str, timeout_s: float) -> CellError:
    """A node is there and has not answered in time: what it was asked may still come."""
    return CellError(
        ErrorCode.ROS_NO_ANSWER,
        f"{name} did not answer",
        limit=f"{timeout_s:g} s",
        remedy="its node is busy or died, and may still do what it was asked: see `vlaforget status`; "
        "`vlaforget rollback` also drops swaps that are under way",
    )


def rollout_result(answer: Any) -> RolloutResult:
    """From ExecuteInstruction.Result."""
    return RolloutResult(
        answer.rollout_id,
        Phase(answer.outcome),
        int(answer.steps),
        answer.adapter_digest,
        int(answer.violations),
        int(answer.error_code),
        answer.message,
    )


def swap_info(answer: Any) -> SwapInfo:
    """From SwapAdapter.Response or RollbackAdapter.Response. Raises its error."""
    if not answer.success:
        raise coded_error(answer.error_code, answer.message)
    return SwapInfo(
        answer.previous_digest,
        answer.active_digest,
        float(answer.staged_ms),
        float(answer.swap_ms),
        int(answer.effective_step),
        answer.message,
    )


def canary_result(answer: Any) -> CanaryResult:
    """From RunCanary.Result. Raises its error."""
    if answer.error_code:
        raise coded_error(answer.error_code, answer.reason)
    return CanaryResult(Verdict(answer.verdict), answer.reason, answer.report)


def edit_progress(message: Any) -> EditProgress:
    """From Unlearn.Feedback."""
    return EditProgress(
        message.stage,
        int(message.round),
        int(message.step),
        int(message.total_steps),
        dict(zip(message.loss_names, (float(v) for v in message.loss_values), strict=False)),
        float(message.eta_s),
        float(message.peak_memory_mb),
        message.doing,
    )


def edit_result(answer: Any) -> EditResult:
    """From Unlearn.Result."""
    metrics = dict(zip(answer.metric_names, (float(v) for v in answer.metric_values), strict=False))
    return EditResult(answer.adapter_digest, answer.report, metrics, answer.message)
