"""Violations that a person flagged: the monitor records them like its own, with a text that tells them apart."""

from __future__ import annotations

from vlaforget_ros.episodes.types import Violation

OPERATOR_RULE = "operator/flag"
"""Rule id an operator may always flag, besides the configured ones."""

_PLAIN, _NOTED = "flagged by an operator", "operator: "


def flag_message(note: str) -> str:
    """The violation's message for a flag with this note, "" for none."""
    return f"{_NOTED}{note}" if note else _PLAIN


def is_flag(violation: Violation) -> bool:
    """Whether an operator flagged it: under a rule of ``operator/``, or under a configured rule with that message."""
    return (
        violation.rule.startswith("operator/")
        or violation.message == _PLAIN
        or violation.message.startswith(_NOTED)
    )
