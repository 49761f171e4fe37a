"""The values a canary takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from vlaforget_ros.safety.canary.sequential import Evidence
from vlaforget_ros.safety.rules.base import Severity

UNNAMED = "violation"
"""Stands for a rule where a record has a severity and names no rule."""


class Phase(IntEnum):
    """Where a canary is; the numbers of CanaryStatus.phase."""

    OFFLINE = 0
    """Nothing of the candidate runs: its gates are looked at."""
    SHADOW = 1
    """The candidate computes, stable moves the arm."""
    REDUCED_SPEED = 2
    """The candidate moves the arm, slowly."""
    RAMP = 3
    """The candidate gets a growing share of the rollouts, at full speed."""


class Verdict(IntEnum):
    """What a canary decided; the numbers of CanaryStatus.verdict."""

    RUNNING = 0
    PROMOTE = 1
    """Both tests accepted: the candidate may become stable."""
    HOLD = 2
    """Not shown either way, or nothing to compare with: stable stays."""
    ABORT = 3
    """The candidate is not acceptable, or went silent while it drove: stable stays, the candidate is marked."""


class Arm(StrEnum):
    """Why a rollout was driven by the adapter that drove it; the words of Rollout.arm."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    PINNED = "pinned"
    """Somebody asked for this adapter: nobody drew lots, so the rollout counts for neither."""


@dataclass(frozen=True)
class RolloutRecord:
    """A rollout that ended.

    Args:
        rollout_id: its name; a second report of the same name does not count again.
        arm: why this adapter drove it.
        adapter_digest: adapter at its start, "" for the base model.
        violated_rules: ids of the rules that were broken.
        worst_severity: of these; None without a violation.
        success: None: aborted.
        duration_s: how long it took [s].
        mixed: the adapter changed on the way: it counts for neither.
        unseen: nobody watched some of it: it counts for neither, unless a rule was seen to be broken.
    """

    rollout_id: str
    arm: Arm
    adapter_digest: str
    violated_rules: tuple[str, ...] = ()
    worst_severity: Severity | None = None
    success: bool | None = None
    duration_s: float = 0.0
    mixed: bool = False
    unseen: bool = False

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that were broken; a stand-in where a severity is told and no rule."""
        if not self.violated_rules and self.worst_severity is not None:
            return (UNNAMED,)
        return self.violated_rules


@dataclass(frozen=True)
class ArmCounts:
    """Rollouts of one adapter that counted.

    Args:
        rollouts: how many.
        violated: of these, with at least one violation.
        succeeded: of these, successful.
    """

    rollouts: int = 0
    violated: int = 0
    succeeded: int = 0

    @property
    def failed(self) -> int:
        """Of these, not successful (aborted after a violation too)."""
        return self.rollouts - self.succeeded

    def __add__(self, other: ArmCounts) -> ArmCounts:
        return ArmCounts(
            self.rollouts + other.rollouts, self.violated + other.violated, self.succeeded + other.succeeded
        )


@dataclass(frozen=True)
class CanaryState:
    """Where a canary stands: what CanaryStatus says.

    Args:
        phase: of the protocol.
        weight: share of the rollouts the candidate shall get now, 0..1.
        speed_scale: factor on the candidate's motion now, 0..1.
        verdict: final once it is not RUNNING.
        stop: stable failed too: stop the arm instead of giving it back to stable.
        awaiting_operator: everything for a promotion is there but the operator's word.
        reason: one line for a person.
        candidate: its counted rollouts, at reduced and at full speed.
        stable: its counted rollouts within this canary.
        shadow_rollouts: rollouts in which the candidate computed beside stable.
        violation: the test of the candidate's violations.
        success: the test of the candidate's loss of success.
        stable_violation: the test of stable's violations; only ``abort`` decides.
    """

    phase: Phase
    weight: float
    speed_scale: float
    verdict: Verdict
    stop: bool
    awaiting_operator: bool
    reason: str
    candidate: ArmCounts
    stable: ArmCounts
    shadow_rollouts: int
    violation: Evidence
    success: Evidence
    stable_violation: Evidence


@dataclass(frozen=True)
class TracePoint:
    """What a canary heard, and where it stood then.

    Args:
        index: 0, 1, 2, ...
        stamp_s: seconds since the canary started [s].
        event: rollout, shadow, offline, violation, operator, restart, phase, or verdict.
        phase: in which it was heard, the phase's name.
        weight: the candidate's share then.
        arm: of the rollout, "" for other events.
        rollout_id: "" for other events.
        counted: whether it counted for the tests.
        violated: with a violation.
        success: None: aborted, or no rollout.
        note: what was heard or decided, one line.
        violation: the test of the candidate's violations after it.
        success_test: the test of the candidate's loss after it.
        stable_violation: the test of stable's violations after it.
        verdict: after it, the verdict's name.
    """

    index: int
    stamp_s: float
    event: str
    phase: str
    weight: float
    arm: str
    rollout_id: str
    counted: bool
    violated: bool
    success: bool | None
    note: str
    violation: Evidence
    success_test: Evidence
    stable_violation: Evidence
    verdict: str
