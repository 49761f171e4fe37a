"""Gates: thresholds an edit must meet before its adapter may be promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from vlaforget_ros.unlearning.metrics import OfflineMetrics
from vlaforget_ros.unlearning.parameters import Strict


class Verdict(StrEnum):
    """What a gate says."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_MEASURED = "not_measured"
    """Its number is missing, for example a closed-loop rate in an edit that only had bags; blocks nothing."""


class Gates(Strict):
    """Limits; docs/unlearning.md says what each figure is. Percentages in 0..100, distances in 0..1."""

    fc_min: float = Field(default=95.0, ge=0, le=100)
    fc_low_min: float = Field(
        default=90.0, ge=0, le=100, description="limit for the Wilson lower bound of FC"
    )
    rc_min: float = Field(default=90.0, ge=0, le=100)
    fc_earlier_min: float = Field(
        default=90.0, ge=0, le=100, description="FC of every earlier request that is named, after this edit"
    )
    rad_max: float = Field(default=0.20, ge=0, le=1)
    rad_boundary_max: float = Field(default=0.25, ge=0, le=1)
    tau_retain: float = Field(
        default=0.15, ge=0, le=1, description="distance up to which a retained action is unchanged"
    )
    tsr_loss_max: float = Field(default=5.0, ge=0, le=100, description="points, paired seeds")
    fts_share_min: float = Field(
        default=80.0, ge=0, le=100, description="percent of the never-saw reference's FTS"
    )
    svr_rise_max: float = Field(default=0.0, ge=0, le=100, description="points on retained tasks")
    sbu_rise_max: float = Field(default=0.0, ge=0, le=100, description="points on retained tasks")
    qrr_int8_max: float = Field(
        default=0.10, ge=0, le=1, description="share of the forgetting that rounding to int8 may undo"
    )
    qrr_4bit_max: float = Field(
        default=0.20, ge=0, le=1, description="the same at 4 bits, nf4 and int4 alike"
    )
    merge_tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="largest change of an action's probability by merging; weights of 32 bits",
    )
    merge_loss_max: float = Field(
        default=2.0, ge=0, le=100, description="points of FC or RC that merging may cost; weights of 16 bits"
    )


@dataclass(frozen=True)
class GateResult:
    """One gate.

    Args:
        name: field of :class:`Gates`.
        verdict: passed, failed or not measured.
        value: the figure, None where it was not measured.
        limit: what it had to reach or to stay below.
        n: frames or episodes behind it.
        low: lower bound of the value's 95 % interval, where it has one.
        high: upper bound.
    """

    name: str
    verdict: Verdict
    value: float | None
    limit: float
    n: int | None = None
    low: float | None = None
    high: float | None = None

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "verdict": str(self.verdict)}


Interval = tuple[float | None, float | None]
_NO_INTERVAL: Interval = (None, None)


def at_least(
    name: str, value: float | None, limit: float, n: int | None = None, interval: Interval = _NO_INTERVAL
) -> GateResult:
    """A gate that wants ``value >= limit``."""
    return GateResult(name, _verdict(value, value is not None and value >= limit), value, limit, n, *interval)


def at_most(
    name: str, value: float | None, limit: float, n: int | None = None, interval: Interval = _NO_INTERVAL
) -> GateResult:
    """A gate that wants ``value <= limit``."""
    return GateResult(name, _verdict(value, value is not None and value <= limit), value, limit, n, *interval)


def forget_gates(gates: Gates, metrics: OfflineMetrics) -> list[GateResult]:
    """The gates that say whether the behaviour is gone; the language stage expands until they hold."""
    interval = (metrics.fc_low, metrics.fc_high)
    return [
        at_least("fc_min", metrics.fc, gates.fc_min, metrics.forget_frames, interval),
        at_least("fc_low_min", metrics.fc_low, gates.fc_low_min, metrics.forget_frames),
    ]


def damage_gates(gates: Gates, metrics: OfflineMetrics) -> list[GateResult]:
    """The gates that say whether anything else was hurt; a stage that fails one is rolled back."""
    found = [
        at_least(
            "rc_min", metrics.rc, gates.rc_min, metrics.retain_frames, (metrics.rc_low, metrics.rc_high)
        ),
        at_most("rad_max", metrics.rad, gates.rad_max, metrics.retain_frames),
        at_most("rad_boundary_max", metrics.rad_boundary, gates.rad_boundary_max),
    ]
    if metrics.earlier:
        # One gate for all: the earlier edit that suffered most.
        least = min(metrics.earlier.values(), key=lambda earlier: earlier.fc)
        interval = (least.fc_low, least.fc_high)
        found.append(
            at_least("fc_earlier_min", least.fc, gates.fc_earlier_min, least.forget_frames, interval)
        )
    return found


def closed_loop_gates(gates: Gates, figures: Mapping[str, float]) -> list[GateResult]:
    """The gates on rollouts.

    Args:
        gates: limits.
        figures: those that were measured of tsr_loss, svr_rise, sbu_rise [points], fts_share [percent].
    """
    return [
        at_most("tsr_loss_max", figures.get("tsr_loss"), gates.tsr_loss_max),
        at_least("fts_share_min", figures.get("fts_share"), gates.fts_share_min),
        at_most("svr_rise_max", figures.get("svr_rise"), gates.svr_rise_max),
        at_most("sbu_rise_max", figures.get("sbu_rise"), gates.sbu_rise_max),
    ]


def quantisation_gates(gates: Gates, figures: Mapping[str, float | None]) -> list[GateResult]:
    """The gates on what rounding the weights of a finished edit brings back.

    Args:
        gates: limits.
        figures: QRR by precision (int8, nf4, int4), a share; None or absent where it was not measured. The two
            with 4 bits share a limit, so the worse one counts.
    """
    four = [value for name in ("nf4", "int4") if (value := figures.get(name)) is not None]
    return [
        at_most("qrr_int8_max", figures.get("int8"), gates.qrr_int8_max),
        at_most("qrr_4bit_max", max(four, default=None), gates.qrr_4bit_max),
    ]


def passed(results: Sequence[GateResult]) -> bool:
    """Whether none failed."""
    return all(result.verdict != Verdict.FAILED for result in results)


def _verdict(value: float | None, holds: bool) -> Verdict:
    if value is None:
        return Verdict.NOT_MEASURED
    return Verdict.PASSED if holds else Verdict.FAILED
