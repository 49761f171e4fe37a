"""Stale input: something that should arrive does not, on the steady clock."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from vlaforget_ros.errors import did_you_mean
from vlaforget_ros.safety.rules.base import Reading, RuleSettings
from vlaforget_ros.safety.samples import INPUTS, TickSample


class StaleInputSettings(RuleSettings):
    """Longest silence of one input.

    Args:
        input: ee_pose, joint_states, wrench, human_distance, action or reference_action.
        limit_s: longest time without a usable sample [s].
        always: watched outside rollouts, too.
    """

    type: Literal["stale_input"] = "stale_input"
    input: str
    limit_s: float = Field(gt=0.0, le=600.0)
    always: bool = False

    @field_validator("input")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in INPUTS:
            raise ValueError(did_you_mean(name, INPUTS))
        return name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input it waits for."""
        return (self.input,)

    def slow_until(self) -> float | None:
        """The limit."""
        return self.limit_s


class StaleInput:
    """Broken while the last usable sample is older than the limit [s]."""

    judges: ClassVar[tuple[type, ...]] = (TickSample,)

    def __init__(self, settings: StaleInputSettings) -> None:
        self.settings = settings

    def check(self, sample: TickSample) -> Reading | None:
        """The age [s]; 0 outside rollouts unless it is watched always."""
        age = sample.ages.get(self.settings.input)
        if age is None:
            return None
        watched = sample.running or self.settings.always
        limit = self.settings.limit_s
        # Outside a rollout it is kept by definition, or a broken one would stay broken for ever.
        value = age if watched else 0.0
        return Reading(value > limit, value, limit, "s", f"no usable {self.settings.input} for {value:.2f} s")

    def restart(self) -> None:
        """Nothing to forget."""
