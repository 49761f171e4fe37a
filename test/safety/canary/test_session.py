"""What a canary hears beside a running robot, in the orders in which messages really come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.errors import CanaryError
from vlaforget_ros.safety.canary.kept import CanaryText, read_kept
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.protocol import protocol_of
from vlaforget_ros.safety.canary.session import CanarySession
from vlaforget_ros.safety.canary.state import Arm, Phase, Verdict
from vlaforget_ros.safety.rules.base import Severity
from vlaforget_ros.safety.shadow import ShadowBook

CANDIDATE, STABLE = "c" * 64, "s" * 64


def clock() -> float:
    return 0.0


def session(**settings: object) -> CanarySession:
    canary = Canary(protocol_of({"tsr_reference": 0.9, **settings}), CANDIDATE, STABLE, clock)
    book = ShadowBook(lambda position: ("keep_out/zone",) if position[0] > 1.0 else ())
    return CanarySession(canary, book, clock)


@pytest.fixture
def slow() -> CanarySession:
    return session(phases=["reduced_speed", "ramp"], reduced_speed={"speed_scale": 0.25, "rollouts": 2})


def drive(heard: CanarySession, name: str, *, arm: Arm = Arm.CANDIDATE, success: bool | None = True) -> None:
    digest = STABLE if arm is Arm.STABLE else CANDIDATE
    heard.began(name, arm, digest)
    heard.ended(name, digest, success)


def test_only_the_candidate_is_slowed(slow: CanarySession) -> None:
    assert slow.speed_scale == 1.0
    slow.began("a", Arm.CANDIDATE, CANDIDATE)
    assert (slow.candidate_drives, slow.speed_scale) == (True, 0.25)
    slow.ended("a", CANDIDATE, True)
    assert slow.speed_scale == 1.0
    slow.began("b", Arm.STABLE, STABLE)
    assert (slow.candidate_drives, slow.speed_scale) == (False, 1.0)


def test_at_full_speed_it_is_not(slow: CanarySession) -> None:
    drive(slow, "a")
    drive(slow, "b")
    assert slow.canary.state.phase is Phase.RAMP
    slow.began("c", Arm.CANDIDATE, CANDIDATE)
    assert slow.speed_scale == 1.0


def test_a_violation_that_arrives_after_the_end_counts_once(slow: CanarySession) -> None:
    drive(slow, "a")
    assert slow.canary.state.candidate.violated == 0
    for _ in range(2):
        slow.violated("a", "keep_out/zone", Severity.WARN)
    assert (slow.canary.state.candidate.rollouts, slow.canary.state.candidate.violated) == (1, 1)


def test_a_severe_violation_aborts_while_the_candidate_drives(slow: CanarySession) -> None:
    slow.began("a", Arm.CANDIDATE, CANDIDATE)
    slow.violated("a", "keep_out/zone", Severity.STOP)
    assert slow.canary.state.verdict is Verdict.ABORT
    assert slow.candidate_drives
    assert slow.speed_scale == 1.0


def test_a_rollout_from_before_the_canary_is_none_of_its(slow: CanarySession) -> None:
    slow.violated("before", "keep_out/zone", Severity.STOP)
    slow.ended("before", CANDIDATE, False)
    assert slow.canary.state.verdict is Verdict.RUNNING
    assert slow.canary.state.candidate.rollouts == 0


def test_a_rollout_in_which_the_adapter_changed_counts_for_neither(slow: CanarySession) -> None:
    slow.began("a", Arm.CANDIDATE, CANDIDATE)
    slow.ended("a", STABLE, True)
    state = slow.canary.state
    assert (state.candidate.rollouts, state.stable.rollouts) == (0, 0)


def test_another_adapter_in_the_policy_ends_it_with_hold(slow: CanarySession) -> None:
    slow.serves(STABLE)
    slow.serves(CANDIDATE)
    assert slow.canary.state.verdict is Verdict.RUNNING
    slow.serves("d" * 64)
    assert slow.canary.state.verdict is Verdict.HOLD
    assert "dddd" in slow.canary.state.reason


def shadow_rollout(heard: CanarySession, name: str, step_m: float) -> None:
    heard.began(name, Arm.STABLE, STABLE)
    heard.pose((0.9, 0.0, 0.0))
    for step, motion in enumerate((0.0, 0.1)):
        heard.acted(name, step, (motion, motion, motion))
        heard.shadowed(name, step, (motion + step_m, motion, motion), 0, CANDIDATE)
        heard.shadowed(name, step, (9.0, 9.0, 9.0), 0, "d" * 64)
    heard.ended(name, STABLE, True)


def test_a_quiet_shadow_goes_on_to_the_next_phase() -> None:
    heard = session(phases=["shadow", "ramp"], shadow={"rollouts": 2})
    shadow_rollout(heard, "a", 0.0)
    assert heard.canary.state.phase is Phase.SHADOW
    shadow_rollout(heard, "b", 0.0)
    assert heard.canary.state.phase is Phase.RAMP


def test_a_shadow_that_would_enter_the_zone_is_aborted() -> None:
    heard = session(phases=["shadow", "ramp"], shadow={"rollouts": 2})
    shadow_rollout(heard, "a", 0.11)
    assert heard.canary.state.verdict is Verdict.ABORT
    assert "would-be" in heard.canary.state.reason


def again(heard: CanarySession) -> CanarySession:
    """What a restarted process makes of it."""
    return read_kept(kept(heard), ShadowBook(lambda _: ()), clock)[1]


def kept(heard: CanarySession) -> dict[str, Any]:
    value = json.loads(CanaryText("id", heard).make())
    assert isinstance(value, dict)
    return value


def test_a_restart_changes_no_count_and_no_test(slow: CanarySession) -> None:
    for name in "abcd":
        drive(slow, name)
    drive(slow, "s", arm=Arm.STABLE)
    slow.violated("d", "keep_out/zone", Severity.WARN)
    before, after = slow.canary.state, again(slow).canary.state
    assert after == before


def test_a_violation_reaches_a_rollout_of_before_the_restart(slow: CanarySession) -> None:
    drive(slow, "a")
    slow = again(slow)
    slow.violated("a", "keep_out/zone", Severity.WARN)
    assert slow.canary.state.candidate.violated == 1


def test_a_rollout_that_nobody_saw_whole_counts_only_against(slow: CanarySession) -> None:
    slow.began("a", Arm.CANDIDATE, CANDIDATE)
    slow = again(slow)
    assert slow.candidate_drives
    assert slow.speed_scale == 0.25
    slow.ended("a", CANDIDATE, True)
    assert slow.canary.state.candidate.rollouts == 0
    drive(slow, "b")
    assert slow.canary.state.candidate.rollouts == 1

    slow.began("c", Arm.CANDIDATE, CANDIDATE)
    slow = again(slow)
    slow.violated("c", "keep_out/zone", Severity.WARN)
    slow.ended("c", CANDIDATE, True)
    assert slow.canary.state.candidate.violated == 1


def test_what_was_broken_before_the_gap_counts_though_the_end_was_missed(slow: CanarySession) -> None:
    slow.began("a", Arm.CANDIDATE, CANDIDATE)
    slow.violated("a", "keep_out/zone", Severity.WARN)
    for _ in range(2):
        slow = again(slow)
        assert (slow.canary.state.candidate.rollouts, slow.canary.state.candidate.violated) == (1, 1)
    drive(slow, "b")
    slow.ended("a", CANDIDATE, True)
    assert slow.canary.state.candidate.violated == 1


def test_a_severe_violation_in_a_rollout_that_was_not_seen_whole_aborts(slow: CanarySession) -> None:
    slow = again(slow)
    slow.began("a", Arm.CANDIDATE, CANDIDATE)
    slow.violated("a", "keep_out/zone", Severity.STOP)
    assert slow.canary.state.verdict is Verdict.ABORT


@pytest.mark.parametrize(("beginning", "counted"), [(True, 0), (False, 1)])
def test_the_first_beginning_after_a_gap_may_be_old_news(
    slow: CanarySession, beginning: bool, counted: int
) -> None:
    slow = again(slow)
    if not beginning:
        slow.ended("earlier", CANDIDATE, True)
    drive(slow, "a")
    assert slow.canary.state.candidate.rollouts == counted


@pytest.mark.parametrize(("away_s", "verdict"), [(599.0, "RUNNING"), (601.0, "HOLD"), (-601.0, "HOLD")])
def test_a_long_gap_is_no_data(slow: CanarySession, away_s: float, verdict: str) -> None:
    drive(slow, "a")
    value = kept(slow)
    value["written_s"] -= away_s
    found = read_kept(value, ShadowBook(lambda _: ()), clock)[1]
    assert found.canary.state.verdict.name == verdict


def test_one_that_waits_for_its_operator_waits_over_any_gap() -> None:
    heard = session(phases=["ramp"], ramp={"weights": [1.0], "rollouts": 1}, min_rollouts=5, svr_bad=0.6)
    for number in range(60):
        drive(heard, str(number))
    assert heard.canary.state.awaiting_operator
    value = kept(heard)
    value["written_s"] -= 1e6
    found = read_kept(value, ShadowBook(lambda _: ()), clock)[1]
    assert found.canary.state.awaiting_operator
    assert found.canary.approve("somebody").verdict is Verdict.PROMOTE


@pytest.mark.parametrize(
    "change",
    [
        {"form": 2},
        {"canary_id": ""},
        {"written_s": float("nan")},
        {"session": {}},
        {"canary": {"format": 1}},
        {"extra": 1},
    ],
)
def test_what_is_no_canary_is_refused_with_503(slow: CanarySession, change: dict[str, object]) -> None:
    with pytest.raises(CanaryError) as refused:
        read_kept({**kept(slow), **change}, ShadowBook(lambda _: ()), clock)
    assert refused.value.code == 503


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["began", "ended", "broke", "read"]), st.booleans()),
        max_size=60,
    )
)
def test_the_text_that_grows_is_the_text_made_at_once(events: list[tuple[int, str, bool]]) -> None:
    heard = session(phases=["reduced_speed", "ramp"], min_rollouts=200)
    growing = CanaryText("id", heard)
    for number, event, ours in events:
        name, digest = f'r"{number}', CANDIDATE if ours else STABLE
        if event == "began":
            heard.began(name, Arm.CANDIDATE if ours else Arm.STABLE, digest)
        elif event == "ended":
            heard.ended(name, digest, ours)
        elif event == "broke":
            heard.violated(name, f"rule{ours}", Severity.WARN)
        else:
            growing.make()
    found = json.loads(growing.make())
    assert {**found, "written_s": 0.0} == {**kept(heard), "written_s": 0.0}
    assert found["canary"] == json.loads(json.dumps(heard.canary.to_dict()))
