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
        ("limit_m_s: 0.2", "slow_from: 0.3", 403, "slow_from 0.3 must be below the limit 0.25"),
        (
            "high_m: [1, 1, 1]",
            "high_m: [1, 1, 1], slow_from: 0.1",
            403,
            "slow_from 0.1 must be below the limit 0",
        ),
        ("high_m: [1, 1, 1]", "high_m: [1, 1, .nan]", 403, "finite number"),
        ("high_m: [1, 1, 1]", "shape: sphere", 403, "sphere does not take low_m"),
        ("high_m: [1, 1, 1]", "radius_m: 1", 403, "shape box needs high_m"),
        ("stale_after_s: 1.5", "max_rollout_s: 0", 403, "1.0..86400.0"),
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


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{type: joint_limits, id: j, joints: {a: {low: 1, high: -1}}}", "low 1 must be below high -1"),
        ("{type: joint_limits, id: j, joints: {a: {}}}", "no limit"),
        ("{type: joint_limits, id: j, joints: {a: {low: 1}}}", "low and high go together"),
        ("{type: action_range, id: j, low: [0, 0], high: [1, 0]}", "must be below high"),
        ("{type: action_range, id: j, low: [0, 0], high: [1, 1, 1]}", "must have one length"),
        ("{type: action_jump, id: j, limit: [0.1, 0]}", "above 0 in every dimension"),
        ("{type: wrench, id: j}", "no limit"),
        ("{type: stale_input, id: j, input: ee_pos, limit_s: 1}", "did you mean ee_pose"),
        ("{type: adapter, id: j, slow_from: 0.5}", "kept or broken only"),
        ("{type: drift, id: j, limit: 0.3}", "span"),
        ("{type: drift, id: j, limit: 0.3, span: [1, 0]}", "above 0 in every dimension"),
        (
            "{type: drift, id: j, limit: 0.3, span: 1, slow_from: 0.3}",
            "slow_from 0.3 must be below the limit 0.3",
        ),
        (
            "{type: separation, id: j, v_r_m_s: 0, t_r_s: 0, t_s_s: 0, c_m: 0.5, z_d_m: 0, z_r_m: 0, slow_from: 0.4}",
            "slow_from 0.4 must be above the limit 0.5",
        ),
        (
            "{type: keep_out, id: j, shape: cylinder, base_m: [0,0,0], top_m: [0,0,0], radius_m: 1}",
            "must differ",
        ),
        (
            "{type: keep_out, id: j, shape: mesh, vertices_m: [[0,0,0],[1,0,0],[0,1,0],[1,1,0]]}",
            "enclose no volume",
        ),
        ("{type: keep_out, id: j, shape: mesh, vertices_m: [[0,0,0]]}", "enclose no volume"),
    ],
)
def test_what_cannot_be_is_refused(entry: str, says: str) -> None:
    with pytest.raises(SafetyError, match=says) as caught:
        parse_config(f"rules: [{entry}]")
    assert caught.value.code == 403


@pytest.mark.parametrize(
    ("zone", "refused"),
    [
        ("low_m: [-1, -1, -1], high_m: [1, 1, 1]", True),
        ("low_m: [-1, -1, -1], high_m: [1, 1, 0.9]", False),
        ("low_m: [-1, -1, -1], high_m: [1, 1, 0.9], margin_m: 0.2", True),
        ("shape: sphere, centre_m: [0, 0, 0], radius_m: 1.8", True),
        ("shape: sphere, centre_m: [0, 0, 0], radius_m: 1.7", False),
    ],
)
def test_a_zone_that_covers_the_workspace_is_refused_with_both_names(zone: str, refused: bool) -> None:
    text = f"""rules:
  - {{type: keep_out, id: keep_out/all, {zone}}}
  - {{type: workspace, id: workspace/table, low_m: [-1, -1, -1], high_m: [1, 1, 1]}}
"""
    if not refused:
        assert len(parse_config(text).rules) == 2
        return
    with pytest.raises(SafetyError, match="keep_out/all and workspace/table contradict") as caught:
        parse_config(text)
    assert caught.value.code == 403


def test_workspaces_without_a_common_point_are_refused() -> None:
    text = """rules:
  - {type: workspace, id: left, low_m: [0, 0, 0], high_m: [1, 1, 1]}
  - {type: workspace, id: right, shape: sphere, centre_m: [3, 0, 0], radius_m: 1.5}
"""
    with pytest.raises(SafetyError, match="left and right contradict"):
        parse_config(text)
    assert len(parse_config(text.replace("radius_m: 1.5", "radius_m: 2.5")).rules) == 2


def test_only_inputs_that_a_rule_needs_are_named() -> None:
    assert default_config().inputs() == ("ee_pose",)
    text = "rules: [{type: stale_input, id: s, input: wrench, limit_s: 1}, {type: adapter, id: a}]"
    assert parse_config(text).inputs() == ("wrench", "action")
