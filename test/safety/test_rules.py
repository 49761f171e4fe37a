"""The rules, one by one, and the debounce between reading and event."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.debounce import Debounce
from vlaforget_ros.safety.rules.base import ExpectsAdapter, Places
from vlaforget_ros.safety.rules.keep_out import KeepOut, KeepOutSettings
from vlaforget_ros.safety.rules.registry import RULES, make_rule
from vlaforget_ros.safety.rules.speed import Speed, SpeedSettings
from vlaforget_ros.safety.rules.workspace import Workspace, WorkspaceSettings
from vlaforget_ros.safety.samples import (
    ActionSample,
    DistanceSample,
    JointSample,
    PoseSample,
    ReferenceSample,
    Sample,
    TickSample,
    WrenchSample,
)

BOX = {"low_m": (-0.28, 0.48, 0.05), "high_m": (-0.12, 0.60, 0.40)}
coordinate = st.floats(-1.0, 1.0)


def at(x: float, y: float, z: float, stamp_s: float = 0.0) -> PoseSample:
    return PoseSample(stamp_s, (x, y, z), "cell")


@given(coordinate, coordinate, coordinate)
def test_keep_out_and_workspace_of_one_box_never_agree_inside(x: float, y: float, z: float) -> None:
    inside = all(
        low <= p <= high for low, p, high in zip(BOX["low_m"], (x, y, z), BOX["high_m"], strict=True)
    )
    assert KeepOut(KeepOutSettings(id="k", **BOX)).check(at(x, y, z)).broken == inside
    assert Workspace(WorkspaceSettings(id="w", **BOX)).check(at(x, y, z)).broken == (not inside)


def test_keep_out_measures_the_depth() -> None:
    reading = KeepOut(KeepOutSettings(id="k", **BOX)).check(at(-0.2, 0.50, 0.2))
    assert reading.broken
    assert reading.value == pytest.approx(0.02)
    assert reading.unit == "m"


def test_a_margin_grows_the_zone() -> None:
    near = at(-0.11, 0.5, 0.2)
    assert not KeepOut(KeepOutSettings(id="k", **BOX)).check(near).broken
    assert KeepOut(KeepOutSettings(id="k", margin_m=0.02, **BOX)).check(near).broken


def test_speed_is_distance_over_time() -> None:
    rule = Speed(SpeedSettings(id="s", limit_m_s=0.25))
    assert rule.check(at(0, 0, 0, 1.0)) is None
    slow = rule.check(at(0.02, 0, 0, 1.1))
    fast = rule.check(at(0.06, 0, 0, 1.2))
    assert slow is not None
    assert not slow.broken
    assert slow.value == pytest.approx(0.2)
    assert fast is not None
    assert fast.broken
    assert fast.value == pytest.approx(0.4)


def test_speed_says_nothing_across_a_gap_or_a_jump_back() -> None:
    rule = Speed(SpeedSettings(id="s", limit_m_s=0.25, max_gap_s=0.5))
    rule.check(at(0, 0, 0, 1.0))
    assert rule.check(at(1, 0, 0, 2.0)) is None
    assert rule.check(at(0, 0, 0, 1.5)) is None
    rule.restart()
    assert rule.check(at(1, 0, 0, 1.6)) is None


def test_speed_ignores_a_pose_that_was_sent_twice() -> None:
    rule = Speed(SpeedSettings(id="s", limit_m_s=0.25))
    rule.check(at(0, 0, 0, 1.0))
    assert rule.check(at(0, 0, 0, 1.0)) is None
    reading = rule.check(at(0.01, 0, 0, 1.1))
    assert reading is not None
    assert reading.value == pytest.approx(0.1)


MINIMAL: dict[str, dict[str, object]] = {
    "keep_out": BOX,
    "workspace": BOX,
    "speed": {},
    "joint_limits": {"joints": {"elbow": {"low": -1.0, "high": 1.0}}},
    "action_range": {"low": -1.0, "high": 1.0},
    "action_jump": {"limit": 0.1},
    "wrench": {"limit_n": 20.0},
    "separation": {"v_r_m_s": 0.25, "t_r_s": 0.1, "t_s_s": 0.2, "c_m": 0.1, "z_d_m": 0.05, "z_r_m": 0.01},
    "stale_input": {"input": "wrench", "limit_s": 0.5},
    "adapter": {},
    "drift": {"limit": 0.3, "span": 1.0},
}


def samples_at(stamp_s: float, step: int) -> list[Sample]:
    return [
        at(0, 0, 0, stamp_s),
        JointSample(stamp_s, ("elbow",), (0.1,)),
        WrenchSample(stamp_s, (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        DistanceSample(stamp_s, 2.0),
        ActionSample(stamp_s, "r", step, (0.1, 0.2)),
        ReferenceSample(stamp_s, "r", step, (0.1, 0.2)),
        TickSample(stamp_s, {"wrench": 0.1}, True),
    ]


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_registered_rule_can_be_made_and_judges(name: str) -> None:
    settings = RULES[name].settings.model_validate({"type": name, "id": name, **MINIMAL[name]})
    rule = make_rule(settings)
    if isinstance(rule, ExpectsAdapter):
        rule.expect("")
    readings = [
        rule.check(sample)
        for step, stamp_s in enumerate((1.0, 1.1))
        for sample in samples_at(stamp_s, step)
        if type(sample) in rule.judges
    ]
    last = readings[-1]
    assert last is not None
    assert math.isfinite(last.value)
    assert isinstance(rule, Places) == (name in ("keep_out", "workspace"))


def test_debounce_waits_before_it_triggers_and_before_it_releases() -> None:
    debounce = Debounce(trigger_s=0.2, release_s=0.5)
    assert [debounce.update(True, t) for t in (0.0, 0.1, 0.2, 0.3)] == [False, False, True, False]
    assert [debounce.update(False, t) for t in (0.4, 0.6)] == [False, False]
    assert debounce.active
    debounce.update(False, 0.9)
    assert not debounce.active


def test_a_short_break_is_no_event() -> None:
    debounce = Debounce(trigger_s=0.2, release_s=0.0)
    assert not any(debounce.update(broken, 0.1 * i) for i, broken in enumerate([True, False, True, False]))


def test_stamps_of_today_lose_no_control_tick() -> None:
    debounce = Debounce(trigger_s=0.2, release_s=0.0)
    start = 1_795_247_283.7
    assert [debounce.update(True, start + 0.1 * i) for i in range(3)] == [False, False, True]
