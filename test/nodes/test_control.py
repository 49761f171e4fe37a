"""What the policy node decides, without ROS: when to hold, how a rollout ends, what the meter counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.nodes.answers import coded_error
from vlaforget_ros.nodes.control import Phase, RolloutControl, SafetyView, TickMeter, gate, safe_action

HOLD = np.array([0.0, 0.0, 0.0, 0.3], dtype=np.float32)
MOTION = np.array([0.02, -0.01, 0.0, 1.0], dtype=np.float32)
GRIPPER = (False, False, False, True)


@pytest.fixture
def rollout() -> RolloutControl:
    return RolloutControl("r1", "open the faucet", max_steps=3, digest="", started_s=10.0)


@pytest.mark.parametrize(
    ("age_s", "stopped", "fault"),
    [
        (0.1, False, 0),
        (0.5, False, 0),
        (0.51, False, 200),
        (0.1, True, 400),
        (9.0, True, 400),
        (-0.1, False, 0),
    ],
)
def test_the_gate(age_s: float, stopped: bool, fault: int) -> None:
    assert gate(age_s, 0.5, SafetyView(stopped=stopped)) == fault


def test_a_fault_always_gives_the_hold_action() -> None:
    action, fault = safe_action(MOTION, 202, HOLD, 1.0, GRIPPER)
    assert fault == 202
    np.testing.assert_array_equal(action, HOLD)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_action_is_a_fault(bad: float) -> None:
    action, fault = safe_action(np.array([0.0, bad, 0.0, 1.0]), 0, HOLD, 1.0, GRIPPER)
    assert fault == 201
    np.testing.assert_array_equal(action, HOLD)


@given(st.floats(0.0, 1.0))
def test_slowing_scales_motion_and_never_the_gripper(scale: float) -> None:
    action, fault = safe_action(MOTION, 0, HOLD, scale, GRIPPER)
    assert fault == 0
    np.testing.assert_allclose(action[:3], MOTION[:3] * scale, rtol=1e-5)
    assert action[3] == MOTION[3]


def test_slowing_goes_part_of_the_way_from_where_the_arm_stands() -> None:
    """Targets are positions here: scaled themselves, they would all be on the way to zero."""
    stands, target = np.array([1.0, -2.0, 0.5, 0.0]), np.array([1.2, -1.0, 0.5, 1.0])
    action, fault = safe_action(target, 0, stands, 0.5, GRIPPER)
    assert fault == 0
    np.testing.assert_allclose(action, [1.1, -1.5, 0.5, 1.0], rtol=1e-6)


def test_the_first_ending_counts(rollout: RolloutControl) -> None:
    rollout.ticked("", 0, "", 10.1)
    rollout.finish(True, "outcome from simulator")
    rollout.abort(205, "too late")
    assert rollout.ending is not None
    assert (rollout.ending.phase, rollout.ending.code) == (Phase.SUCCEEDED, 0)
    assert rollout.wait(0.0)


def test_steps_run_out_but_the_outcome_of_the_last_one_may_still_come(rollout: RolloutControl) -> None:
    for tick in range(3):
        assert not rollout.exhausted
        rollout.ticked("", 0, "", 10.0 + tick)
    assert rollout.exhausted
    assert rollout.ending is None
    rollout.finish(True)
    assert rollout.ending is not None
    assert rollout.ending.phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("fault", "phase", "code"), [(400, Phase.ABORTED, 400), (200, Phase.ABORTED, 200), (202, Phase.FAILED, 0)]
)
def test_who_is_to_blame_decides_whether_a_failure_counts(
    rollout: RolloutControl, fault: int, phase: Phase, code: int
) -> None:
    rollout.ticked("", fault, "why", 10.1)
    rollout.finish(False)
    assert rollout.ending is not None
    assert (rollout.ending.phase, rollout.ending.code) == (phase, code)


def test_a_success_counts_even_when_the_arm_was_held_at_last(rollout: RolloutControl) -> None:
    rollout.ticked("", 400, "stopped", 10.1)
    rollout.finish(True)
    assert rollout.ending is not None
    assert rollout.ending.phase is Phase.SUCCEEDED


def test_rules_are_counted_once_and_only_of_this_rollout(rollout: RolloutControl) -> None:
    for rollout_id, rule in (("r1", "zone"), ("r1", "zone"), ("r1", "speed"), ("r0", "fence")):
        rollout.violated(rollout_id, rule)
    assert rollout.violations == 2


def test_the_adapter_of_a_rollout_is_that_of_its_last_action(rollout: RolloutControl) -> None:
    rollout.ticked("d", 0, "", 10.1)
    assert rollout.digest == "d"


def test_the_meter() -> None:
    meter = TickMeter(tick_s=0.1)
    for latency_s, fault in ((0.05, 0), (0.11, 0), (0.10, 202), (0.2, 0)):
        meter.tick(latency_s, fault)
    assert (meter.missed, meter.last_fault) == (2, 202)
    meter.rollout(30, 3.0)
    assert meter.rate_hz == pytest.approx(10.0)
    meter.rollout(0, 0.0)
    assert meter.rate_hz == 0.0


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (103, "AdapterError"),
        (206, "PolicyError"),
        (305, "UnlearningError"),
        (402, "SafetyError"),
        (600, "CellError"),
    ],
)
def test_codes_come_back_as_errors_of_their_band(code: int, kind: str) -> None:
    error = coded_error(code, f"[{code} NAME] what happened; remedy: this")
    assert type(error).__name__ == kind
    assert error.code == code
    assert str(error).endswith("what happened; remedy: this")
    assert str(error).count("[") == 1
