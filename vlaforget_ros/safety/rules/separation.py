"""Speed and separation: a person must be further away than the robot needs to come to a stop.

ISO/TS 15066:2016, 5.5.4.2.3 (formula 1), the protective separation distance at a time t0:

    S(t0) = S_h + S_r + S_s + C + Z_d + Z_r

S_h: what the person covers until the robot stands; S_r: what the robot covers before it begins to brake; S_s: while it
brakes; C: how far a body part may reach in before it is detected; Z_d, Z_r: uncertainty of the person's and of the
robot's position. With speeds taken as constant: S_h = v_h (T_r + T_s), S_r = v_r T_r; S_s = v_r T_s is its upper bound,
as if the robot braked only at the very end.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import DistanceSample


class SeparationSettings(RuleSettings):
    """The terms of the formula. Only v_h has a default; the others are of this robot and this sensor: measure them.

    ``slow_from`` is a distance [m] above the limit.

    Args:
        v_h_m_s: speed of the person towards the robot [m/s]; 1.6 is what the standard assumes where nobody measures it.
        v_r_m_s: largest speed of the robot towards the person [m/s].
        t_r_s: from the measurement to the begin of braking [s].
        t_s_s: from there to standstill [s].
        c_m: intrusion distance C [m].
        z_d_m: uncertainty of the person's position [m].
        z_r_m: uncertainty of the robot's position [m].
    """

    type: Literal["separation"] = "separation"
    v_h_m_s: float = Field(default=1.6, ge=0.0, le=10.0)
    v_r_m_s: float = Field(ge=0.0, le=10.0)
    t_r_s: float = Field(ge=0.0, le=10.0)
    t_s_s: float = Field(ge=0.0, le=10.0)
    c_m: float = Field(ge=0.0, le=10.0)
    z_d_m: float = Field(ge=0.0, le=10.0)
    z_r_m: float = Field(ge=0.0, le=10.0)

    falls: ClassVar[bool] = True

    def slow_until(self) -> float | None:
        """The distance for a person at the assumed speed."""
        return self.distance_m()

    def distance_m(self, v_h_m_s: float = 0.0) -> float:
        """S [m] for a person who walks at the assumed speed, or faster when measured so [m/s]."""
        v_h = max(self.v_h_m_s, v_h_m_s)
        human = v_h * (self.t_r_s + self.t_s_s)
        robot = self.v_r_m_s * self.t_r_s + self.v_r_m_s * self.t_s_s
        return human + robot + self.c_m + self.z_d_m + self.z_r_m


class Separation:
    """Broken while the person is nearer than the protective separation distance [m]."""

    judges: ClassVar[tuple[type, ...]] = (DistanceSample,)

    def __init__(self, settings: SeparationSettings) -> None:
        self.settings = settings

    def check(self, sample: DistanceSample) -> Reading:
        """The distance against S; a measured closing speed can only enlarge S."""
        fastest = 0.0 if sample.closing_m_s is None else sample.closing_m_s - self.settings.v_r_m_s
        limit = self.settings.distance_m(fastest)
        text = f"a person at {sample.distance_m:.2f} m"
        return Reading(sample.distance_m < limit, sample.distance_m, limit, "m", text)

    def restart(self) -> None:
        """Nothing to forget."""
