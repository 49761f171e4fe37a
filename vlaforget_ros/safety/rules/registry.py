"""The rules that exist, by the name used in the rules file. A new rule is one module and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlaforget_ros.safety.rules.base import Rule, RuleSettings
from vlaforget_ros.safety.rules.keep_out import KeepOut, KeepOutSettings
from vlaforget_ros.safety.rules.speed import Speed, SpeedSettings
from vlaforget_ros.safety.rules.workspace import Workspace, WorkspaceSettings


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
}


def make_rule(settings: RuleSettings) -> Rule:
    """The rule that these settings describe."""
    return RULES[settings.type].make(settings)
