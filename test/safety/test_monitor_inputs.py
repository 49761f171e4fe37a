"""The monitor and its inputs: order, clocks, silence, what programs ask of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_clock import ManualClock

from vlaforget_ros.errors import SafetyError
from vlaforget_ros.safety.config import SafetyConfig, parse_config
from vlaforget_ros.safety.monitor import ArmState, Event, SafetyMonitor
from vlaforget_ros.safety.samples import (
    ActionSample,
    DistanceSample,
    JointSample,
    PoseSample,
    ReferenceSample,
    Sample,
    WrenchSample,
)

RULES = """
frame: cell
stale_after_s: 2.0
max_rollout_s: 60
rules:
  - {type: keep_out, id: zone, severity: stop, low_m: [1, 0, 0], high_m: [2, 1, 1], slow_from: -0.5, release_s: 0}
  - {type: speed, id: speed, limit_m_s: 10, max_gap_s: 10, release_s: 0}
  - {type: workspace, id: fence, low_m: [-9, -9, -9], high_m: [9, 9, 9]}
"""
ARM = """
frame: cell
rules:
  - {type: joint_limits, id: joints, joints: {a: {low: -1, high: 1}}}
  - {type: wrench, id: force, severity: slow, speed_scale: 0.5, limit_n: 10}
  - {type: separation, id: person, severity: stop, v_r_m_s: 0, t_r_s: 0, t_s_s: 0, c_m: 1, z_d_m: 0, z_r_m: 0}
  - {type: action_range, id: range, low: -1, high: 1}
  - {type: adapter, id: adapter, severity: stop}
  - {type: drift, id: drift, limit: 0.5, span: 1}
  - {type: stale_input, id: quiet, severity: stop, input: action, limit_s: 0.5, release_s: 0}
"""


def made(text: str = RULES) -> tuple[SafetyMonitor, ManualClock]:
    clock = ManualClock()
    return SafetyMonitor(parse_config(text), clock), clock


def pose(stamp_s: float, x: float, frame: str = "cell") -> PoseSample:
    return PoseSample(stamp_s, (x, 0.5, 0.5), frame)


def ids(events: tuple[Event, ...]) -> list[str]:
    return [event.rule for event in events]


def test_each_sample_goes_to_the_rules_that_judge_it() -> None:
    monitor, _ = made(ARM)
    monitor.expect("d")
    broken: list[tuple[Sample, str]] = [
        (JointSample(1.0, ("a",), (1.5,)), "joints"),
        (WrenchSample(1.0, (0, 0, 11), (0, 0, 0)), "force"),
        (DistanceSample(1.0, 0.9), "person"),
        (ActionSample(1.0, "", 0, (math.nan,), "d"), "range"),
        (ActionSample(1.1, "", 1, (0.5,), "other"), "adapter"),
        (ReferenceSample(1.1, "", 1, (-0.1,)), "drift"),
    ]
    for sample, rule in broken:
        assert ids(monitor.take(sample)) == [rule]
    assert monitor.status().reason == "person: a person at 0.90 m"
    assert [settings.id for settings in monitor.unjudged()] == ["quiet"]


def test_motion_slows_before_the_zone_and_stops_in_it() -> None:
    monitor, _ = made()
    scales = []
    for k, x in enumerate((0.0, 0.5, 0.75, 0.9)):
        assert monitor.take(pose(0.1 * k, x)) == ()
        scales.append(monitor.motion()[1])
    # From 0.5 m before the zone the factor falls from 1 to 0.3.
    assert scales == pytest.approx([1.0, 1.0, 0.65, 0.44])
    assert monitor.status().reason == "zone is near its limit"
    assert ids(monitor.take(pose(0.4, 1.0))) == ["zone"]
    assert monitor.motion() == (ArmState.STOPPED, 0.0)


@pytest.mark.parametrize("late", [1.0, 0.95, 0.2])
def test_a_repeated_or_late_pose_is_not_judged_and_keeps_nothing_alive(late: float) -> None:
    monitor, clock = made()
    monitor.rollout_started("r", "")
    monitor.take(pose(1.0, 0.0))
    for _ in range(30):
        clock.now += 0.1
        assert monitor.take(pose(late, 1.5)) == ()
    assert monitor.rules_broken("r") == frozenset()
    status = monitor.status()
    assert status.state is ArmState.STOPPED
    assert "stamps do not advance" in status.reason
    monitor.take(pose(4.0, 0.0))
    assert monitor.motion()[0] is ArmState.NOMINAL


def test_actions_of_one_stamp_are_all_judged_and_none_twice() -> None:
    monitor, _ = made("rules: [{type: action_range, id: range, low: -1, high: 1, release_s: 0}]")
    told = [(0, 0.0), (1, 5.0), (1, 5.0), (0, 0.0), (2, 0.0), (3, 5.0)]
    events = [ids(monitor.take(ActionSample(1.0, "", step, (value,)))) for step, value in told]
    assert events == [[], ["range"], [], [], [], ["range"]]


@pytest.mark.parametrize("jump", [-50.0, 1000.0])
def test_a_jump_of_the_clock_begins_a_new_history(jump: float) -> None:
    monitor, clock = made()
    monitor.rollout_started("r", "")
    start = 100.0
    for k in range(5):
        monitor.take(pose(start + 0.1 * k, 0.0))
        clock.now += 0.1
    # The simulator put the arm elsewhere: no speed is made of that; a zone is judged at once.
    assert monitor.take(pose(start + jump, 0.4)) == ()
    assert monitor.rules_broken("r") == frozenset()
    clock.now += 0.1
    assert ids(monitor.take(pose(start + jump + 0.1, 1.2))) == ["zone"]


def test_two_clocks_on_one_topic_make_the_arm_hold() -> None:
    monitor, clock = made()
    monitor.rollout_started("r", "")
    for k in range(40):
        monitor.take(pose((1000.0 if k % 2 else 0.0) + 0.1 * k, 0.0))
        clock.now += 0.1
    assert monitor.motion()[0] is ArmState.STOPPED
    assert "clock jumped" in monitor.status().reason


def test_a_jump_does_not_release_what_is_broken() -> None:
    text = "rules: [{type: keep_out, id: zone, severity: slow, low_m: [1, 0, 0], high_m: [2, 1, 1], release_s: 0.5}]"
    monitor, clock = made(text)
    monitor.take(pose(0.0, 1.5))
    monitor.take(pose(0.1, 0.0))
    clock.now += 0.1
    monitor.take(pose(500.0, 0.0))
    assert monitor.motion()[0] is ArmState.SLOWED
    monitor.take(pose(500.3, 0.0))
    monitor.take(pose(500.6, 0.0))
    assert monitor.motion()[0] is ArmState.NOMINAL


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats(), st.sampled_from(["cell", "", "world"])), max_size=40))
def test_any_stream_of_poses_is_taken_and_only_usable_ones_are_judged(
    stream: list[tuple[float, float, str]],
) -> None:
    monitor, clock = made()
    monitor.rollout_started("r", "")
    for stamp_s, x, frame in stream:
        clock.now += 0.05
        for event in monitor.take(pose(stamp_s, x, frame)):
            assert math.isfinite(event.stamp_s)
            assert not math.isnan(event.value)
            assert frame != "world"
    state, scale = monitor.motion()
    assert (scale == 0.0) == (state is ArmState.STOPPED)


def test_a_sensor_that_a_rule_needs_must_arrive_and_the_policys_words_need_not() -> None:
    monitor, clock = made(ARM)
    monitor.rollout_started("r", "")
    clock.now += 1.5
    monitor.take(JointSample(1.0, ("a",), (0.0,)))
    monitor.take(WrenchSample(1.0, (0, 0, 0), (0, 0, 0)))
    clock.now += 1.0
    assert "no usable human_distance for 2.5 s" in monitor.status().reason
    monitor.take(DistanceSample(1.0, 3.0))
    assert monitor.motion()[0] is ArmState.NOMINAL


def test_silence_is_an_event_of_the_rule_that_waits() -> None:
    monitor, clock = made(ARM)
    clock.now += 5.0
    assert monitor.tick() == ()
    monitor.rollout_started("r", "d")
    monitor.take(DistanceSample(50.0, 3.0))
    clock.now += 0.4
    monitor.take(ActionSample(50.4, "r", 0, (0.0,)))
    clock.now += 0.5
    assert monitor.tick() == ()
    clock.now += 0.1
    (event,) = monitor.tick()
    assert (event.rule, event.rollout_id, event.adapter_digest) == ("quiet", "r", "d")
    assert event.value == pytest.approx(0.6)
    # On the clock of the data, carried on.
    assert event.stamp_s == pytest.approx(51.0)
    with pytest.raises(SafetyError, match="quiet"):
        monitor.release()
    monitor.take(ActionSample(51.1, "r", 1, (0.0,)))
    assert monitor.tick() == ()
    assert monitor.release().startswith("quiet")


def test_a_rollout_that_never_ends_makes_the_arm_hold() -> None:
    monitor, clock = made()
    monitor.rollout_started("r", "")
    for k in range(601):
        monitor.take(pose(0.1 * k, 0.0))
        assert monitor.motion()[0] is ArmState.NOMINAL
        clock.now += 0.1
    assert "no end of rollout r within 60 s" in monitor.status().reason
    monitor.rollout_ended("r", "", None)
    assert monitor.motion()[0] is ArmState.NOMINAL
    assert monitor.status().estimates[0].rollouts == 0


def test_a_cap_slows_and_the_smaller_factor_holds() -> None:
    monitor, _ = made()
    monitor.cap_speed(0.5, "canary at reduced speed")
    status = monitor.status()
    assert (status.state, status.speed_scale, status.reason) == (
        ArmState.SLOWED,
        0.5,
        "canary at reduced speed",
    )
    monitor.take(pose(0.0, 0.9))
    assert monitor.motion() == (ArmState.SLOWED, pytest.approx(0.44))
    monitor.take(pose(0.1, 0.75))
    assert monitor.motion() == (ArmState.SLOWED, 0.5)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(SafetyError, match=r"0\.\.1"):
            monitor.cap_speed(bad, "")
    assert monitor.motion()[1] == 0.5
    monitor.cap_speed(1.0, "")
    monitor.take(pose(0.2, 0.0))
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)


def test_a_program_may_stop_and_a_person_releases() -> None:
    monitor, _ = made()
    monitor.stop("canary: stable fails, too")
    monitor.stop("later")
    assert monitor.status().reason == "canary: stable fails, too"
    assert monitor.release() == "canary: stable fails, too"
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)


def test_a_stop_for_an_action_can_be_released_while_the_policy_holds() -> None:
    monitor, _ = made("rules: [{type: action_jump, id: jump, severity: stop, limit: 0.1}]")
    monitor.rollout_started("r", "")
    monitor.take(ActionSample(1.0, "r", 0, (0.0,)))
    assert ids(monitor.take(ActionSample(1.1, "r", 1, (1.0,)))) == ["jump"]
    # All that follows are hold actions, of which the rule says nothing.
    monitor.take(ActionSample(1.2, "r", 2, (), fault=400))
    assert monitor.release().startswith("jump")
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)


def test_what_slowed_because_of_an_action_ends_with_the_rollout() -> None:
    monitor, _ = made(
        "rules: [{type: drift, id: far, limit: 0.5, slow_from: 0.1, span: 1},"
        " {type: drift, id: slow, severity: slow, limit: 0.2, release_s: 60, span: 1}]"
    )
    monitor.rollout_started("r", "")
    monitor.take(ReferenceSample(1.0, "r", 0, (0.0,)))
    monitor.take(ActionSample(1.0, "r", 0, (0.4,)))
    assert monitor.motion() == (ArmState.SLOWED, 0.3)
    monitor.rollout_ended("r", "", True)
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)


def test_what_would_be_changes_nothing() -> None:
    monitor, _ = made()
    monitor.rollout_started("r", "")
    assert monitor.foresee((1.5, 0.5, 0.5)) == ("zone",)
    assert monitor.foresee((10.0, 0.5, 0.5), "cell") == ("fence",)
    assert monitor.foresee((0.0, 0.0, 0.0)) == ()
    assert monitor.foresee((math.nan, 0.0, 0.0)) == ("zone", "fence")
    with pytest.raises(SafetyError, match="another frame") as caught:
        monitor.foresee((0.0, 0.0, 0.0), "world")
    assert caught.value.code == 401
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)
    assert monitor.rules_broken("r") == frozenset()
    assert len(monitor.unjudged()) == 3


def test_an_empty_rules_file_watches_nothing_and_holds_nothing() -> None:
    clock = ManualClock()
    monitor = SafetyMonitor(SafetyConfig("cell", ()), clock)
    monitor.rollout_started("r", "")
    clock.now += 100.0
    taken: list[Any] = [monitor.take(pose(0.0, 0.0)), monitor.tick()]
    assert taken == [(), ()]
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)
