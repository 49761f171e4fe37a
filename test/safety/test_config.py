"""The rules file: good ones are read, bad ones name the key, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.cell.situations import HAND_ZONE, HAND_ZONE_RULE
from vlaforget_ros.errors import SafetyError
from vlaforget_ros.safety.config import default_config, load_config, parse_config
from vlaforget_ros.safety.rules.keep_out import KeepOutSettings

GOOD = """
frame: cell
stale_after_s: 1.5
rules:
  - {type: keep_out, id: keep_out/a, severity: stop, low_m: [0, 0, 0], high_m: [1, 1, 1]}
  - {type: speed, id: speed/b, severity: slow, limit_m_s: 0.2}
"""


def test_a_good_file() -> None:
    config = parse_config(GOOD)
    assert config.rule_ids() == ("keep_out/a", "speed/b")
    assert config.rules[0].level.name == "STOP"
    assert config.stale_after_s == 1.5


def test_the_default_zone_is_that_of_the_cell() -> None:
    zone = next(rule for rule in default_config().rules if rule.id == HAND_ZONE_RULE)
    assert isinstance(zone, KeepOutSettings)
    assert (zone.low_m, zone.high_m) == (HAND_ZONE.low, HAND_ZONE.high)


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("type: speed", "type: sped", 402, "did you mean speed"),
        ("limit_m_s", "limit_ms", 403, "did you mean limit_m_s"),
        ("limit_m_s: 0.2", "limit_m_s: -1", 403, "greater than 0"),
        ("severity: slow", "severity: panic", 403, "'warn', 'slow' or 'stop'"),
        ("id: speed/b", "id: keep_out/a", 403, "two rules have one id"),
        ("high_m: [1, 1, 1]", "high_m: [1, -1, 1]", 403, "below high_m"),
        ("stale_after_s: 1.5", "stale_after_s: soon", 403, "0.05..60.0"),
        ("frame: cell", "frames: cell", 403, "did you mean frame"),
        ("rules:", "regeln:", 403, "no list called rules"),
        ("frame: cell", "frame: [", 403, "not YAML"),
    ],
)
def test_bad_files_say_what_to_do(old: str, new: str, code: int, says: str) -> None:
    with pytest.raises(SafetyError, match=says.replace(".", r"\.")) as caught:
        parse_config(GOOD.replace(old, new), "rules.yaml")
    assert caught.value.code == code


def test_a_missing_file_is_a_coded_error(tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match="cannot be read") as caught:
        load_config(tmp_path / "none.yaml")
    assert caught.value.code == 403
