"""The command gate: nothing passes that is faster than allowed, and what is held lets nothing fall."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.command import CommandGate
from vlaforget_ros.safety.monitor import ArmState

MOTION = (0.02, -0.01, 0.0, 1.0)
NOMINAL, SLOWED, STOPPED = ArmState.NOMINAL, ArmState.SLOWED, ArmState.STOPPED


def test_what_is_allowed_passes_as_it_is() -> None:
    assert CommandGate().check(MOTION, 0, 1.0, NOMINAL, 1.0).action == MOTION


def test_motion_is_scaled_down_and_the_gripper_is_not() -> None:
    checked = CommandGate().check(MOTION, 0, 1.0, SLOWED, 0.5)
    assert checked.action == pytest.approx((0.01, -0.005, 0.0, 1.0))
    assert (checked.fault, checked.speed_scale) == (0, 0.5)


def test_a_scale_that_the_policy_has_applied_is_not_applied_twice() -> None:
    gate = CommandGate()
    assert gate.check(MOTION, 0, 0.5, SLOWED, 0.5).action == MOTION
    assert gate.check(MOTION, 0, 0.5, SLOWED, 0.25).action == pytest.approx((0.01, -0.005, 0.0, 1.0))


def test_a_stop_holds_with_the_last_gripper() -> None:
    gate = CommandGate()
    gate.check((0.0, 0.0, 0.0, 0.7), 0, 1.0, NOMINAL, 1.0)
    held = gate.check(MOTION, 0, 1.0, STOPPED, 0.0)
    assert (held.action, held.fault) == ((0.0, 0.0, 0.0, 0.7), 400)


def test_what_is_not_finite_is_held_even_where_nothing_is_wrong() -> None:
    held = CommandGate().check((math.nan, 0.0, 0.0, math.inf), 0, 1.0, NOMINAL, 1.0)
    assert (held.action, held.fault) == ((0.0, 0.0, 0.0, 0.0), 201)


def test_a_hold_action_of_the_policy_passes_with_its_fault() -> None:
    checked = CommandGate().check((0.0, 0.0, 0.0, 1.0), 202, 1.0, STOPPED, 0.0)
    assert (checked.action, checked.fault) == ((0.0, 0.0, 0.0, 1.0), 202)


@pytest.mark.parametrize(("applied", "passes"), [(0.3, True), (1.0, False)])
def test_positions_pass_only_where_the_policy_has_slowed_them(applied: float, passes: bool) -> None:
    checked = CommandGate("position").check(MOTION, 0, applied, SLOWED, 0.3)
    assert checked.action == (MOTION if passes else ())
    assert checked.fault == (0 if passes else 400)


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=7),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.sampled_from([NOMINAL, SLOWED, STOPPED]),
)
def test_never_faster_than_allowed(
    action: list[float], applied: float, allowed: float, state: ArmState
) -> None:
    full = [value / applied for value in action]
    checked = CommandGate(gripper=False).check(action, 0, applied, state, allowed)
    limit = 0.0 if state is STOPPED else allowed
    for passed, at_full_speed in zip(checked.action, full, strict=True):
        assert abs(passed) <= abs(at_full_speed) * limit * (1 + 1e-5) + 1e-5
