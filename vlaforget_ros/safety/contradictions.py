"""Rules that cannot all be kept: such a file is refused, since every run of it would be a violation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from vlaforget_ros.errors import ErrorCode, SafetyError
from vlaforget_ros.safety.rules.base import RuleSettings
from vlaforget_ros.safety.rules.keep_out import KeepOutSettings
from vlaforget_ros.safety.rules.workspace import WorkspaceSettings
from vlaforget_ros.safety.volumes import apart, covers


def check_together(rules: Sequence[RuleSettings], origin: str) -> None:
    """Look for pairs of rules that leave nowhere to be.

    Args:
        rules: the rules of one file.
        origin: where they came from, for messages.

    Raises:
        SafetyError: 403 naming both rules.
    """
    workspaces = [rule for rule in rules if isinstance(rule, WorkspaceSettings)]
    for zone in (rule for rule in rules if isinstance(rule, KeepOutSettings)):
        for space in workspaces:
            if covers(zone.volume(), space.volume(), zone.margin_m):
                raise _both(origin, zone, space, "the zone covers the whole workspace")
    for first, second in combinations(workspaces, 2):
        if apart(first.volume(), second.volume()):
            raise _both(origin, first, second, "the two workspaces have no point in common")


def _both(origin: str, first: RuleSettings, second: RuleSettings, why: str) -> SafetyError:
    return SafetyError(
        ErrorCode.SAFETY_BAD_RULE,
        f"{origin}: {first.id} and {second.id} contradict each other: {why}",
        value=f"{first.id}, {second.id}",
        limit="some place that breaks neither",
        remedy="correct one of the two volumes",
    )
