"""Rules about joints, forces, people, actions and silence, on cases computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.rules.action_jump import ActionJump, ActionJumpSettings
from vlaforget_ros.safety.rules.action_range import ActionRange, ActionRangeSettings
from vlaforget_ros.safety.rules.adapter import Adapter, AdapterSettings
from vlaforget_ros.safety.rules.base import Reading, slow_scale
from vlaforget_ros.safety.rules.drift import Drift, DriftSettings
from vlaforget_ros.safety.rules.joint_limits import JointLimits, JointLimitsSettings
from vlaforget_ros.safety.rules.separation import Separation, SeparationSettings
from vlaforget_ros.safety.rules.speed import SpeedSettings
from vlaforget_ros.safety.rules.stale_input import StaleInput, StaleInputSettings
from vlaforget_ros.safety.rules.wrench import Wrench, WrenchSettings
from vlaforget_ros.safety.samples import (
    ActionSample,
    DistanceSample,
    JointSample,
    ReferenceSample,
    TickSample,
    WrenchSample,
)

NAN, INF = math.nan, math.inf


def joints(**limits: Any) -> JointLimits:
    return JointLimits(JointLimitsSettings(id="j", joints={"elbow": limits}))


def elbow(stamp_s: float, position: float, *velocity: float) -> JointSample:
    return JointSample(stamp_s, ("wrist", "elbow"), (9.0, position), (9.0, *velocity) if velocity else ())


def judged(reading: Reading | None) -> Reading:
    assert reading is not None
    return reading


@pytest.mark.parametrize(
    ("position", "broken", "limit", "share"),
    [(0.0, False, -1.0, 1 / 3), (2.0, False, 2.0, 1.0), (2.5, True, 2.0, 4 / 3), (-1.6, True, -1.0, 1.4)],
)
def test_a_joint_beyond_its_range(position: float, broken: bool, limit: float, share: float) -> None:
    # The range -1..2 has its middle at 0.5 and 1.5 to either side.
    reading = judged(joints(low=-1.0, high=2.0).check(elbow(0.0, position)))
    assert (reading.broken, reading.value, reading.limit, reading.unit) == (broken, position, limit, "rad")
    assert reading.share == pytest.approx(share)


def test_velocity_and_acceleration_from_positions() -> None:
    rule = joints(velocity=1.0, acceleration=20.0)
    assert rule.check(elbow(0.0, 0.0)) is None
    # 0.05 rad in 0.1 s; the acceleration needs one more.
    reading = judged(rule.check(elbow(0.1, 0.05)))
    assert (reading.broken, reading.unit) == (False, "rad/s")
    assert reading.value == pytest.approx(0.5)
    # 0.12 rad in 0.1 s is 1.2 rad/s (share 1.2); 0.7 rad/s more in 0.1 s is 7 rad/s2 (share 0.35).
    reading = judged(rule.check(elbow(0.2, 0.17)))
    assert (reading.broken, reading.unit) == (True, "rad/s")
    assert reading.value == pytest.approx(1.2)
    # -1.3 rad/s is a share of 1.3; from 1.2 to -1.3 rad/s in 0.1 s are 25 rad/s2, a share of 1.25.
    reading = judged(rule.check(elbow(0.3, 0.04)))
    assert (reading.broken, reading.unit) == (True, "rad/s")
    assert reading.value == pytest.approx(1.3)


def test_reported_velocities_are_taken_as_they_are() -> None:
    rule = joints(velocity=1.0, acceleration=4.0)
    assert judged(rule.check(elbow(0.0, 0.0, -0.6))).value == pytest.approx(0.6)
    reading = judged(rule.check(elbow(0.1, 0.0, -0.1)))
    # 0.5 rad/s in 0.1 s.
    assert (reading.broken, reading.unit) == (True, "rad/s²")
    assert reading.value == pytest.approx(5.0)


def test_a_gap_or_a_restart_begins_new_differences() -> None:
    rule = joints(velocity=1.0)
    rule.check(elbow(0.0, 0.0))
    assert rule.check(elbow(0.6, 5.0)) is None
    rule.restart()
    assert rule.check(elbow(0.7, 9.0)) is None


def test_a_joint_that_is_in_no_message_breaks_the_rule() -> None:
    rule = JointLimits(JointLimitsSettings(id="j", joints={"elbo": {"low": -1, "high": 1}}, missing_s=1.0))
    assert rule.check(elbow(0.0, 0.0)) is None
    assert rule.check(elbow(1.0, 0.0)) is None
    reading = judged(rule.check(elbow(1.5, 0.0)))
    assert (reading.broken, reading.value, reading.limit) == (True, 1.5, 1.0)
    assert "elbo is in no message" in reading.message


def test_joints_may_come_in_parts() -> None:
    limits = {"arm": {"low": -1, "high": 1}, "gripper": {"low": 0, "high": 0.08}}
    rule = JointLimits(JointLimitsSettings(id="j", joints=limits))
    for k in range(30):
        name, position = (("arm", 0.9), ("gripper", 0.01))[k % 2]
        assert not judged(rule.check(JointSample(0.1 * k, (name,), (position,)))).broken
    assert judged(rule.check(JointSample(3.0, ("gripper",), (0.09,)))).broken


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (JointSample(0.0, ("a", "b"), (1.0,)), "2 joint names with 1 positions"),
        (JointSample(0.0, ("a",), (1.0,), (1.0, 2.0)), "2 velocities"),
        (JointSample(0.0, ("a", "a"), (1.0, 2.0)), "twice"),
        (JointSample(0.0, ("a",), (NAN,)), "not finite"),
        (WrenchSample(0.0, (0, 0, INF), (0, 0, 0)), "not finite"),
        (DistanceSample(0.0, -0.1), "negative"),
        (DistanceSample(0.0, 1.0, NAN), "not finite"),
        (ActionSample(NAN, "r", 0, (1.0,)), "not finite"),
    ],
)
def test_what_cannot_be_judged_says_why(sample: Any, says: str) -> None:
    assert says in sample.problem


def act(
    step: int, *action: float, fault: int = 0, chunk_start: bool = False, rollout: str = "r"
) -> ActionSample:
    return ActionSample(0.1 * step, rollout, step, action, "d", fault, chunk_start)


@pytest.mark.parametrize(
    ("action", "broken", "value", "limit"),
    [
        ((0.0, 0.6), False, 0.6, 1.0),
        ((0.1, 1.0), False, 0.1, 0.1),
        ((0.0, 1.2), True, 1.2, 1.0),
        ((-0.15, 0.5), True, -0.15, -0.1),
        ((0.0, NAN), True, INF, 0.0),
        ((INF, 0.0), True, INF, 0.0),
        ((0.0,), True, 1.0, 2.0),
        ((), True, 0.0, 2.0),
    ],
)
def test_the_range_of_an_action(action: tuple[float, ...], broken: bool, value: float, limit: float) -> None:
    rule = ActionRange(ActionRangeSettings(id="a", low=(-0.1, 0.0), high=(0.1, 1.0)))
    reading = judged(rule.check(act(3, *action)))
    assert (reading.broken, reading.value, reading.limit) == (broken, value, limit)


def test_an_empty_action_with_a_fault_commands_nothing() -> None:
    rule = ActionRange(ActionRangeSettings(id="a", low=-1.0, high=1.0))
    assert rule.check(act(0, fault=400)) is None
    assert judged(rule.check(act(0, 2.0, fault=400))).broken


def test_a_leap_between_ticks() -> None:
    rule = ActionJump(ActionJumpSettings(id="a", limit=(0.1, 0.5)))
    assert rule.check(act(0, 0.0, 0.0)) is None
    reading = judged(rule.check(act(1, 0.05, 0.4)))
    # 0.4 of 0.5 is nearer to the limit than 0.05 of 0.1.
    assert (reading.broken, reading.value, reading.limit) == (False, 0.4, 0.5)
    reading = judged(rule.check(act(2, -0.15, 0.4)))
    assert reading.broken
    assert reading.value == pytest.approx(0.2)
    assert "dimension 0 between ticks" in reading.message


def test_a_leap_between_chunks_has_its_own_limit() -> None:
    rule = ActionJump(ActionJumpSettings(id="a", limit=1.0, chunk_limit=0.1, chunk=3))
    rule.check(act(0, 0.0))
    broken = [judged(rule.check(act(k, 0.5 * k))).broken for k in range(1, 5)]
    assert broken == [False, False, True, False]
    flagged = ActionJump(ActionJumpSettings(id="a", limit=1.0, chunk_limit=0.1))
    flagged.check(act(0, 0.0))
    assert judged(flagged.check(act(1, 0.5, chunk_start=True))).broken


def test_holds_lost_steps_and_new_rollouts_are_no_leap() -> None:
    rule = ActionJump(ActionJumpSettings(id="a", limit=0.1, skip=(1,)))
    rule.check(act(0, 0.0, 0.0))
    assert rule.check(act(1, 9.0, 0.0, fault=200)) is None
    assert rule.check(act(2, 0.0, 0.0)) is None
    assert rule.check(act(4, 9.0, 0.0)) is None
    assert rule.check(act(5, 0.0, 0.0, rollout="other")) is None
    # The gripper may leap.
    assert not judged(rule.check(act(6, 0.0, 1.0, rollout="other"))).broken
    assert judged(rule.check(act(7, NAN, 1.0, rollout="other"))).broken


def test_force_and_torque() -> None:
    rule = Wrench(WrenchSettings(id="w", limit_n=10.0, limit_nm=2.0))
    reading = judged(rule.check(WrenchSample(0.0, (3.0, 4.0, 0.0), (0.0, 1.2, 0.0))))
    # 5 of 10 N, 1.2 of 2 Nm: the torque is nearer to its limit.
    assert (reading.broken, reading.unit, reading.share) == (False, "Nm", 0.6)
    reading = judged(rule.check(WrenchSample(0.0, (6.0, 8.0, 6.0), (0.0, 0.0, 0.0))))
    assert (reading.broken, reading.unit) == (True, "N")
    assert reading.value == pytest.approx(math.sqrt(136.0))


SEPARATION = SeparationSettings(
    id="p", v_r_m_s=0.5, t_r_s=0.1, t_s_s=0.3, c_m=0.2, z_d_m=0.05, z_r_m=0.01, slow_from=2.1, speed_scale=0.2
)


def test_the_separation_distance_by_hand() -> None:
    # 1.6 * 0.4 + 0.5 * 0.1 + 0.5 * 0.3 + 0.2 + 0.05 + 0.01 = 1.1 m
    assert SEPARATION.distance_m() == pytest.approx(1.1)
    rule = Separation(SEPARATION)
    assert judged(rule.check(DistanceSample(0.0, 1.09))).broken
    assert not judged(rule.check(DistanceSample(0.0, 1.11))).broken
    # A person who is measured to run: (2.6 - 0.5) * 0.4 + 0.46 = 1.3 m; one who walks slowly changes nothing.
    assert judged(rule.check(DistanceSample(0.0, 1.29, 2.6))).limit == pytest.approx(1.3)
    assert judged(rule.check(DistanceSample(0.0, 1.29, 0.1))).limit == pytest.approx(1.1)


def test_slowing_is_linear_between_its_begin_and_the_limit() -> None:
    rule = Separation(SEPARATION)
    scales = [slow_scale(SEPARATION, rule.check(DistanceSample(0.0, d))) for d in (3.0, 2.1, 1.6, 1.1, 0.5)]
    # Half way from 2.1 to 1.1 m the factor is half way from 1 to 0.2.
    assert scales == pytest.approx([1.0, 1.0, 0.6, 0.2, 0.2])
    speed = SpeedSettings(id="s", limit_m_s=0.25, slow_from=0.15, speed_scale=0.5)
    readings = [Reading(v > 0.25, v, 0.25, "m/s", "") for v in (0.1, 0.2, 0.25, 0.4)]
    assert [slow_scale(speed, r) for r in readings] == pytest.approx([1.0, 0.75, 0.5, 0.5])


@given(st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_nearer_never_means_faster(first: float, second: float) -> None:
    near, far = sorted((first, second))
    rule = Separation(SEPARATION)
    slow, fast = (slow_scale(SEPARATION, rule.check(DistanceSample(0.0, d))) for d in (near, far))
    assert 0.2 <= slow <= fast <= 1.0


def test_a_non_finite_action_slows_as_much_as_possible() -> None:
    settings = ActionRangeSettings(id="a", low=-1.0, high=1.0, slow_from=0.5, speed_scale=0.1)
    assert slow_scale(settings, judged(ActionRange(settings).check(act(0, NAN)))) == 0.1


def test_silence_is_measured_in_rollouts_or_always() -> None:
    ages = {"wrench": 0.7, "ee_pose": 9.0}
    for always, running, value in ((False, True, 0.7), (False, False, 0.0), (True, False, 0.7)):
        rule = StaleInput(StaleInputSettings(id="s", input="wrench", limit_s=0.5, always=always))
        reading = judged(rule.check(TickSample(0.0, ages, running)))
        assert (reading.value, reading.broken) == (value, value > 0.5)


def test_an_action_of_another_adapter() -> None:
    rule = Adapter(AdapterSettings(id="a"))
    assert rule.check(act(0, 1.0)) is None
    rule.expect("d")
    assert not judged(rule.check(act(0, 1.0))).broken
    rule.expect("")
    reading = judged(rule.check(act(0, 1.0)))
    assert reading.broken
    assert reading.message == "action 0 by d, expected base"
    rule.restart()
    assert judged(rule.check(act(1, 1.0))).broken
    rule.expect(None)
    assert rule.check(act(2, 1.0)) is None


def drift(**keys: Any) -> Drift:
    return Drift(
        DriftSettings.model_validate({"type": "drift", "id": "d", "limit": 0.3, "span": 1.0, **keys})
    )


def apart(rule: Drift, action: tuple[float, ...], reference: tuple[float, ...], step: int = 0) -> Any:
    assert rule.check(ActionSample(0.0, "r", step, action)) is None
    return judged(rule.check(ReferenceSample(0.0, "r", step, reference)))


def test_drift_above_its_limit() -> None:
    found = [apart(drift(), (0.0, x), (0.0, 0.0)) for x in (0.0, 0.6, 0.62, 5.0)]
    assert [reading.broken for reading in found] == [False, False, True, True]
    assert [reading.value for reading in found] == pytest.approx([0.0, 0.3, 0.31, 0.5])
    assert apart(drift(span=(0.1, 100.0)), (0.05, 1.0), (0.0, 0.0)).value == pytest.approx(0.255)


@pytest.mark.parametrize(
    ("span", "other"), [(1.0, (0.0, 0.0)), (1.0, (NAN,)), ((1.0, 1.0), (0.0,)), (1.0, ())]
)
def test_what_cannot_be_compared_breaks_drift(span: Any, other: tuple[float, ...]) -> None:
    reading = apart(drift(span=span), (0.0,), other)
    assert reading.broken
    assert "cannot be compared" in reading.message


def test_drift_pairs_by_image_in_any_order_and_forgets_the_oldest() -> None:
    rule = drift()
    # Another process: other rollouts, other steps, the same images.
    assert rule.check(ReferenceSample(9.0, "other", 7, (1.0,), observed_s=1.0)) is None
    assert rule.check(ReferenceSample(9.0, "other", 0, (1.0,), observed_s=2.0)) is None
    assert judged(rule.check(ActionSample(9.1, "r", 0, (0.0,), observed_s=1.0))).value == 1.0
    assert rule.check(ActionSample(9.1, "r", 0, (0.0,), observed_s=1.0)) is None
    rule.restart()
    for step in range(65):
        assert rule.check(ActionSample(0.0, "r", step, (0.0,))) is None
    assert rule.check(ReferenceSample(0.0, "r", 0, (0.0,))) is None
    assert rule.check(ReferenceSample(0.0, "r", 64, (0.0,))) is not None


def test_a_held_action_of_either_policy_is_no_drift() -> None:
    rule = drift()
    assert rule.check(ActionSample(0.0, "r", 0, (9.0,), fault=400)) is None
    assert rule.check(ReferenceSample(0.0, "r", 0, (0.0,))) is None
    assert rule.check(ReferenceSample(0.0, "r", 1, (0.0,), fault=400)) is None
    assert rule.check(ActionSample(0.0, "r", 1, (9.0,))) is None
