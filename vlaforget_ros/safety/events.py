"""What the monitor says: events when rules are broken, and the state of the arm."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from vlaforget_ros.safety.ratebook import RateEstimate
from vlaforget_ros.safety.rules.base import Severity


class ArmState(IntEnum):
    """What the arm may do; the numbers of SafetyStatus.state."""

    NOMINAL = 0
    SLOWED = 1
    STOPPED = 2


@dataclass(frozen=True)
class Event:
    """A rule was broken.

    Args:
        rule: rule id.
        severity: what it does to the arm.
        stamp_s: when, on the clock of the data [s].
        value: what was measured, in ``unit``.
        limit: what is allowed, in ``unit``.
        unit: SI unit, "" for none.
        message: one line for a person.
        rollout_id: rollout it happened in, "" for none.
        adapter_digest: adapter that drove the arm, "" for the base model.
    """

    rule: str
    severity: Severity
    stamp_s: float
    value: float
    limit: float
    unit: str
    message: str
    rollout_id: str = ""
    adapter_digest: str = ""


@dataclass(frozen=True)
class MonitorStatus:
    """What SafetyStatus says.

    Args:
        state: what the arm may do.
        speed_scale: factor on commanded motion, 0..1.
        reason: why it is slowed or stopped, "" when nominal.
        estimates: rates, one per adapter seen.
    """

    state: ArmState
    speed_scale: float
    reason: str
    estimates: tuple[RateEstimate, ...]
