"""The protocol of a canary: YAML, checked, with remedies that name the nearest known word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlaforget_ros.errors import CanaryError, ErrorCode, did_you_mean
from vlaforget_ros.safety.rules.base import Severity

PhaseName = Literal["offline", "shadow", "reduced_speed", "ramp"]
ORDER: tuple[PhaseName, ...] = ("offline", "shadow", "reduced_speed", "ramp")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OfflineSettings(_Settings):
    """Before anything computes on the arm.

    Args:
        require_gates: the candidate's gates must have passed.
    """

    require_gates: bool = True


class ShadowSettings(_Settings):
    """The candidate computes beside stable, only stable moves the arm.

    Args:
        rollouts: how many.
        max_mean_distance: largest mean distance of the candidate's actions from stable's, over all steps of the phase
            (0: the same, 1: the whole range of an action).
        max_would_be_violations: so many violations may the candidate's actions have caused, in all of the phase.
    """

    rollouts: int = Field(default=5, ge=1, le=10_000)
    max_mean_distance: float = Field(default=0.25, ge=0.0)
    max_would_be_violations: int = Field(default=0, ge=0)


class ReducedSpeedSettings(_Settings):
    """The candidate drives all rollouts, slowly.

    Args:
        speed_scale: factor on its motion, above 0 and at most 1.
        rollouts: how many.
    """

    speed_scale: float = Field(default=0.3, gt=0.0, le=1.0)
    rollouts: int = Field(default=5, ge=1, le=10_000)


class RampSettings(_Settings):
    """The candidate gets a growing share of the rollouts at full speed.

    Args:
        weights: shares, one step after another, each 0.01..1 and larger than the one before.
        rollouts: of the candidate in each step before the next; the last step goes on until the verdict.
    """

    weights: tuple[float, ...] = Field(default=(0.1, 0.5, 1.0), min_length=1)
    rollouts: int = Field(default=5, ge=1, le=10_000)


class Protocol(_Settings):
    """What a candidate must show, and what may be risked to find out.

    Args:
        phases: some of offline, shadow, reduced_speed, ramp, in this order. Without ramp nothing can be promoted.
        offline: the first phase.
        shadow: the second.
        reduced_speed: the third.
        ramp: the last.
        svr_ok: acceptable share of the candidate's rollouts with a violation, 0..1.
        svr_bad: share that must be found out, above ``svr_ok``.
        tsr_loss_ok: acceptable loss of success rate against the reference, 0..1.
        tsr_loss_bad: loss that must be found out, above ``tsr_loss_ok``.
        tsr_reference: stable's success rate where it is known, 0..1; None: learnt from stable's rollouts.
        alpha: largest chance to abort a candidate that is acceptable in both respects.
        beta: largest chance to promote one that is bad in either.
        min_rollouts: candidate's rollouts at full speed before it can be promoted.
        max_rollouts: candidate's rollouts at full speed after which an undecided canary ends with HOLD.
        no_data_s: a canary that hears nothing for this long ends: ABORT while the candidate drives, else HOLD [s].
        abort_severity: a violation this severe by the candidate aborts at once.
        stable_failing: what follows when stable's own violations are shown to be above ``svr_ok``: ``hold`` ends the
            canary with HOLD and a stop; ``go_on`` is for a candidate that is the cure of a stable known to misbehave,
            and stops the arm only if the candidate fails too.
        require_operator: promotion waits for an operator.
        seed: of the assignment of rollouts to arms.
    """

    phases: tuple[PhaseName, ...] = ORDER
    offline: OfflineSettings = OfflineSettings()
    shadow: ShadowSettings = ShadowSettings()
    reduced_speed: ReducedSpeedSettings = ReducedSpeedSettings()
    ramp: RampSettings = RampSettings()
    svr_ok: float = Field(default=0.02, gt=0.0, lt=1.0)
    svr_bad: float = Field(default=0.10, gt=0.0, lt=1.0)
    tsr_loss_ok: float = Field(default=0.05, ge=0.0, lt=1.0)
    tsr_loss_bad: float = Field(default=0.20, gt=0.0, lt=1.0)
    tsr_reference: float | None = Field(default=None, gt=0.0, le=1.0)
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    beta: float = Field(default=0.05, gt=0.0, lt=0.5)
    min_rollouts: int = Field(default=20, ge=1)
    max_rollouts: int = Field(default=200, ge=1, le=100_000)
    no_data_s: float = Field(default=600.0, gt=0.0)
    abort_severity: Literal["warn", "slow", "stop"] = "stop"
    stable_failing: Literal["hold", "go_on"] = "hold"
    require_operator: bool = True
    seed: int = Field(default=0, ge=0, lt=2**64)

    @property
    def abort_level(self) -> Severity:
        """``abort_severity`` as its number."""
        return Severity[self.abort_severity.upper()]

    @property
    def earliest(self) -> int:
        """Candidate's rollouts at full speed before a promotion: all steps of the ramp and ``min_rollouts``."""
        return max(self.min_rollouts, self.ramp.rollouts * len(self.ramp.weights))

    @model_validator(mode="after")
    def _without_contradictions(self) -> Protocol:
        places = [ORDER.index(phase) for phase in self.phases]
        if not places or places != sorted(set(places)):
            raise _bad("phases are not in order, or one is there twice", list(self.phases), ", ".join(ORDER))
        _check_rates(self)
        weights = self.ramp.weights
        if not all(0.01 <= weight <= 1.0 for weight in weights) or list(weights) != sorted(set(weights)):
            raise _bad("ramp.weights do not increase", list(weights), "increasing shares within 0.01..1")
        if self.min_rollouts > self.max_rollouts:
            raise _bad("min_rollouts is above max_rollouts", self.min_rollouts, self.max_rollouts)
        if self.earliest > self.max_rollouts:
            raise _bad("the ramp alone takes more than max_rollouts", self.earliest, self.max_rollouts)
        return self


def _check_rates(protocol: Protocol) -> None:
    if protocol.svr_ok >= protocol.svr_bad:
        raise _bad("svr_ok is not below svr_bad", protocol.svr_ok, f"below {protocol.svr_bad}")
    if protocol.tsr_loss_ok >= protocol.tsr_loss_bad:
        limit = f"below {protocol.tsr_loss_bad}"
        raise _bad("tsr_loss_ok is not below tsr_loss_bad", protocol.tsr_loss_ok, limit)
    reference = protocol.tsr_reference
    if reference is not None and protocol.tsr_loss_bad >= reference:
        # Not even a candidate that never succeeds would have lost so much.
        raise _bad("tsr_loss_bad is not below tsr_reference", protocol.tsr_loss_bad, f"below {reference}")


def read_protocol(path: Path | None) -> Protocol:
    """Read a protocol.

    Args:
        path: YAML file; None for the default protocol.

    Raises:
        CanaryError: 501 where it cannot be read or used.
    """
    if path is None:
        return Protocol()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(f"the protocol cannot be read: {error}", path, "a YAML file") from error
    return parse_protocol(text, str(path))


def parse_protocol(text: str, origin: str = "protocol") -> Protocol:
    """Check the YAML text of a protocol. Raises :class:`CanaryError` 501.

    Args:
        text: a mapping; keys that are left out have their defaults.
        origin: where it came from, for messages.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _bad(f"{origin} is not YAML: {error}", origin, "YAML") from error
    if data is not None and not isinstance(data, Mapping):
        raise _bad(f"{origin} is not a mapping", type(data).__name__, "keys and values")
    return protocol_of(data or {}, origin)


def protocol_of(data: Mapping[str, Any], origin: str = "protocol") -> Protocol:
    """Check a protocol that was already parsed. Raises :class:`CanaryError` 501."""
    try:
        return Protocol.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        remedy = first["msg"]
        if first["type"] == "extra_forbidden":
            remedy = did_you_mean(str(first["loc"][-1]), _known(first["loc"]))
        raise CanaryError(
            ErrorCode.CANARY_BAD_PROTOCOL,
            f"{origin}: {field or 'entry'} is unusable",
            value=_short(first["input"]),
            remedy=remedy,
        ) from error


def _known(loc: tuple[int | str, ...]) -> list[str]:
    """Keys that exist beside an unknown one."""
    if len(loc) == 1:
        return list(Protocol.model_fields)
    default = getattr(Protocol(), str(loc[0]))
    return list(type(default).model_fields)


def _short(value: Any) -> Any:
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def _bad(message: str, value: Any, limit: Any) -> CanaryError:
    return CanaryError(
        ErrorCode.CANARY_BAD_PROTOCOL, message, value=value, limit=limit, remedy="correct the protocol"
    )
