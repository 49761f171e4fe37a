"""The monitor: events once a rollout, latched stops, stale input, rates, the operator."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from vlaforget_ros.errors import SafetyError
from vlaforget_ros.safety.config import SafetyConfig
from vlaforget_ros.safety.monitor import ArmState, Event, SafetyMonitor
from vlaforget_ros.safety.rules.base import Severity
from vlaforget_ros.safety.rules.keep_out import KeepOutSettings
from vlaforget_ros.safety.rules.workspace import WorkspaceSettings
from vlaforget_ros.safety.samples import PoseSample

ZONE = KeepOutSettings(id="zone", severity="warn", low_m=(0, 0, 0), high_m=(1, 1, 1), release_s=0.0)
FENCE = WorkspaceSettings(id="fence", severity="stop", low_m=(-5, -5, -5), high_m=(5, 5, 5), release_s=0.0)
SHELF = KeepOutSettings(
    id="shelf", severity="slow", low_m=(2, 2, 2), high_m=(3, 3, 3), speed_scale=0.4, release_s=0.2
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def monitor(clock: ManualClock) -> SafetyMonitor:
    return SafetyMonitor(SafetyConfig("cell", (ZONE, FENCE, SHELF), stale_after_s=2.0), clock)


def pose(stamp_s: float, *point: float, frame: str = "cell") -> PoseSample:
    return PoseSample(stamp_s, (point[0], point[1], point[2]), frame)


OUTSIDE, INSIDE, FAR, ON_SHELF = (-1, -1, -1), (0.5, 0.5, 0.5), (9, 9, 9), (2.5, 2.5, 2.5)


def test_a_zone_entered_three_times_in_a_rollout_is_one_event(monitor: SafetyMonitor) -> None:
    monitor.rollout_started("r1", "d")
    events = []
    for tick, point in enumerate([OUTSIDE, INSIDE, INSIDE, OUTSIDE, INSIDE, OUTSIDE, INSIDE]):
        events += monitor.pose(pose(0.1 * tick, *point))
    assert [(e.rule, e.rollout_id, e.adapter_digest, e.severity) for e in events] == [
        ("zone", "r1", "d", Severity.WARN)
    ]
    assert monitor.rules_broken("r1") == {"zone"}


def test_the_next_rollout_counts_again_even_when_the_arm_never_left(monitor: SafetyMonitor) -> None:
    for rollout in ("r1", "r2"):
        monitor.rollout_started(rollout, "")
        assert [e.rollout_id for e in monitor.pose(pose(1.0, *INSIDE))] == [rollout]
        monitor.rollout_ended(rollout, "", True)
    (estimate,) = monitor.status().estimates
    assert (estimate.rollouts, estimate.violated, estimate.unsafe_successes) == (2, 2, 2)


def test_what_others_saw_first_is_no_second_event(monitor: SafetyMonitor) -> None:
    monitor.rollout_started("r1", "")
    assert monitor.violation(Event("zone", Severity.WARN, 0.0, 0.1, 0.0, "m", "seen", "r1"))
    assert monitor.pose(pose(1.0, *INSIDE)) == ()
    assert not monitor.violation(Event("zone", Severity.WARN, 0.0, 0.1, 0.0, "m", "seen", "r1"))


def test_a_stop_latches_with_its_reason_until_it_is_released(monitor: SafetyMonitor) -> None:
    monitor.pose(pose(0.0, *FAR))
    status = monitor.status()
    assert status.state is ArmState.STOPPED
    assert status.speed_scale == 0.0
    assert status.reason.startswith("fence: end effector at (9.000")
    with pytest.raises(SafetyError, match="fence") as caught:
        monitor.release()
    assert caught.value.code == 400
    monitor.pose(pose(0.1, *OUTSIDE))
    assert monitor.status().state is ArmState.STOPPED
    assert monitor.release().startswith("fence")
    assert monitor.status().state is ArmState.NOMINAL
    assert monitor.release() == ""


def test_a_second_stop_keeps_the_first_reason(monitor: SafetyMonitor) -> None:
    monitor.violation(Event("button", Severity.STOP, 0.0, 1.0, 0.0, "", "pressed"))
    monitor.pose(pose(0.0, *FAR))
    assert monitor.status().reason == "button: pressed"


def test_a_stop_from_elsewhere_latches(monitor: SafetyMonitor) -> None:
    monitor.violation(Event("light_curtain", Severity.STOP, 0.0, 1.0, 0.0, "", "curtain broken"))
    assert monitor.status().state is ArmState.STOPPED
    assert monitor.status().reason == "light_curtain: curtain broken"


def test_slow_lasts_as_long_as_the_rule_is_broken_and_its_release_delay(monitor: SafetyMonitor) -> None:
    monitor.pose(pose(0.0, *ON_SHELF))
    assert monitor.motion() == (ArmState.SLOWED, 0.4)
    monitor.pose(pose(0.1, *OUTSIDE))
    assert monitor.motion() == (ArmState.SLOWED, 0.4)
    monitor.pose(pose(0.3, *OUTSIDE))
    assert monitor.motion() == (ArmState.NOMINAL, 1.0)


def test_a_blind_rollout_holds_and_goes_on_by_itself(monitor: SafetyMonitor, clock: ManualClock) -> None:
    clock.now += 100.0
    assert monitor.motion()[0] is ArmState.NOMINAL
    monitor.rollout_started("r1", "")
    clock.now += 1.9
    assert monitor.motion()[0] is ArmState.NOMINAL
    clock.now += 0.2
    status = monitor.status()
    assert status.state is ArmState.STOPPED
    assert status.reason.startswith("[401]")
    monitor.pose(pose(1.0, *OUTSIDE))
    assert monitor.motion()[0] is ArmState.NOMINAL


@pytest.mark.parametrize(
    ("bad", "says"),
    [(pose(1.0, float("nan"), 0, 0), "finite"), (pose(1.0, 0.5, 0.5, 0.5, frame="world"), "'world'")],
)
def test_unusable_poses_count_as_none(
    monitor: SafetyMonitor, clock: ManualClock, bad: PoseSample, says: str
) -> None:
    monitor.rollout_started("r1", "")
    clock.now += 2.1
    assert monitor.pose(bad) == ()
    assert monitor.status().state is ArmState.STOPPED
    assert says in monitor.status().reason


def test_an_operator_flags_known_rules_only(monitor: SafetyMonitor) -> None:
    monitor.rollout_started("r1", "d")
    event = monitor.flag("zone", "too close to me")
    assert (event.rollout_id, event.adapter_digest, event.message) == ("r1", "d", "operator: too close to me")
    assert monitor.rules_broken("r1") == {"zone"}
    assert monitor.flag("operator/flag", "").severity is Severity.WARN
    with pytest.raises(SafetyError, match="did you mean zone") as caught:
        monitor.flag("zon", "")
    assert caught.value.code == 402


def test_an_outcome_counts_when_the_policy_dies_before_the_end(monitor: SafetyMonitor) -> None:
    monitor.rollout_started("r1", "")
    monitor.outcome("r1", True)
    monitor.outcome("other", False)
    (estimate,) = monitor.status().estimates
    assert (estimate.rollouts, estimate.succeeded) == (1, 1)


def test_outside_rollouts_events_repeat_but_no_rate_changes(monitor: SafetyMonitor) -> None:
    found = [len(monitor.pose(pose(0.1 * i, *p))) for i, p in enumerate([INSIDE, OUTSIDE, INSIDE])]
    assert found == [1, 0, 1]
    assert monitor.status().estimates == ()
