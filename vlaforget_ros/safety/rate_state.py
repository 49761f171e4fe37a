"""The counts behind the rates as a value for JSON, and back."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.errors import ErrorCode, SafetyError
from vlaforget_ros.safety.rules.base import Severity
from vlaforget_ros.safety.totals import RolloutRecord, Totals


@dataclass
class RateState:
    """What a rate book knows.

    Args:
        open: rollouts that a late message can still reach, by id, in order of first sight.
        settled: sums over older ones, by adapter.
        ends: rollouts that ended so far.
    """

    open: OrderedDict[str, RolloutRecord]
    settled: dict[str, Totals]
    ends: int


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Rollout(_Strict):
    id: str
    digest: str
    rules: dict[str, Severity]
    ended: int = Field(ge=0)
    success: bool | None
    mixed: bool


class _Totals(_Strict):
    rollouts: int = Field(ge=0)
    violated: int = Field(ge=0)
    succeeded: int = Field(ge=0)
    unsafe_successes: int = Field(ge=0)
    by_rule: dict[str, int]
    by_severity: dict[Severity, int]


class _State(_Strict):
    form: Literal[1] = 1
    ends: int = Field(ge=0)
    settled: dict[str, _Totals]
    rollouts: list[_Rollout]


def state_of(state: RateState) -> dict[str, Any]:
    """The value for JSON."""
    rollouts = [
        {
            "id": name,
            "digest": one.digest,
            "rules": {rule: int(severity) for rule, severity in one.rules.items()},
            "ended": one.ended,
            "success": one.success,
            "mixed": one.mixed,
        }
        for name, one in state.open.items()
    ]
    settled = {
        digest: {
            "rollouts": sums.rollouts,
            "violated": sums.violated,
            "succeeded": sums.succeeded,
            "unsafe_successes": sums.unsafe_successes,
            "by_rule": dict(sums.by_rule),
            "by_severity": {str(int(severity)): hits for severity, hits in sums.by_severity.items()},
        }
        for digest, sums in state.settled.items()
    }
    return {"form": 1, "ends": state.ends, "settled": settled, "rollouts": rollouts}


def read_state(value: Mapping[str, Any]) -> RateState:
    """The state in a value. Raises SafetyError 404 when it is none."""
    try:
        read = _State.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise SafetyError(
            ErrorCode.SAFETY_BAD_STATE,
            f"not the counts of a monitor: {where}: {first['msg']}",
            remedy="begin with new counts, or give the file that this version wrote",
        ) from error
    rollouts = OrderedDict(
        (one.id, RolloutRecord(one.digest, dict(one.rules), one.ended, one.success, one.mixed))
        for one in read.rollouts
    )
    settled = {
        digest: Totals(
            sums.rollouts,
            sums.violated,
            sums.succeeded,
            sums.unsafe_successes,
            Counter(sums.by_rule),
            Counter(sums.by_severity),
        )
        for digest, sums in read.settled.items()
    }
    return RateState(rollouts, settled, read.ends)
