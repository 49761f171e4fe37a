"""The rules file: YAML with one entry a rule, checked, with remedies that name the nearest known word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vlaforget_ros.errors import ErrorCode, SafetyError, did_you_mean
from vlaforget_ros.safety.contradictions import check_together
from vlaforget_ros.safety.rules.base import RuleSettings
from vlaforget_ros.safety.rules.keep_out import KeepOutSettings
from vlaforget_ros.safety.rules.registry import RULES, inputs_of
from vlaforget_ros.safety.rules.speed import SpeedSettings
from vlaforget_ros.safety.rules.workspace import WorkspaceSettings


@dataclass(frozen=True)
class SafetyConfig:
    """What the monitor watches.

    Args:
        frame: frame of all poses and boxes; a pose in another frame is unusable input.
        rules: the rules, ids unique.
        stale_after_s: a rollout without a usable sample of a sensor that a rule judges makes the arm hold [s].
        level: confidence level of the rates' intervals, 0..1.
        max_rollout_s: a rollout that runs for longer makes the arm hold until its end is told [s].
    """

    frame: str
    rules: tuple[RuleSettings, ...]
    stale_after_s: float = 2.0
    level: float = 0.95
    max_rollout_s: float = 600.0

    def rule_ids(self) -> tuple[str, ...]:
        """The ids, in file order."""
        return tuple(rule.id for rule in self.rules)

    def inputs(self) -> tuple[str, ...]:
        """Inputs that some rule needs, each once: nothing else has to be subscribed."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in inputs_of(rule)))


def default_config() -> SafetyConfig:
    """Rules of the embedded cell: the zone where a hand may be, the table's workspace, and a speed limit."""
    return SafetyConfig(
        frame="cell",
        rules=(
            KeepOutSettings(
                id="keep_out/hand_zone",
                severity="warn",
                low_m=(-0.28, 0.48, 0.05),
                high_m=(-0.12, 0.60, 0.40),
            ),
            WorkspaceSettings(
                id="workspace/table", severity="warn", low_m=(-0.7, 0.2, -0.02), high_m=(0.7, 1.1, 0.7)
            ),
            SpeedSettings(id="speed/end_effector", severity="warn", limit_m_s=1.0),
        ),
    )


def load_config(path: Path) -> SafetyConfig:
    """Read a rules file. Raises :class:`SafetyError` 403 (unusable) or 402 (unknown rule type)."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _bad(f"the rules file cannot be read: {error.strerror}", path) from error
    return parse_config(text, str(path), path.parent)


def parse_config(text: str, origin: str = "rules", folder: Path = Path()) -> SafetyConfig:
    """Check the YAML text of a rules file.

    Args:
        text: a mapping with ``rules`` (list) and optionally ``frame``, ``stale_after_s``, ``level`` and
            ``max_rollout_s``.
        origin: where it came from, for messages.
        folder: where relative paths of mesh files begin.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _bad(f"{origin} is not YAML: {error}", origin) from error
    if not isinstance(data, Mapping) or not isinstance(data.get("rules"), list):
        raise _bad(f"{origin} has no list called rules", origin, "give 'rules:' with one entry a rule")
    known = ("frame", "rules", "stale_after_s", "level", "max_rollout_s")
    for key in data:
        if key not in known:
            raise _bad(f"{origin}: unknown key", key, did_you_mean(str(key), known))
    rules = tuple(
        _rule(entry, f"{origin}: rule {index}", folder) for index, entry in enumerate(data["rules"])
    )
    _check_unique(rules, origin)
    check_together(rules, origin)
    return SafetyConfig(
        frame=str(data.get("frame", "cell")),
        rules=rules,
        stale_after_s=_number(data, "stale_after_s", 2.0, (0.05, 60.0)),
        level=_number(data, "level", 0.95, (0.5, 0.9999)),
        max_rollout_s=_number(data, "max_rollout_s", 600.0, (1.0, 86400.0)),
    )


def _rule(entry: Any, where: str, folder: Path) -> RuleSettings:
    if not isinstance(entry, Mapping) or "type" not in entry:
        raise _bad(f"{where} has no type", entry, f"types: {', '.join(sorted(RULES))}")
    kind = RULES.get(str(entry["type"]))
    if kind is None:
        raise SafetyError(
            ErrorCode.SAFETY_UNKNOWN_RULE,
            f"{where}: unknown rule type",
            value=entry["type"],
            remedy=did_you_mean(str(entry["type"]), RULES),
        )
    try:
        return kind.settings.model_validate(dict(entry), context={"folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        remedy = (
            did_you_mean(field, kind.settings.model_fields)
            if first["type"] == "extra_forbidden" and len(first["loc"]) == 1
            else first["msg"]
        )
        raise _bad(
            f"{where} ({entry.get('id', '?')}): {field or 'entry'} is unusable", first["input"], remedy
        ) from error


def _check_unique(rules: tuple[RuleSettings, ...], origin: str) -> None:
    ids = [rule.id for rule in rules]
    for name in ids:
        if ids.count(name) > 1:
            raise _bad(f"{origin}: two rules have one id", name, "give each rule its own id")


def _number(data: Mapping[str, Any], key: str, default: float, bounds: tuple[float, float]) -> float:
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not bounds[0] <= value <= bounds[1]:
        raise SafetyError(
            ErrorCode.SAFETY_BAD_RULE,
            f"{key} is unusable",
            value=value,
            limit=f"{bounds[0]}..{bounds[1]}",
            remedy=f"set {key} within the limits",
        )
    return float(value)


def _bad(message: str, value: Any, remedy: str = "correct the rules file") -> SafetyError:
    return SafetyError(ErrorCode.SAFETY_BAD_RULE, message, value=value, remedy=remedy)
