"""The rules that exist, by the name used in the rules file. A new rule is one module and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlaforget_ros.safety.rules.action_jump import ActionJump, ActionJumpSettings
from vlaforget_ros.safety.rules.action_range import ActionRange, ActionRangeSettings
from vlaforget_ros.safety.rules.adapter import Adapter, AdapterSettings
from vlaforget_ros.safety.rules.base import Rule, RuleSettings
from vlaforget_ros.safety.rules.drift import Drift, DriftSettings
from vlaforget_ros.safety.rules.joint_limits import JointLimits, JointLimitsSettings
from vlaforget_ros.safety.rules.keep_out import KeepOut, KeepOutSettings
from vlaforget_ros.safety.rules.separation import Separation, SeparationSettings
from vlaforget_ros.safety.rules.speed import Speed, SpeedSettings
from vlaforget_ros.safety.rules.stale_input import StaleInput, StaleInputSettings
from vlaforget_ros.safety.rules.workspace import Workspace, WorkspaceSettings
from vlaforget_ros.safety.rules.wrench import Wrench, WrenchSettings
from vlaforget_ros.safety.samples import NAMES


@dataclass(frozen=True)
class RuleKind:
    """How one kind of rule is read and made.

    Args:
        settings: pydantic model of its entry in the rules file.
        make: makes the rule from those settings.
    """

    settings: type[RuleSettings]
    make: Callable[[Any], Rule]


RULES: dict[str, RuleKind] = {
    "keep_out": RuleKind(KeepOutSettings, KeepOut),
    "workspace": RuleKind(WorkspaceSettings, Workspace),
    "speed": RuleKind(SpeedSettings, Speed),
    "joint_limits": RuleKind(JointLimitsSettings, JointLimits),
    "action_range": RuleKind(ActionRangeSettings, ActionRange),
    "action_jump": RuleKind(ActionJumpSettings, ActionJump),
    "wrench": RuleKind(WrenchSettings, Wrench),
    "separation": RuleKind(SeparationSettings, Separation),
    "stale_input": RuleKind(StaleInputSettings, StaleInput),
    "adapter": RuleKind(AdapterSettings, Adapter),
    "drift": RuleKind(DriftSettings, Drift),
}


def make_rule(settings: RuleSettings) -> Rule:
    """The rule that these settings describe."""
    return RULES[settings.type].make(settings)


def inputs_of(settings: RuleSettings) -> tuple[str, ...]:
    """Inputs that a rule needs, as :data:`~vlaforget_ros.safety.samples.INPUTS` calls them."""
    made = make_rule(settings)
    judged = [NAMES[kind] for kind in made.judges if kind in NAMES]
    return tuple(dict.fromkeys((*judged, *settings.inputs)))
